"""Optuna's journal → Optuna's own plots of the knobs. The only module here that imports Optuna.

A trial that was stopped early counts with its best epoch, as everywhere in a report. Optuna alone would leave it out
and show only survivors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from results.reporting.chart_data import Figure
from results.reporting.svg import HEIGHT, OTHER, SCALE, WIDTH, WIN, plain_ticks, style, to_svg, whole_numbers

_PARALLEL, _IMPORTANCES = "The knobs of every trial", "Which knobs mattered"
_FEWEST = 4  # trials needed for parallel coordinates
_FEWEST_TO_WEIGH = 8  # trials needed for importances
_TOP = 0.25  # the share of trials that PED-ANOVA explains; its default, a tenth, is one or two trials of a small search
_SHUFFLES, _FEWER_SHUFFLES, _MANY = 99, 39, 500  # the fewer of so many trials or more


def knob_figures(journal: Path, scores: Mapping[int, float], *, maximise: bool, label: str) -> list[Figure]:
    """Parallel coordinates and importances; if there is too little to draw, the reason.

    Args:
        scores: the score of each trial to show, by its number in the journal.
        label: the name of the scores.
    """
    if not journal.exists():
        reason = "The study's folder has no journal of Optuna's."
        return [Figure("parallel", _PARALLEL, reason), Figure("importances", _IMPORTANCES, reason)]
    study = _scored(journal, scores, maximise)
    values_by_knob: dict[str, set[Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, value in trial.params.items():
            values_by_knob.setdefault(name, set()).add(value)
    knobs = [name for name, values in values_by_knob.items() if len(values) > 1]
    return [_parallel(study, knobs, label), _importances(study, knobs, label)]


def _scored(journal: Path, scores: Mapping[int, float], maximise: bool) -> Any:
    """An in-memory Optuna study of the journal's trials with these scores."""
    import optuna

    from results.study.journal_file import storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if maximise else "minimize")
    stored = optuna.load_study(study_name=None, storage=storage(journal))
    for trial in stored.get_trials(deepcopy=False):
        if trial.number in scores and trial.params:
            parameters = {"params": trial.params, "distributions": trial.distributions}
            study.add_trial(optuna.trial.create_trial(**parameters, value=scores[trial.number]))
    return study


def _parallel(study: Any, knobs: list[str], label: str) -> Figure:
    """Parallel coordinates: a line per trial across the knobs."""
    key, title, trials = "parallel", _PARALLEL, len(study.get_trials(deepcopy=False))
    if trials < _FEWEST or not knobs:
        reason = f"Needs {_FEWEST} scored trials; there are {trials}." if trials < _FEWEST else "No knob was varied."
        return Figure(key, title, reason)
    with _plotting() as plt:
        from matplotlib.collections import LineCollection
        from optuna.distributions import CategoricalDistribution
        from optuna.visualization.matplotlib import plot_parallel_coordinate

        distributions = [item for trial in study.get_trials(deepcopy=False) for item in trial.distributions.items()]
        categorical = {
            label,
            *(name for name, distribution in distributions if isinstance(distribution, CategoricalDistribution)),
        }
        canvas = plot_parallel_coordinate(study, params=knobs, target_name=label).figure
        try:
            for bar in [a for a in canvas.axes if a.get_label() == "<colorbar>"]:
                bar.remove()
            canvas.set_size_inches(min(940, 230 + 178 * len(knobs)) / 72, (HEIGHT + 40) / 72)
            names = [text.get_text() for text in canvas.axes[0].get_xticklabels()]
            for axes, name in zip(canvas.axes, names, strict=True):
                axes.set(title="", position=(0.06, 0.1, 0.85, 0.86))
                axes.grid(False)
                if axes.get_yscale() == "log":
                    plain_ticks(axes.yaxis)
                elif (
                    all(type(trial.params.get(name, 0)) is int for trial in study.get_trials(deepcopy=False))
                    and name not in categorical
                ):
                    whole_numbers(axes.yaxis)
                axes.spines[["left", "right"]].set_visible(True)
                axes.tick_params(axis="y", length=3)
            for text in canvas.axes[0].get_xticklabels():
                text.set(rotation=0, fontweight="bold")
            (lines,) = [c for c in canvas.axes[0].collections if isinstance(c, LineCollection)]
            values = np.asarray(lines.get_array(), dtype=float)
            order = np.argsort(np.argsort(values if study.direction.name == "MAXIMIZE" else -values))
            steps = order * len(SCALE) // len(values)
            lines.set(array=None, colors=[SCALE[i] for i in steps], linewidths=1 + 0.3 * steps, zorder=2)
            svg = to_svg(canvas, key, title)
        finally:
            plt.close(canvas)
    caption = (
        f"Each line is one of {trials} trials, from its {label} on the left through its knobs; stronger is better. "
        "Where strong lines meet on an axis, that value helps."
    )
    return Figure(key, title, caption, svg, wide=True)


