"""Tables of interactions and items → one filtered sequence of item codes per user, split leave-one-out by time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import DataConfig, DemoData, MindData, SteamData
from reranker.errors import Fault, InputError

ItemCodes = NDArray[np.int32]
IdIndex = NDArray[np.object_]
_SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Removal:
    """What one filter removed: interactions, and the users and items that vanished with them."""

    step: str
    rows: int
    users: int
    items: int

    def __str__(self) -> str:
        return f"{self.step}: {self.rows} interactions, {self.users} users, {self.items} items"


class Touched:
    """Which user touched which items, in any order: none of these may be a negative."""

    def __init__(self, sequences: Sequence[ItemCodes], items: int) -> None:
        self.lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        self._items, self._ends = items, np.cumsum(self.lengths)
        self._pairs = pair_keys(sequences, items)

    def __len__(self) -> int:
        return len(self._pairs)

    def holds(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether the user touched the item, for each pair."""
        return contains(self._pairs, users.astype(np.int64) * self._items + items)

    def of(self, user: int) -> NDArray[np.int64]:
        """The user's items, by their codes."""
        end = self._ends[user]
        return self._pairs[end - self.lengths[user] : end] - user * self._items


@dataclass(frozen=True, eq=False)
class Interactions:
    """What the users touched, after the filters. The code of a user or item is its position in `user_ids`, `item_ids`.

    Attributes:
        user_ids: in ascending order of the text.
        item_ids: in ascending order of the text.
        item_texts: one for each item code.
        sequences: for each user the item codes in order of time, int32, at least 3, without repeats; without the last
            item if sealed.
        removed: what each filter removed, in the order in which they ran.
        fingerprint: SHA-256 in hex of everything that affects results: ids, texts, sequences and settings, but not the
            location of the files.
    """

    user_ids: list[str]
    item_ids: list[str]
    item_texts: list[str]
    sequences: list[ItemCodes]
    removed: list[Removal]
    fingerprint: str
    known_touched: Touched | None = None  # if sealed: the sequences hold less

    @cached_property
    def touched(self) -> Touched:
        """All pairs of user and item, including the test items even when sealed."""
        return self.known_touched or Touched(self.sequences, len(self.item_ids))

    def sealed(self) -> Interactions:
        """The same without each user's last item, which stays only in `touched`, so that it is no negative."""
        shorter = [sequence[:-1].copy() for sequence in self.sequences]
        return replace(self, sequences=shorter, known_touched=self.touched)


@dataclass(frozen=True, eq=False)
class Split:
    """Leave-one-out by time, one entry for each user.

    Attributes:
        train: item codes before the last two, oldest first, at least 1. A single item gives no training example,
            but the user is still evaluated.
        validation: int32 [users], the last item but one; empty if that has become the last one of `train`.
        test: int32 [users], the last item; empty when sealed.
    """

    train: list[ItemCodes]
    validation: ItemCodes
    test: ItemCodes

    @property
    def is_sealed(self) -> bool:
        """Whether the test items are missing."""
        return not len(self.test)

    def before(self, part: Literal["validation", "test"]) -> list[ItemCodes]:
        """Each user's items before the part's item, oldest first."""
        if part == "validation" or not len(self.validation):
            return self.train
        return [np.append(sequence, last) for sequence, last in zip(self.train, self.validation, strict=True)]

    def held_out(self, part: Literal["validation", "test"]) -> ItemCodes:
        """Each user's item of the part, int32 [users]."""
        return self.validation if part == "validation" else self.test

    def sealed(self) -> Split:
        """The same without the test items; copied, since a slice keeps the whole array in memory."""
        return Split([sequence.copy() for sequence in self.train], self.validation.copy(), np.empty(0, dtype=np.int32))


