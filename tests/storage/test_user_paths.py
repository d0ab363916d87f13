"""What a user wrote as a path, or in a variable, and what no file can be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from reranker.storage.cache_folder import cache_folder
from reranker.storage.user_paths import path_in
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder

NOBODY = "~nobody-of-this-name/x"


@pytest.mark.parametrize(("variable", "read"), [("RERANKER_TUNER_HOME", runs_home), ("RERANKER_CACHE", cache_folder)])
def test_a_variable_with_the_home_of_nobody_is_told_by_its_name(monkeypatch, variable, read):
    monkeypatch.setenv(variable, NOBODY)
    with pytest.raises(EnvironmentFault, match=rf"the variable {variable}: ~ must stand for a user's home folder"):
        read()


def test_a_variable_s_path_is_expanded_and_an_empty_one_is_none(monkeypatch):
    monkeypatch.setenv("RERANKER_DATA", "~/data")
    assert path_in("RERANKER_DATA") == Path.home() / "data"
    monkeypatch.setenv("RERANKER_DATA", "")
    assert path_in("RERANKER_DATA") is None


def test_a_study_in_the_home_of_nobody_is_not_there(tmp_path):
    with pytest.raises(EnvironmentFault, match=f"there is no study '{NOBODY}' in {tmp_path}; there are: none"):
        StudyFolder.open(tmp_path, NOBODY)
