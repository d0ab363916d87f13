"""Scores of lists and their targets → the temperature that makes probabilities of them, and how far those are from what happens.

Source: Guo et al., On calibration of modern neural networks, ICML 2017 (temperature scaling, expected calibration error).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

COLDEST, HOTTEST = 0.05, 20.0  # scores that call for more are either always right or tell nothing
_BINS = 15
_MOST_LISTS = 10_000  # that a temperature is fitted on: one number needs no more
_LEAST_GAIN = 1e-9  # nats, below which scores do not tell one temperature from another


@dataclass(frozen=True)
class Adjustment:
    """What validation lists tell of a model's answers, kept with its adapter: how scores become probabilities.

    Attributes:
        temperature: what scores are divided by before their softmax; the order of candidates does not depend on it.
        label_prior: mean log-probability of each label, subtracted from the model's before anything else; empty: nothing is.
    """

    temperature: float = 1.0
    label_prior: tuple[float, ...] = ()


AS_SCORED = Adjustment()


@dataclass(frozen=True)
class Calibration:
    """How well probabilities say what happens; all of it over lists that hold their target.

    Attributes:
        temperature: what to divide scores by before their softmax.
        error: expected calibration error of the first places' probabilities as they are.
        calibrated_error, calibrated_loss: that error, and the mean log-loss of the targets in nats, with a temperature
            of other lists.
    """

    temperature: float
    error: float
    calibrated_error: float
    calibrated_loss: float

    @staticmethod
    def of(scores: FloatArray, targets: IntArray, temperature: float | None = None) -> Calibration:
        """
        Args:
            scores: [lists, candidates], up to a constant per list.
            targets: [lists], position of the true item in each list.
            temperature: fitted on other lists before; None: it is fitted on these, and judged by halves of them, each
                with the temperature of the other half.
        """
        if temperature is not None:
            calibrated = scores / temperature
        else:
            temperature = fitted_temperature(scores, targets)
            even, odd = (fitted_temperature(scores[start::2], targets[start::2]) for start in (0, 1))
            calibrated = np.array(scores, dtype=np.float64)
            calibrated[::2] /= odd
            calibrated[1::2] /= even
        return Calibration(
            temperature,
            calibration_error(scores, targets),
            calibration_error(calibrated, targets),
            log_loss(calibrated, targets),
        )

    def figures(self) -> dict[str, float]:
        """By the names that reports and MLflow know."""
        return {
            "temperature": self.temperature,
            "calibration_error": self.error,
            "calibrated_error": self.calibrated_error,
            "calibrated_loss": self.calibrated_loss,
        }


def fitted_temperature(scores: FloatArray, targets: IntArray) -> float:
    """The temperature under which the targets are most likely, from `COLDEST` to `HOTTEST`; 1 if that makes no difference.

    The loss is convex in 1 / temperature, so there is one best.

    Args:
        scores, targets: as in `Calibration.of`; of many lists some are taken, at equal distances.

    >>> scores = np.log([[0.75, 0.25]] * 4)  # as sure as it is right
    >>> round(fitted_temperature(scores, np.array([0, 0, 0, 1])), 2)
    1.0
    """
    from scipy.optimize import minimize_scalar  # imported here: reading a trial's folder need not wait for it

    step = max(1, len(scores) // _MOST_LISTS)
    some_scores, some_targets = scores[::step], targets[::step]
    if not len(some_scores):
        return 1.0

    def loss(log_temperature: float) -> float:
        return log_loss(some_scores / math.exp(log_temperature), some_targets)

    best = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(float(best.x)) if best.fun < loss(0.0) - _LEAST_GAIN else 1.0


def log_loss(scores: FloatArray, targets: IntArray) -> float:
    """The mean of −log softmax(scores) at the targets, in nats; NaN without lists."""
    if not len(scores):
        return math.nan
    return float(-np.take_along_axis(_log_shares(scores), np.asarray(targets)[:, None], axis=1).mean())


def calibration_error(scores: FloatArray, targets: IntArray) -> float:
    """Σ (lists of a bin / all lists) · |share right − mean probability|, over 15 bins of equal width by the probability of
    each list's first place; NaN without lists.

    Some of it is luck: probabilities that are right have an error of about .03 in 600 lists.
    """
    if not len(scores):
        return math.nan
    shares = np.exp(_log_shares(scores))
    stated = shares.max(axis=1)
    is_right = (shares.argmax(axis=1) == targets).astype(np.float64)
    bins = np.minimum((stated * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=is_right - stated, minlength=_BINS)  # of each bin: lists × (right − stated)
    return float(np.abs(gaps).sum() / len(stated))


def _log_shares(scores: FloatArray) -> NDArray[np.float64]:
    from scipy.special import log_softmax  # as above

    shares: NDArray[np.float64] = log_softmax(np.asarray(scores, dtype=np.float64), axis=1)
    return shares
