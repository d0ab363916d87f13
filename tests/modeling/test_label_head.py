"""Computing the answer alone gives the loss and the gradients of computing everything, for every supported family."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from reranker.config import TrialConfig
from reranker.evaluation.scoring import EncodedLists, flops_per_list
from reranker.modeling.batching import by_length, last_columns, pad_right
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.prompting.prompts import Prompt
from tests.families import FAMILIES, LABELS, adapted, gradients, same

TARGETS = torch.tensor([2, 0, 3])
ROWS = [list(range(20, 20 + length)) for length in (30, 12, 25)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_labels_loss_and_its_gradients(family, checkpointing):
    model = adapted(family, TrialConfig(lora_rank=4, gradient_checkpointing=checkpointing))
    losses = [model(torch.tensor([row])).logits[0, -1, LABELS] for row in ROWS]
    expected = F.cross_entropy(torch.stack(losses), TARGETS)
    plain = gradients(model, expected)
    batch = pad_right(ROWS, pad=0)
    with only_answers(model, LABELS, last_columns(batch["ends"], 1)):
        logits = model(batch["input_ids"], use_cache=False, logits_to_keep=0).logits
        assert logits.shape == (3, 1, 4)
        loss = F.cross_entropy(logits[:, -1], TARGETS)
        ours = gradients(model, loss)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    same(ours, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_s_loss_over_the_whole_vocabulary_and_its_gradients(family):
    model = adapted(family, TrialConfig(lora_rank=4))
    plain_logits = torch.cat([model(torch.tensor([row])).logits[0, -3:-1] for row in ROWS])
    answers = torch.tensor([row[-2:] for row in ROWS]).flatten()
    expected = F.cross_entropy(plain_logits, answers)
    plain = gradients(model, expected)
    batch = pad_right(ROWS, pad=0)
    with only_answers(model, positions=last_columns(batch["ends"], 3)):
        logits = model(batch["input_ids"], use_cache=False, logits_to_keep=0).logits
        assert logits.shape == (3, 3, 300)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), answers)
        ours = gradients(model, loss)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    same(ours, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_whole_again_afterwards(family):
    model = adapted(family, TrialConfig(lora_rank=4)).eval()
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        before = model(ids).logits
        with only_answers(model, LABELS):
            model(ids, logits_to_keep=1)
        assert torch.equal(model(ids).logits, before)


def test_label_logits_are_fp32_whatever_the_base_is():
    model = adapted("qwen3", TrialConfig(lora_rank=4)).to(torch.bfloat16)
    with only_answers(model, LABELS), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.tensor(ROWS[:1]), logits_to_keep=1).logits.dtype == torch.float32


def test_batches_hold_rows_of_similar_length_within_both_limits():
    lengths = [5, 100, 7, 90, 6, 300]
    assert list(by_length(lengths, most_tokens=200)) == [[5], [1, 3], [2, 4, 0]]
    assert list(by_length(lengths, most_tokens=200, most_rows=2)) == [[5], [1, 3], [2, 4], [0]]
    assert list(by_length(lengths, most_tokens=None, most_rows=4)) == [[5, 1, 3, 2], [4, 0]]
    assert list(by_length([], most_tokens=1)) == []


def test_padding_stands_on_the_right_where_no_row_looks():
    batch = pad_right([[4, 5, 6], [9, 8]], pad=0)
    assert batch["input_ids"].tolist() == [[4, 5, 6], [9, 8, 0]]
    assert batch["ends"].tolist() == [2, 1]
    assert last_columns(batch["ends"], 2).tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_for_the_cost_of_a_list_is_what_torch_counts(family):
    """But for attention, of which torch counts the half that is masked too, and the rows of the vocabulary."""
    model, length = FAMILIES[family](), 40
    prompt = Prompt(input_ids=list(range(length)), target=0, history_dropped=0, title_tokens=0)
    trie = LabelTrie.of([[label] for label in LABELS.tolist()], end=None)
    lists = EncodedLists([prompt], [[0, 1, 2, 3]], 1, trie, 0)
    model.set_attn_implementation("eager")  # of which torch counts the products
    with FlopCounterMode(display=False) as counter:
        model(torch.tensor([prompt.input_ids]), use_cache=False, logits_to_keep=1)
    masked = 2 * 3 * 32 * length**2
    vocabulary = 2 * 32 * (300 - len(LABELS))
    assert flops_per_list(model, lists) == pytest.approx(counter.get_total_flops() - masked - vocabulary, rel=0.04)
    twice = EncodedLists([prompt] * 2, [[0, 1, 2, 3], [2, 3, 0, 1]], 2, trie, 0)
    assert flops_per_list(adapted(family, TrialConfig(model="x")), twice) == 2 * flops_per_list(model, lists)
