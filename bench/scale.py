"""What grows with a study and with its data, against what it may take: many trials, large reports, large tables.

    python -m bench.scale [--quick] [--part store|trials|report|data]

*store*: drawing a trial and telling journal and folder of it, without Ray. *trials*: the search itself, one trial at a
time on one slot, with a trial that trains nothing and reports made-up figures twice. Searcher, scheduler, journal,
folder, callbacks and, where it is asked for, MLflow are the search's own; the comparison at its end is left out.
*report*: `results.compare` and `results.report` on a study of made-up ranks, told to the same stores. *data*: a Parquet
file of made-up interactions → import, split and lists. Each measurement is a process of its own.
"""

from __future__ import annotations

import io
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import parquet

from bench.common import arguments, in_a_process, machine, write
from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import TablesData
from reranker.metrics import Picks, Ranks, summarise
from reranker.report_figures import is_better

PARTS = ("store", "trials", "report", "data")
MODEL, CANDIDATES, METRIC = "demo-tiny", 20, "ndcg_at_10"
WINDOW = 100  # trials, at the beginning and at the end
WITH_MLFLOW = 1_000  # trials of the largest search with it
INTERACTIONS_OF_A_USER, USERS_OF_AN_ITEM = 10, 4
SOME_LISTS = 20_000  # users, as `evaluation_users` samples them
SECOND_S = 365 * 86_400
_NORMAL = NormalDist()
MEBI = 2**20
_ASK = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class MadeUpRanker:
    """Ranks of the same users by rankers of a given skill, alike from report to report and from ranker to ranker."""

    def __init__(self, users: list[str]) -> None:
        self._users = users
        self._of_users = np.random.default_rng(0).normal(0, 0.7, len(users))

    def ranks(self, skill: float, seed: int, report: int) -> tuple[Ranks, Picks]:
        """Of the ranker with this seed, as it is at a report; skill 0 is chance on average."""
        users = len(self._users)
        own = np.random.default_rng(seed).normal(0, 0.5, users)
        noise = np.random.default_rng([seed, report]).normal(0, 0.3, users)
        ahead = (skill + self._of_users + own + noise) / math.sqrt(1 + 0.7**2 + 0.5**2 + 0.3**2)
        above = np.array([1 - _NORMAL.cdf(value) for value in ahead.tolist()])
        greater = np.minimum((above * CANDIDATES).astype(np.int64), CANDIDATES - 1)
        target = np.random.default_rng(1).integers(0, CANDIDATES, users)
        first = np.where(greater == 0, target, (target + 1) % CANDIDATES)
        return Ranks(greater, np.zeros_like(greater)), Picks(target, first, np.maximum(1 - above, 1 / CANDIDATES))

    def report(self, folder: TrialFolder, number: int, config: TrialConfig, *, kept: bool = True) -> dict[str, Any]:
        """The next report of a trial, stored as a worker stores it, its ranks too if they are kept; its figures."""
        earlier = folder.read_reports()
        report = len(earlier) + 1
        skill = 1 + 0.1 * math.log10(config.learning_rate) + 0.3 * (1 - 0.5**report)
        ranks, picks = self.ranks(skill, number, report)
        scored = summarise(ranks)
        figures = {
            "report": report, "epoch": report, "train_loss": 3 - scored[METRIC], "val_loss": 3 - scored[METRIC], **scored,
            "seconds": 5.0 * report, "applied/examples": 1000 * report, "applied/optimizer_steps": 60 * report,
            "applied/parameters": 100_000, "applied/flops_per_list": 1e9,
        }  # fmt: skip
        if not earlier:
            folder.adapter.mkdir(exist_ok=True)
            (folder.adapter / "made_up.txt").write_text("no weights\n", encoding="utf-8")
        if kept:
            best = all(is_better(figures, other, METRIC) for other in earlier)
            folder.keep_report(report, self._users, ranks, picks, best=best)
        folder.append_report(figures)
        return figures


