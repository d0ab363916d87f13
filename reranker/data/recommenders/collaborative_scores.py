"""Training sequences → what counting says of each candidate: a conditional logit over what users did next, and together.

A language model reads titles; which items are popular, followed each other or share users is in no title. These scores
hold that. Added to the labels' logits in training and in use, they leave the model to learn what counting misses. Source:
interpolation of first-stage and cross-encoder scores (Wang et al., BERT-based dense retrievers require interpolation with
BM25, ICTIR 2021); the offset in training is that of boosting (Friedman, Greedy function approximation, 2001).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from reranker.data.example import Example
from reranker.data.interactions import ItemCodes
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray, counts, incidence

HISTORY = 10  # most recent items that count
_LATEST = 100  # items of a user that make pairs, if the catalogue's pairs stay below the limit
_MOST_PAIRS = 20_000_000
_BLOCK = 256  # lists at once
_PENALTY = 1e-4  # on the squared weights, against lists that can be told apart perfectly
FEATURES = 5


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of ordered pairs of items. Looking cells up in scipy's matrices reads whole rows, which are long for popular items.

    Attributes:
        items: how many there are.
        keys: first item × items + second item of each pair that was counted, ascending, int64 [pairs].
        counts: int32 [pairs].
    """

    items: int
    keys: IntArray
    counts: NDArray[np.int32]

    @staticmethod
    def of(matrix: csr_matrix) -> PairCounts:
        """From a matrix [items, items]."""
        matrix.sum_duplicates()
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        return PairCounts(matrix.shape[0], rows * matrix.shape[0] + matrix.indices, matrix.data.astype(np.int32))

    def at(self, first: IntArray, second: IntArray) -> IntArray:
        """The counts of pairs, of two arrays that broadcast; 0 for unknown items."""
        keys = np.where((first < 0) | (second < 0), -1, first * self.items + second)
        if not len(self.keys):
            return np.zeros(keys.shape, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Own:
    """What of the counts is that of each list's own user, who is left out of them in training.

    Attributes:
        touched: 1 for the right items, which the user touched, int [lists, candidates].
        followed: 1 for the target, which followed the history's last item, int [lists, candidates].
        paired: how many of the history's latest items were counted in pairs with them, int [lists].
    """

    touched: IntArray
    followed: IntArray
    paired: IntArray

    @staticmethod
    def nothing(candidates: IntArray) -> Own:
        """Of lists whose user is not counted with their targets."""
        none = np.zeros(candidates.shape, dtype=np.int64)
        return Own(none, none, np.zeros(len(candidates), dtype=np.int64))

    @staticmethod
    def of(examples: Sequence[Example], counted: Sequence[ItemCodes], latest: int) -> Own:
        """Of training lists.

        Args:
            examples: these lists.
            counted: the sequences that were counted, of all users.
            latest: see `ItemCounts`.
        """
        touched = np.zeros((len(examples), len(examples[0].candidates) if examples else 0), dtype=np.int64)
        followed, paired = touched.copy(), np.zeros(len(examples), dtype=np.int64)
        for row, example in enumerate(examples):
            touched[row, [example.target, *example.further]] = 1
            followed[row, example.target] = 1
            sequence = counted[example.user]
            position = int(np.argmax(sequence == example.candidates[example.target]))
            paired[row] = max(0, position - max(0, len(sequence) - latest))
        return Own(touched, followed, paired)

    def rows(self, rows: slice) -> Own:
        """Of a part of the lists."""
        return Own(self.touched[rows], self.followed[rows], self.paired[rows])


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """How often items were touched, followed each other and share users.

    Attributes:
        touched: users who touched the item, [items].
        followed: how often the second item directly followed the first.
        shared: users who touched both, among each user's latest items.
        users: how many there are.
        latest: how many of each user's latest items were counted in pairs.
    """

    touched: IntArray
    followed: PairCounts
    shared: PairCounts
    users: int
    latest: int = 0

    @staticmethod
    def of(sequences: Sequence[ItemCodes], items: int) -> ItemCounts:
        """Count in the sequences of all users."""
        before = np.concatenate([sequence[:-1] for sequence in sequences])
        after = np.concatenate([sequence[1:] for sequence in sequences])
        followed = csr_matrix((np.ones(len(before), np.int32), (before, after)), shape=(items, items))
        most = _latest(sequences)
        user_items = incidence([sequence[-most:] for sequence in sequences], items).astype(np.int32)
        shared = (user_items.T @ user_items).tocsr()
        shared.setdiag(0)
        shared.eliminate_zeros()
        users = sum(len(sequence) > 0 for sequence in sequences)
        return ItemCounts(counts(sequences, items), PairCounts.of(followed), PairCounts.of(shared), users, most)

    def features(self, histories: Sequence[History], candidates: IntArray, own: Own | None = None) -> FloatArray:
        """What is counted of each candidate, [lists, candidates, FEATURES].

        The logarithms of: the users who touched it; how often it followed the history's last item, and was followed by
        it; the mean pointwise mutual information with the history's items; the summed cosine similarity to them.

        Args:
            histories: oldest first; the last `HISTORY` items count. Codes below 0 are unknown items.
            candidates: [lists, candidates]; codes below 0 are unknown items.
            own: what to leave out of the counts, for training lists; None: nothing.
        """
        own = own or Own.nothing(candidates)
        parts = [
            self._features(histories[rows], candidates[rows], own.rows(rows))
            for rows in (slice(start, start + _BLOCK) for start in range(0, len(candidates), _BLOCK))
        ]
        return np.concatenate(parts) if parts else np.empty((*candidates.shape, FEATURES))

    def _features(self, histories: Sequence[History], candidates: IntArray, own: Own) -> FloatArray:
        shown = np.full((len(histories), HISTORY), -1, dtype=np.int64)
        for row, history in zip(shown, histories, strict=True):
            recent = np.asarray(history[-HISTORY:], dtype=np.int64)
            row[HISTORY - len(recent) :] = recent
        is_shown, last = shown >= 0, shown[:, -1:]
        popular = np.maximum(_at(self.touched, candidates) - own.touched, 0).astype(np.float64)
        history_popular = np.maximum(_at(self.touched, shown), 1)[:, :, None]
        is_paired = np.arange(HISTORY, 0, -1) <= own.paired[:, None]
        own_pairs = own.touched[:, None, :] * is_paired[:, :, None]
        shared = np.maximum(self.shared.at(shown[:, :, None], candidates[:, None, :]) - own_pairs, 0)
        chance = history_popular * popular[:, None, :] / max(1, self.users)
        information = np.where(is_shown[:, :, None], np.log((shared + 1) / (chance + 1)), 0).sum(axis=1)
        cosine = (shared / np.sqrt(history_popular * np.maximum(popular, 1)[:, None, :])).sum(axis=1)
        return np.stack(
            [
                np.log1p(popular),
                np.log1p(np.maximum(self.followed.at(last, candidates) - own.followed, 0)),
                np.log1p(self.followed.at(candidates, last)),
                information / np.maximum(1, is_shown.sum(axis=1, keepdims=True)),
                np.log1p(cosine),
            ],
            axis=2,
        )


@dataclass(frozen=True, eq=False)
class CollaborativeScores:
    """Counts and the weight of each feature."""

    item_counts: ItemCounts
    weights: FloatArray

    @staticmethod
    def fitted(
        item_counts: ItemCounts, histories: Sequence[History], candidates: IntArray, targets: IntArray, own: Own
    ) -> CollaborativeScores:
        """The weights that make the targets of these training lists most likely, without their users' own counts.

        Without lists only popularity counts.
        """
        rows = np.arange(len(targets))
        if not len(rows):
            return CollaborativeScores(item_counts, np.eye(FEATURES)[0])
        features = item_counts.features(histories, candidates, own)

        def loss(weights: FloatArray) -> tuple[float, FloatArray]:
            scores = log_softmax(features @ weights, axis=-1)
            errors = np.exp(scores)
            errors[rows, targets] -= 1
            gradient = np.einsum("ijk,ij->k", features, errors) / len(rows)
            return float(_PENALTY * weights @ weights - scores[rows, targets].mean()), gradient + 2 * _PENALTY * weights

        return CollaborativeScores(item_counts, minimize(loss, np.zeros(FEATURES), jac=True, method="L-BFGS-B").x)

    def scores(self, histories: Sequence[History], candidates: IntArray, own: Own | None = None) -> FloatArray:
        """Log-probabilities of each list's candidates, [lists, candidates]; see `ItemCounts.features`."""
        log_shares: FloatArray = log_softmax(
            self.item_counts.features(histories, candidates, own) @ self.weights, axis=-1
        )
        return log_shares


@dataclass(frozen=True, eq=False)
class TitleScores:
    """The scores by title, as an adapter takes them along. Of several items with one title the most popular one counts."""

    scores: CollaborativeScores
    titles: tuple[str, ...]

    def of(self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> FloatArray:
        """Log-probabilities, [lists, candidates], of lists of equal length; an unknown title has no counts."""
        coded = np.array([self._coded(titles) for titles in candidates], dtype=np.int64)
        return self.scores.scores([self._coded(titles) for titles in histories], coded)

    @cached_property
    def content(self) -> bytes:
        """What `from_bytes` reads: an .npz file without pickled objects."""
        item_counts, file = self.scores.item_counts, io.BytesIO()
        titles = "\n".join(map(_one_line, self.titles)).encode()
        arrays: dict[str, Any] = {
            "weights": self.scores.weights,
            "touched": item_counts.touched,
            "users": np.array(item_counts.users),
            "titles": np.frombuffer(titles, np.uint8),
            **_parts("followed", item_counts.followed),
            **_parts("shared", item_counts.shared),
        }
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> TitleScores:
        """From `content`.

        Raises:
            ValueError, KeyError, OSError, zipfile.BadZipFile: it is something else.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            items = len(file["touched"])
            followed, shared = (
                PairCounts(items, np.cumsum(file[f"{name}_steps"]), file[f"{name}_counts"])
                for name in ("followed", "shared")
            )
            titles = bytes(file["titles"]).decode().split("\n")
            if len(titles) != items:
                raise ValueError("there must be as many titles as items")
            item_counts = ItemCounts(file["touched"], followed, shared, int(file["users"]))
            return TitleScores(CollaborativeScores(item_counts, file["weights"]), tuple(titles))

    @cached_property
    def _codes(self) -> dict[str, int]:
        by_popularity = np.argsort(self.scores.item_counts.touched, kind="stable").tolist()
        return {_one_line(self.titles[item]): item for item in by_popularity}

    def _coded(self, titles: Sequence[str]) -> list[int]:
        return [self._codes.get(_one_line(title), -1) for title in titles]


def _latest(sequences: Sequence[ItemCodes]) -> int:
    """How many of each user's latest items make pairs."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    most = _LATEST
    while most > 2 and int((np.minimum(lengths, most) ** 2).sum()) > _MOST_PAIRS:
        most = max(2, most // 2)  # one item is no pair
    return most


def _at(values: IntArray, items: IntArray) -> IntArray:
    """The items' values; 0 for unknown items."""
    found: IntArray = np.where(items < 0, 0, values[np.maximum(items, 0)])
    return found


def _parts(name: str, pairs: PairCounts) -> dict[str, NDArray[np.integer]]:
    """As stored: the steps between keys are small numbers, which compress well."""
    return {f"{name}_steps": np.diff(pairs.keys, prepend=0), f"{name}_counts": pairs.counts}


def _one_line(title: str) -> str:
    return " ".join(title.split())
