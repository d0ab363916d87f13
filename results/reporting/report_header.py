"""A study → the first screen of its report: headline, key figures, what is proven, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from reranker.command_line.redaction import masked
from reranker.errors import RerankerError
from reranker.storage.atomic_files import DamagedFile
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Finding
from results.leaderboard import PRETTY, standing
from results.reporting.report_content import TIED, Proof, Step, Tile
from results.reporting.segment_table import NOTHING, SegmentTable
from results.statistics.comparison import Comparison, compare
from results.statistics.paired_tests import Difference
from results.statistics.seed_averages import configuration_results
from results.statistics.verdict_text import (
    capital,
    corrected,
    counted,
    p_value,
    power,
    seed_variance,
    signed,
    spelled_flops,
    ties,
    told_difference,
    unreplicated,
)
from results.study.adapter_usage import rank_command, serve_command, usable
from results.study.runs_home import runs_home, search_command
from results.study.search_state import SearchState, Stage
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder

Part = TypeVar("Part")


class ReportHeader:
    """A study, read once, and the parts of its report's first screen."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.manifest = study, study.read_manifest()
        self.trouble: list[str] = []
        self.trials = standing(study)
        self.metric: str = self.manifest["metric"]
        self.references = study.references()
        self.configuration_results = configuration_results(study, self.trials)
        self.best = self.configuration_results[0].trial if self.configuration_results else None
        self.comparison: Comparison | None = self.attempt(
            "the comparison", lambda: compare(study, ranked=self.configuration_results), None
        )
        self.segments = self._segments()
        self.findings: list[Finding] = self.attempt(
            "the diagnosis",
            lambda: diagnose(DiagnosisInputs.of_study(study, self.comparison, self.trials, self.segments.found)),
            [],
        )
        readings = self.attempt("the readings of the test", lambda: study.readings(), None)
        self.readings: list[dict[str, Any]] = readings or []
        self.sealed = readings == [] and not study.lost_readings.exists()  # opened, where nobody can tell
        self.tie_set = (
            frozenset(trial.number for trial in self.comparison.tie_set) if self.comparison else frozenset[int]()
        )
        self.candidates: int = self.manifest["plan"].get("candidates") or (
            self.trials[0].values["candidates"] if self.trials else 2
        )
        self.study_argument = shlex.quote(study.name if study.path.parent == runs_home() else str(study.path))
        self.state = SearchState.of(study)
        self.proofs = self._proofs()

    def attempt(self, part: str, build: Callable[[], Part], fallback: Part) -> Part:
        """Build a part of the report. If that fails, record it in `trouble` and return the fallback."""
        try:
            return build()
        except Exception as error:  # noqa: BLE001  (any error is shown in the report)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            error_type = "" if isinstance(error, RerankerError) else f"{type(error).__name__}: "
            self.trouble.append(f"{part} could not be made: {error_type}{masked(reason)}")
            return fallback

    def _segments(self) -> SegmentTable:
        """Who gains, and where."""
        if self.comparison is None:
            return SegmentTable(missing=NOTHING)
        return self.attempt(
            "the figures by segment",
            lambda: SegmentTable.of_study(self.study, self.configuration_results, self.comparison),
            SegmentTable(missing="They could not be made."),
        )

    def _context(self) -> tuple[str, ...]:
        """Trials, metric, size and state of the study."""
        plan = self.manifest["plan"]
        lists = plan["validation_lists"]
        users = plan.get("validation_users", lists)
        counts = {status: sum(trial.status is status for trial in self.trials) for status in TrialStatus}
        status_counts = ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
        return (
            counted(len(self.trials), "trial") + (f" ({status_counts})" if status_counts else ""),
            f"{PRETTY.get(self.metric, self.metric)} on validation",
            f"{counted(users, 'user')}, {'' if users == lists else f'{lists} lists, '}{self.candidates} candidates each",
            *_protocol(plan),
            str(self.state),
        )

    def _headline(self) -> tuple[str, str]:
        """(what won and whether that is proven, in a line; the line's tone)."""
        if not self.trials:
            return "No trial has started yet", "open"
        if self.best is None:
            if all(trial.status is TrialStatus.FAILED for trial in self.trials):
                return (
                    "The only trial failed" if len(self.trials) == 1 else f"All {len(self.trials)} trials failed"
                ), "bad"
            return "No trial has finished an epoch", "open"
        name, so_far = f"trial {self.best.number}", "" if self.state.has_ended else "so far, "
        if any(finding.name == "at chance" for finding in self.findings):
            if self.comparison and self.comparison.naming and self.comparison.naming.knows:
                return capital(
                    f"{so_far}only labels were learned: the best trial names them, and ranks at chance"
                ), "bad"
            return capital(f"{so_far}nothing was learned: the best trial is at chance"), "bad"
        if self.comparison is None:
            return capital(f"{so_far}{name} leads, but nothing could be tested"), "open"
        worse = [proof.baseline for proof in self.proofs if proof.word == "worse"]
        undecided = [proof.baseline for proof in self.proofs if proof.word == "not told apart"]
        if worse:
            return capital(f"{so_far}{name} is the best, but worse than {_join(worse)}"), "bad"
        if undecided:
            return capital(f"{so_far}{name} is the best, but not proven better than {_join(undecided)}"), "open"
        if not self.proofs:
            return capital(f"{so_far}{name} leads; there is no baseline to hold it against"), "open"
        return capital(f"{so_far}{name} is proven better than every baseline"), "good"

    def _tiles(self) -> list[Tile]:
        """The key figures."""
        if self.best is None:
            return []
        best = self.configuration_results[0]
        metrics = list(
            dict.fromkeys([self.comparison.metric if self.comparison else self.metric, "recall_at_1", "ndcg_at_10"])
        )[:2]
        tiles = self._test_tile()
        for metric in metrics:
            notes = []
            if self.comparison and metric == self.comparison.metric:
                notes.append(f"{self.comparison.interval[0]:.3f} to {self.comparison.interval[1]:.3f} (95%)")
            levels = {name: row[metric] for name, row in self.references.items() if metric in row}
            baselines = {name: level for name, level in levels.items() if name != "chance"}
            if baselines:
                name = max(baselines, key=lambda baseline: baselines[baseline])
                notes.append(f"best baseline {baselines[name]:.3f} ({name})")
            if "chance" in levels:
                notes.append(f"chance {levels['chance']:.3f}")
            if metric == "recall_at_1" and (ceiling := self.manifest.get("ceiling")) is not None:
                notes.append(f"ceiling of the retriever {ceiling:.3f}")
            tiles.append(Tile(PRETTY.get(metric, metric), f"{best.score(metric):.3f}", tuple(notes)))
        if proofs := self.proofs:
            nearest = max(proofs, key=lambda proof: proof.level)
            adjustment = "adjusted for all comparisons"
            gain = (f"{signed(nearest.low)} to {signed(nearest.high)} (95%)", f"{nearest.p}, {adjustment}")
            tiles.append(Tile(f"gain over {nearest.baseline}", signed(nearest.mean), gain))
        if self.comparison and self.comparison.configurations > 1:
            tiles.append(self._tie_tile(self.comparison))
        return tiles

    def _test_tile(self) -> list[Tile]:
        """The first reading of the sealed test; later readings are not independent."""
        if not self.readings:
            return []
        first_reading = self.readings[0]
        metric = self.comparison.metric if self.comparison else self.metric
        if metric not in first_reading["figures"]:  # a loss, which is not read
            metric = "ndcg_at_10"
        notes = [f"{PRETTY.get(metric, metric)} of trial {first_reading['trial']}"]
        levels = {
            name: row[metric]
            for name, row in first_reading.get("references", {}).items()
            if name in first_reading["against"]
        }
        if levels:
            name = max(levels, key=lambda baseline: levels[baseline])
            notes.append(f"against {name} {difference_text(first_reading['against'][name])}")
        if len(self.readings) > 1:
            notes.append(f"read {len(self.readings)} times: only the first reading counts")
        return [Tile("sealed test", f"{first_reading['figures'][metric]:.3f}", tuple(notes))]

    def _tie_tile(self, comparison: Comparison) -> Tile:
        """The trials that may be as good as the winner."""
        other_numbers = [trial.number for trial in comparison.tie_set[1:]]
        if not other_numbers:
            return Tile(TIED, "no other trial", (ties(comparison).removesuffix("."),))
        number_list = ", ".join(f"{number}" for number in other_numbers[:6]) + (" …" if len(other_numbers) > 6 else "")
        cheapest = f"cheapest, the best one included: trial {comparison.cheapest.number}"
        return Tile(
            TIED,
            f"{len(other_numbers)} trial{'s' * (len(other_numbers) > 1)}",
            (f"trials {number_list}" if len(other_numbers) > 1 else f"trial {number_list}", cheapest),
        )

    def _proofs(self) -> list[Proof]:
        """The winner against each baseline, strongest baseline first."""
        if self.comparison is None:
            return []
        comparison, proofs = self.comparison, []
        for name, difference in comparison.against.items():
            p = p_value(difference.p)
            proofs.append(
                Proof(
                    name,
                    self.references[name][comparison.metric],
                    difference.mean,
                    difference.low,
                    difference.high,
                    p,
                    difference.word,
                )
            )
        return sorted(proofs, key=lambda proof: -proof.level)

    def _proven(self) -> list[str]:
        """What else is proven, in sentences."""
        if self.comparison is None:
            return []
        comparison = self.comparison
        sentences = [corrected(comparison), f"{capital(power(comparison))}."] if comparison.against else []
        if comparison.configurations > 1:
            sentences.append(ties(comparison))
        if not sentences:
            sentences.append("There is no baseline and no other configuration to hold it against.")
        sentences += unreplicated(comparison)
        if comparison.seed_spread is not None:
            sentences.append(
                f"{seed_variance(comparison)} Where a configuration has several runs, its figures are their means."
            )
        return sentences

    def _steps(self) -> list[Step]:
        """What to do next, most useful first."""
        state, resume = self.state, f"{search_command()} --resume {self.study_argument}"
        steps = []
        if state.stage is Stage.RUNNING:
            steps.append(Step("Wait: the search is running, and this is what is known so far."))
        elif state.stage is not Stage.COMPLETE:
            reason = {Stage.INTERRUPTED: "it was interrupted", Stage.ENDED_EARLY: f"it {state}"}.get(
                state.stage, str(state)
            )
            steps.append(Step(f"Go on with the search: {reason}.", resume))
        advice = [Step(f"{capital(finding.name)}: {finding.next_step}.") for finding in self._serious()[:2]]
        if self.best is None:
            retry = Step("See below why trials failed, fix that, and try them again.", f"{resume} --retry-failed")
            return [*steps, *advice] or ([retry] if self.trials else [Step("Begin.", resume)])
        proofs = self.proofs
        if not (proofs and all(proof.word == "better" for proof in proofs)):
            more = Step("More trials would look further.", f"{resume} --trials {2 * max(4, len(self.trials))}")
            usage_steps = (
                self._use(f"{resume} --refit") if state.has_ended and self.study.refit.adapter.exists() else []
            )
            return [*steps, *usage_steps, *advice] or [more]
        if self.comparison and self.comparison.cheapest.number != self.comparison.winner.number:
            costs = _costs(self.comparison.cheapest, self.best)
            cheaper_text = (
                f"Take trial {self.comparison.cheapest.number} instead: "
                "it is not proven worse than the best one, and costs less"
            )
            steps.append(Step(f"{cheaper_text} ({costs})." if costs else f"{cheaper_text}."))
        if (
            state.stage is Stage.COMPLETE
            and self.sealed
            and self.comparison
            and (unreplicated(self.comparison) or not self.comparison.scores)
        ):
            replicate_text = (
                "Train the best again with other seeds: what is picked for its score owes some of it to luck."
            )
            steps.append(Step(replicate_text, f"{resume} --replicate 3 --top 5"))
        if not state.has_ended:
            return [*steps, *advice]
        if self.sealed:
            seal_text = "Open the sealed test, once, when nothing else is to be tried."
            steps.append(Step(seal_text, f"python -m results.seal {self.study_argument}"))
        return [*steps, *self._use(f"{resume} --refit"), *advice]

    def _use(self, refit: str) -> list[Step]:
        """How to use the refit, or how to get one, and how to serve it."""
        assert self.best is not None
        refit_text = "on training and validation items, register it in MLflow, and get the commands to serve it."
        try:
            adapter = usable(self.study, self.best.number)
        except DamagedFile as damage:
            return [
                Step(f"The refit can't be used: {masked(str(damage))}. Train the best trial again {refit_text}", refit)
            ]
        if adapter.refit_of is None:
            return [
                Step(f"Rank with the adapter of trial {self.best.number}.", rank_command(adapter)),
                Step(f"Or train it once more {refit_text}", refit),
            ]
        if adapter.refit_of != self.best.number:
            outdated_text = f"The refit is of trial {adapter.refit_of}, and trial {self.best.number} is the best now"
            return [Step(f"{outdated_text}: train that once more {refit_text}", refit)]
        source = f"trial {adapter.refit_of}, trained once more with the validation items"
        steps = [Step(f"Rank with the refit: {source}.", rank_command(adapter))]
        if adapter.model:
            steps.append(Step("Serve it.", masked(serve_command(self.study, adapter.model))))
        else:
            steps.append(Step("Register it in MLflow, to serve it.", refit))
        return steps

    def _serious(self) -> list[Finding]:
        """Findings for the first screen; a few failed trials among many are left out."""
        failed = sum(trial.status is TrialStatus.FAILED for trial in self.trials)
        few_failed = self.best is not None and failed < 0.2 * len(self.trials)
        return [
            finding
            for finding in self.findings
            if finding.confidence != "possible" and not (few_failed and finding.name == "trials failed")
        ]


def _protocol(plan: dict[str, Any]) -> list[str]:
    """How lists are split and ranked, where that is not the default."""
    sentences = ["ranks in the whole catalogue"] if plan.get("evaluation") == "full" else []
    if plan.get("split") == "time":
        sentences.append(f"split by time: validation from {plan['validation_from']}, test from {plan['test_from']}")
    return sentences


def difference_text(difference: dict[str, float]) -> str:
    """A stored difference of the sealed test, as text."""
    return f"{told_difference(Difference(**difference))}, {p_value(difference['p'])}"


def _costs(cheap: StoredTrial, best: StoredTrial) -> str:
    """The costs in which `cheap` is cheaper than `best`, as text."""
    costs = []
    for name, spelled in (
        ("applied/flops_per_list", spelled_flops),
        ("applied/parameters", lambda count: f"{1e-6 * count:.3g}M parameters"),
    ):
        low, high = (trial.reports[-1].get(name, 0) for trial in (cheap, best))
        if low < high:
            costs.append(f"{spelled(low)} against {spelled(high)}" + (" a list" if "flops" in name else ""))
    return ", ".join(costs)


def _join(names: Sequence[str]) -> str:
    """The names joined with "or"; at most three are named."""
    listed = list(names) if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more baselines"]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
