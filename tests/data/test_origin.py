"""Where published data are from, and on what terms: the same in the documentation, the plan and a fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reranker.data.sources.movielens import RATINGS
from reranker.data.sources.origin import AMAZON, ANY_MOVIELENS, MIND, MOVIELENS, RECBOLE, STEAM, YELP, Origin, origin_of
from reranker.data_config import (
    AmazonData,
    DemoData,
    MindData,
    MovieLensData,
    RecBoleData,
    SteamData,
    TablesData,
    YelpData,
)

HERE = Path()
PAGE = Path(__file__).parents[2] / "docs" / "YOUR_DATA.md"


def rows() -> dict[str, Origin]:
    """The table of the documentation: its first column → where from, and on what terms."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (address := re.fullmatch(r"<(.*)>", cells[2])):
            found[cells[0]] = Origin(address[1], cells[3])
    return found


def test_the_documentation_has_every_origin_as_the_program_says_it():
    assert rows() == {
        "`movielens`": ANY_MOVIELENS,
        "… without `path` and `release`": MOVIELENS["ml-latest-small"],
        **{f"… `release: {name}`": MOVIELENS[name] for name in RATINGS},
        **{f"`amazon`, `year: {year}`": origin for year, origin in AMAZON.items()},
        "`recbole`": RECBOLE, "`mind`": MIND, "`steam`": STEAM, "`yelp`": YELP,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        (MovieLensData(), MOVIELENS["ml-latest-small"]),
        (MovieLensData(release="ml-1m"), MOVIELENS["ml-1m"]),
        (MovieLensData(path=HERE), ANY_MOVIELENS),
        (AmazonData(year=2014, reviews=HERE, metadata=HERE), AMAZON[2014]),
        (AmazonData(year=2023, reviews=HERE, metadata=HERE), AMAZON[2023]),
        (RecBoleData(path=HERE), RECBOLE),
        (MindData(path=HERE), MIND),
        (SteamData(reviews=HERE, games=HERE), STEAM),
        (YelpData(reviews=HERE, businesses=HERE), YELP),
        (DemoData(), None),
        (TablesData(interactions=HERE, items=HERE), None),
    ],
)
def test_each_source_has_its_own(config, origin):
    assert origin_of(config) == origin


def test_a_fault_says_to_fetch_it_and_a_plan_where_it_is_from():
    origin = Origin("https://x.example", "for research")
    assert origin.hint == "fetch it from https://x.example (for research)"
    assert str(origin) == "published at https://x.example; terms: for research"
