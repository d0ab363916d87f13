"""Searches that are killed, frozen and starved at random moments, and must end as if they never were.

    python -m bench.soak [--quick] [--injections 200] [--faults "worker KILL" "disk full" …]

A round is a search in processes of its own. Its study lies on a small disk and is tracked by an MLflow server; both are the
campaign's. Faults come at random moments. Whatever ends the search, `--resume` goes on with it. What it leaves is compared
with the same search left in peace. Every fault is kept in a file that the next run goes on with, so hours of it can be
stopped and taken up again. Small disks take root; without it they are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from mlflow.tracking import MlflowClient

from bench.common import FOUND, arguments, machine
from reranker.errors import RerankerError
from results.study.study_folder import StudyFolder

PROJECT = Path(__file__).resolve().parents[1]
STUDY = """
study: {name: soak, trials: 8, seed: 3, concurrency: 1, reports_per_epoch: 2, checkpoint_minutes: 0}
data: {source: demo, users: 800, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, lora_dropout: 0.1}
space:
  epochs: {int: [2, 4]}
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
  lora_rank: {int: [2, 8]}
"""
MOST_A_ROUND = 6
HANGS_S = 240.0  # without a report
NOTICED_S = 30.0  # by when the search has noticed what it may have to end for
MOST_LAUNCHES = 3  # after one fault
ENDS_S = 120.0  # that Ray's processes may outlive the search


class Search:
    """A search and its processes, whatever has been started of it so far."""

    def __init__(self, folder: Path, temporary: Path, tracking_uri: str = "") -> None:
        self.folder, self.temporary = folder, temporary
        self.study = StudyFolder(folder / "runs" / "soak")
        self.printed = folder / "printed.log"
        self.launches = 0
        self.hit: set[int] = (
            set()
        )  # trials whose workers were killed in this launch; a second death is the trial's fault
        self._ended, self._reported = threading.Event(), list[float]()
        threading.Thread(target=self.watch, daemon=True).start()
        self._tracked = ["--tracking-uri", tracking_uri] if tracking_uri else []

    def launch(self) -> None:
        """Start it, or go on with it."""
        file = self.folder / "study.yaml"
        file.write_text(STUDY, encoding="utf-8")
        what = ["--resume", "soak"] if self.study.path.exists() else [str(file), *self._tracked]
        command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), *what, "--runs", str(self.folder / "runs")]
        self.launches += 1
        self.hit, self._mark = set(), uuid.uuid4().hex
        variables = {"PYTHONPATH": str(PROJECT), **dict.fromkeys(("TMPDIR", "RAY_TMPDIR"), str(self.temporary))}
        with self.printed.open("a") as printed:
            printed.write(f"\n--- launch {self.launches}: {' '.join(command[2:])}\n")
            printed.flush()
            self.process = subprocess.Popen(
                [*command, "--no-dashboard"], stdout=printed, stderr=subprocess.STDOUT, cwd=self.folder,
                env={**os.environ, **variables, "RERANKER_SOAK": self._mark}, start_new_session=True,
            )  # fmt: skip

    def reports(self) -> int:
        """Of all trials."""
        return sum(len(self.study.trial(number).read_reports()) for number in self.study.numbers())

    def watch(self) -> None:
        """Note when each report comes, until `end`."""
        while not self._ended.wait(0.2):
            with contextlib.suppress(OSError, RerankerError):  # read while it is written
                if self.reports() > len(self._reported):
                    self._reported.append(time.monotonic())

    def next_report(self, since: float) -> float | None:
        """When the first report came after this moment; None if none has yet."""
        return next((moment for moment in self._reported if moment > since), None)

    def processes(self) -> Iterator[psutil.Process]:
        """Those of the last launch that are there."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("RERANKER_SOAK") == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def named(self, *words: str) -> psutil.Process | None:
        """The process in whose command one of these words stands."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word in " ".join(process.cmdline()) for word in words):
                    return process
        return None

    def outlived(self) -> int:
        """Processes of a search that has ended which are still there after a while."""
        deadline = time.monotonic() + ENDS_S
        while (left := len(list(self.processes()))) and time.monotonic() < deadline:
            time.sleep(0.3)
        return left

    def end(self) -> None:
        """Kill what is left of it."""
        self._ended.set()
        for process in list(self.processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class TrackingServer:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "mlflow.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--artifacts-destination", str(self._folder)],
                stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.3)
        raise RuntimeError("the MLflow server did not start")

    def all(self) -> list[psutil.Process]:
        """Its processes."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def kill(self) -> None:
        """All of its processes."""
        processes = self.all()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
        self.process.wait()


