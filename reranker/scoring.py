"""Prompts → label logits in fp32, one row a list: what ranks the candidates, for validation and for answers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from reranker.answers import only_answers
from reranker.batches import by_length, pad_left
from reranker.candidates import MISSING, Example
from reranker.prompts import Prompt, PromptEncoder

_BATCH_TOKENS = {"cpu": 4096, "mps": 16_384, "cuda": 16_384}  # on CPU what stays in the cache is fastest

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class EncodedLists:
    """Lists as prompts, each in as many orders as `permutations` says, the first one its own.

    Attributes:
        prompts: turn by turn those of all lists.
        orders: likewise which of a list's candidates stand where.
        turns: how many orders there are of each list.
        label_ids: token ids of the labels.
        pad_id: token id that fills a batch.
    """

    prompts: list[Prompt]
    orders: list[list[int]]
    turns: int
    label_ids: list[int]
    pad_id: int

    @staticmethod
    def of(encoder: PromptEncoder, examples: Sequence[Example]) -> EncodedLists:
        """Orders are rotated by equal steps."""
        turns = encoder.config.permutations
        orders = [_rotation(len(e.candidates), turn, turns) for turn in range(turns) for e in examples]
        turned = [_reordered(e, order) for e, order in zip([*examples] * turns, orders, strict=True)]
        return EncodedLists(encoder.encode(turned), orders, turns, encoder.label_ids, encoder.pad_id)


@torch.no_grad()
def score(model: PreTrainedModel | PeftModel, lists: EncodedLists) -> FloatArray:
    """Log-probabilities among the labels, fp32 [lists, candidates], in each list's own candidate order.

    Those of a list's permutations are averaged.
    """
    device = next(model.parameters()).device
    labels = len(lists.label_ids)
    found = np.zeros((len(lists.prompts), labels), dtype=np.float64)
    with _for_inference(model), only_answers(model, torch.tensor(lists.label_ids, device=device)):
        for rows in by_length([len(p.input_ids) for p in lists.prompts], _BATCH_TOKENS[device.type]):
            batch = pad_left([lists.prompts[i].input_ids for i in rows], lists.pad_id)
            outputs = model(**{k: v.to(device) for k, v in batch.items()}, use_cache=False, logits_to_keep=1)
            shares = torch.log_softmax(outputs.logits[:, -1], dim=-1).cpu().numpy()
            for i, row in zip(rows, shares, strict=True):
                found[i, lists.orders[i]] = row
    scores: FloatArray = found.reshape(lists.turns, -1, labels).mean(axis=0).astype(np.float32)
    return scores


@torch.no_grad()
def label_mass(model: PreTrainedModel | PeftModel, lists: EncodedLists, most: int = 64) -> float:
    """How probable the labels of a list are together as the next token, among the whole vocabulary; mean of the first lists.

    Scores say nothing of it: they compare labels with each other, be they all as good as impossible.

    Args:
        most: so many lists are looked at; each costs a row of the vocabulary's logits.
    """
    device = next(model.parameters()).device
    labels = torch.tensor(lists.label_ids, device=device)
    prompts = lists.prompts[:most]
    found = 0.0
    with _for_inference(model), only_answers(model):
        for rows in by_length([len(p.input_ids) for p in prompts], _BATCH_TOKENS[device.type]):
            batch = pad_left([prompts[i].input_ids for i in rows], lists.pad_id)
            outputs = model(**{k: v.to(device) for k, v in batch.items()}, use_cache=False, logits_to_keep=1)
            found += float(torch.softmax(outputs.logits[:, -1].float(), dim=-1)[:, labels].sum())
    return found / len(prompts) if prompts else 0.0


def flops_per_list(model: PreTrainedModel | PeftModel, lists: EncodedLists) -> float:
    """What ranking a mean list takes, by a formula that no machine's speed is in.

    2 · N · t + 2 · layers · heads · head size · t² + 2 · hidden size · labels for a prompt of t tokens, in each of the list's
    orders. N are the parameters outside the embeddings and the output layer, the adapter merged into them; attention is causal,
    so its two products see half of t²; of the output layer only the labels' rows are needed.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    shape = causal.config.get_text_config()
    outside = {id(p) for m in (causal.get_input_embeddings(), causal.get_output_embeddings()) for p in m.parameters()}
    blocks = sum(p.numel() for name, p in causal.named_parameters() if id(p) not in outside and "lora_" not in name)
    head_size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    attention = shape.num_hidden_layers * shape.num_attention_heads * head_size
    head = shape.hidden_size * len(lists.label_ids)
    tokens = np.array([len(prompt.input_ids) for prompt in lists.prompts], dtype=np.float64)
    return float(2 * lists.turns * (blocks * tokens + attention * tokens**2 + head).mean())


@contextmanager
def _for_inference(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Without dropout, and with an fp32 base's adapter merged into it; afterwards every weight is what it was, exactly.

    A bf16 base is left alone, since a merged adapter would be rounded to eight bits.
    """
    was_training = model.training
    model.eval()
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    kept = {
        layer: layer.get_base_layer().weight.data
        for layer in layers
        if layer.get_base_layer().weight.dtype == torch.float32
    }
    try:
        for layer, weight in kept.items():
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in kept.items():
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
        model.train(was_training)


def _rotation(count: int, turn: int, turns: int) -> list[int]:
    shift = turn * count // turns
    return [(i + shift) % count for i in range(count)]


def _reordered(example: Example, order: Sequence[int]) -> Example:
    candidates = tuple(example.candidates[i] for i in order)
    target = MISSING if example.target == MISSING else order.index(example.target)
    return Example(example.user, example.history, candidates, target)
