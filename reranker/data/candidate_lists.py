"""A split → the lists that are ranked: a target among negatives that the user never touched, or what a retriever fetches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reranker.config import TrialConfig
from reranker.data.example import MISSING, Evaluated, Example
from reranker.data.first_stage import NOTHING, HardNegatives, Retriever
from reranker.data.interactions import Interactions, ItemCodes, Split
from reranker.data.leak_guard import check_no_leak
from reranker.errors import Fault, InputError, SealedError
from reranker.hash_random import IntArray, Words, pick, random_bits, sample, shuffled, uniform

_ATTEMPTS = 30  # draws for one place before the items that are still allowed are listed
# What a random number is for: two purposes never share one.
_NEGATIVE, _MIX, _ORDER, _TRAINING_USER, _EVALUATION_USER, _DEAL = range(6)
_OPEN = -1  # a place of a list that no item has taken


def training_prefixes(
    split: Split, examples_per_user: int | None, users: int | None, seed: int, epoch: int = 0
) -> IntArray:
    """The (user, position) of one epoch's examples: the item at `position` of a training sequence follows those before it.

    Args:
        examples_per_user: so many of each user: the latest ones in the first epoch, in each later one those before them,
            and after the earliest the latest again; None: all in each epoch.
        users: a sample, by seed, of the users who have any; a larger one contains the smaller; None: all.
        epoch: counted from 0.

    Returns:
        [prefixes, 2], by user and then from the latest position to the earliest, as far as an epoch does not begin anew.
    """
    lengths = np.array([len(sequence) for sequence in split.train], dtype=np.int64)
    chosen = sample(np.flatnonzero(lengths > 1), users, seed, _TRAINING_USER)
    all_of_user = lengths[chosen] - 1
    counts = all_of_user if examples_per_user is None else np.minimum(all_of_user, examples_per_user)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # from the latest, within the epoch
    back = (np.repeat(epoch * counts, counts) + rank) % np.repeat(all_of_user, counts)
    return np.stack([np.repeat(chosen, counts), np.repeat(all_of_user, counts) - back], axis=1)


class CandidateSampler:
    """Draws lists of candidates for one split.

    Every random number is a hash of (seed, purpose, epoch or part, user, position, place), so that an example's list
    depends on none of the other examples, and a longer list of one kind of negatives begins with the same negatives.

    Popularity means an item's count in the training part plus one: items that only validation or test hold stay
    reachable, and the held-out interactions don't show in the negatives.

    Args:
        retriever: name of the first stage, of `reranker.data.recommenders`. It knows the training part, and for test lists the
            validation part as well.
    """

    def __init__(self, interactions: Interactions, split: Split, retriever: str) -> None:
        self.interactions = interactions
        self.split = split
        self.retriever = retriever
        items = len(interactions.item_ids)
        weights = np.bincount(np.concatenate(split.train), minlength=items) + 1
        self._weights = {"uniform": np.ones_like(weights), "popularity": weights}
        self._cumulated = {kind: np.cumsum(values) for kind, values in self._weights.items()}
        self._touched = interactions.touched
        self._first_stage = Retriever(retriever, split.train, items)
        self._hard = HardNegatives(self._first_stage, split, self._touched)
        self._retrieved: dict[tuple[Any, ...], ItemCodes] = {}  # fetched once, for all processes

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
        popular, hard = self._shares(config, np.full(len(users), negatives), random_bits(*base, _MIX))
        pools = self._hard.of(prefixes) if config.negatives.retriever else _no_pools(users)
        sequences = [sequence.tolist() for sequence in self.split.train]
        examples = self._lists(
            users,
            [sequences[u][max(0, p - config.history_length) : p] for u, p in prefixes.tolist()],
            np.array([sequences[u][p] for u, p in prefixes.tolist()], dtype=np.int64),
            self._negatives(users, negatives, popular, random_bits(*base, _NEGATIVE), pools, hard),
            random_bits(config.seed, order_epoch, users, positions, _ORDER),
        )
        check_no_leak(examples, self.interactions, self.split, "train")
        return examples

    def shared_examples(
        self, config: TrialConfig, prefixes: IntArray, epoch: int, together: int
    ) -> list[list[Example]]:
        """The same examples, up to `together` of them behind one list; deterministic in (config.seed, epoch, prefixes).

        A list holds the targets of its examples, each an other one's negative, and is filled up by the study's mix of
        negatives. Examples are dealt user by user, in a drawn order, so that those of one user stand in different lists
        unless they are more than there are lists. What a user touched in any part is excluded from the user's own negatives.

        Raises:
            InputError: the catalogue is too small for lists of `candidates`, or a list would leak.
        """
        self._check_catalogue(prefixes[:, 0], config.candidates - 1)
        dealt = _dealt(prefixes, together, random_bits(config.seed, epoch, prefixes[:, 0], _DEAL))
        sequences = [sequence.tolist() for sequence in self.split.train]
        targets = [np.array([sequences[u][p] for u, p in group.tolist()], dtype=np.int64) for group in dealt]
        given = np.full((len(dealt), together), _OPEN, dtype=np.int64)
        for row, items in enumerate(targets):
            distinct = np.unique(items)
            given[row, : len(distinct)] = distinct
        keys = random_bits(config.seed, epoch, np.arange(len(dealt)), together)
        count = config.candidates - (given != _OPEN).sum(axis=1)
        pools = _no_pools(count)
        if config.negatives.retriever:
            pools = _joined([np.setdiff1d(self._hard.of(group), row) for group, row in zip(dealt, given, strict=True)])
        popular, hard = self._shares(config, count, random_bits(keys, _MIX))
        drawn = self._draw(given, count, popular, random_bits(keys, _NEGATIVE), pools, hard)
        lists = []
        for group, items, fixed, more, wanted, key in zip(dealt, targets, given, drawn, count, keys, strict=True):
            unordered = np.concatenate([fixed[fixed != _OPEN], more[:wanted]])
            listed = unordered[shuffled(random_bits(int(key), _ORDER), len(unordered))[0]]
            touched = self._touched.holds(np.repeat(group[:, 0], len(listed)), np.tile(listed, len(group)))
            own = touched.reshape(len(group), len(listed)) & (listed != items[:, None])
            places = (listed == items[:, None]).argmax(axis=1)
            lists.append(
                [
                    Example(
                        user, tuple(sequences[user][max(0, at - config.history_length) : at]), tuple(listed.tolist()),
                        int(place), tuple(np.flatnonzero(row).tolist()),
                    )
                    for (user, at), place, row in zip(group.tolist(), places, own, strict=True)
                ]
            )  # fmt: skip
        check_no_leak([example for some in lists for example in some], self.interactions, self.split, "train")
        return lists

    def list_correction(self, config: TrialConfig, prefixes: IntArray, together: int) -> NDArray[np.float32]:
        """For each item the log of how much less often it is a negative in shared lists than in lists of the mix alone.

        In a shared list the negatives are (together - 1) targets and (candidates - together) drawn ones, in the others
        (candidates - 1) drawn ones. What is a negative more often would learn a lower score; added to the logits in training, this
        lowers them instead, and the scores come to mean what training on the mix makes them mean. Source: the correction of sampled softmax (Bengio and Senécal, Quick training of
        probabilistic neural nets by importance sampling, AISTATS 2003). Hard negatives count as uniform ones.
        """
        items = len(self.interactions.item_ids)
        targets = [self.split.train[u][p] for u, p in prefixes.tolist()]
        asked = np.bincount(targets, minlength=items) / len(targets)
        popularity = self._weights["popularity"] / self._weights["popularity"].sum()
        mix = config.negatives.popularity * popularity + (1 - config.negatives.popularity) / items
        others = config.candidates - 1
        shared = (together - 1) * asked + (others + 1 - together) * mix
        found: NDArray[np.float32] = np.log(others * mix / np.maximum(shared, 1e-9 * mix)).astype(np.float32)
        return found

    def evaluation_examples(
        self,
        part: Evaluated,
        *,
        n: int,
        negatives: Literal["uniform", "popularity"],
        users: int | None,
        seed: int,
    ) -> list[Example]:
        """One list for each user, the target among negatives, the same for every trial, in the order of the users.

        The history is everything before the target, uncut: train for validation, train and validation for test.

        Args:
            n: candidates in a list, the target among them.
            users: a sample by seed, the same for both parts; None: all.

        Raises:
            InputError: the catalogue is too small for lists of n, or a list would leak.
            SealedError: the test part is asked for, and these data are without it.
        """
        chosen, targets = self._asked(part, users, seed)
        before, stream = self.split.before(part), _stream(part)
        keys = random_bits(seed, stream, chosen, _NEGATIVE)
        popular = np.full(len(chosen), n - 1 if negatives == "popularity" else 0, dtype=np.int64)
        examples = self._lists(
            chosen,
            [before[user].tolist() for user in chosen],
            targets,
            self._negatives(chosen, n - 1, popular, keys, _no_pools(chosen), np.zeros_like(chosen)),
            random_bits(seed, stream, chosen, _ORDER),
        )
        check_no_leak(examples, self.interactions, self.split, part)
        return examples

    def retrieved_examples(
        self,
        part: Evaluated,
        *,
        n: int,
        order: Literal["shuffled", "retriever"],
        users: int | None,
        seed: int,
    ) -> list[Example]:
        """One list for each user, what the retriever fetches after the history; users and histories as in the others.

        Only what the history holds is left out. An item that the user touches later is no different from any other to
        a first stage, and so may stand in a list without being its target. A list without its target has MISSING.

        Args:
            order: best first, or shuffled by seed.

        Raises:
            InputError: a user has fewer than n items to fetch, or no list at all holds its target.
            SealedError: the test part is asked for, and these data are without it.
        """
        chosen, targets = self._asked(part, users, seed)
        before = self.split.before(part)
        histories = [before[user] for user in chosen]
        self._check_retrievable(chosen, histories, n)
        listed = self._fetch(part, histories, n, (users, seed))
        if not (listed == targets[:, None]).any():
            rule = f"the retriever must find the target in some list; {self.retriever} finds none of {len(chosen)}"
            hint = "raise `candidates`, or take another retriever"
            raise InputError([Fault(rule, field="data.retriever", value=self.retriever, hint=hint)])
        if order == "shuffled":
            keys = random_bits(seed, _stream(part), chosen, _ORDER)
            listed = np.take_along_axis(listed, shuffled(keys, n), axis=1)
        places = np.where(
            (listed == targets[:, None]).any(axis=1), (listed == targets[:, None]).argmax(axis=1), MISSING
        )
        rows = zip(chosen.tolist(), histories, listed.tolist(), places.tolist(), strict=True)
        examples = [Example(user, tuple(history.tolist()), tuple(items), at) for user, history, items, at in rows]
        check_no_leak(examples, self.interactions, self.split, part, retrieved=True)
        return examples

    def _asked(self, part: Evaluated, users: int | None, seed: int) -> tuple[IntArray, IntArray]:
        """The users of a part's lists, and their items that are held out for it."""
        if part == "test" and self.split.is_sealed:
            raise SealedError("these data are sealed: they are without the test items, which no search may reach")
        chosen = sample(np.arange(len(self.split.train), dtype=np.int64), users, seed, _EVALUATION_USER)
        return chosen, self.split.held_out(part)[chosen].astype(np.int64)

    def _fetch(self, part: Evaluated, histories: list[ItemCodes], n: int, of: tuple[Any, ...]) -> ItemCodes:
        """Also kept for other processes, whose numerics might order what scores nearly the same in another way."""
        if (part, n, *of) not in self._retrieved:
            stage = self._first_stage
            if part == "test":
                stage = Retriever(self.retriever, self.split.before("test"), len(self.interactions.item_ids))
            self._retrieved[part, n, *of] = stage.top(histories, n, histories)
        return self._retrieved[part, n, *of]

    def _lists(
        self, users: IntArray, histories: list[list[int]], targets: IntArray, negatives: IntArray, keys: Words
    ) -> list[Example]:
        """Put the target among its negatives, in an order drawn by `keys` in which every place is as likely."""
        unordered = np.concatenate([targets[:, None], negatives], axis=1)
        order = shuffled(keys, unordered.shape[1])
        candidates = np.take_along_axis(unordered, order, axis=1)
        rows = zip(users.tolist(), histories, candidates.tolist(), np.argmin(order, axis=1).tolist(), strict=True)
        return [Example(user, tuple(history), tuple(listed), target) for user, history, listed, target in rows]

    def _negatives(
        self, users: IntArray, count: int, popular: IntArray, keys: Words, pools: ItemCodes, hard: IntArray
    ) -> IntArray:
        """Items that the row's user never touched, [rows, count]; see `_draw`."""
        self._check_catalogue(users, count)
        given = np.empty((len(users), 0), dtype=np.int64)
        return self._draw(given, np.full(len(users), count), popular, keys, pools, hard, users)

    def _shares(self, config: TrialConfig, count: IntArray, keys: Words) -> tuple[IntArray, IntArray]:
        """How many of each row's `count` negatives are drawn by popularity, and how many are hard ones."""
        mix, remainder = config.negatives, uniform(keys)  # a share below one negative acts in some of the lists
        popular = np.floor(mix.popularity * count + remainder).astype(np.int64)
        others = np.floor(round(mix.popularity + mix.retriever, 9) * count + remainder).astype(np.int64)
        return popular, others - popular

    def _draw(
        self,
        given: IntArray,
        counts: IntArray,
        popular: IntArray,
        keys: Words,
        pools: ItemCodes,
        hard: IntArray,
        users: IntArray | None = None,
    ) -> IntArray:
        """`counts` items a row beside its `given` ones, [rows, most], without repeats, drawn one place after the other.

        The first `hard` places of a row (fewer where its pool ends) are drawn from its pool, the next `popular` ones by
        popularity, the others uniformly. Places beyond a row's count stay _OPEN.

        Args:
            given: [rows, any], _OPEN where there are fewer.
            users: whose items a row must not hold.
        """
        sizes = (pools != NOTHING).sum(axis=1)
        hard_end = np.minimum(hard, sizes)
        popular_end = hard_end + popular
        most = int(counts.max()) if len(counts) else 0
        drawn = np.full((len(given), most), _OPEN, dtype=np.int64)
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
                        items = pick(self._cumulated[kind], number)
                    taken = (given[rows] == items[:, None]).any(axis=1)
                    if users is not None:
                        taken |= self._touched.holds(users[rows], items)
                    taken |= (drawn[rows, :place] == items[:, None]).any(axis=1)
                    drawn[rows[~taken], place] = items[~taken]
                    rows = rows[taken]
                for row in rows.tolist():  # nearly all of the weight is on items that are out
                    weights = self._weights_of(kind, pools[row, : sizes[row]])
                    weights[given[row, given[row] != _OPEN]] = 0
                    if users is not None:
                        weights[self._touched.of(int(users[row]))] = 0
                    weights[drawn[row, :place]] = 0
                    last = uniform(random_bits(keys[row : row + 1], place, _ATTEMPTS))
                    drawn[row, place] = pick(np.cumsum(weights), last)[0]
        return drawn

    def _weights_of(self, kind: str, pool: ItemCodes) -> IntArray:
        """How likely each item of the catalogue is, as a new array."""
        if kind != "retriever":
            return self._weights[kind].copy()
        weights = np.zeros(len(self.interactions.item_ids), dtype=np.int64)
        weights[pool] = 1
        return weights

    def _check_catalogue(self, users: IntArray, count: int) -> None:
        items, touched = len(self.interactions.item_ids), self._touched.lengths[users]
        if not len(users) or items - touched.max() >= count:
            return
        left = items - int(touched.max())
        user = self.interactions.user_ids[int(users[np.argmax(touched)])]
        short = len(np.unique(users[items - touched < count]))
        rule = f"a list must find {count} items of the catalogue that its user never touched"
        hint = (
            f"{short} users have fewer, user {user!r} has {left} of {items}: "
            f"lower it to {left + 1} or keep more items (min_item)"
        )
        raise InputError([Fault(rule, field="candidates", value=count + 1, hint=hint)])

    def _check_retrievable(self, users: IntArray, histories: list[ItemCodes], n: int) -> None:
        items, seen = len(self.interactions.item_ids), np.array([len(history) for history in histories])
        if not len(users) or items - seen.max() >= n:
            return
        left, user = items - int(seen.max()), self.interactions.user_ids[int(users[np.argmax(seen)])]
        rule = f"a retriever must find {n} items of the catalogue that are not in the user's history"
        hint = (
            f"{np.count_nonzero(items - seen < n)} users have fewer, user {user!r} has {left} of {items}: "
            f"lower it to {left} or keep more items (min_item)"
        )
        raise InputError([Fault(rule, field="candidates", value=n, hint=hint)])


