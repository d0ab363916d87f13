"""An adapter on a real Ray Serve: many at once, a client library, clients that hang up, and the end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cohere
import psutil
import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.ranking.ranker import Reranker
from tests.trained import small_adapter, validation_lists
from tune import serve

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=60))


@pytest.fixture(scope="module")
def trial(data, tmp_path_factory) -> TrialFolder:
    return small_adapter(data, tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def lists(data, trial) -> list[tuple[list[str], list[str]]]:
    return validation_lists(data, trial)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(trial: TrialFolder, port: int, *options: str) -> tuple[subprocess.Popen[str], list[str]]:
    """The command, when it has said how to ask, and what it said."""
    command = [sys.executable, "-m", "tune.serve", str(trial.path), "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if line.startswith("reference:"):
            return process, said
    raise AssertionError("\n".join(said))


@pytest.fixture(scope="module")
def service(trial) -> Iterator[str]:
    port = free_port()
    process, said = started(trial, port, "--batch", "8", "--most-kilobytes", "100")
    address = f"http://127.0.0.1:{port}"
    assert f"serving at:    {address} until Ctrl-C" in said
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def post(address: str, body: Any) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(address, content, {"content-type": "application/json"}), timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_lists_asked_at_once_are_ranked_as_the_library_ranks_them_whatever_the_others_are(service, trial, lists):
    bodies: list[Any] = [{"history": history, "candidates": candidates} for history, candidates in lists]
    bodies.insert(7, {"history": ["Dusty Saddle"], "candidates": []})
    bodies.insert(20, {**bodies[0], "permutations": 2})
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: post(f"{service}/rank", body), bodies))
    reranker = Reranker.load(trial.adapter)
    twice, refused = answers.pop(20), answers.pop(7)
    assert refused == (422, {"message": "candidates: there must be at least one title"})
    assert twice[1]["probabilities"] == pytest.approx(reranker.rank_many([lists[0]], 2)[0].probabilities, rel=1e-4)
    for (status, answer), expected in zip(answers, reranker.rank_many(lists), strict=True):
        assert status == 200
        assert answer["probabilities"] == pytest.approx(expected.probabilities, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("client_class", [cohere.Client, cohere.ClientV2])
def test_a_client_of_cohere_s_works_unchanged(service, trial, lists, client_class):
    history, candidates = lists[0]
    client = client_class(api_key="none", base_url=service)
    answer = client.rerank(model="any", query="\n".join(history), documents=candidates, top_n=3)
    expected = Reranker.load(trial.adapter).rank(history, candidates)
    assert [result.index for result in answer.results] == expected.order[:3]


@pytest.mark.slow
def test_the_service_outlives_clients_that_hang_up_and_bodies_that_are_too_long(service, lists):
    host, port = "127.0.0.1", int(service.rpartition(":")[2])
    body = json.dumps({"history": lists[0][0], "candidates": lists[0][1], "permutations": 64}).encode()
    head = f"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for part in (body, body[:50]):  # before the answer, and within the question
        with socket.create_connection((host, port)) as connection:
            connection.sendall(head.encode() + part)
    assert post(f"{service}/rank", b"x" * 200_000) == (413, {"message": "a body may have at most 102,400 bytes"})
    status, answer = post(f"{service}/v1/rerank", {"query": lists[0][0], "documents": lists[0][1]})
    assert (status, len(answer["results"])) == (200, 20)


@pytest.mark.slow
def test_a_port_in_use_is_told_before_anything_starts(trial, service, capsys):
    port = service.rpartition(":")[2]
    assert serve.main([str(trial.path), "--port", port]) == 2
    assert f"port {port} on 127.0.0.1 is in use; name a free one with --port" in capsys.readouterr().err


def test_an_adapter_that_is_not_there_is_told_before_anything_starts(tmp_path, capsys):
    assert serve.main([str(tmp_path), "--port", str(free_port())]) == 2
    assert f"there is no adapter in {tmp_path}" in capsys.readouterr().err


def test_others_are_served_only_with_a_token(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(serve.TOKEN, raising=False)
    with pytest.raises(SystemExit, match="2"):
        serve.main([str(tmp_path), "--host", "0.0.0.0"])
    assert f"--host 0.0.0.0: others can reach it, so the variable {serve.TOKEN} must hold a token" in (
        capsys.readouterr().err
    )


def test_what_serving_needs_is_asked_for_by_name(tmp_path):
    """In a process that cannot import one of them."""
    code = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'mmh3' else found(name, *a)\n"
        f"from tune import serve; sys.exit(serve.main([{str(tmp_path)!r}]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: mmh3 is not installed; to serve: pip install 'reranker-tuner[serve]'\n"
