"""Lists with fewer candidates in the first epochs: how many, over which of them the loss is, and that validation has all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.training.batch_plan import examples_of_a_list
from reranker.training.ranking_losses import ranknet
from reranker.training.sft import fine_tune
from tests.trained import trains_the_same_after_a_break

GROWING = TrialConfig(
    model="demo-tiny", candidates=20, first_candidates=4, epochs=3, effective_batch=16, lora_rank=4, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def lengths(config: TrialConfig, data: RerankingData) -> list[int]:
    found = []
    for epoch in range(config.epochs):
        (length,) = {len(example.candidates) for example in data.training_examples(config, epoch)}
        found.append(length)
    return found


def test_equally_many_are_added_each_epoch_and_the_last_has_all(small):
    assert lengths(GROWING, small) == [4, 12, 20]
    assert lengths(GROWING.model_copy(update={"epochs": 5, "first_candidates": 3}), small) == [3, 7, 11, 15, 20]
    assert lengths(GROWING.model_copy(update={"epochs": 1}), small) == [20]


def test_the_last_epoch_and_validation_are_as_without(small):
    without = GROWING.model_copy(update={"first_candidates": None})
    assert small.training_examples(GROWING, 2) == small.training_examples(without, 2)
    assert small.shared_examples(GROWING, 2, 4) == small.shared_examples(without, 2, 4)
    assert small.validation(GROWING) == small.validation(without)


def test_no_more_share_a_list_than_it_has_candidates(small):
    assert examples_of_a_list(GROWING, workers=1) == 4
    assert examples_of_a_list(GROWING.model_copy(update={"epochs": 1}), workers=1) == 8
    for some in small.shared_examples(GROWING, 0, 4):
        assert len(some) <= 4
        assert {len(example.candidates) for example in some} == {4}


@pytest.mark.parametrize("scores", ["none", "counts"])
@pytest.mark.parametrize("objective", ["label_ce", "token_ce", "ranknet"])
@pytest.mark.parametrize("sharing", [1, 4])
def test_the_loss_is_over_the_candidates_of_the_epoch(small, sharing, objective, scores):
    config = GROWING.model_copy(
        update={"objective": objective, "list_sharing": sharing, "collaborative_scores": scores, "learning_rate": 1e-12}
    )
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts), config)
    model, losses = load_base(config, torch.device("cpu")).eval(), []
    labels = torch.tensor(encoder.label_ids)
    plain = [[example] for example in small.training_examples(config, 0)]
    correction = small.list_correction(config, sharing) if sharing > 1 else np.zeros(len(encoder.catalogue.texts))
    for some in plain if sharing == 1 else small.shared_examples(config, 0, sharing):
        for example, prompt in zip(some, encoder.encode(some), strict=True):
            answer = encoder.answer_ids[prompt.target]
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt.input_ids, *answer]])).logits[0, -len(answer) - 1 : -1]
            bias = torch.tensor(correction[list(example.candidates)], dtype=torch.float32)
            bias += torch.tensor(example.collaborative or 0.0)
            bias[list(example.excluded)] = -1e9
            logits[0, labels[:4]] += bias
            if objective == "label_ce":
                losses.append(F.cross_entropy(logits[0, labels[:4]], torch.tensor(prompt.target)).item())
            elif objective == "ranknet":
                losses.append(ranknet(logits[:1, labels[:4]], torch.eye(4)[[prompt.target]]).item())
            else:
                losses.append(F.cross_entropy(logits, torch.tensor(answer)).item())
    reports = []
    fine_tune(config, small, on_report=lambda report: reports.append(report) or False)
    assert reports[0].figures["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, 4])
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, sharing, tmp_path):
    config = GROWING.model_copy(update={"list_sharing": sharing, "teacher": "item_knn", "skill_mix": 0.2})
    assert trains_the_same_after_a_break(config, small, tmp_path)


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"first_candidates": 21}, "first_candidates must be at most `candidates`"),
        ({"first_candidates": 1}, "must be at least 2"),
        ({"first_candidates": 5, "list_sharing": 6}, "list_sharing must be at most `first_candidates`"),
    ],
)
def test_bounds(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", "candidates": 20, "epochs": 2, **knobs})
