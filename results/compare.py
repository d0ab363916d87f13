"""Stored trials of one study, or of several on the same lists → what they prove. `python -m results.compare STUDY`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, working_on
from reranker.command_line.printable_text import Terminal
from results.study.checked_folder import open_studies
from results.study.runs_home import runs_home
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder

if TYPE_CHECKING:  # takes a second to import
    from results.statistics.comparison import Comparison
    from results.statistics.seed_averages import ConfigurationResult


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print the leaderboard, the verdicts and what is proven. Exit code: 0."""
    parser = Parser(prog="python -m results.compare", description=(__doc__ or "").split("`")[0])
    parser.add_argument(
        "studies", nargs="+", type=not_empty, metavar="STUDY", help="a study's name, or the path of its folder"
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    parser.add_argument(
        "--segments", action="store_true", help="also who gains: figures by part of the lists, and what stands first"
    )
    args = parser.parse_args(argv)
    console = Terminal()
    studies = open_studies(args.runs, args.studies)
    working_on(studies[0].path / "driver.log")

    from results.leaderboard import pretty, unfinished  # these take a second
    from results.reporting.joint_leaderboard import joint_leaderboard
    from results.statistics.comparison import compare, name_of
    from results.statistics.seed_averages import configuration_results
    from results.statistics.verdict_text import findings, verdict

    trials = {study: list(study.trials()) for study in studies}
    ranked = {study: configuration_results(study, study_trials) for study, study_trials in trials.items()}
    comparison = compare(*studies, ranked=[result for study in studies for result in ranked[study]])
    console.print(pretty(*joint_leaderboard(trials)))
    for study in studies:
        console.say(f"\n{study.name + ': ' if len(studies) > 1 else ''}{verdict(study, ranked[study])}")
    for line in findings(comparison):
        console.say(f"  {line}")
    if args.segments:
        for study in studies:
            _show_segments(study, ranked[study], comparison if len(studies) == 1 else None, console)
    for study in studies:
        if note := unfinished(study):
            console.say(note)
        for trial in trials[study]:
            if trial.status is TrialStatus.FAILED:
                console.say(f"{name_of(trial, len(studies) > 1)} failed: {trial.cause}")
    return 0


def _show_segments(
    study: StudyFolder, ranked: Sequence[ConfigurationResult], comparison: Comparison | None, console: Terminal
) -> None:
    """Print who gains: the best trial by segment, and what it puts first."""
    from results.reporting.segment_table import SegmentTable

    table = SegmentTable.of_study(study, ranked, comparison)
    console.say(f"\nWho gains in {study.name}:")
    if table.missing:
        console.say(f"  {table.missing}")
        return
    segments, *items = table.in_terminal()
    for shown, lines in ((segments, table.sentences), (items[0] if items else None, table.item_sentences)):
        if shown is not None:
            console.print(shown)
        for line in lines:
            console.say(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
