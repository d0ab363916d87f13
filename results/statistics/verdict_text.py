"""A comparison → sentences about what it proves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from results.leaderboard import PRETTY
from results.statistics.comparison import Comparison, name_of
from results.statistics.paired_tests import LEVEL, Difference
from results.statistics.seed_averages import ConfigurationResult, configuration_results
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

_NAMED = 8  # trials named in a sentence
VAGUE = 0.05  # half-width of the 95% interval of Recall@1; the verdict warns of a wider one


def verdict(study: StudyFolder, ranked: Sequence[ConfigurationResult] | None = None) -> str:
    """The result of a search, in one sentence.

    Args:
        ranked: the study's configurations, best first, if known already.
    """
    manifest, ranked = study.read_manifest(), configuration_results(study) if ranked is None else ranked
    if not ranked:
        return "No trial finished an epoch: there is nothing to compare."
    best = ranked[0]
    recall = best.score("recall_at_1")
    references = study.references()
    baselines = {name: row["recall_at_1"] for name, row in references.items() if name != "chance"}
    reference_texts = []
    if baselines:
        strongest = max(baselines, key=lambda name: baselines[name])
        reference_texts.append(f"the best baseline, {strongest}, {baselines[strongest]:.0%}")
    reference_texts.append(f"chance {references['chance']['recall_at_1']:.0%}")
    if (ceiling := manifest.get("ceiling")) is not None:
        reference_texts.append(f"the retriever's ceiling {ceiling:.0%}")
    if manifest["best_reachable_recall_at_1"] is not None:
        reference_texts.append(f"best reachable {manifest['best_reachable_recall_at_1']:.0%}")
    lists = manifest["plan"]["validation_lists"]
    users = manifest["plan"].get("validation_users", lists)
    who = "users" if users == lists else "lists"
    scored_part = best.share  # reports within an epoch score a part of the lists
    lists, users = (max(1, round(scored_part * count)) for count in (lists, users))
    half_width = 1.96 * math.sqrt(max(recall * (1 - recall), 1 / users) / users)
    if half_width > VAGUE:
        reference_texts[-1] += (
            f". With {counted(lists, 'list')} that is uncertain by ±{half_width:.0%}: too few to tell close configurations "
            "apart"
        )
    subject = f"The best trial (number {best.trial.number}, epoch {best.figures['epoch']:g}) ranks"
    if best.replicates:
        subject = f"The best configuration (trial {best.trial.number}, {number_of_seeds(len(best.runs))}) ranks"
    sentence = f"{subject} the true item first for {recall:.0%} of {who}; {', '.join(reference_texts)}."
    if left_out := study.left_out():
        sentence += f" Left out, since its files were damaged: {', '.join(f'trial {number}' for number in left_out)}."
    return sentence


def findings(comparison: Comparison | None) -> list[str]:
    """What a comparison proves and what it does not, in sentences; empty without a comparison."""
    if comparison is None:
        return []
    several_studies = comparison.studies > 1
    name = PRETTY.get(comparison.metric, comparison.metric)
    low, high = comparison.interval
    lines = [f"Learned: {comparison.learned}."] if comparison.learned else []
    lines.append(
        f"{name} of {name_of(comparison.winner, several_studies)}: {low:.3f} to {high:.3f} (95%, {sample(comparison)})."
    )
    wins: list[str] = []
    for baseline, difference in sorted(comparison.against.items(), key=lambda item: item[1].mean):
        proof = f"{told_difference(difference)}, {p_value(difference.p)}"
        if not difference.proven:
            lines.append(f"Not proven different from {baseline}: {proof}.")
        elif difference.mean < 0:
            lines.append(f"WORSE than {baseline}: {proof}.")
        elif not wins:
            wins.append(f"Better than {baseline}: {proof}")
        else:
            wins.append(f"than {baseline}: {proof}")
    lines += [f"{'; '.join(wins)}."] if wins else []
    if comparison.against:
        lines.append(f"{corrected(comparison)} {capital(power(comparison))}.")
    lines += [ties(comparison)] if comparison.configurations > 1 else []
    lines += [comparison.lesson] if comparison.lesson else []
    return [*lines, *_seed_findings(comparison)]


def sample(comparison: Comparison) -> str:
    """What a comparison is on, in words: users, and lists where some have several."""
    users = counted(comparison.users, "user")
    return users if comparison.lists in (None, comparison.users) else f"{comparison.lists} lists of {users}"


def counted(number: int, noun: str) -> str:
    """So many of something, as text."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def told_difference(difference: Difference) -> str:
    """A difference with its interval."""
    return f"{signed(difference.mean)} ({signed(difference.low)} to {signed(difference.high)})"


def signed(value: float, digits: int = 3) -> str:
    """A difference as text with its sign, to so many digits, or one more where these show nothing; a zero has no sign."""
    shown = (f"{value:+.{count}f}" for count in (digits, digits + 1))
    return next((text for text in shown if float(text)), f"{0:.{digits}f}")


