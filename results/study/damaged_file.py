"""What was found wrong with a file of a study, and what was done about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from reranker.storage.atomic_files import DamagedFile

_TRIAL = re.compile(r"/trials/(\d+)(?:/|$)")


class Outcome(StrEnum):
    """What was done about a damaged file."""

    REBUILT = "rebuilt"  # from what other files tell
    QUARANTINED = "quarantined"  # put aside: no verdict depends on it
    REFUSED = "refused"  # nothing tells what it held, so no verdict is given


@dataclass(frozen=True)
class FileFinding:
    """A damaged file.

    Attributes:
        done: what was done or is to be done, as a clause.
    """

    damage: DamagedFile
    outcome: Outcome
    done: str

    @property
    def trial(self) -> int | None:
        """The trial whose file it is."""
        found = _TRIAL.search(str(self.damage.path))
        return int(found[1]) if found else None

    def __str__(self) -> str:
        return f"{self.damage.path} {self.damage.damage}; {self.done}"
