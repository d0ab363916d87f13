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
