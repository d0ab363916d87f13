"""Prompts → the logits of labels, or of yes and no, in fp32 → one row per list: the scores that rank candidates in validation
and in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from reranker.data.example import MISSING, Example
from reranker.errors import TrainingError
from reranker.modeling.architecture_check import architecture_of
from reranker.modeling.batching import by_length, last_columns, pad_right
from reranker.modeling.checkpoints.quantisation import count
from reranker.modeling.checkpoints.vision_models import reads_images, vision_tower
from reranker.modeling.images.image_inputs import ImageInputs, image_tokens
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.modeling.lora.fused_lora import trains_magnitude
from reranker.modeling.memory.out_of_memory import is_out_of_memory
from reranker.modeling.sharded_base import idle_pass, is_divided, passes_missing
from reranker.modeling.shared_list_attention import lay_out, sharing
from reranker.prompting.pointwise_prompts import NO, YES, Encoder, PointwiseEncoder
from reranker.prompting.prompts import Prompt

_BATCH_TOKENS = {"cpu": 4096, "mps": 16_384, "cuda": 16_384}  # on a CPU, what fits the cache is fastest

Progress = Callable[[float], None]  # told the share of some work that is done
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class EncodedLists:
    """Lists as prompts, each in `permutations` orders, the first being its own; or pointwise, a prompt a candidate.

    Attributes:
        prompts: of all lists, turn by turn; pointwise, list by list.
        orders: likewise, which candidate is at each position; pointwise empty.
        turns: orders per list.
        trie: the labels' tokens; pointwise those of yes and no.
        pad_id: token id used for padding.
        images: in the prompts, if there are any.
        beginnings: pointwise, how many tokens each list's prompts begin with alike.
        items: pointwise, prompts per list; else 0.
    """

    prompts: list[Prompt]
    orders: list[list[int]]
    turns: int
    trie: LabelTrie
    pad_id: int
    images: ImageInputs | None = None
    beginnings: Sequence[int] = ()
    items: int = 0

    @property
    def count(self) -> int:
        """How many lists there are."""
        return len(self.prompts) // (self.items or self.turns)

    @staticmethod
    def of(encoder: Encoder, examples: Sequence[Example]) -> EncodedLists:
        """Encode the examples; the orders are rotations by equal steps."""
        if isinstance(encoder, PointwiseEncoder):
            encoded = encoder.encode(examples)
            prompts = [
                Prompt(ids, YES if place == example.target else NO)
                for example, prompt in zip(examples, encoded, strict=True)
                for place, ids in enumerate(prompt.whole)
            ]
            beginnings, items = [len(prompt.beginning) for prompt in encoded], encoder.config.candidates
            return EncodedLists(prompts, [], 1, encoder.trie, encoder.pad_id, encoder.images, beginnings, items)
        turns = orders_of(encoder.config.candidates, encoder.config.permutations)
        orders = [_rotation(len(e.candidates), turn, turns) for turn in range(turns) for e in examples]
        turned = [_reordered(e, order) for e, order in zip([*examples] * turns, orders, strict=True)]
        return EncodedLists(encoder.encode(turned), orders, turns, encoder.trie, encoder.pad_id, encoder.images)


@dataclass(frozen=True)
class Probe:
    """A question for one of a list's own candidates by its title: can the model name labels at all?

    Attributes:
        row: of the list.
        right: the positions of the candidates with this title.
    """

    row: int
    prompt: Prompt
    right: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """A model's scores for some lists.

    Attributes:
        scores: log-probabilities among the labels, fp32 [lists, candidates], in each list's own candidate order,
            averaged over the permutations; pointwise, each candidate's log-odds of yes.
        mass: [lists], probability that the answer is any of the labels, over the whole vocabulary; pointwise that it is
            yes or no, mean over the candidates. Scores don't show it: they only compare labels with each other.
        label_sums: [labels], each label's log-probability, summed over the lists and their orders.
        found: [probes], whether the highest-scored label is one of the title's.
    """

    scores: FloatArray
    mass: FloatArray
    label_sums: NDArray[np.float64]
    found: NDArray[np.bool_]


def score(model: PreTrainedModel | PeftModel, lists: EncodedLists) -> FloatArray:
    """`Scored.scores` alone."""
    return inspect(model, lists).scores


def inspect(
    model: PreTrainedModel | PeftModel,
    lists: EncodedLists,
    probes: Sequence[Probe] = (),
    on_progress: Progress = lambda share: None,
) -> Scored:
    """Score the lists, and ask the probes of some of them.

    Args:
        on_progress: told the share that is done, after each pass.
    """
    prompts = [prompt.input_ids for prompt in lists.prompts] + [probe.prompt.input_ids for probe in probes]
    rows = [i // lists.items if lists.items else i % lists.count for i in range(len(lists.prompts))]
    rows += [probe.row for probe in probes]
    shares, mass = _label_shares(model, prompts, rows, lists, on_progress)
    list_shares, probe_shares = shares[: len(lists.prompts)], shares[len(lists.prompts) :]
    scores = in_own_order(list_shares, lists)
    is_found = [int(row.argmax()) in probe.right for row, probe in zip(probe_shares, probes, strict=True)]
    label_sums = list_shares.sum(axis=0)
    mass_of_lists = mass.reshape(-1, lists.items).mean(axis=1) if lists.items else mass[: lists.count]
    return Scored(scores, mass_of_lists.astype(np.float32), label_sums, np.array(is_found, dtype=bool))


def in_own_order(shares: NDArray[np.float64], lists: EncodedLists) -> FloatArray:
    """The prompts' log-probabilities among the labels, [prompts, labels] → fp32 [lists, candidates], each list's own
    candidates in their own order, averaged over its orders; pointwise the log-odds of yes."""
    if lists.items:
        odds: FloatArray = (shares[:, YES] - shares[:, NO]).reshape(-1, lists.items).astype(np.float32)
        return odds
    unrotated = np.zeros_like(shares)
    np.put_along_axis(unrotated, np.array(lists.orders, dtype=np.int64).reshape(shares.shape), shares, axis=1)
    scores: FloatArray = unrotated.reshape(lists.turns, -1, len(lists.trie.paths)).mean(axis=0).astype(np.float32)
    return scores


def at_places(label_prior: Sequence[float], turns: int) -> FloatArray:
    """What a model's preference for labels adds to each candidate's score by its place in the list, [candidates].

    Source of the prior: PriDe in Zheng et al., Large Language Models Are Not Robust Multiple Choice Selectors, ICLR 2024.

    Args:
        label_prior: mean log-probability of each label, over lists whose order tells nothing about their targets.
        turns: orders that scores are averaged over, as many as the list has at most.
    """
    prior, places = np.array(label_prior, dtype=np.float64), np.zeros(len(label_prior))
    turns = orders_of(len(prior), turns)
    for turn in range(turns):
        places[_rotation(len(prior), turn, turns)] += prior / turns
    return places.astype(np.float32)


@torch.no_grad()
def _label_shares(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    rows: Sequence[int],
    lists: EncodedLists,
    on_progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each prompt's log-probabilities among the labels, [prompts, labels], and their total probability, [prompts].

    Prompts of one row with a common beginning share its computation.
    """
    trie, device = lists.trie, next(model.parameters()).device
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ids = torch.tensor(trie.tokens, device=device)
    shares, mass = np.zeros((len(prompts), len(trie.paths))), np.zeros(len(prompts))
    too_much, done = math.inf, 0  # tokens of a pass; prompts

    def keep(members: Sequence[int], logits: Tensor) -> None:
        """Keep the results of these prompts; `logits` is [members, the trie's positions, its tokens + vocabulary]."""
        own = logits[..., : len(trie.tokens)].double()
        whole = logits[..., len(trie.tokens) :].logsumexp(dim=-1, keepdim=True).double()
        shares[members] = trie.scores(own).cpu().numpy()
        nonlocal done
        done += len(members)
        mass[members] = trie.path_sums(own - whole).logsumexp(dim=-1).exp().clamp(max=1).cpu().numpy()
        on_progress(done / len(prompts))

    def answer(batch: list[_Group]) -> None:
        """Ask the model all of a batch's prompts, in parts where the memory does not hold them together."""
        nonlocal too_much
        members = [i for group in batch for i in group.members]
        tokens = sum(len(prompts[i]) for i in members)
        if tokens < too_much or len(members) == 1:
            try:
                return keep(members, _asked(model, prompts, batch, ids, lists))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(members) == 1 or is_divided(model):  # where a second try would be one pass more than others make
                    rule = f"scoring a list of {tokens} tokens does not fit the memory"
                    raise TrainingError(rule) from error
            too_much = tokens
            torch.cuda.empty_cache()  # nothing, without a GPU
        for part in _halves(batch):
            answer(part)

    most = _BATCH_TOKENS[device.type]
    if not architecture_of(base.config).shares_lists:
        groups = [_Group([i], len(ids) - 1) for i, ids in enumerate(prompts)]
    elif lists.items:
        groups = _of_items(prompts, lists, most)
    else:
        groups = _alike(prompts, rows)
    groups.sort(key=lambda group: len(group.members))
    batches = []
    for size, same_size in groupby(groups, key=lambda group: len(group.members)):
        size_groups = list(same_size)
        nodes = len(trie.nodes)
        columns = [g.common + size * max(len(prompts[i]) - g.common + nodes for i in g.members) for g in size_groups]
        for chosen in by_length(columns, most):
            batches.append([size_groups[i] for i in chosen])
    with _for_inference(model):
        for _ in range(passes_missing(model, len(batches))):
            idle_pass(model)
        for batch in batches:
            answer(batch)
    return shares, mass


