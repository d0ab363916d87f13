"""TrialStore, sampler, schedulers and budgets without Ray's processes: what is drawn, told, remembered and ended."""

from __future__ import annotations

import datetime as dt
import errno
import io
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from reranker.config import TrialConfig
from reranker.metrics import ranks_of_target
from reranker.storage.atomic_files import read_json, write_json
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_store
from results.study.trial_origin import DRAWN
from tune.execution.search_gauges import SearchGauges
from tune.execution.trial_messages import Assignment
from tune.launching.callbacks import SearchCallbacks
from tune.mirroring.mirror_thread import Trackers
from tune.mlflow_tracking.tracker import Tracker
from tune.searching import stop_pause_requests
from tune.searching.optuna_searcher import OptunaSearcher, make_sampler
from tune.searching.replicates import Replication
from tune.searching.schedulers import make_scheduler, replay
from tune.searching.stop_rules import StopRules
from tune.searching.trial_lifecycle import TrialLife
from tune.searching.trial_store import PastTrial, TrialStore
from tune.searching.warm_start import warm_start
from tune.study_file import loading
from tune.study_file.study import Study
from tune.study_file.trial_clock import progress
from tune.terminal.live_table import Progress
from tune.terminal.printed_lines import how_to_resume

SPACE = """
  epochs: {int: [1, 9]}
  learning_rate: {log_uniform: [1.0e-5, 1.0e-2]}
  lora_rank: {choice: [4, 8, 16]}
"""


def study_of(folder: Path, settings: str = "", space: str = SPACE, fixed: str = "{}") -> Study:
    path = folder / "study.yaml"
    path.write_text(
        f"study: {{name: a, trials: 12, seed: 5{settings and f', {settings}'}}}\n"
        f"data: {{source: demo}}\nfixed: {fixed}\nspace:{space}"
    )
    return loading.load(path)


def ledger_of(study: Study, folder: StudyFolder) -> TrialStore:
    return TrialStore(study, folder, partial(make_sampler, study))


