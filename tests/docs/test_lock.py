"""The lists of exact versions agree: constraints.txt, and the two with the hashes of every file."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
HASHED = ["requirements-cpu.txt", "requirements-cuda.txt"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {normal(name): version for name, version in found}


@pytest.mark.parametrize("file", HASHED)
def test_the_hashed_versions_are_those_of_the_constraints(file):
    constraints, hashed = pins("constraints.txt"), pins(file)
    assert {name: hashed[name] for name in hashed.keys() & constraints if hashed[name] != constraints[name]} == {}


@pytest.mark.parametrize(("file", "absent"), [("requirements-cpu.txt", {"torch"}), ("requirements-cuda.txt", set())])
def test_all_that_the_project_needs_is_in_them(file, absent):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {normal(re.split(r"[\[<>=]", requirement)[0]) for requirement in project["dependencies"]}
    assert needed - pins(file).keys() == absent


def test_what_nf4_needs_is_where_a_gpu_is():
    assert "bitsandbytes" in pins("requirements-cuda.txt")
    assert "bitsandbytes" not in pins("requirements-cpu.txt")


def test_without_a_gpu_nothing_of_cuda_is_installed():
    kinds = ("nvidia", "cuda", "triton")
    assert [name for name in pins("requirements-cpu.txt") if name.startswith(kinds)] == []
    assert [name for name in pins("requirements-cuda.txt") if name.startswith(kinds)] != []


@pytest.mark.parametrize("file", HASHED)
def test_each_version_has_the_hashes_of_its_files(file):
    blocks = re.split(r"^(?=\S)", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []


def test_each_version_is_for_the_oldest_python_that_the_project_is_for():
    installed = {name for name in pins("constraints.txt") if is_installed(name)}
    assert len(installed) > 100
    needed = {name: "".join(importlib.metadata.metadata(name).get_all("Requires-Python") or []) for name in installed}
    assert {name: rule for name, rule in needed.items() if not SpecifierSet(rule).contains("3.11.0")} == {}


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
