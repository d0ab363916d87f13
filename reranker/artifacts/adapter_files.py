"""The files of a kept adapter: peft's two, `reranker.json` with what else is needed to use it, and perhaps counts that
are added to its scores. Each is known by a checksum.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from reranker.calibration import Adjustment
from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.storage.atomic_files import (
    DamagedFile,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    with_checksum,
    without_checksum,
    writing,
)
from reranker.storage.limits import JSON_BYTES, UNPACKED_BYTES

if TYPE_CHECKING:  # reading a folder need not wait for torch
    from reranker.data.recommenders.collaborative_scores import TitleScores

ADAPTER_FACTS = "reranker.json"
ADAPTER_SETTINGS = "adapter_config.json"  # peft's
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_COUNTS = "collaborative.npz"  # what is added to the labels' logits


def check_adapter(folder: Path) -> dict[str, Any]:
    """Hold an adapter's files against each other, and against the trial that it lies in.

    Returns:
        What `write_facts` wrote; empty if there is nothing.

    Raises:
        DamagedFile: one is not what was written, or the adapter is not that of the trial.
        InputError: it is an adapter of another kind than LoRA, or does not say what it is.
    """
    _check_lora(folder / ADAPTER_SETTINGS)
    facts = read_facts(folder)
    if "config" not in facts and folder.name == "adapter" and _has_adjusted(folder.parent):
        path = folder / ADAPTER_FACTS
        raise DamagedFile(path, "is damaged: it is not what was written" if path.exists() else "is missing")
    for name, checksum in ((ADAPTER_WEIGHTS, facts.get("weights")), (ADAPTER_COUNTS, facts.get("counts"))):
        if checksum is not None and zlib.crc32(read_bytes(folder / name)) != checksum:
            raise DamagedFile(folder / name, "is damaged: it is not what was written")
    if facts.get("settings", (checksum := settings_checksum(folder))) != checksum:
        raise DamagedFile(folder / ADAPTER_SETTINGS, "is damaged: it is not what was written")
    if folder.name == "adapter" and "config" in facts and _is_foreign(facts["config"], folder.parent):
        raise DamagedFile(folder / ADAPTER_FACTS, "is of another configuration than its trial's config.json")
    return facts


def _check_lora(path: Path) -> None:
    """peft has no errors of its own for what it finds there."""
    facts = _object(path)
    modules = facts.get("target_modules")
    names = modules if isinstance(modules, list) else [modules]
    rules = {
        "peft_type": (facts.get("peft_type") == "LORA", "the adapter must be a LoRA"),
        "r": (type(facts.get("r")) is int and facts["r"] >= 1, "must be a whole number from 1"),
        "target_modules": (
            modules is None or all(isinstance(name, str) for name in names),
            "must be the names of layers",
        ),
    }
    broken = [
        Fault(rule, str(path), field=name, value=facts.get(name)) for name, (holds, rule) in rules.items() if not holds
    ]
    if broken:
        raise InputError(broken)


def _has_adjusted(trial: Path) -> bool:
    """Whether a trial's reports tell how its answers are to be adjusted; then the adapter's facts do so too."""
    try:
        return any("temperature" in figures for figures in read_lines(trial / "epochs.jsonl"))
    except DamagedFile:
        return False


def _is_foreign(config: Any, trial: Path) -> bool:
    """Whether an adapter's configuration is another one than its trial's, where both can be read."""
    try:
        stored = TrialConfig.model_validate_json(json.dumps(read_json(trial / "config.json")))
        return TrialConfig.model_validate_json(json.dumps(config)) != stored
    except (DamagedFile, ValidationError):
        return False


def read_facts(folder: Path) -> dict[str, Any]:
    """What is known of an adapter besides its weights; empty if nothing is.

    Raises:
        DamagedFile: it is not what was written.
    """
    path = folder / ADAPTER_FACTS
    return without_checksum(path, _object(path)) if path.exists() else {}


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Replace what is known of an adapter besides its weights."""
    path = folder / ADAPTER_FACTS
    with writing(path):
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(with_checksum(facts), indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)


def settings_checksum(folder: Path) -> int:
    """Of peft's settings but for the place of the base, which may be changed to where the base is."""
    settings = {**_object(folder / ADAPTER_SETTINGS), "base_model_name_or_path": None}
    return zlib.crc32(json.dumps(settings, sort_keys=True).encode())


def read_title_scores(folder: Path) -> TitleScores | None:
    """What an adapter's folder holds to add to its scores; None if nothing.

    Raises:
        DamagedFile: it cannot be read.
    """
    from reranker.data.recommenders.collaborative_scores import TitleScores

    if not (folder / ADAPTER_COUNTS).exists():
        return None
    path = folder / ADAPTER_COUNTS
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > UNPACKED_BYTES.most:
            raise DamagedFile(path, f"is no such file: {UNPACKED_BYTES.rule('it')}", UNPACKED_BYTES.hint)
        return TitleScores.from_bytes(content)
    except DamagedFile:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        EOFError,
        RuntimeError,
        OSError,
        zlib.error,
        zipfile.BadZipFile,
    ):
        raise DamagedFile(path, "is damaged: it is not what was written") from None


def read_adjustment(folder: Path) -> Adjustment:
    """What the validation lists told of an adapter's answers; of an adapter from before that was kept, nothing.

    Raises:
        DamagedFile: it is not what was written.
    """
    path, facts = folder / ADAPTER_FACTS, read_facts(folder)
    temperature, prior = facts.get("temperature", 1.0), facts.get("label_prior", [])
    numbers = [temperature, *prior] if isinstance(prior, list) else [None]
    if not all(map(_is_finite, numbers)) or temperature <= 0:
        raise DamagedFile(path, "is damaged: temperature and label_prior must be finite numbers, temperature above 0")
    return Adjustment(float(temperature), tuple(map(float, prior)))


def _is_finite(number: Any) -> bool:
    """Whether it is a number that a float holds."""
    try:
        return type(number) in (int, float) and math.isfinite(number)
    except OverflowError:
        return False


def take_adjustment(source: Path, target: Path) -> None:
    """Give one adapter's folder the adjustment of another's: a refit has no validation lists of its own.

    Raises:
        DamagedFile: the adjustment, or the target's facts, cannot be read.
    """
    write_facts(target, {**read_facts(target), **adjustment_facts(read_adjustment(source))})


def adjustment_facts(adjustment: Adjustment) -> dict[str, Any]:
    """An adjustment as `reranker.json` has it."""
    prior = {"label_prior": list(adjustment.label_prior)} if adjustment.label_prior else {}
    return {"temperature": adjustment.temperature, **prior}


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object without a checksum, since other programs read and write the file too."""
    if path.is_file() and path.stat().st_size > JSON_BYTES.most:
        raise DamagedFile(path, f"is no such file: {JSON_BYTES.rule('it')}", JSON_BYTES.hint)
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DamagedFile(path, "is damaged: it is not a JSON object")
    return content


def name_base(path: Path, model: str) -> None:
    """Replace the base's path on this machine, useless elsewhere, by the model's name; a Hub id stays."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if Path(facts["base_model_name_or_path"]).is_dir():
        path.write_text(json.dumps({**facts, "base_model_name_or_path": model}, indent=2) + "\n", encoding="utf-8")
