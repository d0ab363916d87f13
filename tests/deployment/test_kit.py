"""The kit for machines without a network, as it is made and installed; its packages are left out, as on a machine that has them."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from deploy.kit.make_kit import wanted
from reranker.modeling.checkpoints.model_files import BUNDLED

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def make_kit(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "deploy" / "kit" / "make_kit.py"), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment)


def packages() -> list[str]:
    """All of the lock's."""
    lock = (PROJECT / "requirements-cpu.txt").read_text(encoding="utf-8")
    return [*re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", lock, re.MULTILINE), "torch"]


def install(kit: Path, target: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": sysconfig.get_path("purelib"), **variables}
    command = ["sh", str(kit / "install.sh"), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "kit"
    done = make_kit("--without", *packages(), "--models", "demo-tiny", "--part-mib", "1", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_its_parts_are_small_and_are_installed_into_one_folder(kit, tmp_path):
    parts = sorted(kit.glob("kit.tar.*"))
    assert len(parts) > 1
    assert {part.stat().st_size for part in parts[:-1]} == {2**20}
    done = install(kit, tmp_path / "box")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == "reranker-tuner 0.1.0"
    assert sorted(path.name for path in (tmp_path / "box").iterdir()) == ["project", "venv"]
    assert (tmp_path / "box" / "project" / "search_spaces" / "demo.yaml").exists()


def test_a_damaged_part_and_another_python_are_refused(kit, tmp_path):
    (kit / "kit.env").write_text((kit / "kit.env").read_text().replace("kit_python=3.", "kit_python=2."))
    done = install(kit, tmp_path / "box")
    assert done.returncode == 2
    assert "this kit is for Python 2." in done.stderr
    (kit / "kit.env").write_text((kit / "kit.env").read_text().replace("kit_python=2.", "kit_python=3."))
    with (kit / "kit.tar.000").open("r+b") as file:
        file.write(b"damaged")
    done = install(kit, tmp_path / "box")
    assert done.returncode == 1
    assert "a part is missing or damaged: copy it again" in done.stderr
    assert not (tmp_path / "box").exists()


def test_torch_is_left_out_with_what_only_its_cuda_build_needs():
    lock = (PROJECT / "requirements-cuda.txt").read_text(encoding="utf-8")
    left, every = ({re.split("[=[ ]", entry)[0] for entry in wanted(lock, without)} for without in ({"torch"}, set()))
    assert {"nvidia-cublas", "cuda-bindings", "triton", "torch"} <= every - left
    assert {"ray", "transformers", "numpy"} <= left


def test_what_is_asked_wrongly_is_told_at_once(tmp_path):
    (tmp_path / "something").write_text("")
    done = make_kit("--python", "three", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "--python: must be a version such as 3.12 (got 'three')" in done.stderr
    assert "--out: must be empty or not there" in done.stderr


def test_a_model_of_the_hub_s_cache_goes_as_it_lies_there(tmp_path):
    stored = tmp_path / "hub" / "models--a--b"
    shutil.copytree(BUNDLED / "demo-tiny", stored / "snapshots" / "1234")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("1234")
    arguments = ["--without", *packages(), "--models", "a/b", "--out", str(tmp_path / "kit")]
    done = make_kit(*arguments, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    joined = b"".join(part.read_bytes() for part in sorted((tmp_path / "kit").glob("kit.tar.*")))
    with tarfile.open(fileobj=io.BytesIO(joined)) as tar:
        names = tar.getnames()
    assert "hub/models--a--b/refs/main" in names
    assert "hub/models--a--b/snapshots/1234/model.safetensors" in names
