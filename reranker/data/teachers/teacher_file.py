"""A file of a teacher's scores → a score for each pair of user and item, or one error with every fault of the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.example import Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders.linear_recommenders import FloatArray, IntArray
from reranker.data.sources.reading.fault_list import FaultList, raise_faults
from reranker.data.sources.tables import read_scores

_SHOWN = 20


@dataclass(frozen=True, eq=False)
class TeacherFile:
    """What a teacher thinks of items for users, whatever the history.

    Attributes:
        items: of the catalogue.
        keys: user × items + item of each pair, ascending, int64 [pairs].
        values: fp32 [pairs].
        unknown: rows of users or items that are not in the data, which are left out.
    """

    items: int
    keys: IntArray
    values: NDArray[np.float32]
    unknown: int

    @staticmethod
    def read(path: Path, interactions: Interactions, users: IntArray) -> TeacherFile:
        """A CSV or Parquet file with the columns user_id, item_id and score.

        Args:
            users: who is trained on; each of them must have scores, and each item of the catalogue.

        Raises:
            InputError: with the first 20 faults and their number.
            EnvironmentFault: the file may not be read.
        """
        faults = FaultList(str(path))
        table = read_scores(path, faults)
        raise_faults(faults)
        items = len(interactions.item_ids)
        row_users = pd.Index(interactions.user_ids).get_indexer(pd.Index(table["user_id"])).astype(np.int64)
        row_items = pd.Index(interactions.item_ids).get_indexer(pd.Index(table["item_id"])).astype(np.int64)
        is_known = (row_users >= 0) & (row_items >= 0)
        keys = (row_users * items + row_items)[is_known]
        repeated = np.zeros(len(table), dtype=bool)
        repeated[is_known] = pd.Series(keys).duplicated()
        faults.add_rows("a user must have one score of an item", "item_id", table["item_id"], repeated)
        for column, wanted, scored, names in (
            ("user_id", users, row_users[is_known], interactions.user_ids),
            ("item_id", np.arange(items), row_items[is_known], interactions.item_ids),
        ):
            missing = np.setdiff1d(wanted, scored)
            whose = "every user that is trained on" if column == "user_id" else "every item of the catalogue"
            for code in missing[:_SHOWN].tolist():
                faults.add(f"{whose} must have a score", column=column, value=names[code])
            faults.total += len(missing[_SHOWN:])
        raise_faults(faults)
        order = np.argsort(keys)
        values = table["score"].to_numpy(dtype=np.float32)[is_known][order]
        return TeacherFile(items, keys[order], values, int((~is_known).sum()))

    def __str__(self) -> str:
        unknown = f"; {self.unknown:,} others are of users or items that are not in the data" if self.unknown else ""
        return f"the teacher's file has {len(self.keys):,} scores{unknown}"

    @property
    def fingerprint(self) -> str:
        """Equal for equal scores."""
        return hashlib.sha256(self.keys.tobytes() + self.values.tobytes()).hexdigest()

    def scores(self, examples: Sequence[Example]) -> FloatArray:
        """Of each example's candidates, [examples, candidates]; NaN where the file has none."""
        candidates = np.array([example.candidates for example in examples], dtype=np.int64)
        wanted = np.array([example.user for example in examples], dtype=np.int64)[:, None] * self.items + candidates
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        scores: FloatArray = np.where(self.keys[places] == wanted, self.values[places], np.nan).astype(np.float64)
        return scores
