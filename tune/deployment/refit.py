"""A study's winner → its adapter trained once more, with its own recipe, on the training and the validation items."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from reranker.artifacts.adapter_files import take_adjustment
from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.errors import EnvironmentFault, Fault, InputError, TrainingError
from reranker.storage.atomic_files import DamagedFile, read_bytes, read_json, write_json, writing
from reranker.storage.file_permissions import make_folder
from reranker.training.training_status import TrainingStatus
from results.statistics.comparison import winner
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder
from tune.execution.failure_cause import MACHINE, cluster_fault
from tune.execution.worker_group import TrialResources, WorkerGroup
from tune.execution.worker_messages import Event, WorkerJob
from tune.study_file.manifest import reports_of

_FILE = "recipe.json"
_POLL_S = 0.5
_DEATHS = 2  # of the workers, after which the refit has failed


@dataclass(frozen=True)
class Recipe:
    """How far a trial was trained, and what that gave: what a refit repeats.

    Attributes:
        trial: its number.
        epochs: that its best report had trained, after which a refit ends; the schedule's horizon stays the
            configuration's.
        metric, value: what it reached on the validation lists then. A refit has none of its own.
        adapter: the SHA-256 of each file of the refitted adapter, once it is whole.
    """

    trial: int
    epochs: float
    metric: str
    value: float
    adapter: dict[str, str] = field(default_factory=dict, compare=False)

    @staticmethod
    def of_winner(study: StudyFolder) -> Recipe:
        """What won the search.

        Raises:
            InputError: no trial has a report.
        """
        best = winner(study)
        if best is None:
            raise InputError([Fault("a refit needs a trial that has a report", str(study.path))])
        return Recipe.of(study, best)

    @staticmethod
    def of(study: StudyFolder, trial: StoredTrial) -> Recipe:
        """A trial's, which has a report."""
        metric = study.read_manifest()["metric"]
        figures = trial.best(metric)
        assert figures is not None
        return Recipe(trial.number, figures["epoch"], metric, figures[metric])

    @staticmethod
    def read(folder: TrialFolder) -> Recipe:
        """What `write` wrote."""
        return Recipe(**read_json(folder.path / _FILE))

    def write(self, folder: TrialFolder) -> None:
        """Keep it beside the adapter."""
        write_json(folder.path / _FILE, dataclasses.asdict(self))


def refit(
    data: RerankingData,
    study: StudyFolder,
    resources: TrialResources,
    on_report: Callable[[dict[str, Any]], None] = lambda figures: None,
    on_status: Callable[[TrainingStatus], None] = lambda training_status: None,
) -> TrialFolder:
    """Train the winner's configuration on the training sequences and each user's validation item, never the test item.

    It is trained beside its place, so that the folder of a refit is whole or not there; one that was stopped goes on
    from its last state, and one that is there already is taken. What is damaged of either is trained anew.

    Args:
        data: the search's.
        resources: of a trial of the search.
        on_report: told the figures of each; there are no scores among them, since nothing is left to score on.
        on_status: told what is being done in between.

    Raises:
        InputError: there is no winner, or it cannot be trained with this data.
        TrainingError: the training failed.
        EnvironmentFault: the machine did; what was trained is kept.
    """
    recipe = Recipe.of_winner(study)
    config = study.trial(recipe.trial).read_config()
    if _is_of(study.refit, recipe, config) and _is_whole(study.refit):
        return study.refit
    beside = TrialFolder(study.path / "refit.tmp")
    _prepare(beside, recipe, config)
    job = WorkerJob(config, recipe.metric, beside, reports_per_epoch=reports_of(study))
    if not (reports := beside.read_reports()) or reports[-1]["epoch"] < recipe.epochs:
        _train(job, recipe.epochs, ray.put(data.refit()), study, resources, on_report, on_status)
    beside.drop_state()
    take_adjustment(study.trial(recipe.trial).adapter, beside.adapter)
    dataclasses.replace(recipe, adapter=_digests(beside)).write(beside)
    with writing(study.refit.path):
        shutil.rmtree(study.refit.path, ignore_errors=True)
        os.replace(beside.path, study.refit.path)
    return study.refit


def _prepare(folder: TrialFolder, recipe: Recipe, config: TrialConfig) -> None:
    """Make the folder, and keep what is there of the same recipe."""
    if _is_of(folder, recipe, config):
        return
    with writing(folder.path):
        shutil.rmtree(folder.path, ignore_errors=True)
        make_folder(folder.path)
    folder.write_config(config)
    folder.add_note(
        f"trial {recipe.trial}'s configuration, trained for {recipe.epochs:g} of {config.epochs} epochs on training and "
        f"validation items; in the search {recipe.metric} was {recipe.value:.4f}"
    )
    recipe.write(folder)


def _is_of(folder: TrialFolder, recipe: Recipe, config: TrialConfig) -> bool:
    try:
        folder.read_reports()
        return Recipe.read(folder) == recipe and folder.read_config() == config
    except DamagedFile:
        return False


def _is_whole(folder: TrialFolder) -> bool:
    try:
        return _digests(folder) == Recipe.read(folder).adapter
    except DamagedFile:
        return False


def _digests(folder: TrialFolder) -> dict[str, str]:
    files = sorted(folder.adapter.iterdir()) if folder.adapter.is_dir() else []
    return {file.name: hashlib.sha256(read_bytes(file)).hexdigest() for file in files}


def _train(
    job: WorkerJob,
    epochs: float,
    data: Any,
    study: StudyFolder,
    resources: TrialResources,
    on_report: Callable[[dict[str, Any]], None],
    on_status: Callable[[TrainingStatus], None],
) -> None:
    """Have a worker group do the job; a new one goes on where its workers died or the memory was short."""
    deaths, task = 0, f"refit of {study.name}"
    while True:
        group = WorkerGroup(study, data, resources, task)
        try:
            group.send(job, task)
            event = _end_of(group, task, epochs, on_report, on_status)
        finally:
            group.close()
        deaths += event.kind == "died"
        if event.kind == "ended":
            return
        if event.machine:
            raise EnvironmentFault(f"{MACHINE}: {event.machine}; --resume with --refit goes on from its last state")
        smaller = job.passes.after(event.micro_batch, job.config) if event.kind == "out_of_memory" else None
        if smaller is not None:
            job = dataclasses.replace(job, passes=smaller)
            job.folder.add_note(f"out of memory at micro batch {event.micro_batch}; went on with {smaller}")
        elif event.kind == "died" and deaths < _DEATHS:
            job.folder.add_note(f"its workers died ({event.cause}); new ones went on from its last state")
        elif event.kind == "failed" and not event.ours:
            raise InputError([Fault(event.cause, field="refit")])
        else:
            raise TrainingError(f"the refit failed: {event.cause}")


def _end_of(
    group: WorkerGroup,
    task: str,
    epochs: float,
    on_report: Callable[[dict[str, Any]], None],
    on_status: Callable[[TrainingStatus], None],
) -> Event:
    """Answer each report, until the recipe's last epoch; what became of the job then."""
    try:
        while True:
            if what := cluster_fault():
                return Event("died", machine=what)
            event = group.event(_POLL_S)
            if event is not None and event.kind == "training_status":
                on_status(event.training_status)
            elif event is not None and event.kind != "report":
                return event
            elif event is not None:
                on_report(event.figures)
                if event.figures["epoch"] < epochs:
                    group.go_on(task)
                else:
                    group.drop_job()
    except BaseException:  # Ctrl-C above all: the workers leave the job at once, wherever they are
        group.drop_job()
        group.stop()
        raise
