"""How much a file from elsewhere may claim: each limit, what it keeps from happening, and the variable that raises it.

`docs/LIMITS.md` lists them. A limit is read when it is needed, so that a process can raise it for itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from reranker.errors import Fault, InputError


@dataclass(frozen=True)
class Limit:
    """A number that a file may not exceed.

    Attributes:
        variable: of the environment, which replaces the number.
        usual: the number without it.
        unit: what is counted.
        why: what a file beyond it would do.
    """

    variable: str
    usual: int
    unit: str
    why: str

    @property
    def most(self) -> int:
        """The number that holds now.

        Raises:
            InputError: the variable holds none.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.usual
        if not text.isdecimal() or not 1 <= len(text) <= 18 or int(text) < 1:
            raise InputError([Fault("must be a whole number from 1", field=self.variable, value=text)])
        return int(text)

    def rule(self, what: str) -> str:
        """The rule that `what` must keep, as the sentence of a fault."""
        return f"{what} must have at most {self.most:,} {self.unit}"

    @property
    def hint(self) -> str:
        """How to raise it."""
        return f"the variable {self.variable} raises that"


STUDY_FILE_BYTES = Limit("RERANKER_MOST_STUDY_BYTES", 1_000_000, "bytes", "a study file is read whole, line by line")
STUDY_FILE_VALUES = Limit(
    "RERANKER_MOST_STUDY_VALUES", 100_000, "values, its aliases written out", "a few aliases can stand for billions"
)
STUDY_FILE_DEPTH = Limit("RERANKER_MOST_STUDY_DEPTH", 50, "levels of brackets", "a reader calls itself at each level")
TABLE_ROWS = Limit("RERANKER_MOST_TABLE_ROWS", 200_000_000, "rows", "a Parquet file of kilobytes can claim billions")
TABLE_BYTES = Limit("RERANKER_MOST_TABLE_BYTES", 32 << 30, "bytes unpacked", "a table is read whole, into memory")
UNPACKED_BYTES = Limit("RERANKER_MOST_UNPACKED_BYTES", 4 << 30, "bytes unpacked", "a member of a zip is read whole")
UNPACKED_TIMES = Limit(
    "RERANKER_MOST_UNPACKED_TIMES", 100, "times its packed bytes", "gzip and zip pack zeros a thousand times smaller"
)
LINE_BYTES = Limit("RERANKER_MOST_LINE_BYTES", 1 << 24, "bytes", "a line is read whole")
JSON_BYTES = Limit("RERANKER_MOST_JSON_BYTES", 1 << 24, "bytes", "an adapter's facts are read whole")
IMAGE_BYTES = Limit("RERANKER_MOST_IMAGE_BYTES", 30 << 20, "bytes", "an image is read whole, and fetched ones are kept")
IMAGE_PIXELS = Limit("RERANKER_MOST_IMAGE_PIXELS", 50_000_000, "pixels", "each takes 3 bytes or more, and time")

LIMITS = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
