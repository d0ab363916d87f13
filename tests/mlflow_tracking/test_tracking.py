"""A study's mirror in a real MLflow store, and what MLflow's pages show of it."""

from __future__ import annotations

import html
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console

from reranker.metrics import METRIC_NAMES, Ranks, summarise
from reranker.storage.atomic_files import DamagedFile, append_line, write_file, write_yaml
from results.leaderboard import PRETTY, leaderboard, pretty
from results.reporting.report_data import content_of
from results.reporting.write_report import write_report
from results.statistics.comparison import winner
from results.statistics.seed_averages import replicated
from results.statistics.verdict_text import verdict
from results.study.list_facts import ListFacts
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tests.present import present
from tests.stored import Maker, report
from tests.tracked import USERS, Seen, add_trial, by_command, deliver, figures, first_for, ranks
from tune.mlflow_tracking.mlflow_pages import NOTE
from tune.mlflow_tracking.run_tags import axes, searched, trial_note
from tune.mlflow_tracking.store_address import ui_command
from tune.mlflow_tracking.tracker import Tracker
from tune.mlflow_tracking.trials_to_runs import StudyMirror


@pytest.mark.slow
def test_mlflow_gets_one_parent_and_a_nested_run_a_trial_and_a_baseline(study):
    seen = deliver(study)
    assert set(seen.runs) == {"study", "0", "1", "2", "popularity", "chance"}
    parent = seen.runs["study"].info.run_id
    nested = [key for key in seen.runs if key != "study"]
    assert {seen.tags(key)["mlflow.parentRunId"] for key in nested} == {parent}
    assert [seen.tags(key)["kind"] for key in ("study", "0", "popularity", "chance")] == [
        "study", "trial", "baseline", "chance",
    ]  # fmt: skip
    assert [seen.tags(t)["status"] for t in "012"] == ["completed", "pruned", "failed"]
    assert [seen.runs[t].info.status for t in "012"] == ["FINISHED", "FINISHED", "FAILED"]
    assert seen.tags("2")["cause"] == "diverged in epoch 1"
    params = seen.runs["0"].data.params
    assert params["learning_rate"] == "0.01"
    assert params["applied/learning_rate"] == "0.01"
    assert params["applied/optimizer_steps"] == "750"
    assert seen.metrics("study")["chance/recall_at_1"] == 0.05
    assert seen.points("0", "recall_at_1") == [(1, 0.30), (2, 0.41), (3, 0.35)]
    assert seen.artifacts("0") == {"adapter"}


@pytest.mark.slow
def test_every_run_knows_its_data(study):
    seen = deliver(study)
    contexts = {}
    for key, run in seen.runs.items():
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("demo", "f00")
        assert json.loads(used.dataset.profile) == {"validation_lists": 2000}
        contexts[key] = {tag.key: tag.value for tag in used.tags}["mlflow.data.context"]
    trials = dict.fromkeys("012", "training")
    assert contexts == {"study": "search", **trials, "popularity": "validation", "chance": "validation"}


def test_every_kept_adapter_is_a_model_with_the_figures_of_its_best_report_once(study):
    deliver(study)
    seen = deliver(study)
    found = seen.client.search_logged_models([seen.experiment.experiment_id])
    models = {model.name: model for model in found}
    assert len(models) == len(found)
    assert sorted(models) == ["trial-000", "trial-001"], "trial 2 failed before its first report"
    model = models["trial-000"]
    assert (model.status, model.model_type) == ("READY", "LoRA adapter")
    assert model.source_run_id == seen.runs["0"].info.run_id
    assert model.tags["adapter"] == str(study.trial(0).adapter)
    assert model.params == {"model": "demo-tiny", "learning_rate": "0.01"}
    figures = {metric.key: (metric.value, metric.step, metric.dataset_digest) for metric in model.metrics}
    assert figures["best/ndcg_at_10"] == (0.41, 8000, "f00")
    assert [output.model_id for output in seen.runs["0"].outputs.model_outputs] == [model.model_id]