class Campaign:
    """Rounds of faults, and what is kept of them."""

    def __init__(self, kept: Path, folder: Path, faults: list[str]) -> None:
        self.kept = kept
        self.folder = folder
        self.can_mount = os.geteuid() == 0
        self.faults = [fault for fault in faults if self.can_mount or not fault.endswith("full")]
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
        self.found: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @property
    def injections(self) -> list[dict[str, Any]]:
        """A fault each."""
        return [entry for entry in self.found if "fault" in entry]

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """A complete search each."""
        return [entry for entry in self.found if "launches" in entry]

    def run(self, injections: int) -> None:
        """Rounds until there are so many faults."""
        if len(self.injections) >= injections:
            return
        with self._disk("p", 48) as folder, self._disk("pt", 400) as temporary:
            search = Search(folder, temporary)
            search.launch()
            if search.process.wait():
                raise RuntimeError(search.printed.read_text())
            peace = _outcome(search)
        while len(self.injections) < injections:
            number = 1 + max((entry["round"] for entry in self.found), default=0)
            with self._disk(f"r{number}", 48) as folder, self._disk(f"t{number}", 400) as temporary:
                self._round(number, folder, temporary, min(MOST_A_ROUND, injections - len(self.injections)), peace)

    def _round(self, number: int, folder: Path, temporary: Path, faults: int, peace: dict[str, Any]) -> None:
        draw = random.Random(number)
        place = self.folder / f"mlflow-{number}"
        place.mkdir(parents=True)
        server = TrackingServer(place)
        search = Search(folder, temporary, server.uri)
        found: list[dict[str, Any]] = []
        began = 0.0
        try:
            search.launch()
            while True:
                if faults and not _ends_within(search, draw.uniform(1, 14)):
                    kind = draw.choice(self._possible(search))
                    found.append({"round": number, "fault": kind, "reports": search.reports()})
                    began = time.monotonic()
                    if not FAULTS[kind](search, server, draw.uniform(2, 8)):  # there is no such process now
                        found.pop()
                        continue
                    faults -= 1
                    found[-1] |= _recovery(search, began, may_end=kind in MAY_END)
                    print(json.dumps(found[-1]), flush=True)
                    continue
                if search.process.wait() == 0:
                    break
                if not found:
                    raise RuntimeError(f"it ended before any fault:\n{search.printed.read_text()[-3000:]}")
                found[-1] |= _recovery(search, began, may_end=False)  # what it did after a report
            outcome = _outcome(search)
            ending = {
                "round": number, "launches": search.launches, "redone": outcome["redone"],
                "lost": len(set(peace["trials"].items()) - set(outcome["trials"].items())),
                "doubled": _doubled(search, server.uri),
                "winner": outcome["winner"] == peace["winner"], "leaderboard": outcome["table"] == peace["table"],
                "tracebacks": search.printed.read_text().count("Traceback (most recent call last)"),
            }  # fmt: skip
            print(json.dumps(ending), flush=True)
            if not all((ending["winner"], ending["leaderboard"])) or ending["lost"] or ending["doubled"]:
                self._keep_evidence(number, search)
            self._keep([*found, ending])
        except BaseException:
            self._keep_evidence(number, search)
            raise
        finally:
            search.end()
            server.kill()

    def _possible(self, search: Search) -> list[str]:
        running = max(search.study.numbers(), default=0)
        return [fault for fault in self.faults if fault != "worker KILL" or running not in search.hit]

    def _keep(self, entries: list[dict[str, Any]]) -> None:
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        with self.kept.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self.found += entries

    def _keep_evidence(self, number: int, search: Search) -> None:
        place = self.folder / f"evidence-{number}"
        subprocess.run(["cp", "-r", str(search.folder), str(place)], check=False)
        logs = [str(path) for path in search.temporary.glob("reranker-*/ray/session_2*/logs")]
        subprocess.run(["cp", "-r", "--parents", *logs, str(place)], check=False)
        print(f"its folder: {place}", flush=True)

    @contextlib.contextmanager
    def _disk(self, name: str, mib: int) -> Iterator[Path]:
        """A folder on a disk of its own, with room for little more than a study, or than Ray's files."""
        place = self.folder / name
        place.mkdir(parents=True)
        if self.can_mount:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], check=True)
        try:
            yield place
        finally:
            if self.can_mount:
                subprocess.run(["umount", "--lazy", str(place)], check=True)


