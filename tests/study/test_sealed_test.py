"""No code path of a search reaches the test items: they are not in the data that it has, and poisoning them changes nothing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import NegativesMix, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import SealedError
from reranker.metrics import METRIC_NAMES, Ranks, summarise
from reranker.modeling.model_cache import BaseModels
from reranker.training.sft import fine_tune
from reranker.zero_shot import zero_shot
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.poisoned import poison_test, poison_validation
from tests.present import present
from tune import run_search
from tune.study_file import loading

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = TrialConfig(candidates=10, negatives=NegativesMix(uniform=0.4, popularity=0.3, retriever=0.3))
DATA = {
    "uniform": DemoData(users=120),
    "popularity": DemoData(users=120, evaluation_negatives="popularity", retriever="popularity"),
    "time": DemoData(users=120, split="time", validation_from=4, test_from=6),
    "time, retrieval": DemoData(
        users=120, split="time", validation_from=4, test_from=6, candidate_mode="retrieval", evaluation_users=100
    ),
    "retrieval": DemoData(users=120, candidate_mode="retrieval", retriever="markov", evaluation_users=100),
}
STUDY = """
study: {name: poisoned, trials: 2, seed: 3, scheduler: none}
data: {source: demo, users: 64, interactions_per_user: 5, candidate_mode: retrieval, retriever: markov, DATA}
fixed: {model: demo-tiny, examples_per_user: 1, negatives: {uniform: 0.5, retriever: 0.5}}
space:
  epochs: {int: [1, 2]}
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
"""


@pytest.fixture(params=DATA)
def whole(request) -> RerankingData:
    return RerankingData.prepare(DATA[request.param])


def lists(data: RerankingData) -> list[Any]:
    return [data.training_examples(CONFIG, 0), data.training_examples(CONFIG, 4), data.validation(CONFIG)]


def flat(ranks: dict[str, Ranks]) -> dict[str, list[list[int]]]:
    return {name: [r.greater.tolist(), r.ties.tolist()] for name, r in ranks.items()}


def test_sealed_data_give_the_same_lists_baselines_and_description(whole):
    sealed = whole.sealed()
    assert lists(sealed) == lists(whole)
    assert flat(sealed.baselines(CONFIG, "validation").ranks) == flat(whole.baselines(CONFIG, "validation").ranks)
    assert sealed.describe(CONFIG) == whole.describe(CONFIG)
    assert sealed.interactions.fingerprint == whole.interactions.fingerprint
    assert sealed.ceiling(CONFIG) == whole.ceiling(CONFIG)
    assert sealed.best_reachable(CONFIG) == whole.best_reachable(CONFIG)


def test_sealed_data_do_not_hold_the_test_items(whole):
    sealed = pickle.loads(pickle.dumps(whole.sealed()))
    for data in (sealed, whole.sealed(), whole.sealed().sealed()):
        assert len(data.split.test.items) == 0
        for short, long in zip(data.interactions.sequences, whole.interactions.sequences, strict=True):
            assert short.tolist() == long[: -2 if whole.split.by_time else -1].tolist()
        parts = [*data.interactions.sequences, *data.split.train]
        assert all(part.base is None for part in parts), "a view would keep the whole sequence"
        assert len(data.interactions.touched) == len(whole.interactions.touched), "what negatives leave out stays"


def test_sealed_data_have_no_test_lists(whole):
    assert [example.user for example in whole.test(CONFIG)] == [example.user for example in whole.validation(CONFIG)]
    sealed = whole.sealed()
    for ask in (
        lambda: sealed.test(CONFIG),
        lambda: sealed.baselines(CONFIG, "test"),
        lambda: sealed.sampler.evaluation_examples("test", n=10, negatives="uniform", users=None, seed=0),
        lambda: sealed.sampler.retrieved_examples("test", n=10, order="shuffled", users=None, seed=0),
    ):
        with pytest.raises(SealedError, match="these data are sealed: they are without the test items"):
            ask()


def test_the_test_may_have_lists_of_more_users_with_the_same_lists_among_them():
    few, more = (
        RerankingData.prepare(DemoData(users=120, evaluation_users=40, test_users=users)) for users in (None, 100)
    )
    assert [len(data.test(CONFIG)) for data in (few, more)] == [40, 100]
    assert set(few.test(CONFIG)) < set(more.test(CONFIG))
    assert lists(more) == lists(few)
    assert more.interactions.fingerprint == few.interactions.fingerprint


def test_poisoned_test_items_change_the_test_lists_and_no_other(whole):
    poisoned = poison_test(whole)
    wrong = poisoned.split.test.items != whole.split.test.items
    assert wrong.all()
    assert lists(poisoned.sealed()) == lists(whole)
    assert flat(poisoned.sealed().baselines(CONFIG, "validation").ranks) == flat(
        whole.baselines(CONFIG, "validation").ranks
    )
    if whole.config.candidate_mode == "retrieval":  # elsewhere the guard may find the new item among the negatives
        assert [e.target for e in poisoned.test(CONFIG)] != [e.target for e in whole.test(CONFIG)]


def test_the_search_seals_its_data(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("tune.check.check_models", lambda study, data, fetch: seen.append(data) or [])
    assert run_search.main([str(PROJECT / "search_spaces" / "quick.yaml"), "--check", "--runs", str(tmp_path)]) == 0
    (data,) = seen
    assert data.split.is_sealed
    assert max(map(len, data.interactions.sequences)) == data.config.interactions_per_user - 1


@pytest.fixture(scope="module", params=["seed: 0", "split: time, validation_from: 3, test_from: 4"])
def searched(request, tmp_path_factory) -> StudyFolder:
    """A real search on poisoned data."""
    folder = tmp_path_factory.mktemp("poisoned")
    (folder / "study.yaml").write_text(STUDY.replace("DATA", request.param), encoding="utf-8")
    command = [sys.executable, str(PROJECT / "tests" / "poisoned.py"), str(folder / "study.yaml")]
    options = ["--runs", str(folder / "runs"), "--concurrency", "1", "--no-dashboard"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return StudyFolder(folder / "runs" / "poisoned")


def differences(study: StudyFolder, data: RerankingData, scratch: Path) -> set[str]:
    """What a study has stored that its configurations do not give on these data, trained without any search."""
    timed = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}
    base = loading.load(study.study_file).base()
    journal = JournalStorage(JournalFileBackend(str(study.journal)))
    told = optuna.load_study(study_name=study.name, storage=journal).trials
    board = pd.read_csv(study.leaderboard).set_index("name")
    baselines = data.baselines(base, "validation").ranks
    pairs: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    pairs["ceiling"] = [(study.read_manifest()["ceiling"], data.ceiling(base))]
    pairs["chance"] = [(study.references()["chance"], summarise(baselines.pop("random")))]
    stored_ranks = {name: study.baseline(name).read_ranks()[1] for name in study.baselines()}
    untrained = zero_shot(base, data, data.validation(base), BaseModels())
    plain, without_prior = study.zero_shot_names(base.model)
    baselines |= {plain: untrained.plain.ranks, without_prior: present(untrained.without_prior).ranks}
    pairs["baselines"] = [(flat(stored_ranks), flat(baselines))]
    for trial, reports in zip(study.trials(), told, strict=True):
        folder, stored = TrialFolder(scratch / str(trial.number)), study.trial(trial.number)
        best = fine_tune(stored.read_config(), data, folder=folder)
        epochs = folder.read_reports()
        assert trial.status is TrialStatus.COMPLETED
        pairs["epochs"] += [
            ({**a, **dict.fromkeys(timed)}, {**b, **dict.fromkeys(timed)})
            for a, b in zip(trial.reports, epochs, strict=True)
        ]
        pairs["ranks"].append((flat({"": stored.read_ranks()[1]}), flat({"": folder.read_ranks()[1]})))
        pairs["journal"].append((reports.intermediate_values, {e["epoch"]: e["ndcg_at_10"] for e in epochs}))
        row = board.loc[f"trial {trial.number}", [*METRIC_NAMES, "val_loss"]]
        pairs["leaderboard"].append((row.to_dict(), {name: best.figures[name] for name in row.index}))
    return {what for what, found in pairs.items() if any(stored != own for stored, own in found)}


@pytest.mark.slow
def test_a_search_on_poisoned_data_is_the_search_on_clean_ones(searched, tmp_path):
    assert len(searched.numbers()) == 2
    assert differences(searched, RerankingData.prepare(loading.load(searched.study_file).data), tmp_path) == set()


@pytest.mark.slow
def test_that_would_notice_other_validation_items(searched, tmp_path):
    other = poison_validation(RerankingData.prepare(loading.load(searched.study_file).data))
    noticed = {"ceiling", "chance", "baselines", "epochs", "ranks", "journal", "leaderboard"}
    assert differences(searched, other, tmp_path) == noticed
