"""Stored trials of one study, or of several on the same lists → what they prove. `python -m results.compare STUDY [STUDY …]`."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reranker.console import Terminal
from reranker.entry import Parser, a_path, last_net, not_empty, working_on
from reranker.errors import Fault, InputError
from reranker.metrics import FloatArray, per_list
from results.contenders import Contender, contenders, seed_spread
from results.leaderboard import PRETTY, leaderboard, pretty
from results.significance import Difference, differences, mean_interval, smallest_detectable, standard_error
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

RUNS = Path(__file__).resolve().parents[1] / "results" / "runs"
_COMPARED = 40  # configurations that are compared with each other, the best ones
_VAGUE = 0.05  # half a 95% interval of Recall@1, beyond which the verdict warns


def winner(study: StudyFolder) -> StoredTrial | None:
    """The trial of the best configuration, pruned ones included; None if no epoch was finished.

    Where configurations were replicated, the best of those, by their replicates.
    """
    ranked = contenders(study)
    return ranked[0].trial if ranked else None


def verdict(study: StudyFolder) -> str:
    """What the search found, in one sentence."""
    manifest, ranked = study.read_manifest(), contenders(study)
    if not ranked:
        return "No trial finished an epoch: there is nothing to compare."
    best = ranked[0]
    figures = best.trial.best(manifest["metric"]) or {}
    recall = float(np.mean([run["recall_at_1"] for run in _best_epochs(best, manifest["metric"])]))
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
    who = f"The best trial (number {best.trial.number}, epoch {figures['epoch']}) ranks"
    if best.replicates:
        who = f"The best configuration (trial {best.trial.number}, {_seeds(len(best.replicates))}) ranks"
    return f"{who} the true item first for {recall:.0%} of users; {', '.join(others)}."


@dataclass(frozen=True)
class Comparison:
    """What stored ranks prove, by the values of a metric for each user.

    Attributes:
        metric: the study's, or NDCG@10 where that is a loss or where studies differ in it.
        winner: the trial whose configuration is best.
        interval: of its mean, 95%.
        against: it and each baseline, whose p-values hold although it is the best of many.
        intervals: 95%, of the mean of each of these differences, for itself.
        alike: the trials whose configurations can't be told from it, itself among them, best first.
        cheapest: that of them with the smallest model, then the least time a list, then the shortest training.
        detectable: the difference to a baseline that so many users and trials can prove, with 80% power.
        users: how many lists there are.
        scores: of each replicated configuration's seeds, by trial.
        seed_spread: standard deviation between seeds of one configuration; None without replicates.
        user_error: standard error of the winner's mean over users.
        studies: how many were compared.
    """

    metric: str
    winner: StoredTrial
    interval: tuple[float, float]
    against: dict[str, Difference]
    intervals: dict[str, tuple[float, float]]
    alike: list[StoredTrial]
    cheapest: StoredTrial
    detectable: float
    users: int
    scores: dict[str, list[float]]
    seed_spread: float | None
    user_error: float
    studies: int


def compare(*studies: StudyFolder) -> Comparison | None:
    """Tests of every configuration against every baseline, and of the best among each other; None without ranks.

    The best of many is good by luck as well: so every one takes part in the family of comparisons, whether or not it won.

    Raises:
        InputError: the studies did not rank the same lists.
    """
    _check_same_lists(studies)
    metric = _common_metric(studies)
    pooled = [contender for study in studies for contender in contenders(study) if contender.has_ranks]
    if not pooled:
        return None
    if len(studies) > 1:
        pooled.sort(key=lambda contender: (not contender.replicates, -contender.score(metric)))
    values = [contender.values(metric) for contender in pooled]
    baselines = {name: _values(study, name, metric) for study in studies for name in study.baselines()}
    against, apart = tests(values, baselines)
    alike = [0, *(i for i, difference in apart.items() if not difference.proven)]
    spreads = [float((values[0] - of_baseline).std(ddof=1)) for of_baseline in baselines.values()]
    return Comparison(
        metric,
        pooled[0].trial,
        mean_interval(values[0]),
        {name: against[0, name] for name in baselines},
        {name: mean_interval(values[0] - of_baseline) for name, of_baseline in baselines.items()},
        [pooled[i].trial for i in alike],
        min((pooled[i].trial for i in alike), key=_cost),
        smallest_detectable(max(spreads, default=0.0), len(values[0]), max(1, len(against))),
        len(values[0]),
        {_name(c.trial, len(studies) > 1): c.scores(metric) for c in pooled if c.replicates},
        seed_spread(pooled, metric),
        standard_error(values[0]),
        len(studies),
    )


def tests(
    values: Sequence[FloatArray], baselines: Mapping[str, FloatArray]
) -> tuple[dict[tuple[int, str], Difference], dict[int, Difference]]:
    """Every configuration against every baseline, and the first against the best of the others, among whom all are compared.

    Args:
        values: of each configuration, [users], the winner's first.
        baselines: likewise.
    """
    pairs = list(itertools.product(range(len(values)), baselines))
    against = differences([(values[i], baselines[name]) for i, name in pairs])
    ranked = sorted(range(len(values)), key=lambda i: (i != 0, -values[i].mean()))[:_COMPARED]
    among = list(itertools.combinations(ranked, 2))
    apart = dict(zip(among, differences([(values[a], values[b]) for a, b in among]), strict=True))
    return dict(zip(pairs, against, strict=True)), {i: apart[0, i] for i in ranked[1:]}


def findings(found: Comparison | None) -> list[str]:
    """What a comparison proves and what not, in sentences; none without one."""
    if found is None:
        return []
    several = found.studies > 1
    name = PRETTY.get(found.metric, found.metric)
    low, high = found.interval
    lines = [f"{name} of {_name(found.winner, several)}: {low:.3f} to {high:.3f} (95%, {found.users} users)."]
    beaten: list[str] = []
    for baseline, difference in sorted(found.against.items(), key=lambda item: item[1].mean):
        low, high = found.intervals[baseline]
        proof = f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f}), {p_value(difference.p)}"
        if not difference.proven:
            lines.append(f"Not told apart from {baseline}: {proof}.")
        elif difference.mean < 0:
            lines.append(f"WORSE than {baseline}: {proof}.")
        elif not beaten:
            beaten.append(f"Better than {baseline}: {proof}")
        else:
            beaten.append(f"than {baseline}: {difference.mean:+.3f}, {p_value(difference.p)}")
    lines += [f"{'; '.join(beaten)}."] if beaten else []
    lines.append(
        f"The p-values hold for all trials and baselines together; differences below {found.detectable:.3f} would "
        "often be missed."
    )
    others = found.alike[1:]
    if not others:
        lines.append("It is better than each other trial.")
    else:
        same = found.cheapest is found.winner
        which = "it is the cheapest of them" if same else f"the cheapest of them is {_name(found.cheapest, several)}"
        which += _priced(found.cheapest)
        lines.append(f"Not told apart from {', '.join(_name(trial, several) for trial in others)}; {which}.")
    return [*lines, *_seed_findings(found)]


def _seed_findings(found: Comparison) -> list[str]:
    """Luck with the seed, apart from luck with the users."""
    lines = []
    for name, scores in found.scores.items():
        shown = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"{name}, {_seeds(len(scores))}: {shown}; mean {np.mean(scores):.3f}.")
    return lines + ([luck(found)] if found.seed_spread is not None else [])


def luck(found: Comparison) -> str:
    """How far seeds and users move a score, of a comparison with replicates."""
    return (
        f"Luck: a score varies by {found.seed_spread:.3f} from seed to seed, and by {found.user_error:.3f} with the users "
        "that are drawn (standard deviations)."
    )


def _check_same_lists(studies: Sequence[StudyFolder]) -> None:
    if len({study.read_manifest().get("lists", study.path) for study in studies}) > 1:
        named = ", ".join(study.name for study in studies)
        rule = "studies can be compared where they ranked the same lists: same data, users, candidates and their mode"
        raise InputError([Fault(rule, field="studies", value=named)])


def _common_metric(studies: Sequence[StudyFolder]) -> str:
    metrics = {str(study.read_manifest()["metric"]) for study in studies}
    metric = metrics.pop()
    return "ndcg_at_10" if metrics or metric.endswith("_loss") else metric


def _values(study: StudyFolder, baseline: str, metric: str) -> FloatArray:
    """[users], in the order of their ids, so that what is paired belongs together."""
    users, ranks = study.baseline(baseline).read_ranks()
    return per_list(ranks)[metric][np.argsort(users, kind="stable")]


def _best_epochs(contender: Contender, metric: str) -> list[dict[str, float]]:
    return [best for run in contender.judges if (best := run.best(metric)) is not None]


def _cost(trial: StoredTrial) -> tuple[float, float, float]:
    last = trial.epochs[-1]
    return last.get("applied/parameters", math.inf), last.get("seconds_per_list", math.inf), last["seconds"]


def _priced(trial: StoredTrial) -> str:
    """What using it costs, as far as it is known."""
    last = trial.epochs[-1]
    parts = []
    if (parameters := last.get("applied/parameters")) is not None:
        parts.append(f"{parameters / 1e6:.3g}M parameters")
    if (seconds := last.get("seconds_per_list")) is not None:
        parts.append(f"{1000 * seconds:.3g} ms a list")
    return f" ({', '.join(parts)})" if parts else ""


def _name(trial: StoredTrial, several: bool) -> str:
    return f"trial {trial.number}" + (f" of {trial.study}" if several else "")


def _seeds(count: int) -> str:
    return f"{count} other seed" + ("s" if count != 1 else "")


def p_value(value: float) -> str:
    """In words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _table(studies: Sequence[StudyFolder]) -> tuple[pd.DataFrame, list[str]]:
    """The leaderboard and its searched knobs; of several studies together, each trial named with its own."""
    tables = []
    for study in studies:
        table = leaderboard(study)
        if len(studies) > 1:
            table.loc[table["kind"] == "trial", "name"] += f" of {study.name}"
        tables.append(table)
    if len(studies) == 1:
        return tables[0], studies[0].read_manifest()["knobs"]
    metric = _common_metric(studies)
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
    studies = [StudyFolder.open(args.runs, study) for study in dict.fromkeys(args.studies)]
    working_on(studies[0].path / "driver.log")
    lines = findings(compare(*studies))
    console.print(pretty(*_table(studies)))
    for study in studies:
        console.say(f"\n{study.name + ': ' if len(studies) > 1 else ''}{verdict(study)}")
    for line in lines:
        console.say(f"  {line}")
    for study in studies:
        for trial in study.trials():
            if trial.status is TrialStatus.FAILED:
                console.say(f"{_name(trial, len(studies) > 1)} failed: {trial.cause}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
