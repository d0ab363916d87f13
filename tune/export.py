"""The command that turns an adapter into what other programs run.

reranker-tuner export results/runs/demo/refit --form merged --output demo-merged     # transformers
reranker-tuner export results/runs/demo/refit --form lora --output demo-lora         # vLLM, beside its base
reranker-tuner export results/runs/demo/refit --form gguf --output demo-gguf         # llama.cpp
reranker-tuner export results/runs/demo/refit --form lora --output demo-lora --push me/demo --dry-run
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty
from reranker.command_line.printable_text import say
from reranker.errors import Fault, InputError

if TYPE_CHECKING:
    from reranker.config import TrialConfig

_BESIDE = ("reranker.json", "collaborative.npz")  # what ranking needs besides the weights
_NAME = "reranker"  # of the adapter on a vLLM server


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 exported, 2 it could not be."""
    args = _arguments(argv)
    if args.output.exists():
        raise InputError([Fault("the output must not exist yet", field="--output", value=str(args.output))])
    from reranker.ranking.ranker import find_adapter  # takes seconds
    from tune.exporting.hub_push import contents, push

    folder, config, trained_on = find_adapter(args.adapter)
    if args.base is not None:
        config = config.model_copy(update={"model": str(args.base)})
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".export-") as work:
        target = Path(work) / "whole"
        target.mkdir()
        _write(args, folder, config, trained_on, target)
        os.rename(target, args.output)
    say(f"exported to:   {args.output}")
    if args.form == "lora":
        from tune.exporting.lora_folder import serve_lora

        serve, rank = serve_lora(args.output, config, _NAME)
        say(f"serve it:      {serve}\nask it:        {rank}")
    if args.push and args.dry_run:
        say(
            "\n".join(
                [f"would be sent to {args.push}, {'public' if args.public else 'private'}:", *contents(args.output)]
            )
        )
    elif args.push:
        say(f"on the Hub:    {push(args.output, args.push, private=not args.public)}")
    return 0


def _write(args: argparse.Namespace, folder: Path, config: TrialConfig, trained_on: str, target: Path) -> None:
    from tune.exporting.model_card import Origin, model_card

    if args.form == "lora":
        from tune.exporting.lora_folder import save_lora

        save_lora(folder, config, target)
    else:
        from reranker.modeling.model_loading import describe, load_tokenizer
        from tune.exporting.gguf_file import check_architecture, save_gguf
        from tune.exporting.merged_model import merged, save_merged

        if args.form == "gguf":
            check_architecture(describe(config.model).model_type)
        model = merged(folder, config, trained_on)
        if args.form == "merged":
            save_merged(model, config, target)
        else:
            with tempfile.TemporaryDirectory() as saved:
                tokenizer = load_tokenizer(config.model)
                tokenizer.save_pretrained(saved)
                save_gguf(model, tokenizer, Path(saved), target / "model.gguf", f"{args.output.name}")
    for name in _BESIDE:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    adds_counts = (folder / "collaborative.npz").is_file()
    card = model_card(config, Origin.of(folder), args.form, licence=args.licence or "", adds_counts=adds_counts)
    (target / "README.md").write_text(card, encoding="utf-8")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m tune.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=a_path, help="its folder, or its trial's or refit's")
    parser.add_argument("--form", required=True, choices=["merged", "lora", "gguf"], help="what it is turned into")
    parser.add_argument("--output", required=True, type=a_path, metavar="FOLDER", help="must not exist yet")
    parser.add_argument("--base", type=a_path, help="folder of the base model, where it has moved")
    parser.add_argument("--licence", type=not_empty, help="of the result, as the Hub calls it; left out: the base's")
    parser.add_argument(
        "--push", type=not_empty, metavar="OWNER/NAME", help="send it to the Hugging Face Hub, privately"
    )
    parser.add_argument("--public", action="store_true", help="with --push: visible to everybody")
    parser.add_argument("--dry-run", action="store_true", help="with --push: say what would be sent, and send nothing")
    args = parser.parse_args(argv)
    if (args.public or args.dry_run) and not args.push:
        parser.error("--public and --dry-run take --push OWNER/NAME")
    if args.push:
        from reranker.modeling.checkpoints.model_names import is_hub_id

        if not is_hub_id(args.push):
            parser.error("--push: a repository is named OWNER/NAME")
    return args


if __name__ == "__main__":
    sys.exit(main())
