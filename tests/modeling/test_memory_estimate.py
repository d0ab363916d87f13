"""The memory estimate against what torch really keeps, and how a training that does not fit goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.modeling.checkpoints.model_shape import read_shape
from reranker.modeling.item_catalogue import item_catalogue
from reranker.modeling.lora.fused_lora import fuse
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.memory.memory_estimate import PassSize, estimate
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.forward_passes import Limits, Pass, plain_passes, shared_passes
from reranker.prompting.prompts import PromptEncoder
from reranker.training.loss import Objective
from reranker.training.preference_stage import Reference
from tests.present import present
from tests.vision import make_vision_model, shop_with_images

BATCH, TOKENS = 4, 120
PROMPTS = PassSize(BATCH, TOKENS)


def kept_bytes(config: TrialConfig) -> int:
    model = attach_lora(load_base(config, torch.device("cpu")), config).train()
    half = model.dtype == torch.bfloat16
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        return forward_and_kept_bytes(model, config)[1]


def forward_and_kept_bytes(model: PeftModel, config: TrialConfig) -> tuple[torch.Tensor, int]:
    """The loss of random prompts, and what they keep."""
    ids = torch.randint(5, present(shape_of(config.model)).vocabulary, (BATCH, TOKENS))
    logits = {"logits_to_keep": 1} if config.objective == "label_ce" else {}

    def forward() -> torch.Tensor:
        outputs = model(input_ids=ids, use_cache=False, **logits)
        return F.cross_entropy(outputs.logits.float().flatten(0, 1), outputs.logits.argmax(-1).flatten())

    return loss_and_kept_bytes(model, forward)


def loss_and_kept_bytes(model: PeftModel, forward: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The loss, and what one forward pass keeps for its backward pass, weights left out, counted by torch."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    return loss, sum(kept.values())


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def base(request, tmp_path_factory, demo_tokenizer) -> str:
    """A random base of 24 layers that reads with the demo's tokenizer."""
    folder = str(tmp_path_factory.mktemp(request.param))
    facts = AutoConfig.for_model(
        request.param, vocab_size=len(demo_tokenizer), hidden_size=96, num_hidden_layers=24, intermediate_size=256,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(facts).save_pretrained(folder)
    demo_tokenizer.save_pretrained(folder)
    return folder


def shared_and_plain(config: TrialConfig, data: RerankingData, lists: int) -> tuple[PromptEncoder, Pass, Pass]:
    """The examples of so many lists of sixteen in one pass, and in one of separate prompts."""
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    some, limits = data.shared_examples(config, 0, 16)[:lists], Limits(None, None)
    prompts = [encoder.encode_shared(examples) for examples in some]
    (shared,) = shared_passes(encoder, some, prompts, limits, data.list_correction(config, 16))
    examples = [example for of_list in some for example in of_list]
    (plain,) = plain_passes(encoder, examples, encoder.encode(examples), limits)
    return encoder, shared, plain


def kept_by(config: TrialConfig, encoder: PromptEncoder, *passes: Pass) -> list[int]:
    model = attach_lora(load_base(config, torch.device("cpu")), config).train()
    objective, kept = Objective(encoder, torch.device("cpu")), []
    for batch in passes:
        with objective.answering(model, batch):
            kept.append(loss_and_kept_bytes(model, partial(loss_of, objective, model, batch))[1])
    return kept


def loss_of(objective: Objective, model: PeftModel, batch: Pass) -> torch.Tensor:
    return objective.loss(objective.logits(model, batch), batch["targets"])


@pytest.mark.parametrize("targets", ["all_linear", "qv"])
@pytest.mark.parametrize("model", ["demo-tiny", "demo-small"])
def test_the_estimate_is_what_is_kept_and_a_little_for_the_backward_pass(model, targets):
    config = TrialConfig(model=model, lora_targets=targets)
    guess = estimate(config, present(shape_of(model)), PROMPTS, on_gpu=False)
    assert 1.0 <= guess.activations / kept_bytes(config) <= 1.6  # of two layers, one layer's backward pass is much


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_for_a_real_model_is_what_is_kept_and_a_little(smollm2_tokenizer, precision):
    config = TrialConfig(model="smollm2-135m", precision=precision)
    guess = estimate(config, present(shape_of("smollm2-135m")), PROMPTS, on_gpu=False)
    assert 1.0 <= guess.activations / kept_bytes(config) <= 1.15


@pytest.mark.parametrize("targets", ["all_linear", "qv"])
@pytest.mark.parametrize("lists", [1, 2])
def test_the_estimate_for_shared_lists_is_what_is_kept_and_a_little(base, lists, targets, demo):
    config = TrialConfig(model=base, lora_targets=targets, list_sharing=16)
    encoder, shared, _ = shared_and_plain(config, demo, lists)
    layout = shared["layout"]
    size = PassSize(lists, layout["width"], layout["prefix"], layout["branches"])
    assert (size.examples, size.tokens) == (lists * 16, shared["input_ids"].numel())
    (kept,) = kept_by(config, encoder, shared)
    guess = estimate(config, present(shape_of(base)), size, on_gpu=False)
    assert 1.0 <= guess.activations / kept <= 1.15


@pytest.mark.slow
def test_shared_lists_keep_less_than_as_many_prompts_and_are_estimated_so(base, demo):
    config = TrialConfig(model=base, list_sharing=16, examples_per_user=None)  # histories of all lengths: padded passes
    encoder, shared, plain = shared_and_plain(config, demo, lists=1)
    together, alone = kept_by(config, encoder, shared, plain)
    assert together < 0.5 * alone
    layout, prompts = shared["layout"], PassSize(*plain["input_ids"].shape)
    size = PassSize(1, layout["width"], layout["prefix"], 16)
    shape = present(shape_of(base))
    guessed, guessed_alone = (estimate(config, shape, s, on_gpu=False).activations for s in (size, prompts))
    assert guessed / guessed_alone == pytest.approx(together / alone, rel=0.1)


def test_what_a_pass_holds_is_said_in_words():
    assert str(PassSize(8, 300)) == "8 × 300 tokens"
    assert str(PassSize(1, 60, 550, 16)) == "1 list of 550 tokens with 16 questions of 60"
    assert str(PassSize(2, 60, 550, 1)) == "2 lists of 550 tokens with 1 question of 60"


def test_a_fused_bf16_base_keeps_less():
    config = TrialConfig(model="demo-tiny", precision="bf16")

    def kept(fused: bool) -> int:
        model = attach_lora(load_base(config, torch.device("cpu")), config).train()
        if fused:
            fuse(model)
        with torch.autocast("cpu", torch.bfloat16):
            return forward_and_kept_bytes(model, config)[1]

    assert kept(fused=True) < 0.9 * kept(fused=False)


@pytest.mark.parametrize("model", [name for name, entry in MODELS.items() if entry.shape])
def test_the_shapes_give_the_parameters_of_the_table(model):
    assert present(MODELS[model].shape).parameters / 1e6 == pytest.approx(MODELS[model].parameters, rel=0.01)


def test_a_shape_is_read_from_a_folder(tmp_path):
    facts = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**facts, "vocab_size": 100, "model_type": "llama"}))
    shape = present(read_shape(tmp_path / "config.json"))
    assert (shape.layers, shape.kv_heads, shape.head_dim, shape.qk_norm) == (3, 4, 16, False)
    (tmp_path / "config.json").write_text("{}")
    assert read_shape(tmp_path / "config.json") is None


