"""Studies that are odd and plausible: a finding says of them what is so, in figures that are theirs."""

from __future__ import annotations

from dataclasses import replace

from results.diagnosis.checks.measures import not_beaten
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Finding
from results.statistics.learning_summary import Naming
from results.study.stored_trial import TrialStatus
from tests.stored import Maker

DIVERGED = "diverged in epoch 2: the loss is not finite"


def found_in(made: Maker) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(DiagnosisInputs.of_study(made.study))}


def test_a_model_that_adds_nothing_to_the_counts_is_told_where_the_study_has_other_baselines(tmp_path):
    made = Maker(tmp_path).baseline("popularity", 0.5).trial(0, figures={"collaborative_loss": 2.1})
    finding = found_in(made)["adds nothing to counting"]
    assert finding.seen == (
        "NDCG@10 0.471; the loss, 2.60, stands against that of the collaborative scores without the model, 2.10"
    )


def test_a_trial_that_failed_after_a_report_is_one_trial(tmp_path):
    made = Maker(tmp_path).trial(1.5).trial(1.0)
    made.study.write_status(1, TrialStatus.FAILED, DIVERGED)
    finding = found_in(made)["trials failed"]
    assert finding.seen == f"1 of 2: {DIVERGED} (1×)"
    assert finding.means == "these configurations are compared by what they had reported before"


def test_most_trials_diverged_though_they_had_reported_before(tmp_path):
    made = Maker(tmp_path).trial(1.5).trial(1.0).trial(1.0)
    for number in (1, 2):
        made.study.write_status(number, TrialStatus.FAILED, DIVERGED)
    assert found_in(made)["rate too high"].seen == "2 of 3 trials diverged (learning_rate 1.0e-03)"


def test_figures_on_a_part_of_the_lists_stand_beside_how_many_that_are(tmp_path):
    at_chance = Maker(tmp_path).trial(0, figures={"scored_share": 0.25})
    assert "guessing gives 0.1000 ± 0.0759 with 60 users" in found_in(at_chance)["at chance"].seen


def test_a_report_within_an_epoch_is_told_by_its_place(tmp_path):
    asked = {"titles_found": 0.9, "titles_asked": 100, "epoch": [0.25, 0.5]}
    made = Maker(tmp_path).trial(1.0, figures=asked, model="smollm2-135m")
    naming = Naming.of(next(iter(made.study.trials())), "ndcg_at_10", {}, 240)
    assert naming is not None
    assert [share.when for share in naming.reports] == ["after epoch 0.25", "after epoch 0.5"]


def test_what_is_not_known_has_no_figure_in_a_finding():
    perfect = DiagnosisInputs.of_table([{"recall_at_1": 0.97}], users=600, candidates=20, metric="recall_at_1")
    (finding,) = diagnose(perfect)
    assert finding.seen == "Recall@1 is 0.970: what somebody takes next is hardly ever so certain"


def test_a_baseline_with_the_lower_loss_is_the_better_one():
    inputs = DiagnosisInputs.of_table([{"val_loss": 2.0}], users=600, candidates=20, metric="val_loss")
    rivals = {"weaker": {"val_loss": 2.5}, "stronger": {"val_loss": 1.8}, "unknown": {}}
    assert not_beaten(replace(inputs, references=rivals)) == ["stronger"]
