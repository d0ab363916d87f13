"""The baselines that a study names: scored before its first trial, kept in its folder, added to when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reranker.data.assemble import RerankingData
from reranker.data.recommenders.sequence_models import tuning
from reranker.data.recommenders.sequence_models.networks import Recipe
from reranker.metrics import summarise
from results import sealed_test
from results.study.study_folder import StudyFolder
from tests.stored import Maker
from tune.launching.launch import begin_study
from tune.run_search import main as run_search_main
from tune.study_file.manifest import keep_missing_baselines, score_baselines
from tune.study_file.study import Study

PROJECT = Path(__file__).resolve().parents[2]
STUDY = {
    "study": {"name": "mine", "trials": 2},
    "data": {"source": "demo", "users": 60},
    "fixed": {"model": "demo-tiny", "candidates": 10},
    "space": {"epochs": {"int": [1, 2]}},
}


def study_of(*baselines: str, fixed: dict[str, Any] | None = None, **settings: Any) -> Study:
    section = {"name": "mine", "trials": 2, "baselines": list(baselines), **settings}
    return Study.load({**STUDY, "study": section, "fixed": {"model": "demo-tiny", "candidates": 10, **(fixed or {})}})


def sealed(study: Study) -> RerankingData:
    return RerankingData.prepare(study.data).sealed()


@pytest.fixture
def quick(monkeypatch, own_cache) -> None:
    monkeypatch.setattr(tuning, "FIRST", {"sasrec": Recipe("sasrec", width=16, layers=1)})
    monkeypatch.setattr(tuning, "OTHERS", {})
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 2)


def test_auto_stands_for_what_takes_seconds():
    automatic = ("popularity", "markov", "item_knn", "ease", "collaborative")
    assert Study.load(STUDY).baselines == automatic
    assert study_of("sasrec", "auto", "ease", "bm25").baselines == ("sasrec", *automatic, "bm25")
    assert Study.load(STUDY, ["study.baselines=bm25"]).baselines == ("bm25",)
    assert study_of().baselines == ()


def test_what_is_added_to_the_model_s_scores_is_a_baseline_whatever_is_named():
    named, added = study_of("popularity"), study_of("popularity", fixed={"collaborative_scores": "counts"})
    assert list(score_baselines(named, sealed(named)).ranks) == ["random", "popularity"]
    assert list(score_baselines(added, sealed(added)).ranks) == ["random", "popularity", "collaborative"]


@pytest.mark.usefixtures("quick")
def test_a_study_begins_with_the_ranks_of_its_baselines_their_recipes_and_what_was_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("reranker.data.baselines.baseline_ranks.MOST_ITEMS", {"ease": 100})
    study, lines = study_of("popularity", "ease", "sasrec"), list[str]()
    data = sealed(study)
    scored = score_baselines(study, data, lines.append)
    assert "sasrec, recipe 1 of 7 at most (width 16, dropout 0.3, rate 0.001): ndcg_at_10 0." in lines[-1]
    folder = begin_study(study, data, tmp_path, baselines=scored)
    assert folder.baselines() == ["popularity", "sasrec"]
    assert folder.references()["sasrec"] == summarise(scored.ranks["sasrec"])
    assert folder.baseline("sasrec").read_figures()["recipe"]["width"] == 16
    assert folder.left_out_baselines() == {
        "ease": "it inverts a matrix of items by items, so that it takes 100 items at most; there are 208"
    }


@pytest.mark.usefixtures("own_cache")
def test_a_baseline_without_the_time_for_an_epoch_is_left_out(tmp_path):
    study = study_of("popularity", "sasrec", baseline_minutes=1e-9)
    folder = begin_study(study, sealed(study), tmp_path)
    assert folder.baselines() == ["popularity"]
    assert folder.left_out_baselines()["sasrec"].endswith("and 6e-08 s were given")


@pytest.mark.usefixtures("quick")
def test_a_study_that_goes_on_gets_the_baselines_that_it_names_by_now(tmp_path, monkeypatch):
    study = study_of("popularity")
    folder = begin_study(study, sealed(study), tmp_path)
    kept = (folder.baseline("popularity").path / "ranks.parquet").stat().st_mtime_ns
    monkeypatch.setattr("reranker.data.baselines.baseline_ranks.MOST_ITEMS", {"ease": 100})
    more = study_of("popularity", "bm25", "sasrec", "ease")
    keep_missing_baselines(more, sealed(more), folder, lambda line: None)
    assert folder.baselines() == ["bm25", "popularity", "sasrec"]
    assert list(folder.left_out_baselines()) == ["ease"]
    assert (folder.baseline("popularity").path / "ranks.parquet").stat().st_mtime_ns == kept
    fewer = study_of("bm25")
    keep_missing_baselines(fewer, sealed(fewer), folder, lambda line: None)
    assert folder.baselines() == ["bm25", "popularity", "sasrec"], "what was scored is not unsaid"


def test_other_lists_get_no_baselines(tmp_path):
    study = study_of("popularity")
    folder = begin_study(study, sealed(study), tmp_path)
    folder.write_manifest(folder.read_manifest() | {"lists": "others"})
    more = study_of("popularity", "bm25")
    keep_missing_baselines(more, sealed(more), folder, lambda line: None)
    assert folder.baselines() == ["popularity"]


def test_the_sealed_test_trains_by_what_was_found_on_validation(tmp_path):
    figures = {"recipe": {"architecture": "sasrec"}, "epochs": 7, "recipes_tried": 3, "seconds": 60.0}
    maker = Maker(tmp_path).baseline("popularity", 0.5).baseline("sasrec", 1.0).untrained("demo-tiny")
    maker.study.baseline("sasrec").write_figures(figures)
    plan = sealed_test._plan(maker.study)
    assert plan.names == ("popularity", "sasrec")
    assert plan.tuned == {"sasrec": figures}


def check(capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    options = [text for setting in ("data.users=60", *settings) for text in ("--set", setting)]
    assert run_search_main([str(PROJECT / "search_spaces" / "quick.yaml"), "--check", *options]) == 0
    return capsys.readouterr().out


def test_the_plan_says_what_baselines_take(capsys):
    assert "baselines: popularity, markov, item_knn, ease, collaborative\n" in check(capsys)
    out = check(capsys, "study.baselines=[auto, sasrec]")
    assert "baselines: popularity, markov, item_knn, ease, collaborative, sasrec\n" in out
    assert "baseline sasrec: an epoch takes " in out
    assert "tuned before the first trial, that takes about " in out
    short = check(capsys, "study.baselines=sasrec", "study.baseline_minutes=1e-9")
    assert "it would be left out, since that is less than an epoch" in short


def test_the_plan_says_of_an_encoder_that_is_not_here_that_it_is_fetched(capsys):
    baseline = check(capsys, "study.baselines=dense", "data.dense_model=nobody/nothing")
    assert "baseline dense: nobody/nothing is not here yet; it is fetched when the search begins" in baseline
    retriever = check(capsys, "data.retriever=dense", "data.dense_model=nobody/nothing")
    assert "data: demo or their encoder nobody/nothing, not here yet, fetched when the search begins" in retriever


@pytest.mark.parametrize("settings", [["study.baselines=dense"], ["data.retriever=dense"]])
def test_an_encoder_that_can_not_be_is_told_by_the_check(settings, capsys):
    options = [text for setting in (*settings, "data.dense_model=nowhere") for text in ("--set", setting)]
    assert run_search_main([str(PROJECT / "search_spaces" / "quick.yaml"), "--check", *options]) == 2
    assert "data.dense_model: the encoder must be a folder that exists, or an id of the Hub" in capsys.readouterr().err


def test_a_folder_of_before_has_left_nothing_out(tmp_path):
    study: StudyFolder = Maker(tmp_path).study
    assert study.left_out_baselines() == {}
