"""Studies one after the other → what each has found and what has changed since the last. `python -m results.history`."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty
from reranker.command_line.printable_text import Terminal, plain, say
from reranker.command_line.redaction import masked
from reranker.errors import EnvironmentFault, RerankerError
from results.study.checked_folder import open_studies, open_study, told_apart
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder

if TYPE_CHECKING:  # takes a second to import
    from rich.table import Table

    from results.statistics.study_changes import StudyOutcome


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print a line a study, oldest first, and a sentence for each that follows another. Exit code: 0."""
    parser = Parser(prog="python -m results.history", description=(__doc__ or "").split("`")[0])
    parser.add_argument(
        "studies",
        nargs="*",
        type=not_empty,
        metavar="STUDY",
        help="names of studies, or paths of their folders; left out: all",
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    studies = open_studies(args.runs, args.studies) if args.studies else told_apart(_all(args.runs))

    from results.statistics.comparison import common_metric  # these take a second
    from results.statistics.study_changes import Change, StudyOutcome

    metric = common_metric(studies)
    outcomes = sorted(
        (StudyOutcome.of(study, metric) for study in studies),
        key=lambda outcome: outcome.begun.timestamp() if outcome.begun else math.inf,
    )
    console = Terminal()
    console.print(_table(outcomes, metric))
    changes = itertools.starmap(Change.between, itertools.pairwise(o for o in outcomes if o.comparison))
    if sentences := [str(change) for change in changes]:
        console.say("\n" + "\n".join(sentences))
        console.say(
            "Intervals are 95%; those of a lead allow for picking the best configuration and for all baselines, those of a "
            "change on the same lists for every pair of configurations."
        )
    return 0


def _all(runs: Path) -> list[StudyFolder]:
    """Every study that can be read; the others are named."""
    studies = []
    for manifest in sorted(runs.glob("[!.]*/manifest.json")):
        try:
            studies.append(open_study(runs, str(manifest.parent)))
        except RerankerError as error:
            say(f"left out: {manifest.parent.name}: {error}", error=True)
    if not studies:
        raise EnvironmentFault(f"there is no study in {runs}; --runs says where studies are kept")
    return studies


def _table(outcomes: Sequence[StudyOutcome], metric: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    from results.leaderboard import PRETTY

    table = Table(header_style="bold", box=None, pad_edge=False)
    for head in ("study", "begun", "search", "trials", "users"):
        table.add_column(head, justify="right" if head in ("trials", "users") else "left")
    for head in (PRETTY.get(metric, metric), "95%", "best baseline", "lead over it", "sealed test"):
        table.add_column(head)
    for outcome in outcomes:
        table.add_row(*(Text(plain(masked(cell))) for cell in _cells(outcome, metric)))
    return table


def _cells(outcome: StudyOutcome, metric: str) -> tuple[str, ...]:
    from results.statistics.verdict_text import told_difference

    comparison, lead = outcome.comparison, outcome.lead()
    begun = f"{outcome.begun:%Y-%m-%d %H:%M}" if outcome.begun else ""
    counts = str(len(outcome.study.numbers())), str(comparison.users) if comparison else ""
    figures = (
        ("", "") if comparison is None else (f"{outcome.score:.3f}", "{:.3f} to {:.3f}".format(*comparison.interval))
    )
    against = (f"{lead[0]} {outcome.levels[lead[0]]:.3f}", told_difference(lead[1])) if lead else ("", "")
    state, test = str(outcome.state).partition(":")[0], _test(outcome, metric)
    return (outcome.study.name, begun, state, *counts, *figures, *against, test)


def _test(outcome: StudyOutcome, metric: str) -> str:
    """What the sealed test was read to be, the first time."""
    if outcome.reading is None:
        return "not known: record lost" if outcome.study.lost_readings.exists() else "not opened"
    test = outcome.reading["figures"].get(metric)
    return "" if test is None else f"{test:.3f}"


if __name__ == "__main__":
    sys.exit(main())
