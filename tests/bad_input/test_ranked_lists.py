"""Lines of `rank --jsonl`, and bodies of requests, that are no list to rank: the answer to each; the lists beside them are ranked."""

from __future__ import annotations

import functools
import io
import json
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.modeling.model_loading import load_base
from reranker.ranking.list_ranker import Question, Ranking
from reranker.ranking.rank_stream import RankStream
from reranker.ranking.ranker import Reranker
from tests.told import table
from tune.serving.http_app import Limits, make_app

HISTORY, CANDIDATES = ["Dusty Saddle", "Lunar Comet"], ["Silly Clown", "Tender Kiss", "Secret Bride"]
SOUND = {"history": HISTORY, "candidates": CANDIDATES}


@functools.cache
def _reranker() -> Reranker:
    config, device = TrialConfig(model="demo-tiny"), torch.device("cpu")
    return Reranker(load_base(config, device).eval(), config, device)


@functools.cache
def _client() -> TestClient:
    async def rank(question: Question, permutations: int | None) -> Ranking | InputError:
        answer = _reranker().rank_each([question], permutations)[0]
        assert isinstance(answer, Ranking | InputError)
        return answer

    return TestClient(make_app(rank, "demo-tiny", Limits(candidates=5, body_bytes=2000)))


def line(**fields: Any) -> bytes:
    return json.dumps({**SOUND, **fields}).encode()


def answer_lines(bad: bytes) -> str:
    """What a stream answers to the line between two sound ones."""
    sink = io.StringIO()
    stream = RankStream(_reranker(), None)
    stream.run(io.BytesIO(b"\n".join([line(), bad, line()])), sink)
    first, answer, last = map(json.loads, sink.getvalue().splitlines())
    assert first["order"] == last["order"], "the lists beside it are ranked"
    assert (stream.answered, stream.refused, answer["line"]) == (2, 1, 2)
    return str(answer["error"])


