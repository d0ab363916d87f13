"""The notebook and the page on Python, run as they stand: each makes a search."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_the_notebook_runs_and_ends_with_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RERANKER_TUNER_HOME", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs" / "example.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    answers = [cell.outputs[-1].get("data", {}).get("text/plain", "") for cell in notebook.cells if cell.get("outputs")]
    assert answers[-1] == "'report.html'"
    assert "'complete'" in answers
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()


def test_the_page_s_python_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "page.py").write_text("\n".join(blocks) + "\nprint('trial', result.best.number)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RERANKER_TUNER_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert re.search(r"^trial \d$", ran.stdout, re.MULTILINE)
    assert (tmp_path / "my-reranker" / "adapter").is_dir()
