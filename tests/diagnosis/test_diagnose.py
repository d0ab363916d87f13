"""A gallery of studies, each broken in its own way, which must yield its own finding first; and healthy ones: nothing.

Every study is really trained, small, and diagnosed out of its folder, the statistics of `results.compare` included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker.config import NegativesMix
from reranker.errors import InputError
from reranker.metrics import Picks, chance
from results.diagnose import main
from results.diagnosis.checks.measures import leaning
from results.diagnosis.checks.statistics import seed_luck
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs, Range, read_table
from results.diagnosis.finding import Finding, Grade
from results.statistics.comparison import Comparison
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import Origin
from tests import gallery
from tests.gallery import GOOD, broken, build, demo, train
from tests.stored import Maker, keep_journal, report

pytestmark = pytest.mark.slow  # each needs a Ray, or a trained study, of its own

SEEDS_NUMBERS = "recall_at_1,ndcg_at_10,train_loss,optimizer_steps\n0.0179,0.0875,4.25,5\n0.0212,0.1019,4.25,5\n"


def good(**knobs: Any) -> Any:
    return GOOD.model_copy(update=knobs)


def of_rank(rank: int) -> Any:
    return good(lora_rank=rank, lora_alpha=2 * rank, epochs=1, learning_rate=1.5e-3)


def in_another_template(runs: Path) -> StudyFolder:
    with gallery.scored_in_another_template():
        return build(runs, "template", demo(), [good()])


def names(study: StudyFolder) -> list[str]:
    return [finding.name for finding in diagnose(DiagnosisInputs.of_study(study))]


GALLERY: dict[str, tuple[Callable[[Path], StudyFolder], list[str]]] = {
    "a rate a hundred times too high": (
        lambda runs: build(runs, "high", demo(), [good(epochs=1, learning_rate=0.3)]),
        ["at chance", "rate too high"],
    ),
    "a rate a hundred times too low": (
        lambda runs: build(runs, "low", demo(), [good(epochs=1, learning_rate=3e-5)]),
        ["rate too low"],
    ),
    "five steps": (
        lambda runs: build(runs, "five", demo(80), [good(epochs=1, examples_per_user=1)]),
        ["too few steps"],
    ),
    "shuffled labels": (
        lambda runs: build(runs, "shuffled", broken(gallery.Shuffled, demo()), [good()]),
        ["at chance", "labels don't fit their lists"],
    ),
    "a target that stands in its history": (
        lambda runs: build(runs, "leaked", broken(gallery.Leaked, demo()), [good(epochs=1)]),
        ["leaked target"],
    ),
    "a target that stands in its history, in training": (
        lambda runs: build(runs, "leaked", broken(gallery.LeakedInTraining, demo()), [good(epochs=1)]),
        ["leaked in training"],
    ),
    "training answers that stand first": (
        lambda runs: build(runs, "prior", broken(gallery.FirstIsRight, demo()), [good()]),
        ["label prior"],
    ),
    "a history that is cut to nothing": (
        lambda runs: build(runs, "cut", demo(), [good(epochs=1, max_prompt_tokens=54)]),
        ["history is cut"],
    ),
    "another template for scoring": (in_another_template, ["at chance", "template mismatch"]),
    "what is popular is all that counts": (
        lambda runs: build(
            runs, "crowd", gallery.taste_of_the_crowd(runs, 400, 0), [good(collaborative_scores="none")]
        ),
        ["a simple baseline does as well"],
    ),
    "what is popular is all that counts, and is added": (
        lambda runs: build(runs, "crowd", gallery.taste_of_the_crowd(runs, 400, 0), [good()]),
        ["adds nothing to counting"],
    ),
    "a retriever that misses most targets": (
        lambda runs: build(runs, "ceiling", demo(candidate_mode="retrieval", retriever="markov"), [good()]),
        ["the retriever is the ceiling"],
    ),
    "the highest rank is the best": (
        lambda runs: build(
            runs, "edge", demo(), [of_rank(r) for r in (1, 8, 64)], {"lora_rank": {"choice": [1, 8, 64]}}
        ),
        ["the best is at an end of its range"],
    ),
    "a dozen users": (
        lambda runs: build(runs, "small", demo(evaluation_users=12), [good(epochs=3)]),
        ["too few users"],
    ),
    "learning by heart": (
        lambda runs: build(
            runs, "heart", demo(64),
            [good(epochs=25, learning_rate=5e-3, lora_rank=32, examples_per_user=None, shuffle_candidates=False)],
        ),
        ["overfitting"],
    ),
    "a warm-up that never ends": (
        lambda runs: build(runs, "warm-up", demo(), [good(epochs=1, warmup_epochs=30.0, learning_rate=2e-2)]),
        ["applied is not configured"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GALLERY)
@pytest.mark.slow
def test_a_broken_study_yields_its_finding_first(case, tmp_path):
    make, expected = GALLERY[case]
    found = diagnose(DiagnosisInputs.of_study(make(tmp_path)))
    assert [finding.name for finding in found[: len(expected)]] == expected
    if found[-1].grade <= Grade.CAUSE:  # which hides what it explains, so that nothing else is told
        assert len(found) == len(expected)


# Healthy studies


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """One training that is as it should be."""
    return build(tmp_path_factory.mktemp("sound"), "sound", demo(), [good(epochs=5)])


@pytest.fixture(scope="module")
def several(sound: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The same beside trials that are nearly as good."""
    study = _copy(sound, tmp_path_factory.mktemp("several"))
    train(study, 1, good(epochs=1, learning_rate=1e-3), demo())
    train(study, 2, good(epochs=1, learning_rate=5e-3, lora_rank=4, lora_alpha=8), demo())
    return study


