"""What a study's files and its lock say of the search, and what a report makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.study.search_state import SearchState, Stage
from results.study.study_folder import StudyFolder


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(tmp_path, "x")


def test_a_study_whose_search_has_ended_says_how(study):
    study.write_ending("", complete=True)
    assert SearchState.of(study) == SearchState(Stage.COMPLETE)
    study.write_ending("the time budget of 2h is used up", complete=False)
    state = SearchState.of(study)
    assert (state.has_ended, str(state)) == (True, "ended early: the time budget of 2h is used up")


def test_a_study_that_is_searched_is_told_from_one_that_was_killed(study):
    assert SearchState.of(study) == SearchState(Stage.INTERRUPTED)
    with study.locked():
        assert SearchState.of(study) == SearchState(Stage.RUNNING)
    assert not SearchState.of(study).has_ended


def test_where_the_lock_cannot_be_read_the_figures_are_not_taken_for_final(study):
    (study.path / "search.lock").unlink()
    (study.path / "search.lock").symlink_to("search.lock")
    state = SearchState.of(study)
    assert (state.stage, state.has_ended) == (Stage.UNKNOWN, False)
    assert str(state).startswith("unfinished; whether a search runs can't be told: ")
