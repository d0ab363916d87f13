"""What a user sees of a running search: a live table in a terminal, a line an event and summaries elsewhere."""

from __future__ import annotations

import dataclasses
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from results.study.stored_trial import TrialStatus
from results.study.trial_origin import Origin, OriginKind
from tune.execution.trial_messages import Assignment
from tune.study_file import loading
from tune.study_file.study import Study
from tune.terminal.live_table import Progress

STUDY = """
study: {name: a, trials: 4, asha: {grace: 1, reduction: 3}}
data: {source: demo}
space:
  epochs: {int: [2, 12]}
  learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}
"""
FIGURES = {"train_loss": 2.5, "recall_at_1": 0.25, "ndcg_at_10": 0.5}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return loading.load(tmp_path / "study.yaml")


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """Moves the time that the table reads, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def watch(progress: Progress) -> None:
    """Two trials: one at its second epoch, one that has failed."""
    first, second = TrialConfig(epochs=6, learning_rate=1e-3), TrialConfig(epochs=2, learning_rate=2e-3)
    progress.started(Assignment(0, first), ["epochs", "learning_rate"], Origin(OriginKind.START_FROM))
    progress.reported(0, {"epoch": 1, **FIGURES})
    progress.reported(0, {"epoch": 2, **FIGURES, "ndcg_at_10": 0.6})
    progress.started(Assignment(1, second), ["epochs", "learning_rate"])
    progress.ended(1, TrialStatus.FAILED, "it does not fit")


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line.partition("] ")[2] for line in console.file.getvalue().splitlines()]


def test_without_a_terminal_there_is_a_line_an_event(study, clock):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console) as progress:
        watch(progress)
    assert lines_of(console) == [
        "trial 0 (start_from) started: epochs 6, learning_rate 1.0e-03",
        "trial 0 epoch 1/6: loss 2.500, Recall@1 0.250, NDCG@10 0.500, 0 s",
        "trial 0 epoch 2/6: loss 2.500, Recall@1 0.250, NDCG@10 0.600, 0 s",
        "trial 1 started: epochs 2, learning_rate 2.0e-03",
        "trial 1 failed: it does not fit",
    ]


def test_and_a_summary_now_and_then(study, clock):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, done=1, summary_s=-1) as progress:
        watch(progress)
        progress.tick()
    summary = lines_of(console)[-1]
    assert summary.startswith("2 of 4 trials done, 0:00 elapsed, about 0:00 left")
    assert summary.endswith("best ndcg_at_10 0.600 (trial 0)")


def test_the_best_is_the_best_report_of_all_lists_and_a_part_is_told(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, done=1, summary_s=-1) as progress:
        progress.started(Assignment(0, TrialConfig(epochs=6)), ["epochs"])
        part = {"train_loss": 2.5, "recall_at_1": 0.4, "ndcg_at_10": 0.9, "scored_share": 0.25}
        progress.reported(0, {**part, "epoch": 0.5})
        progress.tick()
        assert lines_of(console)[-1].endswith("best ndcg_at_10 0.900 (trial 0, on 25% of the lists)")
        for epoch, value in ((1, 0.6), (2, 0.5)):
            progress.reported(0, {"epoch": epoch, "train_loss": 2.5, "recall_at_1": 0.2, "ndcg_at_10": value})
        progress.tick()
    assert lines_of(console)[-1].endswith("best ndcg_at_10 0.600 (trial 0)")


PULSE = TrainingStatus(epoch=3, step=12, steps=84, loss=2.345)


def test_within_an_epoch_there_is_a_line_of_its_steps_now_and_then(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, pulse_s=0) as progress:
        watch(progress)
        progress.training_status(0, PULSE)
        progress.training_status(0, dataclasses.replace(PULSE, step=84, doing="scoring 64 lists"))
        progress.training_status(0, TrainingStatus("loading demo-tiny"))
    assert lines_of(console)[-3:] == [
        "trial 0 epoch 3/6 · step 12/84 · loss 2.345",
        "trial 0 epoch 3/6 · step 84/84 · scoring 64 lists",
        "trial 0 loading demo-tiny",
    ]


def test_but_not_more_often_than_once_in_a_while(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console) as progress:
        watch(progress)
        before = lines_of(console)
        progress.training_status(0, PULSE)
    assert lines_of(console) == before


def test_what_goes_on_for_long_is_told_without_another_word_of_it(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, pulse_s=0.2) as progress:
        watch(progress)
        progress.training_status(0, TrainingStatus("scoring demo-tiny untrained"))
        progress.tick()
        assert lines_of(console)[-1] != "trial 0 scoring demo-tiny untrained"
        time.sleep(0.2)
        progress.tick()
    assert lines_of(console)[-1] == "trial 0 scoring demo-tiny untrained"


def test_a_trial_of_an_earlier_launch_that_did_not_go_on_can_be_told_as_ended(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console) as progress:
        progress.ended(7, TrialStatus.CANCELLED)
    assert lines_of(console) == ["trial 7 interrupted"]


def test_the_best_of_earlier_launches_stays_the_best(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, done=3, best=(2, 0.7), summary_s=-1) as progress:
        watch(progress)
        progress.tick()
    assert lines_of(console)[-1].endswith("best ndcg_at_10 0.700 (trial 2)")


def test_quiet_says_nothing(study):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, summary_s=-1, quiet=True) as progress:
        watch(progress)
        progress.tick()
        progress.say("something")
    assert lines_of(console) == []


def test_the_table_of_a_terminal_shows_the_next_rung_and_the_cause(study):
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None, height=40)
    with Progress(study, console) as progress:
        watch(progress)
        progress.training_status(0, PULSE)
    assert isinstance(console.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    header, first, second = shown.splitlines()[-3:]
    assert header.split() == [
        "trial",
        "state",
        "epoch",
        "rung",
        "loss",
        "Recall@1",
        "NDCG@10",
        "elapsed",
        "remaining",
        "knobs",
    ]
    assert first.split()[:9] == ["0", "running", "2/6", "3", "2.500", "0.250", "0.600", "0:00", "0:00"]
    assert "epoch 3/6 · step 12/84 · loss 2.345 · start_from: epochs 6" in first
    assert second.split()[:3] == ["1", "failed", "0/2"]
    assert second.rstrip().endswith("it does not fit")


def left(console: Console) -> str:
    return lines_of(console)[-1].partition("about ")[2].partition(" left")[0]


def test_what_is_waited_for_once_is_not_expected_of_each_trial(study, clock):
    """Forty minutes go into a base, then a trial takes ten: the others take ten as well."""
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, summary_s=-1, expected_s=2400) as progress:
        progress.started(Assignment(0, TrialConfig(epochs=1)), [])
        clock(2400)
        progress.training_status(0, TrainingStatus("teaching the base to name labels"))
        progress.tick()
        assert left(console) == "40:00", "nothing is trained yet"
        progress.training_status(0, TrainingStatus(epoch=1, step=1, steps=20))
        clock(300)
        progress.reported(0, {"epoch": 0.5, **FIGURES})
        progress.tick()
        assert left(console) == "35:00"
        clock(300)
        progress.reported(0, {"epoch": 1, **FIGURES})
        progress.ended(0, TrialStatus.COMPLETED)
        progress.started(Assignment(1, TrialConfig(epochs=1)), [])
        progress.training_status(1, TrainingStatus(epoch=1, step=1, steps=20))
        clock(240)
        progress.tick()
    assert left(console) == "26:00", "six minutes of this one, and twice ten"


def test_trials_that_run_together_share_the_time_ahead(study, clock):
    console = Console(file=io.StringIO(), width=200)
    with Progress(study, console, summary_s=-1) as progress:
        for number in (0, 1):
            progress.started(Assignment(number, TrialConfig(epochs=2)), [])
        clock(600)
        progress.ended(0, TrialStatus.PRUNED)
        progress.reported(1, {"epoch": 1, **FIGURES})
        progress.started(Assignment(2, TrialConfig(epochs=2)), [])
        progress.tick()
    assert left(console) == "15:00", "ten minutes each of the three, two at a time"
