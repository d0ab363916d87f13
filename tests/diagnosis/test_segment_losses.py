"""A winner that is proven worse than a baseline on a part of the lists: when that is a finding, and what to do about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from results.diagnosis.checks.segments import worse_on_a_part
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.reporting.report_data import content_of
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder
from tests.statistics.test_segments import LOSES, SHORT, USER, a_study
from tests.stored import USERS, keep_journal

NAME = "worse than a baseline on a part of the lists"
PLACE = (-np.arange(USERS) % 10) < 4  # the first third of the labels


def found_in(study: StudyFolder) -> Finding | None:
    return worse_on_a_part(DiagnosisInputs.of_study(study))


def the_one_in(study: StudyFolder) -> Finding:
    finding = found_in(study)
    assert finding is not None
    return finding


def test_a_proven_loss_on_a_segment_is_a_limit_with_its_figures(tmp_path):
    finding = the_one_in(a_study(tmp_path, **LOSES))
    assert (finding.name, finding.confidence, finding.grade) == (NAME, Confidence.SURE, Grade.LIMIT)
    assert finding.seen.startswith("in NDCG@10, on history: short (length 2), 80 lists: -0.711 (")
    assert finding.seen.endswith(
        " against popularity, p = 0.003 (parts, configurations and baselines all tested together)"
    )


def test_short_histories_are_trained_on_or_given_to_the_baseline(tmp_path):
    assert the_one_in(a_study(tmp_path, **LOSES)).next_step == (
        "train on short histories too: `examples_per_user: null` asks for every prefix of a user; the length of a history is "
        "known beforehand, so these lists can be given to the baseline"
    )


def test_lists_whose_target_is_popular_are_not_given_to_a_baseline_since_targets_are_not_known_beforehand(tmp_path):
    tail = (USER % 12 != 0) & (USER % 2 == 1)
    finding = the_one_in(a_study(tmp_path, winner=~tail, popularity=tail & (USER % 3 > 0)))
    assert "target: long tail (1 to 49 users)" in finding.seen
    assert finding.next_step.startswith("negatives by popularity")
    assert "baseline" not in finding.next_step


def test_a_loss_by_the_place_of_the_label_is_the_prompt_s(tmp_path):
    finding = the_one_in(a_study(tmp_path, winner=~PLACE, popularity=PLACE & (USER % 12 > 0)))
    assert "place: first third (place 1 to 4)" in finding.seen
    assert "permutations: 4" in finding.next_step


def test_being_behind_without_proof_is_no_finding(tmp_path):
    assert found_in(a_study(tmp_path, winner=USER >= 3, popularity=SHORT)) is None


def test_a_baseline_that_is_proven_better_on_all_lists_has_a_finding_of_its_own(tmp_path):
    study = a_study(tmp_path, winner=USER % 5 == 0, popularity=USER % 5 > 0)
    by_segment = DiagnosisInputs.of_study(study).by_segment
    assert by_segment is not None
    assert by_segment.losses
    assert found_in(study) is None
    assert "a simple baseline does as well" in [finding.name for finding in diagnose(DiagnosisInputs.of_study(study))]


def test_a_segment_of_few_users_is_no_finding(tmp_path):
    study = a_study(tmp_path, winner=USER >= 9, popularity=USER < 9)
    replace(ListFacts.of_study(study), history=np.where(USER < 9, 9, 2)).keep(study)
    assert found_in(study) is None


@pytest.mark.parametrize("lists", ["", "not a table"])
def test_a_study_without_facts_of_its_lists_is_diagnosed_without_them(tmp_path, lists):
    study = a_study(tmp_path, **LOSES)
    file = study.path / "lists.parquet"
    file.unlink()
    if lists:
        file.write_text(lists, encoding="utf-8")
    assert DiagnosisInputs.of_study(study).by_segment is None
    assert NAME not in [finding.name for finding in diagnose(DiagnosisInputs.of_study(study))]


def test_the_report_s_findings_have_it(tmp_path):
    content = content_of(keep_journal(a_study(tmp_path, **LOSES)))
    assert NAME in [finding.name for finding in content.findings]
