"""The words of a command line → its exit code and what it said; run in this process, through the command's own `main`."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import reranker_tuner

_CHECKOUT = Path(__file__).resolve().parents[1]


class Told(NamedTuple):
    """A refusal: the exit code, and the sentences after "error: ", in which the working folder is called HERE and the
    project's CHECKOUT."""

    code: int
    text: str


def told(*words: str) -> Told:
    """Run `reranker-tuner WORDS` in the current folder, which must refuse them: see `told_by`."""
    return told_by(reranker_tuner.main, *words)


def told_by(main: Callable[[list[str]], int], *words: str) -> Told:
    """Run a command's main, which must refuse the words: without a trace, and with no other output."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as ended:  # of argparse
            code = ended.code if isinstance(ended.code, int) else 1
    text = err.getvalue()
    assert code != 0, f"it was not refused: {out.getvalue()}"
    assert "Traceback" not in text + out.getvalue(), text
    assert out.getvalue() == "", out.getvalue()
    assert text.startswith("error: "), text
    return Told(code, tidy(text.removeprefix("error: ")))


def tidy(text: str) -> str:
    """The text without what differs from one run to another: folders, and the name of a trace's file."""
    text = text.strip().replace(str(Path.cwd()), "HERE").replace(str(_CHECKOUT), "CHECKOUT")
    return re.sub(r"the whole trace: \S+", "the whole trace: FILE", text)


def table(cases: dict[str, Any]) -> Any:
    """For `pytest.mark.parametrize`: the cases of a table by their names."""
    return [pytest.param(*case, id=name) for name, case in cases.items()]
