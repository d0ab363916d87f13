"""Training sequences and a recipe → a trained network, epoch by epoch, and its scores of lists.

On the CPU, in fp32, with one thread: networks of this size gain little from more, and lose much where others need the
cores; and so the same sequences, recipe and seed give the same bits on any number of cores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reranker.data.interactions import ItemCodes
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray, counts
from reranker.data.recommenders.sequence_models.networks import LENGTH, Recipe, SequenceNetwork

_WINDOWS = 32  # a step
_NEGATIVES = 512  # drawn for a step, and shared by its positions
_SCORED = 256  # lists at once
_CLIP = 5.0
_LEAST = 1e-6  # of an epoch
_NOTHING = -1  # where a window is shorter than others


class OutOfTime(Exception):
    """An epoch was not ended in time; `share` of it is done."""

    def __init__(self, share: float) -> None:
        super().__init__(f"{share:.1%} of an epoch is done")
        self.share = share


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[None]:
    """Draws of torch that depend on these numbers alone; its generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class SequenceTraining:
    """A network and its training so far."""

    def __init__(self, recipe: Recipe, sequences: Sequence[ItemCodes], items: int, seed: int) -> None:
        self.recipe, self.epochs = recipe, 0
        self._sequences, self._seed = sequences, seed
        with _seeded(seed, 0):
            self.network = SequenceNetwork(recipe, items)
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        frequent = np.sqrt(counts(sequences, items) + 1.0)
        shares = frequent / frequent.sum()
        self._cumulated = np.cumsum(shares)
        self._log_expected = torch.from_numpy(np.log(_NEGATIVES * shares)).float()

    @_one_thread()
    def train_epoch(self, until: float = math.inf) -> float:
        """Train on each transition of the sequences once; the mean loss, in nats.

        Args:
            until: by `time.monotonic`.

        Raises:
            OutOfTime: it is later than that, within the epoch.
        """
        self.epochs += 1
        rng = np.random.default_rng((self._seed, self.epochs))
        losses: list[float] = []
        self.network.train()
        with _seeded(self._seed, self.epochs):
            for done, (inputs, targets) in _batches(self._sequences, rng):
                if time.monotonic() > until:
                    raise OutOfTime(max(done, _LEAST))
                loss = self._loss(inputs, targets, self._draw(rng))
                self._optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
                self._optimiser.step()
                losses.append(loss.item())
        return float(np.mean(losses)) if losses else math.nan

    def _draw(self, rng: np.random.Generator) -> Tensor:
        """Items by the root of their frequency, with repeats, int64 [_NEGATIVES]."""
        drawn = np.searchsorted(self._cumulated, rng.random(_NEGATIVES))
        return torch.from_numpy(drawn.clip(max=len(self._cumulated) - 1))

    def _loss(self, inputs: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """Cross-entropy of the next item against drawn ones that stand for the whole catalogue.

        Each is weighed by how often it is drawn, so that the loss estimates that over all items. Source: sampled softmax
        (Bengio and Senécal, Quick training of probabilistic neural nets by importance sampling, AISTATS 2003).
        """
        present = targets != _NOTHING
        states, wanted = self.network(inputs, present.sum(dim=1))[present], targets[present]
        against = states @ self.network.items.weight[negatives].T + self.network.bias[negatives]
        against = against - self._log_expected[negatives]
        against = against.masked_fill(wanted[:, None] == negatives, -math.inf)
        scores = torch.cat([self.network.scores(states, wanted[:, None]), against], dim=1)
        return F.cross_entropy(scores, torch.zeros_like(wanted))

    @_one_thread()
    @torch.no_grad()
    def scores_of(self, histories: Sequence[History], candidates: IntArray) -> FloatArray:
        """Scores of each history's candidates, [histories, candidates]; the latest LENGTH items are read."""
        self.network.eval()
        parts = []
        for start in range(0, len(histories), _SCORED):
            recent = [np.asarray(history[-LENGTH:]) for history in histories[start : start + _SCORED]]
            codes = np.zeros((len(recent), max(map(len, recent))), dtype=np.int64)
            for row, history in zip(codes, recent, strict=True):
                row[: len(history)] = history
            lengths = torch.tensor([len(history) for history in recent])
            states = self.network(torch.from_numpy(codes), lengths)[torch.arange(len(recent)), lengths - 1]
            listed = torch.from_numpy(candidates[start : start + _SCORED].copy())  # what was kept may be read-only
            parts.append(self.network.scores(states, listed).double().numpy())
        return np.concatenate(parts)


def _batches(sequences: Sequence[ItemCodes], rng: np.random.Generator) -> Iterator[tuple[float, tuple[Tensor, Tensor]]]:
    """The share of transitions that stand before; windows of the sequences as inputs and what comes next, int64
    [windows, length] each, with _NOTHING at the end of shorter targets. Windows of similar length stand together; where
    they begin changes from epoch to epoch."""
    inputs, targets = _windows(sequences, rng)
    lengths = (targets != _NOTHING).sum(axis=1)
    order = np.lexsort((rng.random(len(lengths)), lengths))
    starts = np.arange(0, len(order), _WINDOWS)
    before, total = 0, max(1, int(lengths.sum()))
    for start in rng.permutation(starts).tolist():
        rows = order[start : start + _WINDOWS]
        longest = lengths[rows].max()
        yield (
            before / total,
            (torch.from_numpy(inputs[rows, :longest]).long(), torch.from_numpy(targets[rows, :longest]).long()),
        )
        before += int(lengths[rows].sum())


def _windows(sequences: Sequence[ItemCodes], rng: np.random.Generator) -> tuple[ItemCodes, ItemCodes]:
    """Each sequence cut into windows of LENGTH transitions at a drawn place; every transition is in one of them. A sequence
    may be empty: with a split by time some users begin later."""
    transitions = np.array([max(0, len(sequence) - 1) for sequence in sequences], dtype=np.int64)
    shifts = rng.integers(0, LENGTH, len(sequences))
    users = np.repeat(np.arange(len(sequences)), transitions)
    places = np.arange(transitions.sum()) - np.repeat(np.cumsum(transitions) - transitions, transitions)
    cuts = (places + shifts[users]) // LENGTH
    first = np.ones(len(places), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (cuts[1:] != cuts[:-1])
    rows = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    columns = np.arange(len(places)) - starts[rows]
    inputs = np.zeros((len(starts), LENGTH), dtype=np.int32)
    targets = np.full((len(starts), LENGTH), _NOTHING, dtype=np.int32)
    if len(places):
        inputs[rows, columns] = np.concatenate([sequence[:-1] for sequence in sequences])
        targets[rows, columns] = np.concatenate([sequence[1:] for sequence in sequences])
    return inputs, targets
