"""`doctor STUDY` where the winner's adapter is damaged: MLflow's copy takes its place, if it is the same adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from results.statistics.comparison import winner
from results.study.damaged_file import FileFinding, Outcome
from results.study.study_folder import StudyFolder
from tests.searched import search
from tune.study_repair import mend

pytestmark = pytest.mark.slow  # a study is trained


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    search(tmp_path_factory.mktemp("searched") / "runs", "small", trials=2)
    return tmp_path_factory.getbasetemp() / "searched0" / "runs"


@pytest.fixture
def study(runs, tmp_path) -> StudyFolder:
    """A copy with its store beside it."""
    return StudyFolder(Path(shutil.copytree(runs, tmp_path / "runs")) / "small")


def of_winner(study: StudyFolder) -> Path:
    best = winner(study)
    assert best is not None
    return study.trial(best.number).adapter


def content(adapter: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in adapter.iterdir()}


def adapter_findings(study: StudyFolder) -> list[FileFinding]:
    return [finding for finding in mend(study) if "adapter" in finding.damage.path.parts]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "adapter_model.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"),
    "adapter_config.json": lambda path: path.unlink(),
    "reranker.json": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damaged_adapter_is_fetched_from_mlflow(study, name):
    adapter = of_winner(study)
    before = content(adapter)
    DAMAGES[name](adapter / name)
    (finding,) = adapter_findings(study)
    assert (finding.outcome, finding.damage.path) == (Outcome.REBUILT, adapter / name)
    assert finding.done == "it was fetched from MLflow, with the rest of the adapter"
    assert content(adapter) == before
    assert (study.path / "quarantine" / adapter.relative_to(study.path)).is_dir()
    assert mend(study) == []


def test_what_mlflow_has_is_not_taken_where_it_is_damaged_too(study):
    adapter = of_winner(study)
    for copy in [
        adapter,
        *(path.parent for path in study.path.parent.rglob("mlartifacts/**/adapter_model.safetensors")),
    ]:
        (copy / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    (finding,) = adapter_findings(study)
    assert (finding.outcome, finding.damage.path) == (Outcome.REFUSED, adapter / "adapter_model.safetensors")
    assert (adapter / "adapter_model.safetensors").read_bytes() == b"\0" * 64


def test_a_trial_that_mlflow_has_no_adapter_of_is_told_as_before(study):
    other = next(number for number in study.numbers() if study.trial(number).adapter != of_winner(study))
    weights = study.trial(other).adapter / "adapter_model.safetensors"
    weights.write_bytes(b"\0" * 64)
    (finding,) = adapter_findings(study)
    assert (finding.outcome, finding.damage.path) == (Outcome.REFUSED, weights)
    assert "restore it from a copy, or train its config.json again" in finding.done


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://127.0.0.1:9/none"])
def test_a_store_that_is_away_is_as_one_that_has_nothing(study, uri):
    study.write_manifest(study.read_manifest() | {"tracking_uri": uri})
    adapter = of_winner(study)
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    (finding,) = adapter_findings(study)
    assert finding.outcome is Outcome.REFUSED
