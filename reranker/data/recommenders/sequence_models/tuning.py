"""Training sequences and validation lists → the best of some recipes, by a small search within a time limit.

The search is that of a careful user: each knob in turn is tried on both sides of the best value so far, and each recipe is
trained until its figure on the lists has not risen for some epochs. What was trained is kept in the cache folder, so that
a search that was killed goes on with the next recipe, and another study of the same lists has the result at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reranker.data.interactions import ItemCodes
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.recommenders.sequence_models.networks import Recipe
from reranker.data.recommenders.sequence_models.training import OutOfTime, SequenceTraining
from reranker.errors import EnvironmentFault, RerankerError, minutes_or_seconds
from reranker.metrics import Ranks, values_of
from reranker.storage.atomic_files import DamagedFile, read_json, write_json
from reranker.storage.cache_folder import cache_folder

FIRST = {
    "sasrec": Recipe("sasrec", width=64, layers=2, dropout=0.3, learning_rate=2e-3),
    "gru4rec": Recipe("gru4rec", width=64, layers=1, dropout=0.3, learning_rate=2e-3),
}
OTHERS: dict[str, tuple[Any, ...]] = {"dropout": (0.5, 0.1), "width": (128, 32), "learning_rate": (1e-3, 5e-3)}
MOST_RECIPES = 1 + sum(map(len, OTHERS.values()))
PATIENCE = 4  # epochs without a gain
MOST_EPOCHS = 200
USUAL_EPOCHS = 20  # of a recipe, until it gains no more
_LINE_S = 60.0  # between two lines of progress
_VERSION = 1  # of what is kept; raise it when the same recipe trains other bits


class Untrainable(RerankerError):
    """No recipe was trained for an epoch; the message says why."""


@dataclass(frozen=True)
class TrainedRecipe:
    """A recipe, and what it was worth at its best epoch.

    Attributes:
        value: mean of the metric over the lists.
        finished: whether it was trained until it gained no more.
    """

    recipe: Recipe
    epochs: int
    value: float
    ranks: Ranks
    seconds: float
    finished: bool = True


@dataclass(frozen=True)
class Tuned:
    """The best recipe, its ranks on the lists that it was chosen by, and what is worth knowing of the search."""

    ranks: Ranks
    figures: dict[str, Any]


def retrained(figures: Mapping[str, Any], sequences: Sequence[ItemCodes], items: int, seed: int) -> SequenceTraining:
    """The recipe that a search found, as `Tuned.figures` has it, trained for as many epochs, whatever that takes."""
    training = SequenceTraining(Recipe(**figures["recipe"]), sequences, items, seed)
    for _ in range(figures["epochs"]):
        training.train_epoch()
    return training


def seconds_of_an_epoch(architecture: str, sequences: Sequence[ItemCodes], items: int, within: float) -> float:
    """How long the first recipe's epoch takes on this machine, measured for so many seconds at most."""
    training, began, share = SequenceTraining(FIRST[architecture], sequences, items, seed=0), time.monotonic(), 1.0
    try:
        training.train_epoch(began + within)
    except OutOfTime as reached:
        share = reached.share
    return (time.monotonic() - began) / share