@pytest.fixture
def copied(sound: StudyFolder, tmp_path: Path) -> StudyFolder:
    return _copy(sound, tmp_path)


def _copy(study: StudyFolder, to: Path) -> StudyFolder:
    return StudyFolder(Path(shutil.copytree(study.path, to / study.name)))


def test_a_healthy_training_yields_nothing(sound):
    assert names(sound) == []


def test_a_healthy_study_of_several_trials_yields_nothing(several):
    assert names(several) == []


def test_a_healthy_study_yields_nothing_where_weak_trials_were_pruned(several, tmp_path):
    study = _copy(several, tmp_path)
    train(study, 3, good(epochs=4, learning_rate=0.2), demo(), last=1)
    assert next(iter(study.trials())).status is TrialStatus.COMPLETED
    assert list(study.trials())[3].status is TrialStatus.PRUNED
    assert names(study) == []


def test_failed_trials_are_told_with_their_causes(copied):
    for number in (1, 2, 3):
        copied.start_trial(number, good())
        copied.write_status(number, TrialStatus.FAILED, "out of memory" if number < 3 else "no space on the disk")
    (finding,) = diagnose(DiagnosisInputs.of_study(copied))
    assert finding.name == "trials failed"
    assert finding.seen == "3 of 4: out of memory (2×); no space on the disk (1×)"
    assert finding.grade.name == "ASIDE"


def test_a_study_whose_trials_all_diverged_says_so_though_nothing_was_scored(copied):
    copied.trial(0).clear()
    copied.write_status(0, TrialStatus.FAILED, "diverged in epoch 1: the loss is not finite (learning_rate 0.5)")
    (finding,) = diagnose(DiagnosisInputs.of_study(copied))
    assert (finding.name, finding.grade.name) == ("trials failed", "CAUSE")
    assert "diverged in epoch 1" in finding.seen


def test_two_configurations_that_seeds_reorder_are_told_from_two_that_they_do_not(copied):
    for number, (repeated, score) in enumerate([(0, 0.70), (0, 0.74), (1, 0.71), (1, 0.69)], start=2):
        _like_trial_0(copied, number, f"replicate of {repeated}", score)
    _like_trial_0(copied, 1, "", 0.72)
    assert "seed luck" in names(copied)
    for number, origin, score in [(1, "", 0.40), (4, "replicate of 1", 0.41), (5, "replicate of 1", 0.39)]:
        _like_trial_0(copied, number, origin, score)
    assert "seed luck" not in names(copied)


