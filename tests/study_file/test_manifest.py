import pytest

from reranker.config import TablesData
from reranker.data.assemble import RerankingData
from reranker.data.candidate_lists import fingerprint
from reranker.errors import InputError
from results.study.list_facts import ListFacts
from tests.stored import Maker
from tune.study_file import manifest
from tune.study_file.manifest import check_same, keep_missing_lists
from tune.study_file.study import Study

STUDY = {
    "study": {"name": "older", "trials": 2},
    "data": {"source": "demo", "users": 60},
    "fixed": {"model": "demo-tiny", "candidates": 10, "collaborative_scores": "counts"},
    "space": {"epochs": {"int": [1, 2]}},
}


def test_a_study_without_collaborative_scores_does_not_go_on_with_them(tmp_path):
    study = Study.load(STUDY)
    data = RerankingData.prepare(study.data)
    older = Maker(tmp_path, "older").baseline("popularity", 1.0)
    with pytest.raises(InputError, match="begun before collaborative scores"):
        check_same(older.study, study, data)
    with pytest.raises(InputError) as told:
        check_same(older.baseline("collaborative", 1.0).study, study, data)
    assert "collaborative" not in str(told.value), "it has other faults, but not this one"


def test_a_mapping_is_read_as_a_file_is(tmp_path):
    study = Study.load({**STUDY, "data": {"source": "tables", "interactions": tmp_path / "c.csv", "items": "p.csv"}})
    assert isinstance(study.data, TablesData)
    assert study.data.interactions == tmp_path / "c.csv"
    assert study.base().collaborative_scores == "counts"
    assert Study.load(STUDY, ["candidates=12"]).base().candidates == 12
    with pytest.raises(InputError) as told:
        Study.load({**STUDY, "study": {"name": "x", "trails": 2}, "space": {"epochs": {"int": [2, 1]}}})
    assert "the study: study.trails: there is no such field here; did you mean 'trials'?" in str(told.value)
    assert len(told.value.faults) >= 3


def test_a_study_does_not_go_on_with_another_revision_of_its_model(tmp_path, monkeypatch):
    study = Study.load(STUDY)
    data = RerankingData.prepare(study.data)
    older = Maker(tmp_path, "older").baseline("popularity", 1.0).study
    older.write_manifest(older.read_manifest() | {"revisions": {"qwen3-0.6b": "a" * 40}})
    monkeypatch.setattr(manifest, "revision_of", lambda model: "b" * 40)
    with pytest.raises(InputError, match="must stay the revision that the study was begun with, aaaaaaaaaaaa") as told:
        check_same(older, study, data)
    assert f"hf download Qwen/Qwen3-0.6B --revision {'a' * 40}" in str(told.value)
    monkeypatch.setattr(manifest, "revision_of", lambda model: "")  # it has to be fetched first
    with pytest.raises(InputError) as told:
        check_same(older, study, data)
    assert "revision" not in str(told.value)


def test_a_study_of_before_gets_its_lists_if_they_are_still_the_same(tmp_path):
    study = Study.load(STUDY)
    data = RerankingData.prepare(study.data)
    older = Maker(tmp_path, "older").study
    keep_missing_lists(study, data, older)
    assert ListFacts.missing(older), "its manifest does not say that the lists are these"
    older.write_manifest(older.read_manifest() | {"lists": fingerprint(data.validation(study.base()))})
    keep_missing_lists(study, data, older)
    assert ListFacts.of_study(older).user_ids == data.interactions.user_ids
    (older.path / "lists.parquet").write_text("no table")
    keep_missing_lists(study, data, older)
    assert ListFacts.of_study(older).user_ids == data.interactions.user_ids