class RecipeSearch:
    """A search for the recipe and the epoch with the highest mean of a metric on some lists."""

    def __init__(
        self,
        sequences: Sequence[ItemCodes],
        items: int,
        lists: RankedLists,
        metric: str,
        seconds: float,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            sequences: of the users, to train on.
            items: how many there are.
            seconds: after which the best so far is taken.
            say: receives a line for each recipe, and one a minute.
        """
        self._sequences, self._items, self._lists, self._metric = sequences, items, lists, metric
        self._seconds, self._seed, self._say = seconds, seed, say
        self._folder = cache_folder() / "baselines" / self._digest()
        self._until = time.monotonic() + seconds
        self._done: list[TrainedRecipe] = []
        self._trouble = ""  # why the last recipe has no epoch

    def best(self, architecture: str) -> Tuned:
        """The best recipe of an architecture, one of FIRST: a change of one knob at a time that brings something stays.

        Raises:
            Untrainable: no sequence has two items, the time was too short for an epoch, or the loss is no number.
        """
        if max(map(len, self._sequences)) < 2:
            raise Untrainable("no training sequence has two items")
        best = self._trained(FIRST[architecture])
        if best.epochs == 0:
            raise Untrainable(self._trouble)
        for knob, values in OTHERS.items():
            for value in values:
                if self._is_out_of_time:
                    break
                tried = self._trained(dataclasses.replace(best.recipe, **{knob: value}))
                if tried.value > best.value:
                    best = tried
                    break  # better on this side, so worse on the other
        figures = {
            "recipe": dataclasses.asdict(best.recipe),
            "epochs": best.epochs,
            "recipes_tried": len(self._done),
            "seconds": round(sum(done.seconds for done in self._done), 1),
            "out_of_time": self._is_out_of_time,
        }
        return Tuned(best.ranks, figures)

    @property
    def _is_out_of_time(self) -> bool:
        return time.monotonic() >= self._until

    def _trained(self, recipe: Recipe) -> TrainedRecipe:
        """A recipe at its best epoch, from the cache folder if it was trained before. Without an epoch its value is
        below all others."""
        path = self._folder / f"{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.json"
        result = _stored(path, recipe)
        if result is not None:
            self._until -= result.seconds  # as if it had been trained now
        else:
            result = self._train(recipe)
            if result.finished:
                with contextlib.suppress(EnvironmentFault):  # then it has to be trained again, if need be
                    _store(path, result)
        self._done.append(result)
        figure = f"{self._metric} {result.value:.3f} at epoch {result.epochs}, {result.seconds:.0f} s"
        self._say(
            f"{recipe.architecture}, recipe {len(self._done)} of {MOST_RECIPES} at most ({recipe}): "
            f"{figure if result.epochs else self._trouble}{'; time is up' if self._is_out_of_time else ''}"
        )
        return result

    def _train(self, recipe: Recipe) -> TrainedRecipe:
        training = SequenceTraining(recipe, self._sequences, self._items, self._seed)
        began = said = time.monotonic()
        best = TrainedRecipe(recipe, 0, -math.inf, Ranks(np.empty(0, np.int64), np.empty(0, np.int64)), 0.0)
        finished = False
        while not finished:
            started = time.monotonic()
            try:
                loss = training.train_epoch(self._until)
            except OutOfTime as reached:
                whole = (time.monotonic() - started) / reached.share
                self._trouble = (
                    f"an epoch takes {minutes_or_seconds(whole)}, and {minutes_or_seconds(self._seconds)} were given"
                )
                break
            if not math.isfinite(loss):
                self._trouble = "its loss is no number any more"
                break
            ranks = self._lists.ranks(training.scores_of)
            value = float(values_of(ranks, self._metric).mean())
            if value > best.value:
                best = TrainedRecipe(recipe, training.epochs, value, ranks, 0.0)
            finished = training.epochs - best.epochs >= PATIENCE or training.epochs >= MOST_EPOCHS
            if time.monotonic() - said > _LINE_S:
                said = time.monotonic()
                self._say(f"  epoch {training.epochs}: {self._metric} {value:.3f}, best {best.value:.3f}")
        return dataclasses.replace(best, seconds=time.monotonic() - began, finished=finished)

    def _digest(self) -> str:
        """Of all that the result depends on."""
        digest = hashlib.sha256()
        facts = (_VERSION, torch.__version__, self._metric, self._seed, self._items)
        digest.update(repr((facts, PATIENCE, MOST_EPOCHS)).encode())
        for rows in (self._sequences, [np.asarray(history) for history in self._lists.histories]):
            digest.update(np.array([len(row) for row in rows], dtype=np.int64).tobytes())
            digest.update(np.concatenate(rows).astype(np.int64).tobytes())
        for part in self._lists.parts():
            digest.update(part)
        return digest.hexdigest()[:32]


def _store(path: Path, result: TrainedRecipe) -> None:
    facts = {"epochs": result.epochs, "value": result.value, "seconds": result.seconds}
    write_json(path, {**facts, "greater": result.ranks.greater.tolist(), "ties": result.ranks.ties.tolist()})


def _stored(path: Path, recipe: Recipe) -> TrainedRecipe | None:
    try:
        facts = read_json(path)
    except DamagedFile:  # or there is none
        return None
    ranks = Ranks(np.array(facts["greater"], dtype=np.int64), np.array(facts["ties"], dtype=np.int64))
    return TrainedRecipe(recipe, facts["epochs"], facts["value"], ranks, facts["seconds"])
