"""The full evaluation: a target's rank is its place in the whole catalogue, for baselines and for whatever reranks a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import fingerprint
from reranker.data.example import MISSING, Evaluated
from reranker.data.recommenders.linear_recommenders import RECOMMENDERS
from reranker.data_config import DemoData, MovieLensData
from reranker.evaluation.evaluate import evaluate, items_behind
from reranker.metrics import METRIC_NAMES, NOWHERE, summarise
from reranker.training.sft import fine_tune
from tests.present import present

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "ml-latest-small.zip"
CONFIG = TrialConfig(candidates=10, collaborative_scores="none")
PARTS: tuple[Evaluated, ...] = ("validation", "test")


def prepared(evaluation: str = "full", **settings) -> RerankingData:
    return RerankingData.prepare(
        DemoData(
            **{"users": 150, "candidate_mode": "retrieval", "retriever": "markov", "evaluation": evaluation, **settings}
        )
    )


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return prepared()


def by_hand(data: RerankingData, name: str, part: Evaluated) -> tuple[list[int], list[int], list[int]]:
    """Of each target the items that score higher and as high, and its place in the retriever's order, the slow way."""
    items, end = len(data.interactions.item_ids), {"validation": -2, "test": -1}[part]
    before = [sequence[:end] for sequence in data.interactions.sequences]
    fitted, popular = RECOMMENDERS[name](before, items), np.bincount(np.concatenate(before), minlength=items)
    greater, ties, places = [], [], []
    for sequence in data.interactions.sequences:
        history, target = sequence[:end].tolist(), int(sequence[end])
        scores = fitted.scores([history])[0]
        others = [item for item in range(items) if item not in history]
        greater.append(sum(scores[item] > scores[target] for item in others))
        ties.append(sum(scores[item] == scores[target] for item in others) - 1)
        order = sorted(others, key=lambda item: (-scores[item], -popular[item], item))
        places.append(order.index(target))
    return greater, ties, places


@pytest.mark.parametrize("part", PARTS)
def test_every_recommender_ranks_all_that_the_history_lacks(data, part):
    found = data.baselines(CONFIG, part).ranks
    assert list(found) == ["random", *RECOMMENDERS, "collaborative", "retriever"]
    for name in ("popularity", "markov"):
        greater, ties, _ = by_hand(data, name, part)
        assert (found[name].greater.tolist(), found[name].ties.tolist()) == (greater, ties)
    assert not set(found["ease"].greater.tolist()) <= set(range(10)), "beyond the ten of a list"


@pytest.mark.parametrize("part", PARTS)
def test_the_retrievers_rank_is_its_place_in_the_catalogue(data, part):
    _, _, places = by_hand(data, "markov", part)
    own = data.baselines(CONFIG, part).ranks["retriever"]
    assert own.greater.tolist() == places
    assert not own.ties.any()
    assert max(places) > 10
    lists = data.validation(CONFIG) if part == "validation" else data.test(CONFIG)
    missed = [example.target == MISSING for example in lists]
    assert missed == [place >= 10 for place in places]
    assert [e.behind for e in lists] == [place if place >= 10 else NOWHERE for place in places]


def test_collaborative_scores_rerank_the_lists_as_a_model_does(data):
    lists = data.validation(CONFIG)
    ranks, title_scores = (
        data.baselines(CONFIG, "validation").ranks["collaborative"],
        data.title_scores(CONFIG.model_copy(update={"collaborative_scores": "counts"})),
    )
    scores = present(title_scores).scores.scores([e.history for e in lists], np.array([e.candidates for e in lists]))
    by_model = evaluate(scores, np.array([e.target for e in lists]), behind=items_behind(lists)).ranks
    assert ranks.greater.tolist() == by_model.greater.tolist()
    assert [g for g, e in zip(ranks.greater, lists, strict=True) if e.target == MISSING] == [
        e.behind for e in lists if e.target == MISSING
    ]


def test_chance_is_one_of_all_items_that_the_history_lacks(data):
    items = len(data.interactions.item_ids)
    random = data.baselines(CONFIG, "validation").ranks["random"]
    expected = np.mean([1 / (items - len(example.history)) for example in data.validation(CONFIG)])
    assert summarise(random)["recall_at_1"] == pytest.approx(expected)
    assert summarise(random)["recall_at_10"] == pytest.approx(10 * expected)


def test_a_reranker_that_keeps_the_retrievers_order_has_its_ranks(data):
    ordered = prepared(candidate_order="retriever")
    lists = ordered.validation(CONFIG)
    scores = np.broadcast_to(-np.arange(10.0), (len(lists), 10))
    found = evaluate(scores, np.array([e.target for e in lists]), behind=items_behind(lists))
    own = data.baselines(CONFIG, "validation").ranks["retriever"]
    assert found.ranks.greater.tolist() == own.greater.tolist()
    assert {name: found.figures[name] for name in METRIC_NAMES} == summarise(own)
    assert found.figures["hit"] == np.mean([e.target != MISSING for e in lists])
    assert found.figures["retrieved/recall_at_10"] == 1.0


