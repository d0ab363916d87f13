"""A copy of a trial's folder on another machine is sent back whole, in an order that can be cut off anywhere."""

from __future__ import annotations

import os

import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from tune.cluster.folder_copies import FolderCopy, content_of


@pytest.fixture
def original(tmp_path) -> TrialFolder:
    folder = TrialFolder(tmp_path / "original")
    folder.write_config(TrialConfig(model="demo-tiny"))
    folder.append_report({"epoch": 1})
    with folder.keeping_state(10) as state:
        (state / "optimizer.pt").write_bytes(b"ten")
    return folder


@pytest.fixture
def copy(original, tmp_path) -> FolderCopy:
    copy = FolderCopy(original.path, tmp_path / "copy")
    copy.fetch(content_of(original.path))
    return copy


def test_a_copy_holds_what_the_original_holds(original, copy):
    there = TrialFolder(copy.place)
    assert there.read_config() == original.read_config()
    assert there.read_reports() == [{"epoch": 1}]
    state = there.last_state()
    assert state is not None
    assert (state / "optimizer.pt").read_bytes() == b"ten"


def test_what_has_not_changed_is_not_sent(copy):
    changes = copy.changes()
    assert (changes.written, changes.removed) == ((), ())


def test_what_was_written_and_removed_there_is_so_here(original, copy):
    there = TrialFolder(copy.place)
    with there.keeping_state(20) as state:
        (state / "optimizer.pt").write_bytes(b"twenty")
    there.append_report({"epoch": 2})
    copy.changes().apply(original.path)
    assert original.read_reports() == [{"epoch": 1}, {"epoch": 2}]
    assert [path.name for path in original.path.glob("state*")] == ["state-20"]
    state = original.last_state()
    assert state is not None
    assert (state / "optimizer.pt").read_bytes() == b"twenty"


def test_a_report_s_line_is_the_last_thing_that_is_sent(copy):
    there = TrialFolder(copy.place)
    (there.path / "ranks.parquet").write_bytes(b"first")
    there.append_report({"epoch": 2})
    assert [name for name, _ in copy.changes().written] == ["ranks.parquet", "epochs.jsonl"]


def test_nor_is_it_sent_earlier_where_the_clock_was_set_back(copy):
    there = TrialFolder(copy.place)
    (there.path / "ranks.parquet").write_bytes(b"first")
    there.append_report({"epoch": 2})
    with there.keeping_state(20) as state:
        (state / "optimizer.pt").write_bytes(b"twenty")
    for name in ("epochs.jsonl", "state-20/files.json"):
        os.utime(there.path / name, (0, 0))
    sent = [name for name, _ in copy.changes().written]
    assert sent[:2] == ["ranks.parquet", "state-20/optimizer.pt"]
    assert set(sent[2:]) == {"epochs.jsonl", "state-20/files.json"}


def test_what_is_half_written_stays_there(copy):
    (copy.place / "state.tmp").mkdir()
    (copy.place / "state.tmp" / "optimizer.pt").write_bytes(b"half")
    assert copy.changes().written == ()


def test_what_the_driver_wrote_meanwhile_stays(original, copy):
    original.add_note("out of memory at micro batch 8; went on with 4")
    TrialFolder(copy.place).append_report({"epoch": 2})
    copy.changes().apply(original.path)
    assert original.read_notes() == ["out of memory at micro batch 8; went on with 4"]
