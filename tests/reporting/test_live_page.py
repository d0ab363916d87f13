"""A study's report as a page that renews itself, asked over HTTP."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from results.reporting.live_page import LiveServer
from results.study.study_folder import StudyFolder
from tests.stored import keep_journal
from tests.tracked import add_trial, make_study

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    return make_study(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def server(study) -> Iterator[LiveServer]:
    with LiveServer(study, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def get(server: LiveServer, path: str = "/", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def test_a_running_search_s_page_renews_itself_and_shows_new_trials(study, server):
    (study.path / "ending.json").unlink()
    with study.locked():
        status, headers, page = get(server)
        assert (status, headers["Refresh"], headers["Cache-Control"]) == (200, "10", "no-store")
        assert "trial 3" not in page
        add_trial(study, 3, [0.6])
        assert re.search(r"trial 3\b", get(server)[2])


def test_a_finished_search_s_page_stays(study, server):
    status, headers, page = get(server)
    assert (status, headers["Refresh"]) == (200, None)
    assert page == get(server)[2]
    assert study.name in page


def test_nothing_is_written_into_the_study(study, server):
    before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
    get(server)
    assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "127.0.0.1", 200),
        ("/", "localhost:9", 200),
        ("/", "evil.example", 403),
        ("/../study.yaml", "localhost", 404),
    ],
)
def test_only_the_page_is_given_and_only_under_this_machine_s_names(server, path, host, status):
    assert get(server, path, Host=host)[0] == status


def test_it_listens_on_the_loopback_interface_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_told(study, server):
    port = server.server_address[1]
    with pytest.raises(
        EnvironmentFault, match=rf"port {port} on 127\.0\.0\.1 cannot be had .*name another with --port"
    ):
        LiveServer(study, port)


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(study):
    keep_journal(study)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "results.report", str(study.path), "--live", "--port", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"the report of {study.name}: http://127.0.0.1:{port} until Ctrl-C\n"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
