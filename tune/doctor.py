"""This machine, or a study's folder → what is wrong with it, and how it is mended.

reranker-tuner doctor             what a search can count on here, in some 20 s
reranker-tuner doctor --quick     without starting Ray and MLflow
reranker-tuner doctor STUDY       check every file of a study, and mend what can be mended

Exit code: 0 all is well, or is now; 1 a file of the study is lost; 2 a search can't run here, or there is no such study.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, whole_number
from reranker.command_line.printable_text import Terminal
from reranker.modeling.checkpoints.model_files import local_folder
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.modeling.memory.memory_estimate import GIB
from reranker.storage.cache_folder import cache_folder
from reranker.storage.hub import hub_answers, why_silent
from results.study.checked_folder import leave_out
from results.study.damaged_file import Outcome
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder
from tune.execution.free_port import is_taken

_DISTRIBUTION = "reranker-tuner"
_MEMORY_GIB = 4  # of a search of the demo; a worker of SmolLM2-135M takes some 3 to 5
_DISK_GIB = 5
_PORTS = {8265: "Ray's dashboard", 5000: "MLflow's pages"}


class Verdict(StrEnum):
    """Whether a search runs with what was found."""

    GOOD = "ok"
    NOTE = "note"  # it runs, and something is worth knowing
    BAD = "bad"  # it does not, until that is mended


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        remedy: a command, or what to do; empty where there is nothing to mend.
    """

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print the findings. Exit code: 0 all is well, 1 a file of the study is lost, 2 a search can't run."""
    parser = Parser(
        prog="python -m tune.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "study", nargs="?", type=not_empty, help="a study's name, or its folder; left out: this machine"
    )
    parser.add_argument("--quick", action="store_true", help="don't start Ray and MLflow")
    parser.add_argument(
        "--leave-out", type=whole_number, metavar="TRIAL", help="count a damaged trial as if it had never been"
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    args = parser.parse_args(argv)
    if args.study is None and args.leave_out is not None:
        parser.error("--leave-out takes a STUDY: it is for one of its trials")
    if args.study is not None and args.quick:
        parser.error("--quick is for this machine, not for a study")
    console = Terminal()
    return _machine(console, quick=args.quick) if args.study is None else _study(args, console)


def _study(args: argparse.Namespace, console: Terminal) -> int:
    """Check and mend a study, and say so file by file."""
    study = StudyFolder.open(args.runs, args.study)
    if args.leave_out is not None:
        leave_out(study, args.leave_out)

    from tune.study_repair import mend  # takes seconds

    findings = mend(study)
    for finding in findings:
        place = finding.damage.path
        name = place.relative_to(study.path) if place.is_relative_to(study.path) else place
        console.say(f"{finding.outcome:<11} {name} {finding.damage.damage}")
        console.say(f"{'':<11} → {finding.done}")
    lost = sum(finding.outcome is Outcome.REFUSED for finding in findings)
    rest = f"{lost} damaged files can't be mended" if lost > 1 else "a damaged file can't be mended"
    console.say(f"{study.name}: {rest}" if lost else f"{study.name} is whole", style="bold")
    return 1 if lost else 0


def _machine(console: Terminal, *, quick: bool) -> int:
    verdicts = []
    for finding in examine(start_services=not quick):
        verdicts.append(finding.verdict)
        console.say(f"{finding.verdict:<5} {finding.name:<12} {finding.text}")
        if finding.remedy:
            console.say(f"{'':<18} → {finding.remedy}")
    bad = verdicts.count(Verdict.BAD)
    console.say(f"\n{bad} to fix before a search can run" if bad else "\na search can run here", style="bold")
    return 2 if bad else 0


def examine(*, start_services: bool) -> Iterator[Finding]:
    """All findings, the quickest first."""
    yield _python()
    yield _packages()
    yield _processor()
    yield _memory()
    yield _gpu()
    yield _disk("studies", runs_home(), "RERANKER_TUNER_HOME")
    yield _disk("cache", cache_folder(), "RERANKER_CACHE")
    yield from (_port(port, use) for port, use in _PORTS.items())
    yield _models()
    if start_services:
        yield _tried(
            "Ray",
            "started, gave a task to a worker",
            _try_ray,
            "see Ray's own logs in the newest folder of /tmp/reranker-*/ray",
        )
        yield _tried("MLflow", "made a store, wrote and read a run", _try_mlflow, "pip install --upgrade mlflow")


def _python() -> Finding:
    version = f"{platform.python_version()} at {sys.executable}"
    required = importlib.metadata.metadata(_DISTRIBUTION)["Requires-Python"]
    good = SpecifierSet(required).contains(platform.python_version(), prereleases=True)
    return Finding("Python", Verdict.GOOD if good else Verdict.BAD, version, "" if good else f"use Python {required}")


def _packages() -> Finding:
    requirements = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    needed = [
        requirement for requirement in requirements if requirement.marker is None or requirement.marker.evaluate()
    ]
    unmet = [requirement for requirement in needed if not _is_met(requirement)]
    if not unmet:
        return Finding("packages", Verdict.GOOD, f"all {len(needed)} are there, in versions that fit")
    names = ", ".join(f"{requirement.name} ({_version(requirement.name) or 'missing'})" for requirement in unmet)
    wanted = shlex.join(f"{requirement.name}{requirement.specifier}" for requirement in unmet)
    return Finding("packages", Verdict.BAD, f"do not fit: {names}", f"{sys.executable} -m pip install {wanted}")


def _is_met(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> Finding:
    ours, cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    of_all = f" of {cores}" if ours < cores else ""
    return Finding("CPU", Verdict.GOOD, f"{ours}{of_all} cores, {platform.machine()}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB are free"
    if memory.available >= _MEMORY_GIB * GIB:
        return Finding("memory", Verdict.GOOD, text)
    return Finding("memory", Verdict.NOTE, text, f"end other programs: the demo takes {_MEMORY_GIB} GiB")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        listed = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
        return Finding("GPU", Verdict.GOOD, f"{listed}; torch {torch.__version__}")
    if shutil.which("nvidia-smi"):
        remedy = f"{sys.executable} -m pip install --force-reinstall torch (the build with CUDA), or renew the driver"
        return Finding("GPU", Verdict.NOTE, f"a driver is here, and torch {torch.__version__} can't use it", remedy)
    bf16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    return Finding(
        "GPU",
        Verdict.NOTE,
        f"none: trains on the CPU, in {'bf16' if bf16 else 'fp32'}; models of up to some 135M parameters learn in minutes",
    )


def _disk(name: str, folder: Path, variable: str) -> Finding:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / GIB:.0f} GiB free"
    if not os.access(existing, os.W_OK):
        return Finding(name, Verdict.BAD, f"{text}, and {existing} can't be written", f"export {variable}=FOLDER")
    if free < _DISK_GIB * GIB:
        return Finding(name, Verdict.NOTE, text, f"make room, or export {variable}=FOLDER on another disk")
    return Finding(name, Verdict.GOOD, text)


def _port(port: int, use: str) -> Finding:
    if is_taken(port):
        return Finding(f"port {port}", Verdict.NOTE, f"is in use; {use} takes another one, or names it with an option")
    return Finding(f"port {port}", Verdict.GOOD, f"free, for {use}")


def _models() -> Finding:
    here = ", ".join(model for model in MODELS if local_folder(model) is not None)
    if hub_answers():
        return Finding("models", Verdict.GOOD, f"the Hugging Face Hub answers; already here: {here}")
    remedy = "smollm2-135m comes from the package index too; a folder or .gguf file can be named as a model"
    return Finding("models", Verdict.NOTE, f"the Hugging Face Hub {why_silent()}; here: {here}", remedy)


def _tried(name: str, done: str, attempt: Callable[[], object], remedy: str) -> Finding:
    began = time.monotonic()
    try:
        attempt()
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the finding)
        first = next(iter(str(error).strip().splitlines()), "")
        return Finding(name, Verdict.BAD, f"{type(error).__name__}: {first}", remedy)
    return Finding(name, Verdict.GOOD, f"{done}, in {time.monotonic() - began:.0f} s")


def _try_ray() -> None:
    from tune.execution.ray_cluster import cluster, try_task

    with cluster(None, None, dashboard=False):
        try_task()


def _try_mlflow() -> None:
    from tune.mlflow_tracking.store_probe import try_store

    try_store()


if __name__ == "__main__":
    sys.exit(main())
