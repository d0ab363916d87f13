"""A seed → interactions with a generated catalogue by a known rule, and the best score that the rule allows.

Each of 12 genres has 25 items. The next item's genre is the last item's follower genre with probability .65, the same
genre with .25, and any of the 12 with .10. Within its genre an item is drawn by Zipf's law (weight 1 / rank^0.7), from
those that the user hasn't had yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.example import Example
from reranker.data_config import DemoData
from reranker.errors import Fault, InputError

FOLLOWS, STAYS, ANY = 0.65, 0.25, 0.10  # probabilities of the three ways to choose the next genre
ZIPF = 0.7  # with 1 the popular items recur so often that counting pairs of items nearly finds the rule
_BLOCK = 2048  # rows of probabilities over the whole catalogue in memory at a time, 5 MB

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Genre:
    """Words of the 25 titles, and the genre that usually comes next. No two genres share a word."""

    name: str
    follower: str
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]

    def titles(self) -> list[str]:
        """The titles from most to least popular: all with one noun before those with the next."""
        return [f"{adjective} {noun}" for noun in self.nouns for adjective in self.adjectives]


def _genre(name: str, follower: str, adjectives: str, nouns: str) -> Genre:
    return Genre(name, follower, tuple(adjectives.split()), tuple(nouns.split()))


GENRES = (
    _genre("western", "music", "Dusty Lonesome Wanted Rugged Untamed", "Saddle Sheriff Canyon Outlaw Ranch"),
    _genre("space", "romance", "Stellar Orbital Cosmic Galactic Lunar", "Starship Nebula Comet Probe Asteroid"),
    _genre("horror", "sport", "Haunted Cursed Bloody Ghastly Undead", "Crypt Coven Phantom Asylum Grave"),
    _genre("romance", "war", "Tender Secret Parisian Wedded Smitten", "Kiss Bride Valentine Sweetheart Honeymoon"),
    _genre("crime", "nature", "Corrupt Stolen Guilty Unsolved Crooked", "Detective Heist Alibi Mobster Verdict"),
    _genre("war", "comedy", "Fallen Armoured Besieged Valiant Wounded", "Battalion Trench Bunker Sergeant Siege"),
    _genre("fantasy", "crime", "Enchanted Mystic Elven Arcane Fabled", "Wizard Dragon Sword Prophecy Kingdom"),
    _genre(
        "sport", "history", "Undefeated Olympic Sprinting Relegated Athletic", "Striker Marathon Boxer Stadium Trophy"
    ),
    _genre("music", "horror", "Electric Melodic Acoustic Jazzy Symphonic", "Ballad Orchestra Guitar Encore Drummer"),
    _genre("nature", "western", "Wild Frozen Coral Tropical Alpine", "Glacier Rainforest Reef Savanna Migration"),
    _genre("comedy", "fantasy", "Clumsy Silly Hilarious Awkward Zany", "Roommate Prank Clown Nephew Mishap"),
    _genre("history", "space", "Ancient Imperial Medieval Victorian Colonial", "Empire Dynasty Crown Pharaoh Treaty"),
)
TITLES = [title for genre in GENRES for title in genre.titles()]
ITEM_IDS = [f"i{code:03d}" for code in range(len(TITLES))]
GENRE_OF_ITEM: IntArray = np.repeat(np.arange(len(GENRES)), [len(genre.titles()) for genre in GENRES])


def transitions() -> FloatArray:
    """[genres, genres]: probability of the next item's genre (column) after an item of a genre (row)."""
    names = [genre.name for genre in GENRES]
    matrix = np.full((len(GENRES), len(GENRES)), ANY / len(GENRES)) + STAYS * np.eye(len(GENRES))
    matrix[np.arange(len(GENRES)), [names.index(genre.follower) for genre in GENRES]] += FOLLOWS
    return matrix


def popularity() -> FloatArray:
    """[items]: probability of an item within its genre, by Zipf's law with exponent `ZIPF`."""
    shares = [np.arange(1, len(genre.titles()) + 1) ** -ZIPF for genre in GENRES]
    return np.concatenate([share / share.sum() for share in shares])


