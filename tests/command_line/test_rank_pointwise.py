"""An adapter that was asked of each candidate by itself ranks titles as it ranked its validation lists."""

from __future__ import annotations

import numpy as np
import pytest

from reranker import rank
from reranker.artifacts.trial_folder import TrialFolder
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.metrics import ranks_of_target
from reranker.ranking.ranker import Reranker
from tests.trained import small_adapter, validation_lists
from tests.yes_no import save_answering_base

HISTORY, CANDIDATES = ["Dusty Saddle", "Lunar Comet"], ["Silly Clown", "Tender Kiss", "Secret Bride", "Wild Reef"]


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=40))


@pytest.fixture(scope="module", params=["none", "counts"])
def trial(request, data, tmp_path_factory) -> TrialFolder:
    base = save_answering_base(tmp_path_factory.mktemp("base"))
    knobs = {"model": base, "scoring": "pointwise", "objective": "binary_ce", "collaborative_scores": request.param}
    return small_adapter(data, tmp_path_factory.mktemp("trial"), candidates=8, **knobs)


@pytest.fixture(scope="module")
def reranker(trial) -> Reranker:
    return Reranker.load(trial.adapter)


def test_titles_are_ranked_exactly_as_their_validation_lists_were(reranker, trial, data):
    found = reranker.rank_many(validation_lists(data, trial))
    targets = [example.target for example in data.validation(trial.read_config())]
    ranks = ranks_of_target(np.array([ranking.probabilities for ranking in found]), targets)
    _, kept = trial.read_ranks()
    assert ranks.greater.tolist() == kept.greater.tolist()
    assert len(set(kept.greater.tolist())) > 3
    for ranking in found:
        assert sum(ranking.probabilities) == pytest.approx(1)


def test_a_score_stays_what_it_is_in_a_longer_list(reranker):
    (short, longer) = reranker.scores([(HISTORY, CANDIDATES[:2]), (HISTORY, CANDIDATES)])
    assert np.abs(short - longer[:2]).max() < 1e-5


def test_a_list_may_be_longer_than_there_are_letters(reranker, data):
    titles = data.interactions.item_texts[:60]
    assert sorted(reranker.rank(HISTORY, titles).order) == list(range(60))


def test_orders_of_candidates_are_refused_by_the_knob_s_own_rule(reranker):
    assert reranker.rank(HISTORY, CANDIDATES, 1).order == reranker.rank(HISTORY, CANDIDATES).order
    with pytest.raises(InputError, match="permutations must be 1 with scoring: pointwise"):
        reranker.rank(HISTORY, CANDIDATES, 2)


def test_the_command_prints_its_ranking(trial, reranker, capsys):
    assert rank.main(["--adapter", str(trial.path), "--history", *HISTORY, "--candidates", *CANDIDATES]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [CANDIDATES[i] for i in reranker.rank(HISTORY, CANDIDATES).order]
    assert [line.split(maxsplit=2)[2] for line in lines[1:5]] == expected