def fingerprint(examples: Sequence[Example]) -> str:
    """Equal for equal lists: whoever ranked the same ones can be compared user by user. SHA-256 in hex."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.user, example.history, example.candidates, example.target)).encode())
    return digest.hexdigest()


def _stream(part: Evaluated) -> int:
    """What tells the random numbers of one part from those of the other."""
    return 1 if part == "validation" else 2


def _dealt(prefixes: IntArray, together: int, keys: Words) -> list[IntArray]:
    """Groups of at most `together` prefixes, [group, 2]; those of one user in different groups as far as there are enough.

    Args:
        keys: one for each prefix, the same for all of a user's: in their order users are dealt.
    """
    groups = -(-len(prefixes) // together)
    order = np.lexsort((prefixes[:, 1], prefixes[:, 0], keys))
    return [prefixes[order[start::groups]] for start in range(groups)]


def _joined(pools: list[ItemCodes]) -> ItemCodes:
    """[rows, most] of pools of different length, NOTHING at the end of shorter ones."""
    kept = [pool[pool != NOTHING] for pool in pools]
    found = np.full((len(kept), max(map(len, kept))), NOTHING, dtype=np.int32)
    for row, pool in enumerate(kept):
        found[row, : len(pool)] = pool
    return found


def _no_pools(users: IntArray) -> ItemCodes:
    return np.empty((len(users), 0), dtype=np.int32)
