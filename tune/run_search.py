"""Search for the fine-tuning configuration that makes a good reranker: load, check, search, report.

python tune/run_search.py                                  the demo, on generated data
python tune/run_search.py search_spaces/qwen3_lora.yaml    your study
python tune/run_search.py --resume STUDY                   go on with a study that was stopped or killed
python tune/run_search.py control STUDY stop|add|pause|resume …    steer a search while it runs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # Python puts this script's folder first, where modules would load twice under two names
    sys.path[0] = str(ROOT)
    if sys.argv[1:2] == ["control"]:  # before the imports, which take seconds
        from tune import control

        sys.exit(control.main(sys.argv[2:]))
    if not {"-h", "--help", "--check", "--quiet"}.intersection(sys.argv):
        print("starting", flush=True)

from tune.cluster import DASHBOARD_PORT, cluster, libraries_quiet  # isort: skip  (before ray: sets what Ray reads on import)

import ray
from ray import tune as ray_tune
from rich.console import Console

from reranker import datasets
from reranker.data import RerankingData
from reranker.errors import RerankerError
from reranker.files import write_yaml
from reranker.models import check_name
from reranker.streams import outliving
from results.compare import RUNS, compare, findings, verdict, winner
from results.diagnose import Evidence, as_text, diagnose
from results.integrity import open_study
from results.leaderboard import leaderboard, pretty
from results.optuna_journal import create_journal
from results.report import write_report
from results.study_folder import StoredTrial, StudyFolder
from results.tracking_store import tracking_uri_of
from tune import search_space
from tune.announce import how_to_resume, plan, where_it_is, where_to_look
from tune.conductor import Conductor, end_at_once, handling
from tune.faults import MACHINE, machine_fault
from tune.hand_over import refit_and_register
from tune.ledger import Ledger
from tune.manifest import check_same, keep_baselines, make_manifest
from tune.outcome import exit_code, tell_webhook
from tune.preflight import check_models, check_writable, gpu_part
from tune.progress import Progress
from tune.recorder import Recorder
from tune.replication import Replication
from tune.schedulers import make_scheduler, replay
from tune.search_space import Study
from tune.searcher import LedgerSearch, make_sampler
from tune.tracking import Tracker
from tune.trainable import concurrent_trials, make_trainable, trial_resources
from tune.warm_start import warm_start
from tune.worker_group import TrialResources

_REASONS = 3  # of the diagnosis that are printed; the report has all


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 the search ended with a result, 2 the user's fault, 1 ours, 130 stopped with Ctrl-C."""
    args = _arguments(argv)
    console = Console(file=outliving(sys.stdout), width=None if sys.stdout.isatty() else 200)
    try:
        with handling(end_at_once):
            return search(args, console)
    except RerankerError as error:
        if args.debug:
            console.print_exception()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ended at once; go on with --resume", file=sys.stderr)
        return 130


def search(args: argparse.Namespace, console: Console) -> int:
    say: Callable[[str], None] = (lambda line: None) if args.quiet or args.check else console.print

    # Load
    folder = open_study(args.runs, args.resume) if args.resume else None
    say("preparing the data")
    file = folder.study_file if folder else args.study_file
    study = search_space.load(file, overrides=_overrides(args), check_model=check_name)
    data = RerankingData.prepare(study.data).sealed() if not args.check or datasets.is_here(study.data) else None

    # Check
    check_writable(args.runs)
    say("loading the models' tokenizers")
    models = check_models(study, data, fetch=not args.check)
    if not args.quiet or args.check:
        console.print(plan(study, data, models), highlight=False)
    if folder and data:
        check_same(folder, study, data)
    if args.check or data is None:
        return 0
    folder = folder or _new_folder(study, data, args)

    with folder.locked(), libraries_quiet(folder.path / "driver.log"):
        write_yaml(folder.study_file, study.dump())
        tracking_uri = tracking_uri_of(folder)

        # Search
        tracker = Tracker(folder, tracking_uri)
        tracker.start()
        say("starting Ray")
        with cluster(args.address, args.dashboard_port, dashboard=not args.no_dashboard) as ray_cluster:
            if not args.quiet:
                where = where_to_look(folder, ray_cluster, tracking_uri)
                console.print(where, highlight=False, soft_wrap=True)
            resources = trial_resources(study, gpu_part(study, models))
            ending = _run_trials(study, data, folder, tracker, args, console, resources)

            # Report
            best = None
            try:
                best = _report(study, folder, tracker, tracking_uri, console, say)
            except Exception as error:
                if not (ending.startswith(MACHINE) and machine_fault(error)):
                    raise  # else it is the same fault again, which is told below
            if args.refit and best is not None and not ending:
                used = refit_and_register(data, folder, resources, name=study.name, tracking_uri=tracking_uri, say=say)
                console.print(used, highlight=False, soft_wrap=True)
            say("shutting Ray down")
    if ending:
        console.print(how_to_resume(folder, ending), highlight=False, soft_wrap=True)
    tell_webhook(args.webhook, folder)
    return exit_code(folder, ending)