def _asked(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    batch: list[_Group],
    labels: Tensor,
    lists: EncodedLists,
) -> Tensor:
    """The logits of the trie's tokens, `labels`, and of all tokens at its positions after each prompt of these groups,
    which are of equal size."""
    trie, device = lists.trie, labels.device
    base = model.get_base_model() if isinstance(model, PeftModel) else model

    def with_images(tokens: dict[str, Any]) -> dict[str, Any]:
        """The tokens and their places on the device, and what stands for images."""
        if lists.images is not None:
            tokens = lists.images.in_pass(tokens)
        places = {"position_ids": tokens.pop("places")} if "places" in tokens else {}
        pictures = {} if lists.images is None else lists.images.arguments(base, tokens)
        parts = {name: part.to(device) for name, part in (tokens | places).items() if isinstance(part, Tensor)}
        return {**parts, **pictures}

    if len(batch[0].members) == 1 and trie.is_flat:
        tokens = with_images({**pad_right([prompts[group.members[0]] for group in batch], lists.pad_id)})
        with only_answers(model, labels, last_columns(tokens.pop("ends"), 1), whole=True):
            logits: Tensor = model(**tokens, use_cache=False, logits_to_keep=0).logits
        return logits
    starts = [prompts[group.members[0]][: group.common] for group in batch]
    questions = [[prompts[i][group.common :] for i in group.members] for group in batch]
    input_ids, layout = lay_out(starts, questions, lists.pad_id, trie)
    tokens = with_images({"input_ids": input_ids, "layout": layout.parts(), "position_ids": layout.places})
    layout = layout.to(device)
    ends = layout.ends(trie.positions)
    with sharing(base), only_answers(model, labels, ends, whole=True):
        logits = model(**tokens, layout=layout, logits_to_keep=ends, use_cache=False).logits
    return logits.reshape(-1, trie.positions, logits.shape[-1])


