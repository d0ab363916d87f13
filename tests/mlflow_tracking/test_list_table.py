"""The winner's lists as a table on its run, read back by MLflow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reranker.metrics import NOWHERE, Picks, Ranks
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tests.present import present
from tests.tracked import USERS, deliver
from tune.mlflow_tracking.list_table import FILE, list_table

COUNT = len(USERS)


@pytest.fixture
def known(study) -> StudyFolder:
    """User i takes item i modulo 20, which stands at place i modulo 20; trial 0 puts the third one first, and the lists of the
    first two users lack theirs."""
    candidates, items = np.tile(np.arange(20, dtype=np.int32), (COUNT, 1)), [f"film {i}" for i in range(20)]
    targets = np.arange(COUNT) % 20
    ListFacts(USERS, np.full(COUNT, 4), targets, candidates, items, items, np.arange(20) * 10).keep(study)
    greater = np.where(np.arange(COUNT) < 2, NOWHERE, np.arange(COUNT) % 7)
    picks = Picks(targets, np.full(COUNT, 2), np.full(COUNT, 0.25))
    study.trial(0).keep_ranks(USERS, Ranks(greater, np.zeros(COUNT, np.int64)), picks)
    return study


def test_a_row_a_list_the_worst_first(known):
    table = present(list_table(known, 0))
    assert list(table["user"][:2]) == USERS[:2]
    assert table["rank"][:2].isna().all()
    assert table["rank"][2] == 7
    row = table[table["user"] == USERS[23]].iloc[0]
    assert row.drop("user").to_dict() == {
        "rank": 3, "target": "film 3", "first": "film 2", "first_probability": 0.25, "history": 4, "target_users": 30,
    }  # fmt: skip


def test_users_in_another_order_keep_their_lists(known):
    order = np.random.default_rng(0).permutation(COUNT)
    users, ranks = known.trial(0).read_ranks()
    picks = present(known.trial(0).read_picks())
    before = present(list_table(known, 0))
    moved = Picks(picks.target[order], picks.first[order], picks.probability[order])
    known.trial(0).keep_ranks([users[i] for i in order], ranks.of(order), moved)
    pd.testing.assert_frame_equal(present(list_table(known, 0)), before)


def test_mlflow_reads_it_back_once_however_often_it_is_delivered(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow makes a store that nobody asks
    # `load_table` asks no other store than this one, which an earlier test of the process may have set
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", tracking_uri_of(known))
    deliver(known)
    seen = deliver(known)
    run = seen.runs["0"].info.run_id
    table = seen.client.load_table(seen.experiment.experiment_id, FILE, run_ids=[run])
    assert len(table) == COUNT
    assert set(table["first"]) == {"film 2"}
    assert FILE not in seen.artifacts("1")


def test_a_study_without_its_lists_has_no_table(study):
    assert list_table(study, 0) is None
    assert FILE not in deliver(study).artifacts("0")
