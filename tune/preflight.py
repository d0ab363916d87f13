"""A study and its data → faults that any trial would meet, found before any resource is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from reranker.config import TrialConfig
from reranker.data import RerankingData
from reranker.errors import EnvironmentFault, InputError
from reranker.models import load_tokenizer
from reranker.prompts import PromptEncoder
from tune.search_space import Study


def check_models(study: Study, data: RerankingData) -> None:
    """For each model of the study: it can be had, it knows the catalogue's words, and its longest prompts fit.

    Fetches and converts what is not here yet, so that trials find it ready.

    Raises:
        InputError: every fault of every model.
        EnvironmentFault: a model cannot be loaded.
    """
    faults = []
    for config in study.extremes():
        try:
            _check(config, data)
        except InputError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise InputError(faults)


def check_writable(folder: Path) -> None:
    """Raise EnvironmentFault where nothing can be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise EnvironmentFault(f"no permission to write in {existing}; name another folder with --runs")


def _check(config: TrialConfig, data: RerankingData) -> None:
    encoder = PromptEncoder(load_tokenizer(config.model), data.interactions.item_texts, config)
    encoder.check_vocabulary()
    examples = data.validation(config)
    longest = sorted(examples, key=lambda e: -sum(len(data.interactions.item_texts[i]) for i in e.candidates))
    encoder.encode(longest[:64])