def test_a_perfect_reranker_is_first_where_the_list_holds_the_target_and_elsewhere_no_better(data):
    lists = data.validation(CONFIG)
    scores = np.array([[float(place == e.target) for place in range(10)] for e in lists])
    collaborative = np.zeros_like(scores)
    found = evaluate(scores, np.array([e.target for e in lists]), collaborative, 1.0, behind=items_behind(lists))
    assert found.ranks.greater.tolist() == [0 if e.target != MISSING else e.behind for e in lists]
    assert found.figures["recall_at_1"] == found.figures["alone/recall_at_1"] == data.ceiling(CONFIG)


def test_short_lists_do_not_limit_what_stands_behind_them(data):
    """Of lists of three, a target in fourth place has a rank of four, not a miss."""
    short = CONFIG.model_copy(update={"candidates": 3})
    lists = data.validation(short)
    found = evaluate(np.zeros((len(lists), 3)), np.array([e.target for e in lists]), behind=items_behind(lists))
    _, _, places = by_hand(data, "markov", "validation")
    assert found.figures["recall_at_10"] == np.mean(np.array(places) < 10)
    assert found.figures["recall_at_10"] > found.figures["hit"]


def test_sampled_lists_count_what_the_retriever_misses_as_misses():
    sampled = prepared("sampled")
    lists = sampled.validation(CONFIG)
    assert {e.behind for e in lists} == {NOWHERE}
    found = evaluate(np.zeros((len(lists), 10)), np.array([e.target for e in lists]), behind=items_behind(lists))
    assert (found.ranks.greater < NOWHERE).tolist() == [e.target != MISSING for e in lists]


def test_both_are_told_apart_by_their_fingerprints_and_have_the_same_lists(data):
    sampled = prepared("sampled")
    assert [e.candidates for e in sampled.validation(CONFIG)] == [e.candidates for e in data.validation(CONFIG)]
    assert fingerprint(sampled.validation(CONFIG)) != fingerprint(data.validation(CONFIG)), "no common comparison"
    assert sampled.interactions.fingerprint != data.interactions.fingerprint
    assert "in the others it stands where the retriever puts it: ranks are of the whole catalogue" in data.describe(
        CONFIG
    )
    assert "the others are misses" in sampled.describe(CONFIG)


def test_what_is_not_known_yet_is_not_in_the_catalogue():
    by_time = prepared(users=40, split="time", validation_from=4, test_from=6, targets_per_user=None)
    known = by_time.split.known("validation", len(by_time.interactions.item_ids))
    assert np.count_nonzero(~known) > 0
    lists = by_time.validation(CONFIG)
    random = by_time.baselines(CONFIG, "validation").ranks["random"]
    assert random.ties.tolist() == [known.sum() - len(example.history) - 1 for example in lists]
    assert {example.nth for example in lists} == {0, 1}


def test_a_training_reports_ranks_in_the_whole_catalogue_of_every_list_of_a_user(tmp_path):
    data = prepared(users=64, split="time", validation_from=5, test_from=7, targets_per_user=None)
    config = TrialConfig(model="demo-tiny", candidates=10, epochs=1, examples_per_user=1, permutations=2)
    folder, lists = TrialFolder(tmp_path), data.validation(config)
    report = present(fine_tune(config, data, folder=folder))
    users, ranks = folder.read_ranks()
    assert users == [data.interactions.user_ids[example.user] for example in lists]
    assert len(users) == 2 * len(set(users)) == 128
    missed = np.array([example.target == MISSING for example in lists])
    assert ranks.greater[missed].tolist() == [example.behind for example in lists if example.target == MISSING]
    assert ranks.greater[~missed].max() < 10 <= ranks.greater[missed].min()
    assert report.figures["recall_at_10"] == report.figures["hit"] == 1 - missed.mean()
    assert 0 < missed.mean() < 1


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="ml-latest-small.zip is not beside the project")
def test_movielens_figures_of_the_whole_catalogue_agree_with_the_published_ones():
    films = MovieLensData(path=ARCHIVE, candidate_mode="retrieval", retriever="popularity", evaluation="full")
    found = RerankingData.prepare(films).baselines(CONFIG.model_copy(update={"candidates": 50}), "test").ranks
    published = {"popularity": 0.021, "item_knn": 0.032, "ease": 0.041, "markov": 0.053}
    for name, ndcg in published.items():
        assert summarise(found[name])["ndcg_at_10"] == pytest.approx(ndcg, abs=0.005), name
    assert summarise(found["retriever"])["ndcg_at_10"] == pytest.approx(0.021, abs=0.005)
    assert summarise(found["random"])["recall_at_10"] == pytest.approx(10 / 3650, abs=0.001)


def test_a_full_evaluation_must_have_a_retriever():
    with pytest.raises(ValueError, match="evaluation: full must have candidate_mode: retrieval, whose retriever ranks"):
        DemoData(evaluation="full")