def test_a_model_that_was_begun_when_the_store_went_down_becomes_whole(study):
    seen = deliver(study, ended=False)
    run = seen.runs["0"].info.run_id
    (whole,) = [m for m in seen.client.search_logged_models([seen.experiment.experiment_id]) if m.source_run_id == run]
    seen.client.delete_logged_model(whole.model_id)
    seen.client.update_run(run, status="RUNNING")  # its end is told last
    begun = seen.client.create_logged_model(seen.experiment.experiment_id, name="trial-000", source_run_id=run)
    seen = deliver(study)
    (model,) = [m for m in seen.client.search_logged_models([seen.experiment.experiment_id]) if m.source_run_id == run]
    assert (model.model_id, model.status) == (begun.model_id, "READY")
    assert {metric.key for metric in model.metrics} >= {"best/ndcg_at_10"}


def test_every_figure_of_an_epoch_is_a_metric_and_the_best_epoch_stands_apart(study):
    seen = deliver(study)
    assert seen.points("0", "label_mass") == [(1, 0.9), (2, 0.9), (3, 0.9)]
    assert seen.points("0", "retrieved/recall_at_1")[1] == (2, 0.41 / 0.8)
    assert {"hit", "seconds_per_list", "seconds", "tokens_per_second"} <= set(seen.metrics("0"))
    best = {name: seen.metrics("0")[f"best/{name}"] for name in (*METRIC_NAMES, "val_loss")}
    assert best == {**dict.fromkeys(METRIC_NAMES, 0.41), "val_loss": 3 - 0.41}
    assert seen.metrics("0")["epoch_of_best"] == 2
    assert seen.metrics("0")["recall_at_1"] == 0.35


def test_the_compare_page_opens_with_the_best_epoch_and_what_was_searched(study):
    seen = deliver(study)
    shared = [name for name in seen.metrics("0") if name in seen.metrics("popularity")]
    assert shared[0] == "best/ndcg_at_10"  # MLflow takes the first metric that all runs have
    params = seen.runs["1"].data.params
    assert sorted(params)[:2] == ["Searched/learning_rate log10", "Searched/model"]  # and the first parameters
    assert params["Searched/learning_rate log10"] == "-3.000"


def test_delivering_again_makes_no_second_run_and_no_second_point(study):
    first = deliver(study, ended=False)
    deliver(study)
    again = deliver(study)
    assert set(again.runs) == set(first.runs)
    for key, metric in [("0", "recall_at_1"), ("0", "best/recall_at_1"), ("popularity", "ndcg_at_10")]:
        assert again.points(key, metric) == first.points(key, metric)
    assert len(again.points("study", "best/ndcg_at_10")) == 1


def test_the_figures_of_a_running_trial_come_as_they_are_made(study):
    mirror = StudyMirror(study, study.read_manifest()["tracking_uri"])
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        mirror.bring_up()
        assert Seen(study).metrics("3")["best/ndcg_at_10"] == 0.2
        study.trial(3).append_report(figures(2, 0.3))
        study.trial(3).append_report(figures(3, 0.1))
        mirror.bring_up()
    seen = Seen(study)
    assert seen.points("3", "ndcg_at_10") == [(1, 0.2), (2, 0.3), (3, 0.1)]
    assert seen.metrics("3")["best/ndcg_at_10"] == 0.3
    assert seen.runs["3"].info.status == "RUNNING"


