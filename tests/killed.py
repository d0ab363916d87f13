"""`run_search.py` that kills itself with SIGKILL at a named moment: python tests/killed.py MOMENT ARGUMENTS …"""

from __future__ import annotations

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

from results.study_folder import StudyFolder
from tune.ledger import Ledger
from tune.recorder import Recorder
from tune.searcher import _OwnDraws
from tune.tracking import MlflowClient


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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


MOMENTS: dict[str, Callable[[], None]] = {
    "sampling": lambda: at_call(_OwnDraws, "sample_independent", after=True),  # some knobs are told, one is not
    "training": lambda: when_seen("*/trials/*/train.log"),
    "storing": lambda: when_seen("*/trials/*/epochs.jsonl"),
    "saving": lambda: when_seen("*/trials/*/state.tmp"),
    "reporting": lambda: at_call(Ledger, "report"),
    "telling": lambda: at_call(Ledger, "end", after=True),  # the journal knows, the folder does not
    "recording": lambda: at_call(Recorder, "_end", after=True),
    "making a run": lambda: at_call(MlflowClient, "create_run", 2, after=True),
    "logging": lambda: at_call(MlflowClient, "log_batch", 3),
    "ending": lambda: at_call(StudyFolder, "write_ending"),
}

if __name__ == "__main__":
    moment = sys.argv.pop(1)
    MOMENTS.get(moment, lambda: None)()
    sys.exit(run_search.main(sys.argv[1:]))
