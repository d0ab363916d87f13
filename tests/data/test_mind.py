"""MIND's clicks and news: what is read of them, and what is refused."""

from __future__ import annotations

import pytest

from reranker.data.sources import load
from reranker.data_config import MindData
from reranker.errors import InputError

BEHAVIOURS = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-0 N4-1 N5-0\n"
    "2\tU1\t11/11/2019 1:00:00 PM\tN1 N2\tN5-1 N3-0\n"
    "3\tU1\t11/10/2019 11:59:59 PM\tN1 N2\tN3-1\n"
    "4\tU2\t11/12/2019 12:00:00 AM\t\tN1-1 N2-0\n"
    "5\tU2\t11/12/2019 12:00:01 AM\t\tN2-1\n"
    "6\tU2\t11/12/2019 12:00:02 PM\t\tN1-1 N5-1\n"
)
NEWS = "".join(
    f'N{number}\tsports\tfootball\tThe "{title}" story\tAbout it.\thttps://x\t[]\t[]\n'
    for number, title in enumerate(["first", "second", "third", "fourth", "fifth", "sixth"], 1)
)


@pytest.fixture
def mind(tmp_path):
    def config(behaviours: str = BEHAVIOURS, news: str | None = NEWS, **values) -> MindData:
        (tmp_path / "behaviors.tsv").write_text(behaviours)
        if news is not None:
            (tmp_path / "news.tsv").write_text(news)
        return MindData.model_validate({"path": tmp_path, "min_user": 3, "min_item": 1, **values})

    return config


def faults(config: MindData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        load(config)
    return str(caught.value).replace(f"{config.path}/", "").splitlines()


def test_clicks_follow_the_history_in_order_of_their_times(mind):
    data = load(mind())
    assert data.user_ids == ["U1", "U2"]
    assert data.item_ids == ["N1", "N2", "N3", "N4", "N5"]
    assert data.sequences[0].tolist() == [0, 1, 2, 3, 4]
    assert data.sequences[1].tolist() == [0, 1, 4]
    assert data.item_texts[0] == 'The "first" story'


def test_a_template_is_made_of_the_news_fields(mind):
    assert load(mind(item_text="{title:2} | {category}, {subcategory} | {abstract}")).item_texts[3] == (
        'The "fourth" | sports, football | About it.'
    )


def test_malformed_lines_of_both_files_are_told_at_once(mind):
    lines = faults(mind(BEHAVIOURS + "7\t\t2019-11-11\t\tN1\n", NEWS + "N9\tsports\n"))
    assert lines == [
        "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 7')",
        "behaviors.tsv:7: user_id: an id must be given, as text or a whole number (got '')",
        "behaviors.tsv:7: time: a time must be written as 11/15/2019 8:55:22 AM (got '2019-11-11')",
        "behaviors.tsv:7: impressions: what was shown must be news ids that end in -1 where they were clicked, else in -0 "
        + "(got 'N1'); the test part, which lacks that, can't be used",
        "news.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 7')",
        "news.tsv:7: a line must have 8 fields: news_id, category, subcategory, title, abstract, url, title_entities, "
        + "abstract_entities (got 'N9\\tsports')",
    ]


def test_few_malformed_lines_are_left_out_and_counted(mind):
    data = load(mind(BEHAVIOURS + "7\tU1\tnoon\t\tN6-1\n", most_malformed=0.2))
    assert data.removed[0].step == (
        "malformed lines of behaviors.tsv (line 7: time: a time must be written as 11/15/2019 8:55:22 AM (got 'noon'))"
    )
    assert "N6" not in data.item_ids


def test_behaviours_without_any_click_are_refused(mind):
    assert faults(mind("1\tU1\t11/11/2019 9:05:58 AM\t\tN3-0 N4-0\n")) == [
        "behaviors.tsv: the file must hold at least one interaction"
    ]


def test_absent_files_are_told_with_the_place_to_get_them(mind, tmp_path):
    (line,) = faults(mind(news=None))
    assert line.startswith("news.tsv: the file must exist")
    assert "https://msnews.github.io (Microsoft Research License Terms" in line
    assert len(faults(MindData(path=tmp_path / "nowhere"))) == 2
