"""A pass of examples → its loss: over the labels where the answer begins, or over the answer's tokens as in plain SFT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from reranker.modeling.label_head import only_answers
from reranker.modeling.shared_list_attention import Layout, sharing
from reranker.prompting.forward_passes import Pass
from reranker.prompting.prompts import PromptEncoder


class Objective:
    """The training objective of one configuration, for passes of `reranker.prompting.forward_passes` that are on the model's device."""

    def __init__(self, encoder: PromptEncoder, device: torch.device) -> None:
        self._by_label = encoder.config.objective == "label_ce"
        self._label_ids = torch.tensor(encoder.label_ids, device=device)
        self._answers = torch.tensor(encoder.answer_ids, device=device)
        self._positions = 1 if self._by_label else self._answers.shape[1] + 1  # of an answer, and before it

    @contextlib.contextmanager
    def answering(self, model: PeftModel, batch: Pass) -> Iterator[None]:
        """Meanwhile the model computes what the pass's answers need alone; its backward pass must lie within too."""
        labels = self._label_ids if self._by_label else None
        with contextlib.ExitStack() as stack:
            if "layout" in batch:
                stack.enter_context(sharing(model.get_base_model()))
                stack.enter_context(only_answers(model, labels, Layout(**batch["layout"]).ends(self._positions)))
            else:
                stack.enter_context(only_answers(model, labels, self._positions))
            yield

    def logits(self, model: Any, batch: Pass) -> Tensor:
        """Those before each token of the answer and after it, fp32 [examples, positions, labels or vocabulary].

        What a shared list's `bias` says of the labels is added.

        Args:
            model: as it was given to `answering`, or wrapped.
        """
        bias = batch.get("bias")
        if "layout" in batch:
            layout = Layout(**batch["layout"])
            found: Tensor = model(
                input_ids=batch["input_ids"],
                position_ids=layout.places,
                layout=layout,
                use_cache=False,
                logits_to_keep=layout.ends(self._positions),
            ).logits
            found = found.reshape(-1, self._positions, found.shape[-1]).float()
        else:
            tokens = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
            found = model(**tokens, use_cache=False, logits_to_keep=self._positions).logits.float()
        if bias is None:
            return found
        if self._by_label:
            return torch.add(found, bias[:, None])
        return found.index_add(2, self._label_ids, F.pad(bias[:, None], (0, 0, 0, self._positions - 1)))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the list's labels where the answer begins; or over its tokens, as in plain SFT."""
        if self._by_label:
            return F.cross_entropy(logits[:, -1], targets)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), self._answers[targets].flatten())

    def first(self, logits: Tensor) -> Tensor:
        """The position of the label that stands first, int64 [examples]."""
        begun = logits[:, 0].detach()
        return (begun if self._by_label else begun[:, self._label_ids]).argmax(dim=1)
