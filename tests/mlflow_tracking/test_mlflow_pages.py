"""MLflow's pages, as they are built, still know the tags and addresses that they are given; a failure names what they lost."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow.utils import mlflow_tags

from tune.mlflow_tracking import mlflow_pages
from tune.mlflow_tracking.mlflow_pages import Links

CHANGED = f"MLflow {mlflow.__version__} has changed what tune/mlflow_tracking/mlflow_pages.py reaches: "


@pytest.fixture(scope="module")
def pages() -> str:
    built = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(built.rglob("*.js")))


@pytest.mark.parametrize(
    "known",
    [
        mlflow_pages.NOTE,
        mlflow_pages.RUN_COLOR,
        mlflow_pages.RUN_TYPE,
        *mlflow_pages.UNFOLDED.values(),
        *mlflow_pages.OF_TRAINING,
        *mlflow_pages.OF_TRAINING.values(),
        mlflow_pages.view_tag("").removesuffix("."),
        "viewStateShareKey",
        "compareRunsMode",
        "workflowType",
        "compare-runs",
    ],
)
def test_the_pages_know_each_tag_and_each_part_of_an_address(pages, known):
    assert known in pages, CHANGED + f"nothing in its pages mentions {known!r}"


@pytest.mark.parametrize(
    "key",
    [
        "orderByKey", "orderByAsc", "selectedColumns", "searchFilter", "runsHiddenMode", "hideEmptyCharts",
        "compareRunSections", "compareRunCharts", "isAccordionReordered", "metricSectionId", "runsCountToCompare",
        "selectedParams", "selectedMetrics", "useGlobalLineSmoothing",
    ],
)  # fmt: skip
def test_the_pages_know_each_field_of_a_saved_view(pages, key):
    assert key in pages, CHANGED + f"nothing in its pages mentions {key!r}"


def test_a_run_s_parent_is_named_by_mlflow_s_own_tag():
    assert mlflow_pages.PARENT == mlflow_tags.MLFLOW_PARENT_RUN_ID, CHANGED + "the tag of a run's parent"


def test_links_lead_to_the_runs_of_the_experiment():
    links = Links("7", "parent", {"3": "abc", "popularity": "def"})
    assert links.run("3") == "#/experiments/7/runs/abc?workflowType=machine_learning"
    assert links.run("unknown") == links.study()
    assert "viewStateShareKey=charts&compareRunsMode=CHART" in links.view("charts")
    assert links.compare().startswith("#/compare-runs?runs=%5B%22abc%22%5D&experiments=%5B%227%22%5D")
