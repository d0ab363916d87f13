"""Questions behind one list give what each would give behind a list of its own, for every supported family."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from reranker.config import TrialConfig
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.shared_list_attention import lay_out, sharing
from tests.families import FAMILIES, LABELS, adapted, gradients, same

LISTS = [list(range(20, 50)), list(range(60, 72))]
QUESTIONS = [[[5, 6, 7, 8], [9, 4], [1, 2, 3]], [[201], [202, 203, 204, 205, 206], [9, 8]]]
TARGETS = torch.tensor([2, 0, 3, 1, 1, 0])


def separate(model, positions: int = 1) -> torch.Tensor:
    """Logits [questions, positions, …] of each question behind a list of its own."""
    prompts = [listed + own for listed, questions in zip(LISTS, QUESTIONS, strict=True) for own in questions]
    return alone(model, prompts, positions)


def alone(model, prompts: list[list[int]], positions: int) -> torch.Tensor:
    """The logits at the last positions of each prompt, computed by itself."""
    return torch.cat([model(torch.tensor([ids]), use_cache=False, logits_to_keep=positions).logits for ids in prompts])


def shared(model, positions: int = 1) -> torch.Tensor:
    ids, layout = lay_out(LISTS, QUESTIONS, 0)
    columns = layout.ends(positions)
    with sharing(model.get_base_model()):
        found = model(
            input_ids=ids, position_ids=layout.places, layout=layout, use_cache=False, logits_to_keep=columns
        ).logits
    return found.unflatten(1, (layout.branches, positions)).flatten(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_s_logits_are_those_behind_a_list_of_its_own(family):
    model = adapted(family, TrialConfig(lora_rank=4))
    torch.testing.assert_close(shared(model), separate(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradients_are_those_of_separate_prompts(family, checkpointing):
    model = adapted(family, TrialConfig(lora_rank=4, gradient_checkpointing=checkpointing))
    with only_answers(model, LABELS):
        expected = gradients(model, F.cross_entropy(separate(model)[:, -1], TARGETS))
    columns = lay_out(LISTS, QUESTIONS, 0)[1].ends(1)
    with only_answers(model, LABELS, columns), sharing(model.get_base_model()):
        found = gradients(model, F.cross_entropy(shared(model)[:, -1], TARGETS))
    same(found, expected)


def test_several_positions_of_each_answer_can_be_asked_for():
    model = adapted("qwen3", TrialConfig(lora_rank=4))
    longer = [[[7, *own] for own in questions] for questions in QUESTIONS]
    ids, layout = lay_out(LISTS, longer, 0)
    prompts = [listed + own for listed, questions in zip(LISTS, longer, strict=True) for own in questions]
    expected = alone(model, prompts, 2)
    columns = layout.ends(2)
    with only_answers(model, positions=columns), sharing(model.get_base_model()):
        found = model(
            input_ids=ids, position_ids=layout.places, layout=layout, use_cache=False, logits_to_keep=columns
        ).logits
    torch.testing.assert_close(found.unflatten(1, (layout.branches, 2)).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_no_question_sees_another_one():
    model = adapted("llama", TrialConfig(lora_rank=4)).eval()
    before = shared(model)
    QUESTIONS[0][1], kept = [250, 251], QUESTIONS[0][1]
    try:
        after = shared(model)
    finally:
        QUESTIONS[0][1] = kept
    moved = (before - after).abs().amax(dim=(1, 2)) > 0
    assert moved.tolist() == [False, True, False, False, False, False]


def test_the_model_s_own_attention_is_put_back():
    model = adapted("qwen3", TrialConfig(lora_rank=4)).eval()
    before = separate(model)
    shared(model)
    assert torch.equal(separate(model), before)
