"""Draws that break a rule among knobs in the middle of a search: passed over and drawn again, so that it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import ValidationError

from reranker.config import TrialConfig
from results.study.optuna_journal import Journal
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import DRAWN
from tune.execution.trial_messages import Ending
from tune.searching.cost_estimate import estimate_cost
from tune.searching.optuna_searcher import make_sampler
from tune.searching.stop_rules import StopRules
from tune.searching.trial_lifecycle import TrialLife
from tune.searching.trial_store import TrialStore
from tune.study_file.study import Study

CLASHES = {  # token_ce with a teacher
    "objective": {"choice": ["label_ce", "token_ce"]},
    "teacher": {"choice": ["none", "item_knn"]},
}
RULE = "teacher must be none with objective: token_ce, which does not compare candidates"


def study(start_from: Iterable[dict[str, Any]] = (), sampler: str = "random") -> Study:
    settings = {"name": "a", "trials": 12, "seed": 5, "sampler": sampler, "start_from": list(start_from)}
    return Study.load({"study": settings, "data": {"source": "demo"}, "space": CLASHES})


def store(study: Study, folder: StudyFolder) -> TrialStore:
    return TrialStore(study, folder, partial(make_sampler, study))


def run(study: Study, folder: StudyFolder, trials: int | None = None) -> list[TrialConfig]:
    """The rest of the search, or so many trials of it; each trains one epoch."""
    trial_store = store(study, folder)
    trial_store.enqueue_first()
    life = TrialLife(trial_store, folder, study.metric)
    stop_rules = StopRules(study, folder, trial_store, say=lambda line: None)
    drawn: list[TrialConfig] = []
    while trials is None or len(drawn) < trials:
        going_on = trial_store.to_go_on_with()
        if not going_on and trial_store.asked() >= study.settings.trials:
            break
        assignment, origin = life.begin(going_on[0] if going_on else None)
        stop_rules.starts(assignment, origin)
        trial_store.report(assignment.number, 1, 0.5 + 0.01 * assignment.number)
        life.end(assignment.number, Ending(TrialStatus.COMPLETED))
        drawn.append(assignment.config)
    return drawn


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(tmp_path, "a")


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_has_all_its_trials_though_some_draws_are_none(folder, sampler):
    assert len(run(study(sampler=sampler), folder)) == 12
    assert len(folder.acts()) > 0
    assert {act["act"].split(" ", 2)[2] for act in folder.acts()} == {
        f"is no trial, for it breaks a rule among knobs: {RULE}"
    }
    trial_store = store(study(), folder)
    assert trial_store.failures() == 0
    assert trial_store.retry_failed() == trial_store.left() == []
    assert (
        sorted(number for number, _ in trial_store.ended())
        == folder.numbers()
        == sorted(Journal(folder.journal).trials())
    )


def test_a_search_that_is_gone_on_with_passes_over_the_same_draws(tmp_path, folder):
    undisturbed = run(study(), folder)
    broken = StudyFolder.create(tmp_path, "b")
    again = [config for _ in range(12) for config in run(study(), broken, 1)]
    assert again == undisturbed
    assert broken.numbers() == folder.numbers()


def test_a_search_that_was_killed_when_it_passed_over_a_draw_draws_it_again_once(tmp_path, folder, monkeypatch):
    undisturbed = run(study(), folder)
    broken = StudyFolder.create(tmp_path, "b")
    with monkeypatch.context() as killed:
        killed.setattr(optuna.Study, "tell", killed_by_failures(optuna.Study.tell))
        with pytest.raises(Killed):
            run(study(), broken)
    before = [TrialConfig.model_validate(trial.values) for trial in broken.trials()]
    assert before + run(study(), broken) == undisturbed
    assert broken.numbers() == folder.numbers()


class Killed(Exception):
    """In the place of a SIGKILL."""


def killed_by_failures(tell: Callable[..., Any]) -> Callable[..., Any]:
    def killed(study: optuna.Study, *args: Any, state: TrialState | None = None, **options: Any) -> Any:
        if state is TrialState.FAIL:
            raise Killed
        return tell(study, *args, state=state, **options)

    return killed


def test_what_was_given_of_a_start_point_is_kept_when_the_rest_is_drawn_again(folder):
    points = [{"objective": "token_ce"}] * 6
    started = run(study(points), folder, 6)
    assert {(config.objective, config.teacher) for config in started} == {("token_ce", "none")}
    assert len(folder.acts()) > 0


def test_a_whole_configuration_that_breaks_a_rule_is_not_tried_again(folder):
    trial_store = store(study(), folder)
    trial_store.enqueue({"objective": "token_ce", "teacher": "item_knn"}, DRAWN)
    assignment, _ = trial_store.ask()
    assert assignment.number > 0
    assert trial_store.passed_over[0] == f"draw 0 is no trial, for it breaks a rule among knobs: {RULE}"
    assert trial_store.waiting() == 0


def test_the_cost_is_that_of_the_draws_that_are_trials():
    with pytest.raises(ValidationError):
        TrialConfig(objective="token_ce", teacher="item_knn")
    assert estimate_cost(study()).most == 12 * study().max_epochs
