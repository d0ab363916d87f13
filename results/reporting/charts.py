"""Stored figures → charts: SVG for a page, in the page's own colours and font.

Charts use placeholder colours that become CSS variables of the page, so one chart serves light and dark mode. Text
stays text. A chart is drawn 1:1 at its width in CSS pixels and is readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reranker.evaluation.evaluate import FLOPS
from reranker.metrics import Picks, Ranks
from results.reporting.chart_data import (
    Contest,
    Figure,
    Point,
    cost_points,
    marginal_homogeneity,
    pareto_front,
    rank_shares,
    wilson_interval,
)

if TYPE_CHECKING:  # drawing takes half a second to import
    from matplotlib.axes import Axes
from results.reporting.svg import (
    ALIKE,
    BASE,
    INK,
    MUTED,
    OTHER,
    PAPER,
    WIDTH,
    WIN,
    clean,
    drawing,
    percent,
    plain_ticks,
    to_svg,
    whole_numbers,
)
from results.statistics.training_loss import guessing_in_training, is_no_likelihood, other_loss, what_is_trained
from results.statistics.verdict_text import p_value

_FEW = 10  # lists; a share of fewer says nothing
_APART = 0.03  # nats; lines that are closer are one
_FEW_NAMES = 12  # beside the points of a chart; of more some would lie on others
_LABELLED = 30  # characters of a name in a chart


def learning_curves(contest: Contest) -> Figure:
    """The metric of every trial by epoch, with lines for chance and the baselines."""
    key, title = "curves", f"{contest.label} by epoch"
    if not contest.trials:
        return Figure(key, title, "No trial has finished an epoch.")
    with drawing() as draw:
        marks = [(level, _label(name), BASE if name != "chance" else MUTED) for name, level in contest.levels.items()]
        canvas, axes = draw(right=_room([name for _, name, _ in marks]))
        notes = _curves(axes, contest, contest.metric)
        for level, _, colour in marks:
            axes.axhline(
                level, color=colour, linewidth=1.1, linestyle=(0, (4, 3) if colour == MUTED else (1, 2)), zorder=1
            )
        best = _best_value(contest)
        _end_labels(axes, [*marks, (best, f"trial {contest.winner}", WIN)])
        axes.set_ylabel(contest.label)
        svg = to_svg(canvas, key, title, notes)
    better_side = "above" if contest.sign > 0 else "below"
    unbeaten = [clean(name) for name, level in contest.levels.items() if contest.sign * (best - level) <= 0]
    standing = f"does not stand {better_side} {', '.join(unbeaten)}"
    if not unbeaten:  # by a loss there may be no baseline to stand above
        standing = f"stands {better_side} chance" + (
            " and every baseline" if contest.levels.keys() - {"chance"} else ""
        )
    caption = f"At its best epoch trial {contest.winner} {standing}. Trials that were stopped early end in a ring."
    return Figure(key, title, caption, svg)


def losses(contest: Contest) -> Figure:
    """The winner's training and validation loss by epoch, with the other trials' validation loss behind."""
    key, title = "losses", "Loss by epoch"
    trials = [
        trial for trial in contest.trials if "val_loss" in trial.reports[-1] and "train_loss" in trial.reports[-1]
    ]
    best = next((trial for trial in trials if trial.number == contest.winner), None)
    if best is None:
        return Figure(key, title, "No losses are stored for the best trial.")
    with drawing() as draw:
        validation = f"trial {best.number}, validation"
        without_model = f"{'counting' if 'collaborative_loss' in best.reports[-1] else 'guessing'}, training"
        canvas, axes = draw(right=_room([validation, without_model]))
        notes = _curves(axes, Contest(**{**vars(contest), "trials": trials}), "val_loss")
        epochs = [figures["epoch"] for figures in best.reports]
        training = [figures["train_loss"] for figures in best.reports]
        axes.plot(epochs, training, color=WIN, linewidth=1.6, linestyle=(0, (4, 2)), marker="o", markersize=3, zorder=5)
        uniform = math.log(contest.candidates)
        axes.axhline(uniform, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        last = best.reports[-1]
        ends = [
            (uniform, f"ln {contest.candidates}: guessing", MUTED),
            (last["val_loss"], validation, WIN),
            (last["train_loss"], f"trial {best.number}, training", WIN),
        ]
        in_training = guessing_in_training(last, uniform)
        if not other_loss(best) and abs(in_training - uniform) > _APART:
            axes.axhline(in_training, color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
            ends.append((in_training, without_model, MUTED))
        _end_labels(axes, ends)
        axes.set_ylabel("loss" if other_loss(best) else "loss, nats")
        svg = to_svg(canvas, key, title, notes)
    gap = last["val_loss"] - last["train_loss"]
    overfits = "a validation loss that turns upwards while training (dashed) falls is overfitting."
    caption = f"Validation ends {abs(gap):.2f} nats {'above' if gap > 0 else 'below'} training; {overfits}"
    if other_loss(best):
        caption = (
            f"The training loss (dashed) is another one{what_is_trained(best)}: neither the validation loss "
            f"nor that of guessing can be held against it; {overfits}"
        )
    if is_no_likelihood(best):
        caption = (
            f"The training loss (dashed) is another one{what_is_trained(best)} and no likelihood: the validation loss may "
            "rise while the ranking gets better."
        )
    return Figure(key, title, caption, svg)


def rank_histogram(
    ranks: Ranks, candidates: int, winner: int, baseline: tuple[str, Ranks] | None, counted: str = "users"
) -> Figure:
    """The ranks that the winner gave the true item, against chance and a baseline.

    Args:
        counted: what shares are of: users, or lists where users have several.
    """
    key, title = "ranks", "Rank of the true item"
    shares = rank_shares(ranks, candidates)
    missing = 1 - float(shares.sum())
    with drawing() as draw:
        canvas, axes = draw()
        places = np.arange(1, candidates + 1)
        axes.bar(places, shares, width=0.78, color=WIN)
        chance_share = shares.sum() / candidates
        axes.axhline(chance_share, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        baseline_text = ""
        if baseline:
            baseline_shares = rank_shares(baseline[1], candidates)
            axes.step(places, baseline_shares, where="mid", color=BASE, linewidth=1.6)
            baseline_text = f" the stepped line is {baseline[0]},"
        axes.set_xlim(0.4, candidates + 0.6)
        axes.set_xlabel("rank given to the true item")
        percent(axes.yaxis)
        whole_numbers(axes.xaxis)
        svg = to_svg(canvas, key, title)
    caption = (
        f"Trial {winner} puts the true item first for {shares[0]:.0%} and among the first three for "
        f"{shares[:3].sum():.0%} of {counted};{baseline_text} the dashed one guessing."
    )
    if missing > 1e-9:
        caption += f" For {missing:.0%} of {counted} the true item is not in the list."
    return Figure(key, title, caption, svg)


def label_positions(picks: Picks | None, candidates: int) -> Figure:
    """For each label position, how often it is ranked first and how often it holds the true item."""
    key, title = "positions", "Where in the prompt first places lie"
    if picks is None or not len(picks.first):
        return Figure(key, title, "The positions of first places were not stored for this trial.")
    listed = picks.target >= 0
    first_counts = np.bincount(picks.first[listed], minlength=candidates)[:candidates]
    true_counts = np.bincount(picks.target[listed], minlength=candidates)[:candidates]
    lists = int(listed.sum())
    if not lists:
        return Figure(key, title, "No list holds its true item.")
    with drawing() as draw:
        canvas, axes = draw()
        places = np.arange(1, candidates + 1)
        axes.bar(places, first_counts / lists, width=0.78, color=WIN)
        axes.plot(places, true_counts / lists, color=BASE, marker="o", markersize=3.6, linewidth=0, zorder=4)
        axes.set_xlim(0.4, candidates + 0.6)
        axes.set_ylim(0, 1.25 * max(first_counts.max(), true_counts.max()) / lists)
        axes.set_xlabel("position of the label in the prompt")
        percent(axes.yaxis)
        whole_numbers(axes.xaxis)
        axes.text(0.02, 0.985, "bars: ranked first", transform=axes.transAxes, va="top", color=WIN)
        axes.text(0.98, 0.985, "dots: the true item", transform=axes.transAxes, va="top", ha="right", color=BASE)
        svg = to_svg(canvas, key, title)
    moved = np.abs(first_counts - true_counts).sum() / 2 / lists
    p = marginal_homogeneity(picks.first[listed], picks.target[listed], candidates)
    favoured = int(np.argmax(first_counts - true_counts))
    caption = f"{moved:.0%} of first places would have to move to match the true items (dots), "
    if p < 0.05:
        caption += (
            f"more than luck ({p_value(p)}): position {favoured + 1} is favoured most, with "
            f"{first_counts[favoured] / lists:.1%} of first places and {true_counts[favoured] / lists:.1%} of true "
            "items."
        )
    else:
        caption += f"no more than luck brings (p = {p:.2f}): no position is favoured."
    return Figure(key, title, caption, svg)


def reliability(picks: Picks | None, figures: Mapping[str, float] | None = None) -> Figure:
    """The probability of first places against how often they are right.

    Args:
        figures: of the same report, for what a temperature mends.
    """
    key, title = "reliability", "Is its confidence right?"
    if picks is None or len(picks.first) < 2 * _FEW:
        reason = "were not stored for this trial" if picks is None else "are of too few lists to group them"
        return Figure(key, title, f"The probabilities of first places {reason}.")
    correct = (picks.first == picks.target).astype(float)
    groups = min(10, len(correct) // _FEW)
    parts = np.array_split(np.argsort(picks.probability, kind="stable"), groups)
    stated = np.array([picks.probability[part].mean() for part in parts])
    observed = np.array([correct[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    with drawing() as draw:
        canvas, axes = draw(left=0.14)
        low, high = wilson_interval(observed, sizes)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.vlines(stated, low, high, color=WIN, linewidth=1.4, alpha=0.55)
        axes.plot(stated, observed, color=WIN, marker="o", markersize=5, linewidth=1.4)
        top = min(1.0, max(0.2, 1.12 * max(stated.max(), high.max())))
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("probability it gives its first place")
        axes.set_ylabel("share that is right")
        percent(axes.yaxis)
        percent(axes.xaxis)
        svg = to_svg(canvas, key, title)
    error = float((sizes * np.abs(stated - observed)).sum() / sizes.sum())
    bias = float(picks.probability.mean() - correct.mean())
    tendency = "too sure of itself" if bias > 0 else "less sure than it might be"
    caption = f"Each dot is a tenth of the lists; below the diagonal it is too sure. Mean gap {error:.1%}" + (
        f": it is {tendency}, by {abs(bias):.1%} on average."
        if abs(bias) > 0.02
        else ": its probabilities can be taken at their word."
    )
    caption += _calibrated(figures or {})
    return Figure(key, title, caption.replace("a tenth", f"1/{groups}") if groups != 10 else caption, svg)


def _calibrated(figures: Mapping[str, float]) -> str:
    """What the probabilities of `rank` are beside those drawn; empty of a trial from before they had a temperature."""
    if "temperature" not in figures:
        return ""
    return (
        f" The ranker divides its scores by a temperature of {figures['temperature']:.2f}: on lists that it was not fitted "
        f"on, the calibration error goes from {figures['calibration_error']:.1%} to {figures['calibrated_error']:.1%} and "
        f"the log-loss from {figures['val_loss']:.3f} to {figures['calibrated_loss']:.3f}."
    )


def cost(contest: Contest) -> Figure:
    """FLOPs per list against the metric, with the Pareto front."""
    points = cost_points(contest, "applied/flops_per_list", 1e-9)
    figure = _trade_off(
        contest, points, "cost", "Quality against the cost of a list", "GFLOPs a list", "{:.3g} GFLOPs".format
    )
    return replace(figure, caption=f"{figure.caption} {FLOPS}") if figure.svg else figure


def training(contest: Contest) -> Figure:
    """Training examples against the metric, with the Pareto front."""
    points = cost_points(contest, "applied/examples", 1.0)
    title = "Quality against training examples"
    return _trade_off(contest, points, "training", title, "training examples", "{:,.0f} examples".format)


def _trade_off(
    contest: Contest,
    points: Sequence[Point],
    key: str,
    title: str,
    x_label: str,
    spell: Callable[[float], str],
) -> Figure:
    """Cost against the metric, with the Pareto front; `spell` writes a cost with its unit."""
    if len(points) < 2:
        return Figure(key, title, "Fewer than two trials have this figure.")
    front = pareto_front(points, contest.sign)
    with drawing() as draw:
        canvas, axes = draw()
        axes.step([p[1] for p in front], [p[2] for p in front], where="post", color=MUTED, linewidth=1.1, zorder=1)
        notes, alone = {}, contest.shown_alone()
        groups: dict[str, list[Point]] = {}  # what is drawn at once, by its id
        for point in sorted(points, key=lambda p: (p[0].number == contest.winner, p[0].number in contest.tie_set)):
            trial, x, y = point
            name = f"trial-{trial.number}" if trial.number in alone else f"others-{trial.number in contest.tie_set}"
            groups.setdefault(f"{key}-{name}", []).append(point)
            if trial.number in alone:
                model = clean(str(trial.values["model"]))
                notes[f"{key}-{name}"] = f"{clean(trial.name)}: {contest.label} {y:.3f}, {spell(x)}, {model}"
        for name, drawn in groups.items():
            trial = drawn[0][0]
            axes.plot(
                [p[1] for p in drawn], [p[2] for p in drawn], marker="o", linewidth=0, gid=name, zorder=3,
                markersize=9 if trial.number == contest.winner else 7, markerfacecolor=contest.colour(trial),
                markeredgecolor=WIN if trial.number in contest.tie_set else PAPER, markeredgewidth=1.4,
            )  # fmt: skip
        xs = [p[1] for p in points]
        if max(xs) > 4 * min(xs):
            axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        span = max(p[2] for p in points) - min(p[2] for p in points)
        for trial, x, y in _named(points, front, contest):
            axes.annotate(
                f"{trial.number}", (x, y), xytext=(6, 5), textcoords="offset points", color=INK, fontsize=11,
            )  # fmt: skip
        axes.margins(x=0.09, y=0.12 if span else 0.5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(contest.label)
        svg = to_svg(canvas, key, title, notes)
    listed = ", ".join(f"{trial.number}" for trial, _, _ in front)
    ties = len([p for p in points if p[0].number in contest.tie_set])
    caption = f"No trial is both cheaper and better than those on the line ({listed})."
    caption += " Ringed ones are not proven worse than the best: take the leftmost of them." if ties > 1 else ""
    return Figure(key, title, caption, svg)


def _named(
    points: Sequence[Point],
    front: Sequence[Point],
    contest: Contest,
) -> Iterator[Point]:
    """Points with their number beside them: all if there are few, else the front and a small tie set."""
    numbers, on_front = {p[0].number for p in points}, {contest.winner, *(p[0].number for p in front)}
    for fewer in (on_front | contest.tie_set, on_front):
        if len(numbers) > _FEW_NAMES:
            numbers = fewer
    return (p for p in points if p[0].number in numbers)


def _curves(axes: Axes, contest: Contest, metric: str) -> dict[str, str]:
    """Draw a line per trial; returns their tooltips by gid."""
    notes, few_trials, alone = {}, len(contest.trials) < 20, contest.shown_alone()
    for colour in (OTHER, ALIKE):
        others = [t for t in contest.trials if t.number not in alone and contest.colour(t) == colour]
        if not others:
            continue
        gap = {"epoch": math.nan, metric: math.nan}  # between two trials' lines, which are drawn as one
        lines = [figures for trial in others for figures in (*trial.reports, gap)]
        axes.plot([f["epoch"] for f in lines], [f[metric] for f in lines], color=colour, linewidth=0.9, zorder=1.9)
        for face, kind in ((colour, True), (PAPER, False)):
            ends = [trial.reports[-1] for trial in others if (trial.status.value == "completed") is kind]
            axes.plot(
                [f["epoch"] for f in ends], [f[metric] for f in ends], color=colour, linewidth=0, zorder=1.9,
                marker="o", markersize=3, markerfacecolor=face,
            )  # fmt: skip
    for trial in (trial for trial in contest.behind_first() if trial.number in alone):
        epochs = [figures["epoch"] for figures in trial.reports]
        values = [figures[metric] for figures in trial.reports]
        won, colour = trial.number == contest.winner, contest.colour(trial)
        name = f"{metric}-trial-{trial.number}"
        ended = trial.status.value == "completed"
        axes.plot(
            epochs, values, color=colour, linewidth=2.6 if won else 1.3 if few_trials else 0.9, gid=name,
            zorder=4 if won else 2, marker="o", markersize=5 if won or few_trials else 3, markevery=1 if won else [-1],
            markerfacecolor=colour if ended else PAPER,
        )  # fmt: skip
        notes[name] = f"{clean(trial.name)}, {trial.status.value}: {values[-1]:.3f} after epoch {epochs[-1]:g}"
    axes.set_xlabel("epoch")
    whole_numbers(axes.xaxis)
    axes.margins(x=0.04)
    return notes


def _best_value(contest: Contest) -> float:
    """The winner's best value of the metric."""
    best = next(trial for trial in contest.trials if trial.number == contest.winner).best(contest.metric)
    assert best is not None
    return float(best[contest.metric])


