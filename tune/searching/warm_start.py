"""An earlier study → what a new one's sampler can learn from it, said plainly."""

from __future__ import annotations

from collections import Counter

from reranker.errors import InputError
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import Origin, OriginKind
from tune.searching.trial_store import TrialStore
from tune.study_file.study import Study

_BEST_TO_TRY = 3  # of a study whose scores can't be compared


def warm_start(study: Study, trial_store: TrialStore, earlier: StudyFolder, data_fingerprint: str) -> str:
    """Let the sampler know the earlier study's finished trials as far as they lie in this study's space.

    Where the scores are of other data or another metric they are not comparable; then the best configurations of the
    earlier study are tried first instead.

    Returns:
        What was taken over and what was not, in sentences.
    """
    manifest = earlier.read_manifest()
    finished = (TrialStatus.COMPLETED, TrialStatus.PRUNED)
    trials = [trial for trial in earlier.trials() if trial.status in finished and trial.reports]
    usable, reasons = [], Counter[str]()
    for trial in trials:
        try:
            usable.append((trial, study.parameters(trial.values, f"trial {trial.number} of {earlier.name}")))
        except InputError as error:
            reasons[error.faults[0].field] += 1
    differs = [
        name
        for name, same in (
            ("data", manifest["tags"]["data_fingerprint"] == data_fingerprint),
            ("metric", manifest["metric"] == study.metric),
        )
        if not same
    ]
    lie = f"{len(usable)} of {len(trials)} finished trials of {earlier.name} lie in this space"
    left_out = ", ".join(f"{count} for {field}" for field, count in reasons.most_common())
    lie += f" ({left_out} outside it)" if left_out else ""
    if not differs:
        for trial, parameters in usable:
            trial_store.take_over(trial, parameters)
        return f"{lie}; the sampler knows their scores, and this study's own trials are numbered after them"
    sign = -1 if manifest["metric"].endswith("_loss") else 1
    usable.sort(key=lambda pair: -sign * pair[0].best(manifest["metric"])[manifest["metric"]])  # type: ignore[index]
    for trial, parameters in usable[:_BEST_TO_TRY]:
        trial_store.enqueue(parameters, Origin(OriginKind.EARLIER_BEST, trial.number, earlier.name), extra=True)
    return (
        f"{lie}; its {' and '.join(differs)} differ from this study's, so the scores can't be compared: "
        f"the best {min(len(usable), _BEST_TO_TRY)} are tried first instead"
    )
