"""The schema that editors check study files by: it is the code's, takes what the search takes, and knows the commonest faults."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reranker.storage.yaml_lines import read
from tune.study_file.json_schema import study_schema

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
PRESETS = sorted(SPACES.glob("*.yaml"))
STUDY: dict[str, Any] = {
    "study": {"name": "mine", "trials": 3, "start_from": [{"learning_rate": 1e-4}]},
    "data": {"source": "tables", "interactions": "clicks.csv", "items": "products.csv"},
    "fixed": {"candidates": 50, "list_sharing": "auto", "negatives": {"uniform": 0.5, "retriever": 0.5}},
    "space": {
        "model": {"choice": ["qwen3-0.6b", "qwen3-1.7b"]},
        "epochs": {"int": [1, 9], "step": 2},
        "learning_rate": {"log_uniform": [1e-5, 1e-3]},
        "lora_alpha": {"ratio_of": "lora_rank", "choice": [1, 2]},
        "lora_rank+effective_batch": {"choice": [[8, 32], [16, 64]]},
        "gradient_checkpointing": {"choice": [True], "when": {"model": "qwen3-1.7b"}},
    },
}


def faults(study: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft202012Validator(study_schema()).iter_errors(study)]


@pytest.mark.parametrize("baselines", ["auto", "sasrec", ["auto", "bm25"], []])
def test_baselines_are_a_name_or_a_list_of_names(baselines):
    assert faults({**STUDY, "study": {**STUDY["study"], "baselines": baselines}}) == []
    assert faults({**STUDY, "study": {**STUDY["study"], "baselines": ["auto", "bm52"]}}) == ["$.study.baselines"]


def test_it_is_a_schema_and_the_file_in_search_spaces_is_up_to_date():
    Draft202012Validator.check_schema(study_schema())
    assert json.loads((SPACES / "study.schema.json").read_text(encoding="utf-8")) == study_schema()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_each_preset_names_it_and_keeps_to_it(preset):
    assert preset.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=study.schema.json\n")
    assert faults(read(preset).values) == []


def test_every_way_to_vary_a_knob_is_taken():
    assert faults(STUDY) == []


@pytest.mark.parametrize(
    ("section", "field", "value", "path"),
    [
        ("study", "trials", 0, "$.study.trials"),
        ("study", "sampler", "tpee", "$.study.sampler"),
        ("study", "start_from", [{"learning_rat": 1e-4}], "$.study.start_from[0]"),
        ("data", "source", "movielense", "$.data"),
        ("fixed", "epochs", "3", "$.fixed.epochs"),
        ("fixed", "learning_rat", 1e-3, "$.fixed"),
        ("space", "candidates", {"choice": [20, 50]}, "$.space"),
        ("space", "epochs", [1, 9], "$.space.epochs"),
        ("space", "epochs", {"int": [1.5, 9]}, "$.space.epochs"),
        ("space", "epochs+trials", {"choice": [[1, 2]]}, "$.space"),
        ("space", "learning_rate", {"log_uniform": [1e-5, 1e-3], "step": 2}, "$.space.learning_rate"),
    ],
)
def test_a_fault_is_told_where_it_stands(section, field, value, path):
    study = copy.deepcopy(STUDY)
    study[section][field] = value
    assert path in faults(study)
