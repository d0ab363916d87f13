from __future__ import annotations

import pytest

from results.statistics.comparison import compare
from results.statistics.seed_averages import configuration_results
from results.statistics.segments import segments
from results.statistics.top_items import first_places
from tests.stored import Maker
from tune.mirroring.segment_metrics import WhoGains
from tune.mirroring.tracked_outcome import proven


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path).baseline("popularity", 0.3).trial(2.0)


def who_gains(maker: Maker) -> WhoGains:
    return WhoGains.of_study(maker.study, configuration_results(maker.study), compare(maker.study))


def metrics_of(maker: Maker) -> dict[str, float]:
    return who_gains(maker).metrics


def test_a_segment_s_metrics_are_those_of_the_table(maker):
    metrics, found = metrics_of(maker.lists()), segments(maker.study)
    assert found is not None
    short = next(part for part in found.parts if part.name == "short")
    assert short.difference is not None
    assert {name: value for name, value in metrics.items() if name.startswith("segment/history short/")} == {
        "segment/history short/recall_at_1": short.winner["recall_at_1"].mean,
        "segment/history short/ndcg_at_10": short.winner["ndcg_at_10"].mean,
        "segment/history short/lists": 80,
        "segment/history short/gain": short.difference.mean,
        "segment/history short/gain_low": short.difference.low,
        "segment/history short/gain_high": short.difference.high,
    }
    assert not [name for name in metrics if "all lists" in name]


def test_what_stands_first_has_metrics_of_its_own(maker):
    metrics, first = metrics_of(maker.lists()), first_places(maker.study, next(maker.study.trials()))
    assert first is not None
    assert metrics["first/coverage"] == first.coverage
    assert metrics["first/novelty_gain"] == pytest.approx(metrics["first/novelty"] - first.target_novelty.mean)
    assert metrics["first/items_too_often"] == len(first.too_often)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_study_without_sound_lists_has_no_such_metrics(maker, damaged):
    if damaged:
        (maker.lists().study.path / "lists.parquet").write_text("no table")
    assert (metrics_of(maker), who_gains(maker).losses) == ({}, [])


def test_a_trial_on_a_part_of_the_lists_is_not_said_to_be_behind(tmp_path):
    made = Maker(tmp_path).trial(1.0).trial(2.0, figures={"scored_share": 0.25}).trial(0.1)
    found = proven(made.study, compare(made.study))
    assert found == {"0": "winner", "1": "not compared: on a part of the lists", "2": "behind the winner"}
