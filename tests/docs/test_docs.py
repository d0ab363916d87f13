"""What the documentation says is there: its pages, links, files, commands and options."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reranker.command_line.entry_point import parser_of
from reranker_tuner import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
READ_BY_USERS = [
    page for page in PAGES if page.name not in ("LOG.md", "ARCHITECTURE.md", "RESULTS.md", "PERFORMANCE.md")
]
MODULES = {module: module for module, _ in COMMANDS.values()}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SCRIPTS = {"tune/run_search.py": "tune.run_search"}


def lines_of_code(page: Path) -> list[str]:
    """Indented blocks and single words of code that could be commands, without comments and continued dots."""
    text = page.read_text(encoding="utf-8")
    fenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^(?: {4}|\t)(\S.*)$", fenced, re.MULTILINE)
    return [*blocks, *re.findall(r"`([^`\n]+)`", fenced)]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of each command of ours that the page shows with something behind its name."""
    found = []
    for line in lines_of_code(page):
        try:
            words = shlex.split(line.split(" > ")[0], comments=True)
        except ValueError:
            continue
        match words:
            case ["python", "-m", module, *rest] if module in MODULES:
                found.append((module, rest))
            case ["python", script, "control", *rest] if script in SCRIPTS:
                found.append(("tune.control", rest))
            case ["python", script, *rest] if script in SCRIPTS:
                found.append((SCRIPTS[script], rest))
            case ["reranker-tuner", name, *rest] if name in COMMANDS:
                found.append((COMMANDS[name][0], rest))
    return [(module, rest) for module, rest in found if rest and "…" not in " ".join(rest)]


@pytest.mark.parametrize("page", READ_BY_USERS, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_given(page, capsys):
    faults = []
    for module, words in commands(page):
        parser = parser_of(importlib.import_module(module).main)
        known = {option for action in parser._actions for option in action.option_strings}
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if module != "reranker.train":  # its options are the knobs of the source that is named
            faults += [f"{module} {option}" for option in options - known]
    assert faults == []


def test_the_pages_show_commands():
    shown = {module for page in READ_BY_USERS for module, _ in commands(page)}
    assert {
        "tune.run_search",
        "tune.init",
        "results.compare",
        "results.diagnose",
        "results.seal",
        "reranker.rank",
    } <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_and_file_that_is_named_is_there(page):
    code = lines_of_code(page)
    targets = {match for line in code for match in re.findall(r"^make ([a-z-]+)", line)}
    assert targets - TARGETS == set()
    named = re.findall(
        r"\b(?:docs|search_spaces|reranker|results|tune|bench)/[\w/-]+\.(?:py|md|yaml|ipynb|png|jsonl|json|csv)",
        "\n".join(code),
    )
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    absent = [name for name in named if "/runs/" not in name and not (ROOT / name).exists()]
    absent += [
        link
        for link in links
        if not (page.parent / link).exists()
        and link.split("#")[0] not in ("index.md", "CONTRIBUTING.md", "CHANGELOG.md")
    ]
    assert absent == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    pages = {page.name for page in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "YOUR_DATA.html", "PYTHON.html", "API.html", "NUMBERS.html", "FAQ.html"} <= pages
    assert "StudyResult" in (tmp_path / "site" / "API.html").read_text(encoding="utf-8")
