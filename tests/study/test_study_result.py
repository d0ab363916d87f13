"""What Python learns of a stored study by segment."""

from __future__ import annotations

import pytest

from reranker.errors import EnvironmentFault
from results.study_result import StudyResult
from tests.stored import USERS, Maker, keep_journal


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path).baseline("popularity", 0.3).baseline("markov", 0.8)


def opened(maker: Maker) -> StudyResult:
    return StudyResult.open(keep_journal(maker.study).path)


def test_segments_have_a_row_for_the_winner_and_each_baseline(maker):
    table = opened(maker.lists().trial(1.0).trial(2.0)).segments()
    assert len(table) == 3 * 10
    short = table[table["segment"] == "short"].set_index("name")
    assert list(short.index) == ["trial 1", "markov", "popularity"]
    assert short["lists"].tolist() == [80] * 3
    assert (short["ndcg_at_10_low"] < short["ndcg_at_10"]).all()
    assert (short["ndcg_at_10"] < short["ndcg_at_10_high"]).all()
    assert short["difference"].isna().tolist() == [True, False, False]
    figures = dict(zip(short.index, short["ndcg_at_10"], strict=True))
    assert short["difference"]["markov"] == pytest.approx(figures["trial 1"] - figures["markov"])


def test_top_items_are_those_above_their_share_of_targets_most(maker):
    result = opened(maker.lists().trial(2.0))
    table, places = result.top_items(5), result.first_places()
    assert places is not None
    assert table["item_id"].tolist() == [item.item_id for item in places.items[:5]]
    above = (table["first"] - table["target"]).tolist()
    assert above == sorted(above, reverse=True)
    assert above[0] > 0
    assert (table["first_share"] * USERS).tolist() == pytest.approx(table["first"].tolist())
    assert len(result.top_items(1000)) == len(places.items)


def test_nothing_is_known_before_an_epoch_has_finished_and_of_an_older_study(maker):
    empty = opened(maker.lists())
    assert (len(empty.segments()), len(empty.top_items()), empty.first_places()) == (0, 0, None)
    (maker.study.path / "lists.parquet").unlink()
    older = opened(maker.trial(2.0))
    for asked in (older.segments, older.top_items, older.first_places):
        with pytest.raises(EnvironmentFault, match="begun by an older version"):
            asked()
