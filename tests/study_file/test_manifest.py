import pandas as pd
import pytest

from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import fingerprint
from reranker.data_config import TablesData
from reranker.errors import InputError
from results.study.list_facts import ListFacts
from tests.pictures import draw, serving, shop
from tests.stored import Maker
from tune.launching.launch import begin_study
from tune.study_file import manifest
from tune.study_file.manifest import check_same, keep_missing_lists, make_manifest
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


def test_the_manifest_tells_the_protocol():
    by_time = {"source": "demo", "users": 40, "split": "time", "validation_from": 5, "test_from": 7}
    full = {"targets_per_user": 2, "candidate_mode": "retrieval", "evaluation": "full"}
    plans = []
    for given in (STUDY["data"], {**by_time, **full}):
        study = Study.load({**STUDY, "data": given})
        data = RerankingData.prepare(study.data).sealed()
        plans.append(make_manifest(study, data, "", data.baselines(study.base(), "validation"))["plan"])
    names = ("split", "validation_from", "test_from", "evaluation", "validation_lists", "validation_users")
    assert [plans[0].get(name) for name in names] == ["leave_one_out", None, None, "sampled", 60, 60]
    assert [plans[1].get(name) for name in names] == ["time", "5", "7", "full", 80, 40]


def test_a_study_of_before_goes_on_and_one_with_another_split_does_not():
    assert Study.load(STUDY).fingerprint == "3ed2ed53f78b794f"
    by_time = Study.load({**STUDY, "data": {"source": "demo", "users": 60, "split": "time"}})
    assert by_time.fingerprint != Study.load(STUDY).fingerprint


def test_a_study_does_not_go_on_with_another_revision_of_its_model(tmp_path, monkeypatch):
    study = Study.load(STUDY)
    data = RerankingData.prepare(study.data)
    older = Maker(tmp_path, "older").baseline("popularity", 1.0).study
    older.write_manifest(older.read_manifest() | {"revisions": {"qwen3-0.6b": "a" * 40}})
    monkeypatch.setattr(manifest, "revision_of", lambda model: "b" * 40)
    with pytest.raises(InputError, match="must stay at the revision that the study began with, aaaaaaaaaaaa") as told:
        check_same(older, study, data)
    assert f"hf download Qwen/Qwen3-0.6B --revision {'a' * 40}" in str(told.value)
    monkeypatch.setattr(manifest, "revision_of", lambda model: "")  # it has to be fetched first
    with pytest.raises(InputError) as told:
        check_same(older, study, data)
    assert "revision" not in str(told.value)


def test_a_study_does_not_go_on_with_other_lists_although_data_and_study_are_the_same(tmp_path):
    study = Study.load(STUDY)
    data = RerankingData.prepare(study.data)
    older = Maker(tmp_path, "older").baseline("popularity", 1.0).baseline("collaborative", 1.0).study
    tags = {"data_fingerprint": data.interactions.fingerprint, "code_version": "0.0.9"}
    same = older.read_manifest() | {"fingerprint": study.fingerprint, "tags": tags, "reports_per_epoch": 1}
    older.write_manifest(same | {"lists": fingerprint(data.validation(study.base()))})
    check_same(older, study, data)
    older.write_manifest(same | {"lists": fingerprint(data.validation(study.base())[1:])})
    with pytest.raises(InputError, match="the validation lists are not those that the study began with") as told:
        check_same(older, study, data)
    assert "go on with 0.0.9, which made them, or start a new study" in str(told.value)
    older.write_manifest(same)
    check_same(older, study, data)  # begun before they were kept


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


@pytest.mark.usefixtures("own_cache")
def test_an_image_that_could_not_be_had_at_first_is_none_of_a_study_that_goes_on(tmp_path):
    drawn = draw(tmp_path / "a.png").read_bytes()
    answers = {"/a.png": drawn}
    with serving(answers) as (at, _):
        cells = {f"i{number}": f"{at}/{'a' if number % 2 else 'late'}.png" for number in range(12)} | {"i12": ""}
        data = shop(tmp_path, cells, images={"fetch": True, "missing": "text"}).model_dump(exclude_unset=True)
        study = Study.load(
            {**STUDY, "data": {"source": "tables", **data}, "fixed": {"model": "demo-tiny", "candidates": 2}}
        )
        begun = begin_study(study, RerankingData.prepare(study.data).sealed(), tmp_path / "runs")
        answers["/late.png"] = drawn
        with pytest.raises(InputError, match="the data are not those that the study began with"):
            check_same(begun, study, RerankingData.prepare(study.data).sealed())
        later = RerankingData.prepare(study.data, begun.imageless()).sealed()
    check_same(begun, study, later)
    assert begun.imageless() == ["i0", "i10", "i2", "i4", "i6", "i8"]
    assert "; 6 more have one now that they did not have when the study began" in later.describe(study.base())
    assert later.imageless == begun.imageless()


@pytest.mark.parametrize("grades", ["order", "rating"])
def test_a_study_whose_right_items_are_graded_by_ratings_does_not_go_on_with_other_ratings(tmp_path, grades):
    rows = pd.DataFrame([(f"u{u}", f"i{i}", i, 1 + i % 5) for u in range(6) for i in range(u, u + 9)])
    rows.columns = ["user_id", "item_id", "timestamp", "rating"]
    rows.to_csv(tmp_path / "i.csv", index=False)
    items = pd.DataFrame({"item_id": sorted(set(rows["item_id"]))})
    items.assign(text="Item " + items["item_id"]).to_csv(tmp_path / "t.csv", index=False)
    tables = {"interactions": str(tmp_path / "i.csv"), "items": str(tmp_path / "t.csv"), "min_item": 1}
    fixed = {"model": "demo-tiny", "candidates": 4, "positives": 2, "positive_grades": grades}
    study = Study.load({**STUDY, "data": {"source": "tables", **tables}, "fixed": fixed})
    begun = begin_study(study, RerankingData.prepare(study.data).sealed(), tmp_path / "runs")
    check_same(begun, study, RerankingData.prepare(study.data).sealed())
    rows.assign(rating=6 - rows["rating"]).to_csv(tmp_path / "i.csv", index=False)
    others = RerankingData.prepare(study.data).sealed()
    if grades == "order":
        check_same(begun, study, others)  # nothing looks at them
        return
    with pytest.raises(InputError, match="the ratings are not those that the study began with"):
        check_same(begun, study, others)
