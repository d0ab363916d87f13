"""Lists that a first stage fetches, targets that it does not find, and hard negatives for training."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from reranker.config import NegativesMix, Retriever, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_ranks import COLLABORATIVE
from reranker.data.candidates import first_stage
from reranker.data.candidates.candidate_lists import CandidateSampler, training_prefixes
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.candidates.negatives import Negatives
from reranker.data.example import MISSING, Evaluated, Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders import linear_recommenders
from reranker.data.recommenders.linear_recommenders import RECOMMENDERS
from reranker.data.sources import load
from reranker.data.split import split
from reranker.data_config import DemoData, MovieLensData
from reranker.errors import InputError
from reranker.metrics import chance, ranks_of_target, summarise
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from tests.present import present

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "ml-latest-small.zip"
CONFIG = TrialConfig(candidates=10)
HARD = CONFIG.model_copy(update={"negatives": NegativesMix(uniform=0.5, retriever=0.5), "examples_per_user": None})


def prepared(name: Retriever = "markov", users: int = 300, **settings) -> RerankingData:
    return RerankingData.prepare(DemoData(users=users, candidate_mode="retrieval", retriever=name, **settings))


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return prepared()


def best(name: str, sequences: list[np.ndarray], items: int, history: list[int], left_out: set[int]) -> list[int]:
    """The whole catalogue in the first stage's order, sorted the slow way."""
    scores = RECOMMENDERS[name](sequences, items).scores([history])[0]
    popular = np.bincount(np.concatenate(sequences), minlength=items)
    order = sorted(range(items), key=lambda item: (-scores[item], -popular[item], item))
    return [item for item in order if item not in left_out]


def held_out(data: RerankingData, example: Example, part: Evaluated) -> int:
    return int(data.split.held_out(part).items[example.user])


@pytest.mark.parametrize("name", RECOMMENDERS)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_list_is_the_best_that_the_first_stage_has_after_the_history(name, part):
    data = prepared(name, candidate_order="retriever")
    lists = data.validation(CONFIG) if part == "validation" else data.test(CONFIG)
    end = -2 if part == "validation" else -1
    sequences = [sequence[:end] for sequence in data.interactions.sequences]
    assert [example.user for example in lists] == list(range(300)), "no user is dropped"
    for example in lists[::29]:
        history = data.interactions.sequences[example.user][:end].tolist()
        assert list(example.history) == history
        expected = best(name, sequences, len(data.interactions.item_ids), history, set(history))
        assert list(example.candidates) == expected[:10]


def test_a_target_that_is_not_found_is_missing_and_counts_as_a_miss(data):
    lists, wanted = data.validation(CONFIG), data.split.validation.items
    found = [wanted[example.user] in example.candidates for example in lists]
    assert 0.2 < np.mean(found) < 0.8
    for example, hit in zip(lists, found, strict=True):
        assert (example.target != MISSING) == hit
        assert not hit or example.candidates[example.target] == wanted[example.user]
    assert data.ceiling(CONFIG) == np.mean(found)
    assert f"hit@10: {np.mean(found):.3f}" in data.describe(CONFIG)
    assert "markov, fitted on the training part, retrieves, in a shuffled order" in data.describe(CONFIG)


def test_what_the_user_touches_later_is_not_left_out(data):
    """A first stage can't know it; leaving it out would tell the model that what is listed is not the test item."""
    later = data.split.test.items
    assert sum(later[example.user] in example.candidates for example in data.validation(CONFIG)) > 30


def test_the_first_stage_knows_nothing_of_what_is_held_out(data):
    turned = split(
        replace(data.interactions, sequences=[s[[*range(len(s) - 2), -1, -2]] for s in data.interactions.sequences])
    )
    other = CandidateSampler(data.interactions, turned, "markov")
    lists = other.retrieved_examples("validation", n=10, order="shuffled", users=None, seed=0)
    assert [e.candidates for e in lists] == [e.candidates for e in data.validation(CONFIG)]
    assert [e.target for e in lists] != [e.target for e in data.validation(CONFIG)]


def test_lists_stand_in_the_retrievers_order_or_in_one_by_seed(data):
    ordered, other = prepared(candidate_order="retriever"), prepared(seed=1)
    shuffled, best_first = data.validation(CONFIG), ordered.validation(CONFIG)
    assert [sorted(e.candidates) for e in shuffled] == [sorted(e.candidates) for e in best_first]
    assert [e.candidates for e in shuffled] == [e.candidates for e in data.validation(CONFIG)]
    places = np.bincount([e.target for e in shuffled if e.target != MISSING], minlength=10)
    first = np.bincount([e.target for e in best_first if e.target != MISSING], minlength=10)
    assert first[0] > 2 * places[0], "the retriever puts the target first more often than any seed does"
    assert places.min() > 0
    order = [[e.candidates.index(max(e.candidates)) for e in lists] for lists in (shuffled, other.validation(CONFIG))]
    assert order[0] != order[1]


