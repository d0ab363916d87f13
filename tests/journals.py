"""The journal of a study whose trials were stored by hand, as the search would have written it."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from reranker.metrics import is_loss
from results.optuna_journal import ORIGIN, create_journal
from results.study_folder import StudyFolder, TrialStatus

_STATES = {
    TrialStatus.COMPLETED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.FAILED: TrialState.FAIL,
}


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
