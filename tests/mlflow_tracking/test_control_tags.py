"""What is asked of a search by tags in MLflow, on a real store."""

from __future__ import annotations

import re
import threading
import time

import pytest
from mlflow.tracking import MlflowClient

from reranker.errors import EnvironmentFault, Fault, InputError
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tests.tracked import Seen, deliver
from tune.mlflow_tracking.control_tags import ANSWER, CONTROL, obey
from tune.mlflow_tracking.tracker import Tracker


class Search:
    """Notes what it is asked, and answers."""

    def __init__(self, answer: str | Exception = "done") -> None:
        self.asked: list[tuple[str, int | None, str]] = []
        self.heard = threading.Event()
        self._answer = answer

    def __call__(self, act: str, *, trial: int | None, by: str) -> str:
        self.asked.append((act, trial, by))
        self.heard.set()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def ask_by_tag(study: StudyFolder, run: str, text: str, search: Search) -> str:
    """The answer's tag, without its time."""
    seen = Seen(study)
    run_id = seen.runs[run].info.run_id
    seen.client.set_tag(run_id, CONTROL, text)
    obey(seen.client, seen.experiment.experiment_id, seen.runs["study"].info.run_id, search)
    tags = seen.client.get_run(run_id).data.tags
    assert CONTROL not in tags, "it is done with"
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", tags[ANSWER])


def when_there(study: StudyFolder, run: str) -> Seen:
    """The store, as soon as a tracker in another thread has made that run; an experiment comes before its runs."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if MlflowClient(tracking_uri=tracking_uri_of(study)).get_experiment_by_name(study.name):
            seen = Seen(study)
            if run in seen.runs:
                return seen
        time.sleep(0.1)
    raise AssertionError(f"no run of {run} within a minute")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "text", "asked"),
    [
        ("1", "stop", ("stop", 1, "MLflow")),
        ("0", " Keep ", ("keep", 0, "MLflow")),
        ("study", "pause", ("pause", None, "MLflow")),
        ("0", "resume", ("resume", None, "MLflow")),
    ],
)
def test_a_tag_asks_the_search_and_is_answered(study, run, text, asked):
    deliver(study)
    search = Search("trial 1 stops")
    assert ask_by_tag(study, run, text, search) == f"{text.strip().lower()}: trial 1 stops"
    assert search.asked == [asked]


@pytest.mark.parametrize(
    ("run", "text", "answer"),
    [
        ("study", "stop", "stop: refused: stop must be set on the run of a trial"),
        ("popularity", "keep", "keep: refused: keep must be set on the run of a trial"),
        ("0", "explode", "explode: refused: control must be one of stop, keep, pause, resume"),
    ],
)
def test_what_cannot_be_asked_is_answered_and_not_handed_on(study, run, text, answer):
    deliver(study)
    search = Search()
    assert ask_by_tag(study, run, text, search) == answer
    assert search.asked == []


@pytest.mark.parametrize(
    "error", [InputError([Fault("trial 1 is not running; running: 0")]), EnvironmentFault("no search is running")]
)
def test_a_refusal_of_the_search_is_the_answer(study, error):
    deliver(study)
    assert ask_by_tag(study, "1", "stop", Search(error)) == f"stop: refused: {error}"


def test_a_running_tracker_looks_by_itself(study):
    search = Search()
    tracker = Tracker(study, study.read_manifest()["tracking_uri"], ask=search)
    with study.locked():
        tracker.start()
        tracker.nudge()
        seen = when_there(study, "0")
        seen.client.set_tag(seen.runs["0"].info.run_id, CONTROL, "stop")
        assert search.heard.wait(60)
    assert tracker.finish()
    assert search.asked == [("stop", 0, "MLflow")]
