"""A search on two nodes with a network between them that is cut and slowed, against the same search left in peace.

    python -m bench.network [--quick] [--faults "cut 5 s" "cut for good" …]

The second node has a network namespace of its own, a virtual cable to this one, and no access to the studies. The fault
comes when both nodes train; after its seconds the network is as before. Takes root, `ip` and `tc`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from bench.common import arguments, machine, write
from bench.soak import redone
from reranker.errors import RerankerError
from results.study.study_folder import StudyFolder

PROJECT = Path(__file__).resolve().parents[1]
HERE, THERE, SPACE = "10.77.0.1", "10.77.0.2", "reranker-soak"
PORT = 6421
STUDY = """
study: {name: far, trials: 4, scheduler: none, sampler: random, seed: 3, concurrency: 2}
data: {source: demo, users: 400, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, epochs: 12}
space:
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
"""
FAULTS: dict[str, tuple[str, float]] = {  # what is done to the cable, and for how long
    "cut 5 s": ("link set {cable} down", 5),
    "cut 20 s": ("link set {cable} down", 20),
    "cut 120 s": ("link set {cable} down", 120),
    "cut for good": ("link set {cable} down", 0),
    "1 Mbit/s for 60 s": ("rate 1mbit", 60),
    "100 kbit/s for 60 s": ("rate 100kbit", 60),
}
MOST_LAUNCHES = 3
ENDS_S = 900.0


def main() -> None:
    """Print a line for each fault."""
    parser = arguments(__doc__, quick="the first fault alone")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT")
    args = parser.parse_args()
    print(f"{machine()}\n{'fault':<22}{'launches':>9}{'seconds':>9}{'redone':>8}  same  trials; notes")
    with tempfile.TemporaryDirectory(prefix="net-") as folder:
        peace = measure("", Path(folder) / "peace")
        faults = args.faults[: 1 if args.quick else None]
        found = {fault: measure(fault, Path(folder) / f"{number}") for number, fault in enumerate(faults)}
    for fault, ending in {"left in peace": peace, **found}.items():
        same = ending["table"] == peace["table"]
        print(
            f"{fault:<22}{ending['launches']:>9}{ending['seconds']:>9.0f}{ending['redone']:>8}  "
            f"{'yes' if same else 'NO':<4}  {ending['trials']}; {ending['notes']}"
        )
        if not same:
            print(ending["printed"], file=sys.stderr)
    write(args, "network", found)


def measure(fault: str, folder: Path) -> dict[str, Any]:
    """A search with this fault, resumed as often as it ends for it."""
    folder.mkdir(parents=True)
    (folder / "far.yaml").write_text(STUDY, encoding="utf-8")
    study, launches, began = StudyFolder(folder / "runs" / "far"), 0, time.monotonic()
    with two_nodes(folder) as cable:
        command = [str(folder / "far.yaml")]
        while launches < MOST_LAUNCHES:
            launches += 1
            with (folder / "printed.log").open("a") as printed:
                search = subprocess.Popen(
                    [sys.executable, str(PROJECT / "tune" / "run_search.py"), *command, "--runs", str(folder / "runs"),
                     "--address", f"{HERE}:{PORT}"],
                    env=variables(), stdout=printed, stderr=subprocess.STDOUT,
                )  # fmt: skip
                try:
                    if launches == 1 and fault:
                        while search.poll() is None and not both_train(study):
                            time.sleep(0.2)
                        do_to(cable, *FAULTS[fault])
                    if search.wait(timeout=ENDS_S) == 0:
                        break
                finally:
                    end(search)
            command = ["--resume", "far"]
    return {
        "launches": launches, "printed": (folder / "printed.log").read_text(), "seconds": time.monotonic() - began,
        "table": pd.read_csv(study.leaderboard).drop(columns="seconds").to_csv(),
        "trials": " ".join(sorted(str(trial.status) for trial in study.trials())),
        "redone": sum(redone(study.trial(number).path / "train.log") for number in study.numbers()),
        "notes": [note for number in study.numbers() for note in study.trial(number).read_notes()],
    }  # fmt: skip


def both_train(study: StudyFolder) -> bool:
    """Whether the first two trials have a report each."""
    with contextlib.suppress(OSError, RerankerError):  # read while it is written
        return len([number for number in study.numbers() if study.trial(number).read_reports()]) >= 2
    return False


def do_to(cable: str, what: str, seconds: float) -> None:
    """Cut or slow the cable; after so many seconds it is whole again, with 0 never."""
    slow = what.startswith("rate")
    run(f"tc qdisc add dev {cable} root tbf {what} burst 16k latency 2s" if slow else "ip " + what.format(cable=cable))
    if seconds:
        time.sleep(seconds)
        run(f"tc qdisc del dev {cable} root" if slow else f"ip link set {cable} up")


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[str]:
    """A head with one CPU here, and a node with one behind a cable, whose name is given."""
    cable = "rr-here"
    with contextlib.ExitStack() as stack:
        run(f"ip netns add {SPACE}")
        stack.callback(run, f"ip netns del {SPACE}")
        run(f"ip link add {cable} type veth peer name rr-there netns {SPACE}")
        stack.callback(run, f"ip link del {cable}")
        run(f"ip addr add {HERE}/24 dev {cable}")
        run(f"ip link set {cable} up")
        for step in (f"addr add {THERE}/24 dev rr-there", "link set rr-there up", "link set lo up"):
            run(f"ip -n {SPACE} {step}")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block", "--disable-usage-stats"]
        head = [*ray, "--head", f"--port={PORT}", f"--node-ip-address={HERE}", "--include-dashboard=false"]
        apart = (
            f"mount -t tmpfs none {folder} && exec {' '.join(ray)} --address={HERE}:{PORT} --node-ip-address={THERE}"
        )
        far = ["ip", "netns", "exec", SPACE, "unshare", "--mount", "--propagation", "private", "sh", "-c", apart]
        for name, command in {"head": head, "far": far}.items():
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(command, env=variables(), stdout=log, stderr=log, cwd="/")
            stack.callback(end, process)
            while "Ray runtime started" not in (said := Path(log.name).read_text()):
                if process.poll() is not None:
                    raise RuntimeError(said)
                time.sleep(0.3)
        yield cable


def variables() -> dict[str, str]:
    """Of the nodes and the search."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}


def run(command: str) -> None:
    """Run it to its end."""
    subprocess.run(command.split(), check=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
