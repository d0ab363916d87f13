"""A split → the lists that are ranked: one target among negatives that the user never touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.interactions import Interactions, Split, pair_keys

Part = Literal["train", "validation", "test"]
MISSING = -1  # the target of an evaluation list that lacks its true item

IntArray = NDArray[np.int64]
_Words = NDArray[np.uint64]
_SHOWN_FAULTS = 20
_ATTEMPTS = 30  # draws for one place before the items that are still allowed are listed

# What a random number is for: two purposes never share one.
_NEGATIVE, _MIX, _ORDER, _TRAINING_USER, _EVALUATION_USER = range(5)


@dataclass(frozen=True)
class Example:
    """One question: which candidate comes after this history? Items are positions in the catalogue's texts."""

    user: int
    history: tuple[int, ...]  # oldest first, never empty
    candidates: tuple[int, ...]  # in the order of their labels, without repeats
    target: int  # position of the true item in `candidates`; MISSING where a retriever did not find it


def training_prefixes(split: Split, examples_per_user: int | None, users: int | None, seed: int) -> IntArray:
    """Every (user, position) of the training sequences with a history: the item at `position` follows those before it.

    Args:
        examples_per_user: the latest ones of each user; None: all.
        users: a sample, by seed, of the users who have any; a larger one contains the smaller; None: all.

    Returns:
        [prefixes, 2], by user and then from the latest position to the earliest.
    """
    lengths = np.array([len(sequence) for sequence in split.train], dtype=np.int64)
    chosen = _sample(np.flatnonzero(lengths > 1), users, seed, _TRAINING_USER)
    counts = lengths[chosen] - 1
    if examples_per_user is not None:
        counts = np.minimum(counts, examples_per_user)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([np.repeat(chosen, counts), np.repeat(lengths[chosen] - 1, counts) - rank], axis=1)


