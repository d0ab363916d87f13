"""What a trial's workers printed of its reports: their figures, which `epochs.jsonl` holds too, but without checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reranker.artifacts.trial_folder import TrialFolder
from reranker.report_figures import report_number


def logged_reports(folder: TrialFolder) -> list[dict[str, Any]]:
    """The figures of each report that stands in `train.log`, in order; of a report that was made again, the last."""
    reports: dict[int, Mapping[str, Any]] = {}
    try:
        with (folder.path / "train.log").open(encoding="utf-8", errors="replace") as lines:
            for line in filter(_may_be_a_report, lines):
                try:
                    figures = json.loads(line)
                except ValueError:  # cut off, or something else that was printed
                    continue
                reports[report_number(figures)] = figures
    except OSError:
        return []
    return [dict(reports[number]) for number in sorted(reports)]


def _may_be_a_report(line: str) -> bool:
    return line.startswith('{"report": ')
