"""Who may open what is made: its user; the user's group where that is asked for; nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranker.errors import InputError
from reranker.storage.atomic_files import append_line, write_file
from reranker.storage.file_permissions import SHARE, make_file, make_folder
from tests.stored import Maker, keep_journal


@pytest.fixture(params=[0o022, 0o000])
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_its_user_may_open_what_is_made(tmp_path, monkeypatch, umask):
    monkeypatch.delenv(SHARE, raising=False)
    write_file(tmp_path / "a" / "b" / "file", "x")
    append_line(tmp_path / "lines" / "file", {})
    make_file(tmp_path / "empty")
    folders = [tmp_path / name for name in ("a", "a/b", "lines")]
    files = [tmp_path / name for name in ("a/b/file", "lines/file", "empty")]
    assert {mode(path) for path in folders} == {0o700}
    assert {mode(path) for path in files} == {0o600}


def test_a_group_may_where_that_is_asked_for_and_the_umask_leaves_it(tmp_path, monkeypatch, umask):
    monkeypatch.setenv(SHARE, "group")
    write_file(tmp_path / "a" / "file", "x")
    assert mode(tmp_path / "a") == 0o770 & ~umask
    assert mode(tmp_path / "a" / "file") == 0o660 & ~umask


def test_a_group_that_is_asked_for_in_other_words_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(SHARE, "1")
    with pytest.raises(InputError, match=r"^RERANKER_TUNER_SHARE: must be group, or empty \(got '1'\)$"):
        write_file(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv(SHARE, raising=False)
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    (tmp_path / "file").touch(0o640)
    make_file(tmp_path / "file")
    assert (mode(tmp_path), mode(tmp_path / "file")) == (0o755, 0o640)


def test_nobody_else_may_read_a_study(tmp_path, monkeypatch, umask):
    monkeypatch.delenv(SHARE, raising=False)
    study = keep_journal(Maker(tmp_path / "runs", "films").baseline("popularity", 0.5).trial(0.5).study)
    study.record_act("an act")
    with study.locked():
        pass
    found = [tmp_path / "runs", study.path, *study.path.rglob("*")]
    assert len(found) > 12
    assert {path.name: oct(mode(path)) for path in found if mode(path) & 0o077} == {}
