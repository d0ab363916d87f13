"""A study's folder → `report.html`, one file that needs nothing else, and `report.md` for a pull request.

python -m results.report STUDY
python -m results.report STUDY --summary  # one paragraph for a chat; writes nothing
python -m results.report STUDY --live     # a page on this machine that renews itself while the search runs
"""

from __future__ import annotations

import sys
from contextlib import suppress

from reranker.command_line.entry_point import Parser, a_path, a_port, last_net, not_empty, working_on
from reranker.command_line.printable_text import say
from results.study.checked_folder import open_study
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder


@last_net
def main(argv: list[str] | None = None) -> int:
    """Write both reports and print their paths, or print the summary. Exit code: 0."""
    parser = Parser(prog="python -m results.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--live", action="store_true", help="serve it to this machine until Ctrl-C; write no file")
    kind.add_argument("--summary", action="store_true", help="print it as one paragraph for a chat; write no file")
    parser.add_argument("--port", type=a_port, help="with --live; left out: 8700")
    args = parser.parse_args(argv)
    if args.port and not args.live:
        parser.error("--port takes --live")
    study = open_study(args.runs, args.study)
    if args.live:
        return _serve(study, args.port or 8700)
    working_on(study.path / "driver.log")
    if args.summary:
        from results.reporting.chat_summary import chat_summary  # these take a second
        from results.reporting.report_data import content_of

        say(chat_summary(content_of(study)))
        return 0

    from results.reporting.write_report import read_content, write_content  # takes a second

    content = read_content(study)
    page = write_content(study, content)
    for line in content.trouble:
        say(f"warning: {line}", error=True)
    say(f"{page}\n{page.with_suffix('.md')}")
    return 0


def _serve(study: StudyFolder, port: int) -> int:
    from results.reporting.live_page import LiveServer  # takes a second

    with LiveServer(study, port) as server:
        say(f"the report of {study.name}: {server.address} until Ctrl-C")
        say(f"from elsewhere:  ssh -L {port}:127.0.0.1:{port} THIS_MACHINE, then the same address")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
