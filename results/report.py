"""A study's folder → `report.html`, one file that needs nothing else, and `report.md` for a pull request.

python -m results.report STUDY
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from reranker.console import say
from reranker.entry import Parser, a_path, last_net, not_empty, working_on
from reranker.files import write_file
from results.compare import winner
from results.content import Content, content_of
from results.integrity import open_study
from results.leaderboard import leaderboard
from results.markdown import to_markdown
from results.study_folder import RUNS, StudyFolder


def write_report(study: StudyFolder) -> Path:
    """Write both reports, the leaderboard and the best configuration, whatever state the study is in; the path of the page.

    Raises:
        EnvironmentFault: they can't be written.
    """
    return _write(study, _content(study))


def _content(study: StudyFolder) -> Content:
    write_file(study.leaderboard, leaderboard(study).to_csv(index=False))
    if (best := winner(study)) is not None:
        study.write_best_config(best)
    return content_of(study)


def _write(study: StudyFolder, content: Content) -> Path:
    write_file(study.report, to_html(content))
    write_file(study.report.with_suffix(".md"), to_markdown(content))
    return study.report


def to_html(content: Content) -> str:
    """The page. Whatever comes from the study is escaped; the page runs no script and loads nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["coded"] = lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("report.html.jinja").render(c=content)


@last_net
def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m results.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=RUNS, help="where studies are kept")
    args = parser.parse_args(argv)
    study = open_study(args.runs, args.study)
    working_on(study.path / "driver.log")
    content = _content(study)
    page = _write(study, content)
    for line in content.trouble:
        say(f"warning: {line}", error=True)
    say(f"{page}\n{page.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
