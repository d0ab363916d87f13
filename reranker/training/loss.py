"""A pass of examples → its loss: over the list's candidates, over each of them alone, or over the answer's tokens as in plain SFT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from reranker.modeling.batching import last_columns
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.shared_list_attention import Layout, sharing
from reranker.prompting.forward_passes import Pass
from reranker.prompting.pointwise_prompts import NO, YES, Encoder, PointwiseEncoder
from reranker.training.distillation import divergence, is_taught
from reranker.training.ranking_losses import RANKING_LOSSES, listnet


def binary_ce(logits: Tensor, relevance: Tensor) -> Tensor:
    """−log σ(logit) of right items and −log σ(−logit) of others, mean over the candidates, [lists]: each is judged by
    itself, whatever else is in its list.

    Source: the loss of Qwen3-Reranker on the tokens yes and no (Zhang et al., Qwen3 Embedding, arXiv 2506.05176, 2025),
    as Nogueira & Cho, Passage re-ranking with BERT, arXiv 1901.04085, 2019, train a classifier's two.

    Args:
        logits: log-odds, [lists, candidates].
        relevance: how right each candidate is, [lists, candidates]; all above 0 alike.

    >>> binary_ce(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))  # log 2 where nothing is known
    tensor([0.6931])
    """
    is_right = (relevance > 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, is_right, reduction="none").mean(dim=1)


_LOSSES = {**RANKING_LOSSES, "binary_ce": binary_ce}


class Objective:
    """One configuration's objective for passes of `reranker.prompting.forward_passes` on the model's device."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._images = encoder.images
        self._base: Any = None  # that answers
        self._by_label = encoder.config.objective != "token_ce"
        self._teacher_weight = encoder.config.teacher_weight
        self._loss_of_lists = _LOSSES.get(encoder.config.objective)
        self._trie = encoder.trie
        self._label_ids = torch.tensor(self._trie.tokens, device=device)
        self._is_pointwise = isinstance(encoder, PointwiseEncoder)
        self._answers = torch.empty(0)
        if not self._by_label and not isinstance(encoder, PointwiseEncoder):
            self._answers = torch.tensor(encoder.answer_ids, device=device)
        self._positions = self._trie.positions if self._by_label else self._answers.shape[1] + 1  # and one before

    @contextlib.contextmanager
    def answering(self, model: PeftModel, batch: Pass) -> Iterator[None]:
        """Make the model compute only what the pass's answers need; run the backward pass inside this context too."""
        labels = self._label_ids if self._by_label else None
        self._base = model.get_base_model()
        with contextlib.ExitStack() as stack:
            if "layout" in batch:
                stack.enter_context(sharing(model.get_base_model()))
                stack.enter_context(only_answers(model, labels, Layout(**batch["layout"]).ends(self._positions)))
            else:
                stack.enter_context(only_answers(model, labels, last_columns(batch["ends"], self._positions)))
            yield

    def logits(self, model: Any, batch: Pass) -> Tensor:
        """The logits before each token of the answer and after it, fp32 [examples, positions, candidates or vocabulary].

        With labels of several tokens, the labels' log-probabilities at one position; pointwise, each candidate's log-odds of
        yes, at one position. Those before the answer's first token are multiplied by the pass's `weight`, and its `bias` is added to the labels'.
        Where lists have fewer candidates than there are labels, the logits are those of the first labels.

        Args:
            model: the one passed to `answering`, or a wrapper of it.
        """
        bias = batch.get("bias")
        pictures = {} if self._images is None else self._images.arguments(self._base, batch)
        if "layout" in batch:
            layout = Layout(**batch["layout"])
            logits: Tensor = model(
                input_ids=batch["input_ids"],
                position_ids=batch.get("places", layout.places),
                layout=layout,
                use_cache=False,
                logits_to_keep=layout.ends(self._positions),
                **pictures,
            ).logits
            logits = logits.reshape(-1, self._positions, logits.shape[-1]).float()
        else:
            tokens = {"input_ids": batch["input_ids"]}
            if "places" in batch:
                tokens["position_ids"] = batch["places"]
            logits = model(**tokens, **pictures, use_cache=False, logits_to_keep=0).logits.float()
        if not self._trie.is_flat:
            logits = self._trie.scores(logits)[:, None]
        if self._is_pointwise:
            logits = (logits[..., YES] - logits[..., NO]).reshape(-1, 1, batch["candidates"])
        elif self._by_label:
            logits = logits[..., : batch["candidates"]]
        if bias is None:
            return logits
        if (weight := batch.get("weight")) is not None:
            is_first = torch.arange(logits.shape[1], device=logits.device)[:, None] == 0
            logits = logits * torch.where(is_first, weight[:, None, None], 1.0)
        if self._by_label:
            return torch.add(logits, bias[:, None])
        listed = self._label_ids[: batch["candidates"]]
        return logits.index_add(2, listed, F.pad(bias[:, None], (0, 0, 0, self._positions - 1)))

    def loss(
        self, logits: Tensor, targets: Tensor, teacher: Tensor | None = None, relevance: Tensor | None = None
    ) -> Tensor:
        """The mean over the examples, or over the tokens of their answers as in plain SFT.

        Args:
            relevance: how right each candidate is, [examples, candidates]; None: the target alone is.
            teacher: a teacher's log-probabilities, see `reranker.training.distillation`; examples of which it says
                nothing are trained without it.
        """
        if teacher is not None:
            weights = self._teacher_weight * is_taught(teacher)
            own = self._of_each(logits[:, -1], targets, relevance)
            return ((1 - weights) * own + weights * divergence(logits[:, -1], teacher)).mean()
        if self._loss_of_lists is not None or relevance is not None:
            return self._of_each(logits[:, -1], targets, relevance).mean()
        if self._by_label:
            return F.cross_entropy(logits[:, -1], targets)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), self._answers[targets].flatten())

    def of_guessing(self, batch: Pass) -> Tensor:
        """The cross-entropy of a model to which all candidates are alike, mean over a pass's examples, in nats: ln(candidates),
        but for what is added to the labels' logits."""
        alike = batch.get("bias")
        if alike is None:
            alike = torch.zeros(len(batch["targets"]), batch["candidates"], device=batch["targets"].device)
        return F.cross_entropy(alike, batch["targets"])

    def _of_each(self, logits: Tensor, targets: Tensor, relevance: Tensor | None) -> Tensor:
        """The objective that takes the candidates' scores, [examples]."""
        if self._loss_of_lists is not None:
            if relevance is None:
                relevance = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
            return self._loss_of_lists(logits, relevance)
        if relevance is not None:
            return listnet(logits, relevance)
        return F.cross_entropy(logits, targets, reduction="none")

    def first(self, logits: Tensor) -> Tensor:
        """The position of the highest-scored label, int64 [examples]."""
        first_logits = logits[:, 0].detach()
        return (first_logits if self._by_label else first_logits[:, self._label_ids]).argmax(dim=1)