def _like_trial_0(study: StudyFolder, number: int, origin: str, score: float) -> None:
    """The trained trial again, with another score in its figures."""
    config = (
        study.trial(0).read_config().model_copy(update={"seed": number, "learning_rate": 2e-3 + 1e-3 * (number % 2)})
    )
    epochs = study.trial(0).read_reports()
    users, ranks = study.trial(0).read_ranks()
    study.start_trial(number, config, Origin.parse(origin))
    study.trial(number).clear()
    report(study.trial(number), users, ranks, **{**epochs[-1], "epoch": 1, "ndcg_at_10": score})
    study.write_status(number, TrialStatus.COMPLETED)


# Labels, which come before the data's rule

CANNOT, RULELESS = "cannot name labels yet", "names labels but does not know the rule"
LOST = "knew how to name labels and lost it"
REAL = "smollm2-135m"
GUESSING = {"train_loss": 2.31, "val_loss": 2.31}
SKILL: dict[str, Any] = {"applied/skill_steps": 40, "applied/skill_seconds": 260.0, "applied/skill_found": 0.96}


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """A study without trials yet, of a base that names labels as if it guessed, beside a baseline."""
    made = Maker(tmp_path).baseline("popularity", 0.8)
    return made.untrained(REAL, titles_found=0.11, titles_asked=200, label_mass=0.15, val_loss=3.2)


def tried(maker: Maker, skill: float, found: Any, asked: int = 200, lean: float = 0.0, **figures: Any) -> Maker:
    """One trial more, which named the label of such shares of the titles."""
    model = figures.pop("model", REAL)
    losses = {"train_loss": 1.5, "val_loss": 1.5} if skill else GUESSING
    known = {"titles_found": found, "titles_asked": asked, **losses, **figures}
    return maker.trial(skill, figures=known, lean=lean, model=model, epochs=len(found))


def told(maker: Maker) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(DiagnosisInputs.of_study(maker.study))}


def test_a_model_that_cannot_name_labels_must_learn_that_first(maker):
    tried(maker, 0, [0.08, 0.12])
    tried(maker, 0, [0.10, 0.09])
    found = told(maker)
    assert list(found) == ["at chance", CANNOT]
    assert found[CANNOT].confidence == "sure"
    assert found[CANNOT].grade is Grade.CAUSE
    assert "(guessing: 10%), 11% untrained" in found[CANNOT].seen
    assert found[CANNOT].seen.endswith("2 of 2 trials name less than half")
    assert found[CANNOT].next_step.startswith("`skill_steps: auto`")


def test_a_lesson_that_was_too_short_is_to_be_longer(maker):
    tried(maker, 0, [0.22], **{**SKILL, "applied/skill_found": 0.25})
    found = told(maker)
    assert list(found) == ["at chance", CANNOT]
    assert found[CANNOT].confidence == "likely"
    assert "22% after epoch 1 (guessing: 10%), 11% untrained, 25% after its lesson" in found[CANNOT].seen
    assert found[CANNOT].next_step.startswith("more skill_steps than the 40 that were taken")


def test_naming_a_third_of_the_labels_holds_down_what_ranks_above_chance(maker):
    maker.baseline("markov", 2.5)
    tried(maker, 0.8, [0.2, 0.33])
    assert list(told(maker)) == [CANNOT]


@pytest.mark.parametrize(
    ("skill", "found", "asked", "why"),
    [
        (2.5, [0.98], 200, "it names labels and ranks well"),
        (2.5, [0.10], 200, "it ranks well, so it does not understand the question"),
        (0, [0.45], 200, "not clearly less than half"),
        (0, [0.25], 12, "too few were asked to tell"),
    ],
)
def test_a_model_that_may_name_labels_is_not_said_to_fail(maker, skill, found, asked, why):
    tried(maker, skill, found, asked)
    assert CANNOT not in told(maker), why