def test_checkpointing_a_smaller_batch_and_a_smaller_rank_take_less():
    prompts, shared = PassSize(8, 1000), PassSize(2, 200, 800, 16)

    def total(size: PassSize = prompts, **knobs: Any) -> float:
        config = TrialConfig(model="qwen3-0.6b", **knobs)
        return estimate(config, present(shape_of("qwen3-0.6b")), size, on_gpu=True).total

    assert total(gradient_checkpointing=True) < total() / 2
    assert total(shared, gradient_checkpointing=True) < total(shared) / 2
    assert total(PassSize(4, 1000)) < total()
    assert total(lora_rank=8) < total(lora_rank=128)
    # both keep the answer's positions alone
    assert total(objective="label_ce") < total(objective="token_ce") < 1.05 * total(objective="label_ce")


LIMITED = """
import gc, resource, sys, torch
from pathlib import Path
from reranker.config import TrialConfig
from reranker.data_config import DemoData
from reranker.data.assemble import RerankingData
from reranker.errors import OutOfMemory
from reranker.training.sft import fine_tune
from reranker.artifacts.trial_folder import TrialFolder

torch.set_num_threads(1)
data = RerankingData.prepare(DemoData(users=512))
config = TrialConfig(
    model="demo-small", epochs=1, examples_per_user=1, effective_batch=512, learning_rate=1e-2, list_sharing=1,
)
fine_tune(config, data, micro_batch=8)  # everything is imported and allocated once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for size in (512, 8):
    try:
        of_this_size = config.model_copy(update={"micro_batch": size})
        print(size, fine_tune(of_this_size, data).figures["applied/micro_batch"])
    except OutOfMemory as error:
        print("out", error.micro_batch)
    gc.collect()
"""


