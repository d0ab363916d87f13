"""What a user touched next as further right items: where they stand, what the guard refuses, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.training.batch_plan import examples_of_a_list
from reranker.training.ranking_losses import RANKING_LOSSES, listnet
from reranker.training.sft import fine_tune

THREE = TrialConfig(
    model="demo-tiny", positives=3, examples_per_user=None, epochs=1, effective_batch=16, lora_rank=4, list_sharing=4
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def examples_of(data: RerankingData, together: int) -> list[Example]:
    if together == 1:
        return data.training_examples(THREE, 0)
    return [example for some in data.shared_examples(THREE, 0, together) for example in some]


@pytest.mark.parametrize("together", [1, 4])
def test_a_list_holds_what_the_user_touched_next_in_training(small, together):
    found: dict[int, int] = {}
    for example in examples_of(small, together):
        train = small.split.train[example.user].tolist()
        at = train.index(example.candidates[example.target])
        items = [example.candidates[place] for place in example.further]
        assert items == train[at + 1 : at + 3]
        assert len(set(example.candidates)) == THREE.candidates
        right = {example.target, *example.further}
        own = {i for i, item in enumerate(example.candidates) if item in small.interactions.touched.of(example.user)}
        assert set(example.excluded) == own - right
        found[len(items)] = found.get(len(items), 0) + 1
    assert set(found) == {0, 1, 2}


def test_the_places_of_right_items_are_drawn_like_any(small):
    places = [place for example in small.training_examples(THREE, 0) for place in example.further]
    counts = np.bincount(places, minlength=THREE.candidates)
    expected = len(places) / THREE.candidates
    assert ((counts - expected) ** 2 / expected).sum() < 45.3  # chi-squared, 19 degrees of freedom, p = .0006


def test_the_guard_refuses_a_right_item_that_is_held_out(small):
    example = next(e for e in small.training_examples(THREE, 0) if e.further)
    held_out = int(small.split.validation.items[small.split.validation.users == example.user][0])
    candidates = list(example.candidates)
    candidates[example.further[0]] = held_out
    with pytest.raises(InputError, match="what else is right must be of the user's training part"):
        check_no_leak([replace(example, candidates=tuple(candidates))], small.interactions, small.split, "train")


def test_lists_of_one_right_item_are_as_they_were(small):
    one = THREE.model_copy(update={"positives": 1})
    assert all(not example.further for example in small.training_examples(one, 0))
    assert small.validation(one) == small.validation(THREE)


def test_fewer_share_a_list(small):
    assert examples_of_a_list(THREE.model_copy(update={"list_sharing": "auto"}), workers=1) == 4
    assert examples_of_a_list(THREE.model_copy(update={"list_sharing": "auto", "positives": 1}), workers=1) == 8


@pytest.mark.parametrize("objective", ["label_ce", *RANKING_LOSSES])
@pytest.mark.parametrize("sharing", [1, 4])
def test_the_training_loss_is_that_of_the_formula(small, sharing, objective):
    config = THREE.model_copy(
        update={"objective": objective, "list_sharing": sharing, "learning_rate": 1e-12, "examples_per_user": 3}
    )
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts), config)
    model, losses = load_base(config, torch.device("cpu")).eval(), []
    loss = RANKING_LOSSES.get(objective, listnet)
    correction = small.list_correction(config, sharing) if sharing > 1 else np.zeros(len(encoder.catalogue.texts))
    plain = [[example] for example in small.training_examples(config, 0)]
    for some in plain if sharing == 1 else small.shared_examples(config, 0, sharing):
        for example, prompt in zip(some, encoder.encode(some), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt.input_ids])).logits[:, -1, encoder.label_ids]
            logits += torch.tensor(correction[list(example.candidates)], dtype=torch.float32)
            logits[0, list(example.excluded)] = -1e9
            relevance = torch.zeros(1, config.candidates)
            for nth, place in enumerate((example.target, *example.further)):
                relevance[0, place] = 0.5**nth
            losses.append(loss(logits, relevance).item())
    reports = []
    fine_tune(config, small, on_report=lambda report: reports.append(report.figures) or True)
    assert reports[0]["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"positives": 20}, "positives must be less than `candidates`"),
        ({"positives": 3, "first_candidates": 3}, "positives must be less than `candidates`"),
        ({"positives": 3, "list_sharing": 7}, "list_sharing times positives must be at most `candidates`"),
        ({"positives": 2, "objective": "token_ce"}, "positives must be 1 with objective: token_ce"),
        ({"positives": 2, "dpo_epochs": 1}, "positives must be 1 with objective: token_ce or dpo_epochs"),
    ],
)
def test_bounds(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", "candidates": 20, "epochs": 2, **knobs})