def test_one_trial_that_cannot_name_labels_among_others_that_can_is_not_the_reason(maker):
    tried(maker, 0.3, [0.98])
    tried(maker, 0.3, [0.97])
    tried(maker, 0.5, [0.10])
    assert DiagnosisInputs.of_study(maker.study).winner.number == 2
    assert CANNOT not in told(maker)


def test_who_trains_far_below_the_loss_of_guessing_names_labels_there(maker):
    tried(maker, 0, [0.1, 0.1], train_loss=[2.1, 1.6], val_loss=2.9)
    assert list(told(maker)) == ["at chance", "template mismatch"]


def test_the_demo_s_bases_know_no_other_question(tmp_path):
    maker = Maker(tmp_path).baseline("popularity", 0.8)
    tried(maker, 0, [0.1], model="demo-tiny")
    assert list(told(maker)) == ["at chance", "labels don't fit their lists"]


def test_a_training_loss_is_held_against_guessing_on_the_lists_that_are_trained_on(tmp_path):
    maker = Maker(tmp_path).baseline("popularity", 0.8)
    tried(maker, 0, [0.1], model="demo-tiny", train_loss=2.71, guessing_loss=2.72)
    found = told(maker)
    assert list(found) == ["at chance", "labels don't fit their lists"]
    seen = "the training loss is 2.710 nats, that of guessing, 2.72 on the lists that are trained on"
    assert seen in found["labels don't fit their lists"].seen


def test_who_trains_far_below_guessing_on_shared_lists_names_labels_there(maker):
    tried(maker, 0, [0.1, 0.1], train_loss=[2.7, 2.3], guessing_loss=2.72, val_loss=2.9)
    found = told(maker)
    assert list(found) == ["at chance", "template mismatch"]
    assert "below that of guessing, 2.72 on the lists that are trained on" in found["template mismatch"].seen


def test_a_bold_rate_is_told_by_itself(maker):
    figures = {"titles_found": 0.1, "titles_asked": 200, **GUESSING}
    maker.trial(0, figures=figures, model=REAL, epochs=1, learning_rate=0.3)
    assert list(told(maker)) == ["at chance", "rate too high"]


def test_a_model_that_names_labels_and_guesses_needs_data_and_steps(maker):
    tried(maker, 0, [0.97])
    found = told(maker)
    assert list(found)[:2] == ["at chance", RULELESS]
    assert "names the label of 97% (untrained 11%); it ranks as if it guessed" in found[RULELESS].seen
    assert found[RULELESS].next_step.startswith("more examples")
    assert found[RULELESS].grade is Grade.CAUSE


def test_a_model_that_names_labels_and_ranks_no_better_than_a_baseline_does_not_know_the_rule(maker):
    maker.baseline("markov", 3.0)
    tried(maker, 1.5, [0.9, 0.97], **SKILL)
    found = told(maker)
    assert list(found) == [RULELESS]
    assert "names the label of 97% (untrained 11%, taught 96%); the best trial has NDCG@10" in found[RULELESS].seen
    assert "over markov is -0." in found[RULELESS].seen
    assert found[RULELESS].grade is Grade.LIMIT


def test_a_preference_for_a_label_at_chance_is_no_cause_where_labels_are_known(maker):
    tried(maker, 0, [0.95], lean=0.6, **{"applied/optimizer_steps": 400})
    assert list(told(maker))[:2] == ["at chance", RULELESS]
    assert "label prior" not in told(maker)


@pytest.mark.parametrize(
    ("found", "figures", "said"),
    [
        ([0.96, 0.3, 0.08], {}, "named the label of 96% after epoch 1 and of 8% after epoch 3"),
        ([0.10], SKILL, "named the label of 96% after its lesson and of 10% after epoch 1"),
    ],
)
def test_a_model_that_could_name_labels_and_no_longer_can_had_too_large_steps(maker, found, figures, said):
    tried(maker, 0, found, **figures)
    lost = told(maker)
    assert list(lost)[:2] == ["at chance", LOST]
    assert {CANNOT, RULELESS, "rate too high"} & set(lost) == set()
    assert said in lost[LOST].seen
    assert lost[LOST].next_step.startswith("lower learning_rate")
    assert (lost[LOST].confidence, lost[LOST].grade) == ("sure", Grade.CAUSE)


