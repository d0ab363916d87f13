"""Stored trials of one study, or of several on the same lists → what they prove. `python -m results.compare STUDY`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, working_on
from reranker.command_line.printable_text import Terminal
from results.leaderboard import leaderboard, pretty, unfinished
from results.statistics.comparison import baseline_names, common_metric, compare, name_of
from results.statistics.seed_averages import configuration_results
from results.statistics.verdict_text import findings, verdict
from results.study.integrity import open_study
from results.study.runs_home import runs_home
from results.study.study_folder import StoredTrial, StudyFolder, TrialStatus


def _table(studies: Mapping[StudyFolder, Sequence[StoredTrial]]) -> tuple[pd.DataFrame, list[str]]:
    """(leaderboard, searched knobs); with several studies, each trial is named with its study."""
    if len(studies) == 1:
        ((study, trials),) = studies.items()
        return leaderboard(study, trials), study.read_manifest()["knobs"]
    tables = []
    for study, trials in studies.items():
        table = leaderboard(study, trials)
        table.loc[table["kind"] == "trial", "name"] += f" of {study.name}"
        table["name"] = table["name"].replace(baseline_names(study, list(studies)))
        tables.append(table)
    metric = common_metric(list(studies))
    knobs = list(dict.fromkeys(knob for study in studies for knob in study.read_manifest()["knobs"]))
    table = pd.concat(tables).drop_duplicates(["kind", "name"]).sort_values(metric, ascending=False)
    table["rank"] = pd.array(
        [i + 1 if has_score else None for i, has_score in enumerate(table[metric].notna())], dtype="Int64"
    )
    return table.reset_index(drop=True), knobs


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print the leaderboard, the verdicts and what is proven. Exit code: 0."""
    parser = Parser(prog="python -m results.compare", description=(__doc__ or "").split("`")[0])
    parser.add_argument(
        "studies", nargs="+", type=not_empty, metavar="STUDY", help="a study's name, or the path of its folder"
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    console = Terminal()
    studies = [open_study(args.runs, study) for study in dict.fromkeys(args.studies)]
    working_on(studies[0].path / "driver.log")
    trials = {study: list(study.trials()) for study in studies}
    ranked = {study: configuration_results(study, study_trials) for study, study_trials in trials.items()}
    lines = findings(
        compare(*studies, ranked=[configuration_result for study in studies for configuration_result in ranked[study]])
    )
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
                console.say(f"{name_of(trial, len(studies) > 1)} failed: {trial.cause}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
