"""Adapters that are damaged, foreign or of another base, given to `reranker-tuner rank`: what it says of each."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load, save

from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from tests.told import Told, table, told
from tests.trained import small_adapter

RANK = ("rank", "--adapter", "adapter", "--device", "cpu", "--history", "Dusty Saddle", "--candidates", "Silly Clown", "Tender Kiss")  # fmt: skip
Change = Callable[[Path], Any]  # of an adapter's folder


@functools.cache
def _sound() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """An adapter, and what keeps its folder."""
    folder = tempfile.TemporaryDirectory()
    return folder, small_adapter(RerankingData.prepare(DemoData(users=60)), Path(folder.name)).adapter


def answer(change: Change, *words: str) -> Told:
    folder = Path(shutil.copytree(_sound()[1], "adapter"))
    change(folder)
    return told(*RANK, *words)


def content(name: str, data: bytes | str) -> Change:
    """In the place of what was in a file."""
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def part(name: str, share: float) -> Change:
    """Only the first part of a file is left."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return change


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def fields(name: str, **changed: Any) -> Change:
    """Fields of a JSON file are changed, and the checksums that would tell are not kept; one that is None goes."""

    def change(folder: Path) -> None:
        facts = {**json.loads((folder / name).read_text(encoding="utf-8")), **changed}
        kept = {key: value for key, value in facts.items() if value is not None and key != "checksum"}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")
        if name == CONFIG:
            fields(FACTS, settings=None)(folder)

    return change


def knobs(**changed: Any) -> Change:
    """Knobs of the configuration that the adapter keeps are changed."""

    def change(folder: Path) -> None:
        config = json.loads((folder / FACTS).read_text(encoding="utf-8"))["config"]
        fields(FACTS, config={**config, **changed})(folder)

    return change


