import pytest
from stored import Maker

from reranker.data.assemble import RerankingData
from reranker.errors import InputError
from tune.study_file.manifest import check_same
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
    assert study.data.interactions == tmp_path / "c.csv"
    assert study.base().collaborative_scores == "counts"
    assert Study.load(STUDY, ["candidates=12"]).base().candidates == 12
    with pytest.raises(InputError) as told:
        Study.load({**STUDY, "study": {"name": "x", "trails": 2}, "space": {"epochs": {"int": [2, 1]}}})
    assert "the study: study.trails: there is no such field here; did you mean 'trials'?" in str(told.value)
    assert len(told.value.faults) >= 3
