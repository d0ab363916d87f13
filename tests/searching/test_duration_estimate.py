"""How often trials report, and how long the search takes: by a measured speed, or by what the study says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch

from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.training.speed import Speed, measure_speed
from results.study.study_folder import StudyFolder
from tune.run_search import main
from tune.searching.duration_estimate import (
    EpochDuration,
    compiling_pays,
    decide,
    is_quick,
    may_compile,
    slowest,
)
from tune.study_file.study import Study

PROJECT = Path(__file__).resolve().parents[2]


def study_of(**settings) -> Study:
    return Study.load(
        {
            "study": {"name": "pace", "trials": 4, "scheduler": "none", **settings},
            "data": {"source": "demo", "users": 400, "evaluation_users": 200},
            "fixed": {"model": "demo-tiny", "examples_per_user": 2, "epochs": 3},
            "space": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}, "effective_batch": {"choice": [16, 32]}},
        }
    )


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=400, evaluation_users=200))


@pytest.mark.parametrize(
    ("duration", "most", "reports"),
    [
        (EpochDuration(100, 10, 5), 50, 1),  # sooner than four minutes
        (EpochDuration(1000, 40, 10), 50, 4),  # one every four minutes, as a power of two
        (EpochDuration(1000, 400, 100), 50, 2),  # 500 s, or scoring would be more than a fifth
        (EpochDuration(10_000, 40, 10), 3, 2),  # as many as there are steps
    ],
)
def test_reports_come_every_few_minutes_and_are_cheap_beside_the_training(duration, most, reports):
    assert duration.reports(most) == reports


@pytest.mark.parametrize(
    ("training_s", "compiled", "pays", "line"),
    [
        (900, Speed(0.5, 1, 60), True, "layers are compiled: training 2.00 times as fast after 60 s"),
        (
            100,
            Speed(0.5, 1, 60),
            False,
            "layers are not compiled, which would not pay: training 2.00 times as fast after 60 s",
        ),
        (
            900,
            Speed(1.1, 1, 60),
            False,
            "layers are not compiled, which would not pay: training 0.91 times as fast after 60 s",
        ),
        (900, "no g++", False, "layers are not compiled; that could not be measured (no g++)"),
    ],
)
def test_layers_are_compiled_where_the_search_saves_more_than_that_takes(training_s, compiled, pays, line):
    assert compiling_pays(training_s, Speed(1.0, 1, 2), compiled) == (pays, line)


def test_it_is_asked_of_long_searches_that_leave_it_open():
    long, short = EpochDuration(600, 0, 0), EpochDuration(40, 0, 0)
    assert may_compile(study_of(), long, at_once=1)  # four trials of three epochs
    assert not may_compile(study_of(), short, at_once=1)
    assert not may_compile(study_of(), EpochDuration(100, 0, 0), at_once=4)  # 300 s in each of four places
    for decided in ({"compile_layers": False}, {"gradient_checkpointing": True}, {"quantisation": "nf4"}):
        study = study_of()
        study.fixed.update(decided)
        assert not may_compile(study, long, at_once=1)


def test_what_was_decided_holds_for_every_trial_that_leaves_it_open():
    study = study_of()
    drawn = study.with_compiling(True).draw(optuna.trial.FixedTrial({"learning_rate": 2e-3, "effective_batch": 16}))
    assert drawn.compile_layers is True
    assert slowest(study.with_compiling(True)).compile_layers is True
    checkpointed = study_of()
    checkpointed.fixed["gradient_checkpointing"] = True
    ruled_out = checkpointed.with_compiling(True).draw(
        optuna.trial.FixedTrial({"learning_rate": 2e-3, "effective_batch": 16})
    )
    assert ruled_out.compile_layers is False
    undecided = study.draw(optuna.trial.FixedTrial({"learning_rate": 2e-3, "effective_batch": 16}))
    assert undecided.compile_layers == "auto"


def test_an_epoch_and_the_search_last_as_long_as_what_they_train_and_score(data):
    study = study_of(time_budget="1h")
    duration = EpochDuration.of(study, data, Speed(2.0, 3.0))
    assert duration == EpochDuration(training=2.0 * 800, scoring=3.0 * 200, part=3.0 * 100)
    decided = decide(study, data, duration)
    assert decided.reports_per_epoch == 1  # one every 25 minutes, of an epoch of 26
    assert duration.total(decided, at_once=2) == 4 * 3 * (1600 + 600) / 2
    assert duration.total(decided.with_reports(4), at_once=2) == 4 * 3 * (1600 + 600 + 3 * 300) / 2
    told = duration.describe(decided, at_once=2)
    assert "an epoch takes about 26:40 to train and 10:00 to score, with a report" in told
    assert "the search takes about 3:40:00" in told
    assert "its time_budget of 1:00:00 ends it after about 27% of that" in told


def test_what_the_study_says_stands(data):
    assert decide(study_of(reports_per_epoch=5), data, EpochDuration(1e5, 1, 1)).reports_per_epoch == 5
    assert decide(study_of(), data, EpochDuration(1e5, 1, 1)).reports_per_epoch == 16  # of 25 steps
    assert decide(study_of(), data, None).reports_per_epoch == 1


def test_the_largest_model_is_measured_and_a_toy_is_not():
    study = study_of()
    assert is_quick(study)
    space = {**study.source["space"], "model": {"choice": ["qwen3-0.6b", "smollm2-135m", "demo-tiny"]}}
    fixed = {"examples_per_user": 2, "epochs": 3}
    study = Study.load({**study.source, "fixed": fixed, "space": space})
    assert slowest(study).model == "qwen3-0.6b"
    assert not is_quick(study)


def test_a_speed_is_that_of_real_steps_and_lists(data):
    speed = measure_speed(study_of().base(), data)
    assert 0 < speed.seconds_per_example < 1
    assert 0 < speed.seconds_per_list < 1


@pytest.mark.slow
def test_more_reports_than_steps_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "study.yaml").write_text(study_of(reports_per_epoch=30).dump())
    command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), "study.yaml", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "reports_per_epoch: there must be a step between two reports, and an epoch has 25 (got 30)" in done.stderr


@pytest.mark.slow
def test_the_check_measures_a_model_that_is_here_and_no_toy(tmp_path, capsys):
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    source = study_of(time_budget="1s").source
    fixed = {**source["fixed"], "model": str(tmp_path / "base")}
    (tmp_path / "study.yaml").write_text(Study.load({**source, "fixed": fixed}).dump())
    assert main([str(tmp_path / "study.yaml"), "--check", "--runs", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"measured: an epoch takes about [\d:]+ to train and [\d:]+ to score, with a report", told)
    assert re.search(r"its time_budget of 0:01 ends it after about \d+% of that", told)
    assert not (tmp_path / "runs").exists()
    assert torch.get_num_threads() == 1, "as in all tests"


@pytest.mark.slow
def test_a_search_measures_a_model_that_is_no_toy_and_keeps_what_it_decided(tmp_path):
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    source = study_of(trials=1).source
    fixed = {**source["fixed"], "model": str(tmp_path / "base"), "epochs": 1, "skill_steps": 0}
    (tmp_path / "study.yaml").write_text(Study.load({**source, "fixed": fixed}).dump())
    command = [
        sys.executable,
        str(PROJECT / "tune" / "run_search.py"),
        "study.yaml",
        "--runs",
        "runs",
        "--no-dashboard",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"measured: an epoch takes about [\d:]+ to train and [\d:]+ to score, with a report", done.stdout)
    assert re.search(r"the search takes about [\d:]+ at that speed", done.stdout)
    assert StudyFolder(tmp_path / "runs" / "pace").read_manifest()["reports_per_epoch"] == 1
