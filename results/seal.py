"""A study's winner → its score on the test split, once. `python -m results.seal STUDY`.

Every reading is recorded; see `results.sealed_test`.
"""

from __future__ import annotations

import sys

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, working_on
from reranker.command_line.printable_text import Terminal, say
from results.study.checked_folder import open_study
from results.study.runs_home import runs_home


@last_net
def main(argv: list[str] | None = None) -> int:
    """Read the test and write the report. Exit code: 0."""
    parser = Parser(prog="python -m results.seal", description=(__doc__ or "").split("`")[0])
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--unseal", default="", metavar="WHY", help="read the test again; this is recorded for good")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    console = Terminal(width=160)
    study = open_study(args.runs, args.study)
    working_on(study.path / "driver.log")
    if args.unseal and not study.readings() and not study.lost_readings.exists():
        say("the test was not read yet: --unseal is not needed and not recorded", error=True)

    from results.reporting.write_report import write_report  # takes seconds
    from results.sealed_test import read_test, show

    reading = read_test(study, args.unseal, console.say)
    show(reading, console)
    console.say(f"\nreport:  {write_report(study)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
