"""The command that checks a study's folder against its records: `python -m results.integrity STUDY`."""

from __future__ import annotations

import sys

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, whole_number
from reranker.command_line.printable_text import say
from results.study.checked_folder import leave_out, open_study
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder


@last_net
def main(argv: list[str] | None = None) -> int:
    """Check and repair a study. Exit code: 0 if it is whole now, 2 if something is lost."""
    parser = Parser(
        prog="python -m results.integrity",
        description="Check that a study's folder holds what was recorded, and rebuild what can be rebuilt.",
    )
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument(
        "--leave-out", type=whole_number, metavar="TRIAL", help="count a damaged trial as if it had never been"
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    study = StudyFolder.open(args.runs, args.study)
    if args.leave_out is not None:
        leave_out(study, args.leave_out)
    open_study(args.runs, args.study, say)
    say(f"{study.name} is whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