def study_of(trials: int, users: int, epochs: int, sampler: str) -> dict[str, Any]:
    """The content of a study file."""
    return {
        "study": {"name": "scale", "trials": trials, "concurrency": 1, "sampler": sampler, "metric": METRIC},
        "data": {"source": "demo", "users": users, "interactions_per_user": 5},
        "fixed": {"model": MODEL, "epochs": epochs, "candidates": CANDIDATES, "examples_per_user": 1},
        "space": {
            "learning_rate": {"log_uniform": [1e-5, 1e-2]},
            "lora_rank": {"choice": [4, 8, 16, 32]},
            "lora_dropout": {"uniform": [0.0, 0.3]},
            "effective_batch": {"choice": [8, 16, 32]},
        },
    }


def users_of(data: RerankingData, config: TrialConfig) -> list[str]:
    """Whose each validation list is."""
    return [data.interactions.user_ids[example.user] for example in data.validation(config)]


# Trials


class Moment(NamedTuple):
    """Where a search is when a trial has ended: totals since it began."""

    wall_s: float
    cpu_s: float
    mlflow_s: float  # of it, CPU time of the thread that fills MLflow
    in_trials_s: float  # wall time in the trials' own process
    private_mib: float


def trials(count: int, with_mlflow: int) -> dict[str, Any]:
    """A search of so many trials that train nothing; without MLflow, its thread has nothing to do."""
    from tune.search import search  # isort: skip  (first: sets what Ray reads on import)
    from ray import tune as ray_tune

    from reranker.command_line.printable_text import Terminal
    from results.study.tracking_address import local_file
    from tune.execution.trial_messages import Assignment, report_result
    from tune.execution.trial_runner import TrialRunner
    from tune.launching.callbacks import SearchCallbacks
    from tune.launching.search_options import SearchOptions
    from tune.mlflow_tracking.trials_to_runs import StudyMirror
    from tune.study_file.study import Study

    study = Study.load(study_of(count, users=200, epochs=2, sampler="tpe"))
    moments: list[Moment] = []
    in_trials = mlflow_behind_s = 0.0

    class NothingTrained(ray_tune.Trainable):  # type: ignore[misc]
        default_resource_request = TrialRunner.default_resource_request

        def setup(self, config: dict[str, Any], *, folder: Any, ranker: MadeUpRanker) -> None:
            self._study, self._ranker = folder, ranker
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._assignment = Assignment.of(new_config)
            return True

        def step(self) -> dict[str, Any]:
            began, number, config = time.perf_counter(), self._assignment.number, self._assignment.config
            figures = self._ranker.report(self._study.trial(number), number, config, kept=False)
            result = report_result(figures, config.epochs, replayed=False)
            return {**result, "own_s": time.perf_counter() - began}

    class Watched(SearchCallbacks):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            nonlocal in_trials
            super().on_trial_result(iteration, trials, trial, result, **info)
            in_trials += result.get("own_s", 0.0)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            super().on_trial_complete(iteration, trials, trial, **info)
            memory, mlflow_s = psutil.Process().memory_info(), _cpu_of_thread("MLflow mirror")
            private = (memory.rss - memory.shared) / MEBI
            moments.append(Moment(time.perf_counter(), time.process_time(), mlflow_s, in_trials, private))

    def make_trainable(path: Path, data: Any, study: Study, resources: Any) -> Any:
        from results.study.study_folder import StudyFolder

        ranker = MadeUpRanker(users_of(RerankingData.prepare(study.data), study.base()))
        return ray_tune.with_parameters(NothingTrained, folder=StudyFolder(path), ranker=ranker)

    def deliver(study: Study, folder: Any, trackers: Any, *others: Any) -> None:
        nonlocal mlflow_behind_s
        began = time.perf_counter()
        if troubles := trackers.finish(3600):
            raise RuntimeError(str(troubles))
        mlflow_behind_s = time.perf_counter() - began

    with (
        tempfile.TemporaryDirectory() as runs,
        patch("tune.search.make_trainable", make_trainable),
        patch("tune.search.SearchCallbacks", Watched),
        patch("tune.search._report", deliver),
        patch.object(StudyMirror, "_close", lambda *args: None),
        nullcontext() if with_mlflow else patch.object(StudyMirror, "bring_up", lambda *args, **options: None),
    ):
        options = SearchOptions(runs=Path(runs), quiet=True, dashboard=False)
        result = search(study, options=options, console=Terminal(io.StringIO()))
        if result.ending:
            raise RuntimeError(result.ending)
        folder = result.folder
        return {
            "trials": len(moments),
            "with_mlflow": bool(with_mlflow),
            "first": _window(moments[1 : WINDOW + 2]),
            "last": _window(moments[-WINDOW - 1 :]),
            "search_s": moments[-1].wall_s - moments[0].wall_s,
            "mlflow_behind_s": mlflow_behind_s,
            "journal_mib": folder.journal.stat().st_size / MEBI,
            "mlflow_mib": local_file(folder).stat().st_size / MEBI if with_mlflow else 0.0,
        }


