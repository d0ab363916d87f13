"""A language model that is asked of each item of a list whether it comes next → the list's scores; nothing is trained.

The question is that of `reranker.pointwise_question`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reranker.data.item_token_cache import Catalogue
from reranker.data.recommenders.hub_model import HubModel
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray
from reranker.data_config import POINTWISE
from reranker.errors import EnvironmentFault, first_line, minutes_or_seconds
from reranker.pointwise_question import about, answer_tokens, question_form

LATEST = 10  # items of the history that the question holds
MOST_TOKENS = 64  # of an item's text
_AT_ONCE = 16  # items asked of together
_PROBED, _SAID_S = 3, 30.0  # lists behind the first that tell how long all take; seconds between two lines


class TooSlow(Exception):
    """It would take more time than it may."""


def pointwise_model_of(model: str) -> HubModel:
    """The model by its name."""
    return HubModel(model, "model", "data.pointwise_model", POINTWISE)


class PointwiseReranker:
    """A causal language model and what it is asked; on a GPU in bf16 if there is one, else on the CPU in fp32."""

    def __init__(self, model: str, texts: Sequence[str]) -> None:
        """Load it.

        Args:
            texts: of the items.

        Raises:
            InputError: there is no such model, or it has no token each for yes and no.
            EnvironmentFault: it is not here and can't be fetched, or can't be loaded.
        """
        import torch

        self._named = pointwise_model_of(model)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._model: Any = self._named.whole("AutoModelForCausalLM", dtype=dtype).eval().to(self._device)
        self._tokenizer = self._named.loaded("AutoTokenizer")
        try:
            self._answers = answer_tokens(self._tokenizer)
        except ValueError as error:
            raise self._named.fault(str(error)) from error
        before, after = map(self._ids, question_form(self._tokenizer))
        self._before = before
        self._texts = (
            Catalogue(self._tokenizer, texts).titles(MOST_TOKENS).texts
        )  # without marks that would end the chat
        self._items = [self._ids(f" {text}") + after for text in self._texts]

    def scores(
        self, histories: Sequence[History], candidates: IntArray, most_s: float, say: Callable[[str], None]
    ) -> FloatArray:
        """For each candidate the log-odds of yes, [lists, candidates].

        Args:
            histories: oldest first.
            candidates: item codes, [lists, candidates].
            most_s: seconds that it may take.
            say: receives the progress, a line at a time.

        Raises:
            TooSlow: it takes longer.
            InputError: the model can't be asked so, or its answers are no numbers.
            EnvironmentFault: it does not fit the GPU's memory.
        """
        import torch

        scores = np.empty(candidates.shape)
        began = said = time.monotonic()
        for row, history in enumerate(histories):
            with torch.no_grad():
                scores[row] = self._log_odds(history, candidates[row])
            now = time.monotonic()
            if row == 0:
                warm = now  # the first list takes longer
            expected = (warm - began) + (now - warm) / max(1, row) * (len(histories) - 1)
            if now - began > most_s or (row == _PROBED and expected > most_s):
                raise TooSlow(f"it takes about {minutes_or_seconds(expected)} on this machine")
            if now - said > _SAID_S:
                say(f"pointwise: {row + 1} of {len(histories)} lists")
                said = now
        return scores

    def close(self) -> None:
        """Give back the memory that the model takes, of a GPU to other processes too."""
        import torch

        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _log_odds(self, history: History, items: IntArray) -> FloatArray:
        """Of one list; its history is read once."""
        import torch

        asked = [*self._before, *self._ids(about(self._texts[item] for item in history[-LATEST:]))]
        parts = []
        try:
            read = self._model(self._tensor([asked]), use_cache=True)
            for start in range(0, len(items), _AT_ONCE):
                rows = [self._items[item] for item in items[start : start + _AT_ONCE].tolist()]
                parts.append(self._answered(read.past_key_values, len(asked), rows))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise EnvironmentFault(f"the model {self._named.name!r} does not fit the GPU's memory") from error
            raise self._named.fault(f"the model must continue a text that it has read: {first_line(error)}") from error
        odds = np.concatenate(parts)
        if not np.isfinite(odds).all():  # such targets would rank last, as though the model had been beaten
            raise self._named.fault("the model must answer with finite numbers; some of its are NaN or infinite")
        return odds

    def _answered(self, read: Any, length: int, rows: list[list[int]]) -> FloatArray:
        """The log-odds behind each row, all of them behind the same text."""
        import torch

        read = copy.deepcopy(read)  # the model adds to it what it reads
        read.batch_repeat_interleave(len(rows))
        width = max(map(len, rows))
        padded = self._tensor([[*row, *row[-1:] * (width - len(row))] for row in rows])  # no answer sees the padding
        last = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        states = self._model.get_decoder()(
            input_ids=padded,
            past_key_values=read,
            position_ids=torch.arange(length, length + width, device=self._device)[None].expand(len(rows), -1),
        ).last_hidden_state
        head = self._model.get_output_embeddings()
        logits = head(states[torch.arange(len(rows), device=self._device), last])[:, self._answers].float()
        odds: FloatArray = (logits[:, 0] - logits[:, 1]).double().cpu().numpy()
        return odds

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _tensor(self, rows: list[list[int]]) -> Any:
        import torch

        return torch.tensor(rows, device=self._device)
