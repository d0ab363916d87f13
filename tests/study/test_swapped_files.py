"""Files that are whole, and another trial's or study's: none is taken for the study's own."""

from __future__ import annotations

import shutil

import pytest

from reranker.artifacts.adapter_files import write_facts
from reranker.storage.atomic_files import DamagedFile, append_line, write_json, write_yaml
from results.statistics.comparison import compare, winner
from results.study.checked_folder import check, check_readings
from results.study.damaged_file import Outcome
from results.study.optuna_journal import Journal
from results.study.side_files import inspect_side_files
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import Maker, keep_journal


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    made = Maker(tmp_path, "films").baseline("popularity", 0.5).trial(0.5).trial(1.5, learning_rate=1e-2).study
    made.write_manifest(made.read_manifest() | {"study": "study: {name: films}\ndata: {source: demo}\n"})
    return keep_journal(made)


def swap(study: StudyFolder, name: str) -> None:
    first, second = (study.trial(number).path / name for number in (0, 1))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def test_the_study_is_whole(study):
    assert check(study) == []


@pytest.mark.parametrize("name", ["config.json", "epochs.jsonl", "reports/0001.parquet"])
def test_files_of_two_trials_that_changed_places_are_refused_by_name(study, name):
    swap(study, name)
    with pytest.raises(Exception, match=name.rpartition("/")[2]) as caught:
        check(study)
    assert "trials/000" in str(caught.value)


def test_a_configuration_that_another_trial_s_has_replaced_is_rebuilt_from_the_adapter(study):
    own = study.trial(1).read_config()
    study.trial(1).adapter.mkdir()
    write_facts(study.trial(1).adapter, {"config": own.model_dump(mode="json")})
    shutil.copy(study.trial(0).path / "config.json", study.trial(1).path / "config.json")
    (sentence,) = check(study)
    assert "is not the configuration of trial 1; it was rebuilt from its adapter" in sentence
    assert study.trial(1).read_config() == own
    kept = study.path / "quarantine" / "trials" / "001" / "config.json"
    assert kept.read_bytes() == (study.trial(0).path / "config.json").read_bytes()


def test_in_an_older_study_a_configuration_that_is_not_the_adapter_s_is_refused(study, tmp_path):
    older = Maker(tmp_path / "older", "films").trial(0.5).trial(1.5, learning_rate=1e-2).study
    for number in (0, 1):
        older.trial(number).adapter.mkdir()
        write_facts(older.trial(number).adapter, {"config": older.trial(number).read_config().model_dump(mode="json")})
    swap(older, "config.json")
    with pytest.raises(Exception, match="is not the configuration of trial 0"):
        check(older)


def test_another_study_s_manifest_is_not_believed(study, tmp_path):
    other = Maker(tmp_path / "other", "books").study
    other.write_manifest(other.read_manifest() | {"fingerprint": "another", "metric": "recall_at_1"})
    before, best = study.read_manifest(), winner(study)
    assert best is not None
    shutil.copy(other.path / "manifest.json", study.path / "manifest.json")
    (sentence,) = check(study)
    assert "manifest.json has another fingerprint than the journal; it was rebuilt from the journal" in sentence
    again = winner(study)
    assert (study.read_manifest(), again and again.number) == ({**before, "name": "films"}, best.number)


def test_another_study_s_study_file_is_not_believed(study):
    text = study.study_file.read_text()
    write_yaml(study.study_file, "study: {name: books}\ndata: {source: demo, users: 77}\n")
    (sentence,) = check(study)
    assert "study.yaml is not the study of manifest.json; it was rebuilt from the manifest" in sentence
    assert study.study_file.read_text() == text


def test_what_a_later_launch_has_changed_survives_the_loss_of_the_manifest(study):
    later = "study: {name: films, trials: 20}\ndata: {source: demo}\n"
    write_yaml(study.study_file, later)
    (study.path / "manifest.json").unlink()
    assert len(check(study)) == 1
    assert study.read_manifest()["study"] == later


