"""One trial's folder: its configuration, a line of figures an epoch, and the best epoch's ranks and adapter.

Every file is complete or absent: it is written beside its place and renamed into it, so that a full disk or a kill
loses the epoch that was being written and nothing before it.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import Picks, Ranks

if TYPE_CHECKING:  # whoever only reads a folder need not wait for torch
    from peft import PeftModel

ADAPTER_FACTS = "reranker.json"  # in an adapter's folder: all that is needed to use it besides the base model
_LIBRARIES = ("torch", "transformers", "peft", "trl")
_PICKS = ["target_position", "first_position", "first_probability"]
_ADVICE = {
    errno.ENOSPC: "no space is left on the disk; what was written before is intact",
    errno.EDQUOT: "the disk quota is used up; what was written before is intact",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one sentence that names the path and the cause.

    Raises:
        EnvironmentFault: the disk is full, read-only, or not ours to write.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {_ADVICE.get(error.errno or 0, str(error))}") from error
    except Exception as error:  # safetensors reports a full disk in an exception of its own
        if "os error 28" in str(error).lower() or "no space left" in str(error).lower():
            raise EnvironmentFault(f"cannot write {path}: {_ADVICE[errno.ENOSPC]}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a file's content as a whole."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.unlink(file.name)
                raise
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)


@dataclass(frozen=True)
class TrialFolder:
    """`config.json`, `epochs.jsonl`, `ranks.parquet`, `adapter/`, `notes.txt` and, until it ended, `state-N/` of a trial."""

    path: Path

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_config(self, config: TrialConfig) -> None:
        write_text(self.path / "config.json", config.model_dump_json(indent=2) + "\n")

    def read_config(self) -> TrialConfig:
        return TrialConfig.model_validate_json((self.path / "config.json").read_text(encoding="utf-8"))

    def clear(self) -> None:
        """Remove the figures that an earlier training has left; its adapter stays until there is a new one."""
        with writing(self.path):
            for name in ("epochs.jsonl", "ranks.parquet", "notes.txt"):
                (self.path / name).unlink(missing_ok=True)

    def append_epoch(self, figures: dict[str, Any]) -> None:
        """Add one epoch's figures; a line that a kill has cut short is dropped when it is read."""
        path = self.path / "epochs.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_epochs(self) -> list[dict[str, Any]]:
        """The figures of each finished epoch, in order; empty before the first."""
        path = self.path / "epochs.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def add_note(self, text: str) -> None:
        """Something that happened to the trial and that its figures don't tell."""
        path = self.path / "notes.txt"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def read_notes(self) -> list[str]:
        path = self.path / "notes.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def state_after(self) -> tuple[int, Path] | None:
        """The last epoch whose training state is kept, and the folder of it; None before the first."""
        states = {int(path.name.removeprefix("state-")): path for path in self.path.glob("state-*[0-9]")}
        return max(states.items(), default=None)

    @contextmanager
    def keeping_state(self, epoch: int) -> Iterator[Path]:
        """A folder to write the training state after this epoch into; it takes the place of the one before."""
        beside = self.path / "state.tmp"
        with writing(beside):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
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
        """Per user how many candidates stood before the target, how many tied with it, and what stood first."""
        path = self.path / "ranks.parquet"
        table = pd.DataFrame({"user_id": user_ids, "greater": ranks.greater, "ties": ranks.ties})
        if picks is not None:
            table = table.assign(**dict(zip(_PICKS, (picks.target, picks.first, picks.probability), strict=True)))
        beside = path.with_suffix(".tmp")
        with writing(path):
            table.to_parquet(beside, index=False)
            os.replace(beside, path)

    @property
    def has_ranks(self) -> bool:
        """Of an epoch that was finished."""
        return (self.path / "ranks.parquet").exists()

    def read_ranks(self) -> tuple[list[str], Ranks]:
        table = pd.read_parquet(self.path / "ranks.parquet")
        greater, ties = (np.asarray(table[name], dtype=np.int64) for name in ("greater", "ties"))
        return list(table["user_id"]), Ranks(greater, ties)

    def read_picks(self) -> Picks | None:
        """In the order of `read_ranks`; None of a ranker that gives no probabilities."""
        table = pd.read_parquet(self.path / "ranks.parquet")
        if not set(_PICKS) <= set(table.columns):
            return None
        target, first, probability = (table[name].to_numpy() for name in _PICKS)
        return Picks(target.astype(np.int64), first.astype(np.int64), probability.astype(np.float64))

    def write_figures(self, figures: dict[str, Any]) -> None:
        """What is known of a baseline besides its ranks."""
        write_text(self.path / "figures.json", json.dumps(figures) + "\n")

    def read_figures(self) -> dict[str, Any]:
        path = self.path / "figures.json"
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return figures

    def keep_adapter(self, model: PeftModel, config: TrialConfig) -> None:
        """Replace the kept adapter, file by file: safetensors, peft's configuration, and ours with what it belongs to."""
        from reranker.models import base_fingerprint

        beside = self.path / "adapter.tmp"
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        facts = {"config": config.model_dump(mode="json"), "base": base_fingerprint(model), "versions": versions}
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


def _name_base(path: Path, model: str) -> None:
    """peft writes where the base lay on this machine, which says nothing on another one; a Hub id does and stays."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if Path(facts["base_model_name_or_path"]).is_dir():
        path.write_text(json.dumps({**facts, "base_model_name_or_path": model}, indent=2) + "\n", encoding="utf-8")