def _signal(name: str, *words: str) -> Callable[[Search, TrackingServer, float], bool]:
    """A signal for one process of the search; a frozen one goes on after some seconds. False if there is none."""

    def send(search: Search, server: TrackingServer, seconds: float) -> bool:
        process = search.named(*words) if words else psutil.Process(search.process.pid)
        if process is None:
            return False
        if name == "KILL" and words == WORKER:
            search.hit.add(max(search.study.numbers(), default=0))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(getattr(signal, f"SIG{name}"))
            if name == "STOP":
                time.sleep(seconds)
                process.send_signal(signal.SIGCONT)
        return True

    return send


def _kill_server(search: Search, server: TrackingServer, seconds: float) -> bool:
    server.kill()
    time.sleep(seconds)
    server.start()
    return True


def _freeze_server(search: Search, server: TrackingServer, seconds: float) -> bool:
    for process in server.all():
        process.suspend()
    time.sleep(seconds)
    for process in server.all():
        process.resume()
    return True


def _fill_disk(search: Search, server: TrackingServer, seconds: float) -> bool:
    return _fill(search.folder, search, seconds)


def _fill_temporary(search: Search, server: TrackingServer, seconds: float) -> bool:
    return _fill(search.temporary, search, seconds)


def _fill(place: Path, search: Search, seconds: float) -> bool:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(subprocess.TimeoutExpired):
        search.process.wait(timeout=3 * seconds)
    filler.unlink()
    return True


WORKER = ("ray::TrainWorker",)
SLOT = ("ray::TrialRunner", "ray::trial ")
FAULTS: dict[str, Callable[[Search, TrackingServer, float], bool]] = {
    **{f"driver {name}": _signal(name) for name in ("KILL", "TERM", "HUP", "INT", "STOP")},
    **{f"worker {name}": _signal(name, *WORKER) for name in ("KILL", "STOP")},
    **{f"slot {name}": _signal(name, *SLOT) for name in ("KILL", "STOP")},
    **{f"mailbox {name}": _signal(name, "ray::Mailbox") for name in ("KILL", "STOP")},
    **{f"raylet {name}": _signal(name, "/raylet/raylet") for name in ("KILL", "STOP")},
    **{f"gcs {name}": _signal(name, "gcs_server") for name in ("KILL", "STOP")},
    "mlflow KILL": _kill_server,
    "mlflow STOP": _freeze_server,
    "disk full": _fill_disk,
    "tmp full": _fill_temporary,
}

MAY_END = {
    fault
    for fault in FAULTS
    if fault.startswith(("driver", "raylet", "gcs", "slot", "disk", "tmp")) and "STOP" not in fault
}


