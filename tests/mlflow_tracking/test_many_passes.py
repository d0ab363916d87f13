"""A mirror that is brought up again and again while a search runs: what has ended is not read again."""

from __future__ import annotations

import pytest

from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tests.tracked import Seen
from tune.mlflow_tracking.trials_to_runs import StudyMirror


def test_a_trial_that_has_ended_is_read_once_and_one_that_goes_on_is_followed(study, monkeypatch):
    study.write_status(1, TrialStatus.RUNNING)
    read, read_status = [], StudyFolder.read_status
    monkeypatch.setattr(
        StudyFolder, "read_status", lambda folder, number: read.append(number) or read_status(folder, number)
    )
    mirror = StudyMirror(study, tracking_uri_of(study))
    with study.locked():  # as by the search
        mirror.bring_up()
        assert set(read) == {0, 1, 2}
        read.clear()
        mirror.bring_up()
        assert set(read) == {1}
        study.write_status(1, TrialStatus.PRUNED)
        mirror.bring_up()
        read.clear()
        mirror.bring_up()
    assert not read
    assert Seen(study).tags("1")["status"] == "pruned"


def test_after_a_pass_that_failed_everything_is_looked_at_again(study, monkeypatch):
    mirror = StudyMirror(study, tracking_uri_of(study))
    mirror.bring_up()
    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_send_rankers", _fails)
        with pytest.raises(OSError, match="the store is down"):
            mirror.bring_up()
    study.write_status(1, TrialStatus.FAILED)  # as no search does: it shows that the folder is read
    mirror.bring_up()
    assert Seen(study).tags("1")["status"] == "failed"


def _fails(*args):
    raise OSError("the store is down")
