"""Studies that ask of each candidate by itself: what is refused before they start, what the plan says, and a small search."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from reranker.data.assemble import RerankingData
from reranker.errors import InputError
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.statistics.comparison import compare
from results.statistics.verdict_text import verdict
from results.study.stored_trial import TrialStatus
from tests.present import present
from tests.searched import search
from tests.yes_no import save_answering_base
from tune.study_file.memory_plan import describe_memory
from tune.study_file.preflight import check_agreement, check_models
from tune.study_file.study import Study

RATE = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
BOTH = {"scoring": {"choice": ["listwise", "pointwise"]}}
SEARCH = """
study:
  name: {{name}}
  trials: {{trials}}
  start_from:
    - {{{{scoring: listwise, objective: label_ce}}}}
    - {{{{scoring: pointwise, objective: label_ce}}}}
    - {{{{scoring: pointwise, objective: binary_ce}}}}
data: {{{{source: demo, users: 40}}}}
fixed: {{{{model: {base}, candidates: 6, epochs: 1, examples_per_user: 1, history_length: 4, skill_steps: 0}}}}
space:
  scoring+objective: {{{{choice: [[listwise, label_ce], [pointwise, label_ce], [pointwise, binary_ce]]}}}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_answering_base(tmp_path_factory.mktemp("base"))


def study(model: str, space: dict[str, Any], **fixed: Any) -> Study:
    data = {"source": "demo", "users": 40}
    return Study.load(
        {"study": {"name": "x", "trials": 2}, "data": data, "fixed": {"model": model, **fixed}, "space": space}
    )


@pytest.mark.parametrize("knobs", [(RATE, {"scoring": "pointwise"}), ({**RATE, **BOTH}, {})])
def test_a_model_without_yes_and_no_is_refused_before_the_search(knobs):
    asking = study("demo-tiny", knobs[0], **knobs[1])
    rule = (
        r"with scoring: pointwise the model must have a token of its own for yes \(got 'demo-tiny'\); scoring: listwise"
    )
    with pytest.raises(InputError, match=rule) as caught:
        check_models(asking, RerankingData.prepare(asking.data), fetch=False)
    assert len(caught.value.faults) == 1


def test_knobs_of_lists_are_searched_under_a_condition(base):
    orders = {"choice": [1, 4]}
    with pytest.raises(
        InputError, match=r"space: permutations must be 1 with scoring: pointwise.*keeps the knobs apart"
    ):
        check_agreement(study(base, {**BOTH, "permutations": orders}))
    check_agreement(study(base, {**BOTH, "permutations": {**orders, "when": {"scoring": "listwise"}}}))


def test_the_plan_has_the_memory_of_both_ways_to_ask(base):
    both = study(base, {**RATE, **BOTH}, candidates=20, effective_batch=8, list_sharing=1)
    checks = check_models(both, RerankingData.prepare(both.data), fetch=False)
    assert {check.config.scoring for check in checks} == {"listwise", "pointwise"}
    pointwise = next(check for check in checks if check.config.scoring == "pointwise")
    assert pointwise.longest <= pointwise.listed + pointwise.question < 120
    assert any("8 histories of " in line and "with 20 candidates of " in line for line in describe_memory(both, checks))


def test_a_way_to_ask_that_other_knobs_rule_out_is_not_looked_at(base):
    pairs = {"scoring+label_style": {"choice": [["listwise", "mixed"], ["pointwise", "letters"]]}}
    many = study(base, pairs, candidates=60, max_prompt_tokens=2048)
    with pytest.raises(InputError, match="every label must be made of tokens"):  # of numbers, which the demo's lacks
        check_models(many, RerankingData.prepare(many.data), fetch=False)
    alone = study(base, RATE, candidates=60, scoring="pointwise")
    checks = check_models(alone, RerankingData.prepare(alone.data), fetch=False)
    assert {check.config.scoring for check in checks} == {"pointwise"}


@pytest.mark.slow
def test_a_search_over_both_ways_to_ask_is_told_like_any(base, tmp_path: Path):
    folder = search(tmp_path, "forms", trials=3, text=SEARCH.format(base=base))
    trials = list(folder.trials())
    assert sorted((t.values["scoring"], t.values["objective"]) for t in trials) == [
        ("listwise", "label_ce"), ("pointwise", "binary_ce"), ("pointwise", "label_ce"),
    ]  # fmt: skip
    assert {trial.status for trial in trials} == {TrialStatus.COMPLETED}
    for trial in trials:
        assert ("titles_found" in trial.reports[0]) == (trial.values["scoring"] == "listwise")
        assert math.isfinite(trial.reports[0]["val_loss"])
    assert "binary_ce" in folder.leaderboard.read_text()
    assert verdict(folder)
    assert present(compare(folder)).winner in trials
    assert (folder.path / "report.html").stat().st_size > 10_000
    names = {finding.name for finding in diagnose(DiagnosisInputs.of_study(folder))}
    assert "cannot name labels yet" not in names
