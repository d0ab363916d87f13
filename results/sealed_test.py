"""A study's winner → its score on the test split, once.

Nothing uses the test items before. A test that is read repeatedly is no test any more: people search until they like
the result. So every reading is recorded, and a second one needs `--unseal "why"`, which the report always shows.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from rich.table import Table

from reranker.command_line.printable_text import Terminal
from reranker.config import Baseline
from reranker.data.baselines.baseline_plan import TRAINED, BaselinePlan
from reranker.data.baselines.baseline_ranks import RANDOM
from reranker.errors import Fault, InputError
from reranker.metrics import METRIC_NAMES, Ranks, summarise, values_of
from reranker.storage.atomic_files import append_line
from results.leaderboard import PRETTY
from results.statistics.comparison import winner
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.paired_tests import Difference, differences
from results.statistics.verdict_text import p_value, told_difference
from results.study.checked_folder import check_readings
from results.study.optuna_journal import Journal, repair
from results.study.side_files import check_kept_adapter
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

if TYPE_CHECKING:  # takes a second to import
    from reranker.data.assemble import RerankingData
    from reranker.data.example import Example


def read_test(study: StudyFolder, unseal: str = "", say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Score the winner and every baseline on the test lists, and record the reading before it is shown.

    Args:
        unseal: why the test is read again; required from the second reading on.
        say: receives what is done now; a model takes minutes for some hundred lists without a GPU.

    Returns:
        The reading, as `StudyFolder.readings` gives it.

    Raises:
        InputError: there is no winner, the data or lists have changed, or the test was or may have been read before and
            `unseal` is empty.
        DamagedFile: the record of the readings is missing or damaged, or the adapter is not that of the winner's best
            report.
        EnvironmentFault: a search is running, or the model cannot be loaded.
    """
    with study.locked():
        repair(study.journal)
        check_readings(study)
        best = winner(study)
        _check(study, best, unseal)
        assert best is not None
        reading = _reading(study, best, unseal if study.readings() or study.lost_readings.exists() else "", say)
        Journal(study.journal).remember_reading(reading)  # first, so that no shown reading is lost
        append_line(study.readings_file, reading)
    return reading


def _check(study: StudyFolder, best: StoredTrial | None, unseal: str) -> None:
    if best is None:
        raise InputError([Fault("a test needs a trial that finished an epoch", str(study.path))])
    readings = study.readings()
    if readings and not unseal.strip():
        last = readings[-1]
        rule = f"the test was read {_times(len(readings))}, last on {last['time']} for trial {last['trial']}"
        hint = "another reading takes --unseal WHY, and the report will always show it"
        raise InputError([Fault(rule, str(study.path), hint=hint)])
    if study.lost_readings.exists() and not unseal.strip():
        rule = "the record of the test's readings was lost, so the test may have been read before"
        hint = "a reading takes --unseal WHY, and the report will always show it"
        raise InputError([Fault(rule, str(study.path), hint=hint)])
    if (folder := study.trial(best.number)).adapter.is_dir():
        check_kept_adapter(folder, study.read_manifest()["metric"])