def weights(of: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """The tensors are others, and the checksum that would tell is not kept."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(save(of(load((folder / WEIGHTS).read_bytes()))))
        fields(FACTS, weights=None)(folder)

    return change


FACTS, CONFIG, WEIGHTS = "reranker.json", "adapter_config.json", "adapter_model.safetensors"
CASES = {
    "an empty folder": (without(FACTS, CONFIG, WEIGHTS), "there is no adapter in adapter: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "no configuration": (without(CONFIG), "there is no adapter in adapter: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "no weights": (without(WEIGHTS), "there is no adapter in adapter: an adapter's folder must hold adapter_model.safetensors"),
    "no facts": (without(FACTS), "adapter must hold reranker.json, or lie in its trial's folder beside config.json"),
    "empty weights": (content(WEIGHTS, b""), "adapter/adapter_model.safetensors is damaged: it is not what was written; restore it from a copy"),
    "half of the weights": (part(WEIGHTS, 0.5), "adapter/adapter_model.safetensors is damaged: it is not what was written; restore it from a copy"),
    "weights without their last bytes": (part(WEIGHTS, 0.99), "adapter/adapter_model.safetensors is damaged: it is not what was written; restore it from a copy"),
    "other weights": (content(WEIGHTS, b"\0" * 64), "adapter/adapter_model.safetensors is damaged: it is not what was written; restore it from a copy"),
    "a pickle": (lambda folder: (content(WEIGHTS, b"\x80\x04cos\nsystem\n(S'true'\ntR.")(folder), fields(FACTS, weights=None)(folder)), "the adapter in adapter cannot be read: Error while deserializing header: header too large"),
    "a header of a terabyte": (lambda folder: (content(WEIGHTS, (1 << 40).to_bytes(8, "little") + b"{}")(folder), fields(FACTS, weights=None)(folder)), "the adapter in adapter cannot be read: Error while deserializing header: header too large"),
    "a header that is no JSON": (lambda folder: (content(WEIGHTS, (8).to_bytes(8, "little") + b"{broken}")(folder), fields(FACTS, weights=None)(folder)), "the adapter in adapter cannot be read: Error while deserializing header: invalid JSON in header: key must be a string at line 1 column 2"),
    "weights of a smaller rank": (weights(lambda tensors: {name: tensor[:2] if "lora_A" in name else tensor[:, :2].copy() for name, tensor in tensors.items()}), "adapter: model: the adapter must belong to the base model: size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight: copying a param with shape torch.Size([2, 64]) from checkpoint, the shape in current model is torch.Size([4, 64]). (got 'demo-tiny')"),
    "no tensor": (weights(lambda tensors: {}), "adapter: model: the adapter must belong to the base model: adapter_model.safetensors lacks base_model.model.model.layers.0.mlp.down_proj.lora_A.weight and 27 more (got 'demo-tiny')"),
    "a tensor too few": (weights(lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]}), "adapter: model: the adapter must belong to the base model: adapter_model.safetensors lacks base_model.model.model.layers.0.mlp.down_proj.lora_A.weight (got 'demo-tiny')"),
    "a tensor too many": (weights(lambda tensors: {**tensors, "base_model.model.other.lora_A.weight": next(iter(tensors.values()))}), "adapter: model: the adapter must belong to the base model: no layer takes base_model.model.other.lora_A.weight of adapter_model.safetensors (got 'demo-tiny')"),
    "whole numbers": (weights(lambda tensors: {name: tensor.astype("int32") for name, tensor in tensors.items()}), "adapter: model: the adapter must belong to the base model: adapter_model.safetensors has no decimal numbers in base_model.model.model.layers.0.mlp.down_proj.lora_A.weight and 27 more (got 'demo-tiny')"),
    "layers that its weights are not of": (fields(CONFIG, layers_to_transform=[0]), "adapter: model: the adapter must belong to the base model: no layer takes base_model.model.model.layers.1.mlp.down_proj.lora_A.weight and 13 more of adapter_model.safetensors (got 'demo-tiny')"),
    "layers by a pattern that is none": (fields(CONFIG, target_modules="("), "adapter: model: the adapter must belong to the base model: missing ), unterminated subpattern at position 0 (got 'demo-tiny')"),
    "an empty configuration": (content(CONFIG, ""), "adapter/adapter_config.json is damaged: it is not a JSON object; restore it from a copy"),
    "half a configuration": (part(CONFIG, 0.5), "adapter/adapter_config.json is damaged: it is not a JSON object; restore it from a copy"),
    "a configuration that is a list": (content(CONFIG, "[]"), "adapter/adapter_config.json is damaged: it is not a JSON object; restore it from a copy"),
    "a configuration that is no text": (content(CONFIG, b"\xff\xfe{}"), "adapter/adapter_config.json is damaged: it is not text; restore it from a copy"),
    "a configuration of brackets": (content(CONFIG, "[" * 100_000), "adapter/adapter_config.json is damaged: it is not a JSON object; restore it from a copy"),
    "a configuration without end": (content(CONFIG, "[" + " " * 20_000_000 + "]"), "adapter/adapter_config.json is no such file: it must have at most 16,777,216 bytes; the variable RERANKER_MOST_JSON_BYTES raises that"),
    "a configuration of nothing": (content(CONFIG, "{}"), "adapter/adapter_config.json: peft_type: the adapter must be a LoRA\nadapter/adapter_config.json: r: must be a whole number from 1"),
    "another kind of adapter": (fields(CONFIG, peft_type="PROMPT_TUNING"), "adapter/adapter_config.json: peft_type: the adapter must be a LoRA (got 'PROMPT_TUNING')"),
    "an unknown kind of adapter": (fields(CONFIG, peft_type="MAGIC"), "adapter/adapter_config.json: peft_type: the adapter must be a LoRA (got 'MAGIC')"),
    "a kind that is a number": (fields(CONFIG, peft_type=3), "adapter/adapter_config.json: peft_type: the adapter must be a LoRA (got 3)"),
    "a rank in words": (fields(CONFIG, r="many"), "adapter/adapter_config.json: r: must be a whole number from 1 (got 'many')"),
    "a rank of nothing": (fields(CONFIG, r=0), "adapter/adapter_config.json: r: must be a whole number from 1 (got 0)"),
    "another rank": (fields(CONFIG, r=8), "adapter: model: the adapter must belong to the base model: size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight: copying a param with shape torch.Size([4, 64]) from checkpoint, the shape in current model is torch.Size([8, 64]). (got 'demo-tiny')"),
    "modules that the base lacks": (fields(CONFIG, target_modules=["wq"]), "adapter: model: the adapter must belong to the base model: Target modules {'wq'} not found in the base model. Please check the target modules and try again. (got 'demo-tiny')"),
    "modules that are a number": (fields(CONFIG, target_modules=7), "adapter/adapter_config.json: target_modules: must be the names of layers (got 7)"),
    "empty facts": (content(FACTS, ""), "adapter/reranker.json is damaged: it is not a JSON object; restore it from a copy"),
    "half of the facts": (part(FACTS, 0.5), "adapter/reranker.json is damaged: it is not a JSON object; restore it from a copy"),
    "facts that are a list": (content(FACTS, "[]"), "adapter/reranker.json is damaged: it is not a JSON object; restore it from a copy"),
    "facts that are no text": (content(FACTS, b"\xff\xfe"), "adapter/reranker.json is damaged: it is not text; restore it from a copy"),
    "facts of brackets": (content(FACTS, "[" * 100_000), "adapter/reranker.json is damaged: it is not a JSON object; restore it from a copy"),
    "facts of nothing": (content(FACTS, "{}"), "adapter/reranker.json: config: this must be given"),
    "facts without a configuration": (fields(FACTS, config=None), "adapter/reranker.json: config: this must be given"),
    "facts whose configuration is text": (fields(FACTS, config="x"), "adapter/reranker.json: must be a mapping of names to values (got 'x')"),
    "facts of an unknown knob": (knobs(lora_rnk=8), "adapter/reranker.json: lora_rnk: there is no such knob; did you mean 'lora_rank'?"),
    "facts of a knob beyond its range": (knobs(lora_rank=0), "adapter/reranker.json: lora_rank: must be at least 1 (got 0)"),
    "facts of a model that is none": (knobs(model="gpt-4"), "model: there is no such model (got 'gpt-4'); valid: demo-small, demo-tiny, gemma3-1b, gemma3-270m, llama3.2-1b, llama3.2-3b, phi4-mini, qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-4b-2507, qwen3-8b, qwen3-reranker-0.6b, qwen3-reranker-4b, qwen3.5-0.8b, qwen3.5-2b, qwen3.5-4b, qwen3vl-2b, qwen3vl-4b, qwen3vl-8b, smollm2-1.7b, smollm2-135m, smollm2-360m, smollm3-3b"),
    "facts of a model folder that is gone": (knobs(model="/gone/model"), "model: there is no such model folder or .gguf file (got '/gone/model')"),
    "facts of a model that leads out": (knobs(model="../../gone"), "model: there is no such model folder or .gguf file (got '../../gone')"),
    "facts of another base": (knobs(model="demo-small"), "adapter: model: the base model's weights must be those that the adapter was trained on (got 'demo-small')"),
    "a temperature of nothing": (fields(FACTS, temperature=0), "adapter/reranker.json is damaged: temperature and label_prior must be finite numbers, temperature above 0; restore it from a copy"),
    "a temperature in words": (fields(FACTS, temperature="warm"), "adapter/reranker.json is damaged: temperature and label_prior must be finite numbers, temperature above 0; restore it from a copy"),
    "a temperature beyond all numbers": (fields(FACTS, temperature=10**400), "adapter/reranker.json is damaged: temperature and label_prior must be finite numbers, temperature above 0; restore it from a copy"),
    "a prior of yes and no": (fields(FACTS, label_prior=[True] * 20), "adapter/reranker.json is damaged: temperature and label_prior must be finite numbers, temperature above 0; restore it from a copy"),
    "a prior that is text": (fields(FACTS, label_prior="A"), "adapter/reranker.json is damaged: temperature and label_prior must be finite numbers, temperature above 0; restore it from a copy"),
    "counts that are no zip": (content("collaborative.npz", b"PK not at all"), "adapter/collaborative.npz is damaged: it is not what was written; restore it from a copy"),
    "counts that are a pickle": (content("collaborative.npz", b"\x80\x04cos\nsystem\n(S'true'\ntR."), "adapter/collaborative.npz is damaged: it is not what was written; restore it from a copy"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), table(CASES))
def test_an_adapter_that_cannot_be_used(change, says):
    assert answer(change) == (2, says)


def test_a_base_that_is_another_one():
    assert answer(lambda folder: None, "--base", "nothing").code == 2
