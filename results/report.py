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
from results.compare import RUNS
from results.content import Content, content_of
from results.markdown import to_markdown
from results.study_folder import StudyFolder


def write_report(study: StudyFolder) -> Path:
    """Write both reports into the study's folder, whatever state it is in; the path of the page.

    Raises:
        EnvironmentFault: they can't be written.
    """
    content = content_of(study)
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
    study = StudyFolder.open(args.runs, args.study)
    working_on(study.path / "driver.log")
    page = write_report(study)
    say(f"{page}\n{page.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
