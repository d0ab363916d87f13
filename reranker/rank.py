"""An adapter, a history and candidates → the candidates in order, for one list or a stream of them.

python -m reranker.rank --adapter results/runs/demo/refit --history "Dusty Saddle" --candidates "Silly Clown" "Odd Moon"
python -m reranker.rank --adapter results/runs/demo/refit --jsonl lists.jsonl > ranked.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from reranker.command_line.entry_point import Parser, a_path, a_web_address, at_least_one, last_net, not_empty
from reranker.command_line.printable_text import say
from reranker.errors import EnvironmentFault

if TYPE_CHECKING:
    from reranker.ranking.list_ranker import ListRanker

TOKEN = "VLLM_API_KEY"  # the variable with the key that a vLLM server asks for, as vLLM itself reads it


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 ranked, 2 something was refused, 130 after Ctrl-C."""
    args = _arguments(argv)
    if args.vllm:
        from reranker.ranking.vllm_ranker import VllmRanker

        reranker: ListRanker = VllmRanker(args.adapter, args.vllm, args.vllm_model, os.environ.get(TOKEN, ""))
    else:
        from reranker.ranking.ranker import Reranker  # takes seconds

        reranker = Reranker.load(args.adapter, args.device, args.base)
    if args.jsonl:
        return _rank_stream(reranker, args)
    _rank_one(reranker, args)
    return 0


def _rank_one(reranker: ListRanker, args: argparse.Namespace) -> None:
    from reranker.evaluation.scoring import orders_of

    given = {name: getattr(args, name) for name in ("candidate_ids", "history_images", "candidate_images")}
    reranker.rank(args.history, args.candidates, args.permutations, **given)  # warm-up
    ranking = reranker.rank(args.history, args.candidates, args.permutations, **given)
    ids = [_shown(text) for text in ["id", *(args.candidate_ids or [])]]
    ids = (
        [f"{text:<{max(map(len, ids))}}  " for text in ids] if args.candidate_ids else [""] * (1 + len(args.candidates))
    )
    print(f"rank  probability  {ids[0]}candidate")
    for place, i in enumerate(ranking.order, start=1):
        print(f"{place:>4}  {ranking.probabilities[i]:>11.4f}  {ids[1 + i]}{_shown(args.candidates[i])}")
    orders = orders_of(len(args.candidates), args.permutations or reranker.config.permutations)
    where = f"{reranker.place}, {orders} order{'s' * (orders > 1)} of the candidates"
    print(f"{1000 * ranking.seconds:.1f} ms a list ({where})", flush=True)


def _shown(text: str) -> str:
    """A title that is safe on a terminal: control characters are escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _rank_stream(reranker: ListRanker, args: argparse.Namespace) -> int:
    from reranker.ranking.rank_stream import RankStream

    stream = RankStream(reranker, args.permutations)
    try:
        if args.jsonl == Path("-"):
            stream.run(sys.stdin.buffer, sys.stdout)
        else:
            with _opened(args.jsonl) as source:
                stream.run(source, sys.stdout)
    finally:
        say(stream.summary(), error=True)
    return 2 if stream.refused else 0


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m reranker.rank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", required=True, type=a_path, help="its folder, or its trial's")
    parser.add_argument("--history", nargs="+", metavar="TITLE", help="oldest first")
    parser.add_argument("--candidates", nargs="+", metavar="TITLE", help="all different, or told apart by ids")
    parser.add_argument("--candidate-ids", nargs="+", metavar="ID", help="one for each candidate")
    for name in ("history", "candidate"):
        parser.add_argument(
            f"--{name}-images",
            nargs="+",
            metavar="FILE",
            help=f"of each {name} title, '' for one without, for image_mode: raw_image",
        )
    parser.add_argument(
        "--jsonl",
        type=a_path,
        metavar="FILE",
        help="an object a line with history and candidates, and candidate_ids, history_images, candidate_images if you "
        "like; - is the input",
    )
    parser.add_argument(
        "--permutations", type=at_least_one, help="candidate orders averaged; left out: as in validation"
    )
    parser.add_argument("--base", type=a_path, help="folder of the base model, where it has moved")
    parser.add_argument(
        "--vllm",
        type=a_web_address,
        metavar="URL",
        help=f"of a vLLM server that has the adapter; the variable {TOKEN} may hold its key",
    )
    parser.add_argument("--vllm-model", type=not_empty, default="reranker", help="what the adapter is called there")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; left out: a GPU where there is one")
    args = parser.parse_args(argv)
    if args.vllm and (args.device or args.base):
        parser.error("with --vllm the server has the model; --device and --base are of models on this machine")
    if args.jsonl and (args.history_images or args.candidate_images or args.candidate_ids):
        parser.error("with --jsonl ids and images stand in its lines: candidate_ids, history_images, candidate_images")
    if bool(args.jsonl) == bool(args.history or args.candidates) or bool(args.history) != bool(args.candidates):
        parser.error("give --history and --candidates, or --jsonl")
    return args


if __name__ == "__main__":
    sys.exit(main())
