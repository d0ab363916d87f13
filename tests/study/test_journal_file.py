"""Optuna's journal with checksums: what a disk has changed is found, and other programs read it as before."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from reranker.storage.atomic_files import DamagedFile
from results.study.journal_file import storage
from results.study.optuna_journal import Journal, create_journal, repair


@pytest.fixture
def journal(tmp_path) -> Path:
    path = tmp_path / "optuna.log"
    create_journal(path, "films", minimise=False, manifest={"name": "films"})
    study = optuna.load_study(study_name=None, storage=storage(path))
    trial = study.ask({"lora_rank": optuna.distributions.IntDistribution(4, 16)})
    trial.report(0.3125, 1)
    study.tell(trial, 0.3125)
    return path


def test_what_is_written_is_read(journal):
    (trial,) = Journal(journal).trials().values()
    assert (trial.state, trial.reports) == ("complete", {1: 0.3125})
    assert all("checksum" in json.loads(line) for line in journal.read_text().splitlines())


def test_a_trial_of_more_than_nine_reports_that_is_taken_over_whole_is_read(journal):
    reports = {number: number / 16 for number in range(1, 13)}
    study = optuna.load_study(study_name=None, storage=storage(journal))
    study.add_trial(optuna.trial.create_trial(value=0.75, intermediate_values=reports))
    assert Journal(journal).trials()[1].reports == reports


def test_a_score_that_is_another_one_is_damage_in_a_line_that_is_named(journal):
    text = journal.read_text()
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if "0.3125" in line)
    journal.write_text(text.replace("0.3125", "0.9125", 1))
    with pytest.raises(DamagedFile, match=rf"optuna\.log is damaged: line {line} is not what was written"):
        Journal(journal)


def test_lines_without_a_checksum_are_taken_as_they_are(journal):
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(line | {"checksum": None}) + "\n" for line in lines))
    (trial,) = Journal(journal).trials().values()
    assert trial.reports == {1: 0.3125}


def test_optuna_s_own_reader_takes_it(journal):
    (trial,) = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(journal)))).trials
    assert trial.value == 0.3125


@pytest.mark.parametrize("rest", [b'{"op_code": 4, "tr', b'{"op_code": 4, "tr\n', b"\x00\x00\x00\n"])
def test_a_last_line_that_is_none_is_cut_off_before_another_follows(journal, rest):
    whole = journal.read_bytes()
    journal.write_bytes(whole + rest)
    repair(journal)
    assert journal.read_bytes() == whole