def _reading(study: StudyFolder, best: StoredTrial, unseal: str, say: Callable[[str], None]) -> dict[str, Any]:
    from reranker.data.assemble import RerankingData
    from reranker.data.candidates.candidate_lists import fingerprint
    from reranker.evaluation.evaluate import collaborative_scores, evaluate, items_behind
    from reranker.modeling.model_cache import BaseModels  # imported late: torch and transformers take seconds
    from reranker.ranking.ranker import Reranker
    from reranker.zero_shot import zero_shot

    manifest, config = study.read_manifest(), study.trial(best.number).read_config()
    read = study.read_data_config().model_copy(update={"teacher_scores": None})
    data = RerankingData.prepare(read, study.imageless())
    if data.interactions.fingerprint != manifest["tags"]["data_fingerprint"]:
        rule = "the data must be those that the search was made on; they have changed"
        raise InputError([Fault(rule, field="data", value=data.interactions.fingerprint[:12])])
    if manifest.get("lists", now := fingerprint(data.validation(config))) != now:
        rule = "lists must be made as they were in the search; by this version they are others"
        raise InputError([Fault(rule, field="data", hint=f"use {manifest['tags']['code_version']}")])
    bases = BaseModels()
    bases.catalogue(config, data)  # which has the captions made, where there are any
    lists, texts = data.test(config), data.item_texts(config)
    titles = [([texts[i] for i in example.history], [texts[i] for i in example.candidates]) for example in lists]
    pictures = None
    if config.image_mode == "raw_image" and (images := data.interactions.images) is not None:
        paths = [None if path is None else str(path) for path in images.paths]
        pictures = [([paths[i] for i in example.history], [paths[i] for i in example.candidates]) for example in lists]
    say(f"trial {best.number} ranks {len(lists)} test lists …")
    reranker = Reranker.load(study.trial(best.number).path)
    scores = np.array(reranker.scores(titles, images=pictures))
    targets = np.array([example.target for example in lists])
    temperature = reranker.adjustment.temperature
    evaluation = evaluate(
        scores, targets, collaborative_scores(lists), config.model_weight, temperature, behind=items_behind(lists)
    )
    say(f"{config.model}, untrained, ranks them …")
    untrained = zero_shot(config, data, lists, bases)
    plain, without_prior = study.zero_shot_names(config.model)
    say("the baselines rank them …")
    baselines = data.baselines(config, "test", _plan(study), say).ranks
    baselines[plain] = untrained.plain.ranks
    if untrained.without_prior is not None:
        baselines[without_prior] = untrained.without_prior.ranks
    references = {"chance" if name == RANDOM else name: summarise(ranks) for name, ranks in baselines.items()}
    metric = "ndcg_at_10" if manifest["metric"].endswith("_loss") else manifest["metric"]
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "trial": best.number,
        "epoch": (best.best(manifest["metric"]) or {})["epoch"],
        "config_hash": hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16],
        "data_fingerprint": data.interactions.fingerprint,
        "code_version": manifest["tags"]["code_version"],
        "unseal": unseal,
        "metric": metric,
        "users": len({example.user for example in lists}),
        "lists": len(lists),
        "figures": evaluation.figures,
        "references": references,
        "left_out_baselines": study.left_out_baselines(),
        "against": _against(evaluation.ranks, baselines, metric, _users_of(lists, data)),
    }


def _plan(study: StudyFolder) -> BaselinePlan:
    """The baselines that the study has; those that were trained are trained again, on validation items too, by what was
    found on validation."""
    names = [name for name in get_args(Baseline) if name in study.baselines()]
    tuned: dict[str, dict[str, Any]] = {name: study.baseline(name).read_figures() for name in TRAINED if name in names}
    return BaselinePlan(tuple(names), minutes=math.inf, tuned=tuned)


def _users_of(lists: Sequence[Example], data: RerankingData) -> ListsOfUsers:
    """The lists come in ascending order of their users."""
    return ListsOfUsers.of([data.interactions.user_ids[example.user] for example in lists])


def _against(
    ranks: Ranks, baselines: dict[str, Ranks], metric: str, users: ListsOfUsers
) -> dict[str, dict[str, float]]:
    """The winner's difference to each baseline, adjusted for all baselines; the winner was fixed before."""
    winner_values = users.totals(values_of(ranks, metric))
    baseline_values = {
        name: users.totals(values_of(of_baseline, metric)) for name, of_baseline in baselines.items() if name != RANDOM
    }
    against = {}
    for name, difference in zip(
        baseline_values, differences([(winner_values, values) for values in baseline_values.values()]), strict=True
    ):
        against[name] = {"mean": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}
    return against


def show(reading: dict[str, Any], console: Terminal) -> None:
    """Print a reading in a terminal."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("", *METRIC_NAMES):
        table.add_column(PRETTY.get(column, column), justify="right" if column else "left", no_wrap=True)
    rows = {f"trial {reading['trial']}": reading["figures"], **reading["references"]}
    for name, figures in sorted(rows.items(), key=lambda row: -row[1][reading["metric"]]):
        style = None if name.startswith("trial") else "dim"
        table.add_row(name, *(f"{figures[metric_name]:.3f}" for metric_name in METRIC_NAMES), style=style)
    lists = reading.get("lists", reading["users"])
    users = f"{reading['users']} user{'s' * (reading['users'] != 1)}"
    more = "" if lists == reading["users"] else f"{lists} lists of "
    console.say(f"test split, {more}{users}, read on {reading['time']}")
    if reading["unseal"]:
        console.say(f"NOT the first reading: {reading['unseal']}", style="bold red")
    console.print(table)
    for name, reason in reading.get("left_out_baselines", {}).items():
        console.say(f"{name} is left out: {reason}", style="dim")
    if "calibrated_error" in (figures := reading["figures"]):
        console.say(
            f"its probabilities, by the temperature of the validation lists ({figures['temperature']:.2f}): calibration "
            f"error {figures['calibrated_error']:.3f}, log-loss {figures['calibrated_loss']:.3f}"
        )
    console.print()
    metric = PRETTY.get(reading["metric"], reading["metric"])
    for name, difference in sorted(reading["against"].items(), key=lambda item: item[1]["mean"]):
        proof = f"{told_difference(Difference(**difference))}, {p_value(difference['p'])}"
        console.say(f"  against {name}: {metric} {proof}")


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
