"""An adapter that a vLLM server has loaded → the candidates in order: prompts go there as tokens, and log-probabilities
of labels, or of yes and no, come back.

Needs vLLM 0.30 or newer, whose `/v1/completions` gives the log-probabilities of named tokens (`logprob_token_ids`).
"""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from reranker.artifacts.adapter_files import read_adjustment, read_title_scores
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.evaluation.scoring import EncodedLists, FloatArray, in_own_order
from reranker.ranking.adapted_base import check_chat
from reranker.ranking.list_ranker import ListRanker
from reranker.ranking.ranker import find_adapter

MOST_LABELS = 128  # that vLLM gives the log-probabilities of at once
_PROMPTS = 64  # of a request
_PATIENCE_S = 300.0


class VllmRanker(ListRanker):
    """Ranks as `Reranker` does, by the weights of a vLLM server.

    Args:
        adapter: its folder, for the prompt, the collaborative scores and the temperature; the weights are the server's.
        address: of the server, such as `http://127.0.0.1:8000`.
        model: what the adapter is called there.
        token: its API key; empty: it asks for none.

    Raises:
        EnvironmentFault: there is no complete adapter.
        InputError: vLLM cannot be asked for its labels, or the base writes prompts in other tokens than in the training.
    """

    def __init__(self, adapter: Path | str, address: str, model: str, token: str = "") -> None:
        folder, config, _ = find_adapter(Path(adapter).expanduser())
        if config.image_mode == "raw_image":
            raise InputError([Fault("images are not sent to vLLM; serve it from here", field="image_mode")])
        super().__init__(config, read_title_scores(folder), read_adjustment(folder))
        check_chat(self.tokenizer, folder, config.model)
        self._address, self._model, self._token = address.rstrip("/"), model, token

    @property
    def place(self) -> str:
        """Where the model is, for people."""
        return f"vLLM at {self._address}"

    @property
    def batch_lists(self) -> int:
        """How many lists it ranks best together."""
        return _PROMPTS

    def _scored(self, lists: EncodedLists) -> FloatArray:
        if not lists.trie.is_flat:
            raise InputError([Fault("vLLM can be asked for labels of one token only", field="label_style")])
        if len(lists.trie.tokens) > MOST_LABELS:
            rule = f"vLLM can be asked for {MOST_LABELS} labels at most"
            raise InputError([Fault(rule, field="candidates", value=len(lists.trie.tokens))])
        prompts = [prompt.input_ids for prompt in lists.prompts]
        rows = [
            row
            for start in range(0, len(prompts), _PROMPTS)
            for row in self._label_logs(prompts[start : start + _PROMPTS], lists.trie.tokens)
        ]
        logs = np.array(rows, dtype=np.float64)
        shares = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        return in_own_order(shares, lists)

    def _label_logs(self, prompts: list[list[int]], labels: tuple[int, ...]) -> list[list[float]]:
        """The log-probability of each label as the next token, over the whole vocabulary, [prompts][labels]."""
        answer = self._post(
            {
                "model": self._model,
                "prompt": prompts,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "logprob_token_ids": list(labels),
                "return_tokens_as_token_ids": True,
            }
        )
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            tops = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
            rows = [[float(top[f"token_id:{label}"]) for label in labels] for top in tops]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            rule = f"the server at {self._address} does not give the labels' log-probabilities ({first_line(error)})"
            raise EnvironmentFault(f"{rule}; it must be vLLM 0.30 or newer") from error
        if len(rows) != len(prompts):
            raise EnvironmentFault(f"the server at {self._address} answered {len(rows)} of {len(prompts)} prompts")
        return rows

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = Request(f"{self._address}/v1/completions", json.dumps(body).encode(), headers)
        try:
            with urlopen(request, timeout=_PATIENCE_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise EnvironmentFault(f"the server at {self._address} refused: {error.code} {said}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise EnvironmentFault(f"the server at {self._address} does not answer: {first_line(error)}") from error