def store(count: int) -> list[dict[str, float]]:
    """CPU time of a trial, mean of a hundred at a time; every second one reports twice, the others are stopped."""
    from results.study.stored_trial import TrialStatus
    from tune.execution.trial_messages import Ending
    from tune.launching.launch import begin_study
    from tune.searching.optuna_searcher import make_sampler
    from tune.searching.trial_lifecycle import TrialLife
    from tune.searching.trial_store import TrialStore
    from tune.study_file.study import Study

    study = Study.load(study_of(count, users=200, epochs=2, sampler="tpe"))
    rng, found = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as runs:
        folder = begin_study(study, RerankingData.prepare(study.data).sealed(), Path(runs))
        trial_store = TrialStore(study, folder, partial(make_sampler, study))
        life = TrialLife(trial_store, folder, study.metric)
        for first in range(0, count, WINDOW):
            began = time.process_time()
            for number in range(first, first + WINDOW):
                trial_store.to_go_on_with()  # as the searcher asks before each
                trial_store.asked()
                assignment, _ = life.begin()
                for report in range(1, 2 + number % 2):
                    life.report(assignment.number, report, float(rng.random()))
                life.end(assignment.number, Ending(TrialStatus.COMPLETED if number % 2 else TrialStatus.PRUNED))
            found.append({"trials": first + WINDOW, "cpu_ms": 1000 * (time.process_time() - began) / WINDOW})
    return found


def _window(moments: list[Moment]) -> dict[str, float]:
    """Milliseconds a trial, and the memory at the end."""
    first, last, count = moments[0], moments[-1], len(moments) - 1
    of_a_trial = [1000 * (end - begin) / count for begin, end in zip(first, last, strict=True)]
    wall, cpu, mlflow, own, _ = of_a_trial
    return {
        "overhead_ms": wall - own,
        "trial_ms": own,
        "cpu_ms": cpu,
        "cpu_mlflow_ms": mlflow,
        "private_mib": last.private_mib,
    }


def _cpu_of_thread(name: str) -> float:
    threads = [thread.ident for thread in threading.enumerate() if thread.name == name and thread.ident is not None]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in threads)


# Report


def report(count: int, users: int) -> dict[str, Any]:
    """Both commands on a study of so many trials; of ten trials seven report once, two three times, one nine times."""
    with tempfile.TemporaryDirectory() as runs:
        folder = made_up_study(Path(runs), count, users)
        found: dict[str, Any] = {"trials": count, "users": users}
        found["reports"] = sum(1 for _ in folder.glob("trials/*/reports/*.parquet"))
        for command in ("compare", "report"):
            found[command] = _resources_of(f"results.{command}", str(folder))
        found["page_mib"] = (folder / "report.html").stat().st_size / MEBI
        return found


