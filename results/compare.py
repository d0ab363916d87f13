"""Stored trials of one study, or of several on the same lists → what they prove. `python -m results.compare STUDY [STUDY …]`."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reranker.console import Terminal
from reranker.entry import Parser, a_path, last_net, not_empty, working_on
from reranker.errors import Fault, InputError
from reranker.metrics import FloatArray, summarise, values_of
from results.contenders import Contender, best_first, contenders, not_replicated, seed_spread
from results.integrity import open_study
from results.leaderboard import PRETTY, leaderboard, pretty, unfinished
from results.learned import Naming, learned, lesson
from results.significance import (
    Difference,
    Family,
    Flips,
    Ranker,
    mean_interval,
    smallest_detectable,
    standard_error,
    tied,
)
from results.study_folder import RUNS, StoredTrial, StudyFolder, TrialStatus

_NAMED = 8  # trials in a sentence
_VAGUE = 0.05  # half a 95% interval of Recall@1, beyond which the verdict warns


def winner(study: StudyFolder) -> StoredTrial | None:
    """The trial of the configuration with the best estimate, pruned ones included; None if no epoch was finished."""
    ranked = contenders(study)
    return ranked[0].trial if ranked else None


def verdict(study: StudyFolder, ranked: Sequence[Contender] | None = None) -> str:
    """What the search found, in one sentence.

    Args:
        ranked: the study's configurations, best first, where they are known already.
    """
    manifest, ranked = study.read_manifest(), contenders(study) if ranked is None else ranked
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
    if half_width > _VAGUE:
        others[-1] += (
            f". With {lists} lists that is uncertain by ±{half_width:.0%}: too few to tell configurations apart"
        )
    who = f"The best trial (number {best.trial.number}, epoch {best.figures['epoch']}) ranks"
    if best.replicates:
        who = f"The best configuration (trial {best.trial.number}, {_runs(len(best.runs))}) ranks"
    sentence = f"{who} the true item first for {recall:.0%} of users; {', '.join(others)}."
    if left_out := study.left_out():
        sentence += f" Left out, since its files were damaged: {', '.join(f'trial {number}' for number in left_out)}."
    return sentence


@dataclass(frozen=True)
class Comparison:
    """What stored ranks prove, by the values of a metric for each user.

    Attributes:
        metric: the study's, or NDCG@10 where that is a loss or where studies differ in it.
        winner: the trial of the configuration with the best estimate.
        interval: of its mean, 95%, by itself.
        against: it and each baseline; p-values and intervals hold although it and its epoch are the best of many.
        alike: the trials whose configurations can't be told from it, itself among them, best first.
        cheapest: that of them with the fewest FLOPs a list, then with the fewest parameters.
        detectable: the difference to a baseline that so many users and trials can prove, with 80% power.
        users: how many lists there are.
        scores: of each run of the configurations that have several, by trial.
        ahead: trials not replicated yet whose one run scored more than the winner's mean, with that score.
        seed_spread: standard deviation between seeds of one configuration; None without replicates.
        seed_degrees: its degrees of freedom.
        user_error: standard error of the winner's mean over users.
        studies: how many were compared.
        configurations: how many were compared.
        naming: how often the winner's model names the label of a title; None where that is not known.
        lesson: what it took to teach the bases that, in a sentence; empty where none was taught.
    """

    metric: str
    winner: StoredTrial
    interval: tuple[float, float]
    against: dict[str, Difference]
    alike: list[StoredTrial]
    cheapest: StoredTrial
    detectable: float
    users: int
    scores: dict[str, list[float]]
    ahead: list[tuple[StoredTrial, float]]
    seed_spread: float | None
    seed_degrees: int
    user_error: float
    studies: int
    configurations: int
    naming: Naming | None = None
    lesson: str = ""

    @property
    def learned(self) -> str:
        """What the winner has learned, in a line; empty where nothing is known of its naming."""
        return learned(self.naming, self.against)


def compare(*studies: StudyFolder, ranked: Sequence[Contender] | None = None) -> Comparison | None:
    """Tests of every configuration against every baseline, and of the best among each other; None without ranks.

    The best of many is good by luck as well: so every one takes part in the family of comparisons, whether or not it won.

    Args:
        ranked: the configurations of these studies, each study's best first, where they are known already.

    Raises:
        InputError: the studies did not rank the same lists.
    """
    _check_same_lists(studies)
    metric = _common_metric(studies)
    found = [c for study in studies for c in contenders(study)] if ranked is None else ranked
    pooled = [contender for contender in found if contender.has_ranks]
    if not pooled:
        return None
    if len(studies) > 1:
        pooled = best_first(pooled, metric)
    rankers = [contender.ranker(metric) for contender in pooled]
    baselines = _baselines(studies, metric)
    told = tests(rankers, baselines, resamples=None, seed=0)
    own = rankers[0].values
    spreads = [float((own - of_baseline).std(ddof=1)) for of_baseline in baselines.values() if len(own) > 1]
    several = [contender for contender in pooled if contender.replicates]
    return Comparison(
        metric,
        pooled[0].trial,
        mean_interval(own),
        told.against,
        [pooled[i].trial for i in told.alike],
        min((pooled[i].trial for i in told.alike), key=_cost),
        smallest_detectable(max(spreads, default=0.0), len(own), told.reach),
        len(own),
        {_name(c.trial, len(studies) > 1): c.scores(metric) for c in several},
        [(c.trial, c.score(metric)) for c in not_replicated(pooled, metric)],
        seed_spread(pooled, metric),
        sum(len(c.replicates) for c in several),
        standard_error(own),
        len(studies),
        len(pooled),
        _naming(pooled[0], len(own)),
        lesson(run for contender in pooled for run in contender.runs),
    )


def _naming(best: Contender, users: int) -> Naming | None:
    untrained, _ = best.study.zero_shot(str(best.trial.values.get("model")))
    return Naming.of(best.trial, best.metric, untrained.read_figures(), users)


@dataclass(frozen=True)
class Tests:
    """What the permutation tests say of the first of several configurations.

    Attributes:
        against: it and each baseline, among all configurations and baselines.
        alike: places of the configurations that it is not proven better than, among all pairs; its own is the first.
        reach: by how many standard errors the winner must stand out from a baseline to be proven better, see `Family`.
    """

    against: dict[str, Difference]
    alike: list[int]
    reach: float


def tests(rankers: Sequence[Ranker], baselines: Mapping[str, FloatArray], resamples: int | None, seed: int) -> Tests:
    """Every configuration against every baseline, and all configurations among each other, each with all its reports.

    Each of the two families has half of the level, so that a false claim of either kind is made in 5 studies of 100 at most.

    Args:
        rankers: the configurations, the winner first.
        baselines: [users] each.
        resamples, seed: see `Flips`.
    """
    count = len(rankers)
    flips = Flips.of([*rankers, *map(Ranker.of, baselines.values())], seed, resamples)
    pairs = list(itertools.product(range(count), range(count, count + len(baselines))))
    families = 2 if count > 1 and baselines else 1
    against = Family.of(flips, pairs, families)
    return Tests(
        dict(zip(baselines, against.differences[: len(baselines)], strict=True)),
        tied(flips, count, families),
        max(against.reach[: len(baselines)], default=0.0),
    )


def findings(found: Comparison | None) -> list[str]:
    """What a comparison proves and what not, in sentences; none without one."""
    if found is None:
        return []
    several = found.studies > 1
    name = PRETTY.get(found.metric, found.metric)
    low, high = found.interval
    lines = [f"Learned: {found.learned}."] if found.learned else []
    lines.append(f"{name} of {_name(found.winner, several)}: {low:.3f} to {high:.3f} (95%, {found.users} users).")
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
    several, others = found.studies > 1, found.alike[1:]
    if not others:
        rest = "the other configuration" if found.configurations == 2 else "every other configuration"
        return f"{_capital(_name(found.winner, several))} is proven better than {rest}."
    named = ", ".join(_name(trial, several) for trial in others[:_NAMED])
    named += f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    which = "the winner itself" if found.cheapest is found.winner else _name(found.cheapest, several)
    return f"Not proven better than {named}. The cheapest of these is {which}{_priced(found.cheapest)}."


def _seed_findings(found: Comparison) -> list[str]:
    """Luck with the seed, apart from luck with the users."""
    lines = []
    for name, scores in found.scores.items():
        shown = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"{_capital(name)}, {len(scores)} seeds: mean {np.mean(scores):.3f} ({shown}).")
    return [*lines, *unreplicated(found), *([luck(found)] if found.seed_spread is not None else [])]


def unreplicated(found: Comparison) -> list[str]:
    """Which configurations have one run only and may be the best, where others have several."""
    several = found.studies > 1
    if found.ahead:
        named = ", ".join(f"{_name(trial, several)} ({score:.3f} in its one run)" for trial, score in found.ahead)
        name, verb = _name(found.winner, several), "is" if len(found.ahead) == 1 else "are"
        mean = np.mean(found.scores[name])
        who = f"{named} {verb} ahead of {name} (mean {mean:.3f})"
        return [f"Not replicated yet: {who}. One run may owe that to luck; `--replicate` runs other seeds."]
    if found.scores and _name(found.winner, several) not in found.scores:
        name = _name(found.winner, several)
        return [f"Not replicated yet: {name} leads by one run; `--replicate` runs other seeds."]
    return []


def luck(found: Comparison) -> str:
    """How far seeds and users move a score, of a comparison with replicates."""
    return (
        f"Luck: a score varies by {found.seed_spread:.3f} from seed to seed, and by {found.user_error:.3f} with the users "
        "that are drawn (standard deviations)."
    )


def _check_same_lists(studies: Sequence[StudyFolder]) -> None:
    if len({study.read_manifest().get("lists", study.path) for study in studies}) > 1:
        named = ", ".join(study.name for study in studies)
        rule = f"{named} did not rank the same lists, so they can't be compared"
        hint = "studies must share their data, users, candidates and how those are drawn"
        raise InputError([Fault(rule, hint=hint)])


def _common_metric(studies: Sequence[StudyFolder]) -> str:
    metrics = {str(study.read_manifest()["metric"]) for study in studies}
    metric = metrics.pop()
    return "ndcg_at_10" if metrics or metric.endswith("_loss") else metric


def _baselines(studies: Sequence[StudyFolder], metric: str) -> dict[str, FloatArray]:
    """[users] each, in the order of their ids, so that what is paired belongs together."""
    found = {}
    for study in studies:
        for name, shown in _baseline_names(study, studies).items():
            users, ranks = study.baseline(name).read_ranks()
            found[shown] = values_of(ranks, metric)[np.argsort(users, kind="stable")]
    return found


def _baseline_names(study: StudyFolder, studies: Sequence[StudyFolder]) -> dict[str, str]:
    """What a study's baselines are called beside those of others: with its name where they scored differently.

    An untrained model is asked in its study's own prompt, so two studies may have two of one name.
    """
    shown = {}
    for name in study.baselines():
        known = [summarise(other.baseline(name).read_ranks()[1]) for other in studies if name in other.baselines()]
        shown[name] = name if all(figures == known[0] for figures in known) else f"{name} of {study.name}"
    return shown


def _cost(trial: StoredTrial) -> tuple[float, float]:
    last = trial.epochs[-1]
    return last.get("applied/flops_per_list", math.inf), last.get("applied/parameters", math.inf)


def _priced(trial: StoredTrial) -> str:
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


def _name(trial: StoredTrial, several: bool) -> str:
    return f"trial {trial.number}" + (f" of {trial.study}" if several else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _runs(count: int) -> str:
    return f"mean of {count} seeds"


def p_value(value: float) -> str:
    """In words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _table(studies: Mapping[StudyFolder, Sequence[StoredTrial]]) -> tuple[pd.DataFrame, list[str]]:
    """The leaderboard and its searched knobs; of several studies together, each trial named with its own."""
    if len(studies) == 1:
        ((study, trials),) = studies.items()
        return leaderboard(study, trials), study.read_manifest()["knobs"]
    tables = []
    for study, trials in studies.items():
        table = leaderboard(study, trials)
        table.loc[table["kind"] == "trial", "name"] += f" of {study.name}"
        table["name"] = table["name"].replace(_baseline_names(study, list(studies)))
        tables.append(table)
    metric = _common_metric(list(studies))
    knobs = list(dict.fromkeys(knob for study in studies for knob in study.read_manifest()["knobs"]))
    table = pd.concat(tables).drop_duplicates(["kind", "name"]).sort_values(metric, ascending=False)
    table["rank"] = pd.array([i + 1 if ok else None for i, ok in enumerate(table[metric].notna())], dtype="Int64")
    return table.reset_index(drop=True), knobs


@last_net
def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m results.compare", description=(__doc__ or "").split("`")[0])
    parser.add_argument(
        "studies", nargs="+", type=not_empty, metavar="STUDY", help="a study's name, or the path of its folder"
    )
    parser.add_argument("--runs", type=a_path, default=RUNS, help="where studies are kept")
    args = parser.parse_args(argv)
    console = Terminal()
    studies = [open_study(args.runs, study) for study in dict.fromkeys(args.studies)]
    working_on(studies[0].path / "driver.log")
    trials = {study: list(study.trials()) for study in studies}
    ranked = {study: contenders(study, known) for study, known in trials.items()}
    lines = findings(compare(*studies, ranked=[contender for study in studies for contender in ranked[study]]))
    console.print(pretty(*_table(trials)))
    for study in studies:
        console.say(f"\n{study.name + ': ' if len(studies) > 1 else ''}{verdict(study, ranked[study])}")
    for line in lines:
        console.say(f"  {line}")
    for study in studies:
        if note := unfinished(study):
            console.say(note)
        for trial in trials[study]:
            if trial.status is TrialStatus.FAILED:
                console.say(f"{_name(trial, len(studies) > 1)} failed: {trial.cause}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
