"""A study's folder → what a search has found: the leaderboard, the proofs, the diagnosis, the report, the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from results.study.checked_folder import open_study
from results.study.runs_home import runs_home
from results.study.search_state import SearchState
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

if TYPE_CHECKING:  # each takes a second or more to import
    import pandas as pd

    from reranker.ranking.ranker import Reranker
    from results.diagnosis.finding import Finding
    from results.statistics.comparison import Comparison
    from results.statistics.top_items import FirstPlaces


@dataclass(frozen=True)
class StudyResult:
    """What is known of a study, also while its search runs or after it was stopped.

    What is stored is read when it is first asked for; open the study again for newer figures.

    Attributes:
        folder: where it is stored.
        ending: why the search that gave this ended before all trials did; empty if none is left.
    """

    folder: StudyFolder
    ending: str = ""

    @staticmethod
    def open(study: str | Path, runs: Path | str | None = None) -> StudyResult:
        """A stored study, held against its journal.

        Args:
            study: its name, or the path of its folder.
            runs: where studies are kept; None: see `results.study.runs_home`.

        Raises:
            EnvironmentFault: there is no such study.
            DamagedFile: a file of it is lost for good.
        """
        return StudyResult(open_study(runs_home() if runs is None else Path(runs), str(study)))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    @property
    def state(self) -> str:
        """How far its search is, in words: complete, still running, or why it ended early."""
        return str(SearchState.of(self.folder))

    @cached_property
    def trials(self) -> list[StoredTrial]:
        """All trials, in order."""
        return list(self.folder.trials())

    @property
    def best(self) -> StoredTrial | None:
        """The trial of the configuration with the best estimate; None if none has finished an epoch."""
        from results.statistics.comparison import winner

        return winner(self.folder)

    def leaderboard(self) -> pd.DataFrame:
        """A row per trial and baseline and one for chance, best first; see `results.leaderboard`."""
        from results.leaderboard import leaderboard

        return leaderboard(self.folder, self.trials)

    def compare(self) -> Comparison | None:
        """What is proven: the best trial against each baseline and each other; None if no trial has finished an epoch."""
        return self._comparison

    @cached_property
    def _comparison(self) -> Comparison | None:
        from results.statistics.comparison import compare

        return compare(self.folder)

    def verdict(self) -> str:
        """The result in a sentence."""
        from results.statistics.verdict_text import verdict

        return verdict(self.folder)

    def segments(self) -> pd.DataFrame:
        """The best trial and every baseline by segment of the lists: a row each; see `segment_frame`. Empty if no trial
        has finished an epoch.

        Raises:
            EnvironmentFault: the study was begun by a version that kept no facts of its lists.
        """
        import pandas as pd

        from results.statistics.segment_frames import segment_frame
        from results.statistics.segments import segments

        of_segments = segments(self.folder, comparison=self._comparison)
        return pd.DataFrame() if of_segments is None else segment_frame(of_segments)

    def first_places(self) -> FirstPlaces | None:
        """What the best trial puts first: how much of the catalogue, how new, which items too often; None if no trial
        has finished an epoch.

        Raises:
            EnvironmentFault: as of `segments`.
        """
        from results.statistics.top_items import first_places

        return None if self._comparison is None else first_places(self.folder, self._comparison.winner)

    def top_items(self, count: int = 20) -> pd.DataFrame:
        """The items that the best trial puts first most above their share of the targets; see `item_frame`.

        Args:
            count: how many at most.

        Raises:
            EnvironmentFault: as of `segments`.
        """
        import pandas as pd

        from results.statistics.segment_frames import item_frame

        first = self.first_places()
        return pd.DataFrame() if first is None else item_frame(first, count)

    def diagnose(self) -> list[Finding]:
        """What holds the best trial back, the worst first."""
        from results.diagnosis.diagnosis import diagnose
        from results.diagnosis.diagnosis_inputs import DiagnosisInputs

        return diagnose(DiagnosisInputs.of_study(self.folder, self._comparison, self.trials))

    def report(self) -> Path:
        """Write `report.html` and `report.md` anew; the path of the page."""
        from results.reporting.write_report import write_report

        return write_report(self.folder)

    def reranker(self, device: str | None = None) -> Reranker:
        """The best trial's adapter on its base, or the refitted one if there is one.

        Args:
            device: a torch device name; None: a GPU if there is one.

        Raises:
            EnvironmentFault: no trial has kept an adapter, or the base is not available.
        """
        from reranker.errors import EnvironmentFault
        from reranker.ranking.ranker import Reranker

        best = self.best
        if best is None:
            raise EnvironmentFault(f"no trial of {self.name} has finished an epoch, so there is no adapter")
        refitted = self.folder.refit
        trial = self.folder.trial(best.number)
        return Reranker.load(refitted.path if refitted.adapter.is_dir() else trial.path, device)
