"""A study's stored trials → why its results are what they are: findings, the worst first. `python -m results.diagnose STUDY`."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scipy import stats

from reranker.errors import RerankerError
from reranker.metrics import METRICS, chance
from results.compare import RUNS, compare
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

_FEW_STEPS = 60  # of the optimiser; a LoRA adapter begins at nothing, and each step moves a weight by the rate at most
_FALL = 0.02  # of the loss, as a part of it: below this an epoch taught nothing
_GAP = 0.3  # nats between training and validation loss


@dataclass(frozen=True)
class Finding:
    """One reason, in words for whoever has to act on it.

    Attributes:
        name: a few words that tell it from other findings.
        seen: the figures.
        means: what they mean.
        next_step: what to change.
        confidence: how sure it is.
    """

    name: str
    seen: str
    means: str
    next_step: str
    confidence: Literal["sure", "likely", "possible"]


@dataclass(frozen=True)
class Evidence:
    """What is known of a study.

    Attributes:
        trials: those with at least one epoch, the best first.
        failed: those that failed.
        metric: the one that makes a trial the best.
        users: how many lists were scored.
        candidates: how many items a list has.
        unproven: baselines that the best trial can't be told from or is worse than.
        edges: searched knobs whose best value is the end of their range, with that value.
    """

    trials: list[StoredTrial]
    users: int
    candidates: int
    metric: str = "ndcg_at_10"
    failed: list[StoredTrial] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    edges: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of_study(study: StudyFolder) -> Evidence:
        manifest, trials = study.read_manifest(), list(study.trials())
        metric = manifest["metric"]
        found = compare(study)
        against = found.against if found else {}
        return Evidence(
            _best_first([trial for trial in trials if trial.epochs], metric),
            manifest["plan"]["validation_lists"],
            manifest["plan"]["candidates"],
            metric,
            [trial for trial in trials if trial.status is TrialStatus.FAILED],
            [name for name, d in against.items() if not (d.proven and d.mean > 0)],
            _edges(trials, manifest["knobs"], metric),
        )

    @staticmethod
    def of_table(
        rows: Sequence[dict[str, Any]], *, users: int, candidates: int, metric: str = "ndcg_at_10"
    ) -> Evidence:
        """From figures alone, a row a trial with the names of the leaderboard and of `applied/…`."""
        trials = [
            StoredTrial(number, {}, TrialStatus.COMPLETED, "", [{"epoch": 1, **row}]) for number, row in enumerate(rows)
        ]
        return Evidence(_best_first(trials, metric), users, candidates, metric)

    @property
    def best(self) -> dict[str, Any]:
        """The figures of the best epoch of the best trial."""
        figures = self.trials[0].best(self.metric)
        assert figures is not None
        return figures

    def above_chance(self, metric: str) -> float:
        """By how many standard errors of chance the best trial lies above chance."""
        _, k = METRICS[metric]
        expected = chance(self.candidates)[metric]
        if metric.startswith("ndcg"):
            second = sum(1 / math.log2(r + 1) ** 2 for r in range(1, min(k, self.candidates) + 1)) / self.candidates
        else:
            second = expected
        error = math.sqrt((second - expected**2) / self.users)
        return float(self.best[metric] - expected) / error

    @property
    def at_chance(self) -> bool:
        """Recall@1 and NDCG@10 are within what the best of so many epochs would have by guessing, in 97.5% of studies."""
        z = stats.norm.ppf(1 - 0.025 / sum(len(trial.epochs) for trial in self.trials))
        known = [metric for metric in ("recall_at_1", "ndcg_at_10") if metric in self.best]
        return all(self.above_chance(metric) < z for metric in known)


def diagnose(evidence: Evidence) -> list[Finding]:
    """What explains the results, the worst first; nothing where all is well."""
    if not evidence.trials:
        return [finding for finding in [_failures(evidence)] if finding]
    return [finding for check in _CHECKS if (finding := check(evidence))]


def _at_chance(e: Evidence) -> Finding | None:
    if not e.at_chance:
        return None
    level, uniform = chance(e.candidates)["recall_at_1"], math.log(e.candidates)
    error = math.sqrt(level * (1 - level) / e.users)
    seen = f"Recall@1 {e.best['recall_at_1']:.4f}; guessing gives {level:.4f} ± {1.96 * error:.4f} with {e.users} users"
    if (loss := e.best.get("val_loss", e.best.get("train_loss"))) is not None:
        side = "not below" if loss >= uniform else "hardly below"
        seen += f"; the loss, {loss:.2f}, is {side} that of guessing, ln {e.candidates} = {uniform:.2f}"
    return Finding(
        "at chance", seen, "the model ranks as if it guessed: nothing has been learned that helps on new users",
        "mend what is named below first; comparing configurations is pointless until one is above chance", "sure",
    )  # fmt: skip


def _too_few_steps(e: Evidence) -> Finding | None:
    most = max((t.epochs[-1].get("applied/optimizer_steps", math.inf) for t in e.trials), default=math.inf)
    if most >= _FEW_STEPS:
        return None
    return Finding(
        "too few steps", f"the longest training took {most:.0f} optimiser steps",
        "an adapter begins at zero; so few steps cannot move it far, whatever the other knobs are",
        "more examples_per_user (null: every prefix), more epochs, or a smaller effective_batch, to some hundred steps",
        "sure",
    )  # fmt: skip


def _not_applied(e: Evidence) -> Finding | None:
    wrong = [
        (trial, trial.values["learning_rate"], applied)
        for trial in e.trials
        if "learning_rate" in trial.values
        and (applied := trial.epochs[-1].get("applied/learning_rate")) is not None
        and not math.isclose(applied, trial.values["learning_rate"], rel_tol=0.02)
    ]
    if not wrong or wrong[0][0] is not e.trials[0]:
        return None
    trial, wanted, applied = wrong[0]
    return Finding(
        "applied is not configured",
        f"trial {trial.number} asked for a learning rate of {wanted:g}; the optimiser never held more than {applied:g}",
        "what was compared is not what the table says", "shorten warmup_epochs, or train longer", "sure",
    )  # fmt: skip


def _rate_too_high(e: Evidence) -> Finding | None:
    uniform = math.log(e.candidates)
    broken = [
        t for t in e.trials
        if abs(t.epochs[-1].get("val_loss", 0) - uniform) < 0.15 and t.epochs[0].get("train_loss", 0) > uniform - 0.1
        and t.epochs[-1].get("applied/optimizer_steps", 0) >= _FEW_STEPS
    ] + [t for t in e.failed if "diverged" in t.cause]  # fmt: skip
    if not broken or not e.at_chance or len(broken) < len(e.trials) / 2:
        return None
    rates = [t.values["learning_rate"] for t in broken if "learning_rate" in t.values]
    named = f" at rates from {min(rates):.1e}" if rates else ""
    return Finding(
        "rate too high", f"{len(broken)} of {len(e.trials) + len(e.failed)} trials fell to a loss of ln "
        f"{e.candidates} = {uniform:.2f} or diverged{named}",
        "the first steps destroyed what the base knew, and the adapter now answers the same for every list",
        "lower learning_rate by ten, or lora_rank with it", "likely",
    )  # fmt: skip


def _rate_too_low(e: Evidence) -> Finding | None:
    best = e.trials[0].epochs
    losses = [epoch["train_loss"] for epoch in best if "train_loss" in epoch]
    if len(losses) < 2 or best[-1].get("applied/optimizer_steps", 0) < _FEW_STEPS:
        return None
    fall = (losses[0] - losses[-1]) / losses[0] / (len(losses) - 1)
    if not 0 <= fall < _FALL or losses[-1] < math.log(e.candidates):
        return None
    return Finding(
        "rate too low", f"the training loss of the best trial went from {losses[0]:.3f} to {losses[-1]:.3f} in "
        f"{len(losses)} epochs and {best[-1]['applied/optimizer_steps']:.0f} steps",
        "the steps are too small to change the answers", "raise learning_rate by ten", "likely",
    )  # fmt: skip


def _beaten(e: Evidence) -> Finding | None:
    if not e.unproven or e.at_chance:
        return None
    return Finding(
        "a simple baseline does as well", f"the best trial is not proven better than {', '.join(e.unproven)}",
        "the language model adds nothing that counting does not know, as far as these users can tell",
        "more examples, a larger base, or longer histories; else use the baseline", "sure",
    )  # fmt: skip


def _overfitting(e: Evidence) -> Finding | None:
    trial, last = e.trials[0], e.trials[0].epochs[-1]
    first = trial.best("val_loss") if "val_loss" in last else None
    if first is None or last["train_loss"] > last["val_loss"] - _GAP or last["val_loss"] < first["val_loss"] + 0.1:
        return None
    return Finding(
        "overfitting", f"after epoch {first['epoch']} the validation loss of trial {trial.number} rose from "
        f"{first['val_loss']:.2f} to {last['val_loss']:.2f}, while the training loss fell to {last['train_loss']:.2f}",
        "the adapter learns the training users by heart", "fewer epochs, more users or examples, lora_dropout, a lower rank",
        "sure",
    )  # fmt: skip


def _truncated(e: Evidence) -> Finding | None:
    cut, seen = e.best.get("applied/cut_prompts", 0), e.best.get("applied/examples", 0)
    if not seen or cut < 0.1 * seen:
        return None
    return Finding(
        "prompts are cut", f"{cut / seen:.0%} of the training prompts lost history or parts of titles to fit",
        "the model is asked about less than was configured", "raise max_prompt_tokens, or lower history_length", "sure",
    )  # fmt: skip


def _edge(e: Evidence) -> Finding | None:
    if not e.edges or e.at_chance:
        return None
    named = ", ".join(f"{knob} = {value:g}" for knob, value in e.edges.items())
    return Finding(
        "the best value is an end of its range", f"in the best trials: {named}",
        "better values may lie outside of what was searched", "widen these ranges", "possible",
    )  # fmt: skip


def _failures(e: Evidence) -> Finding | None:
    if not e.failed:
        return None
    causes = Counter(trial.cause for trial in e.failed).most_common(3)
    told = "; ".join(f"{cause} ({count}×)" for cause, count in causes)
    return Finding(
        "trials failed", f"{len(e.failed)} of {len(e.failed) + len(e.trials)}: {told}",
        "these configurations were not compared", "see their train.log; `--resume STUDY --retry-failed` tries them again",
        "sure",
    )  # fmt: skip


_CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    _at_chance, _too_few_steps, _rate_too_high, _rate_too_low, _not_applied, _beaten, _overfitting, _truncated,
    _failures, _edge,
)  # fmt: skip


def _best_first(trials: list[StoredTrial], metric: str) -> list[StoredTrial]:
    sign = 1 if metric.endswith("_loss") else -1
    return sorted(trials, key=lambda trial: sign * (trial.best(metric) or {}).get(metric, -sign * math.inf))


def _edges(trials: list[StoredTrial], knobs: list[str], metric: str) -> dict[str, Any]:
    """Numeric knobs whose three best trials all have the largest, or all the smallest, value that was tried."""
    ranked = _best_first([trial for trial in trials if trial.epochs], metric)
    found = {}
    for knob in knobs:
        values = [trial.values[knob] for trial in ranked]
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if len(ranked) < 8 or not numeric or len(set(values)) < 3:
            continue
        first = values[:3]
        if set(first) == {max(values)} or set(first) == {min(values)}:
            found[knob] = first[0]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m results.diagnose", description=(__doc__ or "").split("`")[0])
    parser.add_argument("study", help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    args = parser.parse_args(argv)
    try:
        found = diagnose(Evidence.of_study(StudyFolder.open(args.runs, args.study)))
    except RerankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for number, finding in enumerate(found, start=1):
        print(f"{number}. {finding.name} ({finding.confidence})")
        for label, text in (("seen", finding.seen), ("means", finding.means), ("next", finding.next_step)):
            print(f"   {label + ':':<7}{text}")
    if not found:
        print("Nothing found that explains weak results.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
