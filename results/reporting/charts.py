"""Stored figures → pictures: SVG to put into a page, in the page's own colours and font.

Everything is drawn in placeholder colours, which become the page's CSS variables, so that one picture serves light and
dark. Texts stay text. A picture is 1:1 at its width in CSS pixels, and is made to be read on a telephone as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from reranker.evaluation.evaluate import FLOPS
from reranker.metrics import FloatArray, IntArray, Picks, Ranks
from results.study.study_folder import StoredTrial

if TYPE_CHECKING:  # drawing takes half a second to import
    from matplotlib.axes import Axes
from results.reporting.svg import (
    ALIKE,
    BASE,
    INK,
    MUTED,
    OTHER,
    PAPER,
    SCALE,
    VARIABLES,
    WIDTH,
    WIN,
    clean,
    drawing,
    percent,
    plain_ticks,
    to_svg,
    whole_numbers,
)

BEYOND_NOISE, NOISE = WIN, OTHER


VARIABLES |= {colour: f"--scale-{i}" for i, colour in enumerate(SCALE, start=1)}


_FEW = 10  # a group with fewer lists says nothing of its share
_LABELLED = 30  # characters of a name in a picture


@dataclass(frozen=True)
class Figure:
    """A picture, or why there is none.

    Attributes:
        key: unique in the page; begins every id in the SVG.
        title: what it shows.
        caption: what to see in it, in a sentence or two.
        svg: safe to put into a page as it is; empty if there is no picture.
        wide: needs the width of the page.
    """

    key: str
    title: str
    caption: str
    svg: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Contest:
    """What pictures of several trials need to know.

    Attributes:
        trials: those with a finished epoch.
        metric: what made a trial the best; its name in the figures.
        label: that name as people read it.
        winner: number of the best trial.
        alike: numbers of those that can't be told from it, itself among them.
        levels: the metric of baselines and chance.
        candidates: items of a list.
    """

    trials: Sequence[StoredTrial]
    metric: str
    label: str
    winner: int
    tie_set: frozenset[int]
    levels: Mapping[str, float]
    candidates: int

    @property
    def sign(self) -> int:
        return -1 if self.metric.endswith("_loss") else 1

    def colour(self, trial: StoredTrial) -> str:
        if trial.number == self.winner:
            return WIN
        return ALIKE if trial.number in self.tie_set else OTHER

    def behind_first(self) -> list[StoredTrial]:
        """In the order of drawing, so that the winner lies on top."""
        return sorted(self.trials, key=lambda t: (t.number == self.winner, t.number in self.tie_set))


def learning_curves(contest: Contest) -> Figure:
    """The metric of every trial by epoch, with chance and the baselines as lines."""
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
    side, other = ("above", "below") if contest.sign > 0 else ("below", "above")
    lost = [clean(name) for name, level in contest.levels.items() if contest.sign * (best - level) <= 0]
    over = f"stands {side} chance and every baseline" if not lost else f"stands {other} {', '.join(lost)}"
    caption = f"At its best epoch trial {contest.winner} {over}. Trials that were stopped early end in a ring."
    return Figure(key, title, caption, svg)


def losses(contest: Contest) -> Figure:
    """The winner's training and validation loss by epoch, the validation loss of the others behind them."""
    key, title = "losses", "Loss by epoch"
    known = [t for t in contest.trials if "val_loss" in t.epochs[-1] and "train_loss" in t.epochs[-1]]
    best = next((t for t in known if t.number == contest.winner), None)
    if best is None:
        return Figure(key, title, "No losses are stored for the best trial.")
    with drawing() as draw:
        validation = f"trial {best.number}, validation"
        canvas, axes = draw(right=_room([validation]))
        notes = _curves(axes, Contest(**{**vars(contest), "trials": known}), "val_loss")
        epochs = [figures["epoch"] for figures in best.epochs]
        training = [figures["train_loss"] for figures in best.epochs]
        axes.plot(epochs, training, color=WIN, linewidth=1.6, linestyle=(0, (4, 2)), marker="o", markersize=3, zorder=5)
        uniform = math.log(contest.candidates)
        axes.axhline(uniform, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        last = best.epochs[-1]
        _end_labels(
            axes,
            [
                (uniform, f"ln {contest.candidates}: guessing", MUTED),
                (last["val_loss"], validation, WIN),
                (last["train_loss"], f"trial {best.number}, training", WIN),
            ],
        )
        axes.set_ylabel("loss, nats")
        svg = to_svg(canvas, key, title, notes)
    gap = last["val_loss"] - last["train_loss"]
    caption = (
        f"Validation ends {abs(gap):.2f} nats {'above' if gap > 0 else 'below'} training; a validation loss that turns "
        "upwards while training (dashed) falls is overfitting."
    )
    return Figure(key, title, caption, svg)


def rank_histogram(ranks: Ranks, candidates: int, winner: int, other: tuple[str, Ranks] | None) -> Figure:
    """Which rank the winner gave the true item, against chance and the best baseline."""
    key, title = "ranks", "Rank of the true item"
    share = _shares_of_ranks(ranks, candidates)
    missing = 1 - float(share.sum())
    with drawing() as draw:
        canvas, axes = draw()
        places = np.arange(1, candidates + 1)
        axes.bar(places, share, width=0.78, color=WIN)
        level = share.sum() / candidates
        axes.axhline(level, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        told = ""
        if other:
            of_other = _shares_of_ranks(other[1], candidates)
            axes.step(places, of_other, where="mid", color=BASE, linewidth=1.6)
            told = f" the stepped line is {other[0]},"
        axes.set_xlim(0.4, candidates + 0.6)
        axes.set_xlabel("rank given to the true item")
        percent(axes.yaxis)
        whole_numbers(axes.xaxis)
        svg = to_svg(canvas, key, title)
    caption = (
        f"Trial {winner} puts the true item first for {share[0]:.0%} and among the first three for "
        f"{share[:3].sum():.0%} of users;{told} the dashed one guessing."
    )
    if missing > 1e-9:
        caption += f" For {missing:.0%} of users the true item is not in the list."
    return Figure(key, title, caption, svg)


def label_positions(picks: Picks | None, candidates: int) -> Figure:
    """For each label position: how often it is ranked first against how often it is the true one."""
    key, title = "positions", "Where in the prompt first places lie"
    if picks is None or not len(picks.first):
        return Figure(key, title, "The positions of first places were not stored for this trial.")
    listed = picks.target >= 0
    first = np.bincount(picks.first[listed], minlength=candidates)[:candidates]
    true = np.bincount(picks.target[listed], minlength=candidates)[:candidates]
    lists = int(listed.sum())
    if not lists:
        return Figure(key, title, "No list holds its true item.")
    with drawing() as draw:
        canvas, axes = draw()
        places = np.arange(1, candidates + 1)
        axes.bar(places, first / lists, width=0.78, color=WIN)
        axes.plot(places, true / lists, color=BASE, marker="o", markersize=3.6, linewidth=0, zorder=4)
        axes.set_xlim(0.4, candidates + 0.6)
        axes.set_ylim(0, 1.25 * max(first.max(), true.max()) / lists)
        axes.set_xlabel("position of the label in the prompt")
        percent(axes.yaxis)
        whole_numbers(axes.xaxis)
        axes.text(0.02, 0.985, "bars: ranked first", transform=axes.transAxes, va="top", color=WIN)
        axes.text(0.98, 0.985, "dots: the true item", transform=axes.transAxes, va="top", ha="right", color=BASE)
        svg = to_svg(canvas, key, title)
    moved = np.abs(first - true).sum() / 2 / lists
    p = _same_margins(picks.first[listed], picks.target[listed], candidates)
    most = int(np.argmax(first - true))
    caption = f"{moved:.0%} of first places would have to move to match the true items (dots), "
    if p < 0.05:
        told = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
        caption += (
            f"more than luck ({told}): position {most + 1} is favoured most, with {first[most] / lists:.1%} of first "
            f"places and {true[most] / lists:.1%} of true items."
        )
    else:
        caption += f"no more than luck brings (p = {p:.2f}): no position is favoured."
    return Figure(key, title, caption, svg)


def reliability(picks: Picks | None) -> Figure:
    """The probability that the model gives its first place against how often it is right."""
    key, title = "reliability", "Is its confidence right?"
    if picks is None or len(picks.first) < 2 * _FEW:
        why = "were not stored for this trial" if picks is None else "are of too few lists to group them"
        return Figure(key, title, f"The probabilities of first places {why}.")
    right = (picks.first == picks.target).astype(float)
    groups = min(10, len(right) // _FEW)
    parts = np.array_split(np.argsort(picks.probability, kind="stable"), groups)
    said = np.array([picks.probability[part].mean() for part in parts])
    were = np.array([right[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    with drawing() as draw:
        canvas, axes = draw(left=0.14)
        low, high = _wilson(were, sizes)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.vlines(said, low, high, color=WIN, linewidth=1.4, alpha=0.55)
        axes.plot(said, were, color=WIN, marker="o", markersize=5, linewidth=1.4)
        top = min(1.0, max(0.2, 1.12 * max(said.max(), high.max())))
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("probability it gives its first place")
        axes.set_ylabel("share that is right")
        percent(axes.yaxis)
        percent(axes.xaxis)
        svg = to_svg(canvas, key, title)
    error = float((sizes * np.abs(said - were)).sum() / sizes.sum())
    lean = float(picks.probability.mean() - right.mean())
    word = "too sure of itself" if lean > 0 else "less sure than it might be"
    caption = f"Each dot is a tenth of the lists; below the diagonal it is too sure. Mean gap {error:.1%}" + (
        f": it is {word}, by {abs(lean):.1%} on average."
        if abs(lean) > 0.02
        else ": its probabilities can be taken at their word."
    )
    return Figure(key, title, caption.replace("a tenth", f"1/{groups}") if groups != 10 else caption, svg)


def cost(contest: Contest) -> Figure:
    """FLOPs a list takes to rank against the metric, with the front of what is not beaten in both."""
    points = _points(contest, "applied/flops_per_list", 1e-9)
    found = _trade_off(
        contest, points, "cost", "Quality against the cost of a list", "GFLOPs a list", "{:.3g} GFLOPs".format
    )
    return replace(found, caption=f"{found.caption} {FLOPS}") if found.svg else found


def training(contest: Contest) -> Figure:
    """Examples that a trial was trained on against the metric."""
    points = _points(contest, "applied/examples", 1.0)
    title = "Quality against training examples"
    return _trade_off(contest, points, "training", title, "training examples", "{:,.0f} examples".format)


def _points(contest: Contest, name: str, scale: float) -> list[tuple[StoredTrial, float, float]]:
    """Trials with what they cost and what they reached."""
    return [
        (t, scale * float(t.epochs[-1][name]), float(best[contest.metric]))
        for t in contest.trials
        if (best := t.best(contest.metric)) and t.epochs[-1].get(name, 0) > 0
    ]


def _trade_off(
    contest: Contest,
    points: Sequence[tuple[StoredTrial, float, float]],
    key: str,
    title: str,
    x_label: str,
    spell: Callable[[float], str],
) -> Figure:
    if len(points) < 2:
        return Figure(key, title, "Fewer than two trials have this figure.")
    front: list[tuple[StoredTrial, float, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -contest.sign * p[2])):
        if not front or contest.sign * (point[2] - front[-1][2]) > 0:
            front.append(point)
    with drawing() as draw:
        canvas, axes = draw()
        axes.step([p[1] for p in front], [p[2] for p in front], where="post", color=MUTED, linewidth=1.1, zorder=1)
        notes = {}
        for trial, x, y in sorted(
            points, key=lambda p: (p[0].number == contest.winner, p[0].number in contest.tie_set)
        ):
            name = f"{key}-trial-{trial.number}"
            ring = trial.number in contest.tie_set
            size = 9 if trial.number == contest.winner else 7
            axes.plot(
                [x], [y], marker="o", markersize=size, linewidth=0, gid=name, zorder=3,
                markerfacecolor=contest.colour(trial), markeredgecolor=WIN if ring else PAPER, markeredgewidth=1.4,
            )  # fmt: skip
            notes[name] = (
                f"{clean(trial.name)}: {contest.label} {y:.3f}, {spell(x)}, {clean(str(trial.values['model']))}"
            )
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
    points: Sequence[tuple[StoredTrial, float, float]],
    front: Sequence[tuple[StoredTrial, float, float]],
    contest: Contest,
) -> Iterator[tuple[StoredTrial, float, float]]:
    """Points that get their number beside them: all of a few, else the front's and those that are alike."""
    shown = {p[0].number for p in front} | set(contest.tie_set) if len(points) > 12 else {p[0].number for p in points}
    return (p for p in points if p[0].number in shown)


def _curves(axes: Axes, contest: Contest, metric: str) -> dict[str, str]:
    """A line a trial; returns what is told of each when it is pointed at."""
    notes, few = {}, len(contest.trials) < 20
    for trial in contest.behind_first():
        epochs = [figures["epoch"] for figures in trial.epochs]
        values = [figures[metric] for figures in trial.epochs]
        won, colour = trial.number == contest.winner, contest.colour(trial)
        name = f"{metric}-trial-{trial.number}"
        ended = trial.status.value == "completed"
        axes.plot(
            epochs, values, color=colour, linewidth=2.6 if won else 1.3 if few else 0.9, gid=name,
            zorder=4 if won else 2, marker="o", markersize=5 if won or few else 3, markevery=1 if won else [-1],
            markerfacecolor=colour if ended else PAPER,
        )  # fmt: skip
        notes[name] = f"{clean(trial.name)}, {trial.status.value}: {values[-1]:.3f} after epoch {epochs[-1]}"
    axes.set_xlabel("epoch")
    whole_numbers(axes.xaxis)
    axes.margins(x=0.04)
    return notes


def _best_value(contest: Contest) -> float:
    best = next(t for t in contest.trials if t.number == contest.winner).best(contest.metric)
    assert best is not None
    return float(best[contest.metric])


def _end_labels(axes: Axes, marks: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines, moved apart as little as they need to be; a thin line leads to each that was."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.062  # the height of a line of text
    ordered = sorted(marks, key=lambda mark: mark[0])
    places = apart([value for value, _, _ in ordered], step, low, high)
    for (value, name, colour), at in zip(ordered, places, strict=True):
        moved = abs(at - value) > step / 4
        if moved:
            axes.plot(
                [1.0, 1.022, 1.03], [value, at, at], transform=axes.get_yaxis_transform(), color=colour,
                linewidth=0.8, clip_on=False, zorder=1, gid=f"leader-{name}",
            )  # fmt: skip
        axes.text(
            1.036 if moved else 1.015, at, name, transform=axes.get_yaxis_transform(), va="center", ha="left",
            color=colour, fontsize=11, fontweight="bold" if colour == WIN else "normal",
        )  # fmt: skip
    axes.set_ylim(low, high)


def apart(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places for labels of rising values, at least a step from each other, as near to the values as that allows.

    Least squares: labels that would overlap form a block, which stands around the mean of what its members want. Between
    `low` and `high` as long as they hold that many.
    """
    blocks: list[tuple[float, int]] = []  # where its first member wants to be, on average, and how many there are
    for i, value in enumerate(values):
        wanted, size = value - i * step, 1
        while blocks and blocks[-1][0] >= wanted:
            before, count = blocks.pop()
            wanted, size = (before * count + wanted * size) / (count + size), size + count
        blocks.append((wanted, size))
    firsts = [first for first, size in blocks for _ in range(size)]
    room = max(low, high - (len(values) - 1) * step)
    return [min(max(first, low), room) + i * step for i, first in enumerate(firsts)]


def _label(name: str) -> str:
    name = clean(name)
    return name if len(name) <= _LABELLED else f"{name[: _LABELLED - 1]}…"


def _room(labels: Sequence[str]) -> float:
    """Where the axes must end so that these fit on their right."""
    return 1 - (14 + 6.4 * max([12, *map(len, labels)])) / WIDTH


def _shares_of_ranks(ranks: Ranks, candidates: int) -> FloatArray:
    """[candidates]: share of lists whose target stands there; a tie counts in equal parts on each of its ranks."""
    edges = np.zeros(candidates + 1)
    listed = ranks.greater < candidates
    part = 1 / (ranks.ties[listed] + 1)
    np.add.at(edges, ranks.greater[listed], part)
    np.subtract.at(edges, np.minimum(ranks.greater[listed] + ranks.ties[listed] + 1, candidates), part)
    shares: FloatArray = np.cumsum(edges)[:candidates] / max(1, len(ranks.greater))
    return shares


def _same_margins(first: IntArray, second: IntArray, kinds: int) -> float:
    """p-value of both having the same shares of all kinds, where they are paired.

    Source: Stuart, Biometrika 42, 1955: d' S⁻¹ d of the summed differences is χ², its degrees the rank of S.
    """
    apart = np.eye(kinds)[first] - np.eye(kinds)[second]
    total = apart.sum(axis=0)
    spread = apart.T @ apart - np.outer(total, total) / len(apart)
    degrees = np.linalg.matrix_rank(spread)
    return float(stats.chi2.sf(total @ np.linalg.pinv(spread, hermitian=True) @ total, degrees)) if degrees else 1.0


def _wilson(shares: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95% intervals of shares. Source: Wilson, JASA 22, 1927."""
    z = 1.96
    middle = (shares + z**2 / (2 * sizes)) / (1 + z**2 / sizes)
    half = z / (1 + z**2 / sizes) * np.sqrt(shares * (1 - shares) / sizes + z**2 / (4 * sizes**2))
    return middle - half, middle + half