def test_every_baseline_ranks_the_retrieved_lists_and_their_order_is_one(data):
    found = data.baselines(CONFIG, "validation").ranks
    assert list(found) == ["random", *RECOMMENDERS, COLLABORATIVE, "retriever"]
    hits = [example.target != MISSING for example in data.validation(CONFIG)]
    for ranks in found.values():
        assert ranks.found.tolist() == hits
    for metric, value in chance(10).items():
        assert summarise(found["random"])[metric] == pytest.approx(np.mean(hits) * value)
    places = [example.target for example in prepared(candidate_order="retriever").validation(CONFIG)]
    own = found["retriever"]
    assert [place for place, hit in zip(own.greater, hits, strict=True) if hit] == [p for p in places if p != MISSING]
    assert not own.ties.any()
    # Markov's scores, with ties, contain the order of its own lists, without.
    markov = found["markov"]
    assert (markov.greater[hits] <= own.greater[hits]).all()
    assert (own.greater[hits] <= (markov.greater + markov.ties)[hits]).all()


def test_ground_truth_lists_have_no_ceiling_and_no_retriever(demo):
    assert demo.ceiling(CONFIG) is None
    assert "retriever" not in demo.baselines(CONFIG, "validation").ranks
    assert demo.best_reachable(CONFIG) is not None
    assert prepared(users=50).best_reachable(CONFIG) is None


@pytest.mark.parametrize(
    ("leak", "rule"),
    {
        "history": (lambda e: replace(e, history=(*e.history, e.candidates[1])), "a candidate must not be in the history"),
        "hidden": (lambda e: replace(e, target=MISSING), "a list without a target must not hold it"),
        "wrong": (lambda e: replace(e, target=(e.target + 1) % 10), "the target must be the item held out"),
        "twice": (lambda e: replace(e, candidates=(*e.candidates[:9], e.candidates[0])), "must stand once in a list"),
    }.values(),
)  # fmt: skip
def test_the_guard_refuses_leaks_in_retrieved_lists(data, leak, rule):
    lists = data.validation(CONFIG)
    place = next(place for place, example in enumerate(lists) if example.target not in (MISSING, 1, 9))
    check_no_leak(lists, data.interactions, data.split, "validation", retrieved=True)
    lists[place] = leak(lists[place])
    with pytest.raises(InputError, match=rule):
        check_no_leak(lists, data.interactions, data.split, "validation", retrieved=True)


def world(*sequences: list[int], items: int) -> Interactions:
    names = [f"i{item}" for item in range(items)]
    arrays = [np.array(sequence, dtype=np.int32) for sequence in sequences]
    return Interactions([f"u{user}" for user in range(len(arrays))], names, names, arrays, [], "")


def retrieved(interactions: Interactions, n: int) -> list[Example]:
    sampler = CandidateSampler(interactions, split(interactions), "popularity")
    return sampler.retrieved_examples("validation", n=n, order="retriever", users=None, seed=0)


def test_a_first_stage_that_finds_nothing_says_what_to_change():
    # All that is left of the catalogue is equally unpopular, and what comes next has the highest codes.
    with pytest.raises(InputError, match="must find the target in some list; popularity finds none of 2") as caught:
        retrieved(world([1, 2, 6, 4], [2, 1, 7, 4], items=8), n=2)
    assert (caught.value.faults[0].field, caught.value.faults[0].value) == ("data.retriever", "popularity")
    assert "raise `candidates`, or take another retriever" in str(caught.value)


def test_more_candidates_than_there_are_items_names_the_knob():
    few = world([0, 1, 2, 3], [3, 0, 4], items=5)
    assert [sorted(example.candidates) for example in retrieved(few, n=3)] == [[2, 3, 4], [0, 1, 2]]
    with pytest.raises(InputError, match="1 user has fewer, user 'u0' has 3 of 5: lower it to 3") as caught:
        retrieved(few, n=4)
    assert caught.value.faults[0].field == "candidates"


