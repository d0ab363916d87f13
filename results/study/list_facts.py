"""A study's validation lists → what is known of each besides its ranks: history, candidates, target, popularity.

Kept in the study's folder before the first trial: `items.parquet`, then `lists.parquet`. No verdict depends on them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reranker.data.example import MISSING
from reranker.errors import EnvironmentFault
from reranker.metrics import IntArray
from reranker.storage.atomic_files import DamagedFile, read_table, write_table
from results.study.study_folder import StudyFolder

if TYPE_CHECKING:  # takes a second to import
    from reranker.data.assemble import RerankingData
    from reranker.data.example import Example

_LISTS, _ITEMS = "lists.parquet", "items.parquet"
_OF = "fingerprint"  # the column with that of the lists, the same in every row; files of before have none
_TITLE = 100  # characters of an item's text that are kept
_HEAD = 0.2  # the share of the touched items that is the short head
_THIRDS = ("first third", "middle third", "last third")


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of the lists.

    Attributes:
        by: what the lists are told apart by: history, target or place.
        name: the part: short, cold, first third …
        detail: its bounds, in words.
        lists: which lists are in it, [lists].
    """

    by: str
    name: str
    detail: str
    lists: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ListFacts:
    """The lists that all trials and baselines of a study rank. An item is a position in `item_ids`.

    Attributes:
        user_ids: of each list.
        history: int [lists], the number of items before the target, whatever part of them a prompt shows.
        target: int [lists], the true item, also of a list that lacks it.
        candidates: int32 [lists, candidates], in the order of their labels.
        item_ids: the whole catalogue.
        titles: the beginning of each item's text.
        popularity: int [items], how many users touched the item before any target of validation.
    """

    user_ids: list[str]
    history: IntArray
    target: IntArray
    candidates: NDArray[np.int32]
    item_ids: list[str]
    titles: list[str]
    popularity: IntArray

    @staticmethod
    def of(data: RerankingData, lists: Sequence[Example]) -> ListFacts:
        """The facts of validation lists of these data."""
        kept, held_out = data.interactions, data.split.validation
        users = np.array([example.user for example in lists], dtype=np.int64)
        nth = np.array([example.nth for example in lists], dtype=np.int64)
        return ListFacts(
            [kept.user_ids[user] for user in users],
            np.array([len(example.history) for example in lists], dtype=np.int64),
            held_out.items[held_out.rows(users, nth)].astype(np.int64),
            np.array([example.candidates for example in lists], dtype=np.int32),
            kept.item_ids,
            [" ".join(text.split())[:_TITLE] for text in kept.item_texts],
            np.bincount(np.concatenate(data.split.train), minlength=len(kept.item_ids)),
        )

    @staticmethod
    def of_study(study: StudyFolder) -> ListFacts:
        """The facts that a study's folder holds.

        Raises:
            EnvironmentFault: it was begun by a version that did not keep them.
            DamagedFile: they are not what was written.
        """
        if sentence := ListFacts.missing(study):
            raise EnvironmentFault(sentence)
        path = study.path / _LISTS
        items = read_table(study.path / _ITEMS, ["item_id", "title", "users"], [_OF])
        lists = read_table(path, ["user_id", "history", "target", "candidates"], [_OF])
        for name, table in ((_ITEMS, items), (_LISTS, lists)):
            if _OF in table and set(table[_OF]) != {study.read_manifest().get("lists")}:
                raise DamagedFile(study.path / name, "is of other lists than the study's")
        target, count = lists["target"].astype(np.int64), len(items["item_id"])
        try:
            candidates = np.vstack(list(lists["candidates"])).astype(np.int32)
        except (ValueError, TypeError):
            raise DamagedFile(path, "is damaged: its lists have different lengths") from None
        if min(target.min(), candidates.min()) < 0 or max(target.max(), candidates.max()) >= count:
            raise DamagedFile(path, f"is damaged: it has items that {_ITEMS} lacks")
        return ListFacts(
            [str(user) for user in lists["user_id"]],
            lists["history"].astype(np.int64),
            target,
            candidates,
            [str(item) for item in items["item_id"]],
            [str(title) for title in items["title"]],
            items["users"].astype(np.int64),
        )

    @staticmethod
    def missing(study: StudyFolder) -> str:
        """That the folder does not hold them, and what to do, in a sentence; empty if it does."""
        if (study.path / _LISTS).exists():
            return ""
        return (
            f"{study.name} was begun by an older version, which kept no {_LISTS}, so there are no figures by segment; "
            "`--resume` adds it where the data are still the same"
        )

    def keep(self, study: StudyFolder, of: str = "") -> None:
        """Write both files.

        Args:
            of: the fingerprint of the lists, by which another study's files are told from the study's own.

        Raises:
            EnvironmentFault: they can't be written.
        """
        import pandas as pd  # imported here, so that --help need not wait for it

        popularity = self.popularity.astype(np.int32)
        items = pd.DataFrame({"item_id": self.item_ids, "title": self.titles, "users": popularity})
        lists = pd.DataFrame(
            {
                "user_id": self.user_ids,
                "history": self.history.astype(np.int32),
                "target": self.target.astype(np.int32),
                "candidates": list(self.candidates),
            }
        )
        for name, table in ((_ITEMS, items), (_LISTS, lists)):
            write_table(study.path / name, table.assign(**{_OF: of}) if of else table)

    def ranked_for(self, user_ids: Collection[str]) -> ListFacts:
        """The lists of these users, in the order of their ids, as `ConfigurationResult.ranker` has them."""
        order = [row for row in np.argsort(self.user_ids, kind="stable").tolist() if self.user_ids[row] in user_ids]
        return replace(
            self,
            user_ids=[self.user_ids[row] for row in order],
            history=self.history[order],
            target=self.target[order],
            candidates=self.candidates[order],
        )

    @cached_property
    def place(self) -> IntArray:
        """The position of the true item among the candidates, [lists]; MISSING if a retriever did not find it."""
        is_target = self.candidates == self.target[:, None]
        return np.where(is_target.any(axis=1), is_target.argmax(axis=1), MISSING).astype(np.int64)

    @cached_property
    def head(self) -> int:
        """The fewest users of an item in the short head, the most popular fifth of the items that anybody touched;
        items that tie with the last of the fifth are in it too."""
        touched = np.sort(self.popularity[self.popularity > 0])[::-1]
        return int(touched[int(np.ceil(_HEAD * len(touched))) - 1])

    def segments(self) -> list[Segment]:
        """The parts that the lists are told apart in, three ways; a way that leaves them all in one part is left out."""
        ways = (self._by_history(), self._by_target(), self._by_place())
        filled = ([segment for segment in way if segment.lists.any()] for way in ways)
        return [segment for way in filled if len(way) > 1 for segment in way]

    def _by_history(self) -> Iterator[Segment]:
        """Thirds of the lists, by how long the history is; equal lengths stay together, which may leave two parts."""
        ends = np.quantile(self.history, [1 / 3, 2 / 3], method="inverted_cdf")
        third = np.searchsorted(ends, self.history)
        numbers = np.unique(third).tolist()
        names = ("short", "middle", "long") if len(numbers) == 3 else ("short", "long")
        for number, name in zip(numbers, names, strict=False):
            lists = third == number
            yield Segment("history", name, f"length {_span(self.history[lists])}", lists)

    def _by_target(self) -> Iterator[Segment]:
        users = self.popularity[self.target]
        yield Segment("target", "cold", "nobody touched it in training", users == 0)
        tail = f"{_spelled(1, self.head - 1)} user{'s' * (self.head > 2)}"
        yield Segment("target", "long tail", tail, (users > 0) & (users < self.head))
        yield Segment("target", "short head", f"{self.head} user{'s' * (self.head > 1)} or more", users >= self.head)

    def _by_place(self) -> Iterator[Segment]:
        """Thirds of the list, by where the true item's label stands in it."""
        thirds = np.array_split(np.arange(self.candidates.shape[1]), len(_THIRDS))
        for name, places in zip(_THIRDS, thirds, strict=True):
            if len(places):
                yield Segment("place", name, f"place {_span(places + 1)}", np.isin(self.place, places))
        yield Segment("place", "not listed", "the retriever missed it", self.place == MISSING)


def _span(numbers: NDArray[np.integer]) -> str:
    return _spelled(int(numbers.min()), int(numbers.max()))


def _spelled(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
