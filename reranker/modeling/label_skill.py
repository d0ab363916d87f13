"""What a base is taught before the rule of the data: to name a candidate's label. A frozen low-rank part of its weights.

It belongs to the base, its prompt and the catalogue, not to a trial, so each trial starts from it. An adapter is stored with
it, by putting the ranks of both beside each other: peft loads it on the plain base.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
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

from reranker.config import TrialConfig
from reranker.modeling.checkpoints import TOYS
from reranker.modeling.fused_lora import LowRank, fuse
from reranker.storage.atomic_files import write_file

_PEFT = "base_model.model."


@dataclass(frozen=True, eq=False)
class Skill:
    """For each linear layer that has a part in it, by its name in the base: `down` [rank, inputs], `up` [outputs, rank].

    Attributes:
        facts: `steps`, `seconds`, and of candidates from lists that it was not trained on the share that is found, `before`
            and after (`found`); without steps `why`.
    """

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    facts: dict[str, Any]

    @staticmethod
    def none(why: str, **facts: float) -> Skill:
        """Nothing to add, and why."""
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
        sides = {"down": self.down, "up": self.up}
        tensors = {f"{side}.{name}": t.contiguous() for side, parts in sides.items() for name, t in parts.items()}
        told = {"facts": json.dumps(self.facts), "checksum": str(_checksum(tensors))}
        write_file(path, save(tensors, told))

    @staticmethod
    def read(path: Path) -> Skill | None:
        """None where there is none, or what is there is damaged."""
        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(path, "pt") as file:
                told = file.metadata()
            facts, tensors = json.loads(told["facts"]), load(path.read_bytes())
            if told["checksum"] != str(_checksum(tensors)):
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


def keeps_own_skill(config: TrialConfig) -> bool:
    """Whether the base is a toy that is not taught: it was made with a skill of its own, which a lesson would destroy."""
    return config.skill_steps == "auto" and config.model in TOYS


@contextmanager
def skilled(model: PreTrainedModel | PeftModel, skill: Skill | None, device: torch.device) -> Iterator[None]:
    """Meanwhile the base's linear layers give what they would with the skill added to their weights, beside an adapter's part.

    An adapter's layers stay fused (`reranker.modeling.fused_lora`) until they are taken off.
    """
    known = {} if skill is None else skill.down
    parts = {name: LowRank(down.to(device), skill.up[name].to(device)) for name, down in known.items() if skill}
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
    """Make peft's adapter in this folder one that holds the skill too: [A; down] and [scale · B, up], of scale 1.

    Each layer's rank is the sum of both; where only one has a part in a layer it is that one's.
    """
    weights, path = load_file(folder / "adapter_model.safetensors"), folder / "adapter_config.json"
    described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    scale = described["lora_alpha"] / described["r"]
    own = {key.removeprefix(_PEFT).removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight")}
    ranks: dict[str, int] = {}
    for name in sorted(own | skill.down.keys()):
        a, b = f"{_PEFT}{name}.lora_A.weight", f"{_PEFT}{name}.lora_B.weight"
        downs, ups = [weights[a]] if name in own else [], [scale * weights[b]] if name in own else []
        if name in skill.down:
            downs.append(skill.down[name].to(weights[next(iter(weights))].dtype))
            ups.append(skill.up[name].to(downs[-1].dtype))
        weights[a], weights[b] = torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous()
        ranks[name] = len(weights[a])
    most = max(ranks.values())
    other = {name: rank for name, rank in ranks.items() if rank != most}
    described |= {
        "r": most,
        "lora_alpha": most,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in ranks}),
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
