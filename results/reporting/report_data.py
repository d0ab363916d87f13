"""A study's folder → the content of its report: text, numbers and charts, without markup."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable

from reranker.command_line.redaction import masked, masked_command
from reranker.metrics import Picks, Ranks
from reranker.storage.atomic_files import read_text
from results.leaderboard import PRETTY
from results.reporting import charts, optuna_plots
from results.reporting.chart_data import Contest, Figure
from results.reporting.report_content import Content, Reading, Step
from results.reporting.report_header import ReportHeader, difference_text
from results.reporting.report_leaderboard import Board, board_of, spelled
from results.statistics.seed_averages import replicated
from results.statistics.verdict_text import verdict
from results.study.runs_home import search_command
from results.study.search_state import Stage
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of

_NEXT = 5  # next steps on the first screen


def content_of(study: StudyFolder) -> Content:
    """Read a study and build its report. Parts that fail are left out and named in `trouble`."""
    return _Report(study).content()


class _Report(ReportHeader):
    """A study's report: the first screen and the sections below it."""

    def content(self) -> Content:
        """The whole report."""
        headline, tone = self._headline()
        empty_board = Board(PRETTY.get(self.metric, self.metric), (), (), (0.0, 1.0), False)
        board = self.attempt(
            "the leaderboard",
            lambda: board_of(self.study, self.configuration_results, self.comparison, self.trials),
            empty_board,
        )
        return Content(
            study=self.study.name,
            made=time.strftime("%Y-%m-%d %H:%M"),
            state=str(self.state),
            context=self._context(),
            headline=headline,
            tone=tone,
            lead=masked(self.attempt("the verdict", lambda: verdict(self.study, self.configuration_results), "")),
            learned=f"Learned: {masked(self.comparison.learned)}."
            if self.comparison and self.comparison.learned
            else "",
            recipe=tuple(
                (knob, spelled(knob, self.best.values.get(knob), exact=True)) for knob in self.manifest["knobs"]
            )
            if self.best
            else (),
            tiles=tuple(self.attempt("the key figures", self._tiles, [])),
            proofs=tuple(self.proofs),
            proven=(*self.segments.losses, *self._proven()),
            steps=tuple(self._steps()[:_NEXT]),
            sealed=self.sealed,
            readings=tuple(self.attempt("the readings of the test", self._readings, [])),
            seal_command=f"python -m results.seal {self.study_argument}",
            board=board,
            lesson=self.comparison.lesson if self.comparison else "",
            failures=tuple(
                (trial.name, masked(trial.cause)) for trial in self.trials if trial.status is TrialStatus.FAILED
            ),
            segments=self.segments,
            figures=self._figures(),
            findings=tuple(self.findings),
            facts=tuple(self._facts()),
            commands=tuple(self._commands()),
            files=tuple(self._files()),
            trouble=tuple(self.trouble),
        )

    # The sealed test

    def _readings(self) -> list[Reading]:
        main_metric = self.comparison.metric if self.comparison else self.metric
        metrics = list(dict.fromkeys([main_metric, "recall_at_1", "ndcg_at_10"]))
        readings = []
        for reading in self.readings:
            trial_name = f"trial {reading['trial']}"
            rows = []
            for name, figures in {trial_name: reading["figures"], **reading["references"]}.items():
                cells = [f"{figures[metric]:.3f}" if metric in figures else "" for metric in metrics]
                difference = reading["against"].get(name)
                rows.append((masked(name), *cells, difference_text(difference) if difference else ""))
            record = ", ".join(
                f"{key.replace('_', ' ')} {reading[key]}"
                for key in ("users", "config_hash", "data_fingerprint", "code_version")
            )
            left_out = reading.get("left_out_baselines", {}).items()
            record += "".join(f"; {masked(name)} is left out: {reason}" for name, reason in left_out)
            columns = tuple(PRETTY.get(metric, metric) for metric in metrics)
            readings.append(
                Reading(reading["time"], trial_name, masked(reading["unseal"]), columns, tuple(rows), record)
            )
        return readings

    # Charts

    def _figures(self) -> dict[str, list[Figure]]:
        scored = [trial for trial in self.trials if trial.reports and self.metric in trial.reports[-1]]
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
            trial.number: float(best[self.metric])
            for trial in scored
            if replicated(trial) is None and (best := trial.best(self.metric))
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
        no_figures: list[Figure] = []
        return self.attempt("some pictures", draw, no_figures)

    def _answers(self, contest: Contest) -> list[Figure]:
        folder = self.study.trial(contest.winner)
        if not folder.has_ranks:
            return [Figure("ranks", "Rank of the true item", "The ranks of the best trial were not stored.")]
        _, ranks = folder.read_ranks()
        picks: Picks | None = folder.read_picks()
        baseline: tuple[str, Ranks] | None = None
        if proofs := self.proofs:
            name = max(proofs, key=lambda proof: proof.level).baseline
            baseline = (name, self.study.baseline(name).read_ranks()[1])
        plan = self.manifest["plan"]
        counted = (
            "users" if plan.get("validation_users", plan["validation_lists"]) == plan["validation_lists"] else "lists"
        )
        has_labels = self.best is None or self.best.values.get("scoring") != "pointwise"
        return [
            charts.rank_histogram(ranks, self.candidates, contest.winner, baseline, counted),
            *([charts.label_positions(picks, self.candidates)] if has_labels else []),
            charts.reliability(picks, self.best.best(self.metric) if self.best is not None else None),
        ]

    # How to reproduce it

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
            "MLflow": self.attempt("the address of MLflow", lambda: tracking_uri_of(self.study), "unknown"),
        }
        return [(name, masked(str(value))) for name, value in facts.items()]

    def _commands(self) -> list[Step]:
        steps = []
        if command := self.manifest.get("command"):
            steps.append(Step("The search", f"{search_command()} {masked_command(command[1:])}".rstrip()))
        if self.best is not None and self.study.best_config.exists():
            config = shlex.quote(str(self.study.best_config))
            steps.append(
                Step("The best configuration alone", f"python -m reranker.train --config {config} --output my-reranker")
            )
        usage_steps = (
            [step for step in self._use("") if step.command]
            if self.best is not None and self.state.stage is Stage.COMPLETE
            else []
        )
        return [*steps, *usage_steps, Step("This report", f"python -m results.report {self.study_argument}")]

    def _files(self) -> list[tuple[str, str]]:
        files = [(path.name, path) for path in (self.study.study_file, self.study.best_config) if path.exists()]
        return [(name, masked(read_text(path))) for name, path in files]
