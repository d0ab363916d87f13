"""The examples of a step → forward passes: prompts of similar length, lists with the questions after them, or histories with
the candidates after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from numpy.typing import NDArray

from reranker.data.example import NOBODY, Example
from reranker.modeling.batching import by_length, pad_right
from reranker.modeling.shared_list_attention import lay_out
from reranker.prompting.pointwise_prompts import Encoder, PointwiseEncoder, PointwisePrompt
from reranker.prompting.prompts import Prompt, PromptEncoder, SharedPrompt

_WORTH = 0.5  # of what the user touched next, beside the item before it
_EXCLUDED = -1e9  # added to the logits of items that are not negatives
Pass = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Limits of one forward pass, which always takes at least one example.

    Attributes:
        tokens: with padding.
        rows: examples.
    """

    tokens: int | None
    rows: int | None


def plain_passes(
    encoder: PromptEncoder, examples: Sequence[Example], prompts: Sequence[Prompt], limits: Limits
) -> Iterator[Pass]:
    """Passes of whole prompts, whose lists have equally many `candidates`; with the objective token_ce the answers are
    appended, and the nodes of labels of several tokens as to a list with one question.

    With collaborative scores each has a `bias` besides, and perhaps a `weight`, as in `shared_passes`; with a teacher
    its log-probabilities, `teacher`, [examples, candidates], −inf of candidates that it has no score of; with images
    `places` and `pictures`, as in `ImageInputs.in_pass`.
    """
    has_scores = any(example.collaborative for example in examples)
    texts = [prompt.input_ids + _answer(encoder, prompt) for prompt in prompts]
    trie = encoder.trie
    for rows in by_length([len(ids) + len(trie.nodes) for ids in texts], limits.tokens, limits.rows):
        if trie.is_flat:
            batch: Pass = {**pad_right([texts[i] for i in rows], encoder.pad_id)}
        else:
            ids, layout = lay_out([texts[i][:-1] for i in rows], [[texts[i][-1:]] for i in rows], encoder.pad_id, trie)
            batch = {"input_ids": ids, "layout": layout.parts()}
        yield {**_in_pass(encoder, batch), **_beside(encoder, [examples[i] for i in rows], has_scores=has_scores)}


def pointwise_passes(
    encoder: PointwiseEncoder, examples: Sequence[Example], prompts: Sequence[PointwisePrompt], limits: Limits
) -> Iterator[Pass]:
    """Passes of histories, each with a branch for each of its candidates; an example's are never in two passes, since its
    loss may compare them. Models that compute no branches side by side get each candidate's whole prompt.

    The rest is as in `plain_passes`.
    """
    has_scores = any(example.collaborative for example in examples)
    count = len(examples[0].candidates)
    if encoder.shares_beginnings:
        columns = [len(p.beginning) + count * max(map(len, p.items)) for p in prompts]
    else:
        columns = [count * p.longest for p in prompts]
    for rows in by_length(columns, limits.tokens, limits.rows):
        chosen = [prompts[i] for i in rows]
        if encoder.shares_beginnings:
            ids, layout = lay_out([p.beginning for p in chosen], [p.items for p in chosen], encoder.pad_id)
            batch: Pass = {"input_ids": ids, "layout": layout.parts()}
        else:
            batch = {**pad_right([ids for p in chosen for ids in p.whole], encoder.pad_id)}
        yield {**_in_pass(encoder, batch), **_beside(encoder, [examples[i] for i in rows], has_scores=has_scores)}


