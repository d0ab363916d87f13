"""Prompts → label logits in fp32, one row a list: what ranks the candidates, for validation and for answers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from reranker.data.example import MISSING, Example
from reranker.modeling.label_head import only_answers
from reranker.modeling.shared_list_attention import lay_out, sharing
from reranker.prompting.batching import by_length, pad_left
from reranker.prompting.prompts import Prompt, PromptEncoder

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


@dataclass(frozen=True)
class Probe:
    """A list that is asked for one of its own candidates by the title: whether the model can name labels at all.

    Attributes:
        row: of the list.
        right: the positions of candidates with this title.
    """

    row: int
    prompt: Prompt
    right: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """What a model makes of some lists.

    Attributes:
        scores: log-probabilities among the labels, fp32 [lists, candidates], in each list's own candidate order. Those of a
            list's permutations are averaged.
        mass: [lists], how probable its labels are together as the next token, among the whole vocabulary. Scores say nothing
            of it: they compare labels with each other, be they all as good as impossible.
        found: [probes], whether the label that stands first is one of the title's.
    """

    scores: FloatArray
    mass: FloatArray
    found: NDArray[np.bool_]


def score(model: PreTrainedModel | PeftModel, lists: EncodedLists) -> FloatArray:
    """`Scored.scores` alone."""
    return inspect(model, lists).scores


def inspect(model: PreTrainedModel | PeftModel, lists: EncodedLists, probes: Sequence[Probe] = ()) -> Scored:
    """Score lists, and ask the probes that stand behind some of them."""
    count = len(lists.prompts) // lists.turns
    prompts = [prompt.input_ids for prompt in lists.prompts] + [probe.prompt.input_ids for probe in probes]
    rows = [i % count for i in range(len(lists.prompts))] + [probe.row for probe in probes]
    shares, mass = _label_shares(model, prompts, rows, lists.label_ids, lists.pad_id)
    own, asked = shares[: len(lists.prompts)], shares[len(lists.prompts) :]
    found = np.zeros_like(own)
    np.put_along_axis(found, np.array(lists.orders, dtype=np.int64).reshape(own.shape), own, axis=1)
    scores: FloatArray = found.reshape(lists.turns, -1, len(lists.label_ids)).mean(axis=0).astype(np.float32)
    named = [int(row.argmax()) in probe.right for row, probe in zip(asked, probes, strict=True)]
    return Scored(scores, mass[:count].astype(np.float32), np.array(named, dtype=bool))


@torch.no_grad()
def _label_shares(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], rows: Sequence[int], labels: list[int], pad: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each prompt the labels' log-probabilities among themselves, [prompts, labels], and their probability, [prompts].

    Prompts of one row that begin alike are run behind what they have in common.
    """
    device = next(model.parameters()).device
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ids = torch.tensor(labels, device=device)
    shares, mass = np.zeros((len(prompts), len(labels))), np.zeros(len(prompts))

    def keep(members: Sequence[int], logits: Tensor) -> None:
        """Of these prompts, [members, labels and the sum of all words']."""
        named = logits[:, :-1].double()
        shares[members] = torch.log_softmax(named, dim=-1).cpu().numpy()
        mass[members] = (named.logsumexp(dim=-1) - logits[:, -1].double()).exp().clamp(max=1).cpu().numpy()

    groups = sorted(_alike(prompts, rows), key=lambda group: len(group.members))
    budget = _BATCH_TOKENS[device.type]
    with _for_inference(model):
        for size, some in groupby(groups, key=lambda group: len(group.members)):
            tie_set = list(some)
            columns = [g.common + size * max(len(prompts[i]) - g.common for i in g.members) for g in tie_set]
            for chosen in by_length(columns, budget):
                batch = [tie_set[i] for i in chosen]
                members = [i for group in batch for i in group.members]
                if size == 1:
                    tokens = pad_left([prompts[i] for i in members], pad)
                    with only_answers(model, ids, mass=True):
                        outputs = model(
                            **{name: part.to(device) for name, part in tokens.items()},
                            use_cache=False,
                            logits_to_keep=1,
                        )
                    keep(members, outputs.logits[:, -1])
                    continue
                starts = [prompts[group.members[0]][: group.common] for group in batch]
                questions = [[prompts[i][group.common :] for i in group.members] for group in batch]
                given, layout = lay_out(starts, questions, pad)
                layout = layout.to(device)
                ends = layout.ends(1)
                with sharing(base), only_answers(model, ids, ends, mass=True):
                    outputs = model(
                        input_ids=given.to(device), position_ids=layout.places, layout=layout, use_cache=False,
                        logits_to_keep=ends,
                    )  # fmt: skip
                keep(members, outputs.logits.flatten(0, 1))
    return shares, mass


@dataclass(frozen=True)
class _Group:
    """Prompts that begin alike, and how many tokens they have in common."""

    members: list[int]
    common: int


def _alike(prompts: Sequence[list[int]], rows: Sequence[int]) -> list[_Group]:
    """Groups of a row's prompts that have at least half of the first one's tokens in common."""
    by_row: dict[int, list[_Group]] = {}
    for number, (ids, row) in enumerate(zip(prompts, rows, strict=True)):
        groups = by_row.setdefault(row, [])
        for at, group in enumerate(groups):
            first = prompts[group.members[0]]
            common = min(group.common, _common(first, ids), len(ids) - 1)
            if 2 * common >= len(first):
                groups[at] = _Group([*group.members, number], common)
                break
        else:
            groups.append(_Group([number], len(ids) - 1))
    return [group for groups in by_row.values() for group in groups]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


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
