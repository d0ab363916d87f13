"""A split → negatives, drawn by hashes: items that a user never touched, uniformly, by popularity, or from a pool."""

from __future__ import annotations

import numpy as np

from reranker.data.candidates.first_stage import NOTHING
from reranker.data.example import Part
from reranker.data.hash_random import IntArray, Words, pick, random_bits, uniform
from reranker.data.interactions import Interactions, ItemCodes
from reranker.data.split import Split
from reranker.errors import Fault, InputError

OPEN = -1  # an empty place in a list
_ATTEMPTS = 30  # draws for one place before falling back to a draw from the items still allowed
FEWEST_CANDIDATES = 2
_PARTS: tuple[Part, ...] = ("train", "validation", "test")


class Negatives:
    """Draws the items of a list besides its targets.

    Popularity is an item's count in the training part plus one: items found only in validation or test stay
    reachable, and the held-out interactions don't show in the negatives. With a split by time, an item that nobody has
    touched when a part ends is in none of its lists.

    Attributes:
        known: for each part, the items that there are, [items].
        weights: for each part and kind, uniform or popularity, the weight of each item, int64 [items].
    """

    def __init__(self, interactions: Interactions, split: Split) -> None:
        self._interactions, self._touched = interactions, interactions.touched
        items = len(interactions.item_ids)
        counts = np.bincount(np.concatenate(split.train), minlength=items) + 1
        self.known = {part: split.known(part, items) for part in _PARTS}
        self.weights = {
            (part, kind): values * known
            for part, known in self.known.items()
            for kind, values in (("uniform", np.ones_like(counts)), ("popularity", counts))
        }
        self._cumulated = {kind: np.cumsum(values) for kind, values in self.weights.items()}
        self._touched_known = {part: self._touched.counts(known) for part, known in self.known.items()}

    def of(
        self, part: Part, users: IntArray, count: int, popular: IntArray, keys: Words, pools: ItemCodes, hard: IntArray
    ) -> IntArray:
        """Items that the row's user never touched, [rows, count]; see `draw`."""
        self.check(part, users, count)
        no_items = np.empty((len(users), 0), dtype=np.int64)
        return self.draw(part, no_items, np.full(len(users), count), popular, keys, pools, hard, users)

    def draw(
        self,
        part: Part,
        listed: IntArray,
        counts: IntArray,
        popular: IntArray,
        keys: Words,
        pools: ItemCodes,
        hard: IntArray,
        users: IntArray | None = None,
    ) -> IntArray:
        """Draw `counts` items per row, besides the `listed` ones, place by place and without repeats; [rows, most].

        The first `hard` places of a row (fewer if its pool is smaller) come from its pool, the next `popular` places by
        popularity, the rest uniformly. Places beyond a row's count stay OPEN.

        Args:
            listed: items already in the list, [rows, any]; OPEN where a row has fewer.
            users: each row's user, whose items the row must not hold.
        """
        sizes = (pools != NOTHING).sum(axis=1)
        hard_end = np.minimum(hard, sizes)
        popular_end = hard_end + popular
        most = int(counts.max()) if len(counts) else 0
        drawn = np.full((len(listed), most), OPEN, dtype=np.int64)
        for place in range(most):
            by_kind = {
                "retriever": np.flatnonzero((place < hard_end) & (place < counts)),
                "popularity": np.flatnonzero((hard_end <= place) & (place < popular_end) & (place < counts)),
                "uniform": np.flatnonzero((place >= popular_end) & (place < counts)),
            }
            for kind, rows in by_kind.items():
                for attempt in range(_ATTEMPTS):
                    if not len(rows):
                        break
                    number = uniform(random_bits(keys[rows], place, attempt))
                    if kind == "retriever":
                        items = pools[rows, (number * sizes[rows]).astype(np.int64)].astype(np.int64)
                    else:
                        items = pick(self._cumulated[part, kind], number)
                    taken = (listed[rows] == items[:, None]).any(axis=1)
                    if users is not None:
                        taken |= self._touched.holds(users[rows], items)
                    taken |= (drawn[rows, :place] == items[:, None]).any(axis=1)
                    drawn[rows[~taken], place] = items[~taken]
                    rows = rows[taken]
                for row in rows.tolist():  # nearly all the weight is on excluded items
                    weights = self._weights_of(part, kind, pools[row, : sizes[row]])
                    weights[listed[row, listed[row] != OPEN]] = 0
                    if users is not None:
                        weights[self._touched.of(int(users[row]))] = 0
                    weights[drawn[row, :place]] = 0
                    last = uniform(random_bits(keys[row : row + 1], place, _ATTEMPTS))
                    drawn[row, place] = pick(np.cumsum(weights), last)[0]
        return drawn

    def _weights_of(self, part: Part, kind: str, pool: ItemCodes) -> IntArray:
        """The weight of each item of the catalogue, as a new array."""
        if kind != "retriever":
            return self.weights[part, kind].copy()
        weights = np.zeros(len(self._interactions.item_ids), dtype=np.int64)
        weights[pool] = 1
        return weights

    def check(self, part: Part, users: IntArray, count: int) -> None:
        """
        Raises:
            InputError: a user has touched so much that there are fewer than `count` negatives.
        """
        items, touched = int(self.known[part].sum()), self._touched_known[part][users]
        if not len(users) or items - touched.max() >= count:
            return
        left = items - int(touched.max())
        user = self._interactions.user_ids[int(users[np.argmax(touched)])]
        short = len(np.unique(users[items - touched < count]))
        rule = f"a list must find {count} item{'s' * (count > 1)} of the catalogue that its user never touched"
        hint = too_few(short, user, left, items, left + 1)
        raise InputError([Fault(rule, field="candidates", value=count + 1, hint=hint)])


def too_few(users: int, user: str, left: int, items: int, candidates: int) -> str:
    """What to do where the catalogue has too few items for some users' lists.

    Args:
        users: how many these are.
        user: one of those who have fewest.
        left: items of the catalogue that can be in that user's list.
        candidates: as many as a list of everybody can have.
    """
    lower = f"lower it to {candidates} or " if candidates >= FEWEST_CANDIDATES else ""
    who = "1 user has" if users == 1 else f"{users} users have"
    return f"{who} fewer, user {user!r} has {left} of {items}: {lower}keep more items (min_item)"