def test_no_number_of_candidates_is_advised_that_no_list_may_have():
    nearly_all = world([0, 1, 2, 3], [3, 0, 4], items=5)
    with pytest.raises(InputError) as caught:
        CandidateSampler(nearly_all, split(nearly_all), "item_knn").evaluation_examples(
            "validation", n=6, negatives="uniform", users=None, seed=0
        )
    assert caught.value.faults[0].hint.endswith("user 'u0' has 1 of 5: lower it to 2 or keep more items (min_item)")
    all_of_it = world([0, 1, 2, 3], [3, 0, 2], items=4)
    with pytest.raises(InputError) as caught:
        CandidateSampler(all_of_it, split(all_of_it), "item_knn").evaluation_examples(
            "validation", n=2, negatives="uniform", users=None, seed=0
        )
    told = "1 user has fewer, user 'u0' has 0 of 4: keep more items (min_item)"
    assert (caught.value.faults[0].rule, caught.value.faults[0].hint) == (
        "a list must find 1 item of the catalogue that its user never touched",
        told,
    )


def test_a_catalogue_too_large_for_ease_is_refused_before_anything_is_fitted(monkeypatch):
    monkeypatch.setitem(linear_recommenders.MOST_ITEMS, "ease", 200)
    monkeypatch.setitem(RECOMMENDERS, "ease", None)
    with pytest.raises(InputError, match="ease must not have more than 200 items; there are 2"):
        prepared("ease")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"candidate_order": "retriever"}, "candidate_order must be left out without"),
        (
            {"candidate_mode": "retrieval", "evaluation_negatives": "popularity"},
            "evaluation_negatives must be left out",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, rule):
    with pytest.raises(ValidationError, match=rule):
        DemoData(**settings)


def test_catalogues_are_ranked_in_parts_that_fit_the_memory(monkeypatch):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(60)[:9].astype(np.int32) for _ in range(40)]

    def top() -> list[list[int]]:
        return (
            first_stage.Retriever("item_knn", sequences, [""] * 60)
            .top(sequences, 12, sequences, np.ones(60, dtype=np.bool_))
            .tolist()
        )

    whole = top()
    monkeypatch.setattr(linear_recommenders, "_BLOCK_CELLS", 60 * 7)
    assert top() == whole


def test_where_the_catalogue_ends_nothing_is_fetched():
    sequences = [np.array([0, 1], dtype=np.int32), np.array([1, 2], dtype=np.int32)]
    (row,) = first_stage.Retriever("popularity", sequences, [""] * 4).top([[1]], 6, [[1]], np.ones(4, dtype=np.bool_))
    assert row.tolist() == [0, 2, 3] + [first_stage.NOTHING] * 3


# Training


def test_training_lists_hold_their_target_and_their_share_of_hard_negatives(data, monkeypatch):
    monkeypatch.setattr(first_stage, "_POOL", 20)
    sampler = CandidateSampler(data.interactions, data.split, "markov")
    prefixes = training_prefixes(data.split, None, None, 0)
    examples = sampler.training_examples(HARD, prefixes, 0)
    hard = 0
    for example, (user, position) in list(zip(examples, prefixes.tolist(), strict=True))[::37]:
        touched = set(data.interactions.sequences[user].tolist())
        history = data.split.train[user][:position].tolist()
        assert example.candidates[example.target] == data.split.train[user][position]
        others = set(example.candidates) - {example.candidates[example.target]}
        assert not others & touched
        pool = best("markov", data.split.train, len(data.interactions.item_ids), history, touched)[:20]
        assert len(others & set(pool)) >= 4, "half of the nine negatives, rounded down"
        hard += len(others & set(pool))
    # Half of nine are drawn from the pool, the others hit it as often as 20 of some 290 items say.
    assert hard / len(examples[::37]) == pytest.approx(4.5 + 4.5 * 16 / 288, abs=0.3)


def test_hard_negatives_are_new_each_epoch_and_depend_on_nothing_else(data):
    prefixes = training_prefixes(data.split, None, None, 0)
    sampler = CandidateSampler(data.interactions, data.split, "markov")
    some = sampler.training_examples(HARD, prefixes[40:60], 1)  # fetched before the others are
    whole = sampler.training_examples(HARD, prefixes, 1)
    assert whole[40:60] == some
    assert sampler.training_examples(HARD, prefixes, 1) == whole
    assert CandidateSampler(data.interactions, data.split, "markov").training_examples(HARD, prefixes, 1) == whole
    other = sampler.training_examples(HARD, prefixes, 2)
    assert sum(set(a.candidates) == set(b.candidates) for a, b in zip(whole, other, strict=True)) < 0.02 * len(whole)
    assert CandidateSampler(data.interactions, data.split, "popularity").training_examples(HARD, prefixes, 1) != whole


