"""Steam's reviews and games: what is read of them, and what is refused."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from reranker.data.interactions import Removal
from reranker.data.sources import load
from reranker.data_config import SteamData
from reranker.errors import InputError

REVIEWS: list[dict[str, Any]] = [
    {"username": "Chaos Syren", "hours": 12.5, "products": 41, "product_id": "20", "date": "2017-12-18", "text": "It's\ngood", "early_access": False},
    {"username": "Chaos Syren", "user_id": "7656", "hours": 0.1, "product_id": "10", "date": "2017-12-17", "text": '"ok"'},
    {"username": "Chaos Syren", "product_id": "30", "date": "2018-01-01", "text": "fine", "compensation": "Product received for free"},
    {"username": "Chaos Syren", "hours": 3, "product_id": "40", "date": "2018-01-02", "text": ""},
]  # fmt: skip
GAMES: list[dict[str, Any]] = [
    {"id": "10", "app_name": "Lost Summoner Kitty", "title": "Lost Summoner Kitty", "genres": ["Action", "Indie"], "price": 4.99},
    {"id": "20", "app_name": "Ironbound", "title": "Ironbound", "genres": ["RPG"], "price": "Free To Play", "developer": "Secret Level"},
    {"id": "30", "app_name": "Real Pool &amp; Co", "genres": [], "tags": ["Sports"]},
    {"id": "40", "app_name": "Log", "title": "Log", "genres": ["Action"]},
    {"title": "A game without an id"},
]  # fmt: skip


@pytest.fixture
def steam(tmp_path):
    def config(reviews: str | bytes | None = None, games: str | None = None, **values) -> SteamData:
        content = "".join(f"{record}\n" for record in REVIEWS) if reviews is None else reviews
        (tmp_path / "reviews.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / "games.json").write_text("".join(f"{record}\n" for record in GAMES) if games is None else games)
        paths = {"reviews": tmp_path / "reviews.json", "games": tmp_path / "games.json"}
        return SteamData.model_validate({"min_user": 3, "min_item": 1, "most_malformed": 0.2, **paths, **values})

    return config


def faults(config: SteamData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        load(config)
    return str(caught.value).replace(f"{config.games.parent}/", "").splitlines()


def test_python_dictionaries_become_sequences_by_day(steam):
    data = load(steam())
    assert data.user_ids == ["Chaos Syren"]
    assert data.sequences[0].tolist() == [0, 1, 2, 3]
    assert data.item_texts == ["Lost Summoner Kitty", "Ironbound", "Real Pool & Co", "Log"]


def test_old_text_prefixes_json_and_gzip_are_read_alike(steam):
    expected = load(steam()).fingerprint
    prefixed = "".join(f"{record}\n".replace("{'username': '", "{u'username': u'") for record in REVIEWS)
    assert "{u'username': u'Chaos" in prefixed
    assert load(steam(prefixed)).fingerprint == expected
    as_json = "".join(json.dumps(record) + "\n" for record in REVIEWS)
    assert load(steam(gzip.compress(as_json.encode()))).fingerprint == expected


def test_games_played_for_fewer_hours_or_none_known_are_no_interactions(steam):
    data = load(steam(min_hours=0.1))
    assert data.item_texts == ["Lost Summoner Kitty", "Ironbound", "Log"]
    assert Removal("min_hours", 1, 0, 1) in data.removed


def test_hours_that_nobody_played_are_told_by_their_own_knob(steam):
    with pytest.raises(InputError) as caught:
        load(steam(min_hours=5000))
    (fault,) = caught.value.faults
    assert (fault.field, fault.value) == ("data.min_hours", 5000)
    assert fault.hint.startswith("the highest number of hours is ")


def test_a_template_is_made_of_a_game_s_fields(steam):
    assert load(steam(item_text="{title:2} | {genres} | {tags} | {developer} | {price}")).item_texts == [
        "Lost Summoner | Action, Indie | 4.99",
        "Ironbound | RPG | Secret Level | Free To Play",
        "Real Pool | Sports",
        "Log | Action",
    ]


def test_no_words_between_signs_that_are_no_tag_are_lost(steam):
    games = [{**GAMES[0], "title": "I <3 cats -> <b>all</b><br/>"}, *GAMES[1:]]
    assert load(steam(games="".join(f"{record}\n" for record in games))).item_texts[0] == "I <3 cats -> all"


def test_a_game_without_an_id_is_a_malformed_line(steam):
    assert load(steam()).removed[0] == Removal(
        "malformed lines of games.json (line 5: id: an id must be given, as text or a whole number)", 0, 0, 1
    )


def test_malformed_lines_are_told_with_their_field_and_rule(steam):
    lines = faults(
        steam(
            "{'username': }\n" + "{'username': 'a', 'product_id': '10', 'date': '17 May', 'hours': -1}\n", min_hours=0
        )
    )
    assert lines[1:3] == [
        "reviews.json:1: a line must hold one whole JSON object or Python dictionary (got \"{'username': }\")",
        "reviews.json:2: hours: the hours must be from 0 to 1,000,000 (got -1)",
    ]
    assert lines[3] == "reviews.json:2: date: a date must be written as 2017-12-17 (got '17 May')"


def test_code_in_a_line_is_not_run(steam, tmp_path):
    assert (
        "must hold one whole JSON object or Python dictionary"
        in faults(steam(f"{{'username': open({str(tmp_path / 'made')!r}, 'w')}}\n"))[1]
    )
    assert not (tmp_path / "made").exists()


def test_absent_files_are_told_with_the_place_to_get_them(tmp_path):
    lines = faults(SteamData(reviews=tmp_path / "r.json.gz", games=tmp_path / "g.json.gz"))
    assert [line.split(":")[0] for line in lines] == ["r.json.gz", "g.json.gz"]
    assert "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data" in lines[0]
