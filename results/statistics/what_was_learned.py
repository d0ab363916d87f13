"""A trial's figures → what its model has learned: to name labels, then to rank; and what teaching it the former took.

A model ranks by the labels it names. So behind some validation lists it is asked for one of their own candidates by its
title (`reranker.evaluation.title_probe`). That needs nothing of the data's rule: who can't do it can't rank, and who can may still
not know the rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.statistics.paired_tests import Difference
from results.study.study_folder import StoredTrial

ZERO_SHOT = "zero-shot "  # begins the names of the baselines that are a model without training
HALF = 0.5  # of the titles: below it most lists are answered wrongly, whatever the model knows of the data
MOST = 0.8  # of the titles: from here on labels hold a ranking down by a fifth at most
_BEYOND = 3.0  # standard errors
_FALL = 0.3  # of the titles: a smaller one leaves most of what was known
_LESSON_ASKED = 32  # titles that a lesson's own share is of, at least
_TAUGHT = 0.3  # nats below the loss of guessing, where labels are named in training at least
_TOY = "demo-"  # the demo's own bases know one prompt, and the probe is another
_NAMED = 3  # baselines in a line


@dataclass(frozen=True)
class Share:
    """How often the label of a title was named; `when` as in "after epoch 2"."""

    found: float
    asked: float
    when: str

    @property
    def error(self) -> float:
        """Standard error; see `_near`."""
        return _near(self.found, self.asked)[1]

    @property
    def low(self) -> float:
        """The lower end of its 95% interval."""
        near, error = _near(self.found, self.asked)
        return near - 2 * error

    @property
    def high(self) -> float:
        near, error = _near(self.found, self.asked)
        return near + 2 * error


@dataclass(frozen=True)
class Naming:
    """How often a trial's model names the label of a title.

    Attributes:
        guessing: the share that one who guesses finds.
        untrained: of the base as it is, where that was asked.
        taught: of the base after its lesson, where there was one.
        reports: of each report, in order.
        best: of the report that stands for the trial.
    """

    guessing: float
    untrained: Share | None
    taught: Share | None
    reports: tuple[Share, ...]
    best: Share

    @staticmethod
    def of(trial: StoredTrial, metric: str, untrained: Mapping[str, Any], users: int) -> Naming | None:
        """None where it was not asked, or where the answers tell nothing: the model ranks better than it names labels,
        or its training loss shows that it names them. It doesn't understand the question then, or no longer does.

        Args:
            metric: the study's.
            untrained: the figures of the trial's base without training.
            users: how many lists were scored.
        """
        figures = trial.best(metric)
        best = _share(figures or {})
        if figures is None or best is None or str(trial.values.get("model", "")).startswith(_TOY):
            return None
        of_base = _share(untrained, "untrained")
        if _ranks_better(figures, best, users) or (of_base and _ranks_better(untrained, of_base, users)):
            return None
        candidates = trial.values.get("candidates") or 0
        found = figures.get("applied/skill_found")
        naming = Naming(
            1 / candidates if candidates else 0.0,
            of_base,
            None if found is None else Share(found, _LESSON_ASKED, "after its lesson"),
            tuple(share for epoch in trial.epochs if (share := _share(epoch))),
            best,
        )
        losses = [epoch["train_loss"] for epoch in trial.epochs if "train_loss" in epoch]
        of_labels = trial.values.get("objective", "label_ce") == "label_ce" and not trial.values.get("skill_mix")
        named = candidates and of_labels and min(losses, default=math.inf) < math.log(candidates) - _TAUGHT
        return None if naming.guesses and named else naming

    @property
    def guesses(self) -> bool:
        """Whether the best report names no more labels than luck explains."""
        error = math.sqrt(self.guessing * (1 - self.guessing) / self.best.asked)
        return self.best.found < self.guessing + _BEYOND * error

    @property
    def fails(self) -> bool:
        """Whether it names less than half of the labels."""
        return self.best.high < HALF

    @property
    def knows(self) -> bool:
        """Whether it names most labels."""
        return self.best.found >= MOST and self.best.low > HALF

    def fall(self, to: Share) -> Share | None:
        """What was known before this report and is lost in it; None where nothing is."""
        before = self.reports[: self.reports.index(to)]
        peak = max((s for s in (self.untrained, self.taught, *before) if s), key=lambda s: s.found, default=to)
        lost = peak.found - to.found
        return peak if peak.found >= HALF and lost > max(_FALL, _BEYOND * math.hypot(peak.error, to.error)) else None

    def told(self) -> str:
        """What it was before the best report, and how little is left in the end where it was lost."""
        known = [] if not self.fails else [f"guessing {self.guessing:.0%}"]
        known += [f"untrained {self.untrained.found:.0%}"] if self.untrained else []
        known += [f"taught {self.taught.found:.0%}"] if self.taught else []
        last = self.reports[-1]
        known += [f"{last.found:.0%} {last.when}"] if last != self.best and self.fall(last) else []
        return ", ".join(known)


def learned(naming: Naming | None, against: Mapping[str, Difference]) -> str:
    """What the best trial has learned, in a line; nothing where it is not known whether it names labels.

    Args:
        against: it and each baseline.
    """
    if naming is None:
        return ""
    simple = {name: d for name, d in against.items() if not name.startswith(ZERO_SHOT)} or against
    better = [name for name, difference in simple.items() if difference.proven and difference.mean > 0]
    other = [name for name in simple if name not in better]
    share, told = f"{naming.best.found:.0%}", naming.told()
    if other and not better and naming.knows:
        known = ", ".join(part for part in (share, told) if part)
        return f"names labels ({known}), but is not proven to rank better than {_joined(other)}"
    names = f"names {'only ' if naming.fails else ''}{share} of labels" + (f" ({told})" if told else "")
    if better:
        rest = f", not proven better than {_joined(other)}" if other else ""
        return f"{names} · ranks better than {_joined(better)} (proven){rest}"
    return names + (f" · is not proven to rank better than {_joined(other)}" if other else "")


def lesson(trials: Iterable[StoredTrial]) -> str:
    """What it took to teach the bases of these trials to name labels, in a sentence; nothing where none was taught."""
    given = {
        (figures["applied/skill_steps"], figures.get("applied/skill_seconds", 0.0))
        for trial in trials
        for figures in trial.epochs[-1:]
        if figures.get("applied/skill_steps", 0) > 0
    }
    if not given:
        return ""
    steps, seconds = sorted(steps for steps, _ in given), sum(seconds for _, seconds in given)
    if len(given) == 1:
        took = f"{steps[0]:.0f} step{'s' * (steps[0] != 1)} and {seconds:.0f} s"
        return f"Teaching the base to name labels took {took}, once for the study's model."
    each = f"{steps[0]:.0f}" if steps[0] == steps[-1] else f"{steps[0]:.0f} to {steps[-1]:.0f}"
    took = f"{len(given)} lessons, {each} steps each and {seconds:.0f} s in all"
    return f"Teaching the base to name labels took {took}; trials with the same model and prompt share one."


def _share(figures: Mapping[str, Any], when: str = "") -> Share | None:
    if "titles_found" not in figures or not figures.get("titles_asked"):
        return None
    when = when or (f"after epoch {figures['epoch']:.0f}" if "epoch" in figures else "trained")
    return Share(float(figures["titles_found"]), float(figures["titles_asked"]), when)


def _ranks_better(figures: Mapping[str, Any], share: Share, users: int) -> bool:
    """Whether the right candidate stands first in clearly more lists than it can be found in by its title."""
    right = figures.get("retrieved/recall_at_1", figures.get("recall_at_1"))
    lists = users * figures.get("hit", 1.0)  # that hold their target
    if right is None or not lists:
        return False
    return bool(right - share.found > _BEYOND * math.hypot(share.error, _near(right, lists)[1]))


def _near(share: float, count: float) -> tuple[float, float]:
    """The middle of a share's interval and its standard error: two hits and two misses are added, so that all of a few
    are not certain (Agresti & Coull, American Statistician 52, 1998)."""
    near = (share * count + 2) / (count + 4)
    return near, math.sqrt(near * (1 - near) / (count + 4))


def _joined(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