class CandidateSampler:
    """Draws lists of candidates for one split.

    Every random number is a hash of (seed, purpose, epoch or part, user, position, place), so that an example's list
    depends on none of the other examples, and a longer list of one kind of negatives begins with the same negatives.

    Popularity means an item's count in the training part plus one: items that only validation or test hold stay
    reachable, and the held-out interactions don't show in the negatives.
    """

    def __init__(self, interactions: Interactions, split: Split) -> None:
        self.interactions = interactions
        self.split = split
        self._touched = _touched_keys(interactions)
        weights = np.bincount(np.concatenate(split.train), minlength=len(interactions.item_ids)) + 1
        self._weights = {"uniform": np.ones_like(weights), "popularity": weights}
        self._cumulated = {kind: np.cumsum(values) for kind, values in self._weights.items()}

    def training_examples(self, config: TrialConfig, prefixes: IntArray, epoch: int) -> list[Example]:
        """One list for each prefix, with negatives of this epoch; deterministic in (config.seed, epoch, prefix).

        With `shuffle_candidates` the order is of this epoch too; without it the target keeps its label in all epochs.
        Histories are cut to `history_length`, the most that a prompt shows: all prefixes of a user with 2,700 items
        would hold 3.6 million.

        Raises:
            InputError: the catalogue is too small for lists of `candidates`, or a list would leak.
        """
        users, positions = prefixes[:, 0], prefixes[:, 1]
        order_epoch = epoch if config.shuffle_candidates else 0
        negatives = config.candidates - 1
        base = (config.seed, epoch, users, positions)
        popular = np.floor(config.negatives.popularity * negatives + _uniform(_hash(*base, _MIX))).astype(np.int64)
        sequences = [sequence.tolist() for sequence in self.split.train]
        examples = self._lists(
            users,
            [sequences[u][max(0, p - config.history_length) : p] for u, p in prefixes.tolist()],
            np.array([sequences[u][p] for u, p in prefixes.tolist()], dtype=np.int64),
            self._negatives(users, negatives, popular, _hash(*base, _NEGATIVE)),
            _hash(config.seed, order_epoch, users, positions, _ORDER),
        )
        check_no_leak(examples, self.interactions, self.split, "train")
        return examples

    def evaluation_examples(
        self,
        part: Literal["validation", "test"],
        *,
        n: int,
        negatives: Literal["uniform", "popularity"],
        users: int | None,
        seed: int,
    ) -> list[Example]:
        """One list for each user, the same for every trial, in the order of the users.

        The history is everything before the target, uncut: train for validation, train and validation for test.

        Args:
            n: candidates in a list, the target among them.
            users: a sample by seed, the same for both parts; None: all.

        Raises:
            InputError: the catalogue is too small for lists of n, or a list would leak.
        """
        chosen = _sample(np.arange(len(self.split.train), dtype=np.int64), users, seed, _EVALUATION_USER)
        stream = 1 if part == "validation" else 2
        popular = np.full(len(chosen), n - 1 if negatives == "popularity" else 0, dtype=np.int64)
        end = -2 if part == "validation" else -1
        examples = self._lists(
            chosen,
            [self.interactions.sequences[u][:end].tolist() for u in chosen],
            (self.split.validation if part == "validation" else self.split.test)[chosen].astype(np.int64),
            self._negatives(chosen, n - 1, popular, _hash(seed, stream, chosen, _NEGATIVE)),
            _hash(seed, stream, chosen, _ORDER),
        )
        check_no_leak(examples, self.interactions, self.split, part)
        return examples

    def _lists(
        self, users: IntArray, histories: list[list[int]], targets: IntArray, negatives: IntArray, keys: _Words
    ) -> list[Example]:
        """Put the target among its negatives, in an order drawn by `keys` in which every place is as likely."""
        unordered = np.concatenate([targets[:, None], negatives], axis=1)
        places = np.arange(unordered.shape[1], dtype=np.uint64)
        order = np.argsort(_hash(keys[:, None], places[None, :]), axis=1)
        candidates = np.take_along_axis(unordered, order, axis=1)
        rows = zip(users.tolist(), histories, candidates.tolist(), np.argmin(order, axis=1).tolist(), strict=True)
        return [Example(user, tuple(history), tuple(listed), target) for user, history, listed, target in rows]

    def _negatives(self, users: IntArray, count: int, popular: IntArray, keys: _Words) -> IntArray:
        """Items that the row's user never touched, [rows, count], without repeats, drawn one place after the other.

        The first `popular` places of a row are drawn by popularity, the others uniformly.
        """
        self._check_catalogue(users, count)
        drawn = np.full((len(users), count), -1, dtype=np.int64)
        for place in range(count):
            by_kind = {"popularity": np.flatnonzero(place < popular), "uniform": np.flatnonzero(place >= popular)}
            for kind, rows in by_kind.items():
                for attempt in range(_ATTEMPTS):
                    if not len(rows):
                        break
                    uniform = _uniform(_hash(keys[rows], place, attempt))
                    items = _pick(self._cumulated[kind], uniform)
                    taken = _contains(self._touched, pair_keys(users[rows], items, self.interactions))
                    taken |= (drawn[rows, :place] == items[:, None]).any(axis=1)
                    drawn[rows[~taken], place] = items[~taken]
                    rows = rows[taken]
                for row in rows.tolist():  # nearly all of the weight is on items that are out
                    weights = self._weights[kind].copy()
                    weights[self.interactions.sequences[users[row]]] = 0
                    weights[drawn[row, :place]] = 0
                    last = _uniform(_hash(keys[row : row + 1], place, _ATTEMPTS))
                    drawn[row, place] = _pick(np.cumsum(weights), last)[0]
        return drawn

    def _check_catalogue(self, users: IntArray, count: int) -> None:
        sequences = self.interactions.sequences
        touched = np.array([len(sequences[user]) for user in users], dtype=np.int64)
        if not len(users) or len(self.interactions.item_ids) - touched.max() >= count:
            return
        left = len(self.interactions.item_ids) - int(touched.max())
        user = self.interactions.user_ids[int(users[np.argmax(touched)])]
        short = len(np.unique(users[len(self.interactions.item_ids) - touched < count]))
        rule = f"a list must find {count} items of the catalogue that its user never touched"
        hint = (
            f"{short} users have fewer, user {user!r} has {left} of {len(self.interactions.item_ids)}: "
            f"lower it to {left + 1} or keep more items (min_item)"
        )
        raise InputError([Fault(rule, field="candidates", value=count + 1, hint=hint)])


