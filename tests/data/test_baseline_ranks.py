from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from reranker.data.baselines.baseline_ranks import baseline_ranks
from reranker.data.candidates.candidate_lists import CandidateSampler
from reranker.data.example import Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders import linear_recommenders
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.sources import load
from reranker.data.split import split
from reranker.data_config import MovieLensData
from reranker.metrics import chance, summarise

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "ml-latest-small.zip"


def world(*sequences: list[int], items: int = 8) -> Interactions:
    names = [f"i{i}" for i in range(items)]
    arrays = [np.array(s, dtype=np.int32) for s in sequences]
    return Interactions([f"u{i}" for i in range(len(arrays))], names, names, arrays, [], "")


SEQUENCES = [np.array(s, dtype=np.int32) for s in ([0, 1, 2], [0, 1, 3], [0, 2, 4, 3], [5, 4, 3])]
HISTORY, CANDIDATES = (5, 0), np.array([[1, 2, 3, 4, 6]])


def scores(fit, sequences: list[np.ndarray], history: tuple[int, ...] = HISTORY, items: int = 8) -> np.ndarray:
    """Of CANDIDATES, which are the same on their own and out of the whole catalogue's."""
    fitted = fit(sequences, items)
    found = fitted.scores_of([history], CANDIDATES)
    assert np.array_equal(found, fitted.scores([history])[:, CANDIDATES[0]])
    return found[0]


def test_popularity_counts_users():
    assert scores(linear_recommenders.popularity, SEQUENCES).tolist() == [2, 2, 3, 2, 0]


def test_markov_counts_what_followed_the_last_item_and_falls_back_to_popularity():
    # 0 → 1 twice, 0 → 2 once, nothing else after 0; the 13 interactions order the rest: 3, then 4, then 6.
    assert scores(linear_recommenders.markov, SEQUENCES).tolist() == [2 + 2 / 14, 1 + 2 / 14, 3 / 14, 2 / 14, 0]


def test_markov_of_single_items_is_popularity():
    alone = [np.array([item], dtype=np.int32) for item in (1, 1, 3)]
    assert scores(linear_recommenders.markov, alone).tolist() == [2 / 4, 0, 1 / 4, 0, 0]


def test_ease_solves_the_ridge_problem_without_self_similarity():
    """Each column of the weights is the ridge solution that predicts an item from all others: Steck's constraint."""
    rows = np.zeros((4, 8))
    for row, sequence in zip(rows, SEQUENCES, strict=True):
        row[sequence] = 1
    for item, score in zip(CANDIDATES[0], scores(linear_recommenders.ease, SEQUENCES), strict=True):
        others = [i for i in range(8) if i != item]
        known = rows[:, others]
        weights = np.linalg.solve(known.T @ known + 200 * np.eye(7), known.T @ rows[:, item])
        assert score == pytest.approx(sum(weights[others.index(i)] for i in HISTORY), abs=1e-12)


def test_item_knn_prefers_what_shares_users_with_the_history():
    sequences = [np.array(s, dtype=np.int32) for s in ([0, 1, 5], [0, 1, 6], [2, 3, 5], [2, 3, 7], [4, 6, 7])]
    first, *others = scores(linear_recommenders.item_knn, sequences, history=(0,))
    assert first > 0
    assert others[1:3] == [0, 0], "3 and 4 share no user with 0"
    assert (
        scores(linear_recommenders.item_knn, sequences, (0, 5)).tolist()
        == scores(linear_recommenders.item_knn, sequences, (5, 0)).tolist()
    )


def test_whole_catalogues_are_scored_in_parts_that_fit_the_memory(monkeypatch):
    data = [np.random.default_rng(user).permutation(50)[:8].astype(np.int32) for user in range(40)]
    candidates = np.array([np.random.default_rng(row).permutation(50)[:6] for row in range(40)])
    fitted = linear_recommenders.item_knn(data, 50)
    whole = fitted.scores_of(data, candidates)
    monkeypatch.setattr(linear_recommenders, "_BLOCK_CELLS", 350)
    assert [part.stop - part.start for part in linear_recommenders.blocks(40, 50)] == [7] * 5 + [5]
    assert np.array_equal(fitted.scores_of(data, candidates), whole)


def test_each_part_is_ranked_by_what_came_before_it():
    # Item 3 is the validation item of all users: unseen before validation, seen by all before test.
    data = world([0, 3, 1], [0, 3, 2], [0, 3, 4], [0, 3, 5])
    parts = split(data)
    validation = [Example(0, (0,), (6, 3), 1)]
    test = [Example(0, (0, 3), (6, 1), 1)]
    before_validation = baseline_ranks(data, parts, RankedLists.of(validation), "validation").ranks
    assert before_validation["popularity"].ties.tolist() == [1]
    assert before_validation["markov"].ties.tolist() == [1]
    swapped = [Example(0, (0, 3), (3, 1), 1)]
    assert baseline_ranks(data, parts, RankedLists.of(swapped), "test").ranks["popularity"].greater.tolist() == [1]
    assert baseline_ranks(data, parts, RankedLists.of(test), "test").ranks["popularity"].ties.tolist() == [1], (
        "item 1 is the test item"
    )


def test_random_is_exactly_chance():
    data = world([0, 1, 2, 3], [3, 2, 1, 0])
    parts = split(data)
    lists = CandidateSampler(data, parts, "item_knn").evaluation_examples(
        "validation", n=5, negatives="uniform", users=None, seed=0
    )
    found = baseline_ranks(data, parts, RankedLists.of(lists), "validation").ranks
    assert list(found) == ["random", "popularity", "markov", "item_knn", "ease"]
    assert summarise(found["random"]) == pytest.approx(chance(5), abs=1e-15)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="ml-latest-small.zip is not beside the project")
def test_movielens_figures_agree_with_the_published_ones():
    data = load(MovieLensData(path=ARCHIVE))
    assert (len(data.user_ids), len(data.item_ids)) == (610, 3650)
    assert sum(len(sequence) for sequence in data.sequences) == 90_274
    parts = split(data)
    sampler = CandidateSampler(data, parts, "item_knn")
    figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(3):
        lists = sampler.evaluation_examples("test", n=50, negatives="uniform", users=None, seed=seed)
        for name, ranks in baseline_ranks(data, parts, RankedLists.of(lists), "test").ranks.items():
            summary = summarise(ranks)
            figures[name].append((summary["recall_at_1"], summary["ndcg_at_10"]))
    # Standard deviation between draws of the negatives: 0.008 and 0.004, and of Recall@1 0.01 between ways to break the
    # ties of 94 users' last timestamps; the references are one draw.
    means = {name: np.mean(values, axis=0).tolist() for name, values in figures.items()}
    assert means["random"] == pytest.approx([0.020, 0.0909], abs=5e-5)
    assert means["popularity"] == pytest.approx([0.131, 0.325], abs=0.02)
    assert means["markov"] == pytest.approx([0.195, 0.369], abs=0.02)
    assert means["item_knn"] == pytest.approx([0.256, 0.470], abs=0.02)
    assert means["ease"] == pytest.approx([0.307, 0.520], abs=0.035)
