"""How far a study's search is: over, running, or to be gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from reranker.command_line.redaction import masked
from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder


class Stage(Enum):
    """Whether a search may still change what is known."""

    COMPLETE = auto()  # nothing is left
    ENDED_EARLY = auto()  # by Ctrl-C, a budget, a limit or the machine
    RUNNING = auto()
    INTERRUPTED = auto()  # killed, or the machine went down
    UNKNOWN = auto()  # it has not ended, and whether it runs can't be told


@dataclass(frozen=True)
class SearchState:
    """
    Attributes:
        reason: why it ended early, or why nothing can be told.
    """

    stage: Stage
    reason: str = ""

    @staticmethod
    def of(study: StudyFolder) -> SearchState:
        """As the folder has it now."""
        ending = study.read_ending()
        if ending["complete"]:
            return SearchState(Stage.COMPLETE)
        if ending["reason"]:
            return SearchState(Stage.ENDED_EARLY, masked(ending["reason"]))
        try:
            return SearchState(Stage.RUNNING if study.is_searched() else Stage.INTERRUPTED)
        except EnvironmentFault as fault:
            return SearchState(Stage.UNKNOWN, masked(str(fault)))

    @property
    def has_ended(self) -> bool:
        """Whether the figures are final unless somebody goes on with it."""
        return self.stage in (Stage.COMPLETE, Stage.ENDED_EARLY)

    def __str__(self) -> str:
        match self.stage:
            case Stage.COMPLETE:
                return "complete"
            case Stage.ENDED_EARLY:
                return f"ended early: {self.reason}"
            case Stage.RUNNING:
                return "still running"
            case Stage.INTERRUPTED:
                return "interrupted"
            case Stage.UNKNOWN:
                return f"unfinished; {self.reason}"
