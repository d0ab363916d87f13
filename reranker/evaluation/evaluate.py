"""Label scores of evaluation lists → ranks, first picks, and the reported figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from reranker.calibration import AS_SCORED, Adjustment, Calibration
from reranker.data.example import MISSING, Example
from reranker.metrics import NOWHERE, Picks, Ranks, picks, ranks_of_target, summarise

FLOPS = (
    "FLOPs a list = 2 · (parameters outside the embeddings) · tokens + 2 · layers · heads · head size · tokens² "
    "+ 2 · hidden size · labels, with the adapter merged into its base; of a mean validation list. Images add what the "
    "vision tower takes."
)
RETRIEVED = "retrieved/"  # before a metric's name: only over lists that hold their target
ALONE = "alone/"  # before a figure's name: of the model by itself, without the collaborative scores
_BY_ITSELF = ("val_loss", "recall_at_1", "ndcg_at_10")


@dataclass(frozen=True)
class Evaluation:
    """A model's results on the evaluation lists.

    Attributes:
        ranks: of each list's target.
        picks: what the model put first in each list.
        figures: `val_loss` (nats, of the label softmax), the metrics of `reranker.metrics`, and those of
            `reranker.calibration`. For retrieved lists also `hit`, the share of lists that hold their target, and each
            metric over those alone. With collaborative scores also `collaborative_loss`, theirs without the model, and
            some figures of the model without them.
        adjustment: the temperature that was fitted, or given.
    """

    ranks: Ranks
    picks: Picks
    figures: dict[str, float]
    adjustment: Adjustment = AS_SCORED


def evaluate(
    scores: NDArray[np.floating],
    targets: NDArray[np.integer],
    collaborative: NDArray[np.floating] | None = None,
    model_weight: float = 1.0,
    temperature: float | None = None,
    behind: NDArray[np.integer] | int = NOWHERE,
) -> Evaluation:
    """Rank the targets and summarise.

    Args:
        scores: log-probabilities among the labels, [lists, candidates].
        targets: [lists], position of the true item, or MISSING.
        collaborative: what to add to the scores; None: nothing.
        model_weight: what to multiply the scores by before.
        temperature: fitted on other lists; None: it is fitted on these.
        behind: see `ranks_of_target`.
    """
    if collaborative is not None:
        together = evaluate(
            log_softmax(model_weight * scores + collaborative, axis=1), targets, temperature=temperature, behind=behind
        )
        alone = evaluate(scores, targets, behind=behind).figures
        added = {f"{ALONE}{name}": alone[name] for name in _BY_ITSELF}
        added["collaborative_loss"] = evaluate(collaborative, targets).figures["val_loss"]
        return replace(together, figures={**together.figures, **added})
    ranks = ranks_of_target(scores, targets, behind)
    has_target = targets != MISSING
    target_scores = np.take_along_axis(log_softmax(scores[has_target], axis=1), targets[has_target, None], axis=1)
    figures = {"val_loss": float(-target_scores.mean()) if has_target.any() else float("nan"), **summarise(ranks)}
    if not has_target.all():
        figures["hit"] = float(has_target.mean())
        if has_target.any():
            figures |= {f"{RETRIEVED}{name}": value for name, value in summarise(ranks.of(has_target)).items()}
    adjustment = AS_SCORED
    if has_target.any() and np.isfinite(scores).all():
        calibration = Calibration.of(scores[has_target], targets[has_target], temperature)
        figures |= calibration.figures()
        adjustment = Adjustment(calibration.temperature)
    return Evaluation(ranks, picks(scores, targets), figures, adjustment)


def items_behind(examples: Sequence[Example]) -> NDArray[np.int64]:
    """How many items come before each target that its list lacks, [examples]; NOWHERE where that is not known."""
    return np.array([example.behind for example in examples], dtype=np.int64)


def collaborative_scores(examples: Sequence[Example]) -> NDArray[np.float32] | None:
    """The examples' collaborative scores, [examples, candidates]; None if they have none."""
    if not examples or not examples[0].collaborative:
        return None
    return np.array([example.collaborative for example in examples], dtype=np.float32)