def _importances(study: Any, knobs: list[str], label: str) -> Figure:
    """The importance of each knob, with the level that noise reaches."""
    key, title, trials = "importances", _IMPORTANCES, len(study.get_trials(deepcopy=False))
    if trials < _FEWEST_TO_WEIGH:
        return Figure(key, title, f"Needs {_FEWEST_TO_WEIGH} scored trials; there are {trials}.")
    if len(knobs) < 2:
        varied_text = f"Only one knob was varied ({knobs[0]})" if knobs else "No knob was varied"
        return Figure(key, title, f"{varied_text}: there is nothing to weigh.")
    with _plotting() as plt:
        from optuna.importance import PedAnovaImportanceEvaluator
        from optuna.visualization.matplotlib import plot_param_importances

        evaluator = PedAnovaImportanceEvaluator(target_quantile=_TOP)
        noise = _noise_levels(study, evaluator, knobs)
        canvas = plot_param_importances(study, evaluator=evaluator, params=knobs, target_name=label).figure
        try:
            (axes,) = canvas.axes
            canvas.set_size_inches(WIDTH / 72, HEIGHT / 72)
            axes.set(ylabel="", xlabel="share of the importance", position=(0.3, 0.155, 0.64, 0.815))
            axes.set_title("", loc="left")
            axes.get_legend().remove()
            axes.grid(False)
            _restyle(axes)
            names = [text.get_text() for text in axes.get_yticklabels()]
            significant = []
            for bar, name in zip(axes.patches, names, strict=True):
                significant += [name] if bar.get_width() > noise[name] else []
                bar.set(color=WIN if name in significant else OTHER, height=0.55, y=bar.get_y() + 0.125)
                middle = bar.get_y() + bar.get_height() / 2
                axes.vlines(noise[name], middle - 0.4, middle + 0.4, color=style()["text.color"], linewidth=1.4)
            for text, bar, name in zip(axes.texts, axes.patches, names, strict=True):
                text.set_x(max(bar.get_width(), noise[name]) + 0.015)
            axes.set_xlim(0, 1.14 * max(1e-9, *noise.values(), *(bar.get_width() for bar in axes.patches)))
            svg = to_svg(canvas, key, title)
        finally:
            plt.close(canvas)
    standouts = (
        f"{', '.join(significant)} stand{'s' * (len(significant) == 1)} out" if significant else "no knob stands out"
    )
    caption = (
        f"What tells the best quarter of {trials} trials from the rest (PED-ANOVA). Only what reaches beyond its mark "
        f"is more than shuffled scores show in 95 of 100 cases: {standouts}."
    )
    return Figure(key, title, caption, svg)


def _restyle(axes: Any) -> None:
    """Replace the style that Optuna set for this plot."""
    house_style = style()
    for patch in (axes.figure.patch, axes.patch):
        patch.set_facecolor("none")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(
        labelsize=house_style["font.size"], labelcolor=house_style["xtick.labelcolor"], color=house_style["xtick.color"]
    )
    axes.spines["bottom"].set(visible=True, color=house_style["axes.edgecolor"])
    axes.xaxis.label.set(size=house_style["font.size"], color=house_style["axes.labelcolor"])
    for text in axes.texts:
        text.set(size=house_style["font.size"], color=house_style["text.color"])


def _noise_levels(study: Any, evaluator: Any, knobs: list[str]) -> dict[str, float]:
    """The 95% quantile of each knob's importance when scores are shuffled among trials.

    Shares sum to 1, so one of them is always large. Only this level tells whether it is significant.
    """
    from optuna.importance import get_param_importances

    rng, sign = np.random.default_rng(0), -1 if study.direction.name == "MAXIMIZE" else 1
    values = np.array([trial.value for trial in study.get_trials(deepcopy=False)])
    rows = []
    for shuffle in range(1 + (_SHUFFLES if len(values) < _MANY else _FEWER_SHUFFLES)):
        shuffled = sign * (rng.permutation(values) if shuffle else values)
        target = {"target": lambda trial, shuffled=shuffled: shuffled[trial.number]}
        rows.append(get_param_importances(study, evaluator=evaluator, params=knobs, normalize=False, **target))
    total = sum(rows[0].values())
    if not total:  # all scores are the same, say; Optuna then gives each knob an equal share of nothing
        return dict.fromkeys(knobs, 1.0)
    levels = {knob: float(np.quantile([row[knob] for row in rows[1:]], 0.95)) / total for knob in knobs}
    return {knob: min(1.0, level) for knob, level in levels.items()}  # above 1, nothing can stand out


@contextmanager
def _plotting() -> Iterator[Any]:
    """Pyplot in the report's style. Optuna draws with pyplot and sets a global style; both are restored."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    with mpl.rc_context(style()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks these plots as experimental
        yield plt
