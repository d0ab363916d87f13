"""Limits of files from elsewhere: each is documented, and its variable raises it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranker.errors import InputError
from reranker.storage.limits import LIMITS, STUDY_FILE_BYTES, STUDY_FILE_DEPTH
from tune.study_file import loading

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "LIMITS.md").read_text(encoding="utf-8")
STUDY = "study: {name: a, trials: 2}\ndata: {source: demo}\nspace: {epochs: {int: [1, 3]}}\n"


def test_there_are_limits_and_each_has_a_variable_of_its_own():
    assert len({limit.variable for limit in LIMITS}) == len(LIMITS) >= 10


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.variable)
def test_each_limit_is_on_the_page(limit):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{limit.variable}` |")]
    assert row.split(" | ")[1].startswith(f"{limit.usual:,} ")
    assert row.endswith(f" | {limit.why} |")


@pytest.mark.parametrize("limit", [STUDY_FILE_BYTES, STUDY_FILE_DEPTH])
def test_a_variable_makes_a_limit_smaller_or_larger(limit, tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    monkeypatch.setenv(limit.variable, "2")
    with pytest.raises(
        InputError, match=f"must have at most 2 {limit.unit}.*; the variable {limit.variable} raises that"
    ):
        loading.load(tmp_path / "study.yaml")
    monkeypatch.setenv(limit.variable, "1000")
    assert loading.load(tmp_path / "study.yaml").name == "a"


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e9", "²", "9" * 30])
def test_a_variable_that_holds_no_number_is_refused(text, monkeypatch):
    monkeypatch.setenv(STUDY_FILE_BYTES.variable, text)
    with pytest.raises(InputError, match=f"{STUDY_FILE_BYTES.variable}: must be a whole number from 1"):
        _ = STUDY_FILE_BYTES.most
