"""Tables of interactions and items → one filtered sequence of item codes per user, in order of time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import normalize

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.images.item_images import ImageCell, ItemImages, item_images
from reranker.data.periods import Periods, periods_of
from reranker.data_config import AmazonData, DataConfig, DemoData, MindData, SteamData, TablesData, without_later_fields
from reranker.errors import Fault, InputError
from reranker.item_text import CAPTION, SEPARATOR, CaptionedTexts, ItemTemplate

ItemCodes = NDArray[np.int32]
IdIndex = NDArray[np.object_]
_SHOWN_FAULTS = 20
Part = TypeVar("Part")


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

    def counts(self, items: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of these items, [items], each user touched."""
        if items.all():
            return self.lengths
        users, codes = np.divmod(self._pairs, self._items)
        return np.bincount(users[items[codes]], minlength=len(self.lengths))


@dataclass(frozen=True, eq=False)
class Interactions:
    """What the users touched, after the filters. The code of a user or item is its position in `user_ids`, `item_ids`.

    Attributes:
        user_ids: in ascending order of the text.
        item_ids: in ascending order of the text.
        item_texts: one for each item code.
        sequences: for each user the item codes in order of time, int32, at least 3, without repeats; without those of
            the test if sealed.
        removed: what each filter removed, in the order in which they ran.
        fingerprint: SHA-256 in hex of everything that affects results: ids, texts, images, sequences, settings and what a
            split by time puts where, but not the location of the files. For what ratings are worth, which few
            configurations look at, see `worths_fingerprint`.
        images: of the items, where the configuration asks for them.
        captioned: what texts with captions are made of, where a model makes captions.
        worths: what each item of the sequences is worth as a right one by its user's rating, from 1/16 to 1; None without
            ratings.
        periods: of a split by time; None: each user's last item is the test, the last but one validates.
        tied_users: how many users have last items of one time, so that a hash says which of them is the test and which
            validates; 0 for a split by time.
        is_sealed: whether the items of the test are missing.
    """

    user_ids: list[str]
    item_ids: list[str]
    item_texts: list[str]
    sequences: list[ItemCodes]
    removed: list[Removal]
    fingerprint: str
    images: ItemImages | None = None
    captioned: CaptionedTexts | None = None
    known_touched: Touched | None = None  # if sealed: the sequences hold less
    worths: list[NDArray[np.float32]] | None = None
    periods: Periods | None = None
    tied_users: int = 0
    is_sealed: bool = False

    @cached_property
    def touched(self) -> Touched:
        """All pairs of user and item, including the test items even when sealed."""
        return self.known_touched or Touched(self.sequences, len(self.item_ids))

    @property
    def worths_fingerprint(self) -> str:
        """SHA-256 in hex of what items are worth by ratings; empty without ratings."""
        if self.worths is None:
            return ""
        return hashlib.sha256(np.concatenate(self.worths).astype("<f4").tobytes()).hexdigest()

    def check_rated(self) -> None:
        """
        Raises:
            InputError: there are no ratings, by which positives are to be graded.
        """
        if self.worths is None:
            rule = "rating needs interactions with a rating, and these have none"
            raise InputError([Fault(rule, field="positive_grades", value="rating")])

    def without_images(self, item_ids: Collection[str], config: DataConfig) -> Interactions:
        """The same where these items have no image, whatever is found of them now.

        Args:
            config: that the data were read by.
        """
        if self.images is None:
            return self
        named, has_one = set(item_ids), self.images.hashes
        items = [item for item, name in enumerate(self.item_ids) if name in named and has_one[item]]
        if not items:
            return self
        images = self.images.without(set(items))
        parts = self.user_ids, self.item_ids, self.item_texts, self.sequences
        return replace(
            self, images=images, fingerprint=_fingerprint(*parts, config, self.periods, images, self.captioned)
        )

    def sealed(self) -> Interactions:
        """The same without the items of the test, which stay only in `touched`, so that they are no negatives."""
        ends = [-1] * len(self.sequences) if self.periods is None else self.periods.before_test.tolist()
        shorter = [sequence[:end].copy() for sequence, end in zip(self.sequences, ends, strict=True)]
        worths = self.worths and [worth[:end].copy() for worth, end in zip(self.worths, ends, strict=True)]
        return replace(self, sequences=shorter, worths=worths, known_touched=self.touched, is_sealed=True)


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
    reduced to the earliest (of one time: the highest rated), then users and items with too few interactions dropped until
    none is left (k-core).

    Args:
        interactions: columns user_id and item_id (text), timestamp (a number of any unit), optionally rating.
        items: columns item_id (text, without repeats) and text, and perhaps image and fields; see
            `reranker.data.sources.tables.read_items`.
        items_file: named in the error about an item without a text.
        skipped: what was left out before, of the files.

    Raises:
        InputError: an item of the interactions has no text, nothing is left after a filter, a split by time leaves a
            period empty, or images of what is left are missing.
    """
    rows, user_index, item_index = _coded(interactions)
    _check_texts(rows, item_index, items, items_file, config)
    removed = [*skipped, Removal("items without interactions", 0, 0, len(items) - len(item_index))]
    knob, least = _least_rating(config)
    if least is not None and "rating" in rows:
        kept = rows[rows["rating"] >= least]
        _check_rated_enough(rows["rating"], knob, least)
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
    ends = np.cumsum(sizes[user_codes])[:-1]
    sequences = [part.copy() for part in np.split(codes, ends)]
    worths = np.split(_worths(rows["rating"].to_numpy(np.float64)), ends) if "rating" in rows else None
    user_ids, item_ids = [str(user_index[u]) for u in user_codes], [str(item_index[i]) for i in item_codes]
    kept_items = items.assign(line=items.index).set_index("item_id").loc[item_ids]
    item_texts = [str(t) for t in kept_items["text"]]
    faults = _Faults()
    no_images: tuple[ItemImages | None, CaptionedTexts | None] = (None, None)
    images, captioned = faults.of(lambda: _images(config, kept_items), no_images)
    periods, times = None, rows["timestamp"].to_numpy()
    if config.split == "time":
        periods = faults.of(lambda: periods_of(times, sizes[user_codes], config), None)
    faults.raise_all()
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        item_texts=item_texts,
        sequences=sequences,
        removed=removed,
        fingerprint=_fingerprint(user_ids, item_ids, item_texts, sequences, config, periods, images, captioned),
        images=images,
        captioned=captioned,
        worths=worths,
        periods=periods,
        tied_users=0 if config.split == "time" else _tied_users(times, ends),
    )


def _tied_users(times: NDArray[np.number], ends: NDArray[np.int64]) -> int:
    """Users of whose last three interactions, which leave-one-out parts, two neighbours have one time.

    Args:
        times: of every interaction, user by user, in order.
        ends: where each user's interactions end but the last one's; everybody has three.
    """
    last = np.append(ends, len(times)) - 1
    return int(np.count_nonzero((times[last] == times[last - 1]) | (times[last - 1] == times[last - 2])))


def _worths(ratings: NDArray[np.float64]) -> NDArray[np.float32]:
    """2^(4 · (rating − lowest) / (highest − lowest) − 4): the gains of five grades in DCG, the highest one's set to 1.

    Where all are equal, each is worth 1. Source of the exponential gain: Burges et al., Learning to rank using gradient
    descent, ICML 2005.

    Args:
        ratings: not empty, finite.
    """
    lowest, highest = ratings.min(), ratings.max()
    if lowest == highest:
        return np.ones(len(ratings), dtype=np.float32)
    grades = 4 * (ratings - lowest) / (highest - lowest)
    worths: NDArray[np.float32] = (2.0 ** (grades - 4)).astype(np.float32)
    return worths


class _Faults:
    """Those of several parts, to be told at once."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    def of(self, part: Callable[[], Part], otherwise: Part) -> Part:
        """What the part gives; after faults, `otherwise`."""
        try:
            return part()
        except InputError as error:
            self._errors.append(error)
            return otherwise

    def raise_all(self) -> None:
        """
        Raises:
            InputError: with the faults of all parts, if there are any.
        """
        if self._errors:
            shown = [fault for error in self._errors for fault in error.faults]
            raise InputError(shown, total=sum(error.total for error in self._errors))


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