def test_what_an_untrained_model_could_is_remembered(tmp_path):
    maker = Maker(tmp_path).untrained(REAL, titles_found=0.9, titles_asked=200)
    tried(maker, 0, [0.2])
    assert "90% untrained and of 20% after epoch 1" in told(maker)[LOST].seen


@pytest.mark.parametrize(
    ("skill", "found", "asked"),
    [
        (2.5, [0.98, 0.60], 200),  # it ranks well
        (0, [0.98, 0.75], 200),  # most is left
        (0, [0.45, 0.10], 200),  # it never could
        (0, [0.67, 0.33], 12),  # luck
    ],
)
def test_what_is_not_lost_is_not_said_to_be(maker, skill, found, asked):
    tried(maker, skill, found, asked)
    assert LOST not in told(maker)


def test_a_healthy_study_that_was_taught_labels_yields_nothing(maker):
    for best in (2.4, 2.5, 2.3):
        tried(maker, best, [0.97, 0.95], **SKILL)
    tried(maker, 0.4, [0.3], **SKILL)  # one that a bad knob held back
    assert told(maker) == {}


PLATEAU = {"train_loss": 2.36, "val_loss": 2.33, "label_mass": 0.17, "applied/optimizer_steps": 84}


def plateau(maker: Maker, probed: bool = False, **more: Any) -> Maker:
    """A real model after 84 steps: the loss is that of guessing, and one label stands first nearly everywhere."""
    asked = {"titles_found": 0.1, "titles_asked": 200} if probed else {}
    return maker.trial(0, figures={**PLATEAU, **asked, **more}, lean=0.97, model=REAL, epochs=1, learning_rate=2e-4)


def test_one_label_that_stands_first_everywhere_after_few_steps_means_too_few_steps(maker):
    found = told(plateau(maker))
    assert list(found) == ["at chance", "too few steps"]
    seen = found["too few steps"].seen
    assert seen.startswith(
        "the longest training took 84 optimiser steps; the training loss is 2.36 nats, not below that of guessing, "
        "ln 10 = 2.30; label A stands first in 97% of the lists"
    )
    assert "the labels have 17% of the probability together, and had 15% at the start" in seen
    assert found["too few steps"].confidence == "likely"
    assert "`skill_steps: auto` saves most of them" in found["too few steps"].next_step


def test_where_labels_were_asked_for_that_comes_before_the_steps(maker):
    assert list(told(plateau(maker, probed=True))) == ["at chance", CANNOT, "too few steps"]


def test_one_label_that_stands_first_everywhere_is_no_cause_of_a_long_training_at_the_loss_of_guessing(maker):
    assert list(told(plateau(maker, probed=False, **{"applied/optimizer_steps": 900}))) == [
        "at chance",
        "labels don't fit their lists",
    ]


def test_a_training_that_has_left_the_loss_of_guessing_had_enough_steps_to_lean(maker):
    assert list(told(plateau(maker, train_loss=1.9)))[:2] == ["at chance", "label prior"]


def test_a_loss_that_has_not_moved_at_all_is_the_rate_s(tmp_path):
    maker = Maker(tmp_path).untrained(REAL, lean=0.97, val_loss=2.35)
    assert list(told(plateau(maker))) == ["at chance", "rate too low"]
    maker = Maker(tmp_path, "moved").untrained(REAL, lean=0.97, val_loss=3.2)
    assert list(told(plateau(maker))) == ["at chance", "too few steps"]


def test_a_table_may_say_that_labels_cannot_be_named(tmp_path):
    text = (
        "recall_at_1,ndcg_at_10,train_loss,optimizer_steps,titles_found,titles_asked\n0.0179,0.0875,3.95,500,0.03,200\n"
    )
    assert [finding.name for finding in diagnose(of_table(text, tmp_path))] == ["at chance", CANNOT]


