"""NVIDIA's Multi-Process Service around a search. There is no GPU here: a script answers as the daemon does, by its manual."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from tune.execution.cuda_mps import cuda_mps

DAEMON = """#!/bin/sh
if [ "$1" = -f ]; then
  echo $$ > "$CUDA_MPS_PIPE_DIRECTORY/control"
  trap 'exit 0' TERM
  while [ -f "$CUDA_MPS_PIPE_DIRECTORY/control" ]; do sleep 0.05; done
  exit 0
fi
read command
[ -f "$CUDA_MPS_PIPE_DIRECTORY/control" ] || exit 1
echo "$command" >> "$MPS_TEST_LOG"
case "$command" in quit*) rm "$CUDA_MPS_PIPE_DIRECTORY/control" ;; esac
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put a daemon on the PATH; returns where it writes the commands it was given."""

    def install(script: str) -> Path:
        program = tmp_path / "nvidia-cuda-mps-control"
        program.write_text(script)
        program.chmod(0o755)
        return log

    log = tmp_path / "commands"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("MPS_TEST_LOG", str(log))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    return install


def pipes_of_a_child() -> str:
    code = "import os; print(os.environ.get('CUDA_MPS_PIPE_DIRECTORY', ''))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_of_the_search_find_a_daemon_that_ends_with_it(installed):
    log = installed(DAEMON)
    with cuda_mps():
        folder = Path(pipes_of_a_child())
        assert folder.stat().st_mode & 0o777 == 0o700
        daemon = int((folder / "control").read_text())
        os.kill(daemon, 0)
    assert log.read_text().split() == ["get_server_list", "quit", "-t", "10"]
    assert not folder.exists()
    assert pipes_of_a_child() == ""
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)


def test_one_that_runs_already_is_used(installed, monkeypatch):
    log = installed(DAEMON)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    with cuda_mps():
        assert pipes_of_a_child() == "/somewhere"
    assert pipes_of_a_child() == "/somewhere"
    assert not log.exists()


def test_a_daemon_that_does_not_start_is_a_sentence(installed):
    installed("#!/bin/sh\necho 'Insufficient permission to run MPS daemon' >&2\nexit 1\n")
    with (
        pytest.raises(EnvironmentFault, match=r"nvidia-cuda-mps-control could not be started: Insufficient permission"),
        cuda_mps(),
    ):
        raise AssertionError
    assert pipes_of_a_child() == ""
