"""What a trial's workers printed of its reports: their figures, which `epochs.jsonl` holds too, but without checksums."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from reranker.artifacts.trial_folder import TrialFolder
from reranker.report_figures import report_number
from reranker.storage.atomic_files import DamagedFile, read_bytes


def logged_reports(folder: TrialFolder) -> list[dict[str, Any]]:
    """The figures of each report that stands in `train.log`, in order; of a report that was made again, the last."""
    try:
        lines = read_bytes(folder.path / "train.log").split(b"\n")
    except DamagedFile:
        return []
    reports: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.startswith(b'{"report": '):
            with suppress(ValueError):  # cut off, or something else that was printed
                figures = json.loads(line)
                reports[report_number(figures)] = figures
    return [reports[number] for number in sorted(reports)]
