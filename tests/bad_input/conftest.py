"""Each case has a folder of its own, which is the working folder, and nothing of this machine's caches and studies."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RERANKER_TUNER_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["reranker-tuner"])
