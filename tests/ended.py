"""A command that was started → what it said until it ended; one that does not end in time says where it stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE_S = 300  # for what starts Ray, which takes minutes on a busy machine; only what hangs is waited for so long
_RAYS_LOGS = re.compile(r"Ray's logs: +(\S+)")


def output_of(process: subprocess.Popen[str], seconds: float = PATIENCE_S) -> str:
    """The rest of what it says until its end, for which the test fails if that does not come in time.

    It then tells all that was said, the stacks of the command's threads if it is `tests/killed.py`, and the ends of Ray's logs.
    """
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)  # of which others die
        time.sleep(1)
        process.kill()
        said = process.communicate()[0]
        logs = [path for folder in _RAYS_LOGS.findall(said) for path in sorted(Path(folder).glob("worker-*.err"))]
        ends = [f"{path.name}:\n{path.read_text(encoding='utf-8', errors='replace')[-2000:]}" for path in logs]
        load = os.getloadavg()[0]
        pytest.fail("\n".join([f"it did not end within {seconds:.0f} s, at a load of {load:.0f}:", said, *ends]))
