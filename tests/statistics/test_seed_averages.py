"""Configurations judged by reruns with other seeds, and studies compared with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.metrics import Ranks, chance, summarise
from reranker.storage.atomic_files import write_yaml
from results import compare as compare_module
from results.reporting.report_leaderboard import board_of
from results.statistics.comparison import compare, winner
from results.statistics.seed_averages import configuration_results, estimates, seed_spread
from results.statistics.verdict_text import findings, verdict
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import Origin
from tests.present import present
from tests.stored import keep_journal, report

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
        folder.start_trial(number, TrialConfig(model="demo-tiny", seed=number), Origin.parse(origin))
        report(folder.trial(number), USERS, found)
        folder.write_status(number, TrialStatus.COMPLETED)
    write_yaml(folder.study_file, "study: {name: a}\ndata: {source: demo}\n")
    return keep_journal(folder)


def scored(runs: Path, name: str, trials: list[tuple[float, str]]) -> StudyFolder:
    """Trials by (NDCG@10, origin): the ranks are the same, only the figures differ."""
    folder = a_study(runs, name, [(4.0, origin) for _, origin in trials])
    for number, (score, _) in enumerate(trials):
        (folder.trial(number).path / "epochs.jsonl").unlink()
        report(folder.trial(number), USERS, ranks(4.0, seed=0), ndcg_at_10=score)
    return folder


def rerun(number: int, *scores: float) -> list[tuple[float, str]]:
    return [(score, f"replicate of {number}") for score in scores]


@pytest.fixture
def replicated(tmp_path) -> StudyFolder:
    """Trial 0 looks best by luck; with reruns trial 1 is better on average."""
    reruns = [*rerun(0, 0.620, 0.630), *rerun(1, 0.652, 0.648)]
    return scored(tmp_path, "replicated", [(0.660, ""), (0.645, ""), (0.400, ""), *reruns])


def order(study: StudyFolder) -> list[int]:
    return [configuration_result.trial.number for configuration_result in configuration_results(study)]


# One estimate for all configurations


def test_a_configuration_is_judged_by_the_mean_of_all_its_runs(replicated):
    assert [(c.trial.number, [run.number for run in c.runs]) for c in configuration_results(replicated)] == [
        (1, [1, 5, 6]), (0, [0, 3, 4]), (2, [2])
    ]  # fmt: skip
    assert configuration_results(replicated)[0].score("ndcg_at_10") == pytest.approx(np.mean([0.645, 0.652, 0.648]))
    assert present(winner(replicated)).number == 1
    assert verdict(replicated).startswith(
        "The best configuration (trial 1, mean of 3 seeds) ranks the true item first for "
    )


def test_a_rerun_that_did_not_finish_judges_nothing(replicated):
    for number in (5, 6):
        replicated.write_status(number, TrialStatus.PRUNED)
    assert [len(c.runs) for c in configuration_results(replicated)] == [1, 3, 1]
    assert order(replicated) == [1, 0, 2]


def test_a_new_trial_that_is_clearly_better_wins_over_replicated_ones(tmp_path):
    trials = [(0.650, ""), (0.640, ""), *rerun(0, 0.655, 0.645, 0.652), (0.70, "")]
    assert order(scored(tmp_path, "a", trials)) == [5, 0, 1]


def test_one_lucky_run_that_is_slightly_ahead_of_a_replicated_mean_does_not_win(tmp_path):
    trials = [(0.650, ""), (0.640, ""), (0.635, ""), (0.642, ""), *rerun(0, 0.660, 0.640, 0.650), (0.652, "")]
    study = scored(tmp_path, "a", trials)
    assert order(study)[:2] == [0, 7]
    line = "Not replicated yet: trial 7 (0.652 in its one run) is ahead of trial 0 (mean 0.650). "
    assert any(found.startswith(line) for found in findings(compare(study)))


def test_a_winner_with_one_run_is_called_not_replicated_where_others_are(tmp_path):
    study = scored(tmp_path, "a", [(0.650, ""), (0.640, ""), *rerun(0, 0.655, 0.645, 0.652), (0.70, "")])
    assert any(line.startswith("Not replicated yet: trial 5 leads by one run;") for line in findings(compare(study)))


def test_configurations_that_learned_nothing_do_not_make_a_lucky_run_believed(tmp_path):
    near = [(0.650, ""), (0.640, ""), (0.635, ""), (0.642, ""), *rerun(0, 0.660, 0.640, 0.650), (0.652, "")]
    at_chance = [(0.1 + 0.01 * i, "") for i in range(12)]
    assert order(scored(tmp_path, "a", [*near, *at_chance]))[:2] == [0, 7]


def test_the_estimate_is_the_mean_drawn_towards_that_of_all_the_more_the_fewer_the_runs(tmp_path):
    trials = [(0.640, ""), (0.600, ""), (0.620, ""), *rerun(0, 0.660)]
    found = configuration_results(scored(tmp_path, "a", trials))
    first, second, third = estimates(found, "ndcg_at_10")
    noise, means = (
        0.02**2 / 2,
        np.array([0.650, 0.620, 0.600]),
    )  # between the two seeds of trial 0; no trial is far behind
    own = noise / np.array([2, 1, 1])
    between = np.var(means, ddof=1) - own.mean()
    centre = np.average(means, weights=1 / (between + own))
    by_hand = centre + between / (between + own) * (means - centre)
    assert [first.value, second.value, third.value] == pytest.approx(list(by_hand))
    assert first.error == pytest.approx(np.sqrt(between / (between + own[0]) * own[0]))


def test_the_report_s_leaderboard_begins_with_the_winner_whatever_others_have_on_a_part_of_the_lists(tmp_path):
    study = scored(tmp_path, "part", [(0.72, ""), (0.701, ""), (0.60, ""), *rerun(0, 0.68, 0.70)])
    for number in (5, 6):
        study.start_trial(number, TrialConfig(model="demo-tiny", seed=number))
        report(study.trial(number), USERS, ranks(4.0, seed=0), ndcg_at_10=0.9, scored_share=0.25)
        study.write_status(number, TrialStatus.PRUNED)
    ranked = configuration_results(study)
    rows = [row for row in board_of(study, ranked, compare(study, ranked=ranked)).rows if row.kind == "trial"]
    assert [row.name for row in rows] == [f"trial {number}" for number in (0, 1, 2, 5, 6)]
    assert rows[0].place == "winner"


def test_without_a_replicate_the_scores_stand_as_they_are(tmp_path):
    found = estimates(configuration_results(scored(tmp_path, "a", [(0.5, ""), (0.6, "")])), "ndcg_at_10")
    assert [(estimate.value, estimate.error) for estimate in found] == [(0.6, None), (0.5, None)]


def test_a_loss_is_judged_the_other_way_round(tmp_path):
    study = a_study(tmp_path, "a", [(4.0, "")] * 4 + [(4.0, "replicate of 0")] * 2 + [(4.0, "")])
    study.write_manifest(study.read_manifest() | {"metric": "val_loss"})
    for number, loss in enumerate([1.50, 1.60, 1.65, 1.58, 1.52, 1.48, 1.20]):
        (study.trial(number).path / "epochs.jsonl").unlink()
        report(study.trial(number), USERS, ranks(4.0, seed=0), metric="val_loss", val_loss=loss)
    assert order(study) == [6, 0, 3, 1, 2]


def test_luck_with_seeds_and_luck_with_users_are_told_apart(replicated):
    found = present(compare(replicated))
    pooled = np.sqrt(np.mean([np.var([0.660, 0.620, 0.630], ddof=1), np.var([0.645, 0.652, 0.648], ddof=1)]))
    assert found.seed_spread == pytest.approx(pooled)
    assert found.seed_degrees == 4
    values = configuration_results(replicated)[0].values("ndcg_at_10")
    assert found.user_error == pytest.approx(values.std(ddof=1) / np.sqrt(300))
    assert "Trial 1, 3 seeds: mean 0.648 (0.645, 0.652, 0.648)." in findings(found)
    assert seed_spread([configuration_results(replicated)[2]], "ndcg_at_10") is None


# Each run has one chosen report


def test_all_figures_are_those_of_the_report_that_the_study_s_metric_chose(tmp_path):
    study = a_study(tmp_path, "a", [(4.0, "")])
    report(study.trial(0), USERS, ranks(3.0, seed=1), ndcg_at_10=0.9, recall_at_1=0.30)
    report(study.trial(0), USERS, ranks(3.0, seed=2), ndcg_at_10=0.8, recall_at_1=0.50)
    (found,) = configuration_results(study)
    assert (found.score("recall_at_1"), found.figures["recall_at_1"], found.figures["epoch"]) == (0.30, 0.30, 2)
    ranker = found.ranker("recall_at_1")
    assert (ranker.chosen, [len(run) for run in ranker.runs]) == ((1,), [3])
    assert ranker.values == pytest.approx(found.values("recall_at_1"))
    assert "ranks the true item first for 30% of users" in verdict(study)


# Several studies


def test_studies_on_the_same_lists_are_one_comparison(tmp_path):
    first, second = a_study(tmp_path, "a", [(5.0, ""), (6.0, "")]), a_study(tmp_path, "bc", [(2.0, "")])
    found = present(compare(first, second))
    assert (found.winner.study, found.winner.number) == ("bc", 0)
    assert [(trial.study, trial.number) for trial in found.tie_set] == [("bc", 0)]
    assert found.against["popularity"].proven


def test_studies_on_other_lists_are_refused(tmp_path, capsys):
    studies = [a_study(tmp_path, name, [(5.0, "")], lists=name) for name in ("a", "bc")]
    with pytest.raises(InputError, match="same lists"):
        compare(*studies)
    assert compare_module.main(["a", "bc", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: a, bc did not rank the same lists, so they can't be compared; studies must share their data, users, candidates "
        "and how those are drawn\n"
    )


def test_untrained_models_that_answer_differently_in_two_studies_are_two_baselines(tmp_path, capsys):
    studies = [a_study(tmp_path, "a", [(3.0, "")]), a_study(tmp_path, "bc", [(2.0, "")])]
    for study, mean in zip(studies, (5.0, 7.0), strict=True):
        study.baseline("zero-shot demo-tiny").path.mkdir(parents=True)
        study.baseline("zero-shot demo-tiny").keep_ranks(USERS, ranks(mean, seed=5))
    found = present(compare(*studies))
    assert list(found.against) == ["popularity", "zero-shot demo-tiny of a", "zero-shot demo-tiny of bc"]
    one, other = (found.against[f"zero-shot demo-tiny of {name}"].mean for name in ("a", "bc"))
    assert one < other
    assert compare_module.main(["a", "bc", "--runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    assert table.count("zero-shot demo-tiny of ") == 2


def test_the_command_names_each_trial_with_its_study(tmp_path, capsys):
    a_study(tmp_path, "a", [(5.0, ""), (6.0, "")])
    a_study(tmp_path, "bc", [(2.0, "")])
    assert compare_module.main(["a", "bc", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:5] == ["1", "trial", "0", "of", "bc"]
    assert "NDCG@10 of trial 0 of bc:" in out
    assert out.count("popularity") >= 2


def test_two_studies_of_one_name_are_called_by_their_folders_and_both_have_their_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    for runs, means in (("june", [3.0, 3.5]), ("july", [2.0, 2.5])):
        study = a_study(tmp_path / runs, "same", [(mean, "") for mean in means])
        study.write_manifest(study.read_manifest() | {"name": "same"})
    paths = [str(tmp_path / runs / "same") for runs in ("june", "july")]
    assert compare_module.main(paths) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.split("\n\n")[0].splitlines() if " trial " in line]
    assert sorted(row.split(" completed")[0].split(maxsplit=1)[1].rstrip() for row in rows) == sorted(
        f"trial {number} of {path}" for path in paths for number in (0, 1)
    )
    assert f"Trial 0 of {paths[1]}" in out or f"of trial 0 of {paths[1]}" in out


def test_a_study_that_is_named_twice_is_compared_once(tmp_path, capsys):
    a_study(tmp_path, "a", [(3.0, ""), (2.0, "")])
    assert compare_module.main(["a", str(tmp_path / "a"), "--runs", str(tmp_path)]) == 0
    assert "picking the best of 2 configurations" in " ".join(capsys.readouterr().out.split())
