"""A study whose files are damaged: what is rebuilt is said, the rest is refused, and no other trial wins without a word."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reranker import rank
from reranker.errors import EnvironmentFault, InputError
from reranker.storage.atomic_files import DamagedFile, append_line
from results import compare, diagnose, integrity, report, seal
from results.statistics.comparison import winner
from results.statistics.verdict_text import verdict
from results.study.checked_folder import check, leave_out, open_study
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.searched import search
from tune import run_search, tracking

pytestmark = pytest.mark.slow  # each needs a Ray, or a trained study, of its own

DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "null": lambda path: path.write_text("null\n"),
    "unreadable": lambda path: (path.unlink(), path.mkdir()),  # a mode would not keep root from it
}
COMMANDS: dict[str, Callable[[str], int]] = {
    "compare": lambda study: compare.main([study]),
    "diagnose": lambda study: diagnose.main([study]),
    "report": lambda study: report.main([study]),
    "tracking": lambda study: tracking.main([study]),
    "seal": lambda study: seal.main([study]),
    "resume": lambda study: run_search.main(["--resume", study, "--check"]),
    "integrity": lambda study: integrity.main([study]),
    "rank": lambda study: rank.main(
        ["--adapter", f"{study}/trials/000", "--history", "Dusty Saddle", "--candidates", "Silly Clown", "Lunar Comet"]
    ),
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, StudyFolder]:
    runs = tmp_path_factory.mktemp("runs")
    return {"finished": search(runs, "finished"), "killed": search(runs, "killed", killed=True)}


@pytest.fixture
def copy_of(studies, tmp_path) -> Callable[[str], StudyFolder]:
    numbers = itertools.count()

    def make(which: str) -> StudyFolder:
        return StudyFolder(Path(shutil.copytree(studies[which].path, tmp_path / f"{next(numbers)}" / which)))

    return make


def run(command: str, study: StudyFolder) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = COMMANDS[command](str(study.path))
    return code, printed.getvalue()


def files_of(study: StudyFolder) -> list[str]:
    """Of a study's trials the winner's, and of the others what could make them win or lose."""
    best = winner(study)
    assert best is not None
    own = f"trials/{best.number:03d}"
    found = [str(path.relative_to(study.path)) for path in sorted(study.path.rglob("*")) if path.is_file()]
    kept = [name for name in found if not name.startswith(("trials/", "baselines/", "mlartifacts/", "ray/"))]
    kept += [name for name in found if name.startswith((own, "baselines/popularity", "baselines/zero-shot demo-tiny/"))]
    other = next(number for number in study.numbers() if number != best.number)
    kept += [f"trials/{other:03d}/{name}" for name in ("status.json", "epochs.jsonl", "reports/0002.parquet")]
    return [name for name in kept if not name.endswith("lock")]


@pytest.mark.parametrize("which", ["finished", "killed"])
@pytest.mark.slow
def test_whatever_file_is_damaged_no_command_crashes_or_crowns_another_trial_in_silence(studies, copy_of, which):
    best, said = winner(studies[which]), verdict(studies[which])
    files = files_of(studies[which])
    assert best is not None
    assert len(files) > 15
    slower = itertools.cycle(name for name in COMMANDS if name != "compare")
    for number, (name, (damage, spoil)) in enumerate(itertools.product(files, DAMAGES.items())):
        study = copy_of(which)
        spoil(study.path / name)
        code, printed = run("compare", study)
        assert "Traceback" not in printed, (name, damage)
        if code == 0:
            assert said in " ".join(printed.split()), (name, damage)
        else:
            assert (code, "error: ") == (2, printed[:7]), (name, damage)
            assert str(study.path) in printed, (name, damage)
            assert said not in printed, (name, damage)
        if number % 3:
            continue
        study = copy_of(which)
        spoil(study.path / name)
        other = next(slower)
        code, printed = run(other, study)
        assert code in (0, 2), (name, damage, other, printed)
        assert "Traceback" not in printed, (name, damage, other)


def test_a_study_that_is_whole_is_left_as_it_is(studies):
    for study in studies.values():
        before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
        assert check(study) == []
        assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*")} == before


@pytest.mark.parametrize("name", ["epochs.jsonl", "config.json", "reports/0001.parquet"])
def test_a_lost_file_of_the_winner_is_named_with_what_to_do(copy_of, name):
    study = copy_of("finished")
    best = winner(study)
    assert best is not None
    path = study.trial(best.number).path / name
    path.unlink()
    if name == "config.json":
        shutil.rmtree(study.trial(best.number).adapter)
    with pytest.raises(DamagedFile, match="restore it from a copy, or leave the trial out") as caught:
        open_study(study.path.parent, "finished")
    assert caught.value.path == path


def test_a_trial_whose_folder_is_gone_is_missed(copy_of):
    study = copy_of("finished")
    shutil.rmtree(study.trial(1).path)
    with pytest.raises(DamagedFile, match="trials/001 is missing"):
        check(study)


def test_several_damaged_files_are_told_together(copy_of):
    study = copy_of("finished")
    for number in (0, 1):
        (study.trial(number).path / "epochs.jsonl").unlink()
    with pytest.raises(EnvironmentFault) as caught:
        check(study)
    assert [Path(line.split(" lacks")[0]).parent.name for line in str(caught.value).splitlines()] == ["000", "001"]


REBUILT = [
    "manifest.json",
    "study.yaml",
    "trials/000/status.json",
    "trials/000/config.json",
    "trials/000/ranks.parquet",
]


@pytest.mark.parametrize("name", REBUILT)
@pytest.mark.parametrize("damage", ["removed", "empty", "cut", "garbage", "null"])
def test_what_other_files_still_tell_is_rebuilt_and_said(studies, copy_of, name, damage):
    study = copy_of("finished")
    DAMAGES[damage](study.path / name)
    (sentence,) = check(study)
    assert sentence.startswith(str(study.path / name))
    assert "it was rebuilt from" in sentence
    if name != "trials/000/ranks.parquet":
        assert (study.path / name).read_text() == (studies["finished"].path / name).read_text()
    users, ranks = study.trial(0).read_ranks()
    expected_users, expected = studies["finished"].trial(0).read_ranks()
    assert (users, ranks.greater.tolist()) == (expected_users, expected.greater.tolist())
    assert check(study) == []


def log_of_workers(study: StudyFolder, number: int) -> Path:
    """What a search's workers leave of a trial's reports, among whatever else is printed."""
    path = study.trial(number).path / "train.log"
    lines = [json.dumps(figures) for figures in study.trial(number).read_reports()]
    path.write_text("\n".join(["loading", lines[0], '{"report": 1, "epo', '{"loss": 2.5}', *lines]) + "\n")
    return path


@pytest.mark.parametrize("damage", ["removed", "empty", "cut", "garbage", "null"])
def test_figures_that_are_lost_are_rebuilt_from_the_log_of_the_workers(studies, copy_of, damage):
    study = copy_of("finished")
    log_of_workers(study, 0)
    path = study.trial(0).path / "epochs.jsonl"
    DAMAGES[damage](path)
    (sentence,) = check(study)
    assert sentence.startswith(f"{path} ")
    assert "it was rebuilt from its train.log" in sentence
    assert study.trial(0).read_reports() == studies["finished"].trial(0).read_reports()
    assert check(study) == []


@pytest.mark.parametrize("figure", ["ndcg_at_10", "recall_at_1"])  # of the journal, and of the ranks alone
def test_a_log_with_other_figures_restores_none(copy_of, figure):
    study = copy_of("finished")
    log = log_of_workers(study, 0)
    log.write_text(re.sub(rf'"{figure}": [\d.]+', f'"{figure}": 0.987', log.read_text()))
    (study.trial(0).path / "epochs.jsonl").unlink()
    with pytest.raises(DamagedFile, match=r"epochs\.jsonl lacks report 1, which the journal knows"):
        check(study)


def test_a_status_that_disagrees_with_the_journal_is_put_right(copy_of):
    study = copy_of("finished")
    study.write_status(1, TrialStatus.FAILED, cause="somebody wrote this")
    (sentence,) = check(study)
    assert "says failed, the journal completed" in sentence
    assert study.read_status(1)["status"] == "completed"


def test_figures_that_are_not_those_of_the_ranks_are_refused(copy_of):
    study = copy_of("finished")
    lines = [json.loads(line) for line in (study.trial(1).path / "epochs.jsonl").read_text().splitlines()]
    (study.trial(1).path / "epochs.jsonl").unlink()
    for line in lines:
        line.pop("checksum")
        append_line(study.trial(1).path / "epochs.jsonl", {**line, "recall_at_1": 0.99})
    with pytest.raises(DamagedFile, match="gives other figures than report 1"):
        check(study)


def test_a_trial_that_the_journal_does_not_know_is_refused(copy_of):
    study = copy_of("finished")
    shutil.copytree(study.trial(1).path, study.trial(7).path)
    with pytest.raises(DamagedFile, match="does not know trial 7"):
        check(study)


def test_a_damaged_trial_can_be_left_out_for_good_and_that_is_told(copy_of, capsys):
    study = copy_of("finished")
    best = winner(study)
    assert best is not None
    (study.trial(best.number).path / "epochs.jsonl").write_text("")
    with pytest.raises(InputError, match="only a damaged trial can be left out"):
        leave_out(study, next(n for n in study.numbers() if n != best.number))
    assert integrity.main([str(study.path), "--leave-out", f"{best.number}"]) == 0
    assert best.number not in study.numbers()
    assert f"trial {best.number} is left out" in study.acts()[-1]["act"]
    code, printed = run("compare", study)
    assert code == 0
    assert f"Left out, since its files were damaged: trial {best.number}." in " ".join(printed.split())


# The sealed test


def reading(text: str = "") -> dict[str, object]:
    return {"trial": 0, "time": "2026-11-24 12:00:00", "unseal": text}


@pytest.mark.parametrize("damage", ["removed", "empty", "cut", "garbage", "null"])
def test_a_reading_of_the_test_is_not_forgotten_with_its_file(copy_of, capsys, damage):
    study = copy_of("finished")
    assert seal.main([str(study.path)]) == 0
    known = study.readings()
    DAMAGES[damage](study.path / "test_readings.jsonl")
    capsys.readouterr()
    assert seal.main([str(study.path)]) == 2
    assert "the test was read once" in capsys.readouterr().err
    assert study.readings() == known


def test_a_reading_that_only_the_file_knows_is_not_undone_by_an_older_journal(copy_of, capsys):
    study = copy_of("finished")
    older = study.journal.read_bytes()
    assert seal.main([str(study.path)]) == 0
    study.journal.write_bytes(older)
    assert seal.main([str(study.path)]) == 2
    assert "optuna.log lacks a reading of the test" in capsys.readouterr().err


# Moving a study


def test_a_study_keeps_its_name_when_its_folder_is_renamed(copy_of, tmp_path):
    study = copy_of("finished")
    moved = StudyFolder(study.path.rename(tmp_path / "elsewhere"))
    assert (moved.name, check(moved)) == ("finished", [])
    code, printed = run("resume", moved)
    assert code == 0
    assert re.search(r"study finished: 3 trials", printed)
