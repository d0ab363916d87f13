from __future__ import annotations

import pytest

from results.study.study_folder import StudyFolder
from tests.tracked import make_study


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    return make_study(tmp_path, "")


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch) -> None:
    """Nothing of W&B's on this machine, whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "wandb"))
    monkeypatch.chdir(tmp_path)
