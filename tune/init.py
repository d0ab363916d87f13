"""Your tables and this machine → a study file to start from, with comments on why each line is as it is.

reranker-tuner init clicks.csv products.csv
reranker-tuner init clicks.csv products.csv --user-column customer --text-column title --output my_study.yaml
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import psutil

from reranker.command_line.entry_point import Parser, a_path, last_net
from reranker.command_line.printable_text import Terminal
from reranker.errors import EnvironmentFault
from reranker.modeling.checkpoints.model_names import check_name
from reranker.modeling.memory.memory_estimate import GIB
from reranker.storage.atomic_files import write_file
from results.study.runs_home import search_command
from tune.study_file import loading
from tune.study_file.column_names import INTERACTION_COLUMNS, ITEM_COLUMNS, recognised
from tune.study_file.image_column import image_column

_PART_OF_MEMORY = 0.2


@last_net
def main(argv: list[str] | None = None) -> int:
    """Write the file and print its plan."""
    args = _parser().parse_args(argv)
    if args.output.exists():
        raise EnvironmentFault(f"{args.output} is there already; name another file with --output")
    for file in (args.interactions, args.items):
        _check_size(file)
    of_interactions = {name: getattr(args, f"{name}_column") for name in INTERACTION_COLUMNS}
    interactions = recognised(args.interactions, of_interactions, INTERACTION_COLUMNS)
    items = recognised(args.items, {"item_id": args.items_id_column, "text": args.text_column}, ITEM_COLUMNS)

    image = image_column(args.items, args.image_column, items.values())

    from tune.study_file.first_study import first_study  # takes seconds: pandas, torch

    folder, name = args.output.absolute().parent, args.output.stem
    text = first_study(args.interactions, args.items, interactions, items, image=image, folder=folder, name=name)
    write_file(args.output, text)
    study = loading.load(args.output, check_model=check_name)
    from tune.check import check

    console = Terminal()
    check(study, None, console, measure=False)
    console.say(f"\nwritten: {args.output}\nnext:    {search_command()} {shlex.quote(str(args.output))}")
    return 0


def _check_size(file: Path) -> None:
    """Tables are read whole, and take several times their size meanwhile."""
    memory = psutil.virtual_memory().total
    if file.is_file() and file.stat().st_size > _PART_OF_MEMORY * memory:
        raise EnvironmentFault(
            f"{file} has {file.stat().st_size / GIB:.0f} GiB and this machine {memory / GIB:.0f} GiB of memory; make a smaller "
            "table first: the columns that are needed alone, as Parquet, of a sample of the users"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m tune.init", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("interactions", type=a_path, help="CSV or Parquet: who touched what, when")
    parser.add_argument("items", type=a_path, help="CSV or Parquet: what the items are called")
    parser.add_argument("--output", type=a_path, default=Path("study.yaml"), help="the study file (study.yaml)")
    for name, what in INTERACTION_COLUMNS.items():
        parser.add_argument(
            f"--{name.removesuffix('_id')}-column", dest=f"{name}_column", metavar="NAME", help=what.text
        )
    parser.add_argument("--items-id-column", metavar="NAME", help="the item, in the table of items")
    parser.add_argument("--text-column", metavar="NAME", help=ITEM_COLUMNS["text"].text)
    parser.add_argument(
        "--image-column", metavar="NAME", help="paths or addresses of the items' images; found by how they end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
