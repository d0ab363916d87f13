"""A search that a fault of the machine has ended → the same study once more, in this process's place."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import NoReturn

from reranker.command_line.printable_text import Terminal
from results.study.study_folder import StudyFolder
from tune.launching.arguments import ROOT, going_on

_PAUSE_S = 30.0  # for memory and disks that others fill up, and for the last processes of a Ray that broke


def go_on_later(args: argparse.Namespace, folder: StudyFolder, console: Terminal) -> NoReturn:
    """Wait, and become a search that resumes the study; nothing of this one is left but its process's number.

    Args:
        args: of the search that has ended, which allow a restart.
    """
    left = args.max_restarts - 1
    further = f", and may do so {left} time{'s' * (left > 1)} more" if left else ", for the last time"
    console.say(f"\ngoing on by itself in {_PAUSE_S:.0f} s{further}; Ctrl-C leaves it as it is")
    time.sleep(_PAUSE_S)
    words = going_on(args, folder.path.resolve(), left)
    os.execv(sys.executable, [sys.executable, str(ROOT / "tune" / "run_search.py"), *words])
