"""The commands' parsers → a script with which a shell completes them.

reranker-tuner completion bash > ~/.local/share/bash-completion/completions/reranker-tuner
reranker-tuner completion zsh > ~/.zfunc/_reranker-tuner          # a folder of your fpath
"""

from __future__ import annotations

import argparse
import importlib
import sys

import shtab

from reranker.command_line.entry_point import Parser, a_path, last_net, parser_of
from reranker_tuner import COMMANDS


@last_net
def main(argv: list[str] | None = None) -> int:
    """Print the script. Exit code: 0."""
    parser = Parser(
        prog="reranker-tuner completion",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    shell = parser.parse_args(argv).shell
    print(shtab.complete(_whole(), shell=shell))
    return 0


def _whole() -> argparse.ArgumentParser:
    """All commands in one parser."""
    whole = argparse.ArgumentParser(prog="reranker-tuner")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(title="commands")
    for name, (module, what) in COMMANDS.items():
        own = importlib.import_module(module)
        if own is sys.modules[__name__]:
            commands.add_parser(name, help=what).add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
            continue
        command = commands.add_parser(name, help=what, parents=[parser_of(own.main)], conflict_handler="resolve")
        for action in command._actions:
            if action.type is a_path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


if __name__ == "__main__":
    sys.exit(main())
