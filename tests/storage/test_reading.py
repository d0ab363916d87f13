"""The sealed test: scored once for the winner, written down, and again only with a reason that stays on record."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from reranker.config import DemoData
from reranker.data.assemble import RerankingData
from reranker.errors import EnvironmentFault, InputError
from reranker.metrics import summarise
from reranker.ranker import Reranker
from reranker.storage.atomic_files import write_file, write_yaml
from results import seal
from results.reporting.write_report import write_report
from results.sealed_test import read_test
from results.study.study_folder import StudyFolder
from tests.gallery import GOOD, build
from tests.stored import keep_journal

DATA = DemoData(users=120)


@pytest.fixture(scope="module")
def prepared() -> RerankingData:
    return RerankingData.prepare(DATA)


@pytest.fixture(scope="module")
def study(tmp_path_factory, prepared) -> StudyFolder:
    """Two trainings, searched on sealed data, whose test was read once."""
    poor = GOOD.model_copy(update={"learning_rate": 1e-5, "epochs": 1})
    folder = build(tmp_path_factory.mktemp("runs"), "sealed", prepared.sealed(), [poor, GOOD])
    read_test(folder)
    return folder


def test_the_winner_is_scored_on_the_test_lists_as_it_stands(study, prepared):
    (reading,) = study.readings()[:1]
    assert (reading["trial"], reading["users"], reading["unseal"]) == (1, 120, "")
    lists, texts = prepared.test(GOOD), prepared.interactions.item_texts
    assert [e.candidates[e.target] for e in lists] == prepared.split.test.tolist()
    asked = [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in lists]
    first = [ranking.order[0] for ranking in Reranker.load(study.trial(1).path).rank_many(asked)]
    by_hand = np.mean([place == e.target for place, e in zip(first, lists, strict=True)])
    assert reading["figures"]["recall_at_1"] == pytest.approx(by_hand)


def test_baselines_are_scored_on_the_same_lists_and_compared(study, prepared):
    (reading,) = study.readings()[:1]
    markov = summarise(prepared.baselines(GOOD, "test")["markov"])
    assert reading["references"]["markov"] == pytest.approx(markov)
    gain = reading["figures"]["ndcg_at_10"] - markov["ndcg_at_10"]
    assert reading["against"]["markov"]["mean"] == pytest.approx(gain)
    untrained = {"zero-shot demo-tiny", "zero-shot demo-tiny, no prior"}
    assert untrained < set(reading["against"])
    assert reading["references"]["chance"]["recall_at_1"] == pytest.approx(0.1)


def test_a_second_reading_needs_a_reason_and_stays_on_record(study):
    with pytest.raises(InputError, match=r"was read once, last on .* for trial 1"):
        read_test(study)
    before = len(study.readings())
    second = read_test(study, unseal="the first one was of another base")
    assert study.readings()[before] == json.loads(json.dumps(second))
    assert second["unseal"] == "the first one was of another base"
    report = write_report(study).read_text(encoding="utf-8")
    assert "the first one was of another base" in report


def test_other_data_are_refused_and_nothing_is_written(study):
    before = len(study.readings())
    text = study.study_file.read_text(encoding="utf-8")
    write_yaml(study.study_file, text.replace("users: 120", "users: 121"))
    try:
        with pytest.raises(InputError, match="they have changed"):
            read_test(study, unseal="x")
    finally:
        write_file(study.study_file, text)
    assert len(study.readings()) == before


def test_nothing_is_read_while_a_search_runs(study):
    with study.locked(), pytest.raises(EnvironmentFault, match="a search is running"):
        read_test(study, unseal="x")


def test_a_study_without_a_winner_keeps_its_seal(tmp_path, study, capsys):
    empty = StudyFolder.create(tmp_path, "empty")
    manifest = study.read_manifest()
    empty.write_manifest({**manifest, "references": {"chance": manifest["references"]["chance"]}})
    shutil.copy(study.study_file, empty.study_file)
    keep_journal(empty)
    assert seal.main(["empty", "--runs", str(tmp_path)]) == 2
    assert "needs a trial that finished an epoch" in capsys.readouterr().err
    assert empty.readings() == []