def test_what_a_killed_search_has_left_running_is_interrupted_and_goes_on_in_its_run(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    (study.path / "ending.json").unlink()
    seen = deliver(study)
    assert (seen.tags("3")["status"], seen.runs["3"].info.status) == ("interrupted", "KILLED")
    assert "cut short with the search after 1 of 3 epochs" in seen.tags("3")["mlflow.note.content"]
    assert seen.runs["study"].info.status == "KILLED"
    with study.locked():
        study.trial(3).append_report(figures(2, 0.3))
        again = deliver(study, ended=False)
    assert (again.tags("3")["status"], again.runs["3"].info.status) == ("running", "RUNNING")
    assert again.points("3", "ndcg_at_10") == [(1, 0.2), (2, 0.3)]


def test_no_run_ends_before_it_began_though_the_clock_was_set_back(study):
    for began, ended in (("manifest.json", "ending.json"), ("trials/000/config.json", "trials/000/status.json")):
        written = (study.path / began).stat().st_mtime
        os.utime(study.path / ended, (written - 1800, written - 1800))
    seen = deliver(study)
    for run in ("study", "0"):
        assert seen.runs[run].info.end_time == seen.runs[run].info.start_time


def test_references_have_no_status(study):
    seen = deliver(study)
    assert [seen.tags(name).get("status") for name in ("popularity", "chance")] == [None, None]


def test_a_trial_that_was_cut_short_goes_on_in_its_run(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.CANCELLED)
    first = deliver(study)
    report(study.trial(3), USERS, ranks(3.0), **figures(2, 0.3))
    study.write_status(3, TrialStatus.COMPLETED)
    seen = deliver(study)
    assert seen.runs["3"].info.run_id == first.runs["3"].info.run_id
    assert seen.points("3", "ndcg_at_10") == [(1, 0.2), (2, 0.3)]
    assert (first.runs["3"].info.status, seen.runs["3"].info.status) == ("KILLED", "FINISHED")
    assert seen.runs["3"].data.params["applied/optimizer_steps"] == "500"


def test_steps_between_two_reports_are_there_by_examples_once(study):
    add_trial(study, 3, [])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        for examples, loss in [(40, 2.9), (80, 2.7), (60, 2.8)]:  # the last one was trained again after a kill
            study.trial(3).append_step({"examples": examples, "loss": loss})
        deliver(study, ended=False)
        study.trial(3).append_step({"examples": 120, "loss": 2.6})
        seen = deliver(study, ended=False)
    assert seen.points("3", "step/loss") == [(0.01, 2.9), (0.015, 2.8), (0.02, 2.7), (0.03, 2.6)]
    assert "step/examples" not in seen.metrics("3")


def test_a_trial_with_more_figures_than_mlflow_takes_at_once(study):
    add_trial(study, 3, [epoch / 100 for epoch in range(1, 71)], epochs=70)
    seen = deliver(study)
    assert len(seen.points("3", "val_loss")) == 70
    assert seen.metrics("3")["best/ndcg_at_10"] == 0.7


def test_baselines_are_level_lines_as_long_as_the_longest_trial(study):
    expected = summarise(ranks(6.0))["recall_at_1"]
    assert deliver(study, ended=False).points("popularity", "recall_at_1") == [(0, expected), (3, expected)]
    add_trial(study, 3, [0.2], epochs=8)
    seen = deliver(study)
    assert [step for step, _ in seen.points("popularity", "recall_at_1")] == [0, 3, 8]
    assert [step for step, _ in seen.points("chance", "recall_at_1")] == [0, 3, 8]
    assert seen.metrics("popularity")["best/recall_at_1"] == expected
    assert "epoch_of_best" not in seen.metrics("popularity")


def test_a_baseline_that_comes_during_the_search_gets_a_run_with_its_figures(study):
    mirror = StudyMirror(study, study.read_manifest()["tracking_uri"])
    mirror.bring_up()
    study.baseline("zero-shot demo-tiny, no prior").write_figures({"val_loss": 3.2, "label_mass": 0.6, "model": "x"})
    study.baseline("zero-shot demo-tiny, no prior").keep_ranks(USERS, ranks(5.0))
    mirror.bring_up()
    seen = Seen(study)
    assert seen.points("zero-shot demo-tiny, no prior", "label_mass") == [(0, 0.6), (3, 0.6)]
    assert seen.metrics("zero-shot demo-tiny, no prior")["best/val_loss"] == 3.2


def test_reruns_with_other_seeds_are_grouped_with_what_they_repeat(study):
    add_trial(study, 3, [0.40], origin="replicate of 0", seed=7)
    seen = deliver(study)
    assert [seen.tags(t)["configuration"] for t in "0123"] == ["0", "1", "2", "0"]
    assert seen.runs["3"].info.run_name.endswith("seed 7, repeats 000")
    assert seen.tags("3")["mlflow.note.content"].startswith("**trial 0 again with seed 7")
    assert [seen.tags(t).get("result") for t in "03"] == ["winner", "the winner again"]


def test_each_run_says_what_is_proven_of_it(study):
    add_trial(study, 3, [])
    report(study.trial(3), USERS, first_for(0.39), **figures(1, 0.39) | {"applied/flops_per_list": 5e8})
    seen = deliver(study)
    assert [seen.tags(t).get("result") for t in "0123"] == [
        "winner", "behind the winner", None, "tied with the winner, cheapest",
    ]  # fmt: skip
    assert seen.tags("popularity")["result"] == "beaten by the winner"
    assert seen.runs["0"].info.run_name == "000 ★ demo-tiny lr 0.01"


def test_marks_move_when_another_trial_wins_later(study):
    deliver(study)
    add_trial(study, 3, [0.6])
    seen = deliver(study)
    assert [t for t in "0123" if seen.tags(t).get("winner") == "true"] == ["3"]
    assert [t for t in "0123" if "★" in seen.runs[t].info.run_name] == ["3"]
    assert seen.tags("0")["result"] == "behind the winner"
    assert seen.artifacts("3") == {"adapter"}
    assert seen.metrics("study")["best/ndcg_at_10"] == 0.6


def test_what_somebody_has_named_or_added_stays_as_it_is(study):
    seen = deliver(study)
    ids = {key: run.info.run_id for key, run in seen.runs.items()}
    for key in ("0", "popularity"):
        seen.client.update_run(ids[key], name=f"my {key}")
    parent = {"mlflow.parentRunId": ids["study"]}
    seen.client.create_run(seen.experiment.experiment_id, run_name="a sketch", tags=parent)
    add_trial(study, 3, [0.6])
    runs = deliver(study).runs
    assert set(runs) == {"study", "0", "1", "2", "3", "my popularity", "chance", "a sketch"}
    assert runs["0"].info.run_name == "my 0"
    assert runs["my popularity"].info.run_id == ids["popularity"]


def test_the_studys_note_says_what_was_found_and_leads_on(study):
    write_file(study.path / "report.html", "<p>report</p>")
    seen = deliver(study)
    note = seen.tags("study")["mlflow.note.content"]
    assert note.startswith("**The best trial (number 0, epoch 2) ranks the true item first for 41% of users")
    assert "- Better than popularity: " in note
    run = f"#/experiments/{seen.experiment.experiment_id}/runs/{seen.runs['0'].info.run_id}?"
    assert f"| [trial 0]({run}" in note
    rows = [line for line in note.split("\n") if line.startswith("| [")]
    assert [line.split("[")[1].split("]")[0] for line in rows] == ["trial 0", "popularity", "chance", "trial 1"]
    assert str(study.trial(0).adapter) in note
    assert "/artifacts/report.html" in note
    assert seen.artifacts("study") == {"study.yaml", "leaderboard.csv", "report.html"}


def test_a_reading_of_the_test_is_added_to_a_study_that_was_closed(study):
    before = deliver(study)
    reading = {
        "time": "2026-11-24 12:00:00", "trial": 0, "unseal": "", "users": 300, "references": {},
        "figures": dict.fromkeys(METRIC_NAMES, 0.38),
        "against": {"popularity": {"mean": 0.2, "low": 0.1, "high": 0.3, "p": 0.0001}},
    }  # fmt: skip
    again = reading | {"figures": dict.fromkeys(METRIC_NAMES, 0.37), "unseal": "a fault in the data"}
    append_line(study.path / "test_readings.jsonl", reading)
    deliver(study)
    append_line(study.path / "test_readings.jsonl", again)
    deliver(study)
    seen = deliver(study)
    assert seen.points("study", "test/ndcg_at_10") == [(1, 0.38), (2, 0.37)]
    assert seen.tags("study")["test.001"] == (
        "2026-11-24 12:00:00, trial 0, 300 users: Recall@1 0.380, NDCG@10 0.380; +0.200 to popularity (p < 0.001)"
    )
    assert seen.tags("study")["test.002"].endswith(". UNSEALED again: a fault in the data")
    assert seen.tags("study")["test.002"] in seen.tags("study")["mlflow.note.content"]
    assert seen.runs["study"].info.end_time == before.runs["study"].info.end_time


def test_saved_views_show_what_the_runs_have(study):
    seen = deliver(study)
    view = json.loads(seen.experiment.tags["mlflow.sharedViewState.leaderboard"])
    state = json.loads(view["state"])
    data = seen.runs["0"].data
    known = {"metrics": data.metrics, "params": data.params, "tags": data.tags}
    columns = [column.split(".", 1) for column in state["selectedColumns"]]
    assert [name for kind, name in columns if name.strip("`") not in known[kind]] == []
    assert ["params", "`learning_rate`"] in columns
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/ndcg_at_10`", False)
    shown = seen.client.search_runs([seen.experiment.experiment_id], state["searchFilter"])
    assert len(shown) == len(seen.runs) - 1
    charts = json.loads(json.loads(seen.experiment.tags["mlflow.sharedViewState.charts"])["state"])["compareRunCharts"]
    lines = next(chart for chart in charts if chart["type"] == "PARALLEL")
    assert set(lines["selectedParams"]) <= set(data.params)
    assert lines["selectedMetrics"] == ["best/ndcg_at_10"]


def all_places(study: StudyFolder, metric: str, seen: Seen) -> dict[str, str]:
    """What each place says of the winner's figure, with three digits; the console's table and the CSV have single runs."""
    best, pretty_name = present(winner(study)), PRETTY[metric]
    page, text = ((study.path / name).read_text() for name in ("report.html", "report.md"))
    row = next(row for row in content_of(study).board.rows if row.kind == "trial")
    on_board = row.value if metric == "ndcg_at_10" else float(row.cells[0])
    found = {
        "page": present(re.search(rf"<h2>{pretty_name}</h2><strong>([\d.]+)", page))[1],
        "Markdown": present(re.search(rf"\*\*{pretty_name}: ([\d.]+)", text))[1],
        "board": f"{on_board:.3f}",
        "MLflow, the study": f"{seen.metrics('study')[f'best/{metric}']:.3f}",
    }
    if any(replicated(trial) == best.number for trial in study.trials()):
        return found
    name, out = f"trial {best.number}", io.StringIO()
    Console(file=out, width=200).print(pretty(leaderboard(study), ["learning_rate"]))
    line = next(line.split() for line in out.getvalue().splitlines() if f" {name} " in f" {line} ")
    return found | {
        "CSV": f"{pd.read_csv(study.leaderboard).set_index('name')[metric][name]:.3f}",
        "console": line[{"recall_at_1": 5, "ndcg_at_10": 6}[metric]],
        "MLflow, the trial": f"{seen.metrics(str(best.number))[f'best/{metric}']:.3f}",
    }


def add_reports(study: StudyFolder, number: int, scores: list[tuple[float, float]], **knobs) -> None:
    """A trial by (Recall@1, NDCG@10) of its reports."""
    add_trial(study, number, [], **knobs)
    for epoch, (recall, ndcg) in enumerate(scores, start=1):
        report(study.trial(number), USERS, ranks(0.5), **figures(epoch, recall) | {"ndcg_at_10": ndcg})


@pytest.mark.slow
@pytest.mark.parametrize("reruns", [0, 2])
def test_all_places_say_the_same_of_the_winner(study, reruns):
    """Recall@1 is the best at the third report, but NDCG@10 chose the second, and all figures are from there."""
    add_reports(study, 3, [(0.362, 0.60), (0.368, 0.652), (0.371, 0.64)])
    for number in range(4, 4 + reruns):
        add_reports(study, number, [(0.351, 0.645), (0.402, 0.62)], origin="replicate of 3", seed=number)
    write_file(study.leaderboard, leaderboard(study).to_csv(index=False))
    write_report(study)
    seen = deliver(study)
    expected = {"recall_at_1": 0.368, "ndcg_at_10": 0.652}
    if reruns:
        expected = {"recall_at_1": (0.368 + 2 * 0.351) / 3, "ndcg_at_10": (0.652 + 2 * 0.645) / 3}
    for metric, value in expected.items():
        found = all_places(study, metric, seen)
        assert found == dict.fromkeys(found, f"{value:.3f}")
        assert len(found) == (4 if reruns else 7)
    said = f"ranks the true item first for {expected['recall_at_1']:.0%} of users"
    for text in (verdict(study), seen.tags("study")["mlflow.note.content"], (study.path / "report.html").read_text()):
        assert said in text


def test_a_view_that_somebody_has_changed_stays(study):
    seen = deliver(study)
    seen.client.set_experiment_tag(seen.experiment.experiment_id, "mlflow.sharedViewState.charts", "theirs")
    assert deliver(study).experiment.tags["mlflow.sharedViewState.charts"] == "theirs"


def test_above_the_list_of_runs_stand_the_ways_on_and_the_verdict(study):
    seen = deliver(study)
    note = seen.experiment.tags["mlflow.note.content"]
    assert "\n" not in note  # MLflow shows one line of it
    assert "ranks the true item first for 41% of users" in note
    compared = note.split("[Compare](")[1].split(")")[0]
    assert seen.runs["1"].info.run_id in compared
    assert seen.runs["2"].info.run_id not in compared  # without a score, it would leave the page without a metric
    assert seen.runs["popularity"].info.run_id not in compared


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "completed, 3 epochs; NDCG@10 0.410, Recall@1 0.410 at its best, epoch 2."),
        (1, "stopped after 1 of 3 epochs, as too weak; NDCG@10 0.120, Recall@1 0.120 at its best, epoch 1."),
        (2, "failed after 0 of 3 epochs: diverged in epoch 1."),
    ],
)
def test_a_trials_note_says_what_it_was_and_how_it_ended(study, number, expected):
    trial = next(trial for trial in study.trials() if trial.number == number)
    what, how = trial_note(trial, "ndcg_at_10", ["learning_rate", "model"]).split("**: ")
    assert what == "**learning_rate " + ["0.01", "1.0e-03", "1.0e-04"][number] + ", model demo-tiny"
    assert how == expected


def test_a_note_shows_a_cause_as_it_is():
    """MLflow takes what looks like a tag out of a note, and a bar for the end of a cell."""
    values = {"model": "models/a|b", "epochs": 1}
    trial = StoredTrial(0, values, TrialStatus.FAILED, "TypeError: <class 'str'>\nand `*more*` [here](x)", [])
    what, how = trial_note(trial, "ndcg_at_10", ["model"]).split("**: ")
    assert "<" not in how
    assert html.unescape(how) == "failed after 0 of 1 epoch: TypeError: <class 'str'> and `*more*` [here](x)."
    assert what == "**model models/a&#124;b"


@pytest.mark.slow
def test_a_store_that_is_down_stops_nothing_and_is_delivered_later(study, store):
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    tracker = Tracker(study, "http://127.0.0.1:9")
    tracker.start()
    tracker.nudge()
    assert tracker.finish(timeout_s=30) is False
    assert tracker.trouble
    said = by_command(study)
    assert len(Seen(study).runs) == 6
    assert f"/#/experiments/{Seen(study).experiment.experiment_id}/runs?" in said


def test_knobs_that_vary_together_are_shown_each(study):
    pair = {"epochs+learning_rate": {"choice": [[3, 1e-2], [10, 1e-3]]}, "model": {"choice": ["demo-tiny", "x"]}}
    write_yaml(study.study_file, json.dumps({"study": {"name": study.name}, "space": pair}))
    study.write_manifest(study.read_manifest() | {"knobs": ["epochs", "learning_rate", "model"]})
    params = deliver(study).runs["0"].data.params
    assert params["Searched/epochs"] == "3"
    assert params["Searched/learning_rate"] == "0.01"


def test_a_knob_that_is_0_where_its_condition_does_not_hold_has_no_logarithmic_axis(study):
    decay = {"log_uniform": [1e-4, 1e-1], "when": {"schedule": "cosine"}}
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-1]}, "weight_decay": decay}
    write_yaml(study.study_file, json.dumps({"study": {"name": study.name}, "space": space}))
    study.write_manifest(study.read_manifest() | {"knobs": ["learning_rate", "weight_decay"]})
    params = deliver(study).runs["0"].data.params
    assert params["Searched/weight_decay"] == "0.0"
    assert params["Searched/learning_rate log10"] == "-2.000"


def test_what_a_store_has_half_of_becomes_whole(study):
    """A server that dies under way has made the runs, and neither filled them nor answered."""
    client = MlflowClient(tracking_uri=study.read_manifest()["tracking_uri"])
    experiment, tags = client.create_experiment(study.name), {"study_id": study.read_manifest()["study_id"]}
    parent = client.create_run(experiment, tags={"kind": "study", **tags}, run_name="study").info.run_id
    nested = {"mlflow.parentRunId": parent, "study": study.name}
    for _ in range(2):
        client.create_run(experiment, tags={**nested, "kind": "trial", "trial": "0", "status": "running"})
        client.create_run(
            experiment, tags={**nested, "kind": "baseline", "baseline": "popularity"}, run_name="popularity"
        )
    seen = deliver(study)
    assert seen.runs["study"].info.run_id == parent
    assert seen.runs["study"].data.params["plan/validation_lists"] == "2000"
    assert seen.metrics("study")["chance/recall_at_1"] == 0.05
    assert "study.yaml" in seen.artifacts("study")
    assert seen.points("0", "recall_at_1") == [(1, 0.30), (2, 0.41), (3, 0.35)]
    assert {run.info.status for key, run in seen.runs.items() if key in ("popularity", "chance")} == {"FINISHED"}


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_everything_once(study, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    study.write_manifest(study.read_manifest() | {"tracking_uri": uri})
    study.write_status(2, TrialStatus.RUNNING)
    said: list[str] = []
    tracker = Tracker(study, uri, said.append)
    with study.locked():
        with serving(tmp_path / "server", port):
            tracker.start()
            tracker.nudge()
            until(lambda: tracker.leaderboard_link and "2" in Seen(study).runs)
        study.trial(2).append_report(figures(1, 0.2))
        tracker.nudge()
        until(lambda: tracker.trouble)
        study.trial(2).append_report(figures(2, 0.3))
    with serving(tmp_path / "server", port):
        add_trial(study, 3, [0.5])
        study.write_status(2, TrialStatus.COMPLETED)
        assert tracker.finish() is True
        seen = Seen(study)
        assert set(seen.runs) == {"study", "0", "1", "2", "3", "popularity", "chance"}
        assert seen.points("0", "recall_at_1") == [(1, 0.30), (2, 0.41), (3, 0.35)]
        assert seen.points("2", "recall_at_1") == [(1, 0.2), (2, 0.3)]
        assert [seen.runs[t].info.status for t in "023"] == ["FINISHED"] * 3
        assert seen.runs["study"].info.status == "FINISHED"
        assert seen.artifacts("3") == {"adapter"}
    assert said[0].startswith("MLflow does not have everything (")
    assert said[1:] == ["MLflow has everything again"]


@contextmanager
def serving(folder: Path, port: int) -> Iterator[None]:
    """MLflow's own server with its store in a folder, killed at the end."""
    folder.mkdir(exist_ok=True)
    where = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "a")]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    environment = {**os.environ, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("a") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"))
        yield
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_parent_has_who_gains_as_metrics_tables_and_in_its_note(study):
    """Trial 0 has the true item first for the first 41 % of users, and popularity for the others."""
    others_first = Ranks(19 - first_for(0.41).greater, np.zeros(len(USERS), np.int64))
    study.baseline("popularity").keep_ranks(USERS, others_first)
    is_late = np.arange(len(USERS)) >= 123
    candidates = np.tile(np.arange(20, dtype=np.int32), (len(USERS), 1))
    items = [f"i{i}" for i in range(20)]
    ListFacts(USERS, 2 + 3 * is_late, np.arange(len(USERS)) % 20, candidates, items, items, np.arange(20)).keep(study)
    write_report(study)
    seen = deliver(study)
    late = {metric: seen.metrics("study")[f"segment/history long/{metric}"] for metric in ("lists", "recall_at_1")}
    assert late == {"lists": 177, "recall_at_1": 0}
    assert seen.metrics("study")["segment/history long/gain_high"] < 0
    assert {"segments.csv", "report.html"} <= seen.artifacts("study")
    assert "WORSE than popularity in NDCG@10 on 177 lists, history: long (length 5)" in seen.tags("study")[NOTE]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("", "local"),
        ("sqlite:////gone/films/mlflow.db", "local"),
        ("sqlite:////gone/everybody/mlflow.db", "as named"),
        ("sqlite:////srv/films/tracking.db", "as named"),
        ("http://127.0.0.1:5000", "as named"),
    ],
)
def test_which_store_a_study_is_tracked_in(study, tmp_path, named, expected):
    here = StudyFolder(tmp_path / "films")
    shutil.copytree(study.path, here.path)
    here.write_manifest(here.read_manifest() | {"tracking_uri": named})
    assert tracking_uri_of(here) == (f"sqlite:///{tmp_path}/mlflow.db" if expected == "local" else named)
    if expected == "local":
        (here.path / "mlflow.db").touch()
        assert tracking_uri_of(here) == f"sqlite:///{here.path}/mlflow.db", "an older study has its own"


def test_a_store_s_address_is_shown_as_it_is_typed_and_without_its_password():
    assert ui_command("sqlite:////a b/mlflow.db").endswith(
        " --backend-store-uri 'sqlite:////a b/mlflow.db' --port 5000"
    )
    assert ui_command("https://me:hunter2@host/x") == "https://***@host/x"
    assert "hunter2" not in ui_command("postgresql://me:hunter2@host/x")


def test_whatever_goes_wrong_is_said_once_and_not_taken_for_delivered(study, store, capsys):
    study.write_manifest({key: value for key, value in study.read_manifest().items() if key != "knobs"})
    said: list[str] = []
    tracker = Tracker(study, store, said.append)
    tracker.start()
    tracker.nudge()
    assert tracker.finish(timeout_s=30) is False
    assert tracker.trouble == "KeyError: 'knobs'"
    assert said == ["MLflow does not have everything (KeyError: 'knobs'); the search goes on, and sends it again"]
    assert capsys.readouterr().err.count("Traceback") == 1


def test_a_baseline_that_was_left_out_is_no_run_but_in_the_note(study):
    study.write_manifest(study.read_manifest() | {"left_out_baselines": {"ease": "there are 9,001 items"}})
    seen = deliver(study)
    assert "ease" not in seen.runs
    note = seen.tags("study")[NOTE]
    assert "ease is left out: there are 9,001 items" in note
    assert "| [ease]" not in note


def test_a_study_file_without_a_space_is_said_in_a_sentence(study):
    write_yaml(study.study_file, "study: {name: films}\n")
    with pytest.raises(DamagedFile, match="is damaged: it has no space"):
        deliver(study)


def test_metric_names_are_ones_that_mlflow_takes(study):
    seen = deliver(study)
    with pytest.raises(MlflowException):
        seen.client.log_metric(seen.runs["0"].info.run_id, "recall@1", 0.1)
    assert all("@" not in name for name in METRIC_NAMES)


@pytest.mark.parametrize(
    ("knob", "fixed", "kept"),
    [
        ("skill_steps", {}, "auto"),
        ("micro_batch", {}, "null"),
        ("examples_per_user", {"examples_per_user": None}, "null"),
    ],
)
def test_a_knob_that_is_no_number_where_its_condition_does_not_hold_is_shown_as_it_is(tmp_path, knob, fixed, kept):
    made = Maker(tmp_path, knobs=(knob,)).trial(1.0, **fixed)
    space = {knob: {"int": [2, 16], "log": True, "when": {"model": "demo-small"}}}
    write_yaml(made.study.study_file, json.dumps({"fixed": fixed, "space": space}))
    (trial,) = made.study.trials()
    assert searched(trial.values, axes(made.study)) == {f"Searched/{knob}": kept}


def test_a_knob_that_is_0_where_its_condition_does_not_hold_has_no_place_on_a_logarithmic_axis():
    axes = {"weight_decay": "Searched/weight_decay log10", "epochs": "Searched/epochs"}
    assert searched({"weight_decay": 0.0, "epochs": 3}, axes) == {"Searched/epochs": "3"}
    assert searched({"weight_decay": 0.01, "epochs": 3}, axes)["Searched/weight_decay log10"] == "-2.000"