def _run_trials(
    study: Study,
    data: RerankingData,
    folder: StudyFolder,
    tracker: Tracker,
    args: argparse.Namespace,
    console: Console,
    resources: TrialResources,
) -> str:
    """Why the search ended before all trials did; empty if none is left."""
    ledger = Ledger(study, folder, lambda number: make_sampler(study, number))
    ledger.reconcile()
    past = ledger.past()
    progress = Progress(
        study, console, done=len(past), best=ledger.best(), summary_s=60 * args.summary_minutes, quiet=args.quiet
    )
    tracker.say = progress.say
    conductor = Conductor(study, folder, ledger, progress.say)
    if args.warm_start and not args.resume:
        earlier = open_study(args.runs, args.warm_start)
        progress.say(warm_start(study, ledger, earlier, data.interactions.fingerprint))
    ledger.enqueue_first()
    if args.retry_failed:
        progress.say(f"tried again: {', '.join(f'trial {n}' for n in ledger.retry_failed()) or 'none had failed'}")
    scheduler = make_scheduler(study, folder.read_manifest()["ceiling"])
    replay(scheduler, past)
    replication = Replication(folder, args.top, args.replicate, progress.say) if args.replicate else None
    recorder = Recorder(folder, progress, tracker, conductor, study.knobs)
    with progress, conductor.listening():
        try:
            with conductor.minding_the_machine():
                ray_tune.Tuner(
                    make_trainable(folder.path, ray.put(data), study, resources),
                    tune_config=ray_tune.TuneConfig(
                        search_alg=LedgerSearch(study, ledger, conductor, replication),
                        scheduler=scheduler,
                        num_samples=-1,  # the searcher says when there are no more
                        max_concurrent_trials=min(study.settings.concurrency or 10**6, concurrent_trials(resources)),
                        trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}",
                        reuse_actors=study.resources.isolation == "slot",
                    ),
                    run_config=ray_tune.RunConfig(
                        name="tune",
                        storage_path=str(folder.path / "ray"),
                        callbacks=[recorder],
                        failure_config=ray_tune.FailureConfig(fail_fast="raise"),
                        checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                        verbose=0,
                    ),
                ).fit()
        finally:
            recorder.close()
    return conductor.close()


def _report(
    study: Study,
    folder: StudyFolder,
    tracker: Tracker,
    tracking_uri: str,
    console: Console,
    say: Callable[[str], None],
) -> StoredTrial | None:
    """Write and print what was found; the winner, if there is one."""
    say("comparing")
    table = leaderboard(folder)
    best = winner(folder)
    write_report(folder)
    say("delivering to MLflow")
    delivered = tracker.finish()
    found = compare(folder)
    console.print(pretty(table, study.knobs))
    console.print(f"\n{verdict(folder)}", style="bold", highlight=False)
    console.print("\n".join(f"  {finding}" for finding in findings(found)), highlight=False, soft_wrap=True)
    if reasons := diagnose(Evidence.of_study(folder, found))[:_REASONS]:
        console.print("\nWhat holds it back, the worst first:", highlight=False)
        console.print(as_text(reasons, console.width), highlight=False, markup=False)
    console.print(where_it_is(folder, tracking_uri, best, "" if delivered else tracker.trouble), highlight=False)
    return best


def _new_folder(study: Study, data: RerankingData, args: argparse.Namespace) -> StudyFolder:
    folder = StudyFolder.create(args.runs, study.name)
    baselines = keep_baselines(study, data, folder)
    manifest = make_manifest(study, data, args.tracking_uri or "", baselines)
    folder.write_manifest(manifest)
    create_journal(folder.journal, study.name, minimise=study.mode == "min", manifest=manifest)
    return folder


def _overrides(args: argparse.Namespace) -> list[str]:
    named = {
        "study.name": args.name and json.dumps(args.name),
        "study.trials": args.trials,
        "study.concurrency": args.concurrency,
        "study.sampler": args.sampler,
        "study.seed": args.seed,
        "resources.workers": args.workers,
        "resources.isolation": args.isolation,
    }
    return [*(f"{key}={value}" for key, value in named.items() if value is not None), *args.set]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_search.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study_file", nargs="?", type=Path, default=ROOT / "search_spaces" / "demo.yaml")
    parser.add_argument("--check", action="store_true", help="validate, print the plan, and stop")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override the study file")
    parser.add_argument("--name", help="of the study and its folder")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--sampler", help="tpe, random, gp, cmaes, or grid for every combination")
    parser.add_argument("--concurrency", type=int, help="trials at once; left out: as many as the cluster holds")
    parser.add_argument("--workers", type=int, help="distributed workers a trial")
    parser.add_argument("--isolation", help="trial: new worker processes for each trial, as a reference (slot)")
    parser.add_argument("--seed", type=int, help="of the sampler")
    parser.add_argument("--resume", metavar="STUDY", help="go on with a study, by its name or folder")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again")
    parser.add_argument(
        "--replicate", type=_at_least_one, metavar="N", help="then train the best again with N other seeds"
    )
    parser.add_argument(
        "--top", type=_at_least_one, default=5, metavar="K", help="with --replicate: how many of the best (5)"
    )
    parser.add_argument("--refit", action="store_true", help="then train the winner on validation too, and register it")
    parser.add_argument("--warm-start", metavar="STUDY", help="let the sampler know an earlier study's trials")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    parser.add_argument("--tracking-uri", help="an MLflow server; left out: a file in the study's folder")
    parser.add_argument("--address", help="of a running Ray cluster, or auto; left out: Ray on this machine")
    parser.add_argument("--dashboard-port", type=int, help=f"left out: {DASHBOARD_PORT}, or the next one that is free")
    parser.add_argument("--no-dashboard", action="store_true", help="start Ray without one")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.add_argument("--summary-minutes", type=float, default=10, help="between summaries without a terminal (10)")
    parser.add_argument("--webhook", metavar="URL", help="told the verdict as JSON at the end")
    parser.add_argument("--debug", action="store_true", help="show stack traces")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
