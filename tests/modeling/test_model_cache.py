"""Trainings that follow each other on one base: nothing of one may be left for the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import TrainingStopped
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base
from reranker.training.sft import fine_tune

CPU = torch.device("cpu")
TINY = TrialConfig(model="demo-tiny", epochs=1, examples_per_user=1, learning_rate=1e-2, lora_rank=4)
SMALL = TINY.model_copy(update={"model": "demo-small"})
TIMED = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def outcome(
    config: TrialConfig, data: RerankingData, folder: Path, bases: BaseModels | None
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Figures and adapter weights."""
    figures = fine_tune(config, data, folder=TrialFolder(folder), bases=bases).figures
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name: value for name, value in figures.items() if name not in TIMED}, weights


@pytest.mark.slow
def test_a_used_base_gives_exactly_what_a_fresh_one_gives(data, tmp_path):
    bases = BaseModels()
    before = [
        TINY.model_copy(update={"gradient_checkpointing": True, "lora_targets": "all_linear", "lora_dropout": 0.3}),
        TINY.model_copy(update={"objective": "token_ce", "lora_rank": 16, "seed": 5}),
    ]
    for number, config in enumerate(before):
        outcome(config, data, tmp_path / f"{number}", bases)
    used, fresh = (outcome(TINY, data, tmp_path / name, it) for name, it in (("used", bases), ("fresh", None)))
    assert used[0] == fresh[0]
    assert used[1].keys() == fresh[1].keys()
    assert all(torch.equal(used[1][name], fresh[1][name]) for name in fresh[1])


def test_a_base_is_given_back_without_an_adapter_and_with_its_weights(data):
    bases = BaseModels()
    fine_tune(TINY, data, bases=bases)
    with bases.adapted(TINY, CPU) as model:
        assert "forward" not in vars(model.get_base_model())  # or each training would wrap it once more
        kept = {name.replace(".base_layer", ""): value for name, value in model.get_base_model().state_dict().items()}
    new = load_base(TINY, CPU).state_dict()
    assert {name for name in kept if "lora_" not in name} == set(new)
    assert all(torch.equal(kept[name], new[name]) for name in new)


@pytest.mark.slow
def test_the_least_recently_used_base_goes_first(data):
    bases = BaseModels(most_bytes=1)
    for config in (TINY, SMALL):
        fine_tune(config, data, bases=bases)
        assert bases.loaded == [config.model]
    roomy = BaseModels(most_bytes=2**30)
    for config in (TINY, SMALL, TINY):
        fine_tune(config, data, bases=roomy)
    assert roomy.loaded == ["demo-small", "demo-tiny"]


def test_a_base_is_not_used_again_after_a_training_that_was_cut_short(data):
    bases = BaseModels()
    with pytest.raises(TrainingStopped):
        fine_tune(TINY, data, bases=bases, should_stop=lambda: True)
    assert bases.loaded == []


def test_other_items_get_a_catalogue_of_their_own(data):
    bases, texts = BaseModels(), ["Lunar Comet", "Dusty Saddle"]
    first = bases.catalogue(TINY, data)
    assert bases.catalogue(TINY, data) is first
    others = replace(data, interactions=replace(data.interactions, item_texts=texts, fingerprint="others"))
    assert bases.catalogue(TINY, others).texts == texts
