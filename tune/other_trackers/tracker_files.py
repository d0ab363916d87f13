"""A study → where its other trackers' files are. Light: imports none of them."""

from __future__ import annotations

from pathlib import Path

from results.study.study_folder import StudyFolder


def events_file(study: StudyFolder) -> Path:
    """The JSON lines."""
    return study.path / "trackers" / "events.jsonl"


def tensorboard_folder(study: StudyFolder) -> Path:
    """What `tensorboard --logdir` is given."""
    return study.path / "trackers" / "tensorboard"


def wandb_parent(study: StudyFolder) -> Path:
    """The folder in which W&B makes its own, `wandb`."""
    return study.path / "trackers"


def wandb_state(study: StudyFolder) -> Path:
    """What W&B has been given whole, by run."""
    return study.path / "trackers" / "wandb.json"