def test_the_command_says_first_what_was_learned(maker, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    tried(maker, 2.5, [0.9, 0.98], **SKILL)
    keep_journal(maker.study)
    assert main([str(maker.study.path)]) == 0
    first, second, *_ = lines = capsys.readouterr().out.splitlines()
    assert first == "Learned: names 98% of labels (untrained 11%, taught 96%) ·"
    assert second == "         ranks better than popularity (proven)."
    assert lines[-1] == "Nothing found that explains weak results."


# What single findings say


def of_epochs(*epochs: dict[str, float], data: dict[str, Any] | None = None, **knobs: Any) -> list[str]:
    """The findings on a trial of 20 candidates and 600 users of which these figures are known, after 300 steps an epoch."""
    known = {"recall_at_1": 0.3, "ndcg_at_10": 0.5, "applied/examples": 9999}
    figures = [
        {**known, "epoch": i, "applied/optimizer_steps": 300 * i, **epoch} for i, epoch in enumerate(epochs, start=1)
    ]
    trial = StoredTrial(0, good(candidates=20, **knobs).model_dump(mode="json"), TrialStatus.COMPLETED, "", figures)
    diagnosis_inputs = DiagnosisInputs([trial], users=600, candidates=20, chance=chance(20), data=data or {})
    return [finding.name for finding in diagnose(diagnosis_inputs)]


def test_without_the_untrained_model_a_flat_loss_tells_that_the_rate_is_too_low():
    flat = [{"train_loss": 4.31, "val_loss": 4.2}, {"train_loss": 4.29, "val_loss": 4.2}]
    assert of_epochs(*flat) == ["rate too low"]
    assert of_epochs({"train_loss": 2.11, "val_loss": 2.1}, {"train_loss": 2.10, "val_loss": 2.1}) == []


def test_a_training_loss_that_rises_tells_that_the_rate_is_too_high():
    assert of_epochs({"train_loss": 2.1, "val_loss": 2.1}, {"train_loss": 2.9, "val_loss": 2.8}) == ["rate too high"]


def test_training_lists_may_be_easier_for_a_reason_that_is_known():
    epoch = {"train_loss": 1.6, "val_loss": 2.6}
    assert of_epochs(epoch) == ["template mismatch"]
    assert of_epochs(epoch, data={"evaluation_negatives": "popularity"}) == ["training lists are easier"]
    retrieved = {"candidate_mode": "retrieval"}
    assert of_epochs(epoch, data=retrieved) == ["training lists are easier"]
    hard = {"uniform": 0.0, "popularity": 0.0, "retriever": 1.0}
    assert of_epochs(epoch, data=retrieved, negatives=NegativesMix(**hard)) == ["template mismatch"]


def test_the_loss_of_all_tokens_is_not_held_against_that_of_labels():
    assert of_epochs({"train_loss": 0.8, "val_loss": 2.1, "label_mass": 0.98}, objective="token_ce") == []


def test_a_training_loss_with_titles_to_be_found_is_not_held_against_that_of_lists():
    epoch = {"train_loss": 1.2, "val_loss": 2.6}
    assert of_epochs(epoch, skill_mix=0.5) == []
    assert of_epochs(epoch) == ["template mismatch"]


def test_labels_that_hardly_any_probability_falls_on():
    epoch = {"train_loss": 2.2, "val_loss": 2.1, "label_mass": 0.12}
    assert of_epochs(epoch, objective="token_ce") == ["labels are improbable"]
    assert of_epochs(epoch) == []


def test_next_to_no_error_is_too_good_to_be_true():
    assert of_epochs({"recall_at_1": 0.97, "train_loss": 0.2, "val_loss": 0.1}) == ["leaked target"]
    assert of_epochs({"recall_at_1": 0.7, "train_loss": 1.0, "val_loss": 0.9}) == []


def test_an_end_of_a_range_is_near_it_in_the_scale_that_is_searched():
    assert Range(1e-5, 1e-1, log=True).end_at(5e-2) == "high"
    assert Range(1e-5, 1e-1).end_at(5e-2) == ""
    assert Range(1e-5, 1e-1, log=True).end_at(1e-3) == ""
    assert Range(4, 64, listed=True).end_at(4) == "low"
    assert Range(4, 64, listed=True).end_at(8) == ""


def test_labels_that_are_drawn_at_random_do_not_lean_and_one_that_is_preferred_does():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        target, first = rng.integers(0, 20, (2, 40))
        found.append(leaning(Picks(target, first, np.ones(40)), 20))
    assert sum(p < 0.05 for _, p in found) in range(2, 20)
    assert abs(np.mean([share for share, _ in found])) < 0.02
    target, first = rng.integers(0, 20, (2, 400))
    share, p = leaning(Picks(target, np.where(rng.random(400) < 0.5, 3, first), np.ones(400)), 20)
    assert 0.35 < share < 0.5
    assert p < 0.001


def test_a_ranker_that_is_right_leans_to_nothing_though_targets_stand_at_one_label():
    always = np.full(100, 7)
    assert leaning(Picks(always, always, np.ones(100)), 20) == (0.0, 1.0)


@pytest.mark.parametrize(("seeds", "told"), [(2, True), (6, False)])
def test_a_lead_over_few_seeds_is_held_against_the_t_distribution(seeds, told):
    """Three standard errors: nothing with 2 degrees of freedom, whose quantile is 4.3, and something with 10 (2.2)."""
    trial = StoredTrial(0, {}, TrialStatus.COMPLETED, "", [{"epoch": 1, "ndcg_at_10": 0.5}])
    lead = 3 * 0.01 * np.sqrt(2 / seeds)
    scores = {"trial 0": [0.5 + lead] * seeds, "trial 1": [0.5] * seeds}
    found = Comparison(
        "ndcg_at_10", trial, interval=(0.4, 0.6), against={}, tie_set=[trial], cheapest=trial, detectable=0.05, users=600, lists=600,
        scores=scores, ahead=[], seed_spread=0.01, seed_degrees=2 * (seeds - 1), user_error=0.01,
        studies=1, configurations=2,
    )  # fmt: skip
    assert (seed_luck(DiagnosisInputs([trial], 600, 20, comparison=found)) is not None) is told


# Tables


def of_table(text: str, folder: Path, users: int = 614, candidates: int = 50) -> DiagnosisInputs:
    (folder / "runs.csv").write_text(text, encoding="utf-8")
    return read_table(folder / "runs.csv", users=users, candidates=candidates)


def test_what_users_come_with_is_at_chance_after_too_few_steps(tmp_path):
    first, second, *rest = diagnose(of_table(SEEDS_NUMBERS, tmp_path))
    assert [first.name, second.name, rest] == ["at chance", "too few steps", []]
    assert "guessing gives 0.0200 ± 0.0111 with 614 users" in first.seen
    assert "4.25, is not below that of guessing, ln 50 = 3.91" in first.seen
    assert "5 optimiser steps" in second.seen


def test_rows_of_figures_are_as_good_as_a_file():
    rows = [{"recall_at_1": 0.0212, "ndcg_at_10": 0.1019, "train_loss": 4.25, "applied/optimizer_steps": 5}]
    found = diagnose(DiagnosisInputs.of_table(rows, users=614, candidates=50))
    assert [finding.name for finding in found] == ["at chance", "too few steps"]


def test_a_table_tells_a_rate_that_never_reached_the_optimiser(tmp_path):
    text = "recall_at_1,learning_rate,applied/learning_rate,optimizer_steps\n0.2,1e-3,2e-5,500\n"
    (finding,) = diagnose(of_table(text, tmp_path))
    assert finding.name == "applied is not configured"
    assert "asked for a learning rate of 0.001; the optimiser never held more than 2e-05" in finding.seen


def test_a_leaderboard_is_a_table_whose_baselines_are_compared(tmp_path):
    text = "rank,name,kind,status,epoch,ndcg_at_10,seconds\n"
    text += "1,markov,baseline,completed,,0.5,\n2,trial 0,trial,completed,3,0.4,9\n3,chance,chance,completed,,0.09,\n"
    (finding,) = diagnose(of_table(text, tmp_path))
    assert finding.name == "a simple baseline does as well"
    assert "0.400; markov has 0.500" in finding.seen


def test_all_faults_of_a_table_are_told_at_once(tmp_path):
    with pytest.raises(InputError) as refused:
        of_table("recal_at_1,ndcg_at_10\n0.1,12.5\n0.1,high\n0.1\n", tmp_path, users=0, candidates=1)
    users, candidates, name, percent, word, short = map(str, refused.value.faults)
    assert "--users" in users
    assert "--candidates" in candidates
    assert "1: recal_at_1: there is no such column; did you mean 'recall_at_1'?" in name
    assert "runs.csv:2: ndcg_at_10: must be from 0 to 1, not in percent (got '12.5')" in percent
    assert "runs.csv:3: ndcg_at_10: must be a finite number (got 'high')" in word
    assert "runs.csv:4: a row must have 2 cells" in short


# The command


def test_the_command_prints_a_study_within_the_width(sound, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    table = sound.path / "runs.csv"
    table.write_text(SEEDS_NUMBERS, encoding="utf-8")
    assert main(["--table", str(table), "--users", "614", "--candidates", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1. at chance (symptom, sure)"
    assert "2. too few steps (cause, sure)" in lines
    assert max(map(len, lines)) <= 60
    assert main([str(sound.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing found that explains weak results."


def test_the_command_prints_json(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text(SEEDS_NUMBERS, encoding="utf-8")
    assert main(["--table", str(tmp_path / "runs.csv"), "--users", "614", "--candidates", "50", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert set(first) == {"name", "seen", "means", "next_step", "confidence", "grade"}
    assert (second["name"], second["confidence"], second["grade"]) == ("too few steps", "sure", "cause")


def test_the_command_wants_a_study_or_a_table_with_its_size(tmp_path, capsys):
    for wrong in ([], ["--table", "runs.csv"], ["study", "--table", "runs.csv"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    assert main([str(tmp_path / "nothing")]) == 2
    assert "there is no study" in capsys.readouterr().err


COUNTED: dict[str, Any] = {
    "collaborative_loss": 1.5,
    "alone/recall_at_1": 0.1,
    "alone/ndcg_at_10": 0.45,
    "alone/val_loss": 2.3,
}


def test_a_model_that_adds_nothing_to_counting_is_told_so_before_its_causes(maker):
    maker.baseline("collaborative", 2.0)
    tried(maker, 1.7, [0.10], asked=200, **{**COUNTED, "train_loss": 1.52, "val_loss": 1.51})
    found = told(maker)
    assert list(found)[:2] == ["adds nothing to counting", CANNOT]
    assert found["adds nothing to counting"].grade is Grade.SYMPTOM
    seen = found["adds nothing to counting"].seen
    assert "over collaborative is " in seen
    assert "the loss, 1.51, stands against that of the collaborative scores without the model, 1.50" in seen
    assert "by itself the model has NDCG@10 0.450, guessing 0.454" in seen


def test_a_model_that_names_labels_and_adds_nothing_does_not_know_the_rule(maker):
    maker.baseline("collaborative", 2.0)
    tried(maker, 1.7, [0.97], **{**COUNTED, "train_loss": 1.52, "val_loss": 1.51})
    found = told(maker)
    assert list(found)[:2] == ["adds nothing to counting", RULELESS]
    assert "it adds nothing to the collaborative scores" in found[RULELESS].seen


def test_a_model_that_adds_to_counting_is_not_said_to_add_nothing(maker):
    maker.baseline("collaborative", 1.0)
    tried(maker, 3.0, [0.97], **{**COUNTED, "train_loss": 1.0, "val_loss": 1.0})
    assert "adds nothing to counting" not in told(maker)
    assert "at chance" not in told(maker)
