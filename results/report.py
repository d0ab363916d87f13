"""A study's folder → `report.html`, one file that needs nothing else, and `report.md` for a pull request.

python -m results.report STUDY
"""

from __future__ import annotations

import sys

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, working_on
from reranker.command_line.printable_text import say
from results.study.integrity import open_study
from results.study.runs_home import runs_home


@last_net
def main(argv: list[str] | None = None) -> int:
    """Write both reports and print their paths. Exit code: 0."""
    parser = Parser(prog="python -m results.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    study = open_study(args.runs, args.study)
    working_on(study.path / "driver.log")

    from results.reporting.write_report import read_content, write_content  # takes a second

    content = read_content(study)
    page = write_content(study, content)
    for line in content.trouble:
        say(f"warning: {line}", error=True)
    say(f"{page}\n{page.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
