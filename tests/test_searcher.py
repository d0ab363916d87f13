"""Ledger, sampler, schedulers and budgets without Ray's processes: what is drawn, told, remembered and ended."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import TrialScheduler

from reranker.metrics import ranks_of_target
from results.study_folder import StudyFolder, TrialStatus
from tune import search_space
from tune.conductor import Conductor
from tune.ledger import Ledger, PastTrial
from tune.replication import Replication
from tune.schedulers import make_scheduler, progress, replay
from tune.search_space import Study
from tune.searcher import make_sampler
from tune.warm_start import warm_start

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
    return search_space.load(path)


def ledger_of(study: Study, folder: StudyFolder) -> Ledger:
    return Ledger(study, folder, lambda number: make_sampler(study, number))


def journal(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    trials: list[optuna.trial.FrozenTrial] = optuna.load_study(study_name="a", storage=storage).trials
    return trials


def score(values: dict) -> float:
    return 1 - abs(values["learning_rate"] - 1e-3) - 0.01 * values["lora_rank"]


def run(ledger: Ledger, folder: StudyFolder, trials: int) -> list[dict]:
    """Trials that train one epoch each and are complete then."""
    drawn = []
    for _ in range(trials):
        interrupted = ledger.interrupted()
        number, values, origin = ledger.ask(interrupted[0] if interrupted else None)
        folder.start_trial(number, values, origin)
        ledger.report(number, 1, score(values))
        ledger.end(number, TrialStatus.COMPLETED)
        folder.write_status(number, TrialStatus.COMPLETED)
        drawn.append(values)
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_a_new_launch_draws_what_the_old_one_would_have_drawn(tmp_path, sampler):
    study = study_of(tmp_path, f"sampler: {sampler}")
    whole = StudyFolder.create(tmp_path, "whole")
    undisturbed = run(ledger_of(study, whole), whole, 6)
    broken = StudyFolder.create(tmp_path, "broken")
    again = [values for _ in range(6) for values in run(ledger_of(study, broken), broken, 1)]
    assert again == undisturbed
    assert len({values["learning_rate"] for values in again}) == 6


def test_a_trial_killed_between_two_draws_gets_the_knobs_it_would_have_got(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    whole, broken = StudyFolder.create(tmp_path, "whole"), StudyFolder.create(tmp_path, "broken")
    (expected,) = run(ledger_of(study, whole), whole, 1)
    with monkeypatch.context() as patched:
        patched.setattr("tune.distributions.Choice.sample", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger_of(study, broken).ask()
    ledger = ledger_of(study, broken)
    assert ledger.interrupted() == [0]
    assert ledger.ask(0)[1] == expected


def test_the_journal_survives_a_torn_line_and_a_lock_that_nobody_holds(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    run(ledger_of(study, folder), folder, 2)
    with folder.journal.open("ab") as file:
        file.write(b'{"op_code": 5, "trial')
    Path(f"{folder.journal}.lock").symlink_to(folder.journal)
    ledger = ledger_of(study, folder)
    run(ledger, folder, 1)
    assert [trial.state.name for trial in journal(folder)] == ["COMPLETE"] * 3


def test_every_state_is_told_as_it_is(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    for status in (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED, TrialStatus.CANCELLED):
        number, _, _ = ledger.ask()
        for epoch, value in enumerate([0.1, 0.3, 0.2], start=1):
            ledger.report(number, epoch, value)
        ledger.end(number, status)
    trials = journal(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert trials[0].value == 0.3  # its best epoch, not its last
    assert all(trial.intermediate_values == {1: 0.1, 2: 0.3, 3: 0.2} for trial in trials)
    assert ledger_of(study, folder).interrupted() == [3]


def test_folder_and_journal_agree_again_after_a_kill_between_them(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    for number in range(2):
        folder.start_trial(*ledger.ask()[:2])
        folder.trial(number).append_epoch({"epoch": 1, "ndcg_at_10": 0.5})
    folder.write_status(0, TrialStatus.PRUNED)  # the journal was not told
    ledger.report(1, 1, 0.5)
    ledger.end(1, TrialStatus.COMPLETED)  # the folder was not told
    ledger_of(study, folder).reconcile()
    assert [trial.state.name for trial in journal(folder)] == ["PRUNED", "COMPLETE"]
    assert journal(folder)[0].intermediate_values == {1: 0.5}
    assert [folder.read_status(number)["status"] for number in (0, 1)] == ["pruned", "completed"]


def test_start_points_come_first_once_and_are_marked(tmp_path):
    study = study_of(tmp_path, "start_from: [{lora_rank: 4}, {lora_rank: 16, epochs: 9}]")
    folder = StudyFolder.create(tmp_path, "a")
    for _ in range(2):  # a second launch does not enqueue them again
        ledger_of(study, folder).enqueue_first()
    drawn = run(ledger_of(study, folder), folder, 3)
    assert [values["lora_rank"] for values in drawn[:2]] == [4, 16]
    assert [trial.name for trial in folder.trials()] == ["trial 0 (start_from)", "trial 1 (start_from)", "trial 2"]


def test_failed_trials_are_tried_again_once_with_the_same_knobs(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    number, failed, _ = ledger.ask()
    folder.start_trial(number, failed)
    ledger.end(number, TrialStatus.FAILED)
    run(ledger, folder, 1)
    assert ledger.retry_failed() == [0]
    assert ledger.retry_failed() == []
    assert run(ledger, folder, 1) == [failed]
    assert ledger.asked() == 2  # the repetition is beyond the study's number of trials
    assert [trial.name for trial in folder.trials()][2] == "trial 2 (retry of 0)"


def test_a_failed_replicate_is_tried_again_with_its_own_seed_and_judges_what_it_repeats(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    run(ledger, folder, 1)
    ranked(folder, [0.1])
    Replication(folder, top=1, seeds=1, say=lambda line: None).enqueue(ledger)
    failed = ledger.ask()
    ledger.end(failed[0], TrialStatus.FAILED)
    assert ledger.retry_failed() == [failed[0]]
    assert ledger.retry_failed() == []
    number, values, origin = ledger.ask()
    assert (values, origin) == (failed[1], "replicate of 0")
    assert ledger.is_replicate(number)


# Warm start


def finished(folder: StudyFolder, study: Study, fingerprint: str) -> None:
    run(ledger_of(study, folder), folder, 6)
    for trial in folder.trials():
        folder.trial(trial.number).append_epoch({"epoch": 1, "ndcg_at_10": score(trial.values)})
    manifest = {"metric": "ndcg_at_10", "tags": {"data_fingerprint": fingerprint}}
    folder.write_manifest(manifest)


def test_a_warm_start_gives_the_sampler_the_trials_that_lie_in_the_space(tmp_path):
    earlier = StudyFolder.create(tmp_path, "earlier")
    finished(earlier, study_of(tmp_path), "same")
    narrower = study_of(tmp_path, space=SPACE.replace("[4, 8, 16]", "[8, 16]"))
    inside = [trial for trial in earlier.trials() if trial.values["lora_rank"] != 4]
    folder = StudyFolder.create(tmp_path, "a")
    said = warm_start(narrower, ledger_of(narrower, folder), earlier, "same")
    assert 0 < len(inside) < 6
    assert f"{len(inside)} of 6 finished trials" in said
    assert f"{6 - len(inside)} for lora_rank" in said
    told = journal(folder)
    assert [trial.value for trial in told] == [pytest.approx(score(trial.values)) for trial in inside]
    assert ledger_of(narrower, folder).asked() == 0


def test_a_warm_start_from_other_data_tries_the_best_configurations_instead(tmp_path):
    earlier, study = StudyFolder.create(tmp_path, "earlier"), study_of(tmp_path)
    finished(earlier, study, "other")
    folder = StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    assert "the best 3 are tried first" in warm_start(study, ledger, earlier, "same")
    best = sorted((trial.values for trial in earlier.trials()), key=score, reverse=True)[:3]
    assert run(ledger, folder, 3) == best


# Schedulers


def curve(number: int, values: list[float], epochs: int = 9) -> PastTrial:
    reports = dict(enumerate(values, start=1))
    return PastTrial(f"t{number}", {"number": number, "values": {"epochs": epochs}, "to_the_end": False}, reports)


def decisions(scheduler: TrialScheduler, study: Study, past: PastTrial) -> list[str]:
    """What the scheduler says to each report, up to the one that it stops the trial at."""
    scheduler.on_trial_add(None, past)
    epochs, said = past.config["values"]["epochs"], []
    for epoch, value in past.reports.items():
        result = {"epoch": epoch, "progress": progress(epoch, epochs), study.metric: value}
        said.append(scheduler.on_trial_result(None, past, result))
        if said[-1] == TrialScheduler.STOP:
            break
    return said


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_scheduler_remembers_the_trials_of_earlier_launches(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}")
    good = [curve(number, [0.5] * 9) for number in range(8)]
    fresh, knowing = make_scheduler(study), make_scheduler(study)
    replay(knowing, study, good)
    bad = curve(8, [0.1] * 9)
    assert TrialScheduler.STOP not in decisions(fresh, study, bad)
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
    replay(scheduler, study, [curve(number, [0.55, 0.57] + [0.58] * 7) for number in range(8)])
    said = decisions(scheduler, study, curve(8, values))
    assert (len(said) if said[-1] == TrialScheduler.STOP else None) == stopped_at


def test_a_falling_loss_is_catching_up_too(tmp_path):
    study = study_of(tmp_path, "metric: val_loss")
    scheduler = make_scheduler(study)
    replay(scheduler, study, [curve(number, [1.9, 1.85] + [1.8] * 7) for number in range(8)])
    falling = [2.4, 2.2, 2.0, 1.9, 1.8, 1.7, 1.7, 1.7, 1.7]  # from ln 20 = 3.0
    assert TrialScheduler.STOP not in decisions(scheduler, study, curve(8, falling))
    assert decisions(scheduler, study, curve(9, [2.9, 2.8]))[0] == TrialScheduler.STOP


def test_without_a_scheduler_nothing_is_stopped(tmp_path):
    study = study_of(tmp_path, "scheduler: none")
    scheduler = make_scheduler(study)
    replay(scheduler, study, [curve(0, [0.5] * 9)])
    assert set(decisions(scheduler, study, curve(1, [0.1] * 9))) == {TrialScheduler.CONTINUE}


def test_with_a_decaying_schedule_trials_are_compared_at_the_same_share_of_their_epochs(tmp_path):
    study = study_of(tmp_path, fixed="{schedule: cosine}")
    scheduler = make_scheduler(study)
    replay(scheduler, study, [curve(0, [0.2, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])])
    # After one epoch of three it is where the long trial was after three of nine: it is held against .5, not .2.
    assert decisions(scheduler, study, curve(1, [0.3, 0.4], epochs=3))[0] == TrialScheduler.STOP


# Budgets


def conductor_of(folder: StudyFolder, study: Study) -> Conductor:
    return Conductor(study, folder, ledger_of(study, folder), lambda line: None)


def end(
    conductor: Conductor, folder: StudyFolder, number: int, status: TrialStatus, hits: int = 0, origin: str = ""
) -> None:
    """A trial with so many of 100 targets in front."""
    conductor.starts(number, {}, origin)
    if status is not TrialStatus.FAILED:
        scores = [[1.0, 0.0]] * hits + [[0.0, 1.0]] * (100 - hits)
        ranks = ranks_of_target(scores, [0] * 100)
        folder.trial(number).keep_ranks([f"u{i}" for i in range(100)], ranks)
        folder.trial(number).append_epoch({"epoch": 1, "recall_at_1": hits / 100})
    conductor.ended(number, status)


def test_patience_ends_a_search_that_gains_no_more_than_the_noise(tmp_path):
    study = study_of(tmp_path, "patience: 3, metric: recall_at_1")
    folder = StudyFolder.create(tmp_path, "a")
    conductor = conductor_of(folder, study)
    for number, hits in enumerate([30, 31, 50, 51, 52, 53]):  # one standard error is 5
        assert conductor.ending == ""
        end(conductor, folder, number, TrialStatus.COMPLETED, hits)
    assert "3 trials in a row brought no gain above the noise" in conductor.ending


def test_replicates_do_not_try_the_patience(tmp_path):
    study, folder = study_of(tmp_path, "patience: 2, metric: recall_at_1"), StudyFolder.create(tmp_path, "a")
    conductor = conductor_of(folder, study)
    end(conductor, folder, 0, TrialStatus.COMPLETED, 50)
    for number in (1, 2, 3):
        end(conductor, folder, number, TrialStatus.COMPLETED, 50, origin="replicate of 0")
    assert conductor.ending == ""


def test_too_many_failures_end_a_search_and_its_running_trials(tmp_path):
    study, folder = study_of(tmp_path, "max_failures: 2"), StudyFolder.create(tmp_path, "a")
    conductor = conductor_of(folder, study)
    conductor.starts(9, {}, "")
    end(conductor, folder, 0, TrialStatus.FAILED)
    assert conductor.ending == ""
    end(conductor, folder, 1, TrialStatus.FAILED)
    assert conductor.ending.startswith("too many trials failed: 2")
    assert folder.asked_to_stop(9) == (TrialStatus.CANCELLED, conductor.ending)


def test_the_end_of_the_time_stops_running_trials(tmp_path, monkeypatch):
    study, folder = study_of(tmp_path, "time_budget: 45s"), StudyFolder.create(tmp_path, "a")
    conductor = conductor_of(folder, study)
    conductor.starts(0, {}, "")
    conductor.poll()
    assert conductor.ending == ""
    monkeypatch.setattr("tune.conductor.time.monotonic", lambda: 10**9)
    conductor.poll()
    assert conductor.ending == "the time budget of 45s is used up"
    assert folder.asked_to_stop(0) == (TrialStatus.CANCELLED, conductor.ending)


# Replicates


def ranked(folder: StudyFolder, ndcg: list[float]) -> None:
    """Finished trials' figures, as their workers leave them."""
    for number, score_of_trial in enumerate(ndcg):
        folder.trial(number).append_epoch({"epoch": 1, "ndcg_at_10": score_of_trial, "seconds": 1.0})
    folder.write_manifest({"metric": "ndcg_at_10", "knobs": [], "references": {}})