def read(config: DemoData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw the users' sequences, without repeats within a user; deterministic in the seed.

    Returns:
        Interactions (user_id, item_id, timestamp: position in the user's sequence) and all items (item_id, text).

    Raises:
        InputError: a user would need more items than the catalogue has.
    """
    if config.interactions_per_user > len(TITLES):
        rule = f"the demo has {len(TITLES)} items, and no user gets one twice"
        raise InputError([Fault(rule, field="data.interactions_per_user", value=config.interactions_per_user)])
    rng = np.random.default_rng(config.seed)
    starts = range(0, config.users, _BLOCK)
    codes = np.concatenate(
        [_draw(rng, min(_BLOCK, config.users - start), config.interactions_per_user) for start in starts]
    )
    width = len(str(config.users - 1))
    interactions = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{user:0{width}d}" for user in range(config.users)], config.interactions_per_user),
            "item_id": np.array(ITEM_IDS)[codes.ravel()],
            "timestamp": np.tile(np.arange(config.interactions_per_user), config.users),
        }
    )
    return interactions, pd.DataFrame({"item_id": ITEM_IDS, "text": TITLES})


def oracle_scores(item_ids: Sequence[str], examples: Sequence[Example]) -> FloatArray:
    """The probability that each candidate is the target, for a ranker that knows the rule: [lists, candidates].

    With uniform negatives the list reveals nothing about its target, so by Bayes the posterior of candidate c is
    p(c | history) / Σ p(c' | history) over the list's c', where

        p(c | history) = T[genre of the last item, genre of c] · z(c) / Σ z(i) over the unseen items i of c's genre

    with T from `transitions` and z from `popularity`: exactly the rule of `read`, given the whole history.
    (Negatives are items that the user *never* touches, so they also exclude what comes after the target. This small
    leak, worth under .01 of Recall@1, is ignored: it is no knowledge about the user.)

    Args:
        item_ids: the catalogue; the examples' item codes are positions in it; a subset of `ITEM_IDS`.
        examples: at least one, all with the same number of candidates and with uncut histories.
    """
    code_of = {item_id: code for code, item_id in enumerate(ITEM_IDS)}
    codes = np.array([code_of[item_id] for item_id in item_ids], dtype=np.int64)
    blocks = []
    for start in range(0, len(examples), _BLOCK):
        block = examples[start : start + _BLOCK]
        seen = np.zeros((len(block), len(TITLES)), dtype=np.bool_)
        for row, example in enumerate(block):
            seen[row, codes[list(example.history)]] = True
        last = codes[[example.history[-1] for example in block]]
        listed = codes[np.array([example.candidates for example in block])]
        share = np.take_along_axis(_next_item(last, seen), listed, axis=1)
        blocks.append(share / share.sum(axis=1, keepdims=True))
    return np.concatenate(blocks)


def best_reachable(item_ids: Sequence[str], examples: Sequence[Example]) -> float:
    """Expected Recall@1 of the best possible ranker on lists with uniform negatives: the mean of the largest posterior.

    If several candidates tie for it, each is the target equally often, so ties change nothing.
    """
    return float(oracle_scores(item_ids, examples).max(axis=1).mean())


def _draw(rng: np.random.Generator, users: int, length: int) -> IntArray:
    """Item codes [users, length], without repeats within a row."""
    everyone = np.arange(users)
    sequences = np.empty((users, length), dtype=np.int64)
    seen = np.zeros((users, len(TITLES)), dtype=np.bool_)
    for step in range(length):
        if step == 0:
            share = np.tile(popularity() / len(GENRES), (users, 1))
        else:
            share = _next_item(sequences[:, step - 1], seen)
        cumulated = np.cumsum(share, axis=1)
        drawn = rng.random(users)[:, None] * cumulated[:, -1:]
        sequences[:, step] = np.argmax(cumulated > drawn, axis=1)
        seen[everyone, sequences[:, step]] = True
    return sequences


def _next_item(last: IntArray, seen: BoolArray) -> FloatArray:
    """Probability that each item of the catalogue comes next, [rows, items], after the item `last` [rows].

    If a user has seen a whole genre, the other genres share its probability.
    """
    share = np.where(seen, 0.0, popularity())
    in_genre = np.add.reduceat(share, np.flatnonzero(np.diff(GENRE_OF_ITEM, prepend=-1)), axis=1)
    genre = np.where(in_genre > 0, transitions()[GENRE_OF_ITEM[last]], 0.0)
    genre /= genre.sum(axis=1, keepdims=True)
    weight = np.divide(genre, in_genre, out=np.zeros_like(genre), where=in_genre > 0)
    return share * weight[:, GENRE_OF_ITEM]
