"""A study's folder → `report.html`, one file that needs nothing else, and `report.md` for a pull request.

python -m results.report STUDY
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from reranker.errors import RerankerError
from reranker.files import write_file
from results.compare import RUNS, winner
from results.content import Content, content_of
from results.integrity import open_study
from results.leaderboard import leaderboard
from results.markdown import to_markdown
from results.study_folder import StudyFolder


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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m results.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    args = parser.parse_args(argv)
    try:
        study = open_study(args.runs, args.study)
        content = _content(study)
        page = _write(study, content)
    except RerankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for line in content.trouble:
        print(f"warning: {line}", file=sys.stderr)
    print(f"{page}\n{page.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
