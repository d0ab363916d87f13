from __future__ import annotations

import pytest

from results.study.study_folder import StudyFolder
from tests.tracked import make_study


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """Making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def study(tmp_path, store) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    return make_study(tmp_path, store)