def test_where_the_pool_ends_the_rest_is_uniform(data, monkeypatch):
    monkeypatch.setattr(first_stage, "_POOL", 3)
    sampler = CandidateSampler(data.interactions, data.split, "popularity")
    prefixes = training_prefixes(data.split, 1, None, 0)
    only_hard = HARD.model_copy(update={"negatives": NegativesMix(uniform=0, retriever=1)})
    examples = sampler.training_examples(only_hard, prefixes, 0)
    order = np.argsort(
        -np.bincount(np.concatenate(data.split.train), minlength=len(data.interactions.item_ids)), kind="stable"
    )
    for example in examples[:50]:
        pool = [item for item in order if item not in data.interactions.sequences[example.user]][:3]
        assert set(pool) <= set(example.candidates)
        assert len(set(example.candidates)) == 10
    drawn = np.concatenate([example.candidates for example in examples])
    assert len(set(drawn.tolist())) > 250, "and not the next best"


@pytest.mark.parametrize(
    "mix", [{"uniform": 0, "popularity": 0.3, "retriever": 0.7}, {"uniform": 0.2, "popularity": 0.5, "retriever": 0.3}]
)
def test_the_shares_of_three_kinds_are_kept(data, mix, monkeypatch):
    """Each kind is made known by items that only it can draw."""
    sampler = CandidateSampler(data.interactions, data.split, "popularity")
    prefixes = np.tile(training_prefixes(data.split, 1, None, 0), (4, 1))
    users = prefixes[:, 0]
    kinds = []
    pick = Negatives._weights_of
    monkeypatch.setattr("reranker.data.candidates.negatives._ATTEMPTS", 0)  # each place is drawn by the listed weights
    monkeypatch.setattr(
        Negatives, "_weights_of", lambda self, part, kind, pool: kinds.append(kind) or pick(self, part, kind, pool)
    )
    config = CONFIG.model_copy(update={"negatives": NegativesMix(**mix)})
    sampler.training_examples(config, prefixes, 0)
    for kind, share in mix.items():
        assert kinds.count(kind) / (9 * len(users)) == pytest.approx(share, abs=0.02)
    assert mix["uniform"] > 0 or "uniform" not in kinds


def test_what_travels_to_workers_is_the_lists_and_not_what_they_were_made_with(data):
    fresh = prepared("ease")
    lists, training = fresh.validation(CONFIG), fresh.training_examples(HARD, 0)
    sent = pickle.dumps(fresh)
    assert len(sent) < 8 * 300**2, (
        "the weights of EASE alone would be 720 KB, the fetched items of 1,500 prefixes 600 KB"
    )
    there = pickle.loads(sent)
    assert there.validation(CONFIG) == lists
    assert "_fitted" not in vars(there.sampler._first_stage), "the lists were taken as they came"
    assert there.training_examples(HARD, 0) == training


def test_a_training_is_scored_on_all_lists_and_on_those_that_hold_their_target():
    data = prepared(users=64, candidate_order="retriever")
    config = TrialConfig(model="demo-tiny", candidates=10, epochs=1, examples_per_user=1, permutations=2)
    reports: list[TrainingReport] = []
    fine_tune(config, data, on_report=lambda report: reports.append(report) or True)
    figures = reports[-1].figures
    assert figures["hit"] == data.ceiling(config)
    assert figures["recall_at_10"] == pytest.approx(figures["hit"])
    assert figures["retrieved/recall_at_10"] == 1
    assert figures["recall_at_1"] == pytest.approx(figures["hit"] * figures["retrieved/recall_at_1"])
    assert present(reports[-1].evaluation).picks.target.tolist() == [
        example.target for example in data.validation(config)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="ml-latest-small.zip is not beside the project")
def test_movielens_figures_of_the_full_ranking_agree_with_the_published_ones():
    published = {
        "popularity": (0.112, 0.021),
        "item_knn": (0.238, 0.032),
        "ease": (0.287, 0.041),
        "markov": (0.185, 0.053),
    }
    interactions = load(MovieLensData(path=ARCHIVE))
    parts = split(interactions)
    for name, (hit, ndcg) in published.items():
        lists = CandidateSampler(interactions, parts, name).retrieved_examples(
            "test", n=50, order="retriever", users=None, seed=0
        )
        ranks = ranks_of_target(np.tile(-np.arange(50), (len(lists), 1)), [example.target for example in lists])
        assert ranks.found.mean() == pytest.approx(hit, abs=0.01), name
        assert summarise(ranks)["ndcg_at_10"] == pytest.approx(ndcg, abs=0.005), name
