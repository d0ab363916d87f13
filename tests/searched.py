"""Real studies, as a search leaves them, made without Ray: the same ledger, trainings, baselines and tracking, in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reranker.data.assemble import RerankingData
from reranker.modeling.model_cache import BaseModels
from reranker.storage.atomic_files import write_yaml
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from reranker.zero_shot import keep_zero_shot
from results.reporting.write_report import write_report
from results.study.optuna_journal import create_journal
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tune.mlflow_tracking.trials_to_runs import StudyMirror
from tune.searching.optuna_searcher import make_sampler
from tune.searching.trial_store import TrialStore
from tune.study_file import loading
from tune.study_file.manifest import keep_baselines, keep_lists, make_manifest

STUDY = """
study: {{name: {name}, trials: {trials}, seed: 3}}
data: {{source: demo, users: 60}}
fixed: {{model: demo-tiny, candidates: 10, epochs: 2, examples_per_user: 1, history_length: 4}}
space:
  learning_rate: {{log_uniform: [1.0e-4, 1.0e-2]}}
"""


def search(runs: Path, name: str = "small", *, trials: int = 3, killed: bool = False, text: str = STUDY) -> StudyFolder:
    """A finished study; or one that was killed when its last trial had trained its first epoch.

    Args:
        text: of the study file, with places for `name` and `trials`.
    """
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / f"{name}.yaml"
    file.write_text(text.format(name=name, trials=trials), encoding="utf-8")
    study = loading.load(file)
    data = RerankingData.prepare(study.data).sealed()
    folder = StudyFolder.create(runs, name)
    write_yaml(folder.study_file, study.dump())
    keep_lists(study, data, folder)
    manifest = make_manifest(study, data, "", keep_baselines(study, data, folder))
    manifest |= {"name": name, "study": study.dump()}
    folder.write_manifest(manifest)
    folder.begin_readings()
    create_journal(folder.journal, name, minimise=False, manifest=manifest)
    trial_store, bases = TrialStore(study, folder, partial(make_sampler, study)), BaseModels()
    keep_zero_shot(study.base(), data, bases, *folder.zero_shot(study.base().model))
    trial_store.enqueue_first()
    for _ in range(trials):
        assignment, origin = trial_store.ask()
        number = assignment.number
        folder.start_trial(number, assignment.config, origin)
        config = folder.trial(number).read_config()
        last = number == trials - 1

        def report(epoch: TrainingReport, number: int = number, ends: bool = killed and last) -> bool:
            trial_store.report(number, int(epoch.figures["epoch"]), epoch.figures[study.metric])
            return not ends

        fine_tune(config, data, folder=folder.trial(number), on_report=report, resume=True, bases=bases)
        if killed and last:
            return folder
        folder.write_status(number, TrialStatus.COMPLETED)
        folder.trial(number).drop_state()
        trial_store.end(number, TrialStatus.COMPLETED)
    folder.write_ending("", complete=True)
    write_report(folder)
    StudyMirror(folder, tracking_uri_of(folder)).bring_up(ended=True)
    return folder
