"""The command that serves an adapter over HTTP, on Ray Serve, until Ctrl-C.

reranker-tuner serve results/runs/demo/refit
reranker-tuner serve results/runs/demo/refit --port 9000 --replicas 1 4
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reranker.command_line.entry_point import Parser, a_path, a_port, at_least_one, last_net, not_empty
from reranker.command_line.printable_text import say
from reranker.errors import EnvironmentFault
from tune.execution.free_port import is_taken

if TYPE_CHECKING:
    from tune.serving.deployment import Service

TOKEN = "RERANKER_SERVE_TOKEN"  # the variable that holds what each request must bear
_NEEDED = ("fastapi", "uvicorn", "grpc_reflection", "mmh3", "watchfiles")  # by Ray Serve, besides Ray
_LOOPBACK = ("127.0.0.1", "localhost")
_EXAMPLE = {"history": ["Dusty Saddle"], "candidates": ["Silly Clown", "Lunar Comet"]}


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 after Ctrl-C or SIGTERM, 2 if it cannot be served."""
    args = _arguments(argv)
    if missing := [module for module in _NEEDED if importlib.util.find_spec(module) is None]:
        raise EnvironmentFault(f"{missing[0]} is not installed; to serve: pip install 'reranker-tuner[serve]'")
    if is_taken(args.port):
        raise EnvironmentFault(f"port {args.port} on 127.0.0.1 is in use; name a free one with --port")
    service = _service(args)
    say("starting Ray and loading the model …")
    from tune.serving.running_service import running  # takes seconds

    with running(service, args.host, args.port, args.address) as dashboard:
        say(_how_to_ask(args, dashboard))
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        say("stopping …")
    return 0


def _service(args: argparse.Namespace) -> Service:
    import torch  # takes a second

    from reranker.ranking.ranker import find_adapter
    from tune.serving.deployment import Service
    from tune.serving.http_app import Limits

    folder, config, _ = find_adapter(args.adapter)
    fewest, most = args.replicas
    return Service(
        adapter=folder,
        base=args.base,
        name=args.name or Path(config.model).name,
        batch_lists=args.batch,
        batch_wait_s=args.batch_wait_ms / 1000,
        replicas=(fewest, most),
        cpus=max(1, (os.cpu_count() or 1) // most),
        gpus=min(1.0, torch.cuda.device_count() / most) if args.gpus_per_replica is None else args.gpus_per_replica,
        limits=Limits(args.most_candidates, args.most_kilobytes * 1024, os.environ.get(TOKEN, "")),
    )


def _how_to_ask(args: argparse.Namespace, dashboard: str) -> str:
    address = f"http://{args.host}:{args.port}"
    token = f' -H "Authorization: Bearer ${TOKEN}"' if os.environ.get(TOKEN) else ""
    ask = f"curl {address}/rank{token} --json {shlex.quote(json.dumps(_EXAMPLE))}"
    return "\n".join(
        [
            f"serving at:    {address} until Ctrl-C",
            f"to ask:        {ask}",
            f"for clients:   {address}/v1/rerank speaks the protocol of Cohere and Jina; the query is the history, a title a line",
            f"reference:     {address}/openapi.json; {address}/health says whether it answers",
            *([f"dashboard:     {dashboard}/#/serve"] if dashboard else []),
        ]
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m tune.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=a_path, help="its folder, or its trial's or refit's")
    parser.add_argument("--base", type=a_path, help="folder of the base model, where it has moved")
    parser.add_argument("--name", type=not_empty, help="of the model in answers; left out: the base's")
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"with any other than 127.0.0.1 the variable {TOKEN} must hold a token"
    )
    parser.add_argument("--port", type=a_port, default=8000, help="left out: 8000")
    parser.add_argument(
        "--replicas", type=at_least_one, nargs=2, metavar=("FEWEST", "MOST"), default=(1, 1),
        help="processes that have the model; between the two by the number of waiting requests; left out: 1 1",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-replica",
        type=_share,
        metavar="N",
        help="left out: an equal share of this machine's, one at most; 0: CPUs",
    )
    parser.add_argument("--batch", type=at_least_one, default=32, metavar="LISTS", help="most that are ranked together")
    parser.add_argument(
        "--batch-wait-ms",
        type=_milliseconds,
        default=5.0,
        metavar="MS",
        help="how long a list waits for others; left out: 5",
    )
    parser.add_argument("--most-candidates", type=at_least_one, default=1000, metavar="N", help="of a list")
    parser.add_argument("--most-kilobytes", type=at_least_one, default=1024, metavar="N", help="of a request")
    parser.add_argument(
        "--address", type=not_empty, help="of a running Ray cluster, or auto; left out: Ray on this machine"
    )
    args = parser.parse_args(argv)
    if args.replicas[0] > args.replicas[1]:
        parser.error("--replicas: the fewest must not be above the most")
    if args.host not in _LOOPBACK and not os.environ.get(TOKEN):
        parser.error(f"--host {args.host}: others can reach it, so the variable {TOKEN} must hold a token")
    return args


def _number(text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {most:g}, not {text!r}")
    return number


def _share(text: str) -> float:
    return _number(text, 64)


def _milliseconds(text: str) -> float:
    return _number(text, 60_000)


if __name__ == "__main__":
    sys.exit(main())