def test_the_best_are_repeated_with_other_seeds_and_nothing_else_of_them_changes(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    drawn = run(ledger, folder, 3)
    ranked(folder, [0.1, 0.3, 0.2])
    said: list[str] = []
    assert Replication(folder, top=2, seeds=2, say=said.append).enqueue(ledger) == 4
    again = [ledger.ask() for _ in range(4)]
    assert [(origin, values["seed"]) for _, values, origin in again] == [
        ("replicate of 1", 1), ("replicate of 1", 2), ("replicate of 2", 1), ("replicate of 2", 2)
    ]  # fmt: skip
    for original, (number, values, _) in zip((1, 1, 2, 2), again, strict=True):
        assert {**values, "seed": 0} == drawn[original]
        assert ledger.is_replicate(number)
    assert not ledger.is_replicate(1)
    assert said == ["the best again with other seeds, 4 trainings: trial 1, trial 2"]


def test_replicates_are_asked_for_once_and_a_later_launch_asks_for_what_is_missing(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    run(ledger, folder, 2)
    ranked(folder, [0.1, 0.3])
    replication = Replication(folder, top=1, seeds=2, say=lambda line: None)
    assert [replication.enqueue(ledger), replication.enqueue(ledger)] == [2, 0]
    later = ledger_of(study, folder)
    assert Replication(folder, top=1, seeds=3, say=lambda line: None).enqueue(later) == 1
    assert later.waiting() == 3


def test_a_second_replication_is_for_others_that_could_be_the_best_and_not_for_those_that_had_theirs(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    run(ledger, folder, 5)
    ranked(folder, [0.60, 0.59, 0.58, 0.20, 0.10])
    assert Replication(folder, top=1, seeds=2, say=lambda line: None).enqueue(ledger) == 2
    run(ledger, folder, 2)
    for number, score_of_trial in {5: 0.61, 6: 0.57}.items():
        folder.trial(number).append_epoch({"epoch": 1, "ndcg_at_10": score_of_trial, "seconds": 1.0})
    later, said = ledger_of(study, folder), []
    assert Replication(folder, top=5, seeds=2, say=said.append).enqueue(later) == 4
    assert said == ["the best again with other seeds, 4 trainings: trial 1, trial 2"]  # trials 3 and 4 are far behind


def test_a_launch_that_goes_on_with_replicates_asks_for_no_others(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    run(ledger, folder, 3)
    ranked(folder, [0.60, 0.59, 0.58])
    Replication(folder, top=1, seeds=2, say=lambda line: None).enqueue(ledger)
    later = ledger_of(study, folder)
    again = Replication(folder, top=1, seeds=2, say=lambda line: None)
    again.begin(later)
    assert again.enqueue(later) == 0


def test_replicates_do_not_count_towards_the_study_s_trials_and_keep_their_seed_when_they_go_on(tmp_path):
    study, folder = study_of(tmp_path), StudyFolder.create(tmp_path, "a")
    ledger = ledger_of(study, folder)
    run(ledger, folder, 1)
    ranked(folder, [0.1])
    Replication(folder, top=1, seeds=1, say=lambda line: None).enqueue(ledger)
    number, _, _ = ledger.ask()
    assert ledger.asked() == 1
    later = ledger_of(study, folder)
    assert later.interrupted() == [number]
    assert later.ask(number)[1]["seed"] == 1


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_no_scheduler_stops_a_replicate(tmp_path, scheduler):
    study = study_of(tmp_path, f"scheduler: {scheduler}")
    knowing = make_scheduler(study)
    replay(knowing, study, [curve(number, [0.5] * 9) for number in range(8)])
    poor = curve(8, [0.1] * 9)
    poor.config["to_the_end"] = True
    assert decisions(knowing, study, poor) == [TrialScheduler.CONTINUE] * 9
    knowing.on_trial_complete(None, poor, {"epoch": 9, "progress": 100.0, "ndcg_at_10": 0.1})


def test_asha_does_not_judge_others_by_replicates(tmp_path):
    study = study_of(tmp_path, "asha: {pace: 0}")
    knowing = make_scheduler(study)
    replicates = [curve(number, [0.9] * 9) for number in range(8)]
    for replicate in replicates:
        replicate.config["to_the_end"] = True
    replay(knowing, study, replicates)
    assert TrialScheduler.STOP not in decisions(knowing, study, curve(8, [0.1] * 9))
