"""A table of a teacher's scores is what is trained on, and each of its faults is told with file, line and rule at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import InputError

CONFIG = TrialConfig(model="demo-tiny", teacher="file")


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Of each user and item of a small demo, drawn."""
    interactions = RerankingData.prepare(DemoData(users=12)).interactions
    pairs = pd.MultiIndex.from_product([interactions.user_ids, interactions.item_ids], names=["user_id", "item_id"])
    rng = np.random.default_rng(0)
    return pd.DataFrame({"score": rng.normal(size=len(pairs)).round(4)}, index=pairs).reset_index()


def prepared(table: pd.DataFrame, path: Path) -> RerankingData:
    (table.to_parquet if path.suffix == ".parquet" else table.to_csv)(path, index=False)
    return RerankingData.prepare(DemoData(users=12, teacher_scores=path))


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_each_candidate_has_the_file_s_score(scores, tmp_path, name):
    data = prepared(scores.sample(frac=1, random_state=1), tmp_path / name)
    known = scores.set_index(["user_id", "item_id"])["score"]
    ids = data.interactions
    example = data.training_examples(CONFIG, 0)[5]
    expected = np.array([known[ids.user_ids[example.user], ids.item_ids[item]] for item in example.candidates])
    assert np.corrcoef(example.teacher, expected)[0, 1] == pytest.approx(1, abs=1e-6), "up to a temperature"
    assert data.sealed().training_examples(CONFIG, 0) == data.training_examples(CONFIG, 0)
    assert data.refit().teacher_file is data.teacher_file
    assert f"the teacher's file has {len(scores):,} scores" in data.describe(CONFIG)


def test_pairs_may_be_missing_and_rows_of_others_are_counted(scores, tmp_path):
    other = pd.DataFrame({"user_id": ["nobody"], "item_id": [scores["item_id"][0]], "score": [1.0]})
    data = prepared(pd.concat([scores.sample(frac=2 / 3, random_state=0), other]), tmp_path / "scores.csv")
    values = np.array([e.teacher for e in data.training_examples(CONFIG, 0)])
    assert 0.2 < np.isnan(values).mean() < 0.5
    assert "scores; 1 others are of users or items that are not in the data" in data.describe(CONFIG)


def test_in_how_many_lists_there_is_something_to_learn_is_told(scores, tmp_path):
    user, item = scores["user_id"], scores["item_id"]
    of_one_user_all = scores[(user == user[0]) | (item == item[0])]
    data = prepared(of_one_user_all, tmp_path / "scores.csv")
    trained_on = [example.user for example in data.training_examples(CONFIG.model_copy(update={"teacher": "none"}), 0)]
    share = trained_on.count(data.interactions.user_ids.index(user[0])) / len(trained_on)
    assert 0 < share < 0.2
    assert f"it compares candidates of {share:.0%} of the training lists" in data.describe(CONFIG)


def test_all_faults_of_rows_are_told_together(scores, tmp_path):
    broken = scores.astype({"score": object}).head(6)
    broken.loc[1, "score"] = "much"
    broken.loc[2, "score"] = float("inf")
    broken.loc[3, "score"] = -1e39
    broken.loc[4, "user_id"] = " "
    with pytest.raises(InputError) as caught:
        prepared(broken, tmp_path / "scores.csv")
    found = [(Path(fault.file).name, fault.line, fault.field, fault.rule) for fault in caught.value.faults]
    assert found == [
        ("scores.csv", 3, "score", "a score must be a finite number"),
        ("scores.csv", 4, "score", "a score must be a finite number"),
        ("scores.csv", 5, "score", "a score must be at most 3.4e38, which 32 bits hold"),
        ("scores.csv", 6, "user_id", "must not be empty"),
    ]


def test_users_and_items_without_a_score_and_pairs_with_two_are_told_together(scores, tmp_path):
    user, item = scores["user_id"][0], scores["item_id"][7]
    some = scores[(scores["user_id"] != user) & (scores["item_id"] != item)]
    with pytest.raises(InputError) as caught:
        prepared(pd.concat([some, some.tail(1)]), tmp_path / "scores.csv")
    found = [(fault.line, fault.field, fault.value, fault.rule) for fault in caught.value.faults]
    assert found == [
        (None, "user_id", user, "every user that is trained on must have a score"),
        (None, "item_id", item, "every item of the catalogue must have a score"),
        (len(some) + 2, "item_id", some["item_id"].iloc[-1], "a user must have one score of an item"),
    ]


def test_many_missing_ones_are_counted(scores, tmp_path):
    with pytest.raises(InputError) as caught:
        prepared(scores[scores["item_id"] < scores["item_id"].unique()[5]], tmp_path / "scores.parquet")
    assert len(caught.value.faults) == 20
    missing = scores["item_id"].nunique() - sum(scores["item_id"].unique() < scores["item_id"].unique()[5])
    assert caught.value.total == missing


@pytest.mark.parametrize(
    ("content", "rule"),
    [("user_id,item_id,value\n1,2,3\n", "score: the file must have this column"), ("", "must not be empty")],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, rule):
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(InputError, match=rule):
        RerankingData.prepare(DemoData(users=12, teacher_scores=tmp_path / "scores.csv"))
    with pytest.raises(InputError, match="the file must exist"):
        RerankingData.prepare(DemoData(users=12, teacher_scores=tmp_path / "none.csv"))


def test_only_who_is_trained_on_must_be_there(scores, tmp_path):
    scores.to_csv(tmp_path / "all.csv", index=False)
    data = DemoData(users=12, teacher_scores=tmp_path / "all.csv", training_users=3)
    users = {e.user for e in RerankingData.prepare(data).training_examples(CONFIG, 0)}
    ids = RerankingData.prepare(data).interactions.user_ids
    scores[scores["user_id"].isin([ids[user] for user in users])].to_csv(tmp_path / "some.csv", index=False)
    some = data.model_copy(update={"teacher_scores": tmp_path / "some.csv"})
    assert {e.user for e in RerankingData.prepare(some).training_examples(CONFIG, 0)} == users
    with pytest.raises(InputError, match="every user that is trained on"):
        RerankingData.prepare(some.model_copy(update={"training_users": None}))
