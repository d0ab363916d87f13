"""CSV that a spreadsheet opens: what looks like a formula is text, numbers are numbers."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from results.reporting.spreadsheet import as_csv


def rows(table: pd.DataFrame) -> list[list[str]]:
    return list(csv.reader(io.StringIO(as_csv(table))))


@pytest.mark.parametrize(
    "text",
    [
        "=HYPERLINK(1)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1+1", "\r=1+1", " =1+1", "\n=1+1",
        '=1,"x"', "＝1+1",
    ],
)  # fmt: skip
def test_text_that_would_be_run_is_shown(text):
    (_, (cell, score)) = rows(pd.DataFrame({"title": [text], "score": [-0.5]}))
    assert cell == f"'{text}".replace("\r", "\n")
    assert score == "-0.5"


@pytest.mark.parametrize("text", ["Heat\r=1+1", "Heat\r\n=1+1,x", 'Heat"\r=1+1'])
def test_no_text_begins_another_row(text):
    _, row = rows(pd.DataFrame({"title": [text], "score": [-0.5]}))
    assert row == [text.replace("\r\n", "\n").replace("\r", "\n"), "-0.5"]


def test_all_else_is_as_it_was():
    table = pd.DataFrame(
        {
            "name": ["trial 0", "Heat (1995)", "-", "7-Up"],
            "gain": [-0.25, 1e-5, float("nan"), 2.0],
            "trials": [-1, 2, 3, 4],
            "knob": [-1e-4, "-3.5", None, True],
        }
    )
    safe = table.assign(name=["trial 0", "Heat (1995)", "'-", "7-Up"])
    assert as_csv(table) == safe.to_csv(index=False)


def test_names_of_columns_are_text_too():
    assert as_csv(pd.DataFrame({"=1+1": [1]})) == "'=1+1\n1\n"
