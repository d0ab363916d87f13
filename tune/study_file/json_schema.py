"""The fields of study files → a JSON Schema, with which editors complete and check them while they are written.

    python -m tune.study_file.json_schema > search_spaces/study.schema.json

A study file names it in its first line: `# yaml-language-server: $schema=study.schema.json`. What depends on several fields
at once it can't express: `--check` tells all of it.
"""

from __future__ import annotations

import json
from typing import Any

from reranker.config import METHODS, TrialConfig
from tune.study_file.settings import StudyFile
from tune.study_file.space import FIXED_ONLY

_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_WHOLE = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_LISTED = {"type": "array", "minItems": 1, "uniqueItems": True}


def study_schema() -> dict[str, Any]:
    """Draft 2020-12."""
    schema: dict[str, Any] = StudyFile.model_json_schema(ref_template="#/$defs/{model}")
    knobs = TrialConfig.model_json_schema(ref_template="#/$defs/{model}")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "A study file of reranker-tuner"
    schema["$defs"] |= knobs.pop("$defs", {})
    method = {"enum": list(METHODS), "description": "stands for a model, unless `model` names one"}
    schema["$defs"]["Knobs"] = {
        "type": "object", "description": "Knobs and their values.", "additionalProperties": False,
        "properties": {**knobs["properties"], "method": method},
    }  # fmt: skip
    schema["$defs"]["Entry"] = _entry(list(knobs["properties"]))
    schema["properties"]["fixed"] = {"$ref": "#/$defs/Knobs", "description": "The same in all trials."}
    searchable = "|".join(name for name in knobs["properties"] if name not in FIXED_ONLY)
    schema["properties"]["space"] = {
        "type": "object", "minProperties": 1, "additionalProperties": False,
        "description": "What is searched: a knob, or several joined by + that vary together, and how.",
        "properties": {name: {"$ref": "#/$defs/Entry"} for name in knobs["properties"] if name not in FIXED_ONLY},
        "patternProperties": {rf"^({searchable})(\s*\+\s*({searchable}))+$": {"$ref": "#/$defs/Entry"}},
    }  # fmt: skip
    schema["$defs"]["StudySettings"]["properties"]["start_from"]["items"] = {"$ref": "#/$defs/Knobs"}
    return schema


def _entry(knobs: list[str]) -> dict[str, Any]:
    """How a knob varies."""
    when = {
        "type": "object", "propertyNames": {"enum": knobs},
        "description": "Drawn only where each of these knobs has this value, or one of these.",
    }  # fmt: skip
    ratio_of = {"enum": knobs, "description": "The choices are factors of this knob's value."}
    kinds: dict[str, dict[str, Any]] = {
        "choice": {"choice": {**_LISTED, "description": "One of these."}, "ratio_of": ratio_of},
        "int": {
            "int": {**_WHOLE, "description": "A whole number from the first to the second, both included."},
            "step": {"type": "integer", "minimum": 1},
            "log": {"type": "boolean", "description": "Evenly in the logarithm."},
        },
        "uniform": {"uniform": {**_NUMBERS, "description": "A number between these."}},
        "log_uniform": {"log_uniform": {**_NUMBERS, "description": "A number between these, evenly in the logarithm."}},
    }
    return {
        "oneOf": [
            {
                "type": "object",
                "required": [kind],
                "additionalProperties": False,
                "properties": {**fields, "when": when},
            }
            for kind, fields in kinds.items()
        ]
    }


if __name__ == "__main__":
    print(json.dumps(study_schema(), indent=1, ensure_ascii=False))
