"""The command `reranker-tuner`, and what it does for Python: one name for the packages `tune`, `results` and `reranker`.

reranker-tuner search my_study.yaml
reranker-tuner COMMAND --help

    import reranker_tuner as rt

    result = rt.search(rt.Study.load("my_study.yaml"))
    result.leaderboard()
    result.reranker().rank(["The Matrix (1999)"], ["Heat (1995)", "Alien (1979)"])
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn

HOME = Path(__file__).resolve().parent
COMMANDS = {
    "search": ("tune.run_search", "search for the configuration that makes a good reranker"),
    "check": ("tune.run_search", "read a study file and print its plan, or every fault; starts nothing"),
    "init": ("tune.init", "your tables and this machine: a study file to start from"),
    "control": ("tune.control", "stop, keep, add, pause or resume while a search runs"),
    "track": ("tune.tracking", "bring MLflow up to a study's folder"),
    "train": ("reranker.train", "train one configuration, without a search"),
    "rank": ("reranker.rank", "rank candidates with a trained adapter"),
    "serve": ("tune.serve", "serve a trained adapter over HTTP, on Ray Serve"),
    "export": ("tune.export", "an adapter as a merged model, a folder for vLLM or a GGUF file, with a model card"),
    "compare": ("results.compare", "which configurations are proven better"),
    "history": ("results.history", "what each study has found, and what has changed since the last"),
    "diagnose": ("results.diagnose", "what holds the best one back"),
    "report": ("results.report", "write a study's report anew"),
    "seal": ("results.seal", "score the winner on the test split, once"),
    "doctor": ("tune.doctor", "what this machine can do; with a STUDY, check its files and mend them"),
    "completion": ("tune.shell_completion", "a script with which your shell completes all of these"),
    "integrity": ("results.integrity", "hold a study's files against its journal"),
}
_PUBLIC = {
    "Study": "tune.study_file.study",
    "SearchOptions": "tune.launching.search_options",
    "search": "tune.search",
    "StudyResult": "results.study_result",
    "Reranker": "reranker.ranking.ranker",
    "TrialConfig": "reranker.config",
    "InputError": "reranker.errors",
    "EnvironmentFault": "reranker.errors",
}
__all__ = list(_PUBLIC)
_IMPLIED = {"check": ["--check"]}


def __getattr__(name: str) -> Any:
    """A public name, from its module, which is imported now: some take seconds."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if foreign := _foreign_packages():
        raise ImportError(foreign)
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


def command() -> NoReturn:
    """What the installed command `reranker-tuner` calls."""
    if _foreign_packages():
        sys.exit(main())  # which says so
    from reranker.command_line.entry_point import run

    run(main)


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--version"]:
        from reranker.command_line.version import version

        print(f"reranker-tuner {version()}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
        meant = f"did you mean {close[0]!r}? " if close else ""
        print(f"error: there is no command {name!r}; {meant}reranker-tuner --help lists them", file=sys.stderr)
        return 2
    if foreign := _foreign_packages():
        print(f"error: {foreign}", file=sys.stderr)
        return 2
    sys.argv[0] = f"reranker-tuner {name}"  # what usage lines begin with
    from reranker.command_line.entry_point import last_net

    @last_net  # each command's main has it too; what fails while a command is imported comes here
    def run(argv: list[str] | None = None) -> int:
        code: int = importlib.import_module(COMMANDS[name][0]).main(argv)
        return code

    return run([*_IMPLIED.get(name, []), *rest])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: reranker-tuner COMMAND …",
            "",
            "Tune an LLM reranker: find the LoRA fine-tuning that works, and know why.",
            "",
            *lines,
            "",
            "reranker-tuner COMMAND --help says what a command takes; reranker-tuner --version the version.",
        ]
    )


def _foreign_packages() -> str:
    """Which package of the same name as one of ours Python would import in its place, as a sentence; empty if none."""
    for package, module in (("reranker", "errors"), ("results", "leaderboard"), ("tune", "run_search")):
        found = sys.modules.get(package) or importlib.util.find_spec(package)
        origin = getattr(found, "__file__", None) or getattr(found, "origin", None)
        if origin is None and found is not None:  # a plain folder of that name, behind which ours may be found
            origin = getattr(_spec(f"{package}.{module}"), "origin", None)
        if origin is None or Path(origin).resolve().parent != HOME / package:
            where = f"Python finds {origin}" if origin else "Python finds none"
            return (
                f"the package {package!r} must be the one in {HOME}, but {where} first: another distribution has that "
                "name too. Use a virtual environment without it, or another working folder"
            )
    return ""


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ImportError:
        return None


if __name__ == "__main__":
    command()