def build_interactions(
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    config: DataConfig,
    *,
    items_file: str = "",
    skipped: Sequence[Removal] = (),
) -> Interactions:
    """Filter the raw tables and order each user's items by time; the order of the rows does not matter.

    In turn: items without interactions are left out, ratings below `min_rating` dropped, repeated (user, item) rows
    reduced to the earliest, then users and items with too few interactions dropped until none is left (k-core).

    Args:
        interactions: columns user_id and item_id (text), timestamp (a number of any unit), optionally rating.
        items: columns item_id (text, without repeats) and text.
        items_file: named in the error about an item without a text.
        skipped: what was left out before, of the files.

    Raises:
        InputError: an item of the interactions has no text, or nothing is left after the filters.
    """
    rows, user_index, item_index = _coded(interactions)
    _check_texts(rows, item_index, items, items_file)
    removed = [*skipped, Removal("items without interactions", 0, 0, len(items) - len(item_index))]
    knob, least = _least_rating(config)
    if least is not None and "rating" in rows:
        kept = rows[rows["rating"] >= least]
        removed.append(_removal(knob, rows, kept))
        rows = kept
    rows = rows.iloc[_order_of_time(rows, user_index, item_index, config.seed)]
    kept = rows[~(rows["user"] * len(item_index) + rows["item"]).duplicated()]
    removed.append(_removal("repeated (user, item)", rows, kept))
    rows, core_removed = _core(kept, config.min_user, config.min_item)
    removed.extend(core_removed)
    if rows.empty:
        removals = f"of {len(interactions)} interactions the filters removed: " + "; ".join(map(str, removed))
        rule = f"the filters min_user={config.min_user} and min_item={config.min_item} must leave interactions"
        raise InputError([Fault(rule, field="data.min_user, data.min_item", hint=f"lower them; {removals}")])

    sizes = np.bincount(rows["user"].to_numpy())
    user_codes, item_codes = np.flatnonzero(sizes), np.flatnonzero(np.bincount(rows["item"].to_numpy()))
    renumbered = np.zeros(len(item_index), dtype=np.int32)
    renumbered[item_codes] = np.arange(len(item_codes))
    codes = renumbered[rows["item"].to_numpy()]
    sequences = [part.copy() for part in np.split(codes, np.cumsum(sizes[user_codes])[:-1])]
    user_ids, item_ids = [str(user_index[u]) for u in user_codes], [str(item_index[i]) for i in item_codes]
    item_texts = [str(t) for t in items.set_index("item_id")["text"].loc[item_ids]]
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        item_texts=item_texts,
        sequences=sequences,
        removed=removed,
        fingerprint=_fingerprint(user_ids, item_ids, item_texts, sequences, config),
    )


def split(interactions: Interactions) -> Split:
    """Split by time: the last item is test, the last but one validation, the rest train.

    Raises:
        InputError: a user has under 3 items, or an item twice, which could put a held-out item into training.
    """
    sequences = interactions.sequences
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    faults = [
        Fault("a user must have 3 interactions: train, validation, test", field=interactions.user_ids[u])
        for u in np.flatnonzero(lengths < 3)
    ]
    values, counts = np.unique(pair_keys(sequences, len(interactions.item_ids)), return_counts=True)
    for key in values[counts > 1]:
        user, item = divmod(int(key), len(interactions.item_ids))
        rule = "an item must occur once in a user's sequence, or it leaks from one part of the split into another"
        faults.append(Fault(rule, field=interactions.user_ids[user], value=interactions.item_ids[item]))
    if faults:
        raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))
    return Split(
        train=[sequence[:-2] for sequence in sequences],
        validation=np.array([sequence[-2] for sequence in sequences], dtype=np.int32),
        test=np.array([sequence[-1] for sequence in sequences], dtype=np.int32),
    )


def pair_keys(sequences: Sequence[ItemCodes], items: int) -> NDArray[np.int64]:
    """One number for each (user, item), ascending: user · (items in the catalogue) + item."""
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    return np.sort(users * items + np.concatenate(list(sequences)))


