"""What `reranker/modeling` needs of transformers' models and peft's layers beyond their public interface.

A failure names what an upgrade has changed; that the numbers agree is tested beside each of the modules.
"""

from __future__ import annotations

import inspect

import peft
import pytest
import torch
import transformers
from peft.tuners.lora import Linear
from torch import nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen3_vl import modeling_qwen3_vl

from reranker.config import TrialConfig
from tests.families import FAMILIES, adapted

TRANSFORMERS = f"transformers {transformers.__version__} has changed what reranker/modeling/"
PEFT = f"peft {peft.__version__} has changed what reranker/modeling/lora/fused_lora.py reaches: "


@pytest.fixture(params=list(FAMILIES))
def model(request) -> transformers.PreTrainedModel:
    return FAMILIES[request.param]()


def test_the_last_block_ends_with_an_output_projection_and_an_mlp(model):
    block = model.get_decoder().layers[-1]
    assert isinstance(block.self_attn.o_proj, nn.Linear), TRANSFORMERS + "label_head.py reaches: self_attn.o_proj"
    assert isinstance(block.mlp, nn.Module), TRANSFORMERS + "label_head.py reaches: the block's mlp"
    assert isinstance(model.get_output_embeddings(), nn.Linear), TRANSFORMERS + "label_head.py reaches: the head"


def test_the_attention_is_chosen_by_the_configuration_at_each_call(model, monkeypatch):
    called = []

    def attention(module, query, key, value, attention_mask, **options):
        called.append(module)
        return torch.zeros_like(query).transpose(1, 2), None

    transformers.AttentionInterface.register("counted", attention)
    monkeypatch.setattr(model.config.get_text_config(), "_attn_implementation", "counted")
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert called, TRANSFORMERS + "shared_list_attention.py reaches: config._attn_implementation"


def test_an_adapted_layer_has_the_parts_that_are_fused():
    layers = [layer for layer in adapted("llama", TrialConfig()).modules() if isinstance(layer, Linear)]
    assert layers, PEFT + "peft.tuners.lora.Linear is not what it makes"
    for part in ("base_layer", "merged", "lora_A", "lora_B", "scaling", "lora_dropout"):
        assert hasattr(layers[0], part), PEFT + f"a layer has no {part}"
    assert "default" in layers[0].lora_A, PEFT + "the name of the only adapter"


def test_qwen3_vl_takes_embeddings_of_images_that_are_ready_made():
    where = TRANSFORMERS + "image_inputs.py reaches: "
    call = inspect.signature(transformers.Qwen3VLForConditionalGeneration.forward).parameters
    assert "mm_encoder_outputs" in call, where + "mm_encoder_outputs"
    made = modeling_qwen3_vl.BaseModelOutputWithDeepstackFeatures.__dataclass_fields__
    assert {"pooler_output", "deepstack_features"} <= set(made), where + "the tower's output"
    assert smart_resize(100, 50, 32, 1024, 4096) == (64, 32), where + "smart_resize"
