"""What stands below a picture is true of odd studies too."""

from __future__ import annotations

import optuna
import pytest

from reranker.metrics import Ranks
from results.reporting.chart_data import Contest
from results.reporting.charts import learning_curves, losses, rank_histogram
from results.reporting.optuna_plots import knob_figures
from results.study.journal_file import storage
from results.study.optuna_journal import create_journal
from results.study.stored_trial import StoredTrial, TrialStatus
from tests.stored import Maker


@pytest.mark.parametrize(
    ("metric", "value", "levels", "said"),
    [
        ("val_loss", 1.8, {"chance": 3.0}, "stands below chance."),
        ("ndcg_at_10", 0.6, {"chance": 0.2, "ease": 0.5}, "stands above chance and every baseline."),
        ("ndcg_at_10", 0.5, {"chance": 0.2, "ease": 0.5}, "does not stand above ease."),
        ("val_loss", 3.1, {"chance": 3.0}, "does not stand below chance."),
    ],
)
def test_a_curve_is_held_against_what_it_is_drawn_with(metric, value, levels, said):
    trial = StoredTrial(0, {"model": "m"}, TrialStatus.COMPLETED, "", [{"epoch": 1, metric: value}])
    caption = learning_curves(Contest([trial], metric, metric, 0, frozenset({0}), levels, 20)).caption
    assert caption.startswith(f"At its best epoch trial 0 {said}")


@pytest.mark.parametrize(("known", "lines"), [({}, 1), ({"guessing_loss": 3.01}, 1), ({"guessing_loss": 3.42}, 2)])
def test_the_training_loss_has_a_line_of_guessing_of_its_own_where_its_lists_are_others(known, lines):
    figures = {"epoch": 1, "val_loss": 2.5, "train_loss": 2.8, **known}
    trial = StoredTrial(0, {"model": "m"}, TrialStatus.COMPLETED, "", [figures])
    svg = losses(Contest([trial], "val_loss", "loss", 0, frozenset({0}), {}, 20)).svg
    assert ("ln 20: guessing" in svg) + ("guessing, training" in svg) == lines


def test_lists_of_users_who_have_several_are_counted_as_lists(tmp_path):
    _, ranks, _ = Maker(tmp_path).ranks(1.0)
    assert "% of lists;" in rank_histogram(Ranks(ranks.greater, ranks.ties), 10, 0, None, "lists").caption


def test_no_knob_stands_out_where_all_scores_are_the_same(tmp_path):
    path = tmp_path / "optuna.log"
    create_journal(path, "a", minimise=False, manifest={})
    study = optuna.load_study(study_name=None, storage=storage(path), sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(12):
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
        trial.suggest_categorical("schedule", ["linear", "cosine"])
        study.tell(trial, 0.5)
    scores = dict.fromkeys(range(12), 0.5)
    importances = knob_figures(path, scores, maximise=True, label="NDCG@10")[1]
    assert importances.caption.endswith("no knob stands out.")