def _check_texts(
    rows: pd.DataFrame, item_index: IdIndex, items: pd.DataFrame, items_file: str, config: DataConfig
) -> None:
    missing = np.flatnonzero(~pd.Index(item_index, dtype=object).isin(items["item_id"].to_numpy(object)))
    if not len(missing):
        return
    counts = np.bincount(rows["item"].to_numpy(), minlength=len(item_index))
    rule = "every item of the interactions must have a text"
    column = config.item_columns.item_id if isinstance(config, TablesData) else "item_id"
    ids = set(items["item_id"])
    faults = []
    for code in missing[:_SHOWN_FAULTS]:
        spellings = _spellings(item_index[code])
        near = next((f"; the items have {told}" for other, told in spellings.items() if other in ids), "")
        faults.append(Fault(rule, items_file, None, column, item_index[code], f"in {counts[code]} rows{near}"))
    raise InputError(faults, total=len(missing))


def _spellings(item: str) -> dict[str, str]:
    """What else tables write for the same id, and as what it is told: without blanks around it, a whole number with or
    without a decimal, or in another of Unicode's forms."""
    bare = item.strip()
    forms = dict.fromkeys(
        (normalize("NFC", bare), normalize("NFD", bare)), "it in another Unicode form, which looks the same"
    )
    return forms | {text: repr(text) for text in (bare, bare.removesuffix(".0"), f"{bare}.0")}


