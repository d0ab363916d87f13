"""A damaged file of a study → out of the way, in the study's `quarantine/`, where somebody may still make something of it."""

from __future__ import annotations

import os
from pathlib import Path

from reranker.storage.atomic_files import writing
from reranker.storage.file_permissions import make_folder
from results.study.study_folder import StudyFolder


def put_aside(study: StudyFolder, path: Path) -> Path | None:
    """Move a file or folder of the study there, under its own path; a second one of the same name gets a number.

    Returns:
        Where it is now; None if there is nothing to move.

    Raises:
        EnvironmentFault: it can't be moved.
    """
    if not os.path.lexists(path):
        return None
    place = study.path / "quarantine" / path.relative_to(study.path)
    attempt, target = 1, place
    while os.path.lexists(target):
        attempt += 1
        target = place.with_name(f"{place.name}.{attempt}")
    with writing(target):
        make_folder(target.parent)
        os.replace(path, target)
    return target
