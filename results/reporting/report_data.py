"""A study's folder → what its report says: words, numbers and pictures, without markup."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from reranker.command_line.redaction import masked, masked_command
from reranker.errors import EnvironmentFault, RerankerError
from reranker.metrics import Picks, Ranks
from reranker.storage.atomic_files import DamagedFile, read_text
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Finding
from results.leaderboard import PRETTY, standing
from results.reporting import charts, optuna_plots
from results.reporting.charts import Contest, Figure
from results.reporting.leaderboard_rows import Board, board_of, spelled
from results.reporting.report_content import Content, Proof, Reading, Step, Tile
from results.statistics.comparison import Comparison, compare
from results.statistics.seed_averages import configuration_results, replicated
from results.statistics.verdict_text import (
    corrected,
    p_value,
    power,
    seed_variance,
    spelled_flops,
    ties,
    unreplicated,
    verdict,
)
from results.study.adapter_usage import rank_command, serve_command, usable
from results.study.study_folder import RUNS, StoredTrial, StudyFolder, TrialStatus
from results.study.tracking_address import tracking_uri_of

_NEXT = 5  # steps that the first screen offers
Made = TypeVar("Made")


def content_of(study: StudyFolder) -> Content:
    """Reads everything once. What a study is too odd for is left out and named in `trouble`."""
    return _Reader(study).content()


class _Reader:
    """A study, read once, and the parts of its report."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.manifest = study, study.read_manifest()
        self.trouble: list[str] = []
        self.trials = standing(study)
        self.metric: str = self.manifest["metric"]
        self.references = study.references()
        self.configuration_results = configuration_results(study, self.trials)
        self.best = self.configuration_results[0].trial if self.configuration_results else None
        self.found: Comparison | None = self._or(
            "the comparison", lambda: compare(study, ranked=self.configuration_results), None
        )
        self.findings: list[Finding] = self._or(
            "the diagnosis", lambda: diagnose(DiagnosisInputs.of_study(study, self.found, self.trials)), []
        )
        self.readings: list[dict[str, Any]] = self._or("the readings of the test", study.readings, [])
        self.sealed = not (study.path / "test_readings.jsonl").exists()  # also where they can't be read
        self.tie_set = frozenset(t.number for t in self.found.tie_set) if self.found else frozenset[int]()
        self.candidates: int = self.manifest["plan"].get("candidates") or (
            self.trials[0].values["candidates"] if self.trials else 2
        )
        self.where = shlex.quote(study.name if study.path.parent == RUNS else str(study.path))
        self.state = _state(study)
        self.proofs = self._proofs()

    def content(self) -> Content:
        headline, tone = self._headline()
        nothing = Board(PRETTY.get(self.metric, self.metric), (), (), (0.0, 1.0), False)
        board = self._or(
            "the leaderboard",
            lambda: board_of(self.study, self.configuration_results, self.found, self.trials),
            nothing,
        )
        return Content(
            study=self.study.name,
            made=time.strftime("%Y-%m-%d %H:%M"),
            state=self.state,
            context=self._context(),
            headline=headline,
            tone=tone,
            lead=masked(self._or("the verdict", lambda: verdict(self.study, self.configuration_results), "")),
            learned=f"Learned: {masked(self.found.learned)}." if self.found and self.found.learned else "",
            recipe=tuple((k, spelled(k, self.best.values.get(k), exact=True)) for k in self.manifest["knobs"])
            if self.best
            else (),
            tiles=tuple(self._or("the key figures", self._tiles, [])),
            proofs=tuple(self.proofs),
            proven=tuple(self._proven()),
            steps=tuple(self._steps()[:_NEXT]),
            sealed=self.sealed,
            readings=tuple(self._or("the readings of the test", self._readings, [])),
            seal_command=f"python -m results.seal {self.where}",
            board=board,
            lesson=self.found.lesson if self.found else "",
            failures=tuple((t.name, masked(t.cause)) for t in self.trials if t.status is TrialStatus.FAILED),
            figures=self._figures(),
            findings=tuple(self.findings),
            facts=tuple(self._facts()),
            commands=tuple(self._commands()),
            files=tuple(self._files()),
            trouble=tuple(self.trouble),
        )

    def _or(self, what: str, make: Callable[[], Made], instead: Made) -> Made:
        """A report is the last thing of a search: a part that can't be made must not take the others with it."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told in the report)
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            kind = "" if isinstance(error, RerankerError) else f"{type(error).__name__}: "
            self.trouble.append(f"{what} could not be made: {kind}{masked(why)}")
            return instead

    # The first screen

    def _context(self) -> tuple[str, ...]:
        plan = self.manifest["plan"]
        counts = {status: sum(t.status is status for t in self.trials) for status in TrialStatus}
        told = ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
        return (
            _count(len(self.trials), "trial") + (f" ({told})" if told else ""),
            f"{PRETTY.get(self.metric, self.metric)} on validation",
            f"{plan['validation_lists']} users, {self.candidates} candidates each",
            self.state,
        )

    def _headline(self) -> tuple[str, str]:
        """What won and whether it is real, in a line; and its tone."""
        if not self.trials:
            return "No trial has started yet", "open"
        if self.best is None:
            if all(trial.status is TrialStatus.FAILED for trial in self.trials):
                return (
                    "The only trial failed" if len(self.trials) == 1 else f"All {len(self.trials)} trials failed"
                ), "bad"
            return "No trial has finished an epoch", "open"
        over = self.state not in ("still running", "interrupted")
        name, so_far = f"trial {self.best.number}", "" if over else "so far, "
        if any(finding.name == "at chance" for finding in self.findings):
            if self.found and self.found.naming and self.found.naming.knows:
                return _capital(
                    f"{so_far}only labels were learned: the best trial names them, and ranks at chance"
                ), "bad"
            return _capital(f"{so_far}nothing was learned: the best trial is at chance"), "bad"
        if self.found is None:
            return _capital(f"{so_far}{name} leads, but nothing could be tested"), "open"
        worse = [p.baseline for p in self.proofs if p.word == "worse"]
        undecided = [p.baseline for p in self.proofs if p.word == "not told apart"]
        if worse:
            return _capital(f"{so_far}{name} is the best, but worse than {_join(worse)}"), "bad"
        if undecided:
            return _capital(f"{so_far}{name} is the best, but not proven better than {_join(undecided)}"), "open"
        if not self.proofs:
            return _capital(f"{so_far}{name} leads; there is no baseline to hold it against"), "open"
        return _capital(f"{so_far}{name} is proven better than every baseline"), "good"

    def _tiles(self) -> list[Tile]:
        if self.best is None:
            return []
        best = self.configuration_results[0]
        shown = list(dict.fromkeys([self.found.metric if self.found else self.metric, "recall_at_1", "ndcg_at_10"]))[:2]
        tiles = self._test_tile()
        for metric in shown:
            notes = []
            if self.found and metric == self.found.metric:
                notes.append(f"{self.found.interval[0]:.3f} to {self.found.interval[1]:.3f} (95%)")
            levels = {name: row[metric] for name, row in self.references.items() if metric in row}
            baselines = {name: level for name, level in levels.items() if name != "chance"}
            if baselines:
                name = max(baselines, key=lambda n: baselines[n])
                notes.append(f"best baseline {baselines[name]:.3f} ({name})")
            if "chance" in levels:
                notes.append(f"chance {levels['chance']:.3f}")
            if metric == "recall_at_1" and (ceiling := self.manifest.get("ceiling")) is not None:
                notes.append(f"ceiling of the retriever {ceiling:.3f}")
            tiles.append(Tile(PRETTY.get(metric, metric), f"{best.score(metric):.3f}", tuple(notes)))
        if proofs := self.proofs:
            nearest = max(proofs, key=lambda p: p.level)
            allowed = "adjusted for all comparisons"
            gain = (f"{nearest.low:+.3f} to {nearest.high:+.3f} (95%)", f"{nearest.p}, {allowed}")
            tiles.append(Tile(f"gain over {nearest.baseline}", f"{nearest.mean:+.3f}", gain))
        if self.found and self.found.configurations > 1:
            tiles.append(self._tie_tile(self.found))
        return tiles

    def _test_tile(self) -> list[Tile]:
        """The first reading of the sealed test: later ones are of lists that were known."""
        if not self.readings:
            return []
        metric, first = self.found.metric if self.found else self.metric, self.readings[0]
        notes = [f"{PRETTY.get(metric, metric)} of trial {first['trial']}"]
        levels = {name: row[metric] for name, row in first.get("references", {}).items() if name in first["against"]}
        if levels:
            name = max(levels, key=lambda n: levels[n])
            notes.append(f"against {name} {_told(first['against'][name])}")
        if len(self.readings) > 1:
            notes.append(f"read {len(self.readings)} times: only the first reading counts")
        return [Tile("sealed test", f"{first['figures'][metric]:.3f}", tuple(notes))]

    def _tie_tile(self, found: Comparison) -> Tile:
        others, label = [t.number for t in found.tie_set[1:]], "may be as good"
        if not others:
            return Tile(label, "no other trial", (ties(found).removesuffix("."),))
        listed = ", ".join(f"{n}" for n in others[:6]) + (" …" if len(others) > 6 else "")
        cheapest = f"cheapest, the best one included: trial {found.cheapest.number}"
        return Tile(
            label,
            f"{len(others)} trial{'s' * (len(others) > 1)}",
            (f"trials {listed}" if len(others) > 1 else f"trial {listed}", cheapest),
        )

    def _proofs(self) -> list[Proof]:
        if self.found is None:
            return []
        found, proofs = self.found, []
        for name, difference in found.against.items():
            word = "not told apart" if not difference.proven else "better" if difference.mean > 0 else "worse"
            p = p_value(difference.p)
            proofs.append(
                Proof(
                    name,
                    self.references[name][found.metric],
                    difference.mean,
                    difference.low,
                    difference.high,
                    p,
                    word,
                )
            )
        return sorted(proofs, key=lambda proof: -proof.level)

    def _proven(self) -> list[str]:
        if self.found is None:
            return []
        found = self.found
        sentences = [corrected(found), power(found)] if found.against else []
        if found.configurations > 1:
            sentences.append(ties(found))
        if not sentences:
            sentences.append("There is no baseline and no other configuration to hold it against.")
        sentences += unreplicated(found)
        if found.seed_spread is not None:
            sentences.append(
                f"{seed_variance(found)} Where a configuration has several runs, its figures are their means."
            )
        return sentences

    def _steps(self) -> list[Step]:
        """What to do next, the most useful first."""
        state, resume = self.state, f"python tune/run_search.py --resume {self.where}"
        over = state not in ("still running", "interrupted")
        steps = []
        if state == "still running":
            steps.append(Step("Wait: the search is running, and this is what is known so far."))
        elif state != "complete":
            why = "it was interrupted" if state == "interrupted" else state.replace("ended early:", "it ended early:")
            steps.append(Step(f"Go on with the search: {masked(why)}.", resume))
        advice = [Step(f"{_capital(f.name)}: {f.next_step}.") for f in self._serious()[:2]]
        if self.best is None:
            again = Step("See below why trials failed, mend it, and try them again.", f"{resume} --retry-failed")
            return [*steps, *advice] or ([again] if self.trials else [Step("Begin.", resume)])
        proofs = self.proofs
        if not (proofs and all(proof.word == "better" for proof in proofs)):
            more = Step("More trials would look further.", f"{resume} --trials {2 * max(4, len(self.trials))}")
            used = self._use(f"{resume} --refit") if over and self.study.refit.adapter.exists() else []
            return [*steps, *used, *advice] or [more]
        if self.found and self.found.cheapest.number != self.found.winner.number:
            costs = _costs(self.found.cheapest, self.best)
            told = f"Take trial {self.found.cheapest.number} instead: it is not proven worse than the best one, and costs less"
            steps.append(Step(f"{told} ({costs})." if costs else f"{told}."))
        if state == "complete" and self.sealed and self.found and (unreplicated(self.found) or not self.found.scores):
            seed_variance = (
                "Train the best again with other seeds: what is picked for its score owes some of it to luck."
            )
            steps.append(Step(seed_variance, f"{resume} --replicate 3 --top 5"))
        if not over:
            return [*steps, *advice]
        if self.sealed:
            once = "Open the sealed test, once, when nothing else is to be tried."
            steps.append(Step(once, f"python -m results.seal {self.where}"))
        return [*steps, *self._use(f"{resume} --refit"), *advice]

    def _use(self, refit: str) -> list[Step]:
        """The refit, or how to come by one; and how to serve it."""
        assert self.best is not None
        again = "on training and validation items, register it in MLflow, and get the commands to serve it."
        try:
            adapter = usable(self.study, self.best.number)
        except DamagedFile as damage:
            return [Step(f"The refit can't be used: {masked(str(damage))}. Train the best trial again {again}", refit)]
        if adapter.refit_of is None:
            return [
                Step(f"Rank with the adapter of trial {self.best.number}.", rank_command(adapter)),
                Step(f"Or train it once more {again}", refit),
            ]
        if adapter.refit_of != self.best.number:
            old = f"The refit is of trial {adapter.refit_of}, and trial {self.best.number} is the best now"
            return [Step(f"{old}: train that once more {again}", refit)]
        which = f"trial {adapter.refit_of}, trained once more with the validation items"
        steps = [Step(f"Rank with the refit: {which}.", rank_command(adapter))]
        if adapter.model:
            steps.append(Step("Serve it.", masked(serve_command(self.study, adapter.model))))
        else:
            steps.append(Step("Register it in MLflow, to serve it.", refit))
        return steps

    def _serious(self) -> list[Finding]:
        """Findings that are worth a line on the first screen: a few failed trials among many are not."""
        failed = sum(trial.status is TrialStatus.FAILED for trial in self.trials)
        few = self.best is not None and failed < 0.2 * len(self.trials)
        return [f for f in self.findings if f.confidence != "possible" and not (few and f.name == "trials failed")]

    # The sealed test

    def _readings(self) -> list[Reading]:
        chosen = self.found.metric if self.found else self.metric
        metrics = list(dict.fromkeys([chosen, "recall_at_1", "ndcg_at_10"]))
        found = []
        for reading in self.readings:
            who = f"trial {reading['trial']}"
            rows = []
            for name, figures_of in {who: reading["figures"], **reading["references"]}.items():
                shown = [f"{figures_of[metric]:.3f}" if metric in figures_of else "" for metric in metrics]
                difference = reading["against"].get(name)
                rows.append((masked(name), *shown, _told(difference) if difference else ""))
            record = ", ".join(
                f"{key.replace('_', ' ')} {reading[key]}"
                for key in ("users", "config_hash", "data_fingerprint", "code_version")
            )
            heads = tuple(PRETTY.get(metric, metric) for metric in metrics)
            found.append(Reading(reading["time"], who, masked(reading["unseal"]), heads, tuple(rows), record))
        return found

    # The pictures

    def _figures(self) -> dict[str, list[Figure]]:
        scored = [t for t in self.trials if t.epochs and self.metric in t.epochs[-1]]
        if self.best is None or not scored:
            return {}
        levels = {name: float(row[self.metric]) for name, row in self.references.items() if self.metric in row}
        if self.metric == "val_loss":
            levels["chance"] = math.log(self.candidates)
        contest = Contest(
            scored,
            self.metric,
            PRETTY.get(self.metric, self.metric),
            self.best.number,
            self.tie_set,
            levels,
            self.candidates,
        )
        scores = {
            t.number: float(best[self.metric])
            for t in scored
            if replicated(t) is None and (best := t.best(self.metric))
        }
        return {
            "curves": self._drawn(lambda: [charts.learning_curves(contest), charts.losses(contest)]),
            "knobs": self._drawn(
                lambda: optuna_plots.knob_figures(
                    self.study.journal, scores, maximise=contest.sign > 0, label=contest.label
                )
            ),
            "answers": self._drawn(lambda: self._answers(contest)),
            "cost": self._drawn(lambda: [charts.cost(contest), charts.training(contest)]),
        }

    def _drawn(self, draw: Callable[[], list[Figure]]) -> list[Figure]:
        nothing: list[Figure] = []
        return self._or("some pictures", draw, nothing)

    def _answers(self, contest: Contest) -> list[Figure]:
        folder = self.study.trial(contest.winner)
        if not folder.has_ranks:
            return [Figure("ranks", "Rank of the true item", "The ranks of the best trial were not stored.")]
        _, ranks = folder.read_ranks()
        picks: Picks | None = folder.read_picks()
        other: tuple[str, Ranks] | None = None
        if proofs := self.proofs:
            name = max(proofs, key=lambda p: p.level).baseline
            other = (name, self.study.baseline(name).read_ranks()[1])
        return [
            charts.rank_histogram(ranks, self.candidates, contest.winner, other),
            charts.label_positions(picks, self.candidates),
            charts.reliability(picks),
        ]

    # How to repeat it

    def _facts(self) -> list[tuple[str, str]]:
        manifest, plan, tags = self.manifest, self.manifest["plan"], self.manifest["tags"]
        facts = {
            "data": f"{plan.get('source', 'unknown')}, fingerprint {tags.get('data_fingerprint', 'unknown')}",
            "space": f"fingerprint {manifest.get('fingerprint', 'unknown')}",
            "search": ", ".join(f"{name} {plan.get(name, 'unknown')}" for name in ("sampler", "seed", "trials")),
            "code": tags.get("code_version", "unknown"),
            "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
            or "unknown",
            "folder": str(self.study.path),
            "MLflow": self._or("the address of MLflow", lambda: tracking_uri_of(self.study), "unknown"),
        }
        return [(name, masked(str(value))) for name, value in facts.items()]

    def _commands(self) -> list[Step]:
        steps = []
        if command := self.manifest.get("command"):
            steps.append(Step("The search", f"python {masked_command(command)}"))
        if self.best is not None and self.study.best_config.exists():
            config = shlex.quote(str(self.study.best_config))
            steps.append(
                Step("The best configuration alone", f"python -m reranker.train --config {config} --output my-reranker")
            )
        used = (
            [step for step in self._use("") if step.command]
            if self.best is not None and self.state == "complete"
            else []
        )
        return [*steps, *used, Step("This report", f"python -m results.report {self.where}")]

    def _files(self) -> list[tuple[str, str]]:
        files = [(path.name, path) for path in (self.study.study_file, self.study.best_config) if path.exists()]
        return [(name, masked(read_text(path))) for name, path in files]


def _state(study: StudyFolder) -> str:
    ending = study.read_ending()
    if ending["complete"]:
        return "complete"
    if ending["reason"]:
        return f"ended early: {masked(ending['reason'])}"
    try:
        return "still running" if study.is_searched() else "interrupted"
    except EnvironmentFault as fault:
        return f"unfinished; {masked(str(fault))}"


def _told(difference: dict[str, float]) -> str:
    """A difference of the test, as it is stored."""
    return "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**difference) + f", {p_value(difference['p'])}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _costs(cheap: StoredTrial, best: StoredTrial) -> str:
    """In what the first costs less than the second."""
    costs = []
    for name, spell in (
        ("applied/flops_per_list", spelled_flops),
        ("applied/parameters", lambda n: f"{1e-6 * n:.3g}M parameters"),
    ):
        low, high = (trial.epochs[-1].get(name, 0) for trial in (cheap, best))
        if low < high:
            costs.append(f"{spell(low)} against {spell(high)}" + (" a list" if "flops" in name else ""))
    return ", ".join(costs)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(names: Sequence[str]) -> str:
    """At most three of them in full."""
    shown = list(names) if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more baselines"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
