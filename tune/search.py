"""A study that has been read → check it, search, report: the main path. Takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tune.execution.ray_cluster import cluster  # isort: skip  (before ray: sets what Ray reads on import)

import ray
from ray import tune as ray_tune

from reranker.command_line.output_streams import outliving
from reranker.command_line.printable_text import Terminal
from reranker.command_line.redaction import masked
from reranker.data.assemble import RerankingData
from results.diagnosis.diagnosis import as_text, diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.leaderboard import leaderboard, pretty
from results.reporting.write_report import read_content, write_content
from results.statistics.comparison import compare, winner
from results.statistics.verdict_text import findings, verdict
from results.study.checked_folder import open_study
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from results.study_result import StudyResult
from tune.cluster.node_check import joined_nodes
from tune.deployment.deploy import refit_and_register
from tune.execution.cuda_mps import cuda_mps
from tune.execution.failure_cause import MACHINE, machine_fault
from tune.execution.measured_speed import measured_speed
from tune.execution.search_gauges import SearchGauges
from tune.execution.trial_messages import Assignment
from tune.execution.trial_resources import concurrent_trials, room_for_trials, trial_resources
from tune.execution.trial_runner import make_trainable
from tune.execution.worker_group import TrialResources
from tune.launching.callbacks import SearchCallbacks
from tune.launching.launch import Launch, begin_study
from tune.launching.search_options import SearchOptions
from tune.mirroring.mirror_thread import Trackers
from tune.mlflow_tracking.store_driver import check_driver
from tune.mlflow_tracking.tracker import Tracker
from tune.other_trackers.chosen_trackers import check_trackers, threads_of
from tune.remote_copies.fetched_study import fetch_study
from tune.remote_copies.kept_copy import check_copy, copy_thread, usable_place
from tune.searching import stop_pause_requests
from tune.searching.duration_estimate import EpochDuration, compiling_pays, decide, is_quick, may_compile, slowest
from tune.searching.optuna_searcher import OptunaSearcher, make_sampler
from tune.searching.replicates import Replication
from tune.searching.schedulers import make_scheduler, replay
from tune.searching.stop_rules import StopRules
from tune.searching.trial_lifecycle import TrialLife
from tune.searching.trial_store import TrialStore
from tune.searching.warm_start import warm_start
from tune.study_file.copy_address import is_copy_address
from tune.study_file.manifest import (
    check_same,
    compiles,
    keep_missing_baselines,
    keep_missing_lists,
    reports_of,
    score_baselines,
)
from tune.study_file.memory_plan import check_device, gpu_part
from tune.study_file.preflight import check_agreement, check_grades, check_models, check_reports, check_teachers
from tune.study_file.study import Study
from tune.study_file.worker_device import check_mps
from tune.terminal.driver_log import own_stdout
from tune.terminal.exit_status import tell_webhook
from tune.terminal.live_table import Progress
from tune.terminal.printed_lines import goes_on, how_to_resume, where_it_is, where_the_copy_is, where_to_look
from tune.terminal.printed_plan import plan

_MANY = 1024
_REASONS = 3  # of the diagnosis that are printed; the report has all


def search(
    study: Study,
    *,
    resume: StudyFolder | str | Path | None = None,
    warm_start: StudyFolder | str | Path | None = None,
    options: SearchOptions | None = None,
    console: Terminal | None = None,
) -> StudyResult:
    """Search a study's space, on a Ray of its own or one that runs; trains, scores, tracks, compares and reports.

    Must be called from the main thread: it minds Ctrl-C and SIGTERM, after which `StudyResult.state` says how it ended.

    Args:
        study: see `Study.load`.
        resume: a study to go on with, by its name, its folder or its copy's address; None begins a new one.
        warm_start: an earlier study, whose finished trials the sampler begins with.
        options: what is asked besides the study.
        console: where to report; None: standard output.

    Raises:
        InputError: data or models break a rule, or differ from those that the study to go on with began with.
        EnvironmentFault: the machine lacks something, such as a file or a free port; what was trained is kept.
    """
    options = options or SearchOptions()
    console = console or Terminal(outliving(own_stdout()))
    if isinstance(resume, str) and is_copy_address(resume):
        resume = fetch_study(resume, options.runs, console.say)
    folder, earlier = (
        given if given is None or isinstance(given, StudyFolder) else open_study(options.runs, str(given))
        for given in (resume, warm_start)
    )
    if folder is None:
        StudyFolder.check_place(options.runs, study.name)
    return _search(study, folder, earlier, options, console)


def _search(
    study: Study,
    folder: StudyFolder | None,
    earlier: StudyFolder | None,
    options: SearchOptions,
    console: Terminal,
) -> StudyResult:
    say: Callable[[str], None] = (lambda line: None) if options.quiet else console.say

    # Check
    check_trackers(study.trackers)
    check_driver(tracking_uri_of(folder) if folder else options.tracking_uri)
    copy_to = usable_place(study.settings.copy_to)
    if folder and copy_to:
        check_copy(folder, copy_to.child(folder.path.name))
    check_agreement(study)
    say("preparing the data …")
    data = RerankingData.prepare(study.data, folder.imageless() if folder else ()).sealed()
    check_reports(study, data)
    check_teachers(study, data)
    check_grades(study, data)
    say("loading the models' tokenizers …")
    models = check_models(study, data, fetch=True, tell=say)
    if folder:
        check_same(folder, study, data)
        study = study.with_reports(reports_of(folder)).with_compiling(compiles(folder))
    if not options.quiet:
        console.say(goes_on(study, folder, options.replicate, options.top) if folder else plan(study, data, models))
    if options.address is None:  # a cluster's devices are not this machine's
        check_device(study, models)
    else:
        check_mps(study, None)

    with Launch() as launch:
        if folder:
            launch.hold(folder)
            keep_missing_lists(study, data, folder)
            keep_missing_baselines(study, data, folder, say)
        baselines = score_baselines(study, data, say) if folder is None else None
        say("starting Ray …")
        port, shown, runs = options.dashboard_port, options.dashboard, folder.path.parent if folder else options.runs
        with (
            cuda_mps() if study.resources.cuda_mps else nullcontext(),
            cluster(options.address, port, dashboard=shown, job_name=study.name) as ray_cluster,
            joined_nodes(options.address is not None, runs, study.models, say, gpus=options.wait_for_gpus) as nodes,
        ):
            if nodes.facts:
                say(nodes.describe())
            gpu = nodes.gpu_memory if study.resources.gpus_per_trial != 0 else None
            if gpu is not None:
                check_device(study, models, gpu)
            part = gpu_part(study, models, gpu)
            resources = trial_resources(study, part, one_node=not nodes.share_storage, mark=nodes.mark)
            stored, expected_s = ray.put(data), None
            if folder is None:
                study, expected_s = _paced(study, data, stored, resources, say)
                folder = begin_study(
                    study,
                    data,
                    options.runs,
                    tracking_uri=options.tracking_uri,
                    command=options.command,
                    baselines=baselines,
                    copy_to=copy_to,
                )
                launch.hold(folder)
            launch.begin(study)
            mlflow = Tracker(folder, tracking_uri_of(folder), ask=partial(stop_pause_requests.ask, folder))
            copies = [copy_thread(folder, copy_to)] if copy_to else []
            trackers = Trackers([mlflow, *threads_of(folder, study.trackers)], copies)
            trackers.start()
            for copy in copies:
                launch.keep(copy)
            say(where_to_look(folder, ray_cluster, tracking_uri_of(folder), study.trackers, copy_to))

            # Search
            ending = _run_trials(
                study, data, stored, folder, trackers, options, console, resources, earlier, expected_s
            )

            # Report
            best = None
            try:
                best = _report(study, folder, trackers, mlflow, console, say)
            except Exception as error:
                if not (ending.startswith(MACHINE) and machine_fault(error)):
                    raise  # else it is the same fault again, which is told below
            if options.refit and best is not None and not ending:
                uri = tracking_uri_of(folder)
                used = refit_and_register(data, folder, resources, name=study.name, tracking_uri=uri, say=say)
                console.say(masked(used))
            say("shutting Ray down …")
        if copy_to:
            say("bringing the copy up to the folder …")
    for copy in copies:
        console.say(where_the_copy_is(folder, copy.name, copy.trouble))
    if ending:
        console.say(how_to_resume(folder, ending))
    tell_webhook(options.webhook, folder)
    return StudyResult(folder, ending)


def _paced(
    study: Study,
    data: RerankingData,
    stored: ray.ObjectRef[RerankingData],
    resources: TrialResources,
    say: Callable[[str], None],
) -> tuple[Study, float | None]:
    """The study with what it leaves open decided, and the seconds that the search takes, where that is measured."""
    if is_quick(study):
        return decide(study, data, None), None
    say("measuring how fast its largest model is …")
    speed = measured_speed(slowest(study), stored, resources)
    if isinstance(speed, str):
        say(f"could not be measured ({speed}); a report an epoch, unless the study says otherwise")
        return decide(study, data, None), None
    duration, at_once = EpochDuration.of(study, data, speed), concurrent_trials(resources)
    study = decide(study, data, duration)
    if resources.gpus and may_compile(study, duration, at_once):
        say("measuring it once more, with compiled layers …")
        compiled = measured_speed(slowest(study.with_compiling(True)), stored, resources)
        pays, line = compiling_pays(duration.training_s(study, at_once), speed, compiled)
        say(line)
        study = study.with_compiling(pays)
        if pays and not isinstance(compiled, str):
            duration = EpochDuration.of(study, data, compiled)
    say(duration.describe(study, at_once))
    return study, duration.total(study, at_once)


def _run_trials(
    study: Study,
    data: RerankingData,
    stored: ray.ObjectRef[RerankingData],
    folder: StudyFolder,
    trackers: Trackers,
    options: SearchOptions,
    console: Terminal,
    resources: TrialResources,
    earlier: StudyFolder | None,
    expected_s: float | None,
) -> str:
    """Why the search ended before all trials did; empty if none is left."""
    trial_store = TrialStore(study, folder, partial(make_sampler, study))
    trial_life = TrialLife(trial_store, folder, study.metric)
    trial_life.reconcile()
    past = trial_store.past()
    progress = Progress(
        study,
        console,
        done=len(past),
        best=trial_store.best(),
        expected_s=expected_s,
        summary_s=60 * options.summary_minutes,
        quiet=options.quiet,
    )
    trackers.tell(progress.say)
    stop_rules = StopRules(study, folder, trial_store, progress.say)
    if earlier is not None:
        progress.say(warm_start(study, trial_store, earlier, data.interactions.fingerprint))
    trial_store.enqueue_first()
    if options.retry_failed:
        progress.say(f"tried again: {', '.join(f'trial {n}' for n in trial_store.retry_failed()) or 'none had failed'}")
    scheduler = make_scheduler(study, folder.read_manifest()["ceiling"], folder.is_kept)
    replay(scheduler, past)
    replication = Replication(folder, options.top, options.replicate, progress.say) if options.replicate else None
    gauges = SearchGauges(study, done=len(past), best=trial_store.best())
    callbacks = SearchCallbacks(trial_life, progress, gauges, trackers, stop_rules, study.knobs)
    with progress, stop_rules.listening():
        try:
            with stop_rules.minding_the_machine():
                ray_tune.Tuner(
                    make_trainable(folder.path, stored, study, resources),
                    tune_config=ray_tune.TuneConfig(
                        search_alg=OptunaSearcher(
                            study, trial_store, trial_life, stop_rules, replication, room_for_trials(study, resources)
                        ),
                        scheduler=scheduler,
                        num_samples=-1,  # the searcher says when there are no more
                        max_concurrent_trials=_MANY,  # and how many may run; left out, Tune starts one at a time
                        trial_dirname_creator=lambda trial: f"{Assignment.of(trial.config).number:03d}",
                        reuse_actors=study.resources.isolation == "slot",
                    ),
                    run_config=ray_tune.RunConfig(
                        name="tune",
                        storage_path=str(folder.path / "ray"),
                        callbacks=[callbacks],
                        failure_config=ray_tune.FailureConfig(fail_fast="raise"),
                        checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                        verbose=0,
                    ),
                ).fit()
        finally:
            callbacks.close()
    return stop_rules.close()


def _report(
    study: Study,
    folder: StudyFolder,
    trackers: Trackers,
    mlflow: Tracker,
    console: Terminal,
    say: Callable[[str], None],
) -> StoredTrial | None:
    """Write and print what was found; the winner, if there is one."""
    say("comparing, and writing the report …")
    table = leaderboard(folder)
    best = winner(folder)
    content = read_content(folder)
    write_content(folder, content)
    say("delivering to MLflow …" if len(study.trackers) == 1 else "delivering to the trackers …")
    troubles = trackers.finish()
    comparison = compare(folder)
    console.print(pretty(table, study.knobs))
    console.print(f"\n{verdict(folder)}", style="bold")
    console.say("\n".join(f"  {finding}" for finding in (*findings(comparison), *content.segments.losses)))
    if reasons := diagnose(DiagnosisInputs.of_study(folder, comparison, by_segment=content.segments.found))[:_REASONS]:
        console.print("\nWhat holds it back, the worst first:")
        console.print(as_text(reasons, console.width))
    uri, link = tracking_uri_of(folder), mlflow.leaderboard_link
    console.say(where_it_is(folder, uri, best, troubles, link, trackers=study.trackers))
    return best
