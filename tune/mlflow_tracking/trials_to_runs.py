"""A study's folder → MLflow: one parent run, one nested run a trial and a baseline. What its pages say: `mlflow_pages`.

The folder is the record; MLflow is brought up to it. Each pass sends what the store does not have yet, finds runs again
by their tags, and so never makes a second run for the same trial. While the store is down the search goes on, and
`python -m tune.tracking STUDY` delivers later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from reranker.metrics import METRIC_NAMES
from reranker.storage.file_permissions import make_file, make_folder
from results.leaderboard import leaderboard, standing
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_file, local_store
from results.study.trial_origin import DRAWN
from tune.mirroring.run_names import configuration_of, run_name, text
from tune.mirroring.tracked_figures import (
    FINAL,
    STEP,
    applied,
    between_reports,
    last_step,
    leading,
    measured,
    of_best,
    of_rankers,
    step_of,
)
from tune.mirroring.tracked_outcome import WINNER, Outcome
from tune.mlflow_tracking import adapter_models, control_tags, experiments, list_table, mlflow_pages, moved_store
from tune.mlflow_tracking.control_tags import Ask
from tune.mlflow_tracking.datasets import as_input, dataset_of
from tune.mlflow_tracking.mlflow_pages import NOTE, Links
from tune.mlflow_tracking.report_metrics import metrics
from tune.mlflow_tracking.run_tags import (
    axes,
    experiment_note,
    ranker_note,
    reading_text,
    run_color,
    run_key,
    searched,
    study_note,
    trial_note,
)
from tune.mlflow_tracking.store_address import ui_address
from tune.mlflow_tracking.store_driver import is_database

_ENDED = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.PRUNED: "FINISHED",  # as it should; what it is stands in the tag `status`
    TrialStatus.FAILED: "FAILED",
    TrialStatus.CANCELLED: "KILLED",
}
_METRICS_A_BATCH, _PARAMS_A_BATCH = 700, 100  # MLflow takes 100 parameters and 100 tags at once, and 1000 of all
_GREYS = ("#b4b4b4", "#8a8a8a", "#9c8f80", "#7d8a99", "#a89fb0", "#8fa08f", "#6f6f6f", "#b0a090")  # of baselines


def quieten() -> None:
    """Keep MLflow's own messages out of the terminal."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class StudyMirror:
    """Brings one MLflow store up to one study's folder, as often as it is asked to."""

    def __init__(self, study: StudyFolder, uri: str) -> None:
        self.study, self.uri = study, uri
        self._client: MlflowClient | None = None
        self._forget()

    def _forget(self) -> None:
        """What is known of the store; asked again after it has failed, since what was under way may have arrived."""
        self._runs: dict[str, str] = {}  # a trial's number, or a baseline's name → run id
        self._sent: dict[int, int] = {}  # trial number → reports that the store has
        self._unmodelled: set[int] = set()  # trials whose runs were made since: the store has no models of theirs
        self._steps_sent: dict[int, float] = {}  # trial number → examples up to which the store has lines about steps
        self._ended: dict[int, str] = {}  # trial number → the status that the store has it end with
        self._delivered: set[int] = set()  # trials that have ended for good and that the store has whole
        self._longest = 1  # step of the longest curve
        self._reach: dict[str, int] = {}  # baseline → the step up to which its figures are drawn
        self._closed: set[str] = set()  # baselines whose runs are finished
        self._acts_sent = 0
        self._parent = ""

    def bring_up(self, *, ended: bool = False) -> None:
        """Send what the store lacks; with `ended` also close the parent run and attach the results.

        Raises:
            MlflowException, OSError, SQLAlchemyError: the store is down or refuses; nothing is lost, ask again.
        """
        try:
            self._bring_up(ended=ended)
        except Exception:
            self._forget()
            raise

    def _bring_up(self, *, ended: bool) -> None:
        if self._client is None:
            if self.uri == local_store(self.study):
                moved_store.follow(self.study)
                make_file(local_file(self.study))
            if self.uri == local_store(self.study) or is_database(self.uri):
                make_folder(local_file(self.study).parent / moved_store.ARTIFACTS)
            self._client = MlflowClient(tracking_uri=self.uri)
        client = self._client
        if not self._parent:
            self._manifest, self._axes = self.study.read_manifest(), axes(self.study)
            self._data = dataset_of(self.study)
            self._parent = self._find_or_make_parent(client, reopen=not ended)
        for trial in standing(self.study, self.study.trials(but=self._delivered)):
            self._longest = max(self._longest, last_step(trial))
            if self._ended.get(trial.number) != trial.status.value:
                self._send(client, trial)
            if trial.status in FINAL:
                self._delivered.add(trial.number)
        self._send_rankers(client, self._longest)
        acts = self.study.acts()
        for i, act in enumerate(acts[self._acts_sent :], start=self._acts_sent + 1):
            client.set_tag(self._parent, f"act.{i:03d}", f"{act['time']} {act['act']}")
        self._acts_sent = len(acts)
        if ended:
            self._close(client)

    def obey(self, ask: Ask) -> None:
        """Hand the running search what was asked of it by tags; see `tune.mlflow_tracking.control_tags`.

        Raises:
            MlflowException, OSError: the store is down or refuses.
        """
        if self._client is not None and self._parent:
            control_tags.obey(self._client, self._experiment, self._parent, ask)

    @property
    def leaderboard_link(self) -> str:
        """Where MLflow's UI shows the leaderboard, once its server runs; empty before the study is in the store."""
        if not self._parent:
            return ""
        return f"{ui_address(self.uri)}/{Links(self._experiment, self._parent, {}).view('leaderboard')}"

    # The study

    def _find_or_make_parent(self, client: MlflowClient, *, reopen: bool) -> str:
        manifest, name = self._manifest, self.study.name
        self._experiment = experiments.find_or_make(client, self.uri, self.study, self._axes)
        kind = "tags.kind = 'study'"
        query = f"{kind} and tags.study_id = '{manifest['study_id']}'"
        parents = client.search_runs([self._experiment], query, order_by=["attributes.start_time ASC"])
        if parents:
            parent = str(parents[0].info.run_id)
            if reopen:
                client.update_run(parent, status="RUNNING")
            for child in list(self._children(client, parent)):
                self._remember(client, child)
        else:
            tags = {"kind": "study", "study": name, "study_id": manifest["study_id"], **manifest["tags"]}
            began = _written(self.study.path / "manifest.json")
            parent = str(client.create_run(self._experiment, began, run_name=f"study {name}", tags=tags).info.run_id)
        if not parents or "chance/recall_at_1" not in parents[0].data.metrics:  # the last that a new parent gets
            params = [Param(f"plan/{key}", str(value)) for key, value in manifest["plan"].items()]
            client.log_batch(parent, params=params)
            client.log_inputs(parent, [as_input(self._data, "search")])
            client.log_artifact(parent, str(self.study.study_file))
            note = experiment_note(self.study, Links(self._experiment, parent, {}))
            client.set_experiment_tag(self._experiment, NOTE, note)
            client.log_batch(parent, metrics=metrics(self.study.references()["chance"], "chance/"))
        return parent

    def _children(self, client: MlflowClient, parent: str) -> Iterator[Run]:
        """Its nested runs, of whatever kind, the oldest first."""
        query, order, token = f"tags.{mlflow_pages.PARENT} = '{parent}'", ["attributes.start_time ASC"], None
        while True:
            page = client.search_runs([self._experiment], query, order_by=order, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _remember(self, client: MlflowClient, run: Run) -> None:
        tags = run.data.tags
        key = tags.get({"trial": "trial", "baseline": "baseline", "chance": "baseline"}.get(tags.get("kind", ""), ""))
        if key is None:  # somebody else's
            return
        if key in self._runs:  # its creation was sent again while the store went down
            client.delete_run(run.info.run_id)
            return
        self._runs[key] = run.info.run_id
        if tags["kind"] != "trial":
            self._closed |= {key} if run.info.status == "FINISHED" else set()
        elif run.info.status in _ENDED.values() and tags["status"] in FINAL:
            self._ended[int(key)] = tags["status"]

    # Trials

    def _send(self, client: MlflowClient, trial: StoredTrial) -> None:
        """What the store lacks of it, in as few calls as MLflow allows."""
        number, params = trial.number, {}
        if number not in self._sent:
            self._sent[number] = self._find_or_make_run(client, trial)
            params = searched(trial.values, self._axes) | {name: text(value) for name, value in trial.values.items()}
        run, ended = self._runs[str(number)], trial.status is not TrialStatus.RUNNING
        points = self._reports(trial, self._sent[number]) + self._steps(client, run, number)
        tags = self._ending(trial) if ended else {}
        if ended:
            params |= {name: text(value) for name, value in applied(trial).items()}  # MLflow lets none change
        listed = [Param(name, value) for name, value in params.items()]
        noted = [RunTag(name, value) for name, value in tags.items()]
        while points or listed or noted:
            client.log_batch(run, points[:_METRICS_A_BATCH], listed[:_PARAMS_A_BATCH], noted)
            points, listed, noted = points[_METRICS_A_BATCH:], listed[_PARAMS_A_BATCH:], []
        self._sent[number] = len(trial.reports)
        if ended:
            self._end_trial(client, run, trial)
            self._ended[number] = trial.status.value

    def _steps(self, client: MlflowClient, run: str, number: int) -> list[Metric]:
        """Loss and speed between two reports that the store lacks, by examples."""
        if number not in self._steps_sent:
            history = client.get_metric_history(run, f"{STEP}loss")
            self._steps_sent[number] = max((point.step for point in history), default=0)
        sent, points = self._steps_sent[number], []
        for examples, figures in between_reports(self.study, number):
            if examples > sent:
                points += metrics(figures, step=examples)
                self._steps_sent[number] = examples
        return points

    def _reports(self, trial: StoredTrial, start: int) -> list[Metric]:
        """The figures of its reports from one on; and before them, if it is among them, of the best.

        The compare page opens with the metric that was logged first.
        """
        searched_by = self._manifest["metric"]
        best = trial.best(searched_by) or {}
        points = metrics(of_best(best, searched_by)) if best in trial.reports[start:] else []
        for figures in trial.reports[start:]:
            points += metrics(measured(figures, searched_by), step=step_of(figures))
        return points

    def _find_or_make_run(self, client: MlflowClient, trial: StoredTrial) -> int:
        """How many of its reports the store has."""
        key = str(trial.number)
        if key not in self._runs:
            self._runs[key] = self._make_run(client, trial)
            return 0
        if trial.status is TrialStatus.RUNNING:  # it goes on
            client.update_run(self._runs[key], status="RUNNING")
            client.set_tag(self._runs[key], "status", trial.status.value)
        return len({metric.step for metric in client.get_metric_history(self._runs[key], METRIC_NAMES[0])})

    def _make_run(self, client: MlflowClient, trial: StoredTrial) -> str:
        knobs = self._manifest["knobs"]
        tags = {
            mlflow_pages.PARENT: self._parent,
            "kind": "trial",
            "study": self.study.name,
            "trial": str(trial.number),
            "configuration": str(configuration_of(trial)),  # to group its seeds by
            "model": trial.values["model"],
            mlflow_pages.RUN_COLOR: run_color(trial),
            "status": trial.status.value,
            NOTE: trial_note(trial, self._manifest["metric"], knobs),
            **({} if trial.origin == DRAWN else {"origin": str(trial.origin)}),
            **self._manifest["tags"],
        }
        began = _written(self.study.trial(trial.number).path / "config.json")
        run = client.create_run(self._experiment, began, run_name=run_name(trial, knobs), tags=tags)
        self._steps_sent[trial.number] = 0
        self._unmodelled.add(trial.number)
        client.log_inputs(run.info.run_id, [as_input(self._data, "training")])
        return str(run.info.run_id)

    def _ending(self, trial: StoredTrial) -> dict[str, str]:
        """What the tags of its run say once it has ended."""
        note = trial_note(trial, self._manifest["metric"], self._manifest["knobs"])
        tags = {"status": trial.status.value, NOTE: note}
        tags |= {"cause": trial.cause} if trial.cause else {}
        tags |= {"notes": "; ".join(trial.notes)} if trial.notes else {}
        return tags

    def _end_trial(self, client: MlflowClient, run: str, trial: StoredTrial) -> None:
        best, adapter = trial.best(self._manifest["metric"]), self.study.trial(trial.number).adapter
        if best is not None and trial.status in FINAL and adapter.is_dir():
            adapter_models.add(
                client,
                self._experiment,
                run,
                f"trial-{trial.number:03d}",  # MLflow allows of a model's name less than a study's may hold
                adapter,
                params={knob: text(trial.values[knob]) for knob in ("model", *self._manifest["knobs"])},
                figures=of_best(best, self._manifest["metric"]),
                step=step_of(best),
                dataset=self._data,
                is_first=trial.number in self._unmodelled,
            )
            self._unmodelled.discard(trial.number)
        path = self.study.trial(trial.number).path
        client.set_terminated(run, _ENDED[trial.status], _ended(path / "config.json", path / "status.json"))

    # Baselines and chance

    def _send_rankers(self, client: MlflowClient, longest: int) -> None:
        """What the trials must beat, as runs beside them: a level line from before the first report to the last of
        all."""
        names = ["chance", *self.study.baselines()]
        if all(self._reach.get(name, 0) >= longest for name in names):
            return
        for name, figures in of_rankers(self.study).items():
            if name not in self._reach:
                self._reach[name] = self._find_or_make_ranker(client, name, figures)
            if self._reach[name] < longest:
                client.log_batch(self._runs[name], metrics=metrics(figures, step=longest))
                self._reach[name] = longest
            if name not in self._closed:
                client.set_terminated(self._runs[name], "FINISHED")
                self._closed.add(name)

    def _find_or_make_ranker(self, client: MlflowClient, name: str, figures: dict[str, float]) -> int:
        """The step that its line reaches."""
        if name in self._runs:
            points = client.get_metric_history(self._runs[name], METRIC_NAMES[0])
            if points:
                return int(max(point.step for point in points))
        else:
            tags = {
                mlflow_pages.PARENT: self._parent,
                "kind": "chance" if name == "chance" else "baseline",
                "baseline": name,
                "study": self.study.name,
                NOTE: ranker_note(name),
                **mlflow_pages.UNFOLDED,
                mlflow_pages.RUN_COLOR: _GREYS[len(self._reach) % len(_GREYS)],
                **self._manifest["tags"],
            }
            self._runs[name] = client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
            client.log_inputs(self._runs[name], [as_input(self._data, "validation")])
        best = leading(figures, self._manifest["metric"])
        client.log_batch(self._runs[name], metrics=metrics(best) + metrics(figures))
        return 0

    # The end

    def _close(self, client: MlflowClient) -> None:
        outcome = Outcome.of(self.study)
        best = outcome.best
        parent = client.get_run(self._parent)
        runs = {run.info.run_id: run for run in list(self._children(client, self._parent))}
        self._drop_doubles(client, runs)
        self._mark(client, runs, best, outcome.proven)
        if best is not None:
            logged, figures = parent.data.metrics, outcome.figures
            changed = {name: value for name, value in figures.items() if logged.get(name) != value}
            client.log_batch(self._parent, metrics=metrics(changed))
            run = self._runs[str(best.number)]
            client.log_artifacts(run, str(self.study.trial(best.number).adapter), "adapter")
            list_table.send(client, run, self.study, best.number)
        self._send_readings(client, parent.data.tags)
        reports = (self.study.path / "report.html", self.study.path / "report.md")
        tables = (self.study.leaderboard, self.study.segments, self.study.top_items)
        for path in (*tables, self.study.best_config, *reports):
            if path.exists():
                client.log_artifact(self._parent, str(path))
        links = Links(self._experiment, self._parent, self._ranked())
        client.set_tag(self._parent, NOTE, study_note(self.study, links, outcome.comparison, outcome.who_gains.losses))
        client.set_experiment_tag(self._experiment, NOTE, experiment_note(self.study, links))
        status = "FINISHED" if self.study.read_ending()["complete"] else "KILLED"
        ended = _ended(self.study.path / "manifest.json", self.study.path / "ending.json")
        client.set_terminated(self._parent, status, ended)

    def _drop_doubles(self, client: MlflowClient, runs: dict[str, Run]) -> None:
        """Of what was created twice, because its creation was sent again, keep the run that has the figures."""
        for run_id, run in runs.items():
            key = run.data.tags.get("trial", run.data.tags.get("baseline", ""))
            if run.data.tags.get("kind") in ("trial", "baseline", "chance") and self._runs.get(key, run_id) != run_id:
                client.delete_run(run_id)

    def _mark(
        self, client: MlflowClient, runs: dict[str, Run], best: StoredTrial | None, results: dict[str, str]
    ) -> None:
        """Say on each run what is proven of it; what an earlier pass said may no longer hold."""
        knobs, won = self._manifest["knobs"], str(best.number) if best else ""
        names = {str(t.number): (run_name(t, knobs), run_name(t, knobs, won=True)) for t in self.study.trials()}
        for key, run_id in self._runs.items():
            if (run := runs.get(run_id)) is None:  # deleted by hand
                continue
            plain, starred = names.get(key, ("", ""))
            if run.info.run_name == (plain if key == won else starred):  # a name that somebody has given stays
                client.update_run(run_id, name=starred if key == won else plain)
            wanted = {"result": results.get(key, ""), WINNER: "true" if key == won else ""}
            for tag, value in wanted.items():
                if run.data.tags.get(tag, "") != value:
                    client.set_tag(run_id, tag, value) if value else client.delete_tag(run_id, tag)

    def _send_readings(self, client: MlflowClient, tags: Mapping[str, str]) -> None:
        """The sealed test's, each once."""
        for i, reading in enumerate(self.study.readings(), start=1):
            if (tag := f"test.{i:03d}") in tags:
                continue
            points = client.get_metric_history(self._parent, f"test/{METRIC_NAMES[0]}")
            sent = i in {point.step for point in points}
            new = [] if sent else metrics(reading["figures"], "test/", step=i)
            client.log_batch(self._parent, metrics=new, tags=[RunTag(tag, reading_text(reading))])

    def _ranked(self) -> dict[str, str]:
        """Runs with a score, by trial number or baseline's name, the best first."""
        rows = leaderboard(self.study).dropna(subset="rank").to_dict("records")
        keys = [run_key(row) for row in rows]
        return {key: self._runs[key] for key in keys if key in self._runs}


def _written(path: Path) -> int | None:
    """When, in ms: what is delivered late or again took as long as it took. None if it is not there."""
    return int(path.stat().st_mtime * 1000) if path.exists() else None


def _ended(first: Path, last: Path) -> int | None:
    """When the last file was written, in ms, and not before the first one, though the clock was set back meanwhile."""
    ended = _written(last)
    return None if ended is None else max(ended, _written(first) or ended)