def corrected(comparison: Comparison) -> str:
    """What the p-values and intervals are corrected for."""
    if comparison.configurations == 1:
        return "The p-values and intervals allow for all epochs and baselines being tested together."
    return (
        f"The p-values and intervals allow for picking the best of {comparison.configurations} configurations and of "
        "their epochs, and for all baselines being tested together."
    )


def power(comparison: Comparison) -> str:
    """The difference that the comparison can detect with its users, as a phrase."""
    who, difference = f"with {sample(comparison)}", comparison.detectable
    if difference == 0:
        return f"{who}, who all differ by the same amount, the power of this comparison is not known"
    if difference > 1:  # no two means of a metric are further apart
        return f"{who}, there is no difference that this comparison has an 80% chance of proving"
    return f"{who}, this comparison has an 80% chance of proving a true difference of {difference:.3f}"


def ties(comparison: Comparison) -> str:
    """Configurations that the winner is not proven better than, and the cheapest of them."""
    several_studies, tied_trials = comparison.studies > 1, comparison.tie_set[1:]
    if not tied_trials:
        opponents = "the other configuration" if comparison.configurations == 2 else "every other configuration"
        return f"{capital(name_of(comparison.winner, several_studies))} is proven better than {opponents}."
    names = ", ".join(name_of(trial, several_studies) for trial in tied_trials[:_NAMED])
    names += f" and {len(tied_trials) - _NAMED} more" if len(tied_trials) > _NAMED else ""
    cheapest = (
        "the winner itself"
        if comparison.cheapest is comparison.winner
        else name_of(comparison.cheapest, several_studies)
    )
    return f"Not proven better than {names}. The cheapest of these is {cheapest}{price_of(comparison.cheapest)}."


def _seed_findings(comparison: Comparison) -> list[str]:
    """Scores by seed, unreplicated configurations, and the variance from seeds and users."""
    lines = []
    for name, scores in comparison.scores.items():
        score_list = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"{capital(name)}, {len(scores)} seeds: mean {np.mean(scores):.3f} ({score_list}).")
    return [
        *lines,
        *unreplicated(comparison),
        *([seed_variance(comparison)] if comparison.seed_spread is not None else []),
    ]


def unreplicated(comparison: Comparison) -> list[str]:
    """Configurations with a single run that may be the best although others have several runs."""
    several_studies = comparison.studies > 1
    if comparison.ahead:
        names = ", ".join(
            f"{name_of(trial, several_studies)} ({score:.3f} in its one run)" for trial, score in comparison.ahead
        )
        name, verb = name_of(comparison.winner, several_studies), "is" if len(comparison.ahead) == 1 else "are"
        mean = np.mean(comparison.scores[name])
        leaders = f"{names} {verb} ahead of {name} (mean {mean:.3f})"
        return [f"Not replicated yet: {leaders}. One run may owe that to luck; `--replicate` runs other seeds."]
    if comparison.scores and name_of(comparison.winner, several_studies) not in comparison.scores:
        name = name_of(comparison.winner, several_studies)
        return [f"Not replicated yet: {name} leads by one run; `--replicate` runs other seeds."]
    return []


def seed_variance(comparison: Comparison) -> str:
    """How much seeds and users move a score; only for a comparison with replicates."""
    return (
        f"Luck: a score varies by {comparison.seed_spread:.3f} from seed to seed, and by {comparison.user_error:.3f} "
        "with the users that are drawn (standard deviations)."
    )


def price_of(trial: StoredTrial) -> str:
    """The cost of ranking with a trial's model, as far as known."""
    last = trial.reports[-1]
    parts = []
    if (flops := last.get("applied/flops_per_list")) is not None:
        parts.append(f"{spelled_flops(flops)} a list")
    if (parameters := last.get("applied/parameters")) is not None:
        parts.append(f"{parameters / 1e6:.3g}M parameters")
    return f" ({', '.join(parts)})" if parts else ""


def spelled_flops(flops: float) -> str:
    """FLOPs with a unit."""
    unit, name = next(((u, n) for u, n in ((1e12, "TFLOPs"), (1e9, "GFLOPs")) if flops >= u), (1e6, "MFLOPs"))
    return f"{flops / unit:.3g} {name}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def number_of_seeds(count: int) -> str:
    """How many seeds a mean is over, as a phrase."""
    return f"mean of {count} seeds"


def p_value(value: float) -> str:
    """A p-value as text, with so many digits that it is below the level if, and only if, the value is."""
    if value < 0.001:
        return "p < 0.001"
    shown = (f"{value:.{digits}f}" for digits in range(3, 17))
    return f"p = {next((text for text in shown if (float(text) < LEVEL) == (value < LEVEL)), value)}"
