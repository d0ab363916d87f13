"""The package as it is installed: away from the checkout, with its own command, presets and place for studies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ["reranker", "results", "search_spaces", "tune", "reranker_tuner.py", "pyproject.toml", "README.md"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of packages that holds the built wheel alone."""
    work = tmp_path_factory.mktemp("wheel")
    source, site = work / "source", work / "site"
    source.mkdir()
    for name in PARTS:
        here = PROJECT / name
        if here.is_dir():
            shutil.copytree(here, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        else:
            shutil.copy(here, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(work)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    return site


def command(site: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), **variables}
    run = [sys.executable, str(site / "bin" / "reranker-tuner"), *words]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_presets_are_there_and_studies_go_where_the_command_is_run(site, tmp_path):
    assert "study demo: 7 trials" in command(site, tmp_path, "check").stdout
    quick = str(site / "search_spaces" / "quick.yaml")
    done = command(site, tmp_path, "search", quick, "--trials", "1", "--no-dashboard", "--set", "data.users=64")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"folder:        {tmp_path}/runs/quick" in done.stdout
    report = (tmp_path / "runs" / "quick" / "report.md").read_text(encoding="utf-8")
    assert "reranker-tuner search" in report
    assert "tune/run_search.py" not in report
    ranked = command(site, tmp_path, "compare", "quick")
    assert ranked.returncode == 0, ranked.stderr
    assert "trial 0" in ranked.stdout


def test_studies_go_to_a_home_of_their_own(site, tmp_path):
    done = command(site, tmp_path, "compare", "nothing", RERANKER_TUNER_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert f"there is no study 'nothing' in {tmp_path}/home/runs" in done.stderr


def test_a_foreign_package_of_the_same_name_is_named(site, tmp_path):
    foreign = tmp_path / "foreign"
    (foreign / "tune").mkdir(parents=True)
    (foreign / "tune" / "__init__.py").touch()
    done = command(site, tmp_path, "check", PYTHONPATH=f"{foreign}:{site}")
    assert done.returncode == 2
    assert f"the package 'tune' must be the one in {site}, but Python finds {foreign}/tune/__init__.py" in done.stderr