def _check_rated_enough(ratings: pd.Series[float], knob: str, least: float) -> None:
    if ratings.max() < least:
        hint = f"the highest {'rating' if knob == 'min_rating' else 'number of hours'} is {ratings.max():.15g}"
        raise InputError([Fault(f"{knob} must leave interactions", field=f"data.{knob}", value=least, hint=hint)])


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
    """Positions of the rows by user and time; a hash of (seed, user, item) breaks ties, not the order of the file. Of an item
    that a user rated twice at one time the highest rating comes first."""
    users, times = rows["user"].to_numpy(), rows["timestamp"].to_numpy()
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    group = np.append(0, np.cumsum(~same))[tied]
    items = rows["item"].to_numpy()[order[tied]]
    texts = pd.DataFrame({"user_id": _categorical(users[tied], user_index), "item_id": _categorical(items, item_index)})
    tie = pd.util.hash_pandas_object(texts, index=False, hash_key=f"{seed:016d}").to_numpy()
    lower = -rows["rating"].to_numpy()[order[tied]] if "rating" in rows else np.zeros(len(tied))
    order[tied] = order[tied][np.lexsort((lower, items, tie, group))]
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


def _images(config: DataConfig, items: pd.DataFrame) -> tuple[ItemImages | None, CaptionedTexts | None]:
    """The images of these items, and what texts with captions of them are made of."""
    if not isinstance(config, TablesData | AmazonData) or config.images is None:
        return None, None
    if isinstance(config, TablesData):
        table, column = config.items, config.images.column
    else:
        table, column = config.metadata, config.image_field
    cells = [ImageCell(str(text), int(line)) for text, line in zip(items["image"], items["line"], strict=True)]
    images = item_images(cells, config.images, table, column)
    if config.images.caption_model is None:
        return images, None
    template = config.item_text or "{text}"
    if CAPTION not in ItemTemplate.parse(template).fields:
        template = f"{template}{SEPARATOR}{{{CAPTION}}}"
    return images, CaptionedTexts(template, tuple(items["fields"]))


def _fingerprint(
    user_ids: list[str],
    item_ids: list[str],
    item_texts: list[str],
    sequences: list[ItemCodes],
    config: DataConfig,
    periods: Periods | None,
    images: ItemImages | None,
    captioned: CaptionedTexts | None,
) -> str:
    unhashed = {"path", "release", "item_text", "images", "most_malformed", "pointwise_model", "test_users"} | {
        name for name, value in config if isinstance(value, Path)
    }
    if config.retriever != "dense":
        unhashed.add("dense_model")
    settings = without_later_fields(config.model_dump(mode="json", exclude=unhashed))  # the texts themselves are hashed
    digest = hashlib.sha256(json.dumps([settings, user_ids, item_ids, item_texts], sort_keys=True).encode())
    digest.update(np.array([len(sequence) for sequence in sequences], dtype="<i8").tobytes())
    digest.update(np.concatenate(sequences).astype("<i4").tobytes())
    if periods is not None:
        digest.update(np.stack([periods.before_validation, periods.before_test]).astype("<i8").tobytes())
    if images is not None:
        described = captioned and [images.caption_model, captioned.template, captioned.fields]
        digest.update(json.dumps([images.hashes, described], sort_keys=True).encode())
    return digest.hexdigest()
