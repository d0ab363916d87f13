"""Trials that no training has made, stored as a search stores them: their reports, and the study's journal."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from reranker.metrics import Picks, Ranks, is_loss, summarise
from reranker.trial_folder import TrialFolder
from results.optuna_journal import ORIGIN, create_journal
from results.study_folder import StudyFolder, TrialStatus

_STATES = {
    TrialStatus.COMPLETED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.FAILED: TrialState.FAIL,
}


def report(
    folder: TrialFolder,
    users: list[str],
    ranks: Ranks,
    picks: Picks | None = None,
    *,
    metric: str = "ndcg_at_10",
    **figures: Any,
) -> None:
    """The next report of a trial: its ranks, then its line of figures, in which these take the place of what they give."""
    earlier = folder.read_epochs()
    epoch, sign = len(earlier) + 1, -1 if is_loss(metric) else 1
    line = {"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0, "seconds": 5.0 * epoch, **summarise(ranks), **figures}
    best = all(sign * line[metric] > sign * other[metric] for other in earlier)
    folder.keep_report(line["epoch"], users, ranks, picks, best=best)
    folder.append_epoch(line)


def keep_journal(study: StudyFolder) -> StudyFolder:
    """Make the journal of what the folder holds; trials that ended have their reports, the others run."""
    manifest = study.read_manifest()
    metric = manifest["metric"]
    study.journal.unlink(missing_ok=True)
    create_journal(study.journal, study.name, minimise=is_loss(metric), manifest=manifest)
    backend = optuna.storages.journal.JournalFileBackend(str(study.journal))
    journal = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    stored = {trial.number: trial for trial in study.trials()}
    for number in range(max(stored, default=-1) + 1):
        trial = stored.get(number)
        state = TrialState.WAITING if trial is None else _STATES.get(trial.status, TrialState.RUNNING)
        reports = {} if trial is None else {int(e["epoch"]): float(e[metric]) for e in trial.epochs}
        best = (min if is_loss(metric) else max)(reports.values(), default=0.0)
        journal.add_trial(
            create_trial(
                state=state,
                value=best if state is TrialState.COMPLETE else None,
                intermediate_values=reports,
                user_attrs={ORIGIN: trial.origin} if trial is not None and trial.origin else {},
            )
        )
    return study