@pytest.mark.slow
def test_a_pass_that_does_not_fit_is_told_with_its_micro_batch_and_a_smaller_one_goes_on():
    command = [sys.executable, "-c", LIMITED, "700"]  # MiB. Passes of 512 take over 1,200, those of 8 under 250
    one_arena = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # or each new thread would reserve 64 MB of the limit
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=one_arena
    )
    assert done.stdout.splitlines() == ["out 512", "8 8"], done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_for_a_tower_with_an_adapter_is_what_is_kept_of_its_images(tmp_path, precision):
    sizes = {
        "depth": 12,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_heads": 6,
        "deepstack_visual_indexes": [2, 5],
    }
    (tmp_path / "shop").mkdir()
    model, data = make_vision_model(tmp_path / "model", **sizes), shop_with_images(tmp_path / "shop")
    cpu, kept, guessed = torch.device("cpu"), [], []
    for tower in (False, True):
        config = TrialConfig(
            model=str(model), candidates=3, image_mode="raw_image", vision_lora=tower, precision=precision, lora_rank=8
        )
        encoder = PromptEncoder(item_catalogue(config, data), config)
        examples = data.training_examples(config, 0)[:8]
        (batch,) = plain_passes(encoder, examples, encoder.encode(examples), Limits(None, None))
        adapted, objective = attach_lora(load_base(config, cpu), config).train(), Objective(encoder, cpu)
        with objective.answering(adapted, batch), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            kept.append(loss_and_kept_bytes(adapted, partial(loss_of, objective, adapted, batch))[1])
        assert encoder.images is not None
        images = PassSize(1, sum(encoder.images.counts[item] for item in batch["pictures"]))
        guessed.append(estimate(config, present(shape_of(str(model))), images, on_gpu=False).activations)
    assert 1.0 <= (guessed[1] - guessed[0]) / (kept[1] - kept[0]) <= 1.1


def test_a_second_stage_holds_the_adapter_as_it_was():
    config = TrialConfig(model="demo-tiny", epochs=2, dpo_epochs=1)
    shape = present(shape_of(config.model))
    with_it, without = (
        estimate(some, shape, PROMPTS, on_gpu=False).adapter
        for some in (config, config.model_copy(update={"dpo_epochs": 0}))
    )
    held = Reference.of(attach_lora(load_base(config, torch.device("cpu")), config)).values
    assert with_it - without == sum(value.numel() * value.element_size() for value in held.values())
