"""What `doctor` makes of a machine: real sockets, folders and packages, and real requirements that are not met."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys

import pytest

from tune import doctor
from tune.doctor import Verdict


def findings(**options: bool) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(start_services=False, **options)}


def test_where_all_is_well_a_search_can_run(capsys):
    assert doctor.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "a search can run here" in printed
    assert "bad" not in {line[:3] for line in printed.splitlines()}


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command_that_mends_it(monkeypatch):
    installed = importlib.metadata.version("pytest")
    wanted = ["pytest", "no-such-package>=1", f"pytest>{installed}", 'winonly; sys_platform == "win32"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = findings()["packages"]
    assert found.verdict is Verdict.BAD
    assert found.text == f"do not fit: no-such-package (missing), pytest ({installed})"
    assert found.remedy == f"{sys.executable} -m pip install 'no-such-package>=1' 'pytest>{installed}'"


def test_a_port_in_use_is_worth_a_note():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor._port(port, "MLflow's pages").verdict is Verdict.NOTE
    assert doctor._port(port, "MLflow's pages").verdict is Verdict.GOOD


def test_studies_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANKER_TUNER_HOME", str(tmp_path / "home"))
    assert findings()["studies"].text.startswith(f"{tmp_path}/home/runs, ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_for_studies_that_cannot_be_written_is_to_be_mended(monkeypatch, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("RERANKER_TUNER_HOME", str(tmp_path / "closed"))
    found = findings()["studies"]
    assert (found.verdict, found.remedy) == (Verdict.BAD, "export RERANKER_TUNER_HOME=FOLDER")


def test_what_raises_is_bad_and_told_in_a_line():
    def attempt() -> None:
        raise OSError("no such\nthing")

    found = doctor._tried("Ray", "started", attempt, "mend it")
    assert (found.verdict, found.text, found.remedy) == (Verdict.BAD, "OSError: no such", "mend it")


@pytest.mark.slow
def test_ray_and_mlflow_are_really_tried():
    tried = {finding.name: finding for finding in doctor.examine(start_services=True)}
    assert (tried["Ray"].verdict, tried["MLflow"].verdict) == (Verdict.GOOD, Verdict.GOOD), tried
