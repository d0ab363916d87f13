"""The memory estimate against what torch really keeps, and how a training that does not fit goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel

from reranker.config import TrialConfig
from reranker.memory import estimate, read_shape, shape_of
from reranker.models import MODELS, attach_lora, leave_casts_to_autocast, load_base

BATCH, TOKENS = 4, 120


def kept_bytes(config: TrialConfig) -> int:
    return forward_and_kept_bytes(attach_lora(load_base(config, torch.device("cpu")), config).train(), config)[1]


def forward_and_kept_bytes(model: PeftModel, config: TrialConfig) -> tuple[torch.Tensor, int]:
    """The loss, and what one forward pass keeps for its backward pass, weights left out, counted by torch."""
    shape = shape_of(config.model)
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(5, shape.vocabulary, (BATCH, TOKENS))
    logits = {"logits_to_keep": 1} if config.objective == "label_ce" else {}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **logits)
        loss = F.cross_entropy(outputs.logits.float().flatten(0, 1), outputs.logits.argmax(-1).flatten())
    return loss, sum(kept.values())


@pytest.mark.parametrize("targets", ["all_linear", "qv"])
@pytest.mark.parametrize("model", ["demo-tiny", "demo-small"])
def test_the_estimate_is_what_is_kept_and_a_little_for_the_backward_pass(model, targets):
    config = TrialConfig(model=model, lora_targets=targets)
    guess = estimate(config, shape_of(model), tokens=TOKENS, micro_batch=BATCH, on_gpu=False)
    assert 1.0 <= guess.activations / kept_bytes(config) <= 1.6  # of two layers, one layer's backward pass is much


def test_the_estimate_for_a_real_model_is_what_is_kept_and_a_little(smollm2_tokenizer):
    config = TrialConfig(model="smollm2-135m")
    guess = estimate(config, shape_of("smollm2-135m"), tokens=TOKENS, micro_batch=BATCH, on_gpu=False)
    assert 1.0 <= guess.activations / kept_bytes(config) <= 1.15


def test_without_casts_of_its_own_an_adapter_learns_the_same_and_keeps_less():
    config = TrialConfig(model="demo-tiny", precision="bf16")

    def gradients_and_kept(casts: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        model = attach_lora(load_base(config, torch.device("cpu")), config).train()
        if not casts:
            leave_casts_to_autocast(model)
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in learned.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        with torch.autocast("cpu", torch.bfloat16):
            loss, kept = forward_and_kept_bytes(model, config)
        loss.backward()
        return [p.grad for p in learned.values()], kept

    (plain, more), (same, less) = gradients_and_kept(True), gradients_and_kept(False)
    assert all(map(torch.equal, plain, same))
    assert less < 0.9 * more


@pytest.mark.parametrize("model", [name for name, entry in MODELS.items() if entry.shape])
def test_the_shapes_give_the_parameters_of_the_table(model):
    assert MODELS[model].shape.parameters / 1e6 == pytest.approx(MODELS[model].parameters, rel=0.01)


def test_a_shape_is_read_from_a_folder(tmp_path):
    facts = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**facts, "vocab_size": 100, "model_type": "llama"}))
    shape = read_shape(tmp_path / "config.json")
    assert (shape.layers, shape.kv_heads, shape.head_dim, shape.qk_norm) == (3, 4, 16, False)
    (tmp_path / "config.json").write_text("{}")
    assert read_shape(tmp_path / "config.json") is None


def test_checkpointing_a_smaller_batch_and_a_smaller_rank_take_less():
    def total(micro_batch: int = 8, **knobs: object) -> float:
        config = TrialConfig(model="qwen3-0.6b", **knobs)
        return estimate(config, shape_of("qwen3-0.6b"), tokens=1000, micro_batch=micro_batch, on_gpu=True).total

    assert total(gradient_checkpointing=True) < total() / 2
    assert total(micro_batch=4) < total()
    assert total(lora_rank=8) < total(lora_rank=128)
    # both keep the answer's positions alone
    assert total(objective="label_ce") < total(objective="token_ce") < 1.05 * total(objective="label_ce")


LIMITED = """
import gc, resource, sys, torch
from pathlib import Path
from reranker.config import DemoData, TrialConfig
from reranker.data import RerankingData
from reranker.errors import OutOfMemory
from reranker.sft import fine_tune
from reranker.trial_folder import TrialFolder

torch.set_num_threads(1)
data = RerankingData.prepare(DemoData(users=512))
config = TrialConfig(model="demo-small", epochs=1, examples_per_user=1, effective_batch=512, learning_rate=1e-2)
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


def test_a_pass_that_does_not_fit_is_told_with_its_micro_batch_and_a_smaller_one_goes_on():
    command = [sys.executable, "-c", LIMITED, "700"]  # MiB. Passes of 512 take over 1,200, those of 8 under 250
    one_arena = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # or each new thread would reserve 64 MB of the limit
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1], env=one_arena
    )
    assert done.stdout.splitlines() == ["out 512", "8 8"], done.stderr[-2000:]