def made_up_study(runs: Path, count: int, users: int) -> Path:
    """A finished study, told to journal and folder as a search tells them, with knobs drawn at random."""
    from results.study.stored_trial import TrialStatus
    from tune.execution.trial_messages import Ending
    from tune.launching.launch import begin_study
    from tune.searching.optuna_searcher import make_sampler
    from tune.searching.trial_lifecycle import TrialLife
    from tune.searching.trial_store import TrialStore
    from tune.study_file.study import Study

    study = Study.load(study_of(count, users, epochs=9, sampler="random"))
    data = RerankingData.prepare(study.data).sealed()
    folder, ranker = begin_study(study, data, runs), MadeUpRanker(users_of(data, study.base()))
    for skill, untrained in enumerate(folder.zero_shot(MODEL)):
        ranks, picks = ranker.ranks(0.1 * skill, count + skill, 0)
        untrained.write_figures(summarise(ranks))
        untrained.keep_ranks(users_of(data, study.base()), ranks, picks)
    store = TrialStore(study, folder, partial(make_sampler, study))
    life = TrialLife(store, folder, study.metric)
    for number in range(count):
        assignment, _ = life.begin()
        reports = 9 if number % 10 == 0 else 3 if number % 10 in (3, 6) else 1
        for epoch in range(1, reports + 1):
            figures = ranker.report(folder.trial(number), number, assignment.config)
            life.report(number, epoch, figures[study.metric])
        life.end(number, Ending(TrialStatus.COMPLETED if reports == 9 else TrialStatus.PRUNED))
    folder.write_ending("", complete=True)
    return folder.path


def _resources_of(*words: str) -> dict[str, float]:
    """What `python -m …` takes; asked by a small process, since a child's peak begins with its parent's size."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _ASK, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    cpu, peak = map(float, done.stdout.split())
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - began, "peak_mib": peak / 1024}


# Data


def tables(folder: Path, interactions: int) -> None:
    """Write interactions.parquet, in order of time, and items.parquet: a tenth as many users, a fortieth as many items."""
    rng, users = np.random.default_rng(0), interactions // INTERACTIONS_OF_A_USER
    items = users // USERS_OF_AN_ITEM
    lengths = 5 + rng.poisson(INTERACTIONS_OF_A_USER - 5, users)
    rows = int(lengths.sum())
    owners = rng.permutation(np.repeat(np.arange(users, dtype=np.int32), lengths))
    touched = (items * rng.random(rows) ** 2).astype(np.int32)  # a short head, and a tail of some 20 each
    columns = {
        "user_id": _named(owners, [f"u{user:08d}" for user in range(users)]),
        "item_id": _named(touched, [f"i{item:07d}" for item in range(items)]),
        "timestamp": pa.array(np.sort(rng.integers(0, SECOND_S, rows))),
    }
    parquet.write_table(pa.table(columns), folder / "interactions.parquet")
    ids = [f"i{item:07d}" for item in range(items)]
    texts = [f"Item {item} of a made-up catalogue" for item in range(items)]
    parquet.write_table(pa.table({"item_id": ids, "text": texts}), folder / "items.parquet")


def _named(codes: Any, names: list[str]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)).cast(pa.string())


def data(folder: Path) -> dict[str, Any]:
    """Seconds and the most memory of each step from the files to the lists."""
    from reranker.data import sources
    from reranker.data.candidates.candidate_lists import CandidateSampler
    from reranker.data.split import split

    config = TablesData(interactions=folder / "interactions.parquet", items=folder / "items.parquet")
    steps: dict[str, Any] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        made = do()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        steps[name] = {**seconds, "resident_mib": psutil.Process().memory_info().rss / MEBI, "peak_mib": peak}
        return made

    read = step("import", lambda: sources.load(config))
    parts = step("split", lambda: split(read, config.targets_per_user))
    sampler = step("sampler", lambda: CandidateSampler(read, parts, config.retriever, config.dense_model))

    def lists(users: int | None) -> int:
        kind, seed = config.evaluation_negatives, config.seed
        return len(sampler.evaluation_examples("validation", n=CANDIDATES, negatives=kind, users=users, seed=seed))

    step(f"lists of {SOME_LISTS:,} users", lambda: lists(SOME_LISTS))
    step("lists of all users", lambda: lists(None))
    sizes = {"interactions": len(read.touched), "users": len(read.user_ids), "items": len(read.item_ids)}
    return {**sizes, "steps": steps}


# Tables


def tell_trials(found: dict[str, Any]) -> None:
    """Print a search's row: its first and its last trials."""
    for name in ("first", "last"):
        part = found[name]
        cells = (part[key] for key in ("overhead_ms", "trial_ms", "cpu_ms", "cpu_mlflow_ms", "private_mib"))
        print(f"{found['trials']:>7,}{name:>7}" + "".join(f"{cell:>16,.1f}" for cell in cells))
    mlflow = f"behind by {found['mlflow_behind_s']:.1f} s at the end, its store {found['mlflow_mib']:.1f} MiB"
    print(
        f"        the search {found['search_s']:.0f} s, its journal {found['journal_mib']:.1f} MiB, "
        f"MLflow {mlflow if found['with_mlflow'] else 'left out'}",
        flush=True,
    )


