"""A split → the lists to rank: a target among negatives that the user never touched, or what a retriever fetches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reranker.config import TrialConfig
from reranker.data.candidates.first_stage import NOTHING, HardNegatives, Retriever
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.candidates.list_correction import SharedLists, drawn_shares, list_correction
from reranker.data.candidates.negatives import OPEN, Negatives, too_few
from reranker.data.example import MISSING, Evaluated, Example, Part
from reranker.data.hash_random import IntArray, Words, random_bits, sample, shuffled, uniform
from reranker.data.interactions import Interactions, ItemCodes
from reranker.data.recommenders import collaborative_scores
from reranker.data.split import HeldOut, Split
from reranker.errors import Fault, InputError, SealedError
from reranker.metrics import NOWHERE

# Purposes of random numbers: two purposes never share a number.
_NEGATIVE, _MIX, _ORDER, _TRAINING_USER, _EVALUATION_USER, _DEAL = range(6)
_SAMPLED = 50_000  # examples by whose hard negatives their frequency is known well enough


def training_prefixes(
    split: Split, examples_per_user: int | None, users: int | None, seed: int, epoch: int = 0, positives: int = 1
) -> IntArray:
    """The (user, position) of one epoch's examples: the target is the item at `position` of a training sequence.

    Args:
        examples_per_user: examples of each user per epoch. The first epoch takes the latest, each later epoch the ones
            before; after the earliest it starts over with the latest. None: all in each epoch.
        users: size of a seeded sample of the users who have any; a larger sample contains the smaller one. None: all.
        epoch: counted from 0.
        positives: right items of a list. The first epoch takes the latest that have as many after them, if the user has
            such, and the very latest come last.

    Returns:
        [prefixes, 2], by user, then from the latest position to the earliest unless an epoch starts over.
    """
    lengths = np.array([len(sequence) for sequence in split.train], dtype=np.int64)
    chosen = sample(np.flatnonzero(lengths > 1), users, seed, _TRAINING_USER)
    all_of_user = lengths[chosen] - 1
    counts = all_of_user if examples_per_user is None else np.minimum(all_of_user, examples_per_user)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # from the latest, within the epoch
    begin = epoch * counts + np.minimum(positives - 1, all_of_user - 1)
    back = (np.repeat(begin, counts) + rank) % np.repeat(all_of_user, counts)
    return np.stack([np.repeat(chosen, counts), np.repeat(all_of_user, counts) - back], axis=1)


class CandidateSampler:
    """Draws lists of candidates for one split.

    Every random number is a hash of (seed, purpose, epoch or part, user, position, place). So an example's list does
    not depend on other examples, and a longer list of one kind of negatives begins with the same negatives.

    Args:
        retriever: name of the first stage, see `reranker.data.candidates.first_stage`. It is fitted on the training part, and for
            test lists on the validation part as well.
        dense_model: the sentence encoder of the retriever `dense`.
    """

    def __init__(
        self, interactions: Interactions, split: Split, retriever: str, dense_model: str | None = None
    ) -> None:
        self.interactions = interactions
        self.split = split
        self.retriever, self._dense_model = retriever, dense_model
        items = len(interactions.item_ids)
        self._negatives = Negatives(interactions, split)
        self._touched = interactions.touched
        self._first_stage = self._retriever_of("validation")
        self._hard = HardNegatives(self._first_stage, split, self._touched, items)
        self._retrieved: dict[tuple[Any, ...], tuple[ItemCodes, IntArray | None]] = {}  # once for all processes

    def training_examples(self, config: TrialConfig, prefixes: IntArray, epoch: int) -> list[Example]:
        """One list for each prefix, with negatives of this epoch; deterministic in (config.seed, epoch, prefix).

        With `shuffle_candidates` the order changes each epoch too; without it the target keeps its label.
        Histories are cut to what a prompt shows and the collaborative scores use: uncut, the prefixes of a user with
        2,700 items would hold 3.6 million items.

        Raises:
            InputError: the catalogue is too small for lists of `candidates`, or a list would leak.
        """
        users, positions = prefixes[:, 0], prefixes[:, 1]
        order_epoch = epoch if config.shuffle_candidates else 0
        negatives = config.candidates - 1
        further = self._further(config, prefixes)
        base = (config.seed, epoch, users, positions)
        popular, hard = self._shares(config, np.full(len(users), negatives), random_bits(*base, _MIX))
        pools = self._hard.of(prefixes) if config.negatives.retriever else _no_pools(users)
        sequences = [sequence.tolist() for sequence in self.split.train]
        examples = self._lists(
            users,
            [sequences[u][max(0, p - _most_used(config)) : p] for u, p in prefixes.tolist()],
            np.array([sequences[u][p] for u, p in prefixes.tolist()], dtype=np.int64),
            _ending_with(
                further,
                self._negatives.of("train", users, negatives, popular, random_bits(*base, _NEGATIVE), pools, hard),
            ),
            random_bits(config.seed, order_epoch, users, positions, _ORDER),
        )
        graded = zip(examples, positions.tolist(), further, strict=True)
        examples = [self._with_further(config, example, at, items) for example, at, items in graded]
        check_no_leak(examples, self.interactions, self.split, "train")
        return examples

    def shared_examples(
        self, config: TrialConfig, prefixes: IntArray, epoch: int, together: int
    ) -> list[list[Example]]:
        """The same examples, up to `together` of them per list; deterministic in (config.seed, epoch, prefixes).

        A list holds the targets of its examples, each a negative for the others; the study's mix of negatives fills the
        rest. Examples are dealt user by user, in random order, so that a user's examples get different lists unless the
        user has more examples than there are lists. Items that a user touched in any part are not the user's negatives.

        Raises:
            InputError: the catalogue is too small for lists of `candidates`, or a list would leak.
        """
        self._negatives.check("train", prefixes[:, 0], config.candidates - 1)
        dealt, listed_right = self._dealt(config, prefixes, epoch, together)
        sequences = [sequence.tolist() for sequence in self.split.train]
        targets = [np.array([sequences[u][p] for u, p in group.tolist()], dtype=np.int64) for group in dealt]
        further = [self._further(config, group) for group in dealt]
        keys = random_bits(config.seed, epoch, np.arange(len(dealt)), together)
        count = config.candidates - (listed_right != OPEN).sum(axis=1)
        pools = self._pools(dealt, listed_right) if config.negatives.retriever else _no_pools(count)
        popular, hard = self._shares(config, count, random_bits(keys, _MIX))
        drawn = self._negatives.draw("train", listed_right, count, popular, random_bits(keys, _NEGATIVE), pools, hard)
        lists = []
        for group, items, more, row_right, row_drawn, row_count, key in zip(
            dealt, targets, further, listed_right, drawn, count, keys, strict=True
        ):
            unordered = np.concatenate([row_right[row_right != OPEN], row_drawn[:row_count]])
            listed = unordered[shuffled(random_bits(int(key), _ORDER), len(unordered))[0]]
            touched = self._touched.holds(np.repeat(group[:, 0], len(listed)), np.tile(listed, len(group)))
            excluded = touched.reshape(len(group), len(listed)) & (listed != items[:, None])
            for row, own in zip(excluded, more, strict=True):
                row[np.isin(listed, own)] = False
            places = (listed == items[:, None]).argmax(axis=1)
            lists.append(
                [
                    self._with_further(
                        config,
                        Example(
                            user, tuple(sequences[user][max(0, at - _most_used(config)) : at]), tuple(listed.tolist()),
                            int(place), tuple(np.flatnonzero(row).tolist()),
                        ), at, own,
                    )
                    for (user, at), place, row, own in zip(group.tolist(), places, excluded, more, strict=True)
                ]
            )  # fmt: skip
        check_no_leak([example for examples in lists for example in examples], self.interactions, self.split, "train")
        return lists

    def list_correction(
        self, config: TrialConfig, prefixes: IntArray, together: int, taken: IntArray | None = None, epoch: int = 0
    ) -> NDArray[np.float32]:
        """What to add to each item's logit in shared lists, [items]; see `reranker.data.candidates.list_correction`.

        Args:
            prefixes: all that any epoch takes. The targets of one epoch alone would tell: each of them is there at least
                once, so targets would look more frequent than they are, and all other items less.
            taken: the epoch's, for how many right items they have and for their hard negatives; None: all.
        """
        items, taken = len(self.interactions.item_ids), prefixes if taken is None else taken
        counts = np.bincount(self._right(config, prefixes), minlength=items)
        hard = None
        if config.negatives.retriever:
            every = -(-len(taken) // _SAMPLED)
            dealt, listed_right = self._dealt(config, taken, epoch, together)
            hard = drawn_shares(self._pools(dealt[::every], listed_right[::every]), items)
        right = len(self._right(config, taken)) / len(taken)
        return list_correction(config, SharedLists(together, right, counts / counts.sum(), hard), self._negatives)

    def _dealt(
        self, config: TrialConfig, prefixes: IntArray, epoch: int, together: int
    ) -> tuple[list[IntArray], IntArray]:
        """The examples of each shared list, and its distinct right items, [lists, most] with OPEN at the end."""
        dealt = _dealt(prefixes, together, random_bits(config.seed, epoch, prefixes[:, 0], _DEAL))
        listed_right = np.full((len(dealt), together * config.positives), OPEN, dtype=np.int64)
        for row, group in zip(listed_right, dealt, strict=True):
            right = [self.split.train[user][at : at + config.positives] for user, at in group.tolist()]
            distinct = np.unique(np.concatenate(right))
            row[: len(distinct)] = distinct
        return dealt, listed_right

    def _pools(self, dealt: list[IntArray], listed_right: IntArray) -> ItemCodes:
        """The hard negatives that a shared list may have: those of any of its examples."""
        rows = zip(dealt, listed_right, strict=True)
        return _joined([np.setdiff1d(self._hard.of(group), row) for group, row in rows])

    def _right(self, config: TrialConfig, prefixes: IntArray) -> ItemCodes:
        """The right items of all these examples together, in no order."""
        lengths = np.array([len(sequence) for sequence in self.split.train])
        users, positions = prefixes[:, 0], prefixes[:, 1]
        starts, every_item = (np.cumsum(lengths) - lengths)[users], np.concatenate(self.split.train)
        places = [(starts + at)[at < lengths[users]] for at in (positions + later for later in range(config.positives))]
        right: ItemCodes = every_item[np.concatenate(places)]
        return right

    def evaluation_examples(
        self,
        part: Evaluated,
        *,
        n: int,
        negatives: Literal["uniform", "popularity"],
        users: int | None,
        seed: int,
    ) -> list[Example]:
        """One list per target with the target among negatives, in the order of the users; the same for every trial.

        The history is everything that the user touched before the target, uncut.

        Args:
            n: candidates in a list, including the target.
            users: size of a seeded sample; a larger sample contains the smaller one, in both parts. None: all.

        Raises:
            InputError: the catalogue is too small for lists of n, or a list would leak.
            SealedError: the part is test, and the data are sealed.
        """
        targets, stream = self._asked(part, users, seed), _stream(part)
        questions = self._questions(targets)
        keys = random_bits(seed, stream, questions, _NEGATIVE)
        popular = np.full(len(targets), n - 1 if negatives == "popularity" else 0, dtype=np.int64)
        no_pools, none_hard = _no_pools(targets.users), np.zeros_like(targets.users)
        examples = self._lists(
            targets.users,
            [history.tolist() for history in self._histories(targets)],
            targets.items.astype(np.int64),
            self._negatives.of(part, targets.users, n - 1, popular, keys, no_pools, none_hard),
            random_bits(seed, stream, questions, _ORDER),
            targets.nth,
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
        whole_catalogue: bool = False,
    ) -> list[Example]:
        """One list per target: what the retriever fetches after the history. See `evaluation_examples` for the rest.

        Only items of the history are left out. Items that the user touches later may be in a list without being its
        target, since a first stage cannot know them. The target of a list that lacks it is MISSING.

        Args:
            order: best first, or shuffled by seed.
            whole_catalogue: whether to say where in the catalogue a target stands that its list lacks.

        Raises:
            InputError: a user has fewer than n items to fetch, or no list holds its target.
            SealedError: the part is test, and the data are sealed.
        """
        held_out = self._asked(part, users, seed)
        targets, histories = held_out.items, self._histories(held_out)
        self._check_retrievable(part, held_out.users, histories, n)
        listed, behind = self._fetch(part, held_out, histories, n, (users, seed, whole_catalogue))
        if not (listed == targets[:, None]).any():
            rule = f"the retriever must find the target in some list; {self.retriever} finds none of {len(held_out)}"
            hint = "raise `candidates`, or take another retriever"
            raise InputError([Fault(rule, field="data.retriever", value=self.retriever, hint=hint)])
        if order == "shuffled":
            keys = random_bits(seed, _stream(part), self._questions(held_out), _ORDER)
            listed = np.take_along_axis(listed, shuffled(keys, n), axis=1)
        places = np.where(
            (listed == targets[:, None]).any(axis=1), (listed == targets[:, None]).argmax(axis=1), MISSING
        )
        if behind is None:
            behind = np.full(len(held_out), NOWHERE)
        columns = (held_out.users, listed, places, held_out.nth, np.where(places == MISSING, behind, NOWHERE))
        examples = [
            Example(user, tuple(history.tolist()), tuple(items), at, nth=nth, behind=before)
            for history, user, items, at, nth, before in zip(histories, *(c.tolist() for c in columns), strict=True)
        ]
        check_no_leak(examples, self.interactions, self.split, part, retrieved=True)
        return examples

    def _asked(self, part: Evaluated, users: int | None, seed: int) -> HeldOut:
        """The targets of a part's lists."""
        if part == "test" and self.split.is_sealed:
            raise SealedError("these data are sealed: they are without the test items, which no search may reach")
        held_out = self.split.held_out(part)
        return held_out.of_users(sample(np.unique(held_out.users), users, seed, _EVALUATION_USER))

    def _histories(self, held_out: HeldOut) -> list[ItemCodes]:
        """What the user touched before each target, oldest first."""
        sequences = self.interactions.sequences
        return [sequences[u][:p] for u, p in zip(held_out.users.tolist(), held_out.positions.tolist(), strict=True)]

    def _further(self, config: TrialConfig, prefixes: IntArray) -> list[ItemCodes]:
        """What each prefix's user touched next in training after its target, up to `positives` with it.

        Raises:
            InputError: they are to be graded by ratings, and there are none.
        """
        if config.positive_grades == "rating":
            self.interactions.check_rated()
        train, more = self.split.train, config.positives - 1
        return [train[user][position + 1 : position + 1 + more] for user, position in prefixes.tolist()]

    def _questions(self, held_out: HeldOut) -> IntArray:
        """A number for each target, for its random numbers; of a user's first target it is the user's."""
        return held_out.users + held_out.nth * len(self.interactions.user_ids)

    def _fetch(
        self, part: Evaluated, held_out: HeldOut, histories: list[ItemCodes], n: int, selection: tuple[Any, ...]
    ) -> tuple[ItemCodes, IntArray | None]:
        """The best items, and how many come before each target if the last of the selection says so.

        Fetched once and kept: another process might order nearly equal scores differently.
        """
        if (part, n, *selection) not in self._retrieved:
            stage = self._first_stage if part == "validation" else self._retriever_of(part)
            known, behind = self._negatives.known[part], None
            if selection[-1]:
                behind = stage.before(histories, held_out.items, histories, known)
            self._retrieved[part, n, *selection] = stage.top(histories, n, histories, known), behind
        return self._retrieved[part, n, *selection]

    def _with_further(self, config: TrialConfig, example: Example, at: int, items: ItemCodes) -> Example:
        """The example with the places of these further right items, which follow its target, and what each is worth.

        Args:
            at: the target's position in the user's sequence.
        """
        if not len(items):
            return example
        further, worths = tuple(map(example.candidates.index, items.tolist())), tuple[float, ...]()
        if config.positive_grades == "rating" and self.interactions.worths is not None:
            worths = tuple(self.interactions.worths[example.user][at : at + 1 + len(items)].tolist())
        return replace(example, further=further, worths=worths)

    def _retriever_of(self, part: Evaluated) -> Retriever:
        """The first stage as it may be for a part: fitted on what lies before it."""
        sequences, texts = self.split.before(part), self.interactions.item_texts
        return Retriever(self.retriever, sequences, texts, self._dense_model, on_known=self.split.by_time)

    def _lists(
        self,
        users: IntArray,
        histories: list[list[int]],
        targets: IntArray,
        negatives: IntArray,
        keys: Words,
        nth: IntArray | None = None,
    ) -> list[Example]:
        """Mix the target with its negatives, in an order drawn by `keys`; every place is equally likely."""
        unordered = np.concatenate([targets[:, None], negatives], axis=1)
        order = shuffled(keys, unordered.shape[1])
        candidates = np.take_along_axis(unordered, order, axis=1)
        places, nths = np.argmin(order, axis=1).tolist(), np.zeros_like(users) if nth is None else nth
        rows = zip(users.tolist(), histories, candidates.tolist(), places, nths.tolist(), strict=True)
        return [
            Example(user, tuple(history), tuple(listed), target, nth=which)
            for user, history, listed, target, which in rows
        ]

    def _shares(self, config: TrialConfig, count: IntArray, keys: Words) -> tuple[IntArray, IntArray]:
        """How many of each row's `count` negatives are drawn by popularity, and how many are hard negatives."""
        mix, remainder = config.negatives, uniform(keys)  # a share below one negative takes effect in some lists
        popular = np.floor(mix.popularity * count + remainder).astype(np.int64)
        popular_or_hard = np.floor(round(mix.popularity + mix.retriever, 9) * count + remainder).astype(np.int64)
        return popular, popular_or_hard - popular

    def _check_retrievable(self, part: Part, users: IntArray, histories: list[ItemCodes], n: int) -> None:
        items, seen = int(self._negatives.known[part].sum()), np.array([len(history) for history in histories])
        if not len(users) or items - seen.max() >= n:
            return
        left, user = items - int(seen.max()), self.interactions.user_ids[int(users[np.argmax(seen)])]
        rule = f"a retriever must find {n} items of the catalogue that are not in the user's history"
        hint = too_few(len(np.unique(users[items - seen < n])), user, left, items, left)
        raise InputError([Fault(rule, field="candidates", value=n, hint=hint)])


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 in hex, equal for equal lists: rankers of the same lists can be compared user by user."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.user, example.history, example.candidates, example.target)).encode())
        if example.behind != NOWHERE:
            digest.update(repr(example.behind).encode())
    return digest.hexdigest()


