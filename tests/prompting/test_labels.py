"""Label styles: the texts, their tokens in real tokenizers, and the scores and losses of labels of several tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from reranker.config import LETTERS, TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.errors import InputError
from reranker.evaluation.scoring import EncodedLists, inspect
from reranker.modeling.lora.lora import attach_lora
from reranker.prompting.forward_passes import Limits, plain_passes, shared_passes
from reranker.prompting.prompts import PromptEncoder
from reranker.training.loss import Objective
from tests.modeling.test_label_trie import step_by_step

TITLES = [f"Film number {i} ({1950 + i})" for i in range(130)]


@pytest.fixture(params=["smollm2_tokenizer", "qwen3_tokenizer", "gemma3_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    chosen: PreTrainedTokenizerBase = request.getfixturevalue(request.param)
    return chosen


def encoder(tokenizer: PreTrainedTokenizerBase, candidates: int, **knobs: Any) -> PromptEncoder:
    settings: dict[str, Any] = {"model": "demo-tiny", "candidates": candidates, "max_prompt_tokens": 10_000, **knobs}
    return PromptEncoder(Catalogue(tokenizer, TITLES), TrialConfig(**settings))


def small_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()


def examples(candidates: int, count: int = 2) -> list[Example]:
    listed = tuple(range(10, 10 + candidates))
    return [Example(user, (user, user + 3), listed, (7 * user + 1) % candidates) for user in range(count)]


@pytest.mark.parametrize(
    ("style", "first", "last"),
    [("letters", ["A", "B"], "x"), ("numbers", ["1", "2"], "50"), ("mixed", ["A", "B"], "x"), ("id_tokens", [], "")],
)
def test_each_style_has_a_label_for_each_candidate_in_the_list(tokenizer, style, first, last):
    made = encoder(tokenizer, 50, label_style=style)
    assert len(set(made.labels)) == 50
    text = tokenizer.decode(made.encode(examples(50))[0].input_ids)
    assert all(f": {label}\n" in text for label in made.labels)
    assert made.labels[:2] == (first or made.labels[:2])
    assert made.labels[-1] == (last or made.labels[-1])


def test_mixed_labels_go_on_with_numbers(tokenizer):
    assert encoder(tokenizer, 55, label_style="mixed").labels == [*LETTERS, "1", "2", "3"]


def test_id_tokens_are_one_token_each_beyond_the_letters(tokenizer):
    made = encoder(tokenizer, 110, label_style="id_tokens")
    assert made.trie.is_flat
    assert tokenizer.convert_tokens_to_ids(made.labels) == made.label_ids


def test_numbers_are_several_tokens_and_a_number_ends_where_another_goes_on(tokenizer):
    made = encoder(tokenizer, 12, label_style="numbers")
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>" if tokenizer.bos_token == "<bos>" else "<|im_end|>")
    assert made.trie.paths[0] == (digits[1], end)
    assert made.trie.paths[1] == (digits[2],)
    assert made.trie.paths[11] == (digits[1], digits[2])


@pytest.mark.parametrize("order", ["candidates_first", "history_first"])
@pytest.mark.parametrize(("style", "candidates"), [("numbers", 103), ("mixed", 65)])
@torch.no_grad()
def test_their_scores_are_those_of_their_tokens_one_after_the_other(tokenizer, order, style, candidates):
    made = encoder(tokenizer, candidates, label_style=style, prompt_order=order)
    model, lists = small_model(tokenizer), EncodedLists.of(made, examples(candidates))
    scored = inspect(model, lists)
    for row, prompt in enumerate(lists.prompts):
        scores, mass = step_by_step(model, prompt.input_ids, made.trie.paths)
        np.testing.assert_allclose(scored.scores[row], scores, atol=1e-5)
        assert scored.mass[row] == pytest.approx(mass, abs=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_of_the_whole_label_among_all_labels(smollm2_tokenizer, shared):
    made = encoder(smollm2_tokenizer, 23, label_style="numbers")
    model, asked = attach_lora(small_model(smollm2_tokenizer), made.config).eval(), examples(23, 4)
    bias = np.linspace(-1, 1, len(TITLES), dtype=np.float32) if shared else np.zeros(len(TITLES), np.float32)
    (batch,) = (
        shared_passes(made, [asked], [made.encode_shared(asked)], Limits(None, None), bias)
        if shared
        else plain_passes(made, asked, made.encode(asked), Limits(None, None))
    )
    objective = Objective(made, torch.device("cpu"))
    with objective.answering(model, batch):
        loss = objective.loss(objective.logits(model, batch), batch["targets"])
        loss.backward()
    expected = [
        F.cross_entropy(
            step_by_step(model, prompt.input_ids, made.trie.paths)[0] + torch.tensor(bias[list(example.candidates)]),
            torch.tensor(example.target),
        ).item()
        for example, prompt in zip(asked, made.encode(asked), strict=True)
    ]
    assert float(loss.detach()) == pytest.approx(np.mean(expected), abs=1e-5)
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"objective": "token_ce"}, "token_ce needs labels of one token"),
        ({"model": "demo-tiny"}, "the model's tokenizer knows"),
    ],
)
def test_labels_that_cannot_be_trained_are_refused(smollm2_tokenizer, demo_tokenizer, knobs, message):
    chosen = demo_tokenizer if "model" in knobs else smollm2_tokenizer
    with pytest.raises(InputError, match=message):
        encoder(chosen, 12, label_style="numbers", **knobs)


def test_layers_that_read_on_are_refused(smollm2_tokenizer, tmp_path):
    AutoConfig.for_model("qwen3_5_text").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="whose layers are recurrent, each label must be one token"):
        encoder(smollm2_tokenizer, 12, label_style="numbers", model=str(tmp_path))


def test_more_candidates_than_labels_are_refused(smollm2_tokenizer):
    with pytest.raises(InputError, match=r"id_tokens has \d+ with this model"):
        encoder(smollm2_tokenizer, 9_999, label_style="id_tokens")


def test_letters_are_for_52_candidates_at_most():
    with pytest.raises(ValueError, match="at most 52 with label_style: letters"):
        TrialConfig(candidates=53)
