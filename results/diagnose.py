"""A study's stored trials, or a table of figures → why the results are what they are. `python -m results.diagnose STUDY`.

Findings come worst first, which is the order in which to act:

1. symptom: nothing was learned. It names no cause, so it stands first and its causes follow.
2. cause: something is broken, and the other figures are worth little until it is mended.
3. limit: the training works, and this holds it down.
4. doubt: more may be read into the figures than they can tell.
5. aside: worth knowing, and changes nothing of the above.

Within a grade the surest comes first. A symptom or cause that is likely at least hides the causes that it explains, and all
limits and doubts, which it may well have brought about. So mend the first, and diagnose again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap

from reranker.console import say
from reranker.entry import Parser, a_path, at_least_one, last_net, not_empty, working_on
from results.evidence import Evidence, read_table
from results.findings import CHECKS, EXPLAINS, Confidence, Finding, Grade, failures
from results.integrity import open_study
from results.leaderboard import unfinished
from results.study_folder import RUNS

__all__ = ["Evidence", "Finding", "diagnose"]


def diagnose(evidence: Evidence) -> list[Finding]:
    """What explains the results, the worst first; nothing where all is well."""
    checks = CHECKS if evidence.trials else (failures,)
    found = [finding for check in checks if (finding := check(evidence))]
    explained: set[str] = set()
    for finding in found:
        if _weighs(finding) and finding.name not in explained:
            explained |= EXPLAINS.get(finding.name, set())
    left = [finding for finding in found if finding.name not in explained]
    hidden = {Grade.LIMIT, Grade.DOUBT} if any(map(_weighs, left)) else set()
    return sorted((f for f in left if f.grade not in hidden), key=lambda f: f.order)


def _weighs(finding: Finding) -> bool:
    """Whether it is grave and sure enough to account for others."""
    return finding.grade <= Grade.CAUSE and finding.confidence is not Confidence.POSSIBLE


def as_text(findings: list[Finding], width: int) -> str:
    """For a terminal."""
    if not findings:
        return "Nothing found that explains weak results."
    lines = []
    for number, finding in enumerate(findings, start=1):
        lines.append(f"{number}. {finding.name} ({finding.grade.name.lower()}, {finding.confidence})")
        for label, text in (("seen", finding.seen), ("means", finding.means), ("next", finding.next_step)):
            lines += textwrap.wrap(
                text, max(40, width), initial_indent=f"   {label + ':':<7}", subsequent_indent=" " * 10
            )
    return "\n".join(lines)


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, whatever was found; 2 where there is nothing to diagnose, or the table has faults."""
    args = _arguments(argv)
    note = ""
    if args.table:
        evidence = read_table(args.table, users=args.users, candidates=args.candidates)
    else:
        study = open_study(args.runs, args.study)
        working_on(study.path / "driver.log")
        evidence, note = Evidence.of_study(study), unfinished(study)
    found, width = diagnose(evidence), min(100, shutil.get_terminal_size((100, 24)).columns)
    if args.json:
        print(json.dumps([finding.as_dict() for finding in found], indent=2, ensure_ascii=False))
    else:
        if note:
            say(note)
        if evidence.comparison and (learned := evidence.comparison.learned):
            say(textwrap.fill(f"Learned: {learned}.", max(40, width), subsequent_indent=" " * 9))
        say(as_text(found, width))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m results.diagnose", description="Say why a study's results are what they are, the worst first."
    )
    parser.add_argument("study", nargs="?", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=RUNS, help="where studies are kept")
    parser.add_argument(
        "--table", type=a_path, help="figures from elsewhere: a CSV file, a row a run, named as in leaderboard.csv"
    )
    parser.add_argument("--users", type=at_least_one, help="with --table: how many lists were scored")
    parser.add_argument("--candidates", type=at_least_one, help="with --table: how many items a list has")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(argv)
    if (args.study is None) == (args.table is None):
        parser.error("name a study, or give --table")
    if args.table and (args.users is None or args.candidates is None):
        parser.error("--table needs --users and --candidates")
    return args


if __name__ == "__main__":
    sys.exit(main())