def check_no_leak(examples: Sequence[Example], interactions: Interactions, split: Split, part: Part) -> None:
    """The leak guard: refuse lists whose answer is known beforehand or wrong.

    Checks that no history is empty, no candidate stands twice in a list, no target in its own history, no negative is
    an item that the user touched in any part; that training holds nothing of validation and test, validation
    nothing of test; and that the target of an evaluation list is the held-out item.

    Raises:
        InputError: with the first of the lists that break a rule, and how many there are.
    """
    users = np.array([example.user for example in examples], dtype=np.int64)
    targets = np.array([example.candidates[example.target] for example in examples], dtype=np.int64)
    seen_row, seen = _flat([example.history for example in examples])
    listed_row, listed = _flat([example.candidates for example in examples])
    validation, test = split.validation[users], split.test[users]

    negative = listed != targets[listed_row]
    touched = _contains(_touched_keys(interactions), pair_keys(users[listed_row], listed, interactions))
    pairs, counts = np.unique(listed_row * len(interactions.item_ids) + listed, return_counts=True)
    rules: dict[str, IntArray] = {
        "a history must not be empty": np.setdiff1d(np.arange(len(examples)), seen_row),
        "a candidate must stand once in a list": pairs[counts > 1] // len(interactions.item_ids),
        "a target must not be in its own history": seen_row[seen == targets[seen_row]],
        "a negative must be an item that the user never touched": listed_row[negative & touched],
        "the item held out for test must not be seen before": seen_row[seen == test[seen_row]],
    }
    if part == "train":
        held_out = (targets == validation) | (targets == test)
        rules["an item held out for validation or test must not be trained on"] = np.concatenate(
            [np.flatnonzero(held_out), seen_row[seen == validation[seen_row]]]
        )
    else:
        expected = validation if part == "validation" else test
        rules[f"the target must be the item held out for {part}"] = np.flatnonzero(targets != expected)
    if part == "validation":
        rules["the item held out for validation must not be seen before"] = seen_row[seen == validation[seen_row]]

    faults = [
        Fault(
            rule,
            field=f"{part} list of user {interactions.user_ids[users[row]]!r}",
            hint=f"its target is item {interactions.item_ids[targets[row]]!r}",
        )
        for rule, rows in rules.items()
        for row in np.unique(rows)
    ]
    if faults:
        raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))


def _touched_keys(interactions: Interactions) -> IntArray:
    lengths = [len(sequence) for sequence in interactions.sequences]
    users = np.repeat(np.arange(len(lengths)), lengths)
    return np.sort(pair_keys(users, np.concatenate(interactions.sequences), interactions))


def _contains(ascending: IntArray, values: IntArray) -> NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: NDArray[np.bool_] = ascending[places] == values
    return found


def _flat(rows: list[tuple[int, ...]]) -> tuple[IntArray, IntArray]:
    """(row, value) of every value."""
    index = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return index, np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=len(index))


def _pick(cumulated: IntArray, uniform: NDArray[np.float64]) -> IntArray:
    """The item whose share of the total weight holds the number, for numbers in [0, 1)."""
    items: IntArray = np.searchsorted(cumulated, np.floor(uniform * cumulated[-1]), side="right")
    return items


def _sample(users: IntArray, count: int | None, seed: int, purpose: int) -> IntArray:
    """`count` of the users, ascending; all where there aren't more."""
    if count is None or count >= len(users):
        return users
    return np.sort(users[np.argsort(_hash(seed, users, purpose), kind="stable")[:count]])


def _hash(*parts: int | IntArray | _Words) -> _Words:
    """64 random bits that depend on all parts, which broadcast.

    Each part goes through the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014), chained. A generator object for each example would cost more than its whole list.
    """
    bits = np.zeros(1, dtype=np.uint64)
    for part in parts:
        bits = bits + np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return bits


def _uniform(bits: _Words) -> NDArray[np.float64]:
    """The upper 53 bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
