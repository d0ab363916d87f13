"""A trial's ranks and what is known of its lists → a table in MLflow, a row a list, to look for what it gets wrong."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient

from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import DamagedFile
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder
from tune.mlflow_tracking.mlflow_pages import TABLES

FILE = "lists.json"
_MOST = 1000  # rows, of the first users by their id


def send(client: MlflowClient, run: str, study: StudyFolder, trial: int) -> None:
    """Put the table onto the trial's run, in the place of one that is there; none where the lists are not known."""
    table = list_table(study, trial)
    if table is None:
        return
    client.log_text(run, table.to_json(orient="split", index=False), FILE)
    client.set_tag(run, TABLES, json.dumps([{"path": FILE, "type": "table"}]))


def list_table(study: StudyFolder, trial: int) -> pd.DataFrame | None:
    """The lists of the trial's best report, the worst ranked first.

    Returns:
        The columns `user`, `rank` (mean over ties, 1 is best), `target` and `first`, titles, `first_probability`, `history`, a
        number of items, and `target_users`, who touched the target in training. None where the study or the trial lacks something.
    """
    try:
        facts, folder = ListFacts.of_study(study), study.trial(trial)
        (users, ranks), picks = folder.read_ranks(), folder.read_picks()
    except (EnvironmentFault, DamagedFile):
        return None
    if picks is None or sorted(users) != sorted(facts.user_ids):
        return None
    rows, lists = (np.argsort(ids, kind="stable")[:_MOST] for ids in (users, facts.user_ids))
    titles = np.array(facts.titles, dtype=object)
    table = pd.DataFrame(
        {
            "user": np.array(users, dtype=object)[rows],
            "rank": [
                None if not known else rank for rank, known in zip(ranks.expected[rows], ranks.found[rows], strict=True)
            ],
            "target": titles[facts.target[lists]],
            "first": titles[facts.candidates[lists, picks.first[rows]]],
            "first_probability": picks.probability[rows].round(4),
            "history": facts.history[lists],
            "target_users": facts.popularity[facts.target[lists]],
        }
    )
    return table.sort_values("rank", ascending=False, na_position="first", kind="stable", ignore_index=True)
