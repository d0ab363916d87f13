"""An adapter's folder → one that vLLM loads beside the base, and the command that serves it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.ranking.vllm_ranker import MOST_LABELS

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM sets memory aside for
_FILES = ("adapter_config.json", "adapter_model.safetensors")


def save_lora(folder: Path, config: TrialConfig, target: Path) -> None:
    """Copy the adapter into an existing folder, if vLLM can load it.

    Raises:
        InputError: it can't.
    """
    facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    faults = []
    if facts.get("use_dora"):
        faults.append(Fault("vLLM loads no adapters of DoRA", field="dora", value=True, hint="--form merged"))
    if _rank(facts) > _RANKS[-1]:
        rule = f"vLLM loads adapters up to rank {_RANKS[-1]}"
        faults.append(Fault(rule, field="lora_rank", value=_rank(facts), hint="--form merged"))
    if config.image_mode == "raw_image":
        faults.append(Fault("images are not sent to vLLM", field="image_mode", value=config.image_mode))
    if config.scoring == "listwise" and config.candidates > MOST_LABELS:
        rule = f"vLLM can be asked for {MOST_LABELS} labels at most"
        faults.append(Fault(rule, field="candidates", value=config.candidates))
    if faults:
        raise InputError(faults)
    for name in _FILES:
        shutil.copyfile(folder / name, target / name)


def serve_lora(target: Path, config: TrialConfig, name: str) -> list[str]:
    """What to type: the server with the base and the adapter, and a list ranked by it."""
    facts = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    rank = next(rank for rank in _RANKS if rank >= _rank(facts))
    entry = MODELS.get(config.model)
    base = config.model if entry is None else entry.hub or str(BUNDLED / config.model)
    place = shlex.quote(str(target))
    return [
        f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {rank} --lora-modules {name}={place}",
        (
            f"reranker-tuner rank --adapter {place} --vllm http://127.0.0.1:8000 --vllm-model {name} "
            "--history TITLE --candidates TITLE TITLE"
        ),
    ]


def _rank(facts: dict[str, object]) -> int:
    pattern = facts.get("rank_pattern") or {}
    assert isinstance(pattern, dict)
    return max(int(rank) for rank in (facts["r"], *pattern.values()))
