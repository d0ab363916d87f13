"""A trial's figures → what its model has learned: to name labels, then to rank; and what teaching it labels took.

A model ranks by the labels it names. So, after some validation lists, it is asked for the label of a candidate by its
title (`reranker.evaluation.title_probe`). That needs no knowledge of users: a model that can't do it can't rank, and
one that can may still rank badly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.statistics.paired_tests import Difference
from results.statistics.training_loss import guessing_in_training, other_loss
from results.study.stored_trial import StoredTrial

ZERO_SHOT = "zero-shot "  # prefix of the baselines that are an untrained model
HALF = 0.5  # of the titles: below this, most lists are answered wrongly
MOST = 0.8  # of the titles: from here on, wrong labels cost a ranking at most a fifth
_BEYOND = 3.0  # standard errors
_FALL = 0.3  # of the titles: a smaller fall leaves most of the skill
_LESSON_ASKED = 32  # the least number of titles in a lesson's own share
_TAUGHT = 0.3  # nats below the loss of guessing; from there on, the model names labels in training
_TOY = "demo-"  # prefix of the demo's bases, which know one prompt only, and not the probe's
_NAMED = 3  # baselines named in a line


@dataclass(frozen=True)
class Share:
    """The share of titles whose label was named; `when` is text such as "after epoch 2"."""

    found: float
    asked: float
    when: str

    @property
    def error(self) -> float:
        """Its standard error; see `_agresti_coull`."""
        return _agresti_coull(self.found, self.asked)[1]

    @property
    def low(self) -> float:
        """The lower end of its 95% interval."""
        middle, error = _agresti_coull(self.found, self.asked)
        return middle - 2 * error

    @property
    def high(self) -> float:
        """The upper end of its 95% interval."""
        middle, error = _agresti_coull(self.found, self.asked)
        return middle + 2 * error


@dataclass(frozen=True)
class Naming:
    """How often a trial's model names the label of a title.

    Attributes:
        guessing: the share for guessing.
        untrained: the share of the untrained base, if it was asked.
        taught: the share of the base after its lesson, if there was one.
        reports: the share of each report, in order.
        best: the share of the trial's best report.
    """

    guessing: float
    untrained: Share | None
    taught: Share | None
    reports: tuple[Share, ...]
    best: Share

    @staticmethod
    def of(trial: StoredTrial, metric: str, untrained: Mapping[str, Any], users: int) -> Naming | None:
        """None if the model was not asked, or if it does not understand the question.

        It does not if it ranks better than it names labels, or if its training loss shows that it names labels.

        Args:
            metric: the study's metric.
            untrained: the figures of the trial's base without training.
            users: the number of scored lists.
        """
        figures = trial.best(metric)
        best = _share(figures or {})
        if figures is None or best is None or str(trial.values.get("model", "")).startswith(_TOY):
            return None
        untrained_share = _share(untrained, "untrained")
        if _ranks_better(figures, best, users) or (
            untrained_share and _ranks_better(untrained, untrained_share, users)
        ):
            return None
        candidates = trial.values.get("candidates") or 0
        taught_share = figures.get("applied/skill_found")
        naming = Naming(
            1 / candidates if candidates else 0.0,
            untrained_share,
            None if taught_share is None else Share(taught_share, _LESSON_ASKED, "after its lesson"),
            tuple(share for epoch in trial.reports if (share := _share(epoch))),
            best,
        )
        guessing_loss = figures.get("collaborative_loss", math.log(candidates) if candidates else 0.0)
        gains = [
            guessing_in_training(epoch, guessing_loss) - epoch["train_loss"]
            for epoch in trial.reports
            if "train_loss" in epoch
        ]
        named_in_training = candidates and not other_loss(trial) and max(gains, default=0.0) > _TAUGHT
        return None if naming.guesses and named_in_training else naming

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
        """The highest share before this report, if the report lost it; else None."""
        earlier = self.reports[: self.reports.index(to)]
        peak = max(
            (share for share in (self.untrained, self.taught, *earlier) if share),
            key=lambda share: share.found,
            default=to,
        )
        lost = peak.found - to.found
        return peak if peak.found >= HALF and lost > max(_FALL, _BEYOND * math.hypot(peak.error, to.error)) else None

    def told(self) -> str:
        """The shares before training, and the last one if the skill was lost, as a phrase."""
        parts = [] if not self.fails else [f"guessing {self.guessing:.0%}"]
        parts += [f"untrained {self.untrained.found:.0%}"] if self.untrained else []
        parts += [f"taught {self.taught.found:.0%}"] if self.taught else []
        last = self.reports[-1]
        parts += [f"{last.found:.0%} {last.when}"] if last != self.best and self.fall(last) else []
        return ", ".join(parts)


def learned(naming: Naming | None, against: Mapping[str, Difference]) -> str:
    """What the best trial has learned, in a line; empty if its naming is unknown.

    Args:
        against: its difference to each baseline.
    """
    if naming is None:
        return ""
    opponents = {name: difference for name, difference in against.items() if not name.startswith(ZERO_SHOT)} or against
    better = [name for name, difference in opponents.items() if difference.proven and difference.mean > 0]
    unbeaten = [name for name in opponents if name not in better]
    share, other_shares = f"{naming.best.found:.0%}", naming.told()
    if unbeaten and not better and naming.knows:
        shares = ", ".join(part for part in (share, other_shares) if part)
        return f"names labels ({shares}), but is not proven to rank better than {_joined(unbeaten)}"
    names = f"names {'only ' if naming.fails else ''}{share} of labels" + (f" ({other_shares})" if other_shares else "")
    if better:
        unbeaten_text = f", not proven better than {_joined(unbeaten)}" if unbeaten else ""
        return f"{names} · ranks better than {_joined(better)} (proven){unbeaten_text}"
    return names + (f" · is not proven to rank better than {_joined(unbeaten)}" if unbeaten else "")


def lesson(trials: Iterable[StoredTrial]) -> str:
    """What it took to teach the trials' bases to name labels, in a sentence; empty if none was taught."""
    lessons = {
        (figures["applied/skill_steps"], figures.get("applied/skill_seconds", 0.0))
        for trial in trials
        for figures in trial.reports[-1:]
        if figures.get("applied/skill_steps", 0) > 0
    }
    if not lessons:
        return ""
    steps, seconds = sorted(steps for steps, _ in lessons), sum(seconds for _, seconds in lessons)
    if len(lessons) == 1:
        effort = f"{steps[0]:.0f} step{'s' * (steps[0] != 1)} and {seconds:.0f} s"
        return f"Teaching the base to name labels took {effort}, once for the study's model."
    step_range = f"{steps[0]:.0f}" if steps[0] == steps[-1] else f"{steps[0]:.0f} to {steps[-1]:.0f}"
    effort = f"{len(lessons)} lessons, {step_range} steps each and {seconds:.0f} s in all"
    return f"Teaching the base to name labels took {effort}; trials with the same model and prompt share one."