def journal(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    trials: list[optuna.trial.FrozenTrial] = optuna.load_study(study_name="a", storage=storage).trials
    return trials


def score(config: TrialConfig) -> float:
    return 1 - abs(config.learning_rate - 1e-3) - 0.01 * config.lora_rank


def run(trial_store: TrialStore, folder: StudyFolder, trials: int) -> list[TrialConfig]:
    """Trials that train one epoch each and are complete then."""
    drawn = []
    for _ in range(trials):
        interrupted = trial_store.interrupted()
        assignment, origin = trial_store.ask(interrupted[0] if interrupted else None)
        number = assignment.number
        folder.start_trial(number, assignment.config, origin)
        trial_store.report(number, 1, score(assignment.config))
        trial_store.end(number, TrialStatus.COMPLETED)
        folder.write_status(number, TrialStatus.COMPLETED)
        drawn.append(assignment.config)
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_a_new_launch_draws_what_the_old_one_would_have_drawn(tmp_path, sampler):
    study = study_of(tmp_path, f"sampler: {sampler}")
    whole = StudyFolder.create(tmp_path, "whole")
    undisturbed = run(ledger_of(study, whole), whole, 6)
    broken = StudyFolder.create(tmp_path, "broken")
    again = [config for _ in range(6) for config in run(ledger_of(study, broken), broken, 1)]
    assert again == undisturbed
    assert len({config.learning_rate for config in again}) == 6


def test_a_trial_killed_between_two_draws_gets_the_knobs_it_would_have_got(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    whole, broken = StudyFolder.create(tmp_path, "whole"), StudyFolder.create(tmp_path, "broken")
    (expected,) = run(ledger_of(study, whole), whole, 1)
    with monkeypatch.context() as patched:
        patched.setattr("tune.study_file.distributions.Choice.sample", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger_of(study, broken).ask()
    trial_store = ledger_of(study, broken)
    assert trial_store.interrupted() == [0]
    assert trial_store.ask(0)[0].config == expected


def test_the_journal_survives_a_torn_line_and_a_lock_that_nobody_holds(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    run(ledger_of(study, folder), folder, 2)
    with folder.journal.open("ab") as file:
        file.write(b'{"op_code": 5, "trial')
    Path(f"{folder.journal}.lock").symlink_to(folder.journal)
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 1)
    assert [trial.state.name for trial in journal(folder)] == ["COMPLETE"] * 3


def test_every_state_is_told_as_it_is(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    for status in (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED, TrialStatus.CANCELLED):
        number = trial_store.ask()[0].number
        for epoch, value in enumerate([0.1, 0.3, 0.2], start=1):
            trial_store.report(number, epoch, value)
        trial_store.end(number, status)
    trials = journal(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert trials[0].value == 0.3  # its best epoch, not its last
    assert all(trial.intermediate_values == {1: 0.1, 2: 0.3, 3: 0.2} for trial in trials)
    assert ledger_of(study, folder).interrupted() == [3]


def test_folder_and_journal_agree_again_after_a_kill_between_them(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    for number in range(2):
        assignment, _ = trial_store.ask()
        folder.start_trial(assignment.number, assignment.config)
        folder.trial(number).append_report({"epoch": 1, "ndcg_at_10": 0.5})
    folder.write_status(0, TrialStatus.PRUNED)  # the journal was not told
    trial_store.report(1, 1, 0.5)
    trial_store.end(1, TrialStatus.COMPLETED)  # the folder was not told
    TrialLife(ledger_of(study, folder), folder, study.metric).reconcile()
    assert [trial.state.name for trial in journal(folder)] == ["PRUNED", "COMPLETE"]
    assert journal(folder)[0].intermediate_values == {1: 0.5}
    assert [folder.read_status(number)["status"] for number in (0, 1)] == ["pruned", "completed"]


def test_start_points_come_first_once_and_are_marked(tmp_path):
    study = study_of(tmp_path, "start_from: [{lora_rank: 4}, {lora_rank: 16, epochs: 9}]")
    folder = StudyFolder.create(tmp_path, "a")
    for _ in range(2):  # a second launch does not enqueue them again
        ledger_of(study, folder).enqueue_first()
    drawn = run(ledger_of(study, folder), folder, 3)
    assert [config.lora_rank for config in drawn[:2]] == [4, 16]
    assert [trial.name for trial in folder.trials()] == ["trial 0 (start_from)", "trial 1 (start_from)", "trial 2"]


def test_failed_trials_are_tried_again_once_with_the_same_knobs(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    assignment, _ = trial_store.ask()
    number, failed = assignment.number, assignment.config
    folder.start_trial(number, failed)
    trial_store.end(number, TrialStatus.FAILED)
    run(trial_store, folder, 1)
    assert trial_store.retry_failed() == [0]
    assert trial_store.retry_failed() == []
    assert run(trial_store, folder, 1) == [failed]
    assert trial_store.asked() == 2  # the repetition is beyond the study's number of trials
    assert [trial.name for trial in folder.trials()][2] == "trial 2 (retry of 0)"


def test_a_failed_replicate_is_tried_again_with_its_own_seed_and_judges_what_it_repeats(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 1)
    ranked(folder, [0.1])
    Replication(folder, top=1, seeds=1, say=lambda line: None).enqueue(trial_store)
    failed, _ = trial_store.ask()
    trial_store.end(failed.number, TrialStatus.FAILED)
    assert trial_store.retry_failed() == [failed.number]
    assert trial_store.retry_failed() == []
    again, origin = trial_store.ask()
    assert (again.config, str(origin)) == (failed.config, "replicate of 0")
    assert trial_store.is_replicate(again.number)


# Warm start


def config_of(trial: StoredTrial) -> TrialConfig:
    return TrialConfig.model_validate(trial.values)


def finished(folder: StudyFolder, study: Study, fingerprint: str) -> None:
    run(ledger_of(study, folder), folder, 6)
    for trial in folder.trials():
        folder.trial(trial.number).append_report({"epoch": 1, "ndcg_at_10": score(config_of(trial))})
    folder.write_manifest({"metric": "ndcg_at_10", "tags": {"data_fingerprint": fingerprint}})


def test_a_warm_start_gives_the_sampler_the_trials_that_lie_in_the_space(tmp_path):
    earlier = StudyFolder.create(tmp_path, "earlier")
    finished(earlier, study_of(tmp_path), "same")
    narrower = study_of(tmp_path, space=SPACE.replace("[4, 8, 16]", "[8, 16]"))
    inside = [trial for trial in earlier.trials() if config_of(trial).lora_rank != 4]
    folder = StudyFolder.create(tmp_path, "a")
    said = warm_start(narrower, ledger_of(narrower, folder), earlier, "same")
    assert 0 < len(inside) < 6
    assert f"{len(inside)} of 6 finished trials" in said
    assert f"{6 - len(inside)} for lora_rank" in said
    told = journal(folder)
    assert [trial.value for trial in told] == [pytest.approx(score(config_of(trial))) for trial in inside]
    assert ledger_of(narrower, folder).asked() == 0


def test_a_warm_start_from_other_data_tries_the_best_configurations_instead(tmp_path):
    earlier, study = StudyFolder.create(tmp_path, "earlier"), study_of(tmp_path)
    finished(earlier, study, "other")
    folder = StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    assert "the best 3 are tried first" in warm_start(study, trial_store, earlier, "same")
    best = sorted(map(config_of, earlier.trials()), key=score, reverse=True)[:3]
    assert run(trial_store, folder, 3) == best


# Schedulers


def curve(number: int, values: list[float], epochs: int = 9) -> PastTrial:
    config = TrialConfig(model="demo-tiny", epochs=epochs)
    assignment = Assignment(number, config, reports=tuple(enumerate(values, start=1)))
    return PastTrial(f"t{number}", assignment.as_tune_config)


def changed(past: PastTrial, **facts: Any) -> PastTrial:
    return PastTrial(past.trial_id, replace(Assignment.of(past.config), **facts).as_tune_config)


def fresh(past: PastTrial, known: int = 0) -> PastTrial:
    """The trial as Tune begins it, when so many of its reports are of an earlier launch."""
    return changed(past, reports=Assignment.of(past.config).reports[:known])


def result_of(study: Study, past: PastTrial, epoch: int) -> dict[str, Any]:
    assignment = Assignment.of(past.config)
    value = assignment.reports[epoch - 1][1]
    return {"epoch": epoch, "progress": progress(epoch, assignment.config.epochs), study.metric: value}


def decisions(scheduler: TrialScheduler, study: Study, past: PastTrial, known: int = 0) -> list[str]:
    """What the scheduler says to each report, up to the one that it stops the trial at."""
    trial, said = fresh(past, known), []
    scheduler.on_trial_add(None, trial)
    for epoch in range(1, len(Assignment.of(past.config).reports) + 1):
        said.append(scheduler.on_trial_result(None, trial, result_of(study, past, epoch)))
        if said[-1] == TrialScheduler.STOP:
            break
    return said


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_scheduler_remembers_the_trials_of_earlier_launches(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}")
    good = [curve(number, [0.5] * 9) for number in range(8)]
    unknowing, knowing = make_scheduler(study), make_scheduler(study)
    replay(knowing, good)
    bad = curve(8, [0.1] * 9)
    assert TrialScheduler.STOP not in decisions(unknowing, study, bad)
    assert TrialScheduler.STOP in decisions(knowing, study, bad)


@pytest.mark.parametrize(
    ("pace", "values", "stopped_at"),
    {
        "a slow learner goes on": (0.6, [0.40, 0.48, 0.54, 0.57, 0.60, 0.62, 0.64, 0.65, 0.66], None),
        "but not in plain ASHA": (0.0, [0.40, 0.48, 0.54], 1),
        "who is slow and low is stopped at the first rung": (0.6, [0.30, 0.33, 0.35], 1),
        "who has stopped learning is stopped at the next": (0.6, [0.42, 0.43, 0.43], 3),
    }.values(),
)
def test_who_is_behind_goes_on_if_it_is_catching_up(tmp_path, pace, values, stopped_at):
    study = study_of(tmp_path, f"asha: {{pace: {pace}}}")
    scheduler = make_scheduler(study)
    replay(scheduler, [curve(number, [0.55, 0.57] + [0.58] * 7) for number in range(8)])
    said = decisions(scheduler, study, curve(8, values))
    assert (len(said) if said[-1] == TrialScheduler.STOP else None) == stopped_at


def test_a_falling_loss_is_catching_up_too(tmp_path):
    study = study_of(tmp_path, "metric: val_loss")
    scheduler = make_scheduler(study)
    replay(scheduler, [curve(number, [1.9, 1.85] + [1.8] * 7) for number in range(8)])
    falling = [2.4, 2.2, 2.0, 1.9, 1.8, 1.7, 1.7, 1.7, 1.7]  # from ln 20 = 3.0
    assert TrialScheduler.STOP not in decisions(scheduler, study, curve(8, falling))
    assert decisions(scheduler, study, curve(9, [2.9, 2.8]))[0] == TrialScheduler.STOP


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_trial_that_was_asked_to_be_kept_is_not_stopped(tmp_path, scheduler):
    study, folder = study_of(tmp_path, f"scheduler: {scheduler}"), StudyFolder(tmp_path / "kept")
    folder.trial(8).path.mkdir(parents=True)
    folder.keep(8)
    judge = make_scheduler(study, is_kept=folder.is_kept)
    replay(judge, [curve(number, [0.5] * 9) for number in range(8)])
    assert TrialScheduler.STOP not in decisions(judge, study, curve(8, [0.1] * 9))
    assert TrialScheduler.STOP in decisions(judge, study, curve(9, [0.1] * 9))


def test_only_a_running_trial_can_be_kept(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    number = launch.begin()
    requests = [stop_pause_requests.Request(str(i), "keep", trial) for i, trial in enumerate((number, 7))]
    for request in requests:
        write_json(folder.control / f"{request.id}.request", asdict(request))
    launch.stop_rules.poll()
    answers = [read_json(folder.control / f"{request.id}.answer") for request in requests]
    assert [answer["accepted"] for answer in answers] == [True, False]
    assert answers[1]["text"] == f"trial 7 is not running; running: {number}"
    assert (folder.is_kept(number), folder.is_kept(7)) == (True, False)
    assert folder.acts()[-1]["act"] == f"{answers[0]['text']} (control)"


def test_without_a_scheduler_nothing_is_stopped(tmp_path):
    study = study_of(tmp_path, "scheduler: none")
    scheduler = make_scheduler(study)
    replay(scheduler, [curve(0, [0.5] * 9)])
    assert set(decisions(scheduler, study, curve(1, [0.1] * 9))) == {TrialScheduler.CONTINUE}


def test_with_a_decaying_schedule_trials_are_compared_at_the_same_share_of_their_epochs(tmp_path):
    study = study_of(tmp_path, fixed="{schedule: cosine}")
    scheduler = make_scheduler(study)
    replay(scheduler, [curve(0, [0.2, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])])
    # After one epoch of three it is where the long trial was after three of nine: it is held against .5, not .2.
    assert decisions(scheduler, study, curve(1, [0.3, 0.4], epochs=3))[0] == TrialScheduler.STOP


def rungs_of(scheduler: Any) -> list[list[list[float]]]:
    """What a scheduler judges by, bracket by bracket and rung by rung."""
    return [[sorted(recorded.values()) for _, recorded in bracket._rungs] for bracket in scheduler._brackets]


@pytest.mark.parametrize("kind", ["asha", "hyperband"])
def test_a_new_launch_judges_by_the_same_rungs_as_the_old_one(tmp_path, kind):
    """Two trials at a time, of which one fails, one is stopped and one goes on although it is behind."""
    study, folder = study_of(tmp_path, f"scheduler: {kind}"), StudyFolder.create(tmp_path, "a")
    trial_store, live = ledger_of(study, folder), make_scheduler(study)
    curves = [[0.5, 0.52, 0.54, 0.55], [0.55, 0.57, 0.58, 0.59], [0.40, 0.48, 0.54, 0.57], [0.1, 0.11]]
    for pair in ((0, 1), (2, 3)):
        trials = {}
        for number in pair:
            trial_store.enqueue({"epochs": 9}, DRAWN)
            assert trial_store.ask()[0].number == number
            trials[number] = fresh(curve(number, curves[number]))
            live.on_trial_add(None, trials[number])
        for epoch in range(1, 5):
            for number, trial in list(trials.items()):
                result = result_of(study, curve(number, curves[number]), epoch)
                said = live.on_trial_result(None, trial, result)
                trial_store.report(number, epoch, curves[number][epoch - 1])
                if said == TrialScheduler.STOP or epoch == 4:
                    status = {1: TrialStatus.FAILED}.get(number, TrialStatus.PRUNED)
                    trial_store.end(number, status)
                    if status is not TrialStatus.FAILED:
                        live.on_trial_complete(None, trial, result)
                    del trials[number]
    assert trial_store.ended()[-1] == (2, TrialStatus.PRUNED)
    again = make_scheduler(study)
    replay(again, ledger_of(study, folder).past())
    assert rungs_of(again) == rungs_of(live)
    assert sum(len(recorded) for bracket in rungs_of(live) for recorded in bracket) >= 4


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_an_interrupted_trial_is_not_judged_again_at_what_it_had_passed(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}, asha: {{pace: 0}}")
    late = make_scheduler(study)
    replay(late, [curve(number, [0.5] * 9) for number in range(8)])  # they overtook it before the search was killed
    said = decisions(late, study, curve(8, [0.1] * 9), known=2)
    assert said == [*[TrialScheduler.CONTINUE] * 2, TrialScheduler.STOP]


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median", "none"])
def test_a_report_between_two_epochs_decides_nothing(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}")
    knowing, trial = make_scheduler(study), fresh(curve(8, []))
    replay(knowing, [curve(number, [0.5] * 9) for number in range(8)])
    knowing.on_trial_add(None, trial)
    assert knowing.on_trial_result(None, trial, {"training_status": {"step": 3}}) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(("ceiling", "said"), [(None, "STOP"), (0.5, "CONTINUE")])
def test_on_retrieved_lists_a_trial_has_come_from_the_chance_that_they_leave(tmp_path, ceiling, said):
    study = study_of(tmp_path)
    scheduler = make_scheduler(study, ceiling)
    replay(scheduler, [curve(number, [0.6] * 9) for number in range(8)])
    # .40 is .17 above chance where each list holds its target, and .29 above it where half of them do.
    assert decisions(scheduler, study, curve(8, [0.4]))[0] == said


# Budgets


class Launch:
    """A launch of the search, without Ray: its ledger and its conductor."""

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.folder, self.said = folder, list[str]()
        self.trial_store = ledger_of(study, folder)
        self.trial_life = TrialLife(self.trial_store, folder, study.metric)
        self.trial_life.reconcile()
        self.stop_rules = StopRules(study, folder, self.trial_store, self.said.append)
        self.stop_rules.poll()

    def begin(self) -> int:
        assignment, origin = self.trial_life.begin()
        self.stop_rules.starts(assignment, origin)
        return assignment.number

    def end(self, status: TrialStatus, hits: int = 0) -> None:
        """A trial with so many of 100 targets in front."""
        number = self.begin()
        if status is not TrialStatus.FAILED:
            scores = [[1.0, 0.0]] * hits + [[0.0, 1.0]] * (100 - hits)
            ranks = ranks_of_target(scores, [0] * 100)
            self.folder.trial(number).keep_ranks([f"u{i}" for i in range(100)], ranks)
            self.folder.trial(number).append_report({"epoch": 1, "recall_at_1": hits / 100})
            self.trial_store.report(number, 1, hits / 100)
        self.trial_store.end(number, status)
        self.folder.write_status(number, status)
        self.stop_rules.ended(number, status)


def test_patience_ends_a_search_that_gains_no_more_than_the_noise(tmp_path):
    launch = Launch(study_of(tmp_path, "patience: 3, metric: recall_at_1"), StudyFolder.create(tmp_path, "a"))
    for hits in [30, 31, 50, 51, 52, 53]:  # one standard error is 5
        assert launch.stop_rules.ending == ""
        launch.end(TrialStatus.COMPLETED, hits)
    assert "3 trials in a row brought no gain above the noise" in launch.stop_rules.ending


def test_a_search_that_was_killed_runs_out_of_patience_where_an_undisturbed_one_does(tmp_path):
    study, folder = study_of(tmp_path, "patience: 3, metric: recall_at_1"), StudyFolder.create(tmp_path, "a")
    endings = []
    for hits in [30, 50, 51, 52, 53]:
        launch = Launch(study, folder)
        endings.append(launch.stop_rules.ending)
        launch.end(TrialStatus.COMPLETED, hits)
    assert endings == [""] * 5
    assert "3 trials in a row brought no gain above the noise" in launch.stop_rules.ending
    assert Launch(study, folder).stop_rules.ending == launch.stop_rules.ending


def test_replicates_do_not_try_the_patience(tmp_path):
    study, folder = study_of(tmp_path, "patience: 2, metric: recall_at_1"), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    launch.end(TrialStatus.COMPLETED, 50)
    launch.trial_store.replicate(next(folder.trials()), 3)
    for _ in range(3):
        launch.end(TrialStatus.COMPLETED, 50)
    assert [str(trial.origin) for trial in folder.trials()] == ["", *["replicate of 0"] * 3]
    assert launch.stop_rules.ending == ""
    assert Launch(study, folder).stop_rules.ending == ""


def test_too_many_failures_end_a_search_and_its_running_trials(tmp_path):
    study, folder = study_of(tmp_path, "max_failures: 2"), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    running = launch.begin()
    launch.end(TrialStatus.FAILED)
    assert launch.stop_rules.ending == ""
    launch.end(TrialStatus.FAILED)
    assert launch.stop_rules.ending.startswith("too many trials failed: 2")
    assert folder.asked_to_stop(running) == (TrialStatus.CANCELLED, launch.stop_rules.ending)


def test_failures_of_earlier_launches_count_until_they_are_tried_again(tmp_path):
    study, folder = study_of(tmp_path, "max_failures: 2"), StudyFolder.create(tmp_path, "a")
    Launch(study, folder).end(TrialStatus.FAILED)
    Launch(study, folder).end(TrialStatus.FAILED)
    assert Launch(study, folder).stop_rules.ending.startswith("too many trials failed: 2")
    assert ledger_of(study, folder).retry_failed() == [0, 1]
    assert Launch(study, folder).stop_rules.ending == ""


def test_the_end_of_the_time_stops_running_trials(tmp_path, monkeypatch):
    study, folder = study_of(tmp_path, "time_budget: 45s"), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    running = launch.begin()
    assert launch.stop_rules.ending == ""
    monkeypatch.setattr("tune.searching.stop_rules.time.monotonic", lambda: 10**9)
    launch.stop_rules.poll()
    assert launch.stop_rules.ending == "the time budget of 45s is used up"
    assert folder.asked_to_stop(running) == (TrialStatus.CANCELLED, launch.stop_rules.ending)


def test_the_order_in_which_trials_ended_and_the_time_that_is_left_do_not_depend_on_the_clock(tmp_path, monkeypatch):
    study, folder = study_of(tmp_path, "time_budget: 45s"), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    for day in (3, 1, 2):  # the clock is set back, and forward again
        with monkeypatch.context() as patched:
            patched.setattr("optuna.storages.journal._storage.datetime", ClockAt(day))
            patched.setattr("time.time", lambda day=day: day * 86_400.0)
            launch.end(TrialStatus.COMPLETED)
            launch.stop_rules.poll()
    assert [trial.datetime_complete.day for trial in journal(folder)] == [3, 1, 2]
    assert launch.trial_store.ended() == [(number, TrialStatus.COMPLETED) for number in range(3)]
    assert launch.stop_rules.ending == ""


class ClockAt:
    """`datetime` of a machine whose clock stands on this day."""

    def __init__(self, day: int) -> None:
        self.datetime = self
        self.day = day

    def now(self, tz: dt.tzinfo) -> dt.datetime:
        return dt.datetime(2026, 1, self.day, tzinfo=tz)

    def __getattr__(self, name: str) -> Any:
        return getattr(dt.datetime, name)


def test_a_search_that_was_killed_while_it_was_paused_goes_on_and_says_so(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    folder.control.mkdir()
    folder.paused.touch()
    launch = Launch(study, folder)
    assert not launch.stop_rules.paused
    assert launch.said == ["the search was paused when it ended; it goes on now"]
    assert [act["act"] for act in folder.acts()] == ["resumed: the search was paused when it ended"]


def test_a_trial_that_was_to_be_pruned_when_the_search_was_killed_is_pruned(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    number = launch.begin()
    folder.trial(number).append_report({"epoch": 1, "ndcg_at_10": 0.25})
    launch.trial_store.decide(number, TrialStatus.PRUNED)
    later = Launch(study, folder)
    assert later.trial_store.interrupted() == []
    assert [(trial.state.name, trial.intermediate_values) for trial in journal(folder)] == [("PRUNED", {1: 0.25})]
    assert folder.read_status(number)["status"] == "pruned"


def test_what_an_earlier_launch_left_running_is_marked_when_this_one_ends_before_it_went_on(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    number = Launch(study, folder).begin()  # and then killed
    later, console = Launch(study, folder), Console(file=io.StringIO())
    trackers = Trackers([Tracker(folder, local_store(folder))])
    with Progress(study, console) as shown:
        gauges = SearchGauges(study)
        SearchCallbacks(later.trial_life, shown, gauges, trackers, later.stop_rules, study.knobs).close()
    assert folder.read_status(number)["status"] == "interrupted"
    assert later.trial_store.interrupted() == [number]


def test_the_cause_of_a_failure_that_the_folder_could_not_take_is_in_the_journal(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    search = searcher_of(Launch(study, folder), study)
    search.suggest("t0")
    search.on_trial_complete("t0", {"ended": "failed", "cause": "diverged in epoch 1", "ours": True})
    Launch(study, folder)
    status = folder.read_status(0)
    assert (status["status"], status["cause"], status["ours"]) == ("failed", "diverged in epoch 1", True)


def test_a_search_that_a_limit_has_ended_is_gone_on_with_by_raising_it(tmp_path):
    study, folder = study_of(tmp_path, "max_failures: 1"), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    launch.end(TrialStatus.FAILED)
    assert how_to_resume(folder, launch.stop_rules.close()).endswith(
        f"--resume {folder.path} --set study.max_failures=N"
    )
    higher = study_of(tmp_path, "max_failures: 2")
    assert Launch(higher, folder).stop_rules.ending == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ActorDiedError(), "the process that waits for a trial's workers was killed"),
        (OutOfMemoryError("low on memory"), "the host is short of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk"),
    ],
)
def test_what_ends_tune_s_loop_is_told_and_leaves_what_runs_to_go_on(tmp_path, error, said):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    number = launch.begin()
    with launch.stop_rules.minding_the_machine():
        raise error
    assert launch.stop_rules.close().startswith("a fault of the machine: ")
    assert said in folder.read_ending()["reason"]
    assert Launch(study, folder).trial_store.interrupted() == [number]


def test_a_fault_of_the_machine_in_the_last_trials_leaves_the_search_unfinished(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    numbers = [launch.begin() for _ in range(study.settings.trials)]
    with launch.stop_rules.minding_the_machine():
        launch.stop_rules.machine_failed("Ray's process gcs_server is gone")
    assert launch.stop_rules.close() == "a fault of the machine: Ray's process gcs_server is gone"
    assert not folder.read_ending()["complete"]
    assert Launch(study, folder).trial_store.to_go_on_with() == numbers


def test_a_bug_in_the_search_is_nobody_else_s_fault(tmp_path):
    launch = Launch(study_of(tmp_path), StudyFolder.create(tmp_path, "a"))
    with pytest.raises(KeyError), launch.stop_rules.minding_the_machine():
        raise KeyError("a bug")


def searcher_of(
    launch: Launch, study: Study, replication: Replication | None = None, room: Callable[[], int] = lambda: 64
) -> OptunaSearcher:
    return OptunaSearcher(study, launch.trial_store, launch.trial_life, launch.stop_rules, replication, room)


def test_no_more_trials_begin_than_there_is_room_for_and_more_once_a_node_has_joined(tmp_path):
    study, room = study_of(tmp_path), 1
    search = searcher_of(Launch(study, StudyFolder.create(tmp_path, "a")), study, room=lambda: room)
    assert suggested(search, "first").number == 0
    assert search.suggest("second") is None
    room = 2
    assert suggested(search, "second").number == 1


def suggested(search: OptunaSearcher, trial_id: str) -> Assignment:
    config = search.suggest(trial_id)
    assert isinstance(config, dict)
    return Assignment.of(config)


def test_a_slot_whose_process_is_gone_leaves_its_trial_to_go_on(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    search = searcher_of(Launch(study, folder), study)
    begun = suggested(search, "t0")
    search.on_trial_result("t0", {"epoch": 1, "ndcg_at_10": 0.5})
    search.on_trial_complete("t0", error=True)
    assert [trial.state.name for trial in journal(folder)] == ["RUNNING"]
    later = suggested(searcher_of(Launch(study, folder), study), "t1")
    assert later == replace(begun, reports=((1, 0.5),))


@pytest.mark.parametrize("settings", ["", "sampler: grid, "])
def test_out_of_patience_only_replicates_begin(tmp_path, settings):
    study = study_of(
        tmp_path, f"{settings}patience: 1, metric: recall_at_1", space="\n  lora_rank: {choice: [4, 8, 16]}"
    )
    folder = StudyFolder.create(tmp_path, "a")
    launch = Launch(study, folder)
    launch.trial_store.enqueue_first()
    search = searcher_of(launch, study, Replication(folder, top=1, seeds=1, say=launch.said.append))
    running = suggested(search, "t0").number
    launch.end(TrialStatus.COMPLETED, 50)
    if settings:
        assert launch.trial_store.waiting() == 1  # a point of the grid
    folder.write_manifest({"metric": "recall_at_1", "knobs": [], "references": {}})
    launch.stop_rules._since_best = 1
    launch.stop_rules._hold_to_limits()
    search.on_trial_complete("t0", {"ended": "cancelled"})
    folder.write_status(running, TrialStatus.CANCELLED)
    replicate = suggested(search, "t1")
    assert replicate.to_the_end
    assert str(launch.stop_rules.origin(replicate.number)) == "replicate of 1"
    launch.stop_rules._signalled = True  # Ctrl-C
    assert search.suggest("t2") == "FINISHED"
    assert launch.stop_rules.ending == "interrupted"
    assert folder.asked_to_stop(replicate.number) == (TrialStatus.CANCELLED, "interrupted")


# Replicates


def ranked(folder: StudyFolder, ndcg: list[float]) -> None:
    """Finished trials' figures, as their workers leave them."""
    for number, score_of_trial in enumerate(ndcg):
        folder.trial(number).append_report({"epoch": 1, "ndcg_at_10": score_of_trial, "seconds": 1.0})
    folder.write_manifest({"metric": "ndcg_at_10", "knobs": [], "references": {}})


def test_the_best_are_repeated_with_other_seeds_and_nothing_else_of_them_changes(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    drawn = run(trial_store, folder, 3)
    ranked(folder, [0.1, 0.3, 0.2])
    said: list[str] = []
    assert Replication(folder, top=2, seeds=2, say=said.append).enqueue(trial_store) == 4
    again = [trial_store.ask() for _ in range(4)]
    assert [(str(origin), assignment.config.seed) for assignment, origin in again] == [
        ("replicate of 1", 1), ("replicate of 1", 2), ("replicate of 2", 1), ("replicate of 2", 2)
    ]  # fmt: skip
    for original, (assignment, _) in zip((1, 1, 2, 2), again, strict=True):
        assert assignment.config.model_copy(update={"seed": 0}) == drawn[original]
        assert trial_store.is_replicate(assignment.number)
    assert not trial_store.is_replicate(1)
    assert said == ["the best again with other seeds, 4 trainings: trial 1, trial 2"]


def test_a_trial_that_was_stopped_before_all_lists_were_scored_is_not_repeated(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 2)
    ranked(folder, [0.3])
    on_a_part = {"epoch": 0.25, "report": 1, "ndcg_at_10": 0.5, "seconds": 1.0, "scored_share": 0.25}
    folder.trial(1).append_report(on_a_part)
    assert Replication(folder, top=1, seeds=1, say=lambda line: None).enqueue(trial_store) == 1
    _, origin = trial_store.ask()
    assert str(origin) == "replicate of 0"


def test_replicates_are_asked_for_once_and_a_later_launch_asks_for_what_is_missing(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 2)
    ranked(folder, [0.1, 0.3])
    replication = Replication(folder, top=1, seeds=2, say=lambda line: None)
    assert [replication.enqueue(trial_store), replication.enqueue(trial_store)] == [2, 0]
    later = ledger_of(study, folder)
    assert Replication(folder, top=1, seeds=3, say=lambda line: None).enqueue(later) == 1
    assert later.waiting() == 3


def test_a_second_replication_is_for_others_that_could_be_the_best_and_not_for_those_that_had_theirs(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 5)
    ranked(folder, [0.60, 0.59, 0.58, 0.20, 0.10])
    assert Replication(folder, top=1, seeds=2, say=lambda line: None).enqueue(trial_store) == 2
    run(trial_store, folder, 2)
    for number, score_of_trial in {5: 0.61, 6: 0.57}.items():
        folder.trial(number).append_report({"epoch": 1, "ndcg_at_10": score_of_trial, "seconds": 1.0})
    later, said = ledger_of(study, folder), list[str]()
    assert Replication(folder, top=5, seeds=2, say=said.append).enqueue(later) == 4
    assert said == ["the best again with other seeds, 4 trainings: trial 1, trial 2"]  # trials 3 and 4 are far behind


def test_a_launch_that_goes_on_with_replicates_asks_for_no_others(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 3)
    ranked(folder, [0.60, 0.59, 0.58])
    Replication(folder, top=1, seeds=2, say=lambda line: None).enqueue(trial_store)
    later = ledger_of(study, folder)
    again = Replication(folder, top=1, seeds=2, say=lambda line: None)
    again.begin(later)
    assert again.enqueue(later) == 0


def test_replicates_do_not_count_towards_the_study_s_trials_and_keep_their_seed_when_they_go_on(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    trial_store = ledger_of(study, folder)
    run(trial_store, folder, 1)
    ranked(folder, [0.1])
    Replication(folder, top=1, seeds=1, say=lambda line: None).enqueue(trial_store)
    number = trial_store.ask()[0].number
    assert trial_store.asked() == 1
    later = ledger_of(study, folder)
    assert later.interrupted() == [number]
    assert later.ask(number)[0].config.seed == 1


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_no_scheduler_stops_a_replicate(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}")
    knowing = make_scheduler(study)
    replay(knowing, [curve(number, [0.5] * 9) for number in range(8)])
    poor = changed(curve(8, [0.1] * 9), to_the_end=True)
    assert decisions(knowing, study, poor) == [TrialScheduler.CONTINUE] * 9
    knowing.on_trial_complete(None, poor, {"epoch": 9, "progress": 100.0, "ndcg_at_10": 0.1})


def test_asha_does_not_judge_others_by_replicates(tmp_path):
    study = study_of(tmp_path, "asha: {pace: 0}")
    knowing = make_scheduler(study)
    replay(knowing, [changed(curve(number, [0.9] * 9), to_the_end=True) for number in range(8)])
    assert TrialScheduler.STOP not in decisions(knowing, study, curve(8, [0.1] * 9))
