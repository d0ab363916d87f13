"""No file that is read can run anything: no pickle but plain tensors, no code that comes with a model."""

from __future__ import annotations

import ast
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from reranker.artifacts.adapter_files import ADAPTER_COUNTS, read_title_scores
from reranker.config import TrialConfig
from reranker.errors import RerankerError
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.model_loading import load_base
from reranker.storage.atomic_files import DamagedFile

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *ROOT.glob("reranker/**/*.py"),
    *ROOT.glob("results/**/*.py"),
    *ROOT.glob("tune/**/*.py"),
    ROOT / "reranker_tuner.py",
]
FORBIDDEN = {"pickle.load", "pickle.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system"}


class Acts:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_base_model_that_is_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    model, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(BUNDLED / "demo-tiny", model)
    (model / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Acts(proof)}, model / "pytorch_model.bin")
    with pytest.raises(RerankerError):
        load_base(TrialConfig(model=str(model)), torch.device("cpu"))
    assert not proof.exists()


def test_counts_that_are_pickled_are_damage_and_do_not_run(tmp_path):
    proof, file = tmp_path / "proof", io.BytesIO()
    np.savez(file, titles=np.array([Acts(proof)], dtype=object))
    (tmp_path / ADAPTER_COUNTS).write_bytes(file.getvalue())
    with pytest.raises(DamagedFile):
        read_title_scores(tmp_path)
    assert not proof.exists()


def calls(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}


def test_no_call_of_ours_reads_pickles_or_runs_what_it_reads():
    assert len(SOURCES) > 150
    found = []
    for path in SOURCES:
        for name, words in calls(path):
            unsafe = name in FORBIDDEN
            unsafe |= name.endswith("torch.load") and words.get("weights_only") != "True"
            unsafe |= name == "np.load" and words.get("allow_pickle") != "False"
            unsafe |= words.get("trust_remote_code", "False") != "False"
            unsafe |= words.get("shell") == "True"
            found += [f"{path.relative_to(ROOT)}: {name}"] * unsafe
    assert found == []