def _share(figures: Mapping[str, Any], when: str = "") -> Share | None:
    if "titles_found" not in figures or not figures.get("titles_asked"):
        return None
    when = when or (f"after epoch {figures['epoch']:g}" if "epoch" in figures else "trained")
    return Share(float(figures["titles_found"]), float(figures["titles_asked"]), when)


def _ranks_better(figures: Mapping[str, Any], share: Share, users: int) -> bool:
    """Whether the model ranks the target first significantly more often than it names a title's label."""
    with_counts = "alone/recall_at_1" in figures  # then the rest is not the model's alone
    recall = figures.get("alone/recall_at_1" if with_counts else "retrieved/recall_at_1", figures.get("recall_at_1"))
    lists = users * figures.get("hit", 1.0)  # lists that hold their target
    if recall is None or not lists:
        return False
    return bool(recall - share.found > _BEYOND * math.hypot(share.error, _agresti_coull(recall, lists)[1]))


def _agresti_coull(share: float, count: float) -> tuple[float, float]:
    """The centre of a share's interval and its standard error.

    Adds two hits and two misses, so that a share of 1 from few trials is not certain. Source: Agresti & Coull,
    American Statistician 52, 1998.
    """
    middle = (share * count + 2) / (count + 4)
    return middle, math.sqrt(middle * (1 - middle) / (count + 4))


def _joined(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
