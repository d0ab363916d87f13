"""Lists a second and latency of the servers of one adapter: MLflow's, Ray Serve in batches, and one list at a time.

    python -m bench.serve [--quick] [--models demo-small smollm2-135m]

Each server is a process of its own beside the clients alone: so many threads, each of which asks one list of 20 demo titles after
the other over a connection of its own. *One at a time* is Ray Serve with `--batch 1`; MLflow's is `mlflow models
serve`. The adapters are fresh ones of rank 16: what they have learned makes no difference here.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # a line a file; read when MLflow is imported

import mlflow
import numpy as np
import torch

from bench.common import arguments, machine, write
from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.sources.demo import TITLES
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base

ROOT = Path(__file__).resolve().parents[1]
CONCURRENT = (1, 8, 64)
SERVE = [sys.executable, "-m", "tune.serve"]


def fresh_adapter(model: str, folder: Path) -> TrialFolder:
    """A trial's folder with an adapter that has learned nothing."""
    config, trial = TrialConfig(model=model), TrialFolder(folder)
    folder.mkdir()
    trial.write_config(config)
    attach_lora(load_base(config, torch.device("cpu")), config).save_pretrained(str(trial.adapter))
    return trial


def one_list(seed: int) -> dict[str, list[str]]:
    """Five titles of history and 20 candidates."""
    titles = random.Random(seed).sample(TITLES, 25)
    return {"history": titles[:5], "candidates": titles[5:]}


def of_ours(seed: int) -> tuple[str, Any]:
    """Where a list is sent, and as what."""
    return "/rank", one_list(seed)


def of_mlflow(seed: int) -> tuple[str, Any]:
    """Where a list is sent, and as what."""
    return "/invocations", {"dataframe_records": [one_list(seed)]}


@contextmanager
def server(command: list[str], port: int) -> Iterator[None]:
    """A server that answers, for the time of the block."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not _is_well(port):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _is_well(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def measure(port: int, ask: Callable[[int], tuple[str, Any]], clients: int, seconds: float) -> dict[str, float]:
    """Lists a second, and the milliseconds within which so many of 100 are answered, of so many clients at once."""
    end, times, lock = time.perf_counter() + seconds, [], threading.Lock()

    def client(number: int) -> None:
        connection, own, seed = http.client.HTTPConnection("127.0.0.1", port, timeout=120), [], number
        while (start := time.perf_counter()) < end:
            path, body = ask(seed)
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(content.decode())
            own.append(time.perf_counter() - start)
            seed += 1000
        with lock:
            times.extend(own)

    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    p50, p95, p99 = (1000 * float(np.quantile(times, share)) for share in (0.5, 0.95, 0.99))
    return {"lists_per_second": len(times) / wall, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def servers(trial: TrialFolder, folder: Path) -> dict[str, tuple[list[str], Callable[[int], tuple[str, Any]]]]:
    """By name, the command that a port is added to, and how it is asked."""
    pyfunc = folder / "pyfunc"
    mlflow.pyfunc.save_model(
        str(pyfunc),
        python_model=str(ROOT / "tune" / "deployment" / "pyfunc_model.py"),
        artifacts={"adapter": str(trial.path)},
        code_paths=[str(ROOT / "reranker")],
        pip_requirements=["mlflow"],
    )
    of_model = ["mlflow", "models", "serve", "--model-uri", str(pyfunc), "--env-manager", "local", "--port"]
    return {
        "Ray Serve": ([*SERVE, str(trial.path), "--port"], of_ours),
        "one at a time": ([*SERVE, str(trial.path), "--batch", "1", "--port"], of_ours),
        "MLflow": (of_model, of_mlflow),
    }


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="a few seconds each")
    parser.add_argument("--models", nargs="+", default=["demo-small", "smollm2-135m"])
    args = parser.parse_args()
    seconds = 5.0 if args.quick else 30.0
    print(
        f"{machine()}\n\n| model | server | clients | lists/s | p50, ms | p95 | p99 |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    found: dict[str, Any] = {}
    for model in args.models:
        with TemporaryDirectory() as name:
            trial = fresh_adapter(model, Path(name) / "trial")
            for way, (command, ask) in servers(trial, Path(name)).items():
                port = free_port()
                with server([*command, str(port)], port):
                    measure(port, ask, 8, 2.0)  # warm-up
                    for clients in CONCURRENT:
                        figures = measure(port, ask, clients, seconds)
                        found[f"{model}, {way}, {clients}"] = figures
                        rate, *times = figures.values()
                        print(
                            f"| {model} | {way} | {clients} | {rate:.1f} | {' | '.join(f'{ms:.0f}' for ms in times)} |",
                            flush=True,
                        )
    write(args, "serve", found)


if __name__ == "__main__":
    main()
