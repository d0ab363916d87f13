"""Search for the fine-tuning configuration that makes a good reranker: load, check, search, report.

python tune/run_search.py                                  the demo, on generated data
python tune/run_search.py search_spaces/qwen3_lora.yaml    your study
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # Python puts this script's folder first, where modules would load twice under two names
    sys.path[0] = str(ROOT)

from tune.cluster import DASHBOARD_PORT, cluster, libraries_quiet  # isort: skip  (before ray: sets what Ray reads on import)

import ray
from ray import tune as ray_tune
from rich.console import Console

from reranker.data import RerankingData
from reranker.errors import RerankerError
from reranker.models import check_name
from reranker.trial_folder import write_text
from results.compare import RUNS, leaderboard, pretty, verdict, winner
from results.study_folder import StudyFolder, TrialStatus
from tune import search_space
from tune.announce import plan, where_it_is, where_to_look
from tune.manifest import make_manifest
from tune.preflight import check_models, check_writable
from tune.progress import Progress
from tune.recorder import Recorder
from tune.search_space import Study
from tune.searcher import LedgerSearch, make_scheduler
from tune.tracking import Tracker, default_uri
from tune.trainable import concurrent_trials, make_trainable, trial_resources


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 the search ended with a result, 2 the user's fault, 1 ours, 130 stopped with Ctrl-C."""
    args = _arguments(argv)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    try:
        return search(args, console)
    except RerankerError as error:
        if args.debug:
            console.print_exception()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def search(args: argparse.Namespace, console: Console) -> int:
    # Load
    study = search_space.load(args.study_file, overrides=_overrides(args), check_model=check_name)
    data = RerankingData.prepare(study.data)

    # Check
    check_writable(args.runs)
    check_models(study, data)
    console.print(plan(study, data), highlight=False)
    if args.check:
        return 0
    folder = StudyFolder.create(args.runs, study.name)
    tracking_uri = args.tracking_uri or default_uri(folder)
    folder.write_manifest(make_manifest(study, data, tracking_uri))
    write_text(folder.study_file, study.dump())

    # Search
    tracker = Tracker(folder, tracking_uri)
    tracker.start()
    progress = Progress(study.settings.trials, study.metric, console)
    with libraries_quiet(folder.path / "driver.log"), cluster(args.address, args.dashboard_port) as ray_cluster:
        console.print(where_to_look(folder, ray_cluster, tracking_uri), highlight=False, soft_wrap=True)
        recorder = Recorder(folder, progress, tracker, study.knobs)
        with progress:
            _run_trials(study, data, folder, recorder)
        recorder.close()

    # Report
    table = leaderboard(folder)
    write_text(folder.leaderboard, table.to_csv(index=False))
    best = winner(folder)
    if best is not None:
        folder.write_best_config(best)
    delivered = tracker.finish()
    console.print(pretty(table, study.knobs))
    console.print(f"\n{verdict(folder)}", style="bold", highlight=False)
    console.print(where_it_is(folder, tracking_uri, best, "" if delivered else tracker.trouble), highlight=False)
    return _exit_code(folder)


def _run_trials(study: Study, data: RerankingData, folder: StudyFolder, recorder: Recorder) -> None:
    resources = trial_resources(study)
    concurrency = min(study.settings.concurrency or study.settings.trials, concurrent_trials(resources))
    tuner = ray_tune.Tuner(
        make_trainable(folder.path, ray.put(data), study.metric, resources),
        tune_config=ray_tune.TuneConfig(
            search_alg=LedgerSearch(study, folder),
            scheduler=make_scheduler(study),
            num_samples=study.settings.trials,
            max_concurrent_trials=concurrency,
            time_budget_s=study.time_budget_s,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}",
        ),
        run_config=ray_tune.RunConfig(
            name="tune", storage_path=str(folder.path / "ray"), callbacks=[recorder], verbose=0
        ),
    )
    tuner.fit()


def _exit_code(folder: StudyFolder) -> int:
    """0 if any trial finished an epoch; else whose fault it was."""
    trials = list(folder.trials())
    if any(trial.status is TrialStatus.CANCELLED for trial in trials):
        return 130
    if any(trial.epochs for trial in trials):
        return 0
    return 1 if any(folder.read_status(trial.number)["ours"] for trial in trials) else 2


def _overrides(args: argparse.Namespace) -> list[str]:
    named = {
        "study.name": args.name and json.dumps(args.name),
        "study.trials": args.trials,
        "study.concurrency": args.concurrency,
    }
    named |= {"study.seed": args.seed, "resources.workers": args.workers}
    return [*(f"{key}={value}" for key, value in named.items() if value is not None), *args.set]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_search.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study_file", nargs="?", type=Path, default=ROOT / "search_spaces" / "demo.yaml")
    parser.add_argument("--check", action="store_true", help="validate, print the plan, and stop")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override the study file")
    parser.add_argument("--name", help="of the study and its folder")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--concurrency", type=int, help="trials at once; left out: as many as the cluster holds")
    parser.add_argument("--workers", type=int, help="distributed workers a trial")
    parser.add_argument("--seed", type=int, help="of the sampler")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    parser.add_argument("--tracking-uri", help="an MLflow server; left out: a file in the study's folder")
    parser.add_argument("--address", help="of a running Ray cluster, or auto; left out: Ray on this machine")
    parser.add_argument("--dashboard-port", type=int, help=f"left out: {DASHBOARD_PORT}, or the next one that is free")
    parser.add_argument("--debug", action="store_true", help="show stack traces")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