def answer_bodies(path: str, body: Any) -> str:
    """What a service answers: the status, and the message."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = _client().post(path, content=content, headers={"content-type": "application/json"})
    return f"{answer.status_code}: {answer.json()['message']}"


LINES_CASES = {
    "no JSON": (b"{broken", "a line must be JSON; at character 2: expecting property name enclosed in double quotes"),
    "a word": (b"hello", "a line must be JSON; at character 1: expecting value"),
    "half a line": (b'{"history": ["a"], "candi', "a line must be JSON; at character 20: unterminated string starting at"),
    "CSV": (b"Dusty Saddle,Silly Clown", "a line must be JSON; at character 1: expecting value"),
    "no text": (b"\xff\xfe\x00", "a line must be UTF-8 text; byte 1 is not; it is UTF-16: save it as UTF-8"),
    "UTF-16": (line().decode().encode("utf-16"), "a line must be UTF-8 text; byte 1 is not; it is UTF-16: save it as UTF-8"),
    "a NUL character alone": (b"\0", "a line must be JSON; at character 1: expecting value"),
    "a gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "a line must be UTF-8 text; byte 2 is not; it is packed by gzip: unpack it"),
    "null": (b"null", "a line must be an object with history and candidates, not null"),
    "a number": (b"42", "a line must be an object with history and candidates, not a number"),
    "a list": (b"[1, 2]", "a line must be an object with history and candidates, not a list"),
    "text": (b'"history"', "a line must be an object with history and candidates, not text"),
    "two objects": (line() + line(), "a line must be JSON; at character 107: extra data"),
    "an empty object": (b"{}", "history: this must be given\ncandidates: this must be given"),
    "a history alone": (b'{"history": ["a"]}', "candidates: this must be given"),
    "other names": (b'{"query": "a", "documents": ["b", "c"]}', "history: this must be given\ncandidates: this must be given"),
    "a hundred thousand brackets": (b"[" * 100_000, "a line must be JSON without brackets in thousands"),
    "a number of five thousand digits": (b'{"history": ' + b"9" * 5000 + b"}", "a line must be JSON with numbers of at most 4,300 digits"),
    "a number that is none": (line(score=float("nan")), "a line must be JSON, whose numbers are finite; NaN is not"),
    "a number beyond all": (line()[:-1] + b', "score": -1e999}', "a line must be JSON, whose numbers are finite; -1e999 is not"),
    "a history that is text": (line(history="Dusty Saddle"), "history: titles must be a list of texts, not text"),
    "a history that is null": (line(history=None), "history: titles must be a list of texts, not null"),
    "a history that is a number": (line(history=3), "history: titles must be a list of texts, not a number"),
    "a history that is a mapping": (line(history={"a": 1}), "history: titles must be a list of texts, not an object"),
    "an empty history": (line(history=[]), "history: there must be at least one title"),
    "a history of numbers": (line(history=[1, 2]), "history: a title must be text, and not blank (got 1)\nhistory: a title must be text, and not blank (got 2)"),
    "a history of nulls": (line(history=[None]), "history: a title must be text, and not blank"),
    "a history of lists": (line(history=[["Dusty Saddle"]]), "history: a title must be text, and not blank (got ['Dusty Saddle'])"),
    "an empty title": (line(history=[""]), "history: a title must be text, and not blank (got '')"),
    "a title of spaces": (line(history=["  "]), "history: a title must be text, and not blank (got '  ')"),
    "half a surrogate pair": (b'{"history": ["\\ud800"], "candidates": ["Silly Clown", "Tender Kiss"]}', "history: a title must be text, and not blank (got '\\ud800')"),
    "candidates that are text": (line(candidates="Silly Clown"), "candidates: titles must be a list of texts, not text"),
    "no candidates": (line(candidates=[]), "candidates: there must be at least one title"),
    "a candidate twice": (line(candidates=["Silly Clown", "Silly Clown"]), "candidates: a candidate must stand once in a list (got 'Silly Clown'); tell them apart by name, or by candidate_ids"),
    "a candidate twice but for spaces": (line(candidates=["Silly Clown", " Silly  Clown "]), "candidates: a candidate must stand once in a list (got 'Silly Clown'); tell them apart by name, or by candidate_ids"),
    "a candidate that is true": (line(candidates=["Silly Clown", True]), "candidates: a title must be text, and not blank (got True)"),
    "more candidates than letters": (line(candidates=[f"{a} Clown" for a in range(60)]), "candidates: a list has at most 52 candidates, a label each (got 60); rank the best of a first stage\nmodel: the model must know the words of the catalogue; 48% are unknown to it (got 'demo-tiny'); the demo models read the demo catalogue only; smollm2-135m reads any text and needs no Hub"),
    "ids that are too few": (line(candidate_ids=[1]), "candidate_ids: must be a list with an id for each candidate"),
    "ids that are text": (line(candidate_ids="abc"), "candidate_ids: must be a list with an id for each candidate"),
    "images of a model that reads none": (line(history_images=["a.png", None]), "history_images: images need an adapter that was trained with image_mode: raw_image; this one reads image_mode: text"),
    "words that the model does not know": (line(history=["Zebra Quantum"]), "model: the model must know the words of the catalogue; 25% are unknown to it (got 'demo-tiny'); the demo models read the demo catalogue only; smollm2-135m reads any text and needs no Hub"),
    "both without a title": (line(history=[], candidates=[]), "history: there must be at least one title\ncandidates: there must be at least one title"),
}  # fmt: skip
BODIES_CASES = {
    "nothing": ("/rank", b"", "422: the body: this must be given"),
    "no JSON": ("/rank", b"{broken", "422: the body must be JSON: Expecting property name enclosed in double quotes"),
    "no text": ("/rank", b"\xff\xfe", "422: the body must be JSON: Expecting value"),
    "a list": ("/rank", [1], "422: the body: must be a mapping of names to values"),
    "text": ("/rank", "history", "422: the body: must be a mapping of names to values"),
    "null": ("/rank", None, "422: the body: must be a mapping of names to values"),
    "an empty object": ("/rank", {}, "422: history: this must be given; candidates: this must be given"),
    "other names": ("/rank", {"query": "a", "documents": ["b"]}, "422: history: this must be given; candidates: this must be given"),
    "a history that is text": ("/rank", {**SOUND, "history": "Dusty Saddle"}, "422: history: must be a list"),
    "an empty history": ("/rank", {**SOUND, "history": []}, "422: history: there must be at least one title"),
    "candidates that are null": ("/rank", {**SOUND, "candidates": None}, "422: candidates: must be a list"),
    "a candidate that is a number": ("/rank", {**SOUND, "candidates": ["Silly Clown", 3]}, "422: candidates.1: must be text"),
    "a candidate twice": ("/rank", {**SOUND, "candidates": ["Silly Clown", "Silly Clown"]}, "422: candidates: a candidate must stand once in a list (got 'Silly Clown'); tell them apart by name, or by candidate_ids"),
    "too many candidates": ("/rank", {**SOUND, "candidates": list("abcdef")}, "422: a list may have at most 5 candidates here, and has 6: send the best of a first stage"),
    "ids that are too few": ("/rank", {**SOUND, "candidate_ids": [1]}, "422: candidate_ids: must be a list with an id for each candidate"),
    "ids that are fractions": ("/rank", {**SOUND, "candidate_ids": [0.5, 1, 2]}, "422: candidate_ids.0: must be text or a whole number"),
    "no orders": ("/rank", {**SOUND, "permutations": 0}, "422: permutations: must be at least 1"),
    "too many orders": ("/rank", {**SOUND, "permutations": 65}, "422: permutations: must be at most 64"),
    "orders in words": ("/rank", {**SOUND, "permutations": "many"}, "422: permutations: must be a whole number"),
    "orders that are a fraction": ("/rank", {**SOUND, "permutations": 1.5}, "422: permutations: must be a whole number"),
    "half a surrogate pair": ("/rank", b'{"history": ["\\ud800"], "candidates": ["Silly Clown", "Tender Kiss"]}', "422: history: a title must be text, and not blank (got '\\ud800')"),
    "a body that is too long": ("/rank", {**SOUND, "history": ["x" * 3000]}, "413: a body may have at most 2,000 bytes"),
    "no query": ("/v1/rerank", {"documents": CANDIDATES}, "422: query: this must be given"),
    "an empty query": ("/v1/rerank", {"query": "", "documents": CANDIDATES}, "422: history: there must be at least one title"),
    "a query that is a number": ("/v1/rerank", {"query": 3, "documents": CANDIDATES}, "422: query: must be text or a list"),
    "no documents": ("/v1/rerank", {"query": "Dusty Saddle", "documents": []}, "422: candidates: there must be at least one title"),
    "documents that are text": ("/v1/rerank", {"query": "Dusty Saddle", "documents": "Silly Clown"}, "422: documents: must be a list"),
    "a document without a text": ("/v1/rerank", {"query": "Dusty Saddle", "documents": [{"title": "x"}]}, "422: documents.0: must be text"),
    "no results": ("/v1/rerank", {"query": "Dusty Saddle", "documents": CANDIDATES, "top_n": 0}, "422: top_n: must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "says"), table(LINES_CASES))
def test_a_line_that_is_no_list(bad, says):
    assert answer_lines(bad) == says


@pytest.mark.parametrize(("path", "body", "says"), table(BODIES_CASES))
def test_a_body_that_is_no_list(path, body, says):
    assert answer_bodies(path, body) == says


def test_a_body_of_brackets_is_refused_as_deep_as_this_python_reads():
    assert answer_bodies("/rank", b"[" * 1900) in (
        "400: There was an error parsing the body",  # up to Python 3.12
        "422: the body must be JSON: Expecting value",
    )


def test_a_line_that_holds_an_error_of_its_own_is_none_that_is_refused():
    sink, stream = io.StringIO(), RankStream(_reranker(), None)
    stream.run(io.BytesIO(line(error=None)), sink)
    assert (stream.answered, stream.refused) == (1, 0)
    assert "error" in json.loads(sink.getvalue())


@pytest.mark.parametrize("length", [65_535, 65_537, 300_000])
def test_a_line_beyond_the_limit_is_refused_and_not_kept(length, monkeypatch):
    monkeypatch.setenv("RERANKER_MOST_LINE_BYTES", "1000")
    rule = "a line must have at most 1,000 bytes; the variable RERANKER_MOST_LINE_BYTES raises that"
    assert answer_lines(b"x" * length) == rule
