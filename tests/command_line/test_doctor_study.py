"""`doctor STUDY`: what is wrong with each file, what was done, and whether the study is whole now."""

from __future__ import annotations

import shutil

import pytest

from reranker.data.assemble import RerankingData
from reranker.errors import InputError
from results.reporting.write_report import write_report
from results.sealed_test import read_test
from results.study.optuna_journal import Journal
from results.study.study_folder import StudyFolder
from tests.stored import Maker, keep_journal
from tune import doctor
from tune.launching.launch import begin_study
from tune.study_file.study import Study


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    made = Maker(tmp_path, "films").baseline("popularity", 0.5).trial(0.5).trial(1.5, learning_rate=1e-2).study
    return keep_journal(made)


def told(study: StudyFolder, capsys, *options: str) -> tuple[int, list[str]]:
    """The exit code, and the first words of each finding: what was done, and with which file."""
    code = doctor.main([str(study.path), *options])
    lines = capsys.readouterr().out.splitlines()
    return code, [" ".join(line.split()[:2]) for line in lines[:-1] if not line.startswith(" ")] + [lines[-1]]


def test_a_whole_study_is_left_as_it_is(study, capsys):
    before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*") if path.is_file()}
    assert told(study, capsys) == (0, ["films is whole"])
    assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*") if path.is_file()} == before


def test_each_file_is_told_with_what_was_done_and_then_all_is_well(study, capsys):
    (study.trial(0).path / "status.json").write_text("{}")
    (study.trial(1).path / "ranks.parquet").unlink()
    study.record_act("a first act")
    study.record_act("a second one")
    acts = study.path / "acts.jsonl"
    acts.write_text(acts.read_text().replace("a first", "a worst"))
    study.trial(1).add_note("a note")
    (study.trial(1).path / "notes.jsonl").write_bytes(b"\xff\n")
    with study.trial(1).keeping_state(5) as state:
        (state / "counters.json").write_text("{}")
    (study.trial(1).path / "state-5" / "counters.json").write_text("[]")
    code, lines = told(study, capsys)
    assert (code, lines) == (
        0,
        [
            "rebuilt trials/000/status.json",
            "rebuilt trials/001/ranks.parquet",
            "quarantined acts.jsonl",
            "quarantined trials/001/notes.jsonl",
            "quarantined trials/001/state-5",
            "films is whole",
        ],
    )
    assert [act["act"] for act in study.acts()] == ["a second one"]
    assert (study.path / "quarantine" / "trials" / "001" / "state-5").is_dir()
    assert told(study, capsys) == (0, ["films is whole"])


def test_what_is_lost_is_named_with_exit_code_1_until_it_is_left_out(study, capsys):
    (study.trial(1).path / "epochs.jsonl").unlink()
    code, lines = told(study, capsys)
    assert (code, lines) == (1, ["refused trials/001/epochs.jsonl", "films: a damaged file can't be mended"])
    assert told(study, capsys, "--leave-out", "1") == (0, ["films is whole"])


@pytest.mark.parametrize(("form", "left"), [(3, None), (4, None), (4, b""), (4, b'{"time')])
def test_a_lost_record_of_readings_seals_the_test_until_a_reason_is_given(study, capsys, form, left):
    study.write_manifest(study.read_manifest() | {"format": form})
    study.readings_file.unlink(missing_ok=True)
    if left is not None:
        study.readings_file.write_bytes(left)
    assert told(study, capsys) == (0, ["quarantined test_readings.jsonl", "films is whole"])
    assert study.readings() == []
    with pytest.raises(InputError, match="the record of the test's readings was lost, so the test may have been read"):
        read_test(study)
    assert told(study, capsys) == (0, ["films is whole"])


def test_a_reading_that_an_older_journal_lacks_is_added_to_it(study, capsys):
    reading = {"trial": 1, "time": "2026-11-24 12:00:00", "unseal": ""}
    older = study.journal.read_bytes()
    Journal(study.journal).remember_reading(reading)
    (study.path / "test_readings.jsonl").unlink(missing_ok=True)
    told(study, capsys)  # writes the file from the journal
    study.journal.write_bytes(older)
    assert told(study, capsys) == (0, ["rebuilt optuna.log", "films is whole"])
    assert Journal(study.journal).readings == study.readings() == [reading]


def test_a_leaderboard_that_is_cut_is_written_anew(study, capsys):
    write_report(study)
    whole = study.leaderboard.read_bytes()
    study.leaderboard.write_bytes(whole[:-20])
    assert told(study, capsys) == (0, ["rebuilt leaderboard.csv", "films is whole"])
    assert study.leaderboard.read_bytes() == whole


def test_baselines_that_are_lost_are_scored_again(tmp_path, capsys):
    named = {"name": "x", "trials": 1, "baselines": ["popularity", "markov"]}
    sections = {"study": named, "data": {"source": "demo", "users": 40}, "fixed": {"model": "demo-tiny"}}
    made = Study.load({**sections, "space": {"epochs": {"int": [1, 2]}}})
    study = begin_study(made, RerankingData.prepare(made.data).sealed(), tmp_path)
    before = study.baseline("markov").read_ranks()[1]
    shutil.rmtree(study.baseline("markov").path)
    assert told(study, capsys) == (0, ["rebuilt baselines/markov/ranks.parquet", "x is whole"])
    assert study.baseline("markov").read_ranks()[1].greater.tolist() == before.greater.tolist()


@pytest.mark.parametrize("words", [["--leave-out", "1"], ["films", "--quick"]])
def test_options_of_the_other_kind_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        doctor.main(words)
    assert ended.value.code == 2
