"""What MLflow's web pages understand beyond its public interface: their tags, their addresses, and views as people save
them.

MLflow documents none of it. `tests/mlflow_tracking/test_mlflow_pages.py` says what an upgrade breaks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

PARENT = "mlflow.parentRunId"  # of a run, whose page and list show it below
NOTE = "mlflow.note.content"  # of a run or an experiment, in Markdown
RUN_COLOR = "mlflow.runColor"
TABLES = "mlflow.loggedArtifacts"  # of a run: which of its artifacts the evaluation page shows as tables
RUN_TYPE = "mlflow.runType"
UNFOLDED = {RUN_TYPE: "evaluation"}  # the list of runs opens with the parent unfolded where a child has it
OF_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # of an experiment: no pages for GenAI's traces
_COMPARED = 100  # runs in the link to the compare page, which holds their ids
_TRAINING = "workflowType=machine_learning"  # else MLflow shows its pages for GenAI's traces around ours
_UNSMOOTHED = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}


class Links:
    """Addresses of MLflow's own pages, relative to wherever its server is."""

    def __init__(self, experiment: str, parent: str, runs: Mapping[str, str]) -> None:
        """`runs`: ids of those with a score, by a trial's number or a baseline's name, the best first."""
        self._experiment, self._parent, self._runs = experiment, parent, runs

    def study(self, artifact: str = "") -> str:
        """The study's own run, or one of its artifacts."""
        return self._page(self._parent, f"/artifacts/{quote(artifact)}" if artifact else "")

    def run(self, key: str) -> str:
        """The run of a trial or a baseline; the study's own where there is none."""
        return self._page(self._runs[key]) if key in self._runs else self._page(self._parent)

    def view(self, key: str) -> str:
        """The list of runs in a saved view."""
        mode = "CHART" if key == "charts" else "TABLE"
        return f"#/experiments/{self._experiment}/runs?{_TRAINING}&viewStateShareKey={key}&compareRunsMode={mode}"

    def compare(self) -> str:
        """The compare page of the trials alone: it draws the parameters and metrics that all of its runs have."""
        trials = [run for name, run in self._runs.items() if name.isdecimal()][:_COMPARED]
        query = {"runs": trials, "experiments": [self._experiment]}
        arguments = "&".join(f"{key}={quote(json.dumps(ids, separators=(',', ':')))}" for key, ids in query.items())
        return f"#/compare-runs?{arguments}&{_TRAINING}"  # the page wants the runs first

    def _page(self, run: str, below: str = "") -> str:
        return f"#/experiments/{self._experiment}/runs/{run}{below}?{_TRAINING}"


def view_tag(key: str) -> str:
    """The experiment's tag that holds a view."""
    return f"mlflow.sharedViewState.{key}"


def saved_views(metric: str, knobs: Sequence[str], axes: Sequence[str], now_ms: int) -> dict[str, str]:
    """Views of the list of runs, by the key in their addresses, as MLflow keeps those that people save.

    Args:
        axes: the parameters that stand for the knobs in charts.
    """
    best = f"best/{metric}"
    table = [
        *(_column("tags", name) for name in ("result", "status")),
        *(_column("metrics", name) for name in dict.fromkeys([best, "best/recall_at_1", "epoch_of_best", "seconds"])),
        *(_column("params", knob) for knob in knobs),
    ]
    common = {
        "orderByKey": _column("metrics", best),
        "orderByAsc": metric.endswith("_loss"),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "searchFilter": "tags.kind != 'study'",
        "selectedColumns": table,
        "columnOrder": table,
        "columnWidths": {column: 230 if "result" in column else 130 for column in table[: -len(knobs)]},
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
    }
    charts = {"isAccordionReordered": True, **_charts(metric, axes)}
    views = {"leaderboard": ("Leaderboard", common), "charts": ("Charts", {**common, **charts})}
    return {
        key: json.dumps({"name": name, "createdAt": now_ms, "state": json.dumps(state)})
        for key, (name, state) in views.items()
    }


def _charts(metric: str, axes: Sequence[str]) -> dict[str, Any]:
    best = f"best/{metric}"
    lines = dict.fromkeys([metric, "val_loss", "train_loss"])
    sections: dict[str, tuple[int, list[dict[str, Any]]]] = {
        "Knobs and result": (
            1,
            [{"type": "PARALLEL", "selectedParams": axes, "selectedMetrics": [best], "runsCountToCompare": 100}],
        ),
        "Best epochs": (
            2,
            [{"type": "BAR", "metricKey": name} for name in dict.fromkeys([best, "best/recall_at_1"])],
        ),
        "Learning curves": (3, [{"type": "LINE", "metricKey": name, **_UNSMOOTHED} for name in lines]),
        "One knob at a time": (
            min(3, len(axes)),
            [_scatter({"key": axis, "type": "PARAM"}, best) for axis in axes],
        ),
        "Cost": (
            2,
            [_scatter({"key": f"applied/{name}", "type": "PARAM"}, best) for name in ("flops_per_list", "examples")],
        ),
    }
    charts, frames = [], []
    for i, (title, (columns, cards)) in enumerate(sections.items()):
        frame = f"section-{i}"
        frames.append(
            {"uuid": frame, "name": title, "display": True, "isReordered": True, "deleted": False, "columns": columns}
        )
        for j, card in enumerate(cards):
            common = {"uuid": f"chart-{i}-{j}", "metricSectionId": frame, "deleted": False, "isGenerated": False}
            charts.append({"runsCountToCompare": 20, **common, **card})
    return {"compareRunSections": frames, "compareRunCharts": charts}


def _scatter(across: dict[str, str], metric: str) -> dict[str, Any]:
    return {
        "type": "SCATTER",
        "xaxis": across,
        "yaxis": {"key": metric, "type": "METRIC"},
        "runsCountToCompare": 100,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