def _most_used(config: TrialConfig) -> int:
    """Items at the end of a training example's history that anything looks at."""
    return max(config.history_length, collaborative_scores.HISTORY)


def _stream(part: Evaluated) -> int:
    """A number that separates the random numbers of the two parts."""
    return 1 if part == "validation" else 2


def _dealt(prefixes: IntArray, together: int, keys: Words) -> list[IntArray]:
    """Groups of at most `together` prefixes, [group, 2]; a user's prefixes go to different groups if there are enough.

    Args:
        keys: one per prefix, the same for all of a user's: users are dealt in the order of their keys.
    """
    groups = -(-len(prefixes) // together)
    order = np.lexsort((prefixes[:, 1], prefixes[:, 0], keys))
    return [prefixes[order[start::groups]] for start in range(groups)]


def _ending_with(further: list[ItemCodes], negatives: IntArray) -> IntArray:
    """Each row's negatives, the last of them replaced by the row's further items, [rows, negatives]."""
    for row, items in zip(negatives, further, strict=True):
        row[len(row) - len(items) :] = items
    return negatives


def _joined(pools: list[ItemCodes]) -> ItemCodes:
    """Pools of different lengths as one array, [rows, most]; shorter ones end with NOTHING."""
    kept = [pool[pool != NOTHING] for pool in pools]
    joined = np.full((len(kept), max(map(len, kept))), NOTHING, dtype=np.int32)
    for row, pool in enumerate(kept):
        joined[row, : len(pool)] = pool
    return joined


def _no_pools(users: IntArray) -> ItemCodes:
    return np.empty((len(users), 0), dtype=np.int32)
