"""What is known of a study's validation lists, and the parts that they are told apart in."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import MISSING
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import DamagedFile
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder

NAMES = [f"u{i}" for i in range(6)]


def facts(**given) -> ListFacts:
    """Six lists of three candidates; ten items, of which the first was touched by most users and the last by nobody."""
    made = {
        "user_ids": NAMES,
        "history": np.array([1, 2, 2, 5, 8, 9]),
        "target": np.array([0, 0, 1, 4, 5, 9]),
        "candidates": np.array(
            [[0, 2, 3], [3, 0, 2], [2, 3, 1], [4, 2, 3], [3, 5, 6], [7, 8, 9]], dtype=np.int32
        ),
        "item_ids": [f"i{i}" for i in range(10)],
        "titles": [f"Item {i}" for i in range(10)],
        "popularity": np.array([40, 30, 6, 5, 4, 3, 2, 1, 1, 0]),
    }  # fmt: skip
    return ListFacts(**{**made, **given})


def parts(made: ListFacts, by: str) -> dict[str, tuple[str, list[int]]]:
    return {s.name: (s.detail, np.flatnonzero(s.lists).tolist()) for s in made.segments() if s.by == by}


def test_histories_are_told_apart_in_thirds_of_the_lists_equal_lengths_together():
    assert parts(facts(), "history") == {
        "short": ("length 1 to 2", [0, 1, 2]), "middle": ("length 5", [3]), "long": ("length 8 to 9", [4, 5])
    }  # fmt: skip


def test_two_lengths_that_most_lists_have_are_short_and_long():
    assert parts(facts(history=np.array([2, 2, 2, 5, 5, 5])), "history") == {
        "short": ("length 2", [0, 1, 2]), "long": ("length 5", [3, 4, 5])
    }  # fmt: skip


def test_targets_are_told_apart_by_how_many_users_touched_them_in_training():
    assert parts(facts(), "target") == {
        "cold": ("nobody touched it in training", [5]),
        "long tail": ("1 to 29 users", [3, 4]),
        "short head": ("30 users or more", [0, 1, 2]),
    }


def test_one_user_is_no_range_of_users():
    sparse = facts(popularity=np.array([2, 2, 1, 1, 1, 1, 1, 1, 1, 0]))
    assert [detail for detail, _ in parts(sparse, "target").values()][1:] == ["1 user", "2 users or more"]
    level = facts(popularity=np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0]))
    assert parts(level, "target")["short head"][0] == "1 user or more"


def test_items_that_tie_with_the_last_of_the_fifth_are_in_the_short_head():
    tied = facts(popularity=np.array([40, 30, 30, 30, 4, 3, 2, 1, 1, 0]))
    assert tied.head == 30
    assert facts(popularity=np.array([7, 6, 5, 4, 3, 0, 0, 0, 0, 0])).head == 7


def test_places_are_counted_from_one_and_a_missed_target_is_a_part_of_its_own():
    assert parts(facts(), "place") == {
        "first third": ("place 1", [0, 3]), "middle third": ("place 2", [1, 4]), "last third": ("place 3", [2, 5])
    }  # fmt: skip
    missed = facts(target=np.array([0, 0, 1, 4, 5, 4]))
    assert missed.place.tolist() == [0, 1, 2, 0, 1, MISSING]
    assert parts(missed, "place")["not listed"] == ("the retriever missed it", [5])


def test_a_way_that_leaves_all_lists_in_one_part_is_left_out():
    alike = facts(history=np.full(6, 4), target=np.array([0, 0, 1, 0, 0, 1]))
    assert {segment.by for segment in alike.segments()} == {"place"}


def test_lists_are_those_of_the_ranked_users_in_the_order_of_their_ids():
    mixed = facts(user_ids=["b", "a", "d", "c", "f", "e"]).ranked_for({"a", "c", "d"})
    assert mixed.user_ids == ["a", "c", "d"]
    assert mixed.history.tolist() == [2, 5, 2]
    assert mixed.candidates.tolist() == [[3, 0, 2], [4, 2, 3], [2, 3, 1]]


def test_what_is_kept_is_what_is_read(tmp_path):
    study = StudyFolder.create(tmp_path, "films")
    facts().keep(study)
    read = ListFacts.of_study(study)
    assert (read.user_ids, read.item_ids, read.titles) == (NAMES, facts().item_ids, facts().titles)
    for name in ("history", "target", "candidates", "popularity"):
        assert getattr(read, name).tolist() == getattr(facts(), name).tolist()


def test_a_study_of_before_says_so_in_a_sentence(tmp_path):
    study = StudyFolder.create(tmp_path, "films")
    with pytest.raises(EnvironmentFault, match="films was begun by an older version, which kept no lists"):
        ListFacts.of_study(study)
    facts().keep(study)
    assert ListFacts.missing(study) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"candidates": [np.array([0, 1, 2], np.int32)] * 5 + [np.array([0], np.int32)]}, "have different lengths"),
        ({"target": np.array([0, 0, 1, 4, 5, 10])}, "has items that items.parquet lacks"),
    ],
)
def test_lists_that_can_not_be_are_damaged(tmp_path, given, said):
    study = StudyFolder.create(tmp_path, "films")
    facts(**given).keep(study)
    with pytest.raises(DamagedFile, match=said):
        ListFacts.of_study(study)


def test_the_facts_of_several_targets_a_user_are_those_of_each(tmp_path):
    by_time = DemoData(users=40, split="time", validation_from=5, test_from=7, targets_per_user=2)
    data = RerankingData.prepare(by_time).sealed()
    lists = data.validation(TrialConfig(candidates=10))
    made = ListFacts.of(data, lists)
    assert made.user_ids[:4] == [data.interactions.user_ids[user] for user in (0, 0, 1, 1)]
    assert made.history.tolist() == [5, 6] * 40
    assert made.target.tolist() == [example.candidates[example.target] for example in lists]
    cold = {segment.name: segment for segment in made.segments()}["cold"]
    trained = set(np.concatenate(data.split.train).tolist())
    assert cold.lists.tolist() == [target not in trained for target in made.target.tolist()]
    assert 0 < cold.lists.sum() < len(lists)


def test_the_facts_of_the_demo_are_those_of_its_lists(demo):
    config = TrialConfig(candidates=10)
    sealed, lists = demo.sealed(), demo.validation(config)
    made = ListFacts.of(sealed, sealed.validation(config))
    assert made.place.tolist() == [example.target for example in lists]
    assert made.history.tolist() == [len(example.history) for example in lists]
    assert [made.item_ids[item] for item in made.target[:3]] == [
        demo.interactions.item_ids[example.candidates[example.target]] for example in lists[:3]
    ]
    assert made.popularity.sum() == sum(len(sequence) for sequence in demo.split.train)
    assert not any(re.search(r"\s\s|\n", title) or len(title) > 100 for title in made.titles)


@pytest.mark.parametrize("name", ["lists.parquet", "items.parquet"])
def test_another_study_s_lists_are_not_believed(tmp_path, name):
    study, other = (StudyFolder.create(tmp_path, name) for name in ("films", "books"))
    for folder, lists in ((study, "f00d"), (other, "beef")):
        folder.write_manifest({"metric": "ndcg_at_10", "references": {}, "lists": lists})
        facts().keep(folder, lists)
    assert ListFacts.of_study(study).user_ids == NAMES
    shutil.copy(other.path / name, study.path / name)
    with pytest.raises(DamagedFile, match=rf"films/{name} is of other lists than the study's"):
        ListFacts.of_study(study)
