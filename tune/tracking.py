"""A study's folder → MLflow: one parent run, one nested run a trial. The only mlflow import of the search.

The folder is the record; MLflow is brought up to it. Each pass sends what the store does not have yet, finds runs again
by their tags, and so never makes a second run for the same trial. While the store is down the search goes on, and
`python -m tune.tracking STUDY` delivers later.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from reranker.errors import RerankerError
from reranker.metrics import METRIC_NAMES
from results.compare import RUNS, verdict, winner
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

_ENDED = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.CANCELLED: "KILLED",
}
_SHOWN = [*METRIC_NAMES, "train_loss", "val_loss", "seconds", "tokens_per_second", "peak_memory_mb"]


def default_uri(study: StudyFolder) -> str:
    """SQLite in the study's folder, absolute, since Ray changes the working folder."""
    return f"sqlite:///{(study.path / 'mlflow.db').resolve()}"


def ui_command(uri: str) -> str:
    """What to type to see the runs of this store."""
    return f"{sys.executable} -m mlflow ui --backend-store-uri {uri} --port 5000" if uri.startswith("sqlite") else uri


class StudyMirror:
    """Brings one MLflow store up to one study's folder, as often as it is asked to."""

    def __init__(self, study: StudyFolder, uri: str) -> None:
        self.study, self.uri = study, uri
        self._runs: dict[int, str] = {}  # trial number → run id
        self._sent: dict[int, int] = {}  # trial number → epochs that the store has
        self._ended: set[int] = set()
        self._acts_sent = 0
        self._parent = ""

    def bring_up(self, *, ended: bool = False) -> None:
        """Send what the store lacks; with `ended` also close the parent run and attach the results.

        Raises:
            MlflowException, OSError: the store is down or refuses; nothing is lost, ask again.
        """
        client = MlflowClient(tracking_uri=self.uri)
        if not self._parent:
            self._parent = self._find_or_make_parent(client)
        for trial in self.study.trials():
            if trial.number not in self._ended:
                self._send(client, trial)
        acts = self.study.acts()
        for i, act in enumerate(acts[self._acts_sent :], start=self._acts_sent + 1):
            client.set_tag(self._parent, f"act.{i:03d}", f"{act['time']} {act['act']}")
        self._acts_sent = len(acts)
        if ended:
            self._close(client)

    def _find_or_make_parent(self, client: MlflowClient) -> str:
        manifest = self.study.read_manifest()
        name = self.study.name
        known = client.get_experiment_by_name(name)
        if known is None:
            local = (self.study.path / "mlartifacts").resolve().as_uri() if self.uri.startswith("sqlite") else None
            self._experiment = client.create_experiment(name, artifact_location=local)
        else:
            self._experiment = known.experiment_id
        kind = "tags.kind = 'study'"
        for run in client.search_runs([self._experiment], f"{kind} and tags.study_id = '{manifest['study_id']}'"):
            client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        tags = {"kind": "study", "study": name, "study_id": manifest["study_id"], **manifest["tags"]}
        run = client.create_run(self._experiment, run_name=f"study {name}", tags=tags)
        chance = [Metric(f"chance/{m}", manifest["references"]["chance"][m], _now(), 0) for m in METRIC_NAMES]
        params = [Param(key, str(value)) for key, value in manifest["plan"].items()]
        client.log_batch(run.info.run_id, metrics=chance, params=params)
        client.log_artifact(run.info.run_id, str(self.study.study_file))
        return str(run.info.run_id)

    def _send(self, client: MlflowClient, trial: StoredTrial) -> None:
        if trial.number not in self._runs:
            self._runs[trial.number], self._sent[trial.number] = self._find_or_make_run(client, trial)
        run, sent = self._runs[trial.number], self._sent[trial.number]
        # The compare page opens with the metric that was logged first.
        searched = self.study.read_manifest()["metric"]
        metrics = [
            Metric(name, float(figures[name]), _now(), figures["epoch"])
            for figures in trial.epochs[sent:]
            for name in sorted(_SHOWN, key=lambda name: name != searched)
        ]
        if metrics:
            client.log_batch(run, metrics=metrics)
            self._sent[trial.number] = len(trial.epochs)
        if trial.status is not TrialStatus.RUNNING:
            self._end_trial(client, run, trial)
            self._ended.add(trial.number)

    def _find_or_make_run(self, client: MlflowClient, trial: StoredTrial) -> tuple[str, int]:
        query = f"tags.mlflow.parentRunId = '{self._parent}' and tags.trial = '{trial.number}'"
        for run in client.search_runs([self._experiment], query):
            if trial.status is TrialStatus.RUNNING and run.info.status != "RUNNING":  # it goes on
                client.update_run(run.info.run_id, status="RUNNING")
                client.set_tag(run.info.run_id, "status", trial.status.value)
            steps = {metric.step for metric in client.get_metric_history(run.info.run_id, _SHOWN[0])}
            return str(run.info.run_id), len(steps)
        manifest = self.study.read_manifest()
        tags = {
            "mlflow.parentRunId": self._parent,
            "kind": "trial",
            "study": self.study.name,
            "trial": str(trial.number),
            "model": trial.values["model"],
            "status": trial.status.value,
            **({"origin": trial.origin} if trial.origin else {}),
            **manifest["tags"],
        }
        run = client.create_run(self._experiment, run_name=_run_name(trial, manifest["knobs"]), tags=tags)
        client.log_batch(run.info.run_id, params=[Param(name, _text(value)) for name, value in trial.values.items()])
        return str(run.info.run_id), 0

    def _end_trial(self, client: MlflowClient, run: str, trial: StoredTrial) -> None:
        metric = self.study.read_manifest()["metric"]
        best = trial.best(metric)
        tags = [RunTag("status", trial.status.value)] + ([RunTag("cause", trial.cause)] if trial.cause else [])
        tags += [RunTag("notes", "; ".join(trial.notes))] if trial.notes else []
        metrics, params = [], []
        if best is not None:
            shown = {f"best/{metric}": metric, "best/recall_at_1": "recall_at_1", "epoch_of_best": "epoch"}
            metrics = [Metric(name, float(best[figure]), _now(), 0) for name, figure in shown.items()]
            applied = trial.epochs[-1]
            if trial.status is not TrialStatus.CANCELLED:  # it may go on, and MLflow lets no parameter change
                params = [Param(name, _text(value)) for name, value in applied.items() if name.startswith("applied/")]
        client.log_batch(run, metrics=metrics, params=params, tags=tags)
        client.set_terminated(run, _ENDED[trial.status])

    def _close(self, client: MlflowClient) -> None:
        best = winner(self.study)
        client.set_tag(self._parent, "mlflow.note.content", verdict(self.study))
        if best is not None:
            figures = best.best(self.study.read_manifest()["metric"]) or {}
            for name in METRIC_NAMES:
                client.log_metric(self._parent, f"best/{name}", figures[name])
            client.set_tag(self._runs[best.number], "winner", "true")
            client.log_artifacts(self._runs[best.number], str(self.study.trial(best.number).adapter), "adapter")
        for path in (self.study.leaderboard, self.study.best_config):
            if path.exists():
                client.log_artifact(self._parent, str(path))
        client.set_terminated(self._parent, "FINISHED" if self.study.read_ending()["complete"] else "KILLED")