def test_a_training_state_of_another_trial_is_none(study):
    first, second = study.trial(0), study.trial(1)
    with first.keeping_state(5) as state:
        (state / "counters.json").write_text("{}")
    assert first.last_state() == first.path / "state-5"
    shutil.copytree(first.path / "state-5", second.path / "state-5")
    assert second.last_state() is None


def test_a_record_of_readings_that_is_another_s_is_no_record(study):
    reading = {"trial": 1, "time": "2026-11-24 12:00:00", "unseal": ""}
    Journal(study.journal).remember_reading(reading)
    append_line(study.path / "test_readings.jsonl", {**reading, "trial": 0})
    for look in (check, check_readings):
        with pytest.raises(DamagedFile, match="holds another reading of the test than the journal"):
            look(study)


def test_a_replicate_s_status_on_another_trial_is_not_believed(tmp_path):
    made = Maker(tmp_path, "films").trial(0.5).trial(1.5, learning_rate=1e-2)
    made.trial(0.7, learning_rate=1e-2, seed=1, origin="replicate of 1")
    study = keep_journal(made.study)
    before = present(present(compare(study)).winner)
    shutil.copy(study.trial(2).path / "status.json", study.trial(0).path / "status.json")
    (sentence,) = check(study)
    assert "says trial 0 (replicate of 1), the journal trial 0; it was rebuilt from the journal" in sentence
    assert [str(trial.origin) for trial in study.trials()] == ["", "", "replicate of 1"]
    after = present(present(compare(study)).winner)
    assert (after.number, after.name) == (before.number, before.name)


def test_an_ended_trial_that_its_status_says_is_not_is_put_right_once_no_search_runs(study):
    study.write_status(1, TrialStatus.CANCELLED)
    with study.locked():
        assert check(study) == []  # a search tells its journal first
    (sentence,) = check(study)
    assert "says interrupted, the journal completed; it was rebuilt from the journal" in sentence
    assert study.read_status(1)["status"] == "completed"


def test_another_trial_s_reports_before_its_own_are_refused(study):
    path = study.trial(0).path / "epochs.jsonl"
    path.write_bytes((study.trial(1).path / "epochs.jsonl").read_bytes() + path.read_bytes())
    with pytest.raises(DamagedFile, match=r"trials/000/epochs\.jsonl has report 1 more than once"):
        check(study)


KINDS = [
    ("ending.json", "manifest.json", "is another file: it lacks 'reason'; why the search ended is not known any more"),
    ("trials/000/status.json", "ending.json", "is another file: it lacks 'status'; it was rebuilt from the journal"),
]


@pytest.mark.parametrize(("name", "by", "said"), KINDS)
def test_a_whole_file_of_another_kind_is_rebuilt_and_said(study, name, by, said):
    shutil.copy(study.path / by, study.path / name)
    (sentence,) = check(study)
    assert sentence.startswith(f"{study.path / name} {said}")
    assert check(study) == []


def test_a_status_that_no_version_knows_is_damage(study):
    write_json(study.trial(0).path / "status.json", {"status": "gone", "cause": ""})
    (sentence,) = check(study)
    assert "status.json is damaged: status is 'gone'; it was rebuilt from the journal" in sentence


@pytest.mark.parametrize("name", ["left_out.jsonl", "test_readings.jsonl"])
def test_lines_of_another_kind_are_refused_by_name(study, name):
    shutil.copy(study.trial(0).path / "epochs.jsonl", study.path / name)
    with pytest.raises(DamagedFile, match=rf"{name} is another file in line 1: it lacks '(time|trial)'"):
        check(study)


def test_notes_that_are_another_file_are_told_and_put_aside(study):
    shutil.copy(study.trial(0).path / "epochs.jsonl", study.trial(0).path / "notes.jsonl")
    (note,) = study.trial(0).read_notes()
    assert note == "its notes are lost: notes.jsonl is another file in line 1: it lacks 'note'"
    (finding,) = inspect_side_files(study)
    assert (finding.outcome, finding.trial) == (Outcome.QUARANTINED, 0)
    assert study.trial(0).read_notes() == []
