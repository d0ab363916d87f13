"""Figures by segment of the lists, and what stands first: where the winner loses, and which items it prefers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import Picks, Ranks
from results.statistics.comparison import compare
from results.statistics.paired_tests import mean_intervals
from results.statistics.segment_text import first_place_findings, losses, result_word, segment_findings
from results.statistics.segments import Segments, segments
from results.statistics.top_items import FirstPlaces, first_places, self_information, too_unequal
from results.study.list_facts import ListFacts
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.stored import USERS, Maker, report

IDS = [f"u{i}" for i in range(USERS)]
USER = np.arange(USERS)
SHORT = USER < USERS // 3  # histories
TAIL = (USER % 12 != 0) & (USER % 2 == 1)  # targets


def first_where(lists: np.ndarray) -> Ranks:
    """The true item first in these lists, and last in the others."""
    return Ranks(np.where(lists, 0, 9), np.zeros(USERS, np.int64))


def a_study(runs, *, winner: np.ndarray, others: tuple[np.ndarray, ...] = (), **baselines: np.ndarray) -> StudyFolder:
    """Where each has the true item first; trial 0 is the winner."""
    study = Maker(runs).lists().study
    for number, lists in enumerate((winner, *others)):
        study.start_trial(number, TrialConfig(model="demo-tiny", epochs=1, candidates=10))
        report(study.trial(number), IDS, first_where(lists))
        study.write_status(number, TrialStatus.COMPLETED)
    for name, lists in baselines.items():
        study.baseline(name).path.mkdir(parents=True)
        study.baseline(name).keep_ranks(IDS, first_where(lists))
    return study


def found(study: StudyFolder) -> Segments:
    made = segments(study)
    assert made is not None
    return made


def part(made: Segments, name: str):
    return next(figures for figures in made.parts if figures.name == name)


LOSES = {"winner": ~SHORT, "popularity": SHORT, "markov": USER % 10 == 0}  # on short histories


def test_each_segment_has_the_figures_of_its_own_lists(tmp_path):
    made = found(a_study(tmp_path, **LOSES))
    sizes = {(figures.by, figures.name): figures.lists for figures in made.parts}
    assert sizes == {
        ("", "all lists"): 240,
        ("history", "short"): 80, ("history", "middle"): 80, ("history", "long"): 80,
        ("target", "cold"): 20, ("target", "long tail"): 120, ("target", "short head"): 100,
        ("place", "first third"): 96, ("place", "middle third"): 72, ("place", "last third"): 72,
    }  # fmt: skip
    short, tail = part(made, "short"), part(made, "long tail")
    assert (short.winner["recall_at_1"].mean, short.baselines["popularity"]["recall_at_1"].mean) == (0, 1)
    assert tail.winner["recall_at_1"].mean == pytest.approx(2 / 3)
    values = (~SHORT)[TAIL].astype(float)
    interval = (tail.winner["recall_at_1"].low, tail.winner["recall_at_1"].high)
    assert interval == pytest.approx(mean_intervals(values[None])[0], abs=0.02)  # drawn for the users in another order


def test_the_best_baseline_is_that_of_the_segment_and_the_difference_is_paired(tmp_path):
    made = found(a_study(tmp_path, **LOSES))
    short, long = part(made, "short"), part(made, "long")
    assert (short.best, long.best) == ("popularity", "markov")
    assert short.difference is not None
    assert short.difference.mean == pytest.approx(-(1 - 1 / np.log2(11)))  # first against last of ten
    assert short.difference.proven
    assert long.difference is not None
    assert long.difference.low > 0


def test_a_winner_that_loses_on_a_segment_is_said_to(tmp_path):
    made = found(a_study(tmp_path, **LOSES))
    assert [(figures.name, baseline) for figures, baseline, _ in made.losses] == [("short", "popularity")]
    (sentence,) = losses(made)
    assert sentence.startswith("WORSE than popularity in NDCG@10 on 80 lists, history: short (length 2): -0.711 (")
    assert segment_findings(made)[0] == sentence


def test_being_behind_without_proof_is_said_as_that(tmp_path):
    few = USER < 3
    made = found(a_study(tmp_path, winner=~few, popularity=SHORT))
    assert made.losses == []
    said = " ".join(segment_findings(made))
    assert "Behind the best baseline there, but not proven so: history: short (length 2), popularity." in said
    assert "WORSE" not in said


def test_all_lists_have_the_difference_of_the_comparison(tmp_path):
    study = a_study(tmp_path, **LOSES)
    comparison = compare(study)
    assert comparison is not None
    everything = found(study).parts[0]
    assert everything.against == comparison.against
    assert everything.winner["ndcg_at_10"].low == comparison.interval[0]


def test_segments_of_a_few_users_are_shown_and_not_tested(tmp_path):
    study = a_study(tmp_path, **LOSES)
    replace(ListFacts.of_study(study), history=np.where(USER < 9, 9, 2 + USER % 2)).keep(study)
    by_length = [figures for figures in found(study).parts if figures.by == "history"]
    assert [(figures.detail, figures.lists, sorted(figures.against)) for figures in by_length] == [
        ("length 2", 115, ["markov", "popularity"]), ("length 3", 116, ["markov", "popularity"]), ("length 9", 9, [])
    ]  # fmt: skip
    assert by_length[2].difference is None
    assert result_word(by_length[2]) == "too few users"
    assert segment_findings(found(study))[-1].endswith("Segments with lists of fewer than 10 users are not tested.")


def test_luck_on_a_segment_is_not_proven_with_so_many_of_them(tmp_path):
    """Trials and a baseline that guess alike: the winner is picked from twelve, and nine segments are looked at."""
    rng = np.random.default_rng(3)
    guesses = [rng.random(USERS) < 0.3 for _ in range(13)]
    order = sorted(guesses[1:], key=lambda lists: -lists.sum())
    made = found(a_study(tmp_path, winner=order[0], others=tuple(order[1:]), popularity=guesses[0]))
    assert made.trial.number == 0
    assert [figures.name for figures in made.parts if figures.difference and figures.difference.proven] == []


def test_a_trial_on_a_part_of_the_lists_has_segments_of_that_part(tmp_path):
    study = a_study(tmp_path, **LOSES)
    study.trial(0).clear()
    half = [user for user in IDS if int(user[1:]) % 2 == 0]
    ranks = first_where(~SHORT)
    report(study.trial(0), half, Ranks(ranks.greater[::2], ranks.ties[::2]), scored_share=0.5)
    made = found(study)
    assert {figures.name: figures.lists for figures in made.parts if figures.by == "target"} == {
        "cold": 20, "short head": 100
    }  # fmt: skip
    assert part(made, "short").winner["recall_at_1"].mean == 0
    assert part(made, "long").winner["recall_at_1"].mean == 1


def test_a_study_without_ranks_or_without_lists_has_no_segments(tmp_path):
    assert segments(Maker(tmp_path, "none").lists().study) is None
    with pytest.raises(EnvironmentFault, match="begun by an older version"):
        segments(Maker(tmp_path, "older").trial(1.0).study)


# What stands first


def preferring(runs, item: int | None = None, place: int | None = None) -> StudyFolder:
    """A study of one trial, which puts this item first wherever it stands, or this place, and else the true item."""
    study = Maker(runs).lists().study
    facts = ListFacts.of_study(study)
    preferred = facts.candidates == item
    first = np.where(preferred.any(axis=1), preferred.argmax(axis=1), facts.place)
    first = first if place is None else np.full(USERS, place)
    study.start_trial(0, TrialConfig(model="demo-tiny", epochs=1, candidates=10))
    report(study.trial(0), IDS, first_where(first == facts.place), Picks(facts.place, first, np.full(USERS, 0.5)))
    study.write_status(0, TrialStatus.COMPLETED)
    return study


def places_of(study: StudyFolder) -> FirstPlaces:
    made = first_places(study, next(study.trials()))
    assert made is not None
    return made


def test_a_ranker_that_is_always_right_puts_first_what_users_took(tmp_path):
    made = places_of(preferring(tmp_path))
    assert (made.first, made.novelty_gain.mean, made.too_often) == (made.targets, 0, [])
    assert sum(item.first for item in made.items) == USERS
    assert all(item.first == item.target for item in made.items)
    assert first_place_findings(made)[-1] == "No item is proven to stand first too often."


def test_an_item_that_stands_first_too_often_is_named_with_its_shares(tmp_path):
    study = preferring(tmp_path, item=3)
    made, facts = places_of(study), ListFacts.of_study(study)
    worst, listed, target = made.items[0], int((facts.candidates == 3).sum()), int((facts.target == 3).sum())
    assert (worst.item_id, worst.users, worst.listed, worst.first, worst.target) == ("i3", 50, listed, listed, target)
    assert [item.item_id for item in made.too_often] == ["i3"]
    said = first_place_findings(made)[-1]
    shares = f"{listed / USERS:.1%} of first places, {target / USERS:.1%} of targets, p < 0.001"
    assert said == f"Proven to stand first too often: Item 3 ({shares})."


def test_what_stands_first_is_less_new_where_popular_items_are_preferred(tmp_path):
    made = places_of(preferring(tmp_path, item=3))
    assert made.novelty_gain.high < 0
    assert made.novelty_gain.mean == pytest.approx(made.novelty.mean - made.target_novelty.mean)
    assert "is less new than what users took" in first_place_findings(made)[1]


def test_coverage_is_the_share_of_the_catalogue_that_stands_first(tmp_path):
    study = preferring(tmp_path, place=0)
    made, count = places_of(study), len({int(row[0]) for row in ListFacts.of_study(study).candidates})
    assert (made.first, made.catalogue, made.coverage) == (count, 40, count / 40)
    assert first_place_findings(made)[0].startswith(f"Trial 0 puts {count} of 40 items first ({count / 40:.0%} of the")


def test_a_trial_whose_picks_were_not_kept_says_nothing_of_first_places(tmp_path):
    study = a_study(tmp_path, **LOSES)
    assert first_places(study, next(study.trials())) is None


def test_novelty_is_the_information_of_an_item_s_share_of_training():
    assert self_information(np.array([3, 1, 0, 0])).tolist() == [1.0, 2.0, 3.0, 3.0]


def test_unequal_counts_are_tested_exactly_and_adjusted_step_by_step():
    p = too_unequal(np.array([10, 9, 5, 4]), np.array([0, 1, 5, 5]))
    assert p[0] == pytest.approx(3 * 2 * 0.5**10)
    assert p[1] == pytest.approx(2 * 2 * 11 * 0.5**10)
    assert p[2] == 1.0
    assert np.isnan(p[3])