class Tracker:
    """Mirrors the study in a thread while the search runs, so that a slow or absent store never holds it up."""

    def __init__(self, study: StudyFolder, uri: str) -> None:
        self._mirror = StudyMirror(study, uri)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self.trouble = ""  # why the store does not have everything; empty when it does

    def start(self) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._thread.start()

    def nudge(self) -> None:
        """Something new is in the folder."""
        self._wake.set()

    def finish(self, timeout_s: float = 60) -> bool:
        """Deliver the rest; False where the store would not have it (`trouble` says why)."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.trouble = self.trouble or f"the store did not answer within {timeout_s:.0f} s"
        return not self.trouble

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._attempt(ended=self._stop.is_set())
            time.sleep(0.2)  # several reports become one pass
        if self._wake.is_set() or self.trouble:
            self._attempt(ended=True)

    def _attempt(self, *, ended: bool) -> None:
        try:
            self._mirror.bring_up(ended=ended)
            self.trouble = ""
        except (MlflowException, OSError, RerankerError) as error:
            self.trouble = (str(error).strip() or type(error).__name__).splitlines()[0]


def _run_name(trial: StoredTrial, knobs: list[str]) -> str:
    """`003 demo-tiny lr 1.2e-02 r 8 epochs 3`: what tells the runs of a list apart."""
    short = {"learning_rate": "lr", "lora_rank": "r", "lora_alpha": "alpha"}
    parts = [f"{trial.number:03d}", trial.values["model"]]
    for knob in knobs:
        value = trial.values[knob]
        if knob != "model":
            parts.append(
                f"{short.get(knob, knob)} {value:.1e}"
                if isinstance(value, float)
                else f"{short.get(knob, knob)} {value}"
            )
    return " ".join(parts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> int:
    return int(time.time() * 1000)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tune.tracking", description="Deliver a study to MLflow.")
    parser.add_argument("study", help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--tracking-uri", help="default: the store that the study was tracked in")
    args = parser.parse_args(argv)
    try:
        study = StudyFolder.open(args.runs, args.study)
        StudyMirror(study, args.tracking_uri or study.read_manifest()["tracking_uri"]).bring_up(ended=True)
    except (RerankerError, MlflowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{study.name} is in MLflow; to see it: {ui_command(args.tracking_uri or default_uri(study))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
