"""One trial's folder: its configuration, one line of figures per report, each report's ranks, and the best adapter;
besides, now and then, a line about the optimiser step, which nothing is decided by.

A report is stored in this order: adapter and `ranks.parquet` if it is the best so far, its ranks, its line of figures.
Only the line makes it count: a kill before the line loses this report and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from pydantic import ValidationError

from reranker.artifacts.adapter_files import (
    ADAPTER_COUNTS,
    ADAPTER_SETTINGS,
    ADAPTER_WEIGHTS,
    adjustment_facts,
    name_base,
    settings_checksum,
    write_facts,
)
from reranker.calibration import AS_SCORED, Adjustment
from reranker.command_line.redaction import masked
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import Picks, Ranks
from reranker.storage.atomic_files import (
    DamagedFile,
    Fields,
    append_line,
    read_arrow_table,
    read_bytes,
    read_json,
    read_lines,
    read_table,
    write_json,
    write_table,
    writing,
)
from reranker.storage.file_permissions import file_mode, make_folder

if TYPE_CHECKING:  # reading a folder need not wait for torch
    from peft import PeftModel

    from reranker.data.recommenders.collaborative_scores import TitleScores
    from reranker.modeling.lora.label_skill import Skill

STEP: Fields = {"examples": int}  # what a line of `steps.jsonl` has
NOTE: Fields = {"note": str}  # what a line of `notes.jsonl` has
_LIBRARIES = ("torch", "transformers", "peft", "trl")
_FILES = "files.json"  # in a training state: the checksum of every other file
_KEPT_CONFIGS, _KEPT_BYTES = 4096, 128 * 2**20  # in memory, of configurations and of ranks
_USER, _ORDER = "user_id", "order"
_RANKS = ["greater", "ties"]
_PICKS = ["target_position", "first_position", "first_probability"]


@dataclass(frozen=True)
class TrialFolder:
    """`config.json`, `epochs.jsonl`, `reports/`, `ranks.parquet`, `adapter/`, `steps.jsonl`, `notes.jsonl`; until done
    `state-N/`."""

    path: Path

    @property
    def adapter(self) -> Path:
        """The folder of the best report's adapter."""
        return self.path / "adapter"

    def write_config(self, config: TrialConfig) -> None:
        """Replace `config.json`."""
        write_json(self.path / "config.json", config.model_dump(mode="json"))

    def has_config(self, config: TrialConfig) -> bool:
        """Whether `config.json` holds this configuration; one of an older version may lack knobs that have defaults."""
        with contextlib.suppress(DamagedFile):
            return self.read_config() == config
        return False

    def config_digest(self) -> str:
        """The digest of what `config.json` holds; see the function of this name.

        Raises:
            DamagedFile: it is missing, or not what was written.
        """
        return config_digest(read_json(self.path / "config.json"))

    def read_config(self) -> TrialConfig:
        """
        Raises:
            DamagedFile: it is missing, or not what was written.
        """
        path = self.path / "config.json"
        return _read_config(path, *_version(path))

    def clear(self) -> None:
        """Remove the figures of an earlier training; its adapter stays until a new one replaces it."""
        with writing(self.path):
            for name in ("epochs.jsonl", "ranks.parquet", "steps.jsonl", "notes.jsonl"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "reports", ignore_errors=True)

    def append_report(self, figures: dict[str, Any]) -> None:
        """Add one report's figures, after its ranks; now the report counts."""
        append_line(self.path / "epochs.jsonl", figures)

    def read_reports(self) -> list[dict[str, Any]]:
        """The figures of each report, in order; empty before the first.

        Raises:
            DamagedFile: they are not what was written.
        """
        return read_lines(self.path / "epochs.jsonl", {"epoch": float})

    def append_step(self, figures: dict[str, Any]) -> None:
        """Add a line about an optimiser step; dropped if it can't be written."""
        with contextlib.suppress(EnvironmentFault):
            append_line(self.path / "steps.jsonl", figures)

    def read_steps(self) -> list[dict[str, Any]]:
        """The lines about steps, by `examples`; of a step that was trained again after a kill the last one. Empty if
        they are damaged."""
        try:
            lines = {line["examples"]: line for line in read_lines(self.path / "steps.jsonl", STEP)}
        except DamagedFile:
            return []
        return [lines[examples] for examples in sorted(lines)]

    def add_note(self, text: str) -> None:
        """Add an event that the figures don't show; dropped if it can't be written, since no decision uses notes."""
        with contextlib.suppress(EnvironmentFault):
            append_line(self.path / "notes.jsonl", {"note": masked(text)})

    def read_notes(self) -> list[str]:
        """The notes in order; if they are damaged, one note that says so."""
        try:
            return [line["note"] for line in read_lines(self.path / "notes.jsonl", NOTE)]
        except DamagedFile as damage:
            return [f"its notes are lost: {damage.path.name} {damage.damage}"]

    def last_state(self) -> Path | None:
        """The folder of the latest training state; None before the first.

        A damaged state counts as none: the training restarts, with the same results.
        """
        return next((path for path in self.states() if self.is_whole(path)), None)

    def states(self) -> list[Path]:
        """The folders of the kept training states, the latest first."""
        return sorted(self.path.glob("state-*[0-9]"), key=_steps_of, reverse=True)

    def is_whole(self, state: Path) -> bool:
        """Whether a training state holds what was written, by a training of this trial's configuration."""
        try:
            stored = read_json(state / _FILES)
            is_ours = "config" not in stored or stored["config"] == self.config_digest()
            return bool(is_ours and stored["files"] == _checksums(state))
        except DamagedFile:
            return False

    @contextmanager
    def keeping_state(self, step: int) -> Iterator[Path]:
        """A folder for the training state after this optimiser step; on exit it replaces the previous state."""
        temporary = self.path / "state.tmp"
        with writing(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            make_folder(temporary)
            yield temporary
            facts: dict[str, Any] = {"files": _checksums(temporary)}
            with contextlib.suppress(DamagedFile):  # outside of a search there may be none
                facts["config"] = self.config_digest()
            write_json(temporary / _FILES, facts)
            self.drop_state(of=step)
            os.replace(temporary, self.path / f"state-{step}")
        self.drop_state(but=step)

    def drop_state(self, *, of: int | None = None, but: int | None = None) -> None:
        """Remove the kept training states: all, only that after step `of`, or all but that after step `but`."""
        for path in self.path.glob("state-*[0-9]"):
            if of in (None, _steps_of(path)) and _steps_of(path) != but:
                shutil.rmtree(path, ignore_errors=True)

    def keep_ranks(self, user_ids: list[str], ranks: Ranks, picks: Picks | None = None) -> None:
        """Keep the ranks of a baseline or of a trial's best report: per user the counts of `Ranks`, and the picks."""
        import pandas as pd  # imported here, so that --help need not wait for it

        table = pd.DataFrame({"user_id": user_ids, "greater": ranks.greater, "ties": ranks.ties})
        if picks is not None:
            table = table.assign(**dict(zip(_PICKS, (picks.target, picks.first, picks.probability), strict=True)))
        write_table(self.path / "ranks.parquet", table)

    def keep_report(
        self, number: int, user_ids: list[str], ranks: Ranks, picks: Picks | None = None, *, best: bool
    ) -> None:
        """Keep one report's ranks.

        Args:
            user_ids: of the ranked lists.
            best: whether it is the best so far; then they become `ranks.parquet` too.
        """
        if best:
            self.keep_ranks(user_ids, ranks, picks)
        import pandas as pd  # imported here, so that --help need not wait for it

        table = pd.DataFrame({"greater": ranks.greater.astype(np.int32), "ties": ranks.ties.astype(np.int32)})
        if picks is not None:
            table["target_position"] = picks.target.astype(np.int16)
            table["first_position"] = picks.first.astype(np.int16)
            table["first_probability"] = picks.probability
        write_table(self.report(number), table)

    @property
    def has_ranks(self) -> bool:
        """Whether `ranks.parquet` exists, from a baseline or a report."""
        return (self.path / "ranks.parquet").exists()

    def read_user_ids(self) -> list[str]:
        """The users in the order of `read_ranks` and `read_report`."""
        return list(read_table(self.path / "ranks.parquet", ["user_id"])["user_id"])

    def read_user_order(self) -> NDArray[np.intp]:
        """What sorts `read_user_ids`, without their being made into text; [lists]. Lists of one user keep their order."""
        return _rank_file(self.path / "ranks.parquet")[_ORDER].astype(np.intp)

    def read_ranks(self) -> tuple[list[str], Ranks]:
        """
        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        table = read_table(self.path / "ranks.parquet", ["user_id", *_RANKS])
        return list(table["user_id"]), _ranks(table)

    def read_ranks_alone(self) -> Ranks:
        """Those of `read_ranks`, without the users, whose ids are checked all the same.

        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        return _ranks(_rank_file(self.path / "ranks.parquet"))

    def read_picks(self) -> Picks | None:
        """The picks in the order of `read_ranks`; None if the ranker gives no probabilities."""
        return _picks(read_table(self.path / "ranks.parquet", _RANKS, _PICKS))

    def has_report(self, number: int) -> bool:
        """Whether the ranks of this report are kept."""
        return self.report(number).exists()

    def read_report(self, number: int) -> Ranks:
        """The ranks of one report; if it is on all lists, in the order of `read_user_ids`.

        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        return _ranks(_rank_file(self.report(number)))

    def read_report_picks(self, number: int) -> Picks | None:
        """The picks of one report, in the order of `read_report`.

        Raises:
            DamagedFile: they are missing, or not what was written.
        """
        return _picks(read_table(self.report(number), _RANKS, _PICKS))

    def report(self, number: int) -> Path:
        """The file with one report's ranks."""
        return self.path / "reports" / f"{number:04d}.parquet"

    def write_figures(self, figures: dict[str, Any]) -> None:
        """Write what is known about a baseline besides its ranks."""
        write_json(self.path / "figures.json", figures)

    def read_figures(self) -> dict[str, Any]:
        """What `write_figures` wrote; empty if there is nothing."""
        path = self.path / "figures.json"
        return read_json(path) if path.exists() else {}

    def keep_adapter(
        self,
        model: PeftModel,
        config: TrialConfig,
        epoch: float,
        chat: str,
        skill: Skill | None = None,
        title_scores: TitleScores | None = None,
        adjustment: Adjustment = AS_SCORED,
    ) -> None:
        """Replace the kept adapter, file by file: safetensors, peft's configuration, and our `reranker.json`.

        Args:
            chat: the `chat_fingerprint` of the base's tokenizer.
            skill: the part added to the base's weights in training, the start of the adapter included; the stored
                adapter then includes it.
            title_scores: what was added to the labels' logits in training.
            adjustment: what the validation lists tell of its answers.
        """
        from reranker.modeling.checkpoints.model_files import revision_of
        from reranker.modeling.lora.label_skill import put_beside
        from reranker.modeling.model_loading import base_fingerprint

        temporary = self.path / "adapter.tmp"
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        origin = {"config": config.model_dump(mode="json"), "base": base_fingerprint(model), "chat": chat}
        facts: dict[str, Any] = {**origin, "epoch": epoch, "versions": versions, **adjustment_facts(adjustment)}
        with writing(self.adapter):
            try:
                model.save_pretrained(str(temporary))
                (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card template
                if skill is not None:
                    put_beside(temporary, skill)
                    if skill.facts:
                        facts["skill"] = skill.facts
                name_base(temporary / ADAPTER_SETTINGS, config.model)
                if title_scores is not None:
                    content = title_scores.content
                    facts["counts"] = zlib.crc32(content)
                    (temporary / ADAPTER_COUNTS).write_bytes(content)
                if revision := revision_of(config.model):
                    facts["revision"] = revision
                facts["weights"] = zlib.crc32(read_bytes(temporary / ADAPTER_WEIGHTS))
                facts["settings"] = settings_checksum(temporary)
                write_facts(temporary, facts)
                make_folder(self.adapter)
                for file in sorted(temporary.iterdir()):
                    file.chmod(file_mode())
                    os.replace(file, self.adapter / file.name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def config_digest(values: Mapping[str, Any]) -> str:
    """A configuration's digest, 16 hex digits, by which its trial is known: of the values as they are stored."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _checksums(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): zlib.crc32(read_bytes(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _FILES
    }


def _steps_of(state: Path) -> int:
    return int(state.name.removeprefix("state-"))


def _rank_file(path: Path) -> dict[str, NDArray[np.int32]]:
    """The ranks in a file, and what sorts them by user where it names users."""
    return _read_ranks(path, *_version(path))


# A study is checked and then compared. So what was read of a file is kept, for as long as it is the same file.


def _version(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except OSError:
        return ()  # whoever reads it says why
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _bytes_of(columns: dict[str, NDArray[np.int32]]) -> int:
    return sum(column.nbytes for column in columns.values())


@lru_cache(_KEPT_CONFIGS)
def _read_config(path: Path, *version: int) -> TrialConfig:
    values = read_json(path)
    try:
        return TrialConfig.model_validate_json(json.dumps(values))
    except ValidationError:
        raise DamagedFile(path, "was written by another version of this program") from None


@cached(LRUCache(_KEPT_BYTES, getsizeof=_bytes_of), lock=Lock())
def _read_ranks(path: Path, *version: int) -> dict[str, NDArray[np.int32]]:
    import pyarrow.compute

    table = read_arrow_table(path, _RANKS)
    ranks = {name: table[name].to_numpy().astype(np.int32) for name in _RANKS}
    if _USER in table.column_names:
        ranks[_ORDER] = pyarrow.compute.sort_indices(table[_USER]).to_numpy().astype(np.int32)
    return ranks


def _ranks(table: Mapping[str, NDArray[Any]]) -> Ranks:
    greater, ties = (np.asarray(table[name], dtype=np.int64) for name in _RANKS)
    return Ranks(greater, ties)


def _picks(table: Mapping[str, NDArray[Any]]) -> Picks | None:
    if not set(_PICKS) <= set(table):
        return None
    target, first, probability = (table[name] for name in _PICKS)
    return Picks(target.astype(np.int64), first.astype(np.int64), probability.astype(np.float64))
