"""What no command foresaw: one sentence, a file with the trace, and exit code 1; a stack trace with `--debug` alone."""

from __future__ import annotations

import importlib
import re
import tempfile
from pathlib import Path

import pytest

import reranker_tuner
from reranker.command_line import entry_point
from tests.told import Told, table, told, told_by

CASES = {
    "a division": ("1 / 0", (1, "an unexpected error, ZeroDivisionError: division by zero")),
    "no message": ("raise RuntimeError", (1, "an unexpected error, RuntimeError")),
    "several lines": ("raise OSError('a\\nb')", (1, "an unexpected error, OSError: a")),
    "a file that is not there": ("open('/nowhere/x')", (1, "/nowhere/x: No such file or directory")),
    "a folder in its place": ("open('/')", (1, "/: Is a directory")),
    "no memory": ("raise MemoryError", (1, "this machine has no memory left")),
    "recursion without end": ("f = lambda: f(); f()", (1, "an unexpected error, RecursionError: maximum recursion depth exceeded")),
    "an assertion": ("assert False", (1, "an unexpected error, AssertionError")),
    "a secret": ("raise ValueError('postgresql://me:hunter2@db/x')", (1, "an unexpected error, ValueError: postgresql://***@db/x")),
    "an escape sequence": ("raise ValueError('\\x1b[31mred')", (1, "an unexpected error, ValueError: \\x1b[31mred")),
    "a syntax error": ("1 +", (1, "an unexpected error, SyntaxError: invalid syntax (broken_command.py, line 1)")),
    "a package that is missing": ("import fastapi_of_another_world.responses", (2, "the package fastapi_of_another_world is missing from this environment: install it with pip")),
    "a name that a package lacks": ("from json import nothing", (1, "an unexpected error, ImportError: cannot import name 'nothing' from 'json'")),
}  # fmt: skip


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A command whose module fails as it is imported, or as it runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(reranker_tuner.COMMANDS, "broken", ("broken_command", "fails"))
    monkeypatch.delitem(importlib.import_module("sys").modules, "broken_command", raising=False)

    def make(code: str) -> None:
        (tmp_path / "broken_command.py").write_text(code, encoding="utf-8")
        importlib.invalidate_caches()

    return make


@pytest.mark.parametrize(("code", "says"), table(CASES))
def test_what_fails_as_a_command_is_imported_is_one_sentence(code, says, broken):
    broken(code)
    exit_code, text = told("broken")
    sentence, *rest = text.splitlines()
    assert (exit_code, re.sub(r" \(/\S+\)$", "", sentence)) == says
    assert rest == (["the whole trace: FILE"] if exit_code == 1 else [])


def test_the_trace_is_in_the_file_that_is_named(broken, capsys):
    broken("1 / 0")
    assert reranker_tuner.main(["broken"]) == 1
    (named,) = re.findall(r"the whole trace: (\S+)", capsys.readouterr().err)
    assert "ZeroDivisionError: division by zero" in Path(named).read_text(encoding="utf-8")


def test_the_trace_is_shown_with_debug_alone(broken, capsys):
    broken("1 / 0")
    assert reranker_tuner.main(["broken", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("command", reranker_tuner.COMMANDS)
def test_every_command_has_the_net_of_its_own(command, monkeypatch):
    """They are also run as modules, without `reranker_tuner.main` around them."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(entry_point.Parser, "parse_known_args", fail)
    main = importlib.import_module(reranker_tuner.COMMANDS[command][0]).main
    rule = "an unexpected error, ZeroDivisionError\nthe whole trace: FILE"
    assert told_by(main, "x") == Told(1, rule)
