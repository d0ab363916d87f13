"""What an untrained base answers, with and without its label prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock

from reranker import zero_shot
from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import EncodedLists, inspect, score
from reranker.metrics import ranks_of_target
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.zero_shot import keep_zero_shot
from tests.present import present

CONFIG = TrialConfig(model="demo-tiny", history_length=6)


@pytest.fixture(scope="module")
def kept(demo, tmp_path_factory) -> tuple[TrialFolder, TrialFolder]:
    folder = tmp_path_factory.mktemp("zero-shot")
    folders = TrialFolder(folder / "plain"), TrialFolder(folder / "no prior")
    keep_zero_shot(CONFIG, demo, BaseModels(), *folders)
    return folders


def base_scores(data: RerankingData) -> np.ndarray:
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), data.interactions.item_texts), CONFIG)
    return score(load_base(CONFIG, torch.device("cpu")), EncodedLists.of(encoder, data.validation(CONFIG)))


def test_the_ranks_are_those_of_the_base_without_an_adapter(kept, demo):
    users, ranks = kept[0].read_ranks()
    expected = ranks_of_target(base_scores(demo), [e.target for e in demo.validation(CONFIG)])
    assert ranks.greater.tolist() == expected.greater.tolist()
    assert users == demo.interactions.user_ids


def test_a_label_that_the_base_prefers_whatever_it_holds_loses_its_advantage(demo, tmp_path, monkeypatch):
    """The demo's base has hardly a prior, so one is planted: label D gets eight nats more."""
    planted = np.where(np.arange(20) == 3, 8.0, 0.0)
    monkeypatch.setattr(
        zero_shot, "inspect", lambda *given: replace(inspect(*given), scores=inspect(*given).scores + planted)
    )
    plain, without = TrialFolder(tmp_path / "plain"), TrialFolder(tmp_path / "without")
    keep_zero_shot(CONFIG, demo, BaseModels(), plain, without)
    first = [np.bincount(present(folder.read_picks()).first, minlength=20) / 300 for folder in (plain, without)]
    assert first[0].argmax() == 3
    assert first[0][3] > 0.5
    assert first[1][3] < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
    assert np.argmax(plain.read_figures()["label_prior"]) == 3


def test_the_figures_say_what_the_prior_is(kept):
    figures = kept[0].read_figures()
    prior = np.array(figures["label_prior"])
    assert prior.sum() == pytest.approx(1)
    assert 0 < figures["label_mass"] <= 1
    assert figures["seconds_per_list"] > 0


def test_who_comes_second_leaves_it_to_the_first(demo, tmp_path):
    plain, other = TrialFolder(tmp_path / "plain"), TrialFolder(tmp_path / "other")
    plain.path.mkdir()
    with FileLock(plain.path / "lock"):
        keep_zero_shot(CONFIG, demo, BaseModels(), plain, other)
    assert not plain.has_ranks
