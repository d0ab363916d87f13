"""What is told at once: usage, options, faults of a command line or study file, without the packages that take seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reranker_tuner import COMMANDS

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = {"datasets", "matplotlib", "mlflow", "pandas", "peft", "ray", "scipy", "torch", "transformers", "trl"}
LOOK = """
import json, sys
sys.argv = ["reranker-tuner", *sys.argv[1:]]
from reranker_tuner import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(*words: str) -> tuple[int, set[str], str]:
    """Exit code, imported packages, and all that was printed."""
    command = [sys.executable, "-c", LOOK, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    said, _, last = done.stdout.rstrip().rpartition("\n")
    code, modules = json.loads(last)
    return code, set(modules), said + done.stderr


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        ((), 2, "usage: reranker-tuner COMMAND"),
        (("--help",), 0, "search"),
        (("--version",), 0, "reranker-tuner 0."),
        (("serach",), 2, "there is no command 'serach'"),
        (("search", "--help"), 0, "--warm-start"),
        *(((name, "--help"), 0, "usage: reranker-tuner " + name) for name in COMMANDS),
        (("search", "--trials", "none"), 2, "error: "),
        (("search", "nowhere.yaml"), 2, "nowhere.yaml"),
        (("search", "tests/broken_studies/study_fields.yaml"), 2, "study_fields.yaml"),
        (("check", "tests/broken_studies/fixed_model_that_does_not_exist.yaml"), 2, "there is no such model"),
        (("search", "--resume", "nothing", "--runs", "docs"), 2, "there is no study 'nothing'"),
    ],
)
def test_what_needs_no_heavy_package_imports_none(words, expected, said):
    code, modules, printed = run(*words)
    assert (code, modules & HEAVY) == (expected, set()), printed
    assert said in printed


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    shutil.copy(PROJECT / "reranker_tuner.py", tmp_path)
    shutil.copytree(PROJECT / "reranker" / "command_line", tmp_path / "reranker" / "command_line")
    without_packages = [sys.executable, "-S", "-c", "from reranker_tuner import main; main(['--version'])"]
    done = subprocess.run(without_packages, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "reranker-tuner not installed\n"


@pytest.mark.slow
def test_a_check_imports_neither_ray_nor_mlflow_nor_a_trainer():
    code, modules, printed = run("check", "search_spaces/quick.yaml")
    assert (code, modules & {"ray", "mlflow", "trl", "matplotlib"}) == (0, set()), printed
    assert "study quick: 6 trials by ndcg_at_10" in printed


@pytest.mark.slow
def test_a_check_of_models_that_are_not_here_does_without_transformers_and_peft(tmp_path):
    file = tmp_path / "absent.yaml"
    study = "study: {name: absent, trials: 3}\ndata: {source: demo}\nfixed: {model: nobody/absent-1}\n"
    file.write_text(study + "space: {lora_rank: {choice: [4, 8]}}\n", encoding="utf-8")
    code, modules, printed = run("check", str(file))
    assert (code, modules & {"transformers", "peft", "ray", "mlflow", "trl"}) == (0, set()), printed
    assert "nobody/absent-1" in printed
