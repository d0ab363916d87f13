"""Configurations judged by reruns with other seeds, and studies compared with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journals import keep_journal

from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.metrics import METRIC_NAMES, Ranks, chance, summarise
from results import compare as compare_module
from results.compare import compare, findings, verdict, winner
from results.contenders import contenders, seed_spread
from results.study_folder import StudyFolder, TrialStatus

USERS = [f"u{i:03d}" for i in range(300)]


def ranks(mean: float, seed: int) -> Ranks:
    drawn = np.random.default_rng(seed).poisson(mean, size=len(USERS))
    return Ranks(np.minimum(drawn, 19).astype(np.int64), np.zeros(len(USERS), np.int64))


def a_study(runs: Path, name: str, trials: list[tuple[float, str]], lists: str = "same") -> StudyFolder:
    """Trials by (mean rank, origin), each with ranks of its own."""
    folder = StudyFolder.create(runs, name)
    popular = ranks(6.0, seed=999)
    folder.write_manifest(
        {
            "metric": "ndcg_at_10", "knobs": ["learning_rate"], "plan": {"validation_lists": len(USERS)}, "lists": lists,
            "references": {"popularity": summarise(popular), "chance": chance(20)}, "best_reachable_recall_at_1": None,
        }
    )  # fmt: skip
    folder.baseline("popularity").path.mkdir(parents=True)
    folder.baseline("popularity").keep_ranks(USERS, popular)
    for number, (mean, origin) in enumerate(trials):
        found = ranks(mean, seed=len(name) * 100 + number)
        folder.start_trial(number, TrialConfig(model="demo-tiny", seed=number).model_dump(), origin)
        figures = {**dict.fromkeys(METRIC_NAMES, 0.0), **summarise(found), "train_loss": 1.0, "val_loss": 1.0}
        folder.trial(number).append_epoch({"epoch": 1, "seconds": 5.0, **figures})
        folder.trial(number).keep_ranks(USERS, found)
        folder.write_status(number, TrialStatus.COMPLETED)
    return folder


@pytest.fixture
def replicated(tmp_path) -> StudyFolder:
    """Trial 0 looks best by luck; reruns say that trial 1 is better."""
    reruns = [(5.0, "replicate of 0"), (5.2, "replicate of 0"), (3.0, "replicate of 1"), (3.1, "replicate of 1")]
    return a_study(tmp_path, "replicated", [(1.0, ""), (3.0, ""), (9.0, ""), *reruns])


def test_reruns_judge_a_configuration_and_the_lucky_run_does_not_count(replicated):
    ranked = contenders(replicated)
    assert [(c.trial.number, [run.number for run in c.replicates]) for c in ranked] == [
        (1, [5, 6]),
        (0, [3, 4]),
        (2, []),
    ]
    by_hand = np.mean([summarise(replicated.trial(n).read_ranks()[1])["ndcg_at_10"] for n in (5, 6)])
    assert ranked[0].score("ndcg_at_10") == pytest.approx(by_hand)
    assert winner(replicated).number == 1
    assert verdict(replicated).startswith(
        "The best configuration (trial 1, 2 other seeds) ranks the true item first for "
    )


def test_a_rerun_that_did_not_finish_judges_nothing(replicated):
    for number in (5, 6):
        replicated.write_status(number, TrialStatus.PRUNED)
    assert winner(replicated).number == 0
    assert [c.trial.number for c in contenders(replicated)] == [0, 1, 2]


def test_luck_with_seeds_and_luck_with_users_are_told_apart(replicated):
    found = compare(replicated)
    groups = [[summarise(replicated.trial(n).read_ranks()[1])["ndcg_at_10"] for n in pair] for pair in ((3, 4), (5, 6))]
    pooled = np.sqrt(np.mean([np.var(group, ddof=1) for group in groups]))
    assert found.seed_spread == pytest.approx(pooled)
    values = contenders(replicated)[0].values("ndcg_at_10")
    assert found.user_error == pytest.approx(values.std(ddof=1) / np.sqrt(300))
    assert any(line.startswith("trial 1, 2 other seeds: 0.") for line in findings(compare(replicated)))
    assert seed_spread([contenders(replicated)[2]], "ndcg_at_10") is None


def test_studies_on_the_same_lists_are_one_comparison(tmp_path):
    first, second = a_study(tmp_path, "a", [(5.0, ""), (6.0, "")]), a_study(tmp_path, "bc", [(2.0, "")])
    found = compare(first, second)
    assert (found.winner.study, found.winner.number) == ("bc", 0)
    assert [(trial.study, trial.number) for trial in found.alike] == [("bc", 0)]
    assert found.against["popularity"].proven


def test_studies_on_other_lists_are_refused(tmp_path, capsys):
    studies = [keep_journal(a_study(tmp_path, name, [(5.0, "")], lists=name)) for name in ("a", "bc")]
    with pytest.raises(InputError, match="same lists"):
        compare(*studies)
    assert compare_module.main(["a", "bc", "--runs", str(tmp_path)]) == 2
    assert "same lists" in capsys.readouterr().err


def test_the_command_names_each_trial_with_its_study(tmp_path, capsys):
    keep_journal(a_study(tmp_path, "a", [(5.0, ""), (6.0, "")]))
    keep_journal(a_study(tmp_path, "bc", [(2.0, "")]))
    assert compare_module.main(["a", "bc", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:5] == ["1", "trial", "0", "of", "bc"]
    assert "NDCG@10 of trial 0 of bc:" in out
    assert out.count("popularity") >= 2
