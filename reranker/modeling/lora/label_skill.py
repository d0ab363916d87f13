"""The skill of naming a candidate's label, taught to a base before the rule of the data: a frozen low-rank part.

It belongs to the base, the prompt and the catalogue, not to a trial, so every trial starts from it. A stored adapter
includes it, by concatenating the ranks of both: peft loads the result on the plain base.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from reranker.modeling.lora.fused_lora import LowRank, fuse
from reranker.storage.atomic_files import write_file

_PEFT = "base_model.model."


@dataclass(frozen=True, eq=False)
class Skill:
    """Low-rank parts of linear layers, by the layer's name in the base: `down` [rank, inputs], `up` [outputs, rank].

    Attributes:
        facts: `steps`, `seconds`, and the share of candidates found in held-out lists, `before` the lesson and after
            it (`found`); if there were no steps, `why`.
    """

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    facts: dict[str, Any]

    @staticmethod
    def none(why: str, **facts: float) -> Skill:
        """An empty skill, and the reason."""
        return Skill({}, {}, {"steps": 0, "seconds": 0.0, **facts, "why": why})

    @staticmethod
    def of(model: PeftModel, facts: dict[str, Any]) -> Skill:
        """What a trained adapter adds to its base."""
        down, up = {}, {}
        for name, layer in model.get_base_model().named_modules():
            if isinstance(layer, LoraLayer):
                down[name] = layer.lora_A["default"].weight.detach().float().cpu().clone()
                up[name] = layer.lora_B["default"].weight.detach().float().cpu() * layer.scaling["default"]
        return Skill(down, up, facts)

    def write(self, path: Path) -> None:
        """Write the skill as safetensors, with a checksum."""
        sides = {"down": self.down, "up": self.up}
        tensors = {f"{side}.{name}": t.contiguous() for side, parts in sides.items() for name, t in parts.items()}
        metadata = {"facts": json.dumps(self.facts), "checksum": str(_checksum(tensors))}
        write_file(path, save(tensors, metadata))

    @staticmethod
    def read(path: Path) -> Skill | None:
        """What `write` wrote; None if the file is missing or damaged."""
        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            facts, tensors = json.loads(metadata["facts"]), load(path.read_bytes())
            if metadata["checksum"] != str(_checksum(tensors)):
                return None
            sides: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}}
            for name, tensor in tensors.items():
                side, layer = name.split(".", 1)
                sides[side][layer] = tensor
            return Skill(sides["down"], sides["up"], facts)
        return None


def _checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 of all numbers, by name."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].numpy().tobytes(), checksum)
    return checksum


@contextmanager
def skilled(model: PreTrainedModel | PeftModel, skill: Skill | None, device: torch.device) -> Iterator[None]:
    """In this context the base's linear layers work as if the skill were added to their weights, besides any adapter.

    An adapter's layers stay fused (see `reranker.modeling.lora.fused_lora`) until the adapter is removed.
    """
    downs = {} if skill is None else skill.down
    parts = {name: LowRank(down.to(device), skill.up[name].to(device)) for name, down in downs.items() if skill}
    base = model
    if isinstance(model, PeftModel):
        base = model.get_base_model()
        fuse(model, parts)
    handles = []
    for name, part in parts.items():
        layer = base.get_submodule(name)
        if not isinstance(layer, LoraLayer):
            assert isinstance(layer, nn.Linear)
            handles.append(layer.register_forward_hook(part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def put_beside(folder: Path, skill: Skill) -> None:
    """Add the skill to peft's adapter in this folder: [A; down] and [scale · B, up], with scale 1.

    Each layer's rank is the sum of both; if only one of them has a part in the layer, it is that one's rank.
    """
    weights, path = load_file(folder / "adapter_model.safetensors"), folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    adapted = {
        key.removeprefix(_PEFT).removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight")
    }
    ranks: dict[str, int] = {}
    for name in sorted(adapted | skill.down.keys()):
        a, b = f"{_PEFT}{name}.lora_A.weight", f"{_PEFT}{name}.lora_B.weight"
        downs, ups = [weights[a]] if name in adapted else [], [scale * weights[b]] if name in adapted else []
        if name in skill.down:
            downs.append(skill.down[name].to(weights[next(iter(weights))].dtype))
            ups.append(skill.up[name].to(downs[-1].dtype))
        weights[a], weights[b] = torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous()
        ranks[name] = len(weights[a])
    most = max(ranks.values())
    exceptions = {name: rank for name, rank in ranks.items() if rank != most}
    config |= {
        "r": most,
        "lora_alpha": most,
        "use_rslora": False,
        "rank_pattern": exceptions,
        "alpha_pattern": exceptions,
        "target_modules": _targets(ranks),
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _targets(layers: Iterable[str]) -> list[str]:
    """The layers' last names, which are peft's; of a vision tower's the whole ones, since others there have the same."""
    return sorted({name if "visual." in name else name.rsplit(".", 1)[-1] for name in layers})