def shared_passes(
    encoder: PromptEncoder,
    lists: Sequence[Sequence[Example]],
    prompts: Sequence[SharedPrompt],
    limits: Limits,
    correction: NDArray[Any],
) -> Iterator[Pass]:
    """Passes of lists with their questions; a list is in several passes if its questions don't fit into one.

    Besides `targets` and `candidates` each has `bias`, [examples, candidates], to add to the labels' logits, perhaps
    `weight`, [examples], to multiply all logits by before, and perhaps `teacher`, as in `plain_passes`.

    Args:
        correction: [items], see `CandidateSampler.list_correction`.
    """
    blocks = [
        block
        for examples, prompt in zip(lists, prompts, strict=True)
        for block in _blocks(encoder, examples, prompt, limits)
    ]
    blocks.sort(key=lambda block: -len(block.questions))  # all lists of a pass have equally many questions
    for count, same_count in groupby(blocks, key=lambda block: len(block.questions)):
        equal_blocks = list(same_count)
        rows = None if limits.rows is None else max(1, limits.rows // count)
        for chosen in by_length([block.columns for block in equal_blocks], limits.tokens, rows):
            yield _laid_out(encoder, [equal_blocks[i] for i in chosen], correction)


def on_device(batch: Pass, device: torch.device) -> Pass:
    """The same pass with its tensors on this device."""
    return {
        name: on_device(value, device)
        if isinstance(value, dict)
        else value.to(device, non_blocking=True)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in batch.items()
    }


@dataclass(frozen=True)
class _Block:
    listed: list[int]
    questions: list[list[int]]
    examples: Sequence[Example]
    nodes: int  # of the labels' trie, after each question

    @property
    def columns(self) -> int:
        return len(self.listed) + len(self.questions) * (max(map(len, self.questions)) + self.nodes)


def _blocks(
    encoder: PromptEncoder, examples: Sequence[Example], prompt: SharedPrompt, limits: Limits
) -> Iterator[_Block]:
    questions = [question.input_ids + _answer(encoder, question) for question in prompt.questions]
    nodes = len(encoder.trie.nodes)
    most = len(questions) if limits.rows is None else limits.rows
    if limits.tokens is not None:
        most = min(most, (limits.tokens - len(prompt.listed)) // (max(map(len, questions)) + nodes))
    most = max(1, most)
    for start in range(0, len(questions), most):
        part = slice(start, start + most)
        yield _Block(prompt.listed, questions[part], examples[part], nodes)


def _laid_out(encoder: PromptEncoder, blocks: Sequence[_Block], correction: NDArray[Any]) -> Pass:
    listed, questions = [block.listed for block in blocks], [block.questions for block in blocks]
    ids, layout = lay_out(listed, questions, encoder.pad_id, encoder.trie)
    examples = [example for block in blocks for example in block.examples]
    of_list = torch.tensor(correction[[example.candidates for example in examples]])
    bias = of_list + _collaborative(examples)
    for row, example in zip(bias, examples, strict=True):
        if example.user == NOBODY:
            row.zero_()
        row[list(example.excluded)] = _EXCLUDED
    return {
        **_in_pass(encoder, {"input_ids": ids, "layout": layout.parts()}),
        "targets": torch.tensor([example.target for example in examples]),
        "candidates": len(examples[0].candidates),
        "bias": bias,
        **_weights(encoder, examples),
        **_relevance(examples),
        **_taught(encoder, examples, of_list),
    }


def _beside(encoder: Encoder, examples: Sequence[Example], *, has_scores: bool) -> Pass:
    """What a pass of lists of their own has besides tokens."""
    added: Pass = {"bias": _collaborative(examples), **_weights(encoder, examples)} if has_scores else {}
    return {
        **added,
        **_taught(encoder, examples),
        **_relevance(examples),
        "candidates": len(examples[0].candidates),
        "targets": torch.tensor([example.target for example in examples]),
    }


def _in_pass(encoder: Encoder, batch: Pass) -> Pass:
    return batch if encoder.images is None else encoder.images.in_pass(batch)


def _collaborative(examples: Sequence[Example]) -> torch.Tensor:
    """The examples' collaborative scores, fp32 [examples, candidates]; 0 for those without."""
    return torch.tensor([example.collaborative or (0.0,) * len(example.candidates) for example in examples])


def _weights(encoder: Encoder, examples: Sequence[Example]) -> Pass:
    """The `weight` of the model's logits beside collaborative scores, unless it is 1."""
    weight = encoder.config.model_weight
    if weight == 1:
        return {}
    return {"weight": torch.tensor([weight if example.collaborative else 1.0 for example in examples])}


def _relevance(examples: Sequence[Example]) -> Pass:
    """How right each candidate is, fp32 [examples, candidates], if in any example another than the target is."""
    if not any(example.further for example in examples):
        return {}
    relevance = torch.zeros(len(examples), len(examples[0].candidates))
    for row, example in zip(relevance, examples, strict=True):
        places = (example.target, *example.further)
        for place, worth in zip(places, example.worths or [_WORTH**nth for nth in range(len(places))], strict=True):
            row[place] = worth
    return {"relevance": relevance}


def _taught(encoder: Encoder, examples: Sequence[Example], correction: torch.Tensor | None = None) -> Pass:
    """The `teacher` of the examples, if any has one.

    Args:
        correction: of a shared list, [examples, candidates]: what the model's logits are compared with needs it too.
    """
    if not any(example.teacher for example in examples):
        return {}
    unknown = (torch.nan,) * len(examples[0].candidates)
    scores = torch.tensor([example.teacher or unknown for example in examples]) / encoder.config.teacher_temperature
    if correction is not None:
        scores = scores + correction
    for row, example in zip(scores, examples, strict=True):
        row[list(example.excluded)] = torch.nan
    has_score = scores.isfinite()
    has_score &= has_score.sum(dim=1, keepdim=True) > 1
    has_any = has_score.any(dim=1, keepdim=True)  # a row without any would have no softmax
    shares = scores.masked_fill(~has_score, -torch.inf).masked_fill(~has_any, 0.0).log_softmax(dim=1)
    return {"teacher": shares.masked_fill(~has_score, -torch.inf)}


def _answer(encoder: PromptEncoder, prompt: Prompt) -> list[int]:
    return encoder.answer_ids[prompt.target] if encoder.config.objective == "token_ce" else []
