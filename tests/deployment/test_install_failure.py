"""`make install` that fails: one sentence that says why, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LOGS = {
    "a full disk": ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "no space is left"),
    "a folder of another user": ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/a'\n", "may not be written"),
    "a name that is not resolved": (
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError: [Errno -3] Temporary failure in name "
        "resolution': /simple/torch/\nERROR: No matching distribution found for torch==2.13.0\n"),
        "could not be reached",
    ),
    "a certificate that is not known": ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))\n", "could not be reached"),
    "a broken wheel": ("ERROR: Wheel 'torch' located at /c/torch.whl is invalid.\n", "cache purge"),
    "another file under its hash": ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "cache purge"),
    "a Python that is too new": ("ERROR: No matching distribution found for torch==2.13.0 (from versions: none)\n", "has no torch==2.13.0 for this Python"),
    "no venv": ("The virtual environment was not created successfully because ensurepip is not available.\n", "python3-venv"),
    "anything else": ("collecting\nERROR: something new\n", "failed: something new\n"),
    "nothing": ("", "pip does not say why"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOGS)
def test_a_log_tells_its_cause(case, tmp_path):
    content, says = LOGS[case]
    log = tmp_path / "install.log"
    log.write_text(content)
    command = [sys.executable, str(PROJECT / "deploy" / "install_failure.py"), str(log)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert says in told
    assert told.startswith("error: the installation failed: ")
    assert told.endswith(f"the whole log: {log}\n")
    assert told.count("\n") == 2


@pytest.mark.slow
def test_make_without_a_network_says_so(tmp_path):
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "deploy/install_failure.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    alone = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    as_from_a_shell = {name: text for name, text in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "install", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env={**as_from_a_shell, **alone, "UV_INDEX_URL": alone["PIP_INDEX_URL"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert "error: the installation failed: the package index could not be reached: look at the network" in done.stderr
    assert len(done.stderr.splitlines()) == 3, "make's own line besides"
