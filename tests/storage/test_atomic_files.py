"""How the project's files are written and read: whole or not at all, and one sentence where one is damaged."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import stat
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import (
    DamagedFile,
    append_line,
    read_json,
    read_lines,
    read_table,
    read_yaml,
    write_file,
    write_json,
    write_table,
    write_yaml,
)

LINES: list[dict[str, Any]] = [
    {"epoch": 1, "loss": 0.1 + 0.2},
    {"epoch": 2, "loss": float("nan")},
    {"title": "Amélie – „1“"},
]


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 64 kB."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_lines_are_read_as_they_were_added(tmp_path):
    for line in LINES:
        append_line(tmp_path / "a.jsonl", line)
    assert json.dumps(read_lines(tmp_path / "a.jsonl")) == json.dumps(LINES)
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("torn", [b'{"epoch": 2, "lo', b"{", b"\xff\xfe", b'{"epoch": 3, "checksum": "0"}'])
def test_a_torn_tail_is_not_read_and_the_next_line_takes_its_place(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    append_line(path, LINES[0])
    with path.open("ab") as file:
        file.write(torn)
    assert read_lines(path) == [LINES[0]]
    append_line(path, LINES[2])
    assert read_lines(path) == [LINES[0], LINES[2]]


def test_a_torn_tail_longer_than_what_is_read_at_once_is_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, LINES[0])
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    append_line(path, LINES[2])
    assert read_lines(path) == [LINES[0], LINES[2]]


def test_on_a_full_disk_a_line_is_added_whole_or_not_at_all(full_disk):
    path, added = full_disk / "a.jsonl", []

    def fill() -> None:
        for number in range(10_000):
            append_line(path, {"number": number, "text": "x" * 700})
            added.append(number)

    with pytest.raises(EnvironmentFault, match="no space is left") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert len(added) > 10
    assert [line["number"] for line in read_lines(path)] == added
    assert path.read_bytes().endswith(b"}\n")


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_beside_it(full_disk):
    write_file(full_disk / "a.txt", "old")
    with pytest.raises(EnvironmentFault, match="no space is left"):
        write_file(full_disk / "a.txt", "x" * 200_000)
    assert [(path.name, path.read_text()) for path in full_disk.iterdir()] == [("a.txt", "old")]


def _add(path: Path, who: int) -> None:
    for number in range(50):
        append_line(path, {"who": who, "number": number, "text": "x" * 5_000})


def test_processes_that_add_at_once_lose_no_line(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path / "a.jsonl", who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = read_lines(tmp_path / "a.jsonl")
    for who in range(3):
        assert [line["number"] for line in lines if line["who"] == who] == list(range(50))


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "is empty"),
        (b"null\n", "has no checksum"),
        (b"[1]", "has no checksum"),
        (b"\x00\xff\x80", "it is not text"),
        (b'{"a": 1', "it is not JSON"),
        (b'{"a": 2, "checksum": "3d1f5df8"}', "it is not what was written"),
        (b"[" * 100_000, "it is not JSON"),
    ],
)
def test_damaged_json_is_one_sentence_that_names_the_file(tmp_path, content, damage):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=damage) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_figure_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, {"ndcg_at_10": 0.41})
    append_line(path, {"ndcg_at_10": 0.42})
    path.write_text(path.read_text().replace("0.42", "0.92"))
    with pytest.raises(DamagedFile, match="in line 2"):
        read_lines(path)


@pytest.mark.parametrize("content", [b"", b"PAR1 no table", None])
def test_a_damaged_table_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.parquet"
    write_table(path, pd.DataFrame({"greater": [1, 2]}))
    assert read_table(path, ["greater"])["greater"].tolist() == [1, 2]
    with pytest.raises(DamagedFile, match="lacks the column 'ties'"):
        read_table(path, ["greater", "ties"])
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(DamagedFile, match=r"a\.parquet is"):
        read_table(path, ["greater"])


def test_a_flipped_bit_in_a_table_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, pd.DataFrame({"greater": range(10_000)}))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"a\.parquet is damaged"):
        read_table(path, ["greater"])


@pytest.mark.parametrize(
    ("spoil", "damage"),
    [
        (lambda text: text[:20], "is damaged"),
        (lambda text: text.replace("3", "4"), "edited"),
        (lambda text: "", "is empty"),
    ],
)
def test_a_yaml_file_that_was_cut_or_edited_is_one_sentence(tmp_path, spoil, damage):
    path = tmp_path / "a.yaml"
    write_yaml(path, "study: {trials: 3}\nspace: {epochs: 2}\n")
    assert read_yaml(path) == {"study": {"trials": 3}, "space": {"epochs": 2}}
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DamagedFile, match=damage):
        read_yaml(path)


def test_a_missing_file_and_a_folder_in_its_place_are_told(tmp_path):
    with pytest.raises(DamagedFile, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DamagedFile, match=r"a\.json cannot be read: Is a directory"):
        read_json(tmp_path / "a.json")


def test_a_pipe_in_its_place_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DamagedFile, match=r"a\.json cannot be read: it is no file"):
        read_json(tmp_path / "a.json")


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_json(tmp_path / "a.json", {})
        append_line(tmp_path / "a.jsonl", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_damage_survives_pickling(tmp_path):
    damage = DamagedFile(tmp_path / "a", "is missing", "restore it")
    again = pickle.loads(pickle.dumps(damage))
    assert (str(again), again.path, again.exit_code) == (str(damage), damage.path, 2)
