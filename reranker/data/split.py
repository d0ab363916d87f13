"""Interactions → what is trained on, and the items held out for validation and test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reranker.data.example import Evaluated, Part
from reranker.data.interactions import Interactions, ItemCodes, pair_keys
from reranker.data.periods import Periods
from reranker.errors import Fault, InputError

_SHOWN_FAULTS = 20
_FEWEST_USERS = 2  # of a period: of one user alone nothing follows for others


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The targets of a part, by user, then by time; arrays of one length.

    Attributes:
        users: int64, ascending.
        nth: int64, which of its user's targets of the part it is, from 0.
        positions: int64, in the user's sequence; the items before are the history.
        items: int32, the true items.
    """

    users: NDArray[np.int64]
    nth: NDArray[np.int64]
    positions: NDArray[np.int64]
    items: ItemCodes

    def __len__(self) -> int:
        return len(self.users)

    @staticmethod
    def none() -> HeldOut:
        """Without any target."""
        nothing = np.empty(0, dtype=np.int64)
        return HeldOut(nothing, nothing, nothing, nothing.astype(np.int32))

    def of_users(self, users: NDArray[np.int64]) -> HeldOut:
        """The targets of these users."""
        kept = np.isin(self.users, users)
        return HeldOut(self.users[kept], self.nth[kept], self.positions[kept], self.items[kept])

    def rows(self, users: NDArray[np.int64], nth: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the users' nth targets are in the arrays; -1 where a user has none."""
        if not len(self):
            return np.full(len(users), -1, dtype=np.int64)
        most = 1 + int(max(self.nth.max(), nth.max(initial=0)))
        keys, wanted = self.users * most + self.nth, users * most + nth
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[places] == wanted, places, -1)


@dataclass(frozen=True, eq=False)
class Split:
    """What each part may know.

    Attributes:
        train: for each user the item codes of the training part, oldest first. A single item gives no training example.
            Split leave-one-out, each user has at least one; split by time, a user may have none.
        before_test: for each user all item codes before the test.
        validation: what validates; empty if that has been trained on.
        test: what tests; empty when sealed.
        by_time: whether all users share the periods, so that later items are not known yet.
    """

    train: list[ItemCodes]
    before_test: list[ItemCodes]
    validation: HeldOut
    test: HeldOut
    by_time: bool = False

    @property
    def is_sealed(self) -> bool:
        """Whether the test items are missing."""
        return not len(self.test)

    def before(self, part: Evaluated) -> list[ItemCodes]:
        """What rankers of the part may be fitted on: each user's items before it, oldest first."""
        return self.train if part == "validation" or not len(self.validation) else self.before_test

    def held_out(self, part: Evaluated) -> HeldOut:
        """The targets of the part."""
        return self.validation if part == "validation" else self.test

    def known(self, part: Part, items: int) -> NDArray[np.bool_]:
        """Which items may stand in lists of the part, [items]: split by time, those touched before its period ends."""
        if not self.by_time or part == "test":
            return np.ones(items, dtype=np.bool_)
        sequences = self.train if part == "train" else self.before_test
        return np.bincount(np.concatenate(sequences), minlength=items) > 0

    def refit(self) -> Split:
        """The same with validation as a part of the training."""
        return replace(self, train=self.before_test, validation=HeldOut.none())


def split(interactions: Interactions, targets_per_user: int | None = 1) -> Split:
    """Leave-one-out: each user's last item is the test, the last but one validates, the rest trains. By time: the items of
    each period, and of a user's items in one that have a history the first `targets_per_user` (None: all) are targets.

    Of sealed interactions, which end before the test, it holds copies: a slice would keep the whole sequence in memory.

    Raises:
        InputError: a user has under 3 items, or an item twice, which could put a held-out item into training; or split
            by time, a part has too few users.
    """
    faults = _sequence_faults(interactions)
    if faults:
        raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))
    sequences, periods, sealed = interactions.sequences, interactions.periods, interactions.is_sealed
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if periods is None:
        before_test = lengths if sealed else lengths - 1
        before_validation = before_test - 1
    else:
        before_validation, before_test = periods.before_validation, periods.before_test
    train = [sequence[:end] for sequence, end in zip(sequences, before_validation.tolist(), strict=True)]
    parts = Split(
        [sequence.copy() for sequence in train] if sealed else train,
        sequences if sealed else [s[:end] for s, end in zip(sequences, before_test.tolist(), strict=True)],
        _held_out(sequences, before_validation, before_test, targets_per_user),
        HeldOut.none() if sealed else _held_out(sequences, before_test, lengths, targets_per_user),
        by_time=periods is not None,
    )
    if periods is not None and (few := _few_users(parts, periods, sealed)):
        raise InputError(few)
    return parts


def _held_out(
    sequences: list[ItemCodes], begins: NDArray[np.int64], ends: NDArray[np.int64], most: int | None
) -> HeldOut:
    """Each user's first `most` items from `begins` to before `ends` that have an item before them."""
    firsts = np.maximum(begins, 1)
    counts = np.maximum(ends - firsts, 0)
    if most is not None:
        counts = np.minimum(counts, most)
    users = np.repeat(np.arange(len(sequences)), counts)
    nth = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.repeat(firsts, counts) + nth
    items = np.array([sequences[u][p] for u, p in zip(users.tolist(), positions.tolist(), strict=True)], dtype=np.int32)
    return HeldOut(users, nth, positions, items)


def _sequence_faults(interactions: Interactions) -> list[Fault]:
    items, touched = len(interactions.item_ids), interactions.touched
    faults = [
        Fault("a user must have 3 interactions: train, validation, test", field=interactions.user_ids[u])
        for u in np.flatnonzero(touched.lengths < 3)
    ]
    values, counts = np.unique(pair_keys(interactions.sequences, items), return_counts=True)
    for key in values[counts > 1]:
        user, item = divmod(int(key), items)
        rule = "an item must occur once in a user's sequence, or it leaks from one part of the split into another"
        faults.append(Fault(rule, field=interactions.user_ids[user], value=interactions.item_ids[item]))
    return faults


def _few_users(parts: Split, periods: Periods, sealed: bool) -> list[Fault]:
    trained = sum(len(sequence) > 1 for sequence in parts.train)
    users_left = {
        ("validation_from", f"users with two items before {periods.validation_from}, to train on"): trained,
        ("validation_from", "users in the validation who have an item before their target"): len(
            np.unique(parts.validation.users)
        ),
        ("test_from", "users in the test who have an item before their target"): len(np.unique(parts.test.users)),
    }
    if sealed:
        del users_left["test_from", "users in the test who have an item before their target"]
    return [
        Fault(
            f"there must be {_FEWEST_USERS} {who}; there {'is' if count == 1 else 'are'} {count or 'none'}",
            field=f"data.{name}",
            hint=f"move the periods, now {periods}",
        )
        for (name, who), count in users_left.items()
        if count < _FEWEST_USERS
    ]