def _halves(batch: list[_Group]) -> list[list[_Group]]:
    """Two halves of the groups; of one group's members, where there is but one."""
    if len(batch) > 1:
        middle = len(batch) // 2
        return [batch[:middle], batch[middle:]]
    (group,) = batch
    middle = len(group.members) // 2
    return [[_Group(part, group.common)] for part in (group.members[:middle], group.members[middle:])]


@dataclass(frozen=True)
class _Group:
    """Prompts with a common beginning, and its length in tokens."""

    members: list[int]
    common: int


def _alike(prompts: Sequence[list[int]], rows: Sequence[int]) -> list[_Group]:
    """Groups of a row's prompts that share at least half of the tokens of the group's first prompt."""
    by_row: dict[int, list[_Group]] = {}
    for number, (ids, row) in enumerate(zip(prompts, rows, strict=True)):
        groups = by_row.setdefault(row, [])
        for position, group in enumerate(groups):
            first = prompts[group.members[0]]
            common = min(group.common, _common(first, ids), len(ids) - 1)
            if 2 * common >= len(first):
                groups[position] = _Group([*group.members, number], common)
                break
        else:
            groups.append(_Group([number], len(ids) - 1))
    return [group for groups in by_row.values() for group in groups]


def _of_items(prompts: Sequence[list[int]], lists: EncodedLists, most_tokens: int) -> list[_Group]:
    """The prompts of each list's candidates, in as many groups as a pass of so many tokens calls for."""
    groups = []
    for row, common in enumerate(lists.beginnings):
        members = range(row * lists.items, (row + 1) * lists.items)
        longest = max(len(prompts[i]) for i in members) - common
        size = max(1, (most_tokens - common) // longest)
        groups += [_Group(list(members[start : start + size]), common) for start in range(0, lists.items, size)]
    return groups


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning, in tokens."""
    return next(
        (position for position, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def flops_per_list(model: PreTrainedModel | PeftModel, lists: EncodedLists) -> float:
    """FLOPs to rank a mean list, by a formula that does not depend on the machine.

    2 · N · t + 2 · layers · heads · head size · t² + 2 · hidden size · labels for a prompt of t tokens, in each of the
    list's orders. N is the number of parameters outside the embeddings and the output layer, with the adapter merged;
    attention is causal, so its two products use half of t²; only the labels' rows of the output layer are needed.
    Labels of several tokens add the nodes of their trie to t. Pointwise, a history is read once for all candidates, unless
    the architecture can't: then each of them is a prompt of its own.

    Images add what the vision tower takes of each image of the list's own order: 2 · B · p + 2 · M · p / 4 + 4 · layers
    · hidden size · p² for an image of p patches, with B parameters of the tower's blocks and M of what comes behind them.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    shape = causal.config.get_text_config()
    outside = {id(p) for m in (causal.get_input_embeddings(), causal.get_output_embeddings()) for p in m.parameters()}
    tower = vision_tower(causal) if reads_images(causal.config) else None
    outside |= set() if tower is None else {id(p) for p in tower.parameters()}
    blocks = sum(count(p) for name, p in causal.named_parameters() if id(p) not in outside and "lora_" not in name)
    head_size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    attention = shape.num_hidden_layers * shape.num_attention_heads * head_size
    head = shape.hidden_size * len(lists.trie.tokens) * lists.trie.positions
    tokens = np.array([len(prompt.input_ids) + len(lists.trie.nodes) for prompt in lists.prompts], dtype=np.float64)
    of_prompts = blocks * tokens + attention * tokens**2 + head
    if lists.items and architecture_of(causal.config).shares_lists:
        common = np.array(lists.beginnings, dtype=np.float64)
        again = blocks * common + attention * common**2  # what all prompts of a list but the first need not compute
        of_prompts -= np.repeat((1 - 1 / lists.items) * again, lists.items)
    text = 2 * of_prompts.sum() / lists.count
    seen = [image_tokens(ids) for ids in _seen_once(lists)]
    images = [_tower_flops(tower, number) for of_list in seen for _, number in of_list]
    return float(text + sum(images) / max(1, len(seen)))


def _seen_once(lists: EncodedLists) -> Iterator[list[int]]:
    """The tokens of each list in its own order; pointwise of its beginning once, then of each candidate."""
    if not lists.items:
        yield from (prompt.input_ids for prompt in lists.prompts[: lists.count])
    for row, common in enumerate(lists.beginnings):
        first, *others = [prompt.input_ids for prompt in lists.prompts[row * lists.items : (row + 1) * lists.items]]
        yield [*first, *chain.from_iterable(ids[common:] for ids in others)]


def _tower_flops(tower: Any, tokens: int) -> float:
    """FLOPs of the vision tower for an image of so many tokens."""
    merged = tower.spatial_merge_size**2
    patches = tokens * merged
    weights = [(name, count(p)) for name, p in tower.named_parameters() if p.ndim > 1 and "lora_" not in name]
    blocks = sum(number for name, number in weights if name.startswith(("blocks.", "patch_embed.")))
    behind = sum(number for name, number in weights if "merger" in name)
    attention = 4 * tower.config.depth * tower.config.hidden_size * patches**2
    return float(2 * blocks * patches + 2 * behind * tokens + attention)


@contextmanager
def _for_inference(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Disable dropout and merge the adapter into an fp32 base; on exit restore every weight exactly.

    The adapter is not merged into a bf16 base, which would round it to eight bits, nor into a divided one.
    """
    was_training, is_whole = model.training, not is_divided(model)
    model.eval()
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    base_weights = {
        layer: layer.get_base_layer().weight.data
        for layer in layers
        if layer.get_base_layer().weight.dtype == torch.float32 and not trains_magnitude(layer) and is_whole
    }
    try:
        for layer, weight in base_weights.items():
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in base_weights.items():
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
        model.train(was_training)


def orders_of(candidates: int, permutations: int) -> int:
    """How many orders a list is scored in: it has no more than candidates, and some twice would not cancel what the model
    prefers of places."""
    return max(1, min(candidates, permutations))


def _rotation(count: int, turn: int, turns: int) -> list[int]:
    shift = turn * count // turns
    return [(i + shift) % count for i in range(count)]


def _reordered(example: Example, order: Sequence[int]) -> Example:
    candidates = tuple(example.candidates[i] for i in order)
    target = MISSING if example.target == MISSING else order.index(example.target)
    return Example(example.user, example.history, candidates, target)
