"""A study that has been read → its plan, or what any of its trials would stumble over. Starts nothing, fetches
nothing; where data and model are here, a few steps and lists tell how long the search takes."""

from __future__ import annotations

import contextlib
import os

from reranker.command_line.printable_text import Terminal
from reranker.data import sources
from reranker.data.assemble import RerankingData
from results.study.study_folder import StudyFolder
from tune.other_trackers.chosen_trackers import check_trackers
from tune.remote_copies.kept_copy import check_copy, usable_place
from tune.study_file.baseline_duration import baseline_durations
from tune.study_file.manifest import check_same
from tune.study_file.preflight import check_agreement, check_grades, check_models, check_reports, check_teachers
from tune.study_file.study import Study
from tune.study_file.worker_device import check_compiling, check_quantisation, cpus_per_worker, worker_memory
from tune.terminal.printed_plan import plan


def check(study: Study, folder: StudyFolder | None, console: Terminal, *, measure: bool = True) -> int:
    """Print the plan.

    Args:
        folder: of a study that goes on, whose data must be the same.
        measure: whether some steps are trained to tell how long the search takes, where data and model are here.

    Raises:
        InputError: data or models break a rule, or differ from those that the study began with.
        EnvironmentFault: a file is missing, or what a tracker needs.
    """
    check_trackers(study.trackers)
    copy_to = usable_place(study.settings.copy_to)
    if folder and copy_to:
        check_copy(folder, copy_to.child(folder.path.name))
    check_quantisation(study, worker_memory(study))
    check_compiling(study, worker_memory(study))
    check_agreement(study)
    imageless = folder.imageless() if folder else ()
    data = RerankingData.prepare(study.data, imageless).sealed() if sources.is_here(study.data) else None
    if data is not None:
        check_reports(study, data)
        check_teachers(study, data)
        check_grades(study, data)
    models = check_models(study, data, fetch=False)
    console.say(plan(study, data, models))
    if folder and data:
        check_same(folder, study, data)
    if measure and folder is None and data is not None:
        for line in baseline_durations(study, data):
            console.say(line)
        if all(model.here for model in models):
            _measure(study, data, console)
    return 0


def _measure(study: Study, data: RerankingData, console: Terminal) -> None:
    """How long the search takes on this machine, by its largest model; nothing for toys, which take minutes."""
    from tune.searching.duration_estimate import EpochDuration, decide, is_quick, slowest

    if is_quick(study):
        return
    import torch

    from reranker.training.speed import measure_speed

    console.say("measuring how fast its largest model is; the check is done, and Ctrl-C ends it here …")
    workers, cores = study.resources.workers, os.cpu_count() or 1
    config = slowest(study)
    threads = cpus_per_worker(study, cores, on_gpu=torch.cuda.is_available())
    mine = config.model_copy(update={"effective_batch": max(1, config.effective_batch // workers)})
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            speed = measure_speed(mine, data)
    finally:
        torch.set_num_threads(threads_before)
    duration = EpochDuration.of(study, data, speed)
    at_once = study.settings.concurrency or max(1, (torch.cuda.device_count() or cores // threads) // workers)
    console.say(duration.describe(decide(study, data, duration), at_once))
