"""Ranking by a server of vLLM's protocol: a stand-in, since vLLM is not installed here, that answers with a real model's logits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from peft import PeftModel

from reranker import rank
from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import Adjustment
from reranker.errors import EnvironmentFault, InputError
from reranker.modeling.model_loading import load_base
from reranker.ranking.ranker import Reranker
from reranker.ranking.vllm_ranker import VllmRanker
from tests.trained import validation_lists


class Server(ThreadingHTTPServer):
    """`/v1/completions` as far as it is asked: log-probabilities of named tokens after prompts of token ids.

    Attributes:
        asked: the bodies of the requests.
        spoil: changes an answer before it is sent.
    """

    def __init__(self, trial: TrialFolder) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        config = trial.read_config()
        base = load_base(config, torch.device("cpu"))
        self.model = PeftModel.from_pretrained(base, str(trial.adapter)).eval()
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.spoil: Any = lambda answer: answer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.tokens.append(self.headers["Authorization"])
        if body["model"] != "reranker":
            self._send(404, {"message": f"The model `{body['model']}` does not exist."})
            return
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            with torch.no_grad():
                logs = self.server.model(input_ids=torch.tensor([prompt])).logits[0, -1].float().log_softmax(dim=0)
            top = {f"token_id:{token}": float(logs[token]) for token in body["logprob_token_ids"]}
            choices.append({"index": index, "text": "", "logprobs": {"top_logprobs": [top]}})
        self._send(200, self.server.spoil({"choices": choices[::-1]}))

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server(trial) -> Iterator[Server]:
    with Server(trial) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.mark.parametrize("permutations", [None, 3])
def test_it_ranks_as_the_model_does_here(trial, lists, server, permutations):
    found = VllmRanker(trial.path, server.address, "reranker").rank_many(lists, permutations)
    for answer, expected in zip(found, Reranker.load(trial.path).rank_many(lists, permutations), strict=True):
        assert answer.order == expected.order
        assert answer.probabilities == pytest.approx(expected.probabilities, rel=1e-3)


def test_pointwise_each_candidate_s_prompt_goes_there_and_yes_and_no_come_back(pointwise_trial, data):
    lists = validation_lists(data, pointwise_trial)[:3]
    with Server(pointwise_trial) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        found = VllmRanker(pointwise_trial.path, running.address, "reranker").rank_many(lists)
        running.shutdown()
        (body,) = running.asked
    assert [len(body[key]) for key in ("prompt", "logprob_token_ids")] == [18, 2]
    for answer, expected in zip(found, Reranker.load(pointwise_trial.path).rank_many(lists), strict=True):
        assert answer.order == expected.order
        assert answer.probabilities == pytest.approx(expected.probabilities, rel=1e-3)


def test_prompts_go_as_tokens_and_labels_are_asked_for_by_number(trial, lists, server):
    VllmRanker(trial.path, server.address, "reranker", token="sesame").rank_many(lists[:3])
    (body,) = server.asked
    assert [len(body[key]) for key in ("prompt", "logprob_token_ids")] == [3, 20]
    assert {key: body[key] for key in ("max_tokens", "logprobs", "return_tokens_as_token_ids")} == {
        "max_tokens": 1, "logprobs": 1, "return_tokens_as_token_ids": True,
    }  # fmt: skip
    assert server.tokens == ["Bearer sesame"]


def test_a_temperature_counts_there_too(trial, lists, server):
    ranker = VllmRanker(trial.path, server.address, "reranker")
    ranker.adjustment = Adjustment(temperature=3.0)
    warm = Reranker.load(trial.path)
    warm.adjustment = Adjustment(temperature=3.0)
    assert ranker.rank(*lists[0]).probabilities == pytest.approx(warm.rank(*lists[0]).probabilities, rel=1e-3)


def test_what_the_server_refuses_is_told(trial, lists, server):
    with pytest.raises(EnvironmentFault, match=r"refused: 404 .*The model `other` does not exist"):
        VllmRanker(trial.path, server.address, "other").rank(*lists[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: {"choices": [{**choice, "logprobs": None} for choice in answer["choices"]]},
        lambda answer: {"choices": [{**c, "logprobs": {"top_logprobs": [{"A": -1.0}]}} for c in answer["choices"]]},
        lambda answer: {"error": "no"},
        lambda answer: [],
    ],
)
def test_a_server_that_does_not_know_the_protocol_is_told(trial, lists, server, spoil):
    server.spoil = spoil
    with pytest.raises(EnvironmentFault, match=r"does not give the labels' log-probabilities .*vLLM 0\.30 or newer"):
        VllmRanker(trial.path, server.address, "reranker").rank(*lists[0])


def test_answers_that_are_missing_are_told(trial, lists, server):
    server.spoil = lambda answer: {"choices": answer["choices"][1:]}
    with pytest.raises(EnvironmentFault, match="answered 1 of 2 prompts"):
        VllmRanker(trial.path, server.address, "reranker").rank_many(lists[:2])


def test_a_server_that_is_not_there_is_told(trial, lists):
    with pytest.raises(EnvironmentFault, match=r"http://127\.0\.0\.1:9 does not answer"):
        VllmRanker(trial.path, "http://127.0.0.1:9", "reranker").rank(*lists[0])


def test_a_list_that_breaks_a_rule_is_never_sent(trial, server):
    with pytest.raises(InputError, match="there must be at least one title"):
        VllmRanker(trial.path, server.address, "reranker").rank(["Dusty Saddle"], [])
    assert server.asked == []


def test_the_command_asks_a_server(trial, server, capsys):
    words = ["--history", "Dusty Saddle", "--candidates", "Silly Clown", "Lunar Comet"]
    assert rank.main(["--adapter", str(trial.path), "--vllm", server.address, *words]) == 0
    assert f"ms a list (vLLM at {server.address}, 1 order of the candidates)" in capsys.readouterr().out
