"""The search as a user runs it: the real script in a real process, with real Ray, Optuna and MLflow."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import load_file

from reranker.artifacts.trial_folder import TrialFolder
from results.statistics.comparison import winner
from results.study.logged_reports import logged_reports
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from results.study.trial_origin import Origin, OriginKind
from tests.present import present
from tune.run_search import main as run_search_main

PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study: {name: small, trials: 2, seed: 3, start_from: [{epochs: 2, learning_rate: 3.7e-3, lora_rank: 5}]}
data: {source: demo, users: 64, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, warmup_epochs: 0.25}
space:
  epochs: {int: [1, 2]}
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
  lora_rank: {int: [2, 8]}
"""


def run_search(
    folder: Path, *options: str, study: str = STUDY, expect: int = 0, dashboard: bool = False
) -> subprocess.CompletedProcess[str]:
    file = folder / "study.yaml"
    file.write_text(study, encoding="utf-8")
    command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), str(file), "--runs", str(folder / "runs")]
    quick = [] if dashboard else ["--no-dashboard"]  # it takes seconds of a core
    done = subprocess.run(
        [*command, *options, *quick], capture_output=True, text=True, cwd=folder, check=False, timeout=300
    )  # from another folder than the project's
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, study: str = STUDY) -> str:
    """What a search that ends before Ray starts says on the way out, with the user's exit code; in this process."""
    file = folder / "study.yaml"
    file.write_text(study, encoding="utf-8")
    assert run_search_main([str(file), "--runs", str(folder / "runs"), *options]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return err


def test_a_search_tries_its_trials_and_leaves_a_winner_a_leaderboard_and_a_report(tmp_path):
    done = run_search(tmp_path, "--concurrency", "1")
    study = StudyFolder(tmp_path / "runs" / "small")
    assert [str(trial.status) for trial in study.trials()] == ["completed", "completed"]
    assert study.trial(0).read_config().learning_rate == 3.7e-3, "as start_from says"
    table = pd.read_csv(study.leaderboard)
    assert table["kind"].tolist().count("trial") == 2
    best = present(winner(study))
    assert yaml.safe_load(study.best_config.read_text())["learning_rate"] == best.values["learning_rate"]
    assert f"The best trial (number {best.number}, " in done.stdout
    assert (study.path / "report.html").stat().st_size > 50_000
    assert MlflowClient(tracking_uri=tracking_uri_of(study)).get_experiment_by_name("small") is not None


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    done = run_search(folder, "--concurrency", "1", "--replicate", "1", "--top", "1", "--refit", dashboard=True)
    return StudyFolder(folder / "runs" / "small"), done.stdout


@pytest.mark.slow
def test_what_the_file_says_is_what_the_optimiser_the_adapter_and_mlflow_hold(searched):
    study, _ = searched
    trial = TrialFolder(study.path / "trials" / "000")
    last = trial.read_reports()[-1]
    assert last["epoch"] == 2
    assert logged_reports(trial) == trial.read_reports()
    assert last["applied/learning_rate"] == 3.7e-3
    assert last["applied/optimizer_steps"] == 2 * 64 / 32
    ranks = {
        w.shape[0] for name, w in load_file(trial.adapter / "adapter_model.safetensors").items() if "lora_A" in name
    }
    assert ranks == {5}
    client = MlflowClient(tracking_uri=tracking_uri_of(study))
    experiment = client.get_experiment_by_name("small").experiment_id
    run = next(r for r in client.search_runs([experiment]) if r.data.tags.get("trial") == "0")
    params = {name: run.data.params[name] for name in ("learning_rate", "lora_rank", "epochs")}
    assert params == {"learning_rate": "0.0037", "lora_rank": "5", "epochs": "2"}
    assert run.data.params["applied/learning_rate"] == "0.0037"
    assert run.data.params["applied/optimizer_steps"] == "4"


@pytest.mark.slow
def test_the_study_leaves_what_it_promises(searched):
    study, out = searched
    names = {path.name for path in study.path.iterdir()}
    assert {
        "study.yaml",
        "optuna.log",
        "trials",
        "leaderboard.csv",
        "best_config.yaml",
        "manifest.json",
    } <= names
    assert (study.path.parent / "mlflow.db").is_file()
    table = pd.read_csv(study.leaderboard)
    assert set(table["kind"]) == {"trial", "baseline", "chance"}
    assert table.loc[table["kind"] == "chance", "recall_at_1"].item() == pytest.approx(0.05)
    untrained = ["zero-shot demo-tiny", "zero-shot demo-tiny, no prior"]
    assert study.baselines() == ["collaborative", "ease", "item_knn", "markov", "popularity", *untrained]
    assert (study.path / "report.html").stat().st_size > 50_000
    assert "ranks the true item first for" in out
    assert "The p-values and intervals allow for picking the best of 2 configurations and of their epochs" in out
    assert "mlflow ui --workers 1 --backend-store-uri sqlite:" in out
    assert re.search(r"http://127\.0\.0\.1:\d+", out)


@pytest.mark.slow
def test_the_output_is_not_flooded(searched):
    _, out = searched
    assert len(out.splitlines()) < 90
    assert "raylet" not in out
    assert "Warning" not in out


@pytest.mark.slow
def test_the_best_is_trained_again_with_another_seed_to_its_end_and_judged_by_both(searched):
    study, out = searched
    first, second, again = study.trials()
    best = max((first, second), key=lambda trial: trial.best("ndcg_at_10")["ndcg_at_10"])
    assert again.origin == Origin(OriginKind.REPLICATE, best.number)
    assert again.values == {**best.values, "seed": 1}
    assert [figures["epoch"] for figures in again.reports] == list(range(1, best.values["epochs"] + 1))
    assert again.best("ndcg_at_10")["ndcg_at_10"] != best.best("ndcg_at_10")["ndcg_at_10"]
    own, other = (trial.best("ndcg_at_10")["ndcg_at_10"] for trial in (best, again))
    assert f"Trial {best.number}, 2 seeds: mean {(own + other) / 2:.3f} ({own:.3f}, {other:.3f})." in out


@pytest.mark.slow
def test_the_winner_is_refitted_and_registered(searched):
    study, out = searched
    best = present(winner(study))
    epochs = study.refit.read_reports()
    assert len(epochs) == present(best.best("ndcg_at_10"))["epoch"]
    assert study.refit.read_config().model_dump(mode="json") == best.values
    assert (study.refit.adapter / "adapter_model.safetensors").exists()
    client = MlflowClient(tracking_uri=tracking_uri_of(study))
    version = client.get_model_version("small", "1")
    assert version.tags["trial"] == str(best.number)
    assert "models:/small/1" in out


@pytest.mark.slow
def test_optuna_is_told_every_report_the_best_epoch_and_who_was_stopped(searched):
    study, _ = searched
    storage = JournalStorage(JournalFileBackend(str(study.journal)))
    told = optuna.load_study(study_name="small", storage=storage).trials
    states = {"completed": "COMPLETE", "pruned": "PRUNED"}
    assert [trial.state.name for trial in told] == [states[stored.status] for stored in study.trials()]
    for trial, stored in zip(told, study.trials(), strict=True):
        assert trial.intermediate_values == {e["epoch"]: e["ndcg_at_10"] for e in stored.reports}
    assert told[0].value == max(e["ndcg_at_10"] for e in next(study.trials()).reports)


@pytest.mark.slow
def test_the_winner_s_configuration_trains_again(searched, tmp_path):
    study, _ = searched
    command = [sys.executable, "-m", "reranker.train", "--config", str(study.best_config), "--epochs", "1"]
    data = ["--data-users", "64", "--data-interactions-per-user", "5", "--output", str(tmp_path)]
    TrialFolder(tmp_path).append_report({"epoch": 7})  # of an earlier run into the same folder
    done = subprocess.run([*command, *data], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert [figures["epoch"] for figures in TrialFolder(tmp_path).read_reports()] == [1]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(searched, tmp_path):
    study, _ = searched
    run_search(tmp_path, "--concurrency", "1", "--replicate", "1", "--top", "1")
    first, second = (
        pd.read_csv(path).drop(columns="seconds")
        for path in (study.leaderboard, tmp_path / "runs/small/leaderboard.csv")
    )
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.slow
def test_two_workers_take_the_same_steps_as_one(searched, tmp_path):
    study, _ = searched
    run_search(tmp_path, "--workers", "2", "--trials", "1")
    one = TrialFolder(study.path / "trials" / "000").read_reports()[-1]
    two = TrialFolder(tmp_path / "runs" / "small" / "trials" / "000").read_reports()[-1]
    assert two["applied/workers"] == 2
    assert two["applied/optimizer_steps"] == one["applied/optimizer_steps"]
    assert two["applied/examples"] == one["applied/examples"]
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-3)
    _, ranks = TrialFolder(tmp_path / "runs" / "small" / "trials" / "000").read_ranks()
    assert len(ranks.greater) == 64


BAD = {
    "an unknown knob": (STUDY.replace("lora_rank:", "lora_rnak:"), [], "did you mean 'lora_rank'"),
    "an unknown model": (STUDY.replace("demo-tiny", "qwen3-2b"), [], "qwen3-1.7b"),
    "a range that cannot build": (STUDY.replace("[2, 8]", "[0, 8]"), [], "must be at least 1"),
    "a missing file": (STUDY.replace("source: demo, users: 64, interactions_per_user: 5", "source: movielens, path: no.zip"), [], "no.zip"),
    "nothing left by the filters": (STUDY.replace("users: 64", "users: 64, min_user: 50"), [], "min_user"),
    "a prompt that cannot fit": (STUDY, ["--set", "max_prompt_tokens=40"], "max_prompt_tokens"),
    "a model that can't read the catalogue": (None, [], "demo catalogue"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_with_exit_code_2(case, tmp_path, capsys):
    study, options, expected = BAD[case]
    if study is None:
        (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n" + "".join(
            f"u{u},i{(u + t) % 40},{t}\n" for u in range(40) for t in range(6)))  # fmt: skip
        (tmp_path / "t.csv").write_text("item_id,text\n" + "".join(f"i{i},Film number {i}\n" for i in range(40)))
        study = STUDY.replace(
            "{source: demo, users: 64, interactions_per_user: 5}", "{source: tables, interactions: i.csv, items: t.csv}"
        )
    assert expected in refused(tmp_path, capsys, *options, study=study)
    assert not (tmp_path / "runs").exists()


def test_a_dashboard_port_in_use_is_said(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in refused(tmp_path, capsys, "--dashboard-port", str(port))


def test_a_folder_without_permission_is_said(tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    target = "/proc/runs" if os.geteuid() == 0 else locked / "runs"  # root may write anywhere but in /proc
    said = refused(tmp_path, capsys, "--runs", str(target))
    assert "cannot write" in said or "no permission" in said


def test_a_fault_of_the_user_ends_the_real_script_with_exit_code_2(tmp_path):
    done = run_search(tmp_path, "--set", "lora_rnak=4", expect=2)
    assert "did you mean 'lora_rank'" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_prints_the_plan_and_starts_nothing(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY, encoding="utf-8")
    assert run_search_main([str(file), "--runs", str(tmp_path / "runs"), "--check"]) == 0
    assert "2 trials" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_failing_trial_is_recorded_with_its_cause_and_the_others_go_on(tmp_path):
    study = STUDY.replace(
        "epochs: {int: [1, 2]}", "epochs: {int: [1, 2]}\n  effective_batch: {choice: [15, 16]}"
    ).replace(
        "start_from: [{epochs: 2, learning_rate: 3.7e-3, lora_rank: 5}]",
        "start_from: [{effective_batch: 15}, {effective_batch: 16, epochs: 1}]",
    )
    run_search(tmp_path, "--workers", "2", study=study)
    folder = StudyFolder(tmp_path / "runs" / "small")
    first, second = folder.trials()
    assert (first.status, second.status) == ("failed", "completed")
    assert "effective batch must be a multiple of the 2 workers" in first.cause
    states = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert any(record.get("state") == optuna.trial.TrialState.FAIL.value for record in states)
