"""A study is refused before it starts if it can draw knobs that do not go together, or not with its data."""

from __future__ import annotations

import pytest

from reranker.errors import InputError
from tune.study_file.preflight import check_agreement
from tune.study_file.study import Study


def study(**space) -> Study:
    data = {"source": "demo", "candidate_mode": "retrieval", "candidate_order": "retriever", "retriever": "markov"}
    return Study.load(
        {"study": {"name": "x", "trials": 2}, "data": data, "fixed": {"model": "demo-tiny"}, "space": space}
    )


def test_a_study_is_held_against_its_data_by_what_it_can_draw():
    rate = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    check_agreement(study(**rate))
    with pytest.raises(InputError, match="label_prior: must be keep") as caught:
        check_agreement(study(**rate, label_prior={"choice": ["keep", "divide"]}))
    assert len(caught.value.faults) == 1
    sure = {"choice": ["none", "ease"]}
    taught = {"objective": {"choice": ["label_ce", "token_ce"]}, "teacher": sure}
    with pytest.raises(
        InputError, match=r"space: teacher must be none with objective: token_ce.*keeps the knobs apart"
    ):
        check_agreement(study(**taught))
    check_agreement(study(**{**taught, "teacher": {**sure, "when": {"objective": "label_ce"}}}))
    never = {"choice": ["divide"], "when": {"schedule": "cosine"}}
    check_agreement(study(**rate, label_prior=never))


def test_knobs_that_clash_at_the_ends_of_their_ranges_alone_are_found():
    second_stage = {"epochs": {"int": [1, 500]}, "dpo_epochs": {"int": [0, 1]}}
    with pytest.raises(
        InputError, match=r"space: dpo_epochs must be less than `epochs`.*keeps the knobs apart"
    ) as caught:
        check_agreement(study(**second_stage))
    assert len(caught.value.faults) == 1
    check_agreement(study(**{**second_stage, "epochs": {"int": [2, 500]}}))


def test_of_a_grid_every_combination_is_looked_at():
    numbers = {"choice": list(range(1, 1001))}
    rare = {"lora_rank": numbers, "objective": {"choice": ["label_ce", "token_ce"]}, "dpo_epochs": {"choice": [0]}}
    grid = {"study": {"name": "x", "trials": 2, "sampler": "grid"}, "data": {"source": "demo"}, "space": rare}
    check_agreement(Study.load(grid))
    rare["teacher"] = {"choice": ["none", "item_knn"], "when": {"lora_rank": 777}}
    with pytest.raises(InputError, match="teacher must be none with objective: token_ce"):
        check_agreement(Study.load(grid))


def test_a_clash_of_all_last_choices_is_found_however_seldom_it_is_drawn(monkeypatch):
    monkeypatch.setattr("tune.study_file.preflight._DRAWS", 0)
    choices = {"objective": {"choice": ["label_ce", "token_ce"]}, "teacher": {"choice": ["none", "ease"]}}
    with pytest.raises(InputError, match="teacher must be none with objective: token_ce"):
        check_agreement(study(**choices))


def test_extremes_are_of_knobs_that_are_drawn_together_with_their_model():
    together = {"model + quantisation": {"choice": [["demo-tiny", "none"], ["smollm2-135m", "nf4"]]}}
    drawn = {"study": {"name": "x", "trials": 2}, "data": {"source": "demo"}, "space": together}
    extremes = Study.load(drawn).extremes()
    assert {(config.model, config.quantisation) for config in extremes} == {
        ("demo-tiny", "none"),
        ("smollm2-135m", "nf4"),
    }


def test_extremes_leave_out_ends_that_a_model_is_not_drawn_with():
    space = {"epochs": {"int": [1, 9]}, "model": {"choice": ["demo-tiny"], "when": {"epochs": 1}}}
    drawn = Study.load({"study": {"name": "x", "trials": 2}, "data": {"source": "demo"}, "space": space})
    extremes = [(config.model, config.epochs) for config in drawn.extremes()]
    assert extremes == [("qwen3-0.6b", 9), ("demo-tiny", 1)]
