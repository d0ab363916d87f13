"""A study → what every tracker says of its end: the winner's figures, who gains, and what is proven of each run."""

from __future__ import annotations

from dataclasses import dataclass

from reranker.report_figures import scored_share
from results.statistics.comparison import Comparison, compare
from results.statistics.seed_averages import configuration_results, replicated
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder
from tune.mirroring.segment_metrics import WhoGains
from tune.mirroring.tracked_figures import of_best

WINNER = "winner"
ON_A_PART = "not compared: on a part of the lists"


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        best: the winner; None where no trial has a score.
        figures: the winner's, with those by segment; empty where there is none.
        proven: what is proven of each trial (by its number) and baseline (by its name), in a few words.
    """

    best: StoredTrial | None
    figures: dict[str, float]
    proven: dict[str, str]
    comparison: Comparison | None
    who_gains: WhoGains

    @staticmethod
    def of(study: StudyFolder) -> Outcome:
        """As the folder has it now."""
        ranked = configuration_results(study)
        comparison = compare(study, ranked=ranked)
        who_gains = WhoGains.of_study(study, ranked, comparison)
        best = ranked[0].trial if ranked else None
        metric = study.read_manifest()["metric"]
        figures = of_best(ranked[0].figures, metric) | who_gains.metrics if ranked else {}
        return Outcome(best, figures, proven(study, comparison), comparison, who_gains)


def proven(study: StudyFolder, comparison: Comparison | None) -> dict[str, str]:
    """What is proven of each trial (by its number) and baseline (by its name), for a column of a table."""
    if comparison is None:
        return {}
    tie_set = {trial.number for trial in comparison.tie_set}
    shown, metric = {}, study.read_manifest()["metric"]
    trials = {trial.number: trial for trial in study.trials()}
    compared_on = scored_share(comparison.winner.best(metric) or {})
    for trial in trials.values():
        original = replicated(trial)
        configuration = trial.number if original is None else original
        if configuration == comparison.winner.number:
            shown[str(trial.number)] = WINNER if original is None else "the winner again"
        elif configuration in tie_set:
            cheapest = ", cheapest" if trial.number == comparison.cheapest.number else ""
            shown[str(trial.number)] = f"tied with the winner{cheapest}"
        elif trial.reports:
            own = trials.get(configuration, trial).best(metric) or {}
            shown[str(trial.number)] = "behind the winner" if scored_share(own) >= compared_on else ON_A_PART
    for name, difference in comparison.against.items():
        beaten = "beaten by the winner" if difference.mean > 0 else "BETTER than the winner"
        shown[name] = beaten if difference.proven else "tied with the winner"
    return shown
