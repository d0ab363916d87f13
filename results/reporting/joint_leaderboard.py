"""Studies on the same lists → one leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from results.leaderboard import LEFT_OUT, leaderboard, ranked
from results.statistics.comparison import baseline_names, common_metric
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder


def joint_leaderboard(studies: Mapping[StudyFolder, Sequence[StoredTrial]]) -> tuple[pd.DataFrame, list[str]]:
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
    rows = pd.concat(tables).sort_values("status", key=lambda status: status.fillna("") == LEFT_OUT, kind="stable")
    return ranked(rows.drop_duplicates(["kind", "name"]), metric), knobs  # of a baseline the row with figures
