"""What is known of the lists, and a trial's picks → which items it puts first: too often, too seldom, how many, how new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reranker.metrics import FloatArray, IntArray
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.paired_tests import LEVEL
from results.statistics.segments import Level
from results.study.list_facts import ListFacts
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

LEAST = 10  # users in whose lists an item is either first or the target; fewer could not be proven


@dataclass(frozen=True)
class Item:
    """An item's first places against its targets.

    Attributes:
        item_id, title: of the catalogue.
        users: how many touched it in training.
        listed: in how many lists it stands.
        first: in how many it stands first.
        target: in how many it is the true item.
        p: two-sided, of the two counts being equal but for chance, adjusted for all tested items; None where too few
            users tell.
    """

    item_id: str
    title: str
    users: int
    listed: int
    first: int
    target: int
    p: float | None

    @property
    def proven(self) -> bool:
        """Whether it stands first too often, or too seldom."""
        return self.p is not None and self.p < LEVEL

    @property
    def word(self) -> str:
        """What is proven of it: too often, too seldom, or not told apart; empty where too few users tell."""
        if self.p is None:
            return ""
        return "not told apart" if not self.proven else "too often" if self.first > self.target else "too seldom"


@dataclass(frozen=True)
class FirstPlaces:
    """What a trial puts first in the lists.

    Attributes:
        trial: the search's own run of a configuration.
        lists: how many were ranked.
        catalogue: the number of items.
        listed, first, targets: how many different items stand in a list, stand first, are a target.
        novelty: of what stands first, in bits.
        target_novelty: of the targets, in bits.
        novelty_gain: the difference, list by list.
        items: those that stand first or are a target, those that stand first most above their share of targets first.
    """

    trial: StoredTrial
    lists: int
    catalogue: int
    listed: int
    first: int
    targets: int
    novelty: Level
    target_novelty: Level
    novelty_gain: Level
    items: tuple[Item, ...]

    @property
    def coverage(self) -> float:
        """The share of the catalogue that stands first in some list.

        Source: Ge, Delgado-Battenfeld and Jannach, Beyond Accuracy: Evaluating Recommender Systems by Coverage and
        Serendipity, RecSys 2010 (catalogue coverage), with lists of one.
        """
        return self.first / self.catalogue

    @property
    def too_often(self) -> list[Item]:
        """The items that are proven to stand first more often than they are the target."""
        return [item for item in self.items if item.word == "too often"]


def first_places(study: StudyFolder, trial: StoredTrial) -> FirstPlaces | None:
    """What a trial's best report puts first; None if its picks were not kept.

    Raises:
        EnvironmentFault: the study keeps no facts of its lists.
        DamagedFile: they are not what was written.
    """
    facts, folder = ListFacts.of_study(study), study.trial(trial.number)
    picks = folder.read_picks() if folder.has_ranks else None
    if picks is None:
        return None
    users = folder.read_user_ids()
    facts, lists = facts.ranked_for(set(users)), ListsOfUsers.of(sorted(users))
    first = facts.candidates[np.arange(len(users)), picks.first[np.argsort(users, kind="stable")]].astype(np.int64)
    bits, target = self_information(facts.popularity), facts.target
    return FirstPlaces(
        trial,
        len(users),
        len(facts.item_ids),
        len(np.unique(facts.candidates)),
        len(np.unique(first)),
        len(np.unique(target)),
        Level.of(bits[first], lists),
        Level.of(bits[target], lists),
        Level.of(bits[first] - bits[target], lists),
        _items(facts, first, lists),
    )


def self_information(popularity: IntArray) -> FloatArray:
    """How new each item is to a user, in bits: −log2 of its share of the interactions of training.

    Source: Vargas and Castells, Rank and Relevance in Novelty and Diversity Metrics for Recommender Systems, RecSys
    2011 (expected free discovery). One is added to each count, since a cold item's novelty would be infinite.
    """
    bits: FloatArray = -np.log2((popularity + 1) / (popularity.sum() + len(popularity)))
    return bits


def _items(facts: ListFacts, first: IntArray, lists: ListsOfUsers) -> tuple[Item, ...]:
    size, target = len(facts.item_ids), facts.target
    firsts, targets = np.bincount(first, minlength=size), np.bincount(target, minlength=size)
    listed = np.bincount(facts.candidates.ravel(), minlength=size)
    p = too_unequal(*_more_of_either(first, target, lists.owners, size))
    shown = np.flatnonzero(firsts + targets)
    order = shown[np.lexsort((-firsts[shown], targets[shown] - firsts[shown]))]
    return tuple(
        Item(
            facts.item_ids[item],
            facts.titles[item],
            int(facts.popularity[item]),
            int(listed[item]),
            int(firsts[item]),
            int(targets[item]),
            None if np.isnan(p[item]) else float(p[item]),
        )
        for item in order
    )


def _more_of_either(first: IntArray, target: IntArray, owners: IntArray, items: int) -> tuple[IntArray, IntArray]:
    """How many users have the item first more often than as the target, and how many less often, [items] each.

    Args:
        first, target: items, [lists].
        owners: whose the lists are, [lists].
    """
    wrong = first != target
    pairs = np.concatenate([owners[wrong] * items + first[wrong], owners[wrong] * items + target[wrong]])
    signs = np.repeat([1, -1], np.count_nonzero(wrong))
    kinds, of_pair = np.unique(pairs, return_inverse=True)
    more = np.bincount(of_pair, weights=signs, minlength=len(kinds))
    only_first, only_target = (np.bincount(kinds[side] % items, minlength=items) for side in (more > 0, more < 0))
    return only_first, only_target


def too_unequal(only_first: IntArray, only_target: IntArray) -> NDArray[np.float64]:
    """p-values of items standing first as often as they are the target, [items]; NaN of fewer than `LEAST` users.

    Whoever has an item as often first as for the target tells nothing; of the others half should be of either kind.
    Source: McNemar, Psychometrika 12, 1947, exact by the binomial distribution; adjusted by Holm, Scandinavian Journal
    of Statistics 6, 1979, over the items with enough users, which does not depend on which kind they are of.

    Args:
        only_first: int [items], users in whose lists the item stands first more often than it is the target.
        only_target: int [items], users in whose lists it does so less often.
    """
    both = only_first + only_target
    adjusted = np.full(len(both), np.nan)
    tested = np.flatnonzero(both >= LEAST)
    fewer = np.minimum(only_first, only_target)[tested]
    p = np.minimum(1.0, 2 * stats.binom.cdf(fewer, both[tested], 0.5))
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    adjusted[tested[order]] = steps
    return adjusted
