import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reranker.config import NegativesMix, TrialConfig
from reranker.data.candidates.candidate_lists import CandidateSampler, fingerprint, training_prefixes
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.example import MISSING, Evaluated, Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders import collaborative_scores
from reranker.data.split import split
from reranker.errors import InputError


def world(users: int, items: int, lengths: tuple[int, int] = (3, 12), seed: int = 0) -> Interactions:
    """Random sequences over a catalogue in which low codes are popular."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, items + 1)
    sequences = [
        rng.choice(items, rng.integers(*lengths), replace=False, p=weights / weights.sum()).astype(np.int32)
        for _ in range(users)
    ]
    names = [f"i{i}" for i in range(items)]
    return Interactions([f"u{i}" for i in range(users)], names, names, sequences, [], "")


DATA = world(60, 80)
SPLIT = split(DATA)
SAMPLER = CandidateSampler(DATA, SPLIT, "item_knn")
CONFIG = TrialConfig(candidates=10, examples_per_user=None, history_length=20)
PREFIXES = training_prefixes(SPLIT, None, None, seed=0)


def training(config: TrialConfig = CONFIG, epoch: int = 0, prefixes: np.ndarray = PREFIXES) -> list[Example]:
    return SAMPLER.training_examples(config, prefixes, epoch)


def evaluation(part: Evaluated = "validation", **values) -> list[Example]:
    return SAMPLER.evaluation_examples(part, **{"n": 10, "negatives": "uniform", "users": None, "seed": 0, **values})


def negatives(example: Example) -> set[int]:
    return set(example.candidates) - {example.candidates[example.target]}


def test_every_prefix_of_the_training_part_is_used_latest_first():
    data = Interactions(
        ["a", "b", "c"],
        list("vwxyz"),
        list("vwxyz"),
        [np.array(s) for s in ([0, 1, 2, 3, 4], [4, 3, 2], [3, 1, 0, 2])],
        [],
        "",
    )
    parts = split(data)
    assert training_prefixes(parts, None, None, 0).tolist() == [[0, 2], [0, 1], [2, 1]]
    assert training_prefixes(parts, 1, None, 0).tolist() == [[0, 2], [2, 1]]


def test_each_epoch_takes_the_prefixes_before_those_of_the_last_and_then_the_latest_again():
    data = Interactions(
        ["a", "b"], list("uvwxyz"), list("uvwxyz"), [np.array([0, 1, 2, 3, 4, 5]), np.array([2, 1, 0, 3])], [], ""
    )
    epochs = [training_prefixes(split(data), 2, None, 0, epoch).tolist() for epoch in range(3)]
    assert epochs == [
        [[0, 3], [0, 2], [1, 1]],
        [[0, 1], [0, 3], [1, 1]],
        [[0, 2], [0, 1], [1, 1]],
    ]


def test_with_several_right_items_the_first_epoch_takes_targets_that_have_them_and_the_latest_come_last():
    data = Interactions(
        ["a", "b"], list("uvwxyz"), list("uvwxyz"), [np.array([0, 1, 2, 3, 4, 5]), np.array([2, 1, 0, 3])], [], ""
    )
    epochs = [training_prefixes(split(data), 1, None, 0, epoch, positives=2).tolist() for epoch in range(3)]
    assert epochs == [[[0, 2], [1, 1]], [[0, 1], [1, 1]], [[0, 3], [1, 1]]]
    more_than_there_are = training_prefixes(split(data), 1, None, 0, positives=9).tolist()
    assert more_than_there_are == [[0, 1], [1, 1]]


def test_a_sample_of_users_is_seeded_and_nested():
    def users(count: int, seed: int) -> set[int]:
        return set(training_prefixes(SPLIT, None, count, seed)[:, 0].tolist())

    assert len(users(20, 0)) == 20
    assert users(10, 0) < users(20, 0)
    assert users(20, 0) != users(20, 1)
    assert {e.user for e in evaluation(users=5)} < {e.user for e in evaluation(users=9)}
    assert [e.user for e in evaluation("test", users=9)] == [e.user for e in evaluation(users=9)]
    assert len(evaluation(users=1000)) == 60


def test_training_lists_hold_the_next_item_after_the_history():
    for example, (user, position) in zip(training(), PREFIXES.tolist(), strict=True):
        sequence = SPLIT.train[user].tolist()
        assert example.user == user
        assert example.history == tuple(sequence[:position])
        assert example.candidates[example.target] == sequence[position]
        assert len(set(example.candidates)) == 10
        assert not negatives(example) & set(DATA.sequences[user].tolist())


def test_training_history_is_cut_to_what_a_prompt_and_the_collaborative_scores_use(monkeypatch):
    monkeypatch.setattr(collaborative_scores, "HISTORY", 3)
    whole, two, five = (training(TrialConfig(candidates=10, history_length=length)) for length in (100, 2, 5))
    assert [e.history for e in two] == [e.history[-3:] for e in whole]
    assert [e.history for e in five] == [e.history[-5:] for e in whole]
    assert max(len(e.history) for e in whole) > 5


def test_evaluation_lists_hold_the_held_out_item_after_all_before_it():
    ends: dict[Evaluated, int] = {"validation": -2, "test": -1}
    for part, end in ends.items():
        lists = evaluation(part)
        assert [e.user for e in lists] == list(range(60))
        for example in lists:
            sequence = DATA.sequences[example.user].tolist()
            assert example.history == tuple(sequence[:end])
            assert example.candidates[example.target] == sequence[end]
            assert not negatives(example) & set(sequence)
            assert len(set(example.candidates)) == 10


def test_training_draws_anew_each_epoch_and_repeats_by_seed():
    assert training(epoch=3) == training(epoch=3)
    first, second = training(epoch=0), training(epoch=1)
    assert sum(negatives(a) == negatives(b) for a, b in zip(first, second, strict=True)) < 0.02 * len(first)
    assert training(CONFIG.model_copy(update={"seed": 1})) != first


def test_a_list_does_not_depend_on_the_other_lists():
    assert training(prefixes=PREFIXES[7:9]) == training()[7:9]
    assert evaluation(users=4) == [e for e in evaluation() if e.user in {s.user for s in evaluation(users=4)}]


def test_the_targets_label_is_new_each_epoch_only_when_shuffled():
    fixed = CONFIG.model_copy(update={"shuffle_candidates": False})
    places = [[e.target for e in training(fixed, epoch)] for epoch in (0, 1, 2)]
    assert places[0] == places[1] == places[2]
    assert len(set(places[0])) == 10
    shuffled = [[e.target for e in training(epoch=epoch)] for epoch in (0, 1)]
    same = np.mean(np.equal(shuffled[0], shuffled[1]))
    assert same == pytest.approx(0.1, abs=0.06)


def test_the_target_stands_at_every_label_equally_often():
    for lists in (
        [e for epoch in range(20) for e in training(epoch=epoch)],
        [e for s in range(80) for e in evaluation(seed=s)],
    ):
        counts = np.bincount([e.target for e in lists], minlength=10)
        expected = len(lists) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_uniform_negatives_reach_every_item_equally():
    user = 0
    free = sorted(set(range(80)) - set(DATA.sequences[user].tolist()))
    drawn = Counter(i for s in range(3000) for i in negatives(evaluation(seed=s, users=None, n=4)[user]))
    counts = np.array([drawn[i] for i in free])
    assert set(drawn) == set(free)
    expected = 3 * 3000 / len(free)
    assert ((counts - expected) ** 2 / expected).sum() < len(free) + 4 * np.sqrt(2 * len(free))


@pytest.mark.slow
def test_popular_negatives_follow_training_counts_plus_one():
    weights = np.bincount(np.concatenate(SPLIT.train), minlength=80) + 1.0
    weights[DATA.sequences[3]] = 0
    drawn = Counter(i for s in range(2000) for i in negatives(evaluation(seed=s, negatives="popularity", n=2)[3]))
    counts = np.array([drawn[i] for i in range(80)])
    expected = 2000 * weights / weights.sum()
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())
    assert np.corrcoef(counts, expected)[0, 1] > 0.9


def test_held_out_interactions_do_not_show_in_popularity():
    # Item 9 is the test item of all users but one: popular in the whole, unseen in training.
    sequences = [np.array([i % 5, 5 + i % 3, 9]) for i in range(40)] + [np.array([0, 1, 2])]
    data = Interactions([f"u{i}" for i in range(41)], list("abcdefghij"), list("abcdefghij"), sequences, [], "")
    sampler = CandidateSampler(data, split(data), "item_knn")
    drawn = Counter[int]()
    for seed in range(400):
        (only,) = [
            e
            for e in sampler.evaluation_examples("test", n=2, negatives="popularity", users=None, seed=seed)
            if e.user == 40
        ]
        drawn.update(negatives(only))
    # Weights of what user 40 never touched: d, e 8 + 1 each, f … j 1 each.
    assert drawn[9] == pytest.approx(400 * 1 / 23, abs=15)
    assert drawn[3] == pytest.approx(400 * 9 / 23, abs=40)


def test_the_mix_shares_the_negatives():
    def mean_weight(popularity: float) -> float:
        config = CONFIG.model_copy(update={"negatives": NegativesMix(uniform=1 - popularity, popularity=popularity)})
        counts = np.bincount(np.concatenate(SPLIT.train), minlength=80)
        return float(np.mean([counts[list(negatives(e))].mean() for k in range(3) for e in training(config, k)]))

    none, little, half, full = (mean_weight(share) for share in (0.0, 0.05, 0.5, 1.0))
    assert none < little < half < full, "a share below one negative must still act"


def test_a_longer_list_begins_with_the_negatives_of_the_shorter():
    for short, long in zip(evaluation(n=5), evaluation(n=10), strict=True):
        assert negatives(short) < negatives(long)


@pytest.mark.parametrize("negatives_by", ["uniform", "popularity"])
def test_the_whole_rest_of_the_catalogue_can_be_drawn(negatives_by):
    data = world(5, 14, lengths=(4, 5))
    lists = CandidateSampler(data, split(data), "item_knn").evaluation_examples(
        "test", n=11, negatives=negatives_by, users=None, seed=0
    )
    for example in lists:
        assert negatives(example) == set(range(14)) - set(data.sequences[example.user].tolist())


def test_items_that_are_nearly_never_drawn_are_reached():
    """One item holds nearly all the weight and is out for user 0: drawing alone would not end."""
    sequences = [np.array([0, 1, 2, 3])] + [np.array([0, 4 + i % 2, 2 + i % 2]) for i in range(20_000)]
    data = Interactions([str(i) for i in range(20_001)], list("abcdefgh"), list("abcdefgh"), sequences, [], "")
    (only,) = CandidateSampler(data, split(data), "item_knn").training_examples(
        TrialConfig(candidates=5, negatives=NegativesMix(uniform=0.0, popularity=1.0)), np.array([[0, 1]]), 0
    )
    assert negatives(only) == {4, 5, 6, 7}


def test_too_small_a_catalogue_names_the_knob():
    data = world(5, 14, lengths=(4, 5))
    with pytest.raises(InputError) as caught:
        CandidateSampler(data, split(data), "item_knn").evaluation_examples(
            "test", n=12, negatives="uniform", users=None, seed=0
        )
    assert caught.value.faults[0].field == "candidates"
    assert caught.value.faults[0].value == 12
    assert "5 users have fewer, user 'u0' has 10 of 14: lower it to 11" in str(caught.value)


def test_clean_lists_pass_the_guard():
    check_no_leak(training(), DATA, SPLIT, "train")
    check_no_leak(evaluation(), DATA, SPLIT, "validation")
    check_no_leak(evaluation("test"), DATA, SPLIT, "test")
    check_no_leak([], DATA, SPLIT, "train")


def swap(example: Example, place: int, item: int) -> Example:
    candidates = list(example.candidates)
    candidates[place] = item
    return replace(example, candidates=tuple(candidates))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_guard_refuses_every_leak(part):
    lists = training() if part == "train" else evaluation(part)
    good = lists[4]
    other = (good.target + 1) % 10
    test_item = int(SPLIT.test.items[good.user])
    validation_item = int(SPLIT.validation.items[good.user])
    leaks = {
        "a history must not be empty": replace(good, history=()),
        "a candidate must stand once in a list": swap(good, other, good.candidates[(good.target + 2) % 10]),
        "a target must not be in its own history": replace(good, history=(*good.history, good.candidates[good.target])),
        "a negative must be an item that the user never touched": swap(good, other, good.history[0]),
        "a history must hold only what the user touched": replace(good, history=(*good.history, test_item)),
        "a list must hold its target": replace(good, target=MISSING),
    }
    if part != "test":
        with pytest.raises(InputError, match="a history must hold only what the user touched"):
            check_no_leak([replace(good, history=(validation_item,))], DATA, SPLIT, part)
    if part == "train":
        for held_out in (validation_item, test_item):
            with pytest.raises(InputError, match="a target must be of the user's training part"):
                check_no_leak([swap(good, good.target, held_out)], DATA, SPLIT, part)
    else:
        wrong = validation_item if part == "test" else test_item
        leaks[f"the target must be the item held out for {part}"] = swap(good, good.target, wrong)
    for rule, leak in leaks.items():
        with pytest.raises(InputError, match=rule) as caught:
            check_no_leak([*lists[:4], leak, *lists[5:]], DATA, SPLIT, part)
        assert f"user 'u{good.user}'" in str(caught.value)


def test_the_guard_counts_all_and_shows_the_first():
    lists = [replace(e, history=()) for e in training()[:50]]
    with pytest.raises(InputError) as caught:
        check_no_leak(lists, DATA, SPLIT, "train")
    assert caught.value.total == 50
    assert len(caught.value.faults) == 20


def test_the_guard_runs_when_lists_are_built():
    seen = np.array([sequence[0] for sequence in SPLIT.train])
    leaky = replace(SPLIT, validation=replace(SPLIT.validation, items=seen))
    with pytest.raises(InputError, match="a target must not be in its own history"):
        CandidateSampler(DATA, leaky, "item_knn").evaluation_examples(
            "validation", n=10, negatives="uniform", users=None, seed=0
        )


@pytest.mark.slow
def test_twenty_thousand_lists_take_seconds_at_most():
    data = world(2000, 3000, lengths=(10, 14))
    parts = split(data)
    prefixes = np.tile(training_prefixes(parts, None, None, 0), (2, 1))[:20_000]
    started = time.process_time()
    lists = CandidateSampler(data, parts, "item_knn").training_examples(TrialConfig(), prefixes, 0)
    assert len(lists) == 20_000
    assert time.process_time() - started < 5, "a loop over the lists would take tens of seconds"


def test_equal_lists_have_one_fingerprint_and_any_difference_another():
    lists = evaluation()
    assert fingerprint(lists) == fingerprint(evaluation())
    moved = [replace(lists[0], target=lists[0].target ^ 1), *lists[1:]]
    assert len({fingerprint(some) for some in (lists, moved, lists[1:], evaluation(seed=1))}) == 4
