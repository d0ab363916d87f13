"""A table of figures from elsewhere: what is wrong with it is told, and what is right is read as it is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranker.errors import InputError
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs, read_table


def of_table(text: str, folder: Path) -> DiagnosisInputs:
    (folder / "runs.csv").write_text(text, encoding="utf-8")
    return read_table(folder / "runs.csv", users=614, candidates=50)


@pytest.mark.parametrize(("text", "told"), [
    ("ndcg_at_10,learning_rate\n0.1,fast\n", "runs.csv:2: learning_rate: must be a finite number (got 'fast')"),
    ("ndcg_at_10,positives\n0.1,nan\n", "runs.csv:2: positives: must be a finite number (got 'nan')"),
    ("ndcg_at_10,hit\n0.1,-1\n", "runs.csv:2: hit: must be from 0 to 1 (got '-1')"),
    ("ndcg_at_10,titles_asked\n0.1,-7\n", "runs.csv:2: titles_asked: must be at least 0 (got '-7')"),
    ("ndcg_at_10,scored_share\n0.1,0\n", "runs.csv:2: scored_share: must be above 0 (got '0')"),
    ("ndcg_at_10,candidates\n0.1,20\n", "candidates: must be what --candidates says, 50: lists of different length"),
    ("name,kind,ndcg_at_10\npopularity,Baseline,0.9\na,trial,0.1\n",
     "runs.csv:2: kind: must be one of trial, baseline, chance, or empty (got 'Baseline'); did you mean 'baseline'?"),
    ("name,kind,ndcg_at_10\nmarkov,baseline,0.9\nmarkov,baseline,0.1\na,,0.1\n", "runs.csv:3: name: each baseline must have a name"),
    ("ndcg_at_10,ndcg_at_10\n0.1,0.9\n", "runs.csv:1: ndcg_at_10: a column must occur once"),
    ("name;ndcg_at_10\na;0.1\n", "runs.csv:1: the fields of a line must be separated by commas (got 'name;ndcg_at_10'); these are by ';'"),
    ("name,kind,ndcg_at_10\nmarkov,baseline,0.9\n", "runs.csv: there must be a row a run"),
    ("", "runs.csv:1: the first line must hold the names of the columns"),
])  # fmt: skip
def test_what_a_table_gets_wrong_is_told_and_nothing_is_taken_for_a_run_or_passed_over(tmp_path, text, told):
    with pytest.raises(InputError) as refused:
        of_table(text, tmp_path)
    (fault,) = map(str, refused.value.faults)
    assert told in fault


def test_a_table_is_ranked_by_a_metric_that_its_runs_have(tmp_path):
    """A column of a metric may be empty; then all runs counted as failed."""
    assert of_table("ndcg_at_10,recall_at_1\n,0.3\n,0.2\n", tmp_path).metric == "recall_at_1"


def test_a_run_on_a_part_of_the_lists_is_no_better_than_one_on_all_in_a_table_either(tmp_path):
    """As `leaderboard.csv` has it where trials were stopped before a report on all lists."""
    inputs = of_table("ndcg_at_10,scored_share,epochs\n0.4,0.25,1\n0.3,,2\n", tmp_path)
    assert (inputs.best["ndcg_at_10"], inputs.scored_users) == (0.3, 614)


def test_failed_runs_of_a_table_have_no_study_to_go_on_with(tmp_path):
    (finding,) = diagnose(of_table('ndcg_at_10\n""\n""\n', tmp_path))
    assert finding.name == "trials failed"
    assert "--resume" not in finding.next_step
