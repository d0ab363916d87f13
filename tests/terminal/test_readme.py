"""README's examples, run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stored import Maker

ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a study named demo is, and where README's Python was run."""
    here = tmp_path_factory.mktemp("reader")
    Maker(here / "results" / "runs", "demo").baseline("popularity", 0.3).trial(1.0).trial(2.0)
    (python,) = blocks("python")
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", python], cwd=here, env=alone, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.rstrip().endswith("1 {'popularity': True}")
    return here


@pytest.mark.slow
def test_the_lines_to_rank_are_taken_and_answered_as_is_said(folder):
    asked, answer = map(json.loads, blocks("json"))
    command = [sys.executable, "-m", "reranker.rank", "--adapter", "my-reranker", "--jsonl", "-"]
    ran = subprocess.run(command, cwd=folder, input=json.dumps(asked), capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout).keys() == answer.keys()
    assert sorted(answer["order"]) == [0, 1]


def test_the_table_of_figures_from_elsewhere_is_taken(tmp_path):
    (table,) = blocks("csv")
    (tmp_path / "my.csv").write_text(table)
    command = [sys.executable, "-m", "results.diagnose", "--table", "my.csv", "--users", "614", "--candidates", "50"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith("1. ")
    assert "at chance" in said


def test_every_file_that_is_named_is_there():
    named = re.findall(r"\b(?:docs|search_spaces|reranker|tune)/[\w/.-]+\.\w+", (ROOT / "README.md").read_text())
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_the_examples_write_is_not_git_s():
    paths = ["my-reranker/adapter/adapter_config.json", "results/runs/demo/manifest.json"]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.stdout.split() == paths
