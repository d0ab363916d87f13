"""A small adapter that has learned a little, the lists that it was validated on, in titles, and one trained with a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.training.sft import fine_tune


def small_adapter(data: RerankingData, folder: Path, **knobs: Any) -> TrialFolder:
    """Trained in seconds."""
    small = {"model": "demo-tiny", "epochs": 1, "examples_per_user": 1, "learning_rate": 1e-2, "lora_rank": 4}
    config = TrialConfig.model_validate(small | knobs)
    trial = TrialFolder(folder)
    trial.write_config(config)
    fine_tune(config, data, folder=trial)
    return trial


def validation_lists(data: RerankingData, trial: TrialFolder) -> list[tuple[list[str], list[str]]]:
    """The history and the candidates of each."""
    texts = data.interactions.item_texts
    examples = data.validation(trial.read_config())
    return [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in examples]


def trains_the_same_after_a_break(config: TrialConfig, data: RerankingData, folder: Path, after: int = 1) -> bool:
    """Whether a training that was stopped after so many reports, and went on, ends with the adapter of one without a break."""
    whole, broken = TrialFolder(folder / "whole"), TrialFolder(folder / "broken")
    fine_tune(config, data, folder=whole, resume=True)
    reports = []

    def stop(report: object) -> bool:
        reports.append(report)
        if len(reports) == after:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, data, folder=broken, on_report=stop, resume=True)
    fine_tune(config, data, folder=broken, resume=True)
    found, expected = (load_file(f.adapter / "adapter_model.safetensors") for f in (broken, whole))
    return all(torch.equal(found[name], expected[name]) for name in expected)