def _ends_within(search: Search, seconds: float) -> bool:
    try:
        search.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _recovery(search: Search, began: float, *, may_end: bool) -> dict[str, Any]:
    """What the fault did, and the seconds until the search had a report more, or was complete.

    Args:
        began: when the fault came.
        may_end: the search may end for it, which it is given the time to.
    """
    ended, left, launches, since = None, 0, search.launches, began
    while (code := search.process.poll()) != 0:
        # what comes before there is a study, a full disk or a Ray that does not start, refuses it too
        is_refused = code == 2 and not may_end and search.study.path.exists()
        if is_refused or search.launches - launches > MOST_LAUNCHES:
            raise RuntimeError(f"it does not go on:\n{search.printed.read_text()[-3000:]}")
        if code is not None:
            ended = code if ended is None else ended
            left = max(left, search.outlived())
            search.launch()
            since = time.monotonic()
        waited = time.monotonic() - since
        if search.next_report(since) is None:
            if waited > HANGS_S:
                raise RuntimeError(f"no report for {HANGS_S:.0f} s:\n{search.printed.read_text()[-3000:]}")
        elif ended is not None or not may_end or waited > NOTICED_S:
            break
        time.sleep(0.2)
    return {"ended": ended, "left": left, "seconds": round((search.next_report(since) or time.monotonic()) - began, 1)}


def _outcome(search: Search) -> dict[str, Any]:
    """What a complete search has come to."""
    study = search.study
    table = pd.read_csv(study.leaderboard).drop(columns="seconds")
    return {
        "trials": {trial.number: str(trial.status) for trial in study.trials()},
        "table": table.to_csv(),
        "winner": study.best_config.read_text(encoding="utf-8"),
        "redone": sum(redone(study.trial(number).path / "train.log") for number in study.numbers()),
    }


def redone(log: Path) -> int:
    """Reports that a trial's workers have made more than once."""
    epochs: Counter[float] = Counter()
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):
            figures = json.loads(line)
            if isinstance(figures, dict) and "epoch" in figures:
                epochs[figures["epoch"]] += 1
    return sum(count - 1 for count in epochs.values())


def _doubled(search: Search, uri: str) -> int:
    """Trials, baselines and studies that MLflow has more than one run of."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("soak")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    names = Counter(run.data.tags.get("trial", run.info.run_name) for run in runs)
    return sum(count - 1 for count in names.values())


def table(campaign: Campaign) -> str:
    """The faults and what became of them."""
    lines = [
        f"{'fault':<14}{'injected':>10}{'ended the search':>18}{'seconds to the next report':>28}{'processes left':>16}"
    ]
    for fault in FAULTS:
        some = [entry for entry in campaign.injections if entry["fault"] == fault]
        if some:
            seconds = [entry["seconds"] for entry in some]
            ended = sum(entry["ended"] is not None for entry in some)
            took = f"{statistics.median(seconds):.0f} (at most {max(seconds):.0f})"
            lines.append(f"{fault:<14}{len(some):>10}{ended:>18}{took:>28}{sum(e['left'] for e in some):>16}")
    rounds = campaign.rounds
    total = {
        name: sum(entry[name] for entry in rounds) for name in ("launches", "lost", "doubled", "redone", "tracebacks")
    }
    equal = {name: sum(entry[name] for entry in rounds) for name in ("winner", "leaderboard")}
    lines.append(
        f"{len(campaign.injections)} faults in {len(rounds)} searches of 8 trials, {total['launches']} launches: "
        f"{total['lost']} trials lost, {total['doubled']} doubled, {total['redone']} reports made again, "
        f"{total['tracebacks']} tracebacks; the same winner in {equal['winner']}, the same leaderboard in {equal['leaderboard']}"
    )
    return "\n".join(lines)


def main() -> None:
    """Go on with the campaign and print its table."""
    parser = arguments(__doc__, quick="one round")
    parser.add_argument("--injections", type=int, default=200, help="that there are at the end (%(default)s)")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and & would have searches ignore them
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    kept = args.json or FOUND / "soak.jsonl"
    folder = Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp"))
    campaign = Campaign(kept, folder, args.faults)
    print(f"{machine()}\nkept in {kept}, its folders in {folder}", flush=True)
    campaign.run(len(campaign.injections) + MOST_A_ROUND if args.quick else args.injections)
    print(table(campaign))


if __name__ == "__main__":
    main()
