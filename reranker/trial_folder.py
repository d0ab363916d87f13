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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.files import (
    DamagedFile,
    append_line,
    read_bytes,
    read_json,
    read_lines,
    read_table,
    write_json,
    write_table,
    writing,
)
from reranker.metrics import Picks, Ranks

if TYPE_CHECKING:  # whoever only reads a folder need not wait for torch
    from peft import PeftModel

ADAPTER_FACTS = "reranker.json"  # in an adapter's folder: all that is needed to use it besides the base model
_WHOLE = "checksums.json"  # in a training state: of its other files
_LIBRARIES = ("torch", "transformers", "peft", "trl")
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
        return [line["note"] for line in read_lines(self.path / "notes.jsonl")]

    def state_after(self) -> tuple[int, Path] | None:
        """The last epoch whose training state is kept whole, and the folder of it; None before the first.

        One that a power cut has left without its content is none: what it is of is trained again, which gives the same.
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
            write_json(beside / _WHOLE, _checksums(beside))
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
        write_table(self._report(epoch), table)

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
        return _picks(read_table(self.path / "ranks.parquet", _RANKS))

    def has_report(self, epoch: int) -> bool:
        return self._report(epoch).exists()

    def read_report(self, epoch: int) -> tuple[Ranks, Picks | None]:
        """The ranks of one report, in the order of `read_user_ids`.

        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        table = read_table(self._report(epoch), _RANKS)
        return _ranks(table), _picks(table)

    def _report(self, epoch: int) -> Path:
        return self.path / "reports" / f"{epoch:04d}.parquet"

    def write_figures(self, figures: dict[str, Any]) -> None:
        """What is known of a baseline besides its ranks."""
        write_json(self.path / "figures.json", figures)

    def read_figures(self) -> dict[str, Any]:
        path = self.path / "figures.json"
        return read_json(path) if path.exists() else {}

    def keep_adapter(self, model: PeftModel, config: TrialConfig, epoch: int) -> None:
        """Replace the kept adapter, file by file: safetensors, peft's configuration, and ours with what it belongs to."""
        from reranker.models import base_fingerprint

        beside = self.path / "adapter.tmp"
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        known = {"config": config.model_dump(mode="json"), "base": base_fingerprint(model)}
        facts = {**known, "epoch": epoch, "versions": versions}
        with writing(self.adapter):
            try:
                model.save_pretrained(str(beside))
                (beside / "README.md").unlink(missing_ok=True)  # peft's model card template, with nothing filled in
                _name_base(beside / "adapter_config.json", config.model)
                (beside / ADAPTER_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
                self.adapter.mkdir(exist_ok=True)
                for file in sorted(beside.iterdir()):
                    os.replace(file, self.adapter / file.name)
            finally:
                shutil.rmtree(beside, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, int]:
    """Of every file but that which they are written into."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _WHOLE:
            found[path.name] = zlib.crc32(read_bytes(path))
    return found


def _is_whole(state: Path) -> bool:
    try:
        return read_json(state / _WHOLE) == _checksums(state)
    except DamagedFile:
        return False


def _name_base(path: Path, model: str) -> None:
    """peft writes where the base lay on this machine, which says nothing on another one; a Hub id does and stays."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if Path(facts["base_model_name_or_path"]).is_dir():
        path.write_text(json.dumps({**facts, "base_model_name_or_path": model}, indent=2) + "\n", encoding="utf-8")


def _ranks(table: pd.DataFrame) -> Ranks:
    greater, ties = (np.asarray(table[name], dtype=np.int64) for name in _RANKS)
    return Ranks(greater, ties)


def _picks(table: pd.DataFrame) -> Picks | None:
    if not set(_PICKS) <= set(table.columns):
        return None
    target, first, probability = (table[name].to_numpy() for name in _PICKS)
    return Picks(target.astype(np.int64), first.astype(np.int64), probability.astype(np.float64))
