"""A study's folder → `report.html`, a self-contained page, `report.md` for a pull request, and CSV files beside them."""

from __future__ import annotations

import re
from pathlib import Path

from reranker.command_line.redaction import encodable
from reranker.storage.atomic_files import write_file
from reranker.storage.yaml_lines import dump
from results.leaderboard import leaderboard
from results.reporting.chat_summary import chat_summary
from results.reporting.markdown import to_markdown
from results.reporting.report_content import Content
from results.reporting.report_data import content_of
from results.reporting.segment_table import ITEM_HEAD
from results.reporting.spreadsheet import as_csv
from results.statistics.comparison import winner
from results.statistics.segment_frames import item_frame, segment_frame
from results.statistics.verdict_text import signed
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder


def write_report(study: StudyFolder) -> Path:
    """Write both reports, the leaderboard and the best configuration, in any state of the study; returns the page.

    Raises:
        EnvironmentFault: the files can't be written.
    """
    return write_content(study, read_content(study))


def read_content(study: StudyFolder) -> Content:
    """Write the leaderboard and the best configuration, and read the report's content."""
    write_file(study.leaderboard, as_csv(leaderboard(study)))
    if (best := winner(study)) is not None:
        write_best_config(study, best)
    return content_of(study)


def write_best_config(study: StudyFolder, trial: StoredTrial) -> None:
    """Write the winner's knobs and the study's data, for `python -m reranker.train --config`."""
    head = f"# Trial {trial.number} of the study {study.name}: every knob, resolved, and the study's data.\n"
    data = study.read_data_config().model_dump(mode="json")
    write_file(study.best_config, head + dump({**trial.values, "data": data}))


def write_content(study: StudyFolder, content: Content) -> Path:
    """Write both reports, and the figures by segment if there are any; returns the page's path."""
    if content.segments.found is not None:
        write_file(study.segments, as_csv(segment_frame(content.segments.found)))
    if content.segments.first is not None:
        write_file(study.top_items, as_csv(item_frame(content.segments.first)))
    write_file(study.report, to_html(content))
    write_file(study.report.with_suffix(".md"), to_markdown(content))
    return study.report


def to_html(content: Content) -> str:
    """The page. Everything from the study is escaped; the page runs no script and loads nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["coded"] = lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    environment.filters["signed"] = signed
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    page = environment.get_template("report.html.jinja").render(
        c=content, summary=chat_summary(content), item_head=ITEM_HEAD
    )
    return encodable(page)
