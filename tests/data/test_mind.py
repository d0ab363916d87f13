"""MIND's clicks and news: what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from reranker.data.interactions import Removal
from reranker.data.sources import load
from reranker.data_config import MindData, absolute_paths
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


TRAIN = "".join(BEHAVIOURS.splitlines(keepends=True)[:4])
DEV = (
    "1\tU2\t11/12/2019 12:00:01 AM\t\tN2-1\n"  # numbers of impressions begin anew in each folder
    "2\tU2\t11/12/2019 12:00:02 PM\t\tN1-1 N5-1\n"
)


@pytest.fixture
def parts(tmp_path):
    """A configuration of several folders, each with such behaviours and the news of these numbers."""

    def config(**behaviours: str) -> MindData:
        for name, text in behaviours.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "behaviors.tsv").write_text(text)
            (tmp_path / name / "news.tsv").write_text(NEWS)
        return MindData.model_validate({"path": [tmp_path / name for name in behaviours], "min_user": 3, "min_item": 1})

    return config


def test_several_folders_are_read_as_one_log(mind, parts):
    whole, together = load(mind()), load(parts(train=TRAIN, dev=DEV))
    assert together.user_ids == whole.user_ids
    assert [sequence.tolist() for sequence in together.sequences] == [[0, 1, 2, 3, 4], [0, 1, 4]]
    assert together.fingerprint == whole.fingerprint


def test_the_order_of_the_folders_does_not_matter(parts, tmp_path):
    first = load(parts(train=TRAIN, dev=DEV))
    other = load(MindData(path=(tmp_path / "dev", tmp_path / "train"), min_user=3, min_item=1))
    assert other.fingerprint == first.fingerprint


def test_an_impression_of_two_folders_is_taken_once_and_counted(parts):
    data = load(parts(train=TRAIN + DEV, dev="7" + DEV))
    assert data.removed[0] == Removal("impressions that an earlier folder has too (2)", 3, 0, 0)
    assert data.sequences[1].tolist() == [0, 1, 4]


def test_news_that_only_one_folder_has_are_known(parts, tmp_path):
    config = parts(train=TRAIN, dev=DEV)
    (tmp_path / "train" / "news.tsv").write_text(NEWS.splitlines(keepends=True)[0])
    assert load(config).item_texts == [
        f'The "{title}" story' for title in ("first", "second", "third", "fourth", "fifth")
    ]


def test_a_malformed_line_names_its_folder(parts):
    config = parts(train=TRAIN, dev=DEV + "3\tU1\tnoon\t\tN6-1\n")
    step = load(config.model_copy(update={"most_malformed": 0.5})).removed[0].step
    assert step.startswith("malformed lines of dev/behaviors.tsv (line 3: time: a time must be written as")


def test_the_faults_of_all_folders_are_told_at_once(parts, tmp_path):
    config = parts(train=TRAIN, dev="")
    (tmp_path / "train" / "news.tsv").unlink()
    with pytest.raises(InputError) as caught:
        load(config)
    lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "dev/behaviors.tsv: the file must hold at least one line",
        "train/news.tsv: the file must exist",
    ]


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (5, "must be a folder, or a list of folders"),
        ([], "must be a folder, or a list of folders"),
        (["train", 5], "must be a folder, or a list of folders"),
        (["train", "train"], "must name each folder once"),
        ([""], "a path must not be empty"),
    ],
)
def test_folders_that_are_none_are_refused_with_one_rule(path, rule):
    with pytest.raises(ValidationError) as caught:
        MindData.model_validate({"path": path})
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {rule}"


def test_folders_are_looked_up_beside_the_study_file(tmp_path):
    (tmp_path / "train").mkdir()
    paths = absolute_paths(MindData(path=(Path("train"), Path("dev"))), tmp_path)
    assert paths == {"path": (tmp_path / "train", Path.cwd() / "dev")}


@pytest.mark.parametrize("path", ["/train", ["/train", "/dev"]])
def test_folders_are_stored_as_they_were_written(path):
    config = MindData.model_validate({"path": path})
    assert config.model_dump(mode="json")["path"] == path
    assert MindData.model_validate(config.model_dump(mode="json")) == config


def test_clicks_follow_the_history_in_order_of_their_times(mind):
    data = load(mind())
    assert data.user_ids == ["U1", "U2"]
    assert data.item_ids == ["N1", "N2", "N3", "N4", "N5"]
    assert data.sequences[0].tolist() == [0, 1, 2, 3, 4]
    assert data.sequences[1].tolist() == [0, 1, 4]
    assert data.item_texts[0] == 'The "first" story'


def test_a_click_that_later_histories_repeat_keeps_its_time(mind):
    lines = [
        "1\tU1\t11/11/2019 9:00:00 AM\tN1\tN2-1 N6-0\n",
        "2\tU1\t11/12/2019 9:00:00 AM\tN1 N2\tN3-1\n",
        "3\tU1\t11/13/2019 9:00:00 AM\tN1 N2 N3 N4\tN5-1\n",
    ]
    others = [line.replace("U1", "U2") for line in lines]
    periods = {"split": "time", "validation_from": "2019-11-12", "test_from": "2019-11-12 12:00"}
    for order in (1, -1):
        data = load(mind("".join([*lines, *others][::order]), **periods))
        assert data.sequences[0].tolist() == [0, 1, 2, 3, 4], "N4 was clicked before it was part of a history"
        assert data.periods is not None
        assert data.periods.before_validation.tolist() == [2, 2], (
            "what was clicked on the 12th trains nobody on the 11th"
        )
        assert data.periods.before_test.tolist() == [3, 3]


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