def tell_report(found: dict[str, Any]) -> None:
    """Print both commands."""
    print(f"{found['trials']:,} trials, {found['reports']:,} reports, {found['users']:,} users")
    for command in ("compare", "report"):
        part = found[command]
        print(f"{command:>12}{part['cpu_s']:>10.1f}{part['wall_s']:>10.1f}{part['peak_mib']:>10,.0f}")
    print(f"        the page {found['page_mib']:.2f} MiB", flush=True)


def tell_data(found: dict[str, Any]) -> None:
    """Print each step."""
    print(f"{found['interactions']:,} interactions, {found['users']:,} users, {found['items']:,} items")
    for name, part in found["steps"].items():
        cells = (part[key] for key in ("wall_s", "cpu_s", "resident_mib", "peak_mib"))
        print(f"{name:>24}" + "".join(f"{cell:>14,.1f}" for cell in cells))


def child(part: str, *sizes: str) -> Any:
    """One measurement, in this process."""
    if part == "tables":
        return tables(Path(sizes[0]), int(sizes[1]))
    if part == "data":
        return data(Path(sizes[0]))
    measure: dict[str, Callable[..., Any]] = {"store": store, "trials": trials, "report": report}
    return measure[part](*map(int, sizes))


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__, quick="110 trials, 60 trials by 200 users, 200,000 interactions")
    parser.add_argument("--part", choices=PARTS, help="this part alone")
    parser.add_argument("--sizes", type=int, nargs="+", help="of that part: trials; trials and users; interactions")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(*args.child)))
        return
    if args.sizes and not args.part:
        parser.error("--sizes takes --part")
    print(machine())
    found: dict[str, Any] = {}
    if args.part in (None, "store"):
        count = args.sizes[0] if args.sizes else 200 if args.quick else 4_000
        found["store"] = in_a_process("bench.scale", "store", str(count))
        print(f"\n{'up to trial':>12}{'CPU, ms':>10}")
        for row in found["store"][:: max(1, len(found["store"]) // 10)] + found["store"][-1:]:
            print(f"{row['trials']:>12,}{row['cpu_ms']:>10.1f}")
    if args.part in (None, "trials"):
        header = "".join(f"{name:>16}" for name in ("overhead, ms", "trial, ms", "CPU, ms", "of MLflow", "private MiB"))
        print(f"\n{'trials':>7}{'':>7}{header}")
        for count in args.sizes or ((110,) if args.quick else (1_000, 3_000)):
            for with_mlflow in (0, 1) if count <= WITH_MLFLOW else (0,):
                of_search = in_a_process("bench.scale", "trials", str(count), str(with_mlflow))
                found[f"trials_{count}{'_mlflow' * with_mlflow}"] = of_search
                tell_trials(of_search)
    if args.part in (None, "report"):
        count, users = args.sizes or ((60, 200) if args.quick else (1_000, 2_000))
        print(f"\n{'':>12}{'CPU, s':>10}{'wall, s':>10}{'peak MiB':>10}")
        found["report"] = in_a_process("bench.scale", "report", str(count), str(users))
        tell_report(found["report"])
    if args.part in (None, "data"):
        interactions = args.sizes[0] if args.sizes else 200_000 if args.quick else 20_000_000
        with tempfile.TemporaryDirectory() as folder:
            in_a_process("bench.scale", "tables", folder, str(interactions))
            found["data"] = in_a_process("bench.scale", "data", folder)
        print("\n" + " " * 24 + "".join(f"{name:>14}" for name in ("wall, s", "CPU, s", "resident MiB", "peak MiB")))
        tell_data(found["data"])
    write(args, "scale", found)


if __name__ == "__main__":
    main()