def _end_labels(axes: Axes, marks: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines, moved apart as little as needed; a thin line leads to a moved name."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.062  # the height of a line of text
    ordered = sorted(marks, key=lambda mark: mark[0])
    places = apart([value for value, _, _ in ordered], step, low, high)
    for (value, name, colour), position in zip(ordered, places, strict=True):
        moved = abs(position - value) > step / 4
        if moved:
            axes.plot(
                [1.0, 1.022, 1.03], [value, position, position], transform=axes.get_yaxis_transform(), color=colour,
                linewidth=0.8, clip_on=False, zorder=1, gid=f"leader-{name}",
            )  # fmt: skip
        axes.text(
            1.036 if moved else 1.015, position, name, transform=axes.get_yaxis_transform(), va="center", ha="left",
            color=colour, fontsize=11, fontweight="bold" if colour == WIN else "normal",
        )  # fmt: skip
    axes.set_ylim(low, high)


def apart(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Positions for labels of rising values, at least a step apart and as close to the values as possible.

    Least squares: overlapping labels form a block around the mean of their wanted positions. All lie between `low` and
    `high`, if those hold so many.
    """
    blocks: list[tuple[float, int]] = []  # (mean wanted position of its first label, number of labels)
    for i, value in enumerate(values):
        position, size = value - i * step, 1
        while blocks and blocks[-1][0] >= position:
            block_start, count = blocks.pop()
            position, size = (block_start * count + position * size) / (count + size), size + count
        blocks.append((position, size))
    firsts = [first for first, size in blocks for _ in range(size)]
    room = max(low, high - (len(values) - 1) * step)
    return [min(max(first, low), room) + i * step for i, first in enumerate(firsts)]


def _label(name: str) -> str:
    """A name, shortened to fit."""
    name = clean(name)
    return name if len(name) <= _LABELLED else f"{name[: _LABELLED - 1]}…"


def _room(labels: Sequence[str]) -> float:
    """Where the axes must end on the right so that these labels fit."""
    return 1 - (14 + 6.4 * max([12, *map(len, labels)])) / WIDTH
