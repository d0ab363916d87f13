"""Requests over HTTP, answered by a real base model without Ray: protocols, limits, a token, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, InputError
from reranker.modeling.model_loading import load_base
from reranker.ranking.list_ranker import Question, Ranking
from reranker.ranking.ranker import Reranker
from tune.serving.http_app import Limits, make_app
from tune.serving.rank_requests import RerankRequest

HISTORY, CANDIDATES = ["Dusty Saddle", "Lunar Comet"], ["Silly Clown", "Tender Kiss", "Secret Bride", "Wild Reef"]
LIMITS = Limits(candidates=5, body_bytes=2000)
RERANK = {"query": "\n".join(HISTORY), "documents": CANDIDATES}


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    config, device = TrialConfig(model="demo-tiny"), torch.device("cpu")
    return Reranker(load_base(config, device).eval(), config, device)


@pytest.fixture(scope="module")
def ranking(reranker) -> Ranking:
    return reranker.rank(HISTORY, CANDIDATES)


def app_of(reranker: Reranker, limits: Limits = LIMITS) -> FastAPI:
    async def rank(question: Question, permutations: int | None) -> Ranking | InputError:
        answer = reranker.rank_each([question], permutations)[0]
        assert isinstance(answer, Ranking | InputError)
        return answer

    return make_app(rank, "demo-tiny", limits)


@pytest.fixture(scope="module")
def client(reranker) -> TestClient:
    return TestClient(app_of(reranker))


def test_a_list_is_ranked_as_the_library_ranks_it(client, ranking):
    answer = client.post("/rank", json={"history": HISTORY, "candidates": CANDIDATES}).json()
    assert (answer["order"], answer["probabilities"]) == (ranking.order, pytest.approx(ranking.probabilities))
    assert answer["ranked"][0] == {
        "title": CANDIDATES[ranking.order[0]],
        "probability": pytest.approx(max(ranking.probabilities)),
    }


def test_ids_come_back_beside_the_titles(client, ranking):
    body = {"history": HISTORY, "candidates": CANDIDATES, "candidate_ids": ["a", 2, "c", "d"]}
    ranked = client.post("/rank", json=body).json()["ranked"]
    assert [candidate["id"] for candidate in ranked] == [["a", 2, "c", "d"][i] for i in ranking.order]


def test_a_request_may_ask_for_more_orders_of_the_candidates(client, reranker):
    body = {"history": HISTORY, "candidates": CANDIDATES, "permutations": 3}
    expected = reranker.rank(HISTORY, CANDIDATES, permutations=3)
    assert client.post("/rank", json=body).json()["probabilities"] == pytest.approx(expected.probabilities)


def test_a_query_has_a_title_a_line_and_no_other_mark_within_a_title_ends_it():
    query = "Dusty\N{LINE SEPARATOR}Saddle\r\n\n  \nLunar\fComet\rWild Reef"
    assert RerankRequest(query=query, documents=CANDIDATES).question().history == [
        "Dusty\N{LINE SEPARATOR}Saddle",
        "Lunar\fComet",
        "Wild Reef",
    ]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("query", ["\n".join(HISTORY), "Dusty Saddle\n\n  \nLunar Comet\n", HISTORY])
def test_the_protocol_of_cohere_and_jina_reads_the_history_line_by_line(client, ranking, path, query):
    answer = client.post(path, json={**RERANK, "query": query, "model": "mine"}).json()
    assert answer["model"] == "mine"
    assert [(r["index"], r["relevance_score"]) for r in answer["results"]] == [
        (i, pytest.approx(ranking.probabilities[i])) for i in ranking.order
    ]
    assert all("document" not in result for result in answer["results"])


def test_a_document_may_stand_twice_since_its_place_tells_which(client):
    body = {"query": "\n".join(HISTORY), "documents": [*CANDIDATES, CANDIDATES[0]]}
    results = client.post("/v1/rerank", json=body).json()["results"]
    assert sorted(result["index"] for result in results) == list(range(len(CANDIDATES) + 1))


def test_of_documents_the_first_come_back_with_their_text(client, ranking):
    documents = [{"text": text, "id": number} for number, text in enumerate(CANDIDATES)]
    body = {**RERANK, "documents": documents, "top_n": 2, "return_documents": True}
    results = client.post("/v1/rerank", json=body).json()["results"]
    assert [r["document"] for r in results] == [{"text": CANDIDATES[i]} for i in ranking.order[:2]]


LIST = {"history": HISTORY, "candidates": CANDIDATES}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/rank", {**LIST, "candidates": []}, "candidates: there must be at least one title"),
        (
            "/rank",
            {**LIST, "candidate_images": ["a.png", None, None, None]},
            "the body: must hold no images: their paths would be read on the server",
        ),
        ("/rank", {**LIST, "candidates": None}, "candidates: must be a list"),
        ("/rank", {**LIST, "candidates": ["Silly Clown", 3]}, "candidates.1: must be text"),
        ("/rank", {"history": HISTORY}, "candidates: this must be given"),
        ("/rank", {**LIST, "candidates": ["Silly Clown", "Silly Clown"]}, "a candidate must stand once in a list"),
        ("/rank", {**LIST, "candidates": ["a", "b", "c", "d", "e", "f"]}, "at most 5 candidates here, and has 6"),
        ("/rank", {**LIST, "candidate_ids": [1]}, "candidate_ids: must be a list with an id for each candidate"),
        ("/rank", {**LIST, "permutations": 65}, "permutations: must be at most 64"),
        ("/rank", [1], "the body: must be a mapping of names to values"),
        ("/rerank", {**RERANK, "query": " \n "}, "history: there must be at least one title"),
        ("/rerank", {**RERANK, "documents": [{"title": "Silly Clown"}]}, "documents.0: must be text"),
        ("/rerank", {**RERANK, "top_n": 0}, "top_n: must be at least 1"),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_with_the_rule(client, path, body, message):
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert message in answer.json()["message"]


def test_a_body_that_is_not_json_is_refused(client):
    answer = client.post("/rank", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["message"][:26]) == (422, "the body must be JSON: Exp")


def chunks() -> Any:
    yield from (b"x" * 900 for _ in range(3))


@pytest.mark.parametrize("content", [b"x" * 2001, chunks()], ids=["announced", "in chunks"])
def test_a_body_that_is_too_long_is_refused(client, content):
    answer = client.post("/rank", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (413, {"message": "a body may have at most 2,000 bytes"})


@pytest.mark.parametrize(("header", "status"), [("", 401), ("Bearer wrong", 401), ("Bearer sesame", 200)])
@pytest.mark.parametrize(("path", "body"), [("/rank", LIST), ("/v1/rerank", RERANK)])
def test_a_token_is_asked_for(reranker, header, status, path, body):
    client = TestClient(app_of(reranker, Limits(5, 2000, token="sesame")))
    answer = client.post(path, json=body, headers={"Authorization": header} if header else {})
    assert answer.status_code == status
    if status == 401:
        assert answer.json() == {
            "message": "a request must have the service's token in its Authorization header, as a bearer token"
        }


def test_what_is_not_the_client_s_fault_is_told_and_the_service_goes_on(reranker):
    async def rank(question: Question, permutations: int | None) -> Ranking:
        raise EnvironmentFault("the disk is gone")

    client = TestClient(make_app(rank, "demo-tiny", LIMITS))
    answer = client.post("/rank", json=LIST)
    assert (answer.status_code, answer.json()) == (500, {"message": "the disk is gone"})
    assert client.get("/health").json() == {"status": "ok", "model": "demo-tiny"}


def test_openapi_describes_both_protocols(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/rank", "/rerank", "/v1/rerank", "/v2/rerank", "/health"}
