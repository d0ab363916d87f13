"""The sealed test: scored once for the winner, written down, and again only with a reason that stays on record."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest

from reranker.command_line.printable_text import Terminal
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import BaselinePlan
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError
from reranker.metrics import summarise
from reranker.ranking.ranker import Reranker
from reranker.storage.atomic_files import write_file, write_yaml
from results import seal
from results.reporting.write_report import write_report
from results.sealed_test import read_test, show
from results.study.study_folder import StudyFolder
from tests.gallery import GOOD, build
from tests.stored import keep_journal

pytestmark = pytest.mark.slow  # each needs a Ray, or a trained study, of its own

DATA = DemoData(users=120)
FIGURES = {"recipe": {"architecture": "sasrec", "width": 16, "layers": 1}, "epochs": 2}
TRAINED = BaselinePlan(("sasrec",), tuned={"sasrec": FIGURES})


@pytest.fixture(scope="module")
def prepared() -> RerankingData:
    return RerankingData.prepare(DATA)


@pytest.fixture(scope="module")
def study(tmp_path_factory, prepared) -> StudyFolder:
    """Two trainings, searched on sealed data, whose test was read once."""
    poor = GOOD.model_copy(update={"learning_rate": 1e-5, "epochs": 1})
    folder = build(tmp_path_factory.mktemp("runs"), "sealed", prepared.sealed(), [poor, GOOD])
    data = prepared.sealed()
    folder.baseline("sasrec").path.mkdir()
    folder.baseline("sasrec").write_figures(FIGURES)
    users = [data.interactions.user_ids[example.user] for example in data.validation(GOOD)]
    folder.baseline("sasrec").keep_ranks(users, data.baselines(GOOD, "validation", TRAINED).ranks["sasrec"])
    folder.write_manifest(folder.read_manifest() | {"left_out_baselines": {"bm25": "no item text has a word"}})
    read_test(folder)
    return folder


def test_the_winner_is_scored_on_the_test_lists_as_it_stands(study, prepared):
    (reading,) = study.readings()[:1]
    assert (reading["trial"], reading["users"], reading["unseal"]) == (1, 120, "")
    lists, texts = prepared.test(GOOD), prepared.interactions.item_texts
    assert [e.candidates[e.target] for e in lists] == prepared.split.test.items.tolist()
    asked = [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in lists]
    first = [ranking.order[0] for ranking in Reranker.load(study.trial(1).path).rank_many(asked)]
    by_hand = np.mean([place == e.target for place, e in zip(first, lists, strict=True)])
    assert reading["figures"]["recall_at_1"] == pytest.approx(by_hand)


def test_baselines_are_scored_on_the_same_lists_and_compared(study, prepared):
    (reading,) = study.readings()[:1]
    markov = summarise(prepared.baselines(GOOD, "test").ranks["markov"])
    assert reading["references"]["markov"] == pytest.approx(markov)
    gain = reading["figures"]["ndcg_at_10"] - markov["ndcg_at_10"]
    assert reading["against"]["markov"]["mean"] == pytest.approx(gain)
    untrained = {"zero-shot demo-tiny", "zero-shot demo-tiny, no prior"}
    assert untrained < set(reading["against"])
    assert reading["references"]["chance"]["recall_at_1"] == pytest.approx(0.1)


def test_a_trained_baseline_is_trained_again_and_one_that_was_left_out_is_said_to_be(study, prepared):
    (reading,) = study.readings()[:1]
    trained = summarise(prepared.baselines(GOOD, "test", TRAINED).ranks["sasrec"])
    assert reading["references"]["sasrec"] == pytest.approx(trained)
    assert trained != summarise(study.baseline("sasrec").read_ranks()[1])
    shown = io.StringIO()
    show(reading, Terminal(shown))
    assert "bm25 is left out: no item text has a word" in shown.getvalue()
    assert "bm25 is left out: no item text has a word" in write_report(study).read_text(encoding="utf-8")


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
    empty.begin_readings()
    keep_journal(empty)
    assert seal.main(["empty", "--runs", str(tmp_path)]) == 2
    assert "needs a trial that finished an epoch" in capsys.readouterr().err
    assert empty.readings() == []
