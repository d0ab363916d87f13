"""What a comparison proves → sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from results.leaderboard import PRETTY
from results.statistics.comparison import Comparison, name_of
from results.statistics.paired_tests import (
    Difference,
)
from results.statistics.seed_averages import ConfigurationResult, configuration_results
from results.study.study_folder import StoredTrial, StudyFolder

_NAMED = 8  # trials in a sentence
VAGUE = 0.05  # half a 95% interval of Recall@1, beyond which the verdict warns


def verdict(study: StudyFolder, ranked: Sequence[ConfigurationResult] | None = None) -> str:
    """What the search found, in one sentence.

    Args:
        ranked: the study's configurations, best first, where they are known already.
    """
    manifest, ranked = study.read_manifest(), configuration_results(study) if ranked is None else ranked
    if not ranked:
        return "No trial finished an epoch: there is nothing to compare."
    best = ranked[0]
    recall = best.score("recall_at_1")
    references = study.references()
    baselines = {name: row["recall_at_1"] for name, row in references.items() if name != "chance"}
    others = []
    if baselines:
        strongest = max(baselines, key=lambda name: baselines[name])
        others.append(f"the best baseline, {strongest}, {baselines[strongest]:.0%}")
    others.append(f"chance {references['chance']['recall_at_1']:.0%}")
    if (ceiling := manifest.get("ceiling")) is not None:
        others.append(f"the retriever's ceiling {ceiling:.0%}")
    if manifest["best_reachable_recall_at_1"] is not None:
        others.append(f"best reachable {manifest['best_reachable_recall_at_1']:.0%}")
    lists = manifest["plan"]["validation_lists"]
    half_width = 1.96 * math.sqrt(max(recall * (1 - recall), 1 / lists) / lists)
    if half_width > VAGUE:
        others[-1] += (
            f". With {lists} lists that is uncertain by ±{half_width:.0%}: too few to tell configurations apart"
        )
    who = f"The best trial (number {best.trial.number}, epoch {best.figures['epoch']}) ranks"
    if best.replicates:
        who = f"The best configuration (trial {best.trial.number}, {number_of_seeds(len(best.runs))}) ranks"
    sentence = f"{who} the true item first for {recall:.0%} of users; {', '.join(others)}."
    if left_out := study.left_out():
        sentence += f" Left out, since its files were damaged: {', '.join(f'trial {number}' for number in left_out)}."
    return sentence


def findings(found: Comparison | None) -> list[str]:
    """What a comparison proves and what not, in sentences; none without one."""
    if found is None:
        return []
    several = found.studies > 1
    name = PRETTY.get(found.metric, found.metric)
    low, high = found.interval
    lines = [f"Learned: {found.learned}."] if found.learned else []
    lines.append(f"{name} of {name_of(found.winner, several)}: {low:.3f} to {high:.3f} (95%, {found.users} users).")
    beaten: list[str] = []
    for baseline, difference in sorted(found.against.items(), key=lambda item: item[1].mean):
        proof = f"{told_difference(difference)}, {p_value(difference.p)}"
        if not difference.proven:
            lines.append(f"Not proven different from {baseline}: {proof}.")
        elif difference.mean < 0:
            lines.append(f"WORSE than {baseline}: {proof}.")
        elif not beaten:
            beaten.append(f"Better than {baseline}: {proof}")
        else:
            beaten.append(f"than {baseline}: {proof}")
    lines += [f"{'; '.join(beaten)}."] if beaten else []
    if found.against:
        lines.append(f"{corrected(found)} {power(found)}")
    lines += [ties(found)] if found.configurations > 1 else []
    lines += [found.lesson] if found.lesson else []
    return [*lines, *_seed_findings(found)]


def told_difference(difference: Difference) -> str:
    """With its interval."""
    return f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def corrected(found: Comparison) -> str:
    """What p-values and intervals allow for."""
    if found.configurations == 1:
        return "The p-values and intervals allow for all epochs and baselines being tested together."
    return (
        f"The p-values and intervals allow for picking the best of {found.configurations} configurations and of their "
        "epochs, and for all baselines being tested together."
    )


def power(found: Comparison) -> str:
    """What so many users can show."""
    return f"With {found.users} users, this comparison has an 80% chance of proving a true difference of {found.detectable:.3f}."


def ties(found: Comparison) -> str:
    """Which configurations may be as good as the winner, and the cheapest of them."""
    several, others = found.studies > 1, found.tie_set[1:]
    if not others:
        rest = "the other configuration" if found.configurations == 2 else "every other configuration"
        return f"{capital(name_of(found.winner, several))} is proven better than {rest}."
    named = ", ".join(name_of(trial, several) for trial in others[:_NAMED])
    named += f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    which = "the winner itself" if found.cheapest is found.winner else name_of(found.cheapest, several)
    return f"Not proven better than {named}. The cheapest of these is {which}{price_of(found.cheapest)}."


def _seed_findings(found: Comparison) -> list[str]:
    """Luck with the seed, apart from luck with the users."""
    lines = []
    for name, scores in found.scores.items():
        shown = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"{capital(name)}, {len(scores)} seeds: mean {np.mean(scores):.3f} ({shown}).")
    return [*lines, *unreplicated(found), *([seed_variance(found)] if found.seed_spread is not None else [])]


def unreplicated(found: Comparison) -> list[str]:
    """Which configurations have one run only and may be the best, where others have several."""
    several = found.studies > 1
    if found.ahead:
        named = ", ".join(f"{name_of(trial, several)} ({score:.3f} in its one run)" for trial, score in found.ahead)
        name, verb = name_of(found.winner, several), "is" if len(found.ahead) == 1 else "are"
        mean = np.mean(found.scores[name])
        who = f"{named} {verb} ahead of {name} (mean {mean:.3f})"
        return [f"Not replicated yet: {who}. One run may owe that to luck; `--replicate` runs other seeds."]
    if found.scores and name_of(found.winner, several) not in found.scores:
        name = name_of(found.winner, several)
        return [f"Not replicated yet: {name} leads by one run; `--replicate` runs other seeds."]
    return []


def seed_variance(found: Comparison) -> str:
    """How far seeds and users move a score, of a comparison with replicates."""
    return (
        f"Luck: a score varies by {found.seed_spread:.3f} from seed to seed, and by {found.user_error:.3f} with the users "
        "that are drawn (standard deviations)."
    )


def price_of(trial: StoredTrial) -> str:
    """What using it costs, as far as it is known."""
    last = trial.epochs[-1]
    parts = []
    if (flops := last.get("applied/flops_per_list")) is not None:
        parts.append(f"{spelled_flops(flops)} a list")
    if (parameters := last.get("applied/parameters")) is not None:
        parts.append(f"{parameters / 1e6:.3g}M parameters")
    return f" ({', '.join(parts)})" if parts else ""


def spelled_flops(flops: float) -> str:
    unit, name = next(((u, n) for u, n in ((1e12, "TFLOPs"), (1e9, "GFLOPs")) if flops >= u), (1e6, "MFLOPs"))
    return f"{flops / unit:.3g} {name}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def number_of_seeds(count: int) -> str:
    return f"mean of {count} seeds"


def p_value(value: float) -> str:
    """In words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
