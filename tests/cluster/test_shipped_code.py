"""What is sent to a cluster's nodes is this program, whole, and nothing of its studies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tune.cluster.shipped_code import packages


@pytest.mark.slow
def test_a_node_can_run_this_program_from_what_it_gets(tmp_path):
    script = "import tune.search, results.compare, reranker.train, reranker; print(reranker.__file__)"
    with packages() as folders:
        place = Path(folders[0]).parent
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=place, capture_output=True, text=True, check=True, timeout=120
        )
        assert Path(done.stdout.strip()) == place / "reranker" / "__init__.py"
        assert (place / "reranker" / "base_models" / "demo-tiny" / "model.safetensors").exists()
        assert not (place / "results" / "runs").exists()
    assert not place.exists()
