"""What comes from paths, names and titles is shown as it is, and can't act on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from reranker.command_line.printable_text import Terminal, plain, say


def printed(*what: object) -> str:
    file = io.StringIO()
    terminal = Terminal(file)
    for thing in what:
        terminal.print(thing)
    return file.getvalue()


@pytest.mark.parametrize("text", ["[/b]", "[old]/runs", "[red]x[/red]", ":smile:", r"\[x]", "[link=x]y", "{'a': 1}"])
def test_what_looks_like_markup_is_shown_as_it_is(text):
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_row(text)
    assert printed(text).strip() == text
    assert printed(table).strip() == text


def test_control_characters_are_spelled_out():
    text = "a\x1b[2Jb\x07\r\x9b\x7f\u202e"
    shown = "a\\x1b[2Jb\\x07\\x0d\\x9b\\x7f\\u202e"
    table = Table(box=None, show_header=False)
    table.add_row(text)
    assert printed(text).strip() == shown
    assert printed(table).strip() == shown


def test_a_path_that_is_no_text_can_be_shown():
    name = b"runs-\xff".decode("utf-8", "surrogateescape")
    assert plain(name) == "runs-?"
    assert printed(name) == "runs-?\n"


def test_no_secret_is_printed_by_whatever_way(capsys):
    table = Table("https://me:hunter2@h.example", box=None)
    table.add_row("token=hunter2")
    assert "hunter2" not in printed("password: hunter2", table, Table(title="Authorization: Bearer hunter2"))
    say("postgresql://me:hunter2@db/x")
    say("api_key=hunter2", error=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("postgresql://***@db/x\n", "api_key=***\n")


def test_lines_and_letters_stay():
    assert plain("Žluťoučký\tkůň 日本 😀\nnext") == "Žluťoučký\tkůň 日本 😀\nnext"


def test_what_is_to_be_copied_is_not_broken():
    file = io.StringIO()
    Terminal(file, width=40).say("x" * 100)
    assert file.getvalue() == "x" * 100 + "\n"
