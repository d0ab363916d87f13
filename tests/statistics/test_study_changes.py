"""What has changed from one study to the next: list by list where the lists are the same, else by a common baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker.storage.atomic_files import append_line
from results import history
from results.statistics.study_changes import Change, StudyOutcome
from results.study.journal_file import begun
from results.study.optuna_journal import Journal
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import Maker, keep_journal


def stored(
    runs: Path, name: str, skill: float, *, lists: str = "june", data: str = "f00d", baseline: str = "ease", **plan: Any
) -> StudyFolder:
    """A study of three trials, of which the middle one is the best, on these lists."""
    maker = Maker(runs, name).baseline("popularity", 0.5).baseline(baseline, 0.9)
    for step in (-0.4, 0, -0.2):
        maker.trial(skill + step)
    manifest = maker.study.read_manifest()
    tags, whole_plan = {**manifest["tags"], "data_fingerprint": data}, {**manifest["plan"], **plan}
    maker.study.write_manifest({**manifest, "lists": lists, "tags": tags, "plan": whole_plan})
    return keep_journal(maker.study)


def change(earlier: StudyFolder, later: StudyFolder) -> Change:
    return Change.between(*(StudyOutcome.of(study, "ndcg_at_10") for study in (earlier, later)))


def test_on_the_same_lists_the_best_ones_are_held_against_each_other(tmp_path):
    june, july = stored(tmp_path, "june", 1.0), stored(tmp_path, "july", 2.2)
    found = change(june, july)
    difference = present(found.difference)
    scores = [present(StudyOutcome.of(study, "ndcg_at_10").score) for study in (june, july)]
    assert difference.mean == pytest.approx(scores[1] - scores[0])
    assert difference.word == "better"
    assert str(found).startswith(f"july after june, on the same lists: NDCG@10 {difference.mean:+.3f} (")
    assert present(change(july, june).difference).word == "worse"


@pytest.mark.slow
def test_one_search_after_the_other_with_the_same_outcome_is_no_progress(tmp_path):
    """Each time the best of three is lucky, which must not be taken for a change."""
    words = []
    for seed in range(20):
        runs = tmp_path / str(seed)
        studies = []
        for name in ("june", "july"):
            maker = Maker(runs, name)
            maker.rng = np.random.default_rng([seed, name == "july"])
            for _ in range(3):
                maker.trial(1.0)
            maker.study.write_manifest(maker.study.read_manifest() | {"lists": "the same"})
            studies.append(keep_journal(maker.study))
        words.append(present(change(*studies).difference).word)
    assert words.count("not told apart") >= 18


def test_on_other_data_the_leads_over_the_strongest_baseline_of_both_are_held_against_each_other(tmp_path):
    june = stored(tmp_path, "june", 1.3)
    august = stored(tmp_path, "august", 3.0, lists="august", data="beef")
    found = change(june, august)
    assert (found.difference, found.baseline) == (None, "ease")
    then, now = present(found.leads)
    assert then.high < now.low
    assert "other data, so by the lead over ease" in str(found)
    assert str(found).endswith("the lead is proven larger.")
    assert str(change(august, june)).endswith("the lead is proven smaller.")


def test_leads_whose_intervals_overlap_prove_no_change(tmp_path):
    june, august = stored(tmp_path, "june", 1.3), stored(tmp_path, "august", 1.4, lists="august", candidates=20)
    text = str(change(june, august))
    assert "other lists of the same data, 20 candidates in place of 10" in text
    assert text.endswith("the intervals overlap, so no change is proven.")


def test_studies_with_nothing_in_common_are_not_compared(tmp_path):
    june = stored(tmp_path, "june", 1.3, baseline="ease")
    august = Maker(tmp_path, "august").baseline("markov", 0.3).trial(1.0)
    found = change(june, keep_journal(august.study))
    assert (found.difference, found.leads) == (None, None)
    assert str(found).endswith("no baseline that both have, so they can't be compared.")


def test_the_command_shows_every_study_of_the_folder_in_the_order_in_which_they_began(tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("zebra", "ant"):
        stored(runs, name, 1.5)
    keep_journal(Maker(runs, "empty").study)
    assert history.main(["--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["zebra", "ant", "empty"]
    assert f"{present(begun(StudyFolder(runs / 'zebra').journal)):%Y-%m-%d %H:%M}" in lines[1]
    assert "not opened" in lines[1]
    assert sum(" after " in line for line in lines) == 1
    assert any(line.startswith("ant after zebra, on the same lists") for line in lines)


def test_a_test_that_was_read_is_shown_though_its_figure_is_0_and_a_lost_record_is_no_closed_seal(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    read, lost = stored(tmp_path, "read", 1.5), stored(tmp_path, "lost", 1.5)
    reading = {"time": "2026-11-30 12:00:00", "trial": 1, "figures": {"ndcg_at_10": 0.0}}
    Journal(read.journal).remember_reading(reading)
    append_line(read.readings_file, reading)
    lost.lost_readings.write_text("{}")
    assert history.main(["read", "lost", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].rstrip().endswith(" 0.000")
    assert lines[2].rstrip().endswith(" not known: record lost")


def test_the_command_takes_the_studies_that_are_named_and_their_paths(tmp_path, capsys):
    stored(tmp_path / "old", "june", 1.5)
    stored(tmp_path / "runs", "july", 1.5)
    assert history.main([str(tmp_path / "old" / "june"), "july", "--runs", str(tmp_path / "runs")]) == 0
    assert "july after june" in capsys.readouterr().out


def test_a_study_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    stored(tmp_path, "june", 1.5)
    damaged = stored(tmp_path, "july", 1.5)
    (damaged.path / "study.yaml").write_text("study: [", encoding="utf-8")
    (damaged.path / "optuna.log").write_text("nothing of ours\n", encoding="utf-8")
    assert history.main(["--runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("left out: july: ")
    assert "june" in out


def test_a_folder_without_studies_is_the_user_s_fault(tmp_path, capsys):
    assert history.main(["--runs", str(tmp_path / "none")]) != 0
    assert "there is no study in" in capsys.readouterr().err


def test_a_study_of_which_no_trial_has_begun_has_no_beginning(tmp_path):
    study = keep_journal(Maker(tmp_path).study)
    assert begun(study.journal) is None
    assert begun(tmp_path / "missing.log") is None
    assert not (tmp_path / "missing.log").exists()
