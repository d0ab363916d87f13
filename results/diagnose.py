"""A study's stored trials, or a table of figures → why the results are what they are, worst finding first.

`python -m results.diagnose STUDY`; `results.diagnosis.diagnosis` explains the order.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap

from reranker.command_line.entry_point import Parser, a_path, at_least_one, last_net, not_empty, working_on
from reranker.command_line.printable_text import say
from results.study.runs_home import runs_home


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print the findings. Exit code: 0; 2 if there is nothing to diagnose or the table has faults."""
    args = _arguments(argv)

    from results.diagnosis.diagnosis import as_text, diagnose  # takes a second
    from results.diagnosis.diagnosis_inputs import read_table
    from results.leaderboard import unfinished
    from results.study_result import StudyResult

    note, learned, width = "", "", min(100, shutil.get_terminal_size((100, 24)).columns)
    if args.table:
        findings = diagnose(read_table(args.table, users=args.users, candidates=args.candidates))
    else:
        result = StudyResult.open(args.study, args.runs)
        working_on(result.folder.path / "driver.log")
        findings, note = result.diagnose(), unfinished(result.folder)
        learned = comparison.learned if (comparison := result.compare()) else ""
    if args.json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        if note:
            say(note)
        if learned:
            say(textwrap.fill(f"Learned: {learned}.", max(40, width), subsequent_indent=" " * 9))
        say(as_text(findings, width))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m results.diagnose", description="Say why a study's results are what they are, the worst first."
    )
    parser.add_argument("study", nargs="?", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    parser.add_argument(
        "--table", type=a_path, help="figures from elsewhere: a CSV file, a row a run, named as in leaderboard.csv"
    )
    parser.add_argument("--users", type=at_least_one, help="with --table: how many lists were scored")
    parser.add_argument("--candidates", type=at_least_one, help="with --table: how many items a list has")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(argv)
    if (args.study is None) == (args.table is None):
        parser.error("name a study, or give --table")
    if args.table is None and not (args.users is None and args.candidates is None):
        parser.error("--users and --candidates take --table: a study knows its own")
    if args.table and (args.users is None or args.candidates is None):
        parser.error("--table needs --users and --candidates")
    return args


if __name__ == "__main__":
    sys.exit(main())
