"""Prompts → label logits in fp32, one row a list: what ranks the candidates, for validation and for answers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from reranker.candidates import Example
from reranker.prompts import Prompt, PromptEncoder

_BATCH_TOKENS = {"cpu": 4096, "mps": 16_384, "cuda": 16_384}  # on CPU what stays in the cache is fastest

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and positions, each [rows, longest row]; every row ends at the last column."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0)


def label_logits(
    model: PreTrainedModel | PeftModel, ids: Tensor, mask: Tensor, positions: Tensor, labels: Tensor
) -> Tensor:
    """fp32 logits [rows, labels] of the label tokens after each row's last token.

    The final hidden state is multiplied in fp32 by the label rows of the output embedding alone: in bf16 the target's
    logit would tie with another candidate's in most lists.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    decoder, head = causal.get_decoder(), causal.get_output_embeddings()
    assert isinstance(decoder, nn.Module)
    assert isinstance(head, nn.Linear)
    hidden = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    logits: Tensor = hidden[:, -1].float() @ head.weight[labels].float().T
    if head.bias is not None:
        logits = logits + head.bias[labels].float()
    cap = getattr(causal.config, "final_logit_softcapping", None)  # an attribute of Gemma's configs only
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def score(
    model: PreTrainedModel | PeftModel,
    encoder: PromptEncoder,
    examples: Sequence[Example],
) -> FloatArray:
    """Log-probabilities among the labels, fp32 [examples, candidates], in each example's own candidate order.

    With `permutations` > 1 the list is asked in that many orders, rotated by equal steps, and the log-probabilities
    are averaged; the first order is the example's own.
    """
    device = next(model.parameters()).device
    labels = torch.tensor(encoder.label_ids, device=device)
    total = np.zeros((len(examples), len(encoder.label_ids)), dtype=np.float64)
    with _for_inference(model):
        for turn in range(encoder.config.permutations):
            orders = [_rotation(len(e.candidates), turn, encoder.config.permutations) for e in examples]
            prompts = encoder.encode([_reordered(e, order) for e, order in zip(examples, orders, strict=True)])
            for rows in _batches(prompts, _BATCH_TOKENS[device.type]):
                ids, mask, positions = pad_left([prompts[i].input_ids for i in rows], encoder.pad_id)
                logits = label_logits(model, ids.to(device), mask.to(device), positions.to(device), labels)
                shares = torch.log_softmax(logits, dim=-1).cpu().numpy()
                for i, row in zip(rows, shares, strict=True):
                    total[i, orders[i]] += row
    return (total / encoder.config.permutations).astype(np.float32)


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
    return Example(example.user, example.history, candidates, order.index(example.target))


def _batches(prompts: Sequence[Prompt], batch_tokens: int) -> Iterator[list[int]]:
    """Positions of prompts of similar length, at most `batch_tokens` padded tokens together (one prompt at least)."""
    batch: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i].input_ids)):
        if batch and (len(batch) + 1) * len(prompts[batch[0]].input_ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
