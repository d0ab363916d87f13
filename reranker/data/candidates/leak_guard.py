"""Check lists for leaks, such as a target in its history or a negative that the user touched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from reranker.data.example import MISSING, Example, Part
from reranker.data.hash_random import IntArray
from reranker.data.interactions import Interactions, ItemCodes, contains, pair_keys
from reranker.data.split import Split
from reranker.errors import Fault, InputError

_BEFORE = {"train": "in the training part", "validation": "before its target", "test": "before its target"}
_BY_THE_END = {"train": "in the training part", "validation": "before the test", "test": "at all"}
_NO_ITEM = -1
_SHOWN_FAULTS = 20


def check_no_leak(
    examples: Sequence[Example], interactions: Interactions, split: Split, part: Part, *, retrieved: bool = False
) -> None:
    """The leak guard: refuse lists whose answer is revealed or wrong.

    Checks that a history is not empty and holds only what the user touched in the training part, or before the target
    of another part; that no candidate is twice in a list, and no target in its own history; that no negative is an item
    that the user touched in any part, or in a retrieved list an item of the history; that training targets are from the
    training part, and other targets the item held out for their part; that with a split by time somebody had touched
    each candidate before the part ends. This looks up what is allowed, not what is forbidden, so test items need not be
    known.

    Raises:
        InputError: with the first of the lists that break a rule, and their total count.
    """
    items = len(interactions.item_ids)
    users = np.array([example.user for example in examples], dtype=np.int64)
    places = np.array([example.target for example in examples], dtype=np.int64)
    targets = np.array([example.candidates[example.target] for example in examples], dtype=np.int64)
    seen_row, seen = _flat([example.history for example in examples])
    listed_row, listed = _flat([example.candidates for example in examples])
    shared = np.zeros(len(listed), dtype=np.bool_)  # not negatives of this example
    starts = np.cumsum([0, *(len(example.candidates) for example in examples)])
    begins = starts[:-1].tolist()
    shared[[start + at for example, start in zip(examples, begins, strict=True) for at in example.excluded]] = True
    right = [start + at for example, start in zip(examples, begins, strict=True) for at in example.further]
    shared[right] = True
    if part == "train":
        expected, known_pairs = targets, pair_keys(split.train, items)
        is_earlier = contains(known_pairs, users[seen_row] * items + seen)
    else:
        held_out = split.held_out(part)
        rows = held_out.rows(users, np.array([example.nth for example in examples], dtype=np.int64))
        expected = np.where(rows < 0, _NO_ITEM, held_out.items[rows].astype(np.int64))
        touched_at = _places(interactions.sequences, items, users[seen_row], seen)
        is_earlier = (touched_at >= 0) & (touched_at < np.where(rows < 0, 0, held_out.positions[rows])[seen_row])
    has_target, answers = places != MISSING, np.where(places == MISSING, expected, targets)

    negative = (listed != answers[listed_row]) & ~shared
    if retrieved:
        excluded = contains(np.unique(seen_row * items + seen), listed_row * items + listed)
        rule = "a candidate must not be in the history"
    else:
        excluded = interactions.touched.holds(users[listed_row], listed)
        rule = "a negative must be an item that the user never touched"
    pairs, counts = np.unique(listed_row * items + listed, return_counts=True)
    rules: dict[str, IntArray] = {
        "a history must not be empty": np.setdiff1d(np.arange(len(examples)), seen_row),
        "a candidate must stand once in a list": pairs[counts > 1] // items,
        "a target must not be in its own history": seen_row[seen == answers[seen_row]],
        rule: listed_row[negative & excluded],
        f"a history must hold only what the user touched {_BEFORE[part]}": seen_row[~is_earlier],
        f"a candidate must be an item that somebody touched {_BY_THE_END[part]}": listed_row[
            ~split.known(part, items)[listed]
        ],
    }
    if part == "train":
        outside = ~contains(known_pairs, users * items + targets)
        rules["a target must be of the user's training part"] = np.flatnonzero(outside)
        own = contains(known_pairs, users[listed_row[right]] * items + listed[right])
        rules["what else is right must be of the user's training part"] = listed_row[right][~own]
    else:
        rules[f"the target must be the item held out for {part}"] = np.flatnonzero(has_target & (targets != expected))
    if not retrieved:
        rules["a list must hold its target"] = np.flatnonzero(~has_target)
    rules["a list without a target must not hold it"] = listed_row[~has_target[listed_row] & ~negative]

    faults = [
        Fault(
            rule,
            field=f"{part} list of user {interactions.user_ids[users[row]]!r}",
            hint=f"its target is item {interactions.item_ids[answers[row]]!r}",
        )
        for rule, rows in rules.items()
        for row in np.unique(rows)
    ]
    if faults:
        raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))


def _places(sequences: Sequence[ItemCodes], items: int, users: IntArray, wanted: IntArray) -> IntArray:
    """Where in its user's sequence each item is; -1 if nowhere."""
    if not len(users):
        return np.empty(0, dtype=np.int64)
    asked, nth = np.unique(users, return_inverse=True)  # a few of millions, where lists are of a sample
    own = [sequences[user] for user in asked.tolist()]
    lengths = np.array([len(sequence) for sequence in own], dtype=np.int64)
    owner = np.repeat(np.arange(len(own)), lengths)
    keys = owner * items + np.concatenate(own)
    order = np.argsort(keys)
    rows = order[np.minimum(np.searchsorted(keys, nth * items + wanted, sorter=order), len(keys) - 1)]
    starts = np.cumsum(lengths) - lengths
    return np.where(keys[rows] == nth * items + wanted, rows - starts[owner[rows]], -1)


def _flat(rows: list[tuple[int, ...]]) -> tuple[IntArray, IntArray]:
    """(row, value) of every value."""
    index = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return index, np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=len(index))