def contains(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are in `ascending`, which must not be empty."""
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    is_present: NDArray[np.bool_] = ascending[places] == values
    return is_present


def _coded(interactions: pd.DataFrame) -> tuple[pd.DataFrame, IdIndex, IdIndex]:
    """The rows with int64 codes as `user` and `item`, and the ids in ascending order; only here are texts compared."""
    users, user_index = pd.factorize(interactions["user_id"], sort=True)
    items, item_index = pd.factorize(interactions["item_id"], sort=True)
    others = interactions[[name for name in ("timestamp", "rating") if name in interactions]].reset_index(drop=True)
    return others.assign(user=users, item=items), np.asarray(user_index, object), np.asarray(item_index, object)


def _check_texts(rows: pd.DataFrame, item_index: IdIndex, items: pd.DataFrame, items_file: str) -> None:
    missing = np.flatnonzero(~pd.Index(item_index, dtype=object).isin(items["item_id"].to_numpy(object)))
    if not len(missing):
        return
    counts = np.bincount(rows["item"].to_numpy(), minlength=len(item_index))
    rule = "every item of the interactions must have a text"
    faults = [
        Fault(rule, items_file, None, "item_id", item_index[code], f"in {counts[code]} rows")
        for code in missing[:_SHOWN_FAULTS]
    ]
    raise InputError(faults, total=len(missing))


def _least_rating(config: DataConfig) -> tuple[str, float | None]:
    """The knob that leaves out ratings, and its value."""
    if isinstance(config, DemoData | MindData):
        return "min_rating", None
    if isinstance(config, SteamData):
        return "min_hours", config.min_hours
    return "min_rating", config.min_rating


def _removal(step: str, before: pd.DataFrame, after: pd.DataFrame) -> Removal:
    users, items = (before[name].nunique() - after[name].nunique() for name in ("user", "item"))
    return Removal(step, len(before) - len(after), users, items)


def _order_of_time(rows: pd.DataFrame, user_index: IdIndex, item_index: IdIndex, seed: int) -> NDArray[np.int64]:
    """Positions of the rows by user and time; a hash of (seed, user, item) breaks ties, not the order of the file."""
    users, times = rows["user"].to_numpy(), rows["timestamp"].to_numpy()
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    group = np.append(0, np.cumsum(~same))[tied]
    items = rows["item"].to_numpy()[order[tied]]
    texts = pd.DataFrame({"user_id": _categorical(users[tied], user_index), "item_id": _categorical(items, item_index)})
    tie = pd.util.hash_pandas_object(texts, index=False, hash_key=f"{seed:016d}").to_numpy()
    order[tied] = order[tied][np.lexsort((items, tie, group))]
    return order


def _categorical(codes: NDArray[np.int64], texts: IdIndex) -> pd.Categorical[Any]:
    dtype: pd.CategoricalDtype[Any] = pd.CategoricalDtype(pd.Index(texts, dtype=object))
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _core(rows: pd.DataFrame, min_user: int, min_item: int) -> tuple[pd.DataFrame, list[Removal]]:
    """The largest subset where each user has min_user rows and each item min_item; and the removals per knob."""
    users, items = rows["user"].to_numpy(), rows["item"].to_numpy()
    kept = np.ones(len(rows), dtype=bool)
    removed = {"min_item": np.zeros(3, dtype=np.int64), "min_user": np.zeros(3, dtype=np.int64)}

    def sizes() -> NDArray[np.int64]:
        left = [np.count_nonzero(np.bincount(codes[kept])) for codes in (users, items)]
        return np.array([np.count_nonzero(kept), *left], dtype=np.int64)

    while True:
        before_round = np.count_nonzero(kept)
        for knob, codes, count, least in (
            ("min_item", items, items.max(initial=-1) + 1, min_item),
            ("min_user", users, users.max(initial=-1) + 1, min_user),
        ):
            before = sizes()
            kept &= (np.bincount(codes[kept], minlength=count) >= least)[codes]
            removed[knob] += before - sizes()
        if np.count_nonzero(kept) == before_round:
            return rows[kept], [Removal(knob, *(int(n) for n in counts)) for knob, counts in removed.items()]


def _fingerprint(
    user_ids: list[str], item_ids: list[str], item_texts: list[str], sequences: list[ItemCodes], config: DataConfig
) -> str:
    unhashed = {"path", "release", "item_text", "most_malformed"} | {
        name for name, value in config if isinstance(value, Path)
    }
    settings = config.model_dump(mode="json", exclude=unhashed)  # the texts themselves are hashed
    digest = hashlib.sha256(json.dumps([settings, user_ids, item_ids, item_texts], sort_keys=True).encode())
    digest.update(np.array([len(sequence) for sequence in sequences], dtype="<i8").tobytes())
    digest.update(np.concatenate(sequences).astype("<i4").tobytes())
    return digest.hexdigest()
