"""One trial's folder: its configuration, a line of figures a report, each report's ranks, and the best one's adapter.

A report is stored in this order: the adapter and `ranks.parquet` if it is the best so far, its ranks, its line of figures.
The line makes it count: a kill before it loses the report and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import Picks, Ranks
from reranker.storage.atomic_files import (
    DamagedFile,
    append_line,
    read_bytes,
    read_json,
    read_lines,
    read_table,
    read_text,
    write_json,
    write_table,
    writing,
)

if TYPE_CHECKING:  # whoever only reads a folder need not wait for torch
    from peft import PeftModel

    from reranker.modeling.label_skill import Skill

ADAPTER_FACTS = "reranker.json"  # in an adapter's folder: all that is needed to use it besides the base model
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_LIBRARIES = ("torch", "transformers", "peft", "trl")
_FILES = "files.json"  # in a training state: the checksum of every other file
_RANKS = ["greater", "ties"]
_PICKS = ["target_position", "first_position", "first_probability"]


@dataclass(frozen=True)
class TrialFolder:
    """`config.json`, `epochs.jsonl`, `reports/`, `ranks.parquet`, `adapter/`, `notes.jsonl` and, until it ended, `state-N/`."""

    path: Path

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_config(self, config: TrialConfig) -> None:
        write_json(self.path / "config.json", config.model_dump(mode="json"))

    def read_config(self) -> TrialConfig:
        """
        Raises:
            DamagedFile: it is missing, or not what was written.
        """
        path = self.path / "config.json"
        values = read_json(path)
        try:
            return TrialConfig.model_validate_json(json.dumps(values))
        except ValidationError:
            raise DamagedFile(path, "was written by another version of this program") from None

    def clear(self) -> None:
        """Remove the figures that an earlier training has left; its adapter stays until there is a new one."""
        with writing(self.path):
            for name in ("epochs.jsonl", "ranks.parquet", "notes.jsonl"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "reports", ignore_errors=True)

    def append_epoch(self, figures: dict[str, Any]) -> None:
        """Add one report's figures, after its ranks: from now on it counts."""
        append_line(self.path / "epochs.jsonl", figures)

    def read_epochs(self) -> list[dict[str, Any]]:
        """The figures of each finished epoch, in order; empty before the first.

        Raises:
            DamagedFile: they are not what was written.
        """
        return read_lines(self.path / "epochs.jsonl")

    def add_note(self, text: str) -> None:
        """Something that happened to the trial and that its figures don't tell. It is dropped where it can't be written:
        a note decides nothing."""
        with contextlib.suppress(EnvironmentFault):
            append_line(self.path / "notes.jsonl", {"note": text})

    def read_notes(self) -> list[str]:
        try:
            return [line["note"] for line in read_lines(self.path / "notes.jsonl")]
        except DamagedFile as damage:
            return [f"its notes are lost: {damage.path.name} {damage.damage}"]

    def state_after(self) -> tuple[int, Path] | None:
        """The last epoch whose training state is kept, and the folder of it; None before the first.

        A state that is not what was written is as good as none: the training begins anew, and comes to the same.
        """
        states = {int(path.name.removeprefix("state-")): path for path in self.path.glob("state-*[0-9]")}
        return max(((epoch, path) for epoch, path in states.items() if _is_whole(path)), default=None)

    @contextmanager
    def keeping_state(self, epoch: int) -> Iterator[Path]:
        """A folder to write the training state after this epoch into; it takes the place of the one before."""
        beside = self.path / "state.tmp"
        with writing(beside):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
            write_json(beside / _FILES, {"files": _checksums(beside)})
            self.drop_state(of=epoch)
            os.replace(beside, self.path / f"state-{epoch}")
        self.drop_state(but=epoch)

    def drop_state(self, *, of: int | None = None, but: int | None = None) -> None:
        """Remove the kept training states: all, that of one epoch, or all but that of one."""
        for path in self.path.glob("state-*[0-9]"):
            epoch = int(path.name.removeprefix("state-"))
            if of in (None, epoch) and epoch != but:
                shutil.rmtree(path, ignore_errors=True)

    def keep_ranks(self, user_ids: list[str], ranks: Ranks, picks: Picks | None = None) -> None:
        """Of a baseline, or of a trial's best report: per user how many candidates stood before the target, how many tied
        with it, and what stood first."""
        table = pd.DataFrame({"user_id": user_ids, "greater": ranks.greater, "ties": ranks.ties})
        if picks is not None:
            table = table.assign(**dict(zip(_PICKS, (picks.target, picks.first, picks.probability), strict=True)))
        write_table(self.path / "ranks.parquet", table)

    def keep_report(
        self, epoch: int, user_ids: list[str], ranks: Ranks, picks: Picks | None = None, *, best: bool
    ) -> None:
        """One report's ranks, and if it is the best so far `ranks.parquet` with them."""
        if best:
            self.keep_ranks(user_ids, ranks, picks)
        table = pd.DataFrame({"greater": ranks.greater.astype(np.int32), "ties": ranks.ties.astype(np.int32)})
        if picks is not None:
            table["target_position"] = picks.target.astype(np.int16)
            table["first_position"] = picks.first.astype(np.int16)
            table["first_probability"] = picks.probability
        write_table(self.report(epoch), table)

    @property
    def has_ranks(self) -> bool:
        """Of an epoch that was finished."""
        return (self.path / "ranks.parquet").exists()

    def read_user_ids(self) -> list[str]:
        """In the order of `read_ranks` and `read_report`."""
        return list(read_table(self.path / "ranks.parquet", ["user_id"])["user_id"])

    def read_ranks(self) -> tuple[list[str], Ranks]:
        """
        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        table = read_table(self.path / "ranks.parquet", ["user_id", *_RANKS])
        return list(table["user_id"]), _ranks(table)

    def read_picks(self) -> Picks | None:
        """In the order of `read_ranks`; None of a ranker that gives no probabilities."""
        return _picks(read_table(self.path / "ranks.parquet", _RANKS, _PICKS))

    def has_report(self, epoch: int) -> bool:
        return self.report(epoch).exists()

    def read_report(self, epoch: int) -> tuple[Ranks, Picks | None]:
        """The ranks of one report, in the order of `read_user_ids`.

        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        table = read_table(self.report(epoch), _RANKS, _PICKS)
        return _ranks(table), _picks(table)

    def report(self, epoch: int) -> Path:
        """Where one report's ranks are."""
        return self.path / "reports" / f"{epoch:04d}.parquet"

    def write_figures(self, figures: dict[str, Any]) -> None:
        """What is known of a baseline besides its ranks."""
        write_json(self.path / "figures.json", figures)

    def read_figures(self) -> dict[str, Any]:
        path = self.path / "figures.json"
        return read_json(path) if path.exists() else {}

    def keep_adapter(self, model: PeftModel, config: TrialConfig, epoch: int, skill: Skill | None = None) -> None:
        """Replace the kept adapter, file by file: safetensors, peft's configuration, and ours with what it belongs to.

        Args:
            skill: what the model's base had besides its weights; the adapter then holds it too.
        """
        from reranker.modeling.checkpoints import base_fingerprint
        from reranker.modeling.label_skill import put_beside

        beside = self.path / "adapter.tmp"
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        known = {"config": config.model_dump(mode="json"), "base": base_fingerprint(model)}
        facts: dict[str, Any] = {**known, "epoch": epoch, "versions": versions}
        with writing(self.adapter):
            try:
                model.save_pretrained(str(beside))
                (beside / "README.md").unlink(missing_ok=True)  # peft's model card template, with nothing filled in
                if skill is not None:
                    put_beside(beside, skill)
                    facts["skill"] = skill.facts
                _name_base(beside / "adapter_config.json", config.model)
                facts["weights"] = zlib.crc32(read_bytes(beside / ADAPTER_WEIGHTS))
                (beside / ADAPTER_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
                self.adapter.mkdir(exist_ok=True)
                for file in sorted(beside.iterdir()):
                    os.replace(file, self.adapter / file.name)
            finally:
                shutil.rmtree(beside, ignore_errors=True)


def check_adapter(folder: Path) -> None:
    """
    Raises:
        DamagedFile: an adapter's weights are not those that were written, or what stands beside them is not JSON.
    """
    _object(folder / "adapter_config.json")
    facts = folder / ADAPTER_FACTS
    weights = _object(facts).get("weights") if facts.exists() else None
    if weights is not None and zlib.crc32(read_bytes(folder / ADAPTER_WEIGHTS)) != weights:
        raise DamagedFile(folder / ADAPTER_WEIGHTS, "is damaged: it is not what was written")


def _object(path: Path) -> dict[str, Any]:
    """Of a JSON file that has no checksum, since other programs read and write it too."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DamagedFile(path, "is damaged: it is not a JSON object")
    return found


def _name_base(path: Path, model: str) -> None:
    """peft writes where the base lay on this machine, which says nothing on another one; a Hub id does and stays."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if Path(facts["base_model_name_or_path"]).is_dir():
        path.write_text(json.dumps({**facts, "base_model_name_or_path": model}, indent=2) + "\n", encoding="utf-8")


def _checksums(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): zlib.crc32(read_bytes(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _FILES
    }


def _is_whole(state: Path) -> bool:
    try:
        return bool(read_json(state / _FILES)["files"] == _checksums(state))
    except DamagedFile:
        return False


def _ranks(table: Mapping[str, NDArray[Any]]) -> Ranks:
    greater, ties = (np.asarray(table[name], dtype=np.int64) for name in _RANKS)
    return Ranks(greater, ties)


def _picks(table: Mapping[str, NDArray[Any]]) -> Picks | None:
    if not set(_PICKS) <= set(table):
        return None
    target, first, probability = (table[name] for name in _PICKS)
    return Picks(target.astype(np.int64), first.astype(np.int64), probability.astype(np.float64))
