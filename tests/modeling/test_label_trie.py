"""Labels of several tokens: the probability of each is that of its tokens one after the other, each among the labels'."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from reranker.evaluation.scoring import EncodedLists, inspect
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.prompting.prompts import Prompt
from tests.families import FAMILIES

END = 99
LABELS = [[1], [2], [1, 0], [1, 2], [2, 1, 0], [7, 8]]
PROMPTS = [[30, 31, 32, 33, 34, 35, 36, 37, 38], [30, 31, 32, 33, 40, 41], [50, 51, 52]]


@torch.no_grad()
def step_by_step(model: PreTrainedModel, prompt: list[int], paths: tuple[tuple[int, ...], ...]) -> tuple[Tensor, float]:
    """Each label's log-probability by a forward pass for each step of its path, and the labels' whole probability."""
    scores, mass, after = [], 0.0, {}
    for path in paths:
        score = of_all = 0.0
        for length, token in enumerate(path):
            if path[:length] not in after:
                ids = torch.tensor([[*prompt, *path[:length]]])
                after[path[:length]] = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].double()
            logits = after[path[:length]]
            children = sorted({other[length] for other in paths if other[:length] == path[:length]})
            score += float(logits[token] - logits[children].logsumexp(0))
            of_all += float(logits[token] - logits.logsumexp(0))
        scores.append(score)
        mass += math.exp(of_all)
    return torch.tensor(scores), mass


def test_a_label_that_others_begin_with_ends_with_the_end_of_the_answer():
    trie = LabelTrie.of(LABELS, END)
    assert trie.paths == ((1, END), (2, END), (1, 0), (1, 2), (2, 1, 0), (7, 8))
    assert trie.nodes == ((1,), (2,), (7,), (2, 1))


def test_labels_of_one_token_are_a_trie_without_nodes():
    trie = LabelTrie.of([[5], [3], [9]], None)
    assert (trie.is_flat, trie.tokens, trie.positions) == (True, (5, 3, 9), 1)


def test_the_labels_probabilities_sum_to_one():
    trie = LabelTrie.of(LABELS, END)
    logits = torch.randn(5, trie.positions, len(trie.tokens), dtype=torch.float64)
    assert trie.scores(logits).exp().sum(dim=-1).tolist() == pytest.approx([1.0] * 5)


@pytest.mark.parametrize(("labels", "end"), [([[1, 2], [1, 2]], 9), ([[1], [1, 2]], None)])
def test_labels_that_cannot_be_told_apart_are_refused(labels, end):
    with pytest.raises(ValueError, match="label"):
        LabelTrie.of(labels, end)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_and_mass_are_those_of_the_tokens_one_after_the_other(family):
    torch.manual_seed(0)
    model, trie = FAMILIES[family]().eval(), LabelTrie.of(LABELS, END)
    prompts = [Prompt(ids, 0) for ids in PROMPTS]
    scored = inspect(model, EncodedLists(prompts, [list(range(len(LABELS)))] * len(prompts), 1, trie, 0))
    for row, prompt in enumerate(PROMPTS):
        scores, mass = step_by_step(model, prompt, trie.paths)
        assert scored.scores[row].tolist() == pytest.approx(scores.tolist(), abs=1e-5)
        assert scored.mass[row] == pytest.approx(mass, abs=1e-5)


@torch.no_grad()
def test_two_questions_behind_one_list_have_the_scores_that_they_have_alone():
    torch.manual_seed(0)
    model, trie = FAMILIES["gemma3"]().eval(), LabelTrie.of(LABELS, END)
    turned = [Prompt(PROMPTS[0], 0), Prompt([*PROMPTS[0][:6], 60, 61], 0)]
    together = inspect(model, EncodedLists(turned, [list(range(len(LABELS)))] * 2, 2, trie, 0))
    one, other = (step_by_step(model, prompt.input_ids, trie.paths)[0] for prompt in turned)
    assert together.scores[0].tolist() == pytest.approx(((one + other) / 2).tolist(), abs=1e-5)
