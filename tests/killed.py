"""`run_search.py` that kills itself, or Ray, with SIGKILL at a named moment: python tests/killed.py MOMENT ARGUMENTS …"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from tune import run_search  # isort: skip  (first: sets what Ray reads on import)

import psutil
from mlflow.tracking import MlflowClient

from reranker.command_line.entry_point import run
from results.study.study_folder import StudyFolder
from tune.execution.trial_messages import Assignment
from tune.launching.callbacks import SearchCallbacks
from tune.searching.optuna_searcher import _OwnDraws
from tune.searching.trial_lifecycle import TrialLife
from tune.searching.trial_store import TrialStore


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_ray() -> None:
    """The process that starts all others of Ray's on this machine."""
    for process in psutil.Process().children(recursive=True):
        if process.name() == "raylet":
            process.kill()


def at_call(owner: Any, name: str, count: int = 1, *, after: bool = False) -> None:
    """Die at the count-th call of a function, before it does anything or after all that it does."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == count and not after:
            die()
        result = original(*args, **kwargs)
        if len(calls) == count:
            die()
        return result

    setattr(owner, name, dying)


def when_seen(pattern: str) -> None:
    """Die as soon as a file of this pattern appears in the study's folder that was not there at first."""
    runs = Path(sys.argv[sys.argv.index("--runs") + 1])
    before = set(runs.glob(pattern))

    def watch() -> None:
        while not set(runs.glob(pattern)) - before:
            time.sleep(0.002)
        die()

    threading.Thread(target=watch, daemon=True).start()


def at_result(number: int, epoch: int) -> None:
    """Kill Ray when the search hears of this epoch of this trial."""
    original = SearchCallbacks.on_trial_result

    def killing(self: SearchCallbacks, **info: Any) -> None:
        original(self, **info)
        if Assignment.of(info["trial"].config).number == number and info["result"].get("epoch") == epoch:
            kill_ray()

    SearchCallbacks.on_trial_result = killing  # type: ignore[assignment, method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "sampling": lambda: at_call(_OwnDraws, "sample_independent", after=True),  # some knobs are told, one is not
    "training": lambda: when_seen("*/trials/*/train.log"),
    "storing": lambda: when_seen("*/trials/*/epochs.jsonl"),
    "saving": lambda: when_seen("*/trials/*/state.tmp"),
    "reporting": lambda: at_call(TrialStore, "report"),
    "telling": lambda: at_call(TrialStore, "end", after=True),  # the journal knows, the folder does not
    "recording": lambda: at_call(TrialLife, "end", after=True),
    "making a run": lambda: at_call(MlflowClient, "create_run", 2, after=True),
    "logging": lambda: at_call(MlflowClient, "log_batch", 3),
    "ending": lambda: at_call(StudyFolder, "write_ending"),
    "deciding": lambda: at_call(
        TrialStore, "decide", after=True
    ),  # the journal knows how, and not yet that it has ended
    "raylet": lambda: at_result(4, 1),
}

if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1, os.dup(1))  # for tests/ended.py; a search sends its stderr elsewhere
    moment = sys.argv.pop(1)
    MOMENTS.get(moment, lambda: None)()
    run(run_search.main)
