"""A small adapter that has learned a little, and the lists that it was validated on, in titles."""

from __future__ import annotations

from pathlib import Path

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.training.sft import fine_tune


def small_adapter(data: RerankingData, folder: Path) -> TrialFolder:
    """Trained in seconds."""
    config = TrialConfig(model="demo-tiny", epochs=1, examples_per_user=1, learning_rate=1e-2, lora_rank=4)
    trial = TrialFolder(folder)
    trial.write_config(config)
    fine_tune(config, data, folder=trial)
    return trial


def validation_lists(data: RerankingData, trial: TrialFolder) -> list[tuple[list[str], list[str]]]:
    """The history and the candidates of each."""
    texts = data.interactions.item_texts
    examples = data.validation(trial.read_config())
    return [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in examples]
