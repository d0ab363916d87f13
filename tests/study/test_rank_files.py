"""The ranks of a trial's reports, of which each file is read once, and again when it is another."""

from __future__ import annotations

import numpy as np
import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.metrics import Ranks
from reranker.storage.atomic_files import DamagedFile

USERS = ["u10", "u9", "u1", "ü", "u1"]


def ranks(*greater: int) -> Ranks:
    return Ranks(np.array(greater), np.zeros(len(greater), dtype=int))


@pytest.fixture
def folder(tmp_path) -> TrialFolder:
    folder = TrialFolder(tmp_path)
    folder.keep_report(1, USERS, ranks(0, 1, 2, 3, 4), best=True)
    assert folder.read_report(1).greater.tolist() == [0, 1, 2, 3, 4]
    assert folder.read_ranks_alone().greater.tolist() == [0, 1, 2, 3, 4]
    return folder


def test_a_report_that_was_made_again_is_read_anew(folder):
    folder.keep_report(1, USERS, ranks(4, 3, 2, 1, 0), best=True)
    assert folder.read_report(1).greater.tolist() == [4, 3, 2, 1, 0]
    assert folder.read_ranks_alone().greater.tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_report_that_is_damaged_after_it_was_read_is_said_to_be(folder, damage):
    path = folder.report(1)
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(DamagedFile, match="is missing" if damage == "removed" else "is not a Parquet table"):
        folder.read_report(1)


def test_what_was_read_cannot_be_changed_by_whoever_got_it(folder):
    folder.read_report(1).greater[:] = 9
    folder.read_user_order()[:] = 0
    assert folder.read_report(1).greater.tolist() == [0, 1, 2, 3, 4]
    assert folder.read_user_order().tolist() == [2, 4, 0, 1, 3]


def test_users_are_ordered_by_their_ids_and_lists_of_one_user_as_they_are(folder):
    assert folder.read_user_order().tolist() == np.argsort(folder.read_user_ids(), kind="stable").tolist()
