"""The search's command line → what is asked, its faults told at once, and the same command as it may be stored."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from reranker.command_line.entry_point import (
    Parser,
    a_path,
    a_port,
    a_web_address,
    at_least_one,
    is_address,
    not_empty,
    whole_number,
)
from reranker.command_line.redaction import HIDDEN, without_secrets
from results.study.runs_home import runs_home
from tune.launching.search_options import SearchOptions
from tune.study_file.copy_address import checked_address, is_copy_address, split_address

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "search_spaces" / "demo.yaml"
DASHBOARD_PORT = 8265
_TOP = 5
_SCRIPT = "tune/run_search.py"
_OF_EACH_LAUNCH = (  # what the study's folder does not know of a search that goes on
    *("address", "dashboard_port", "no_dashboard", "quiet", "refit", "replicate", "runs", "summary_minutes"),
    *("wait_for_gpus", "webhook"),
)
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks")


def parsed(argv: list[str] | None, description: str) -> argparse.Namespace:
    """The search's arguments; ends the process with exit code 2 where they can't be followed."""
    parser = _parser(description)
    args = parser.parse_args(argv)
    for fault in _contradictions(args):
        parser.error(fault)
    args.command = _command(parser, args)
    args.top = args.top or _TOP
    args.study_file = args.study_file or DEMO
    return args


def overrides(args: argparse.Namespace) -> list[str]:
    """Options that stand for a line of the study file, as `--set` has them."""
    named = {
        "study.name": args.name and json.dumps(args.name),
        "study.trials": args.trials,
        "study.concurrency": args.concurrency,
        "study.sampler": args.sampler,
        "study.seed": args.seed,
        "study.copy_to": json.dumps(place) if (place := _copy_to(args)) else None,
        "resources.workers": args.workers,
        "resources.isolation": args.isolation,
    }
    return [*(f"{key}={value}" for key, value in named.items() if value is not None), *args.set]


def options(args: argparse.Namespace) -> SearchOptions:
    """What is asked besides the study."""
    return SearchOptions(
        args.runs, args.tracking_uri or "", args.address, args.dashboard_port, not args.no_dashboard,
        args.replicate or 0, args.top, args.refit, args.retry_failed, args.quiet, args.summary_minutes,
        args.webhook or "", args.command, wait_for_gpus=args.wait_for_gpus or 0,
    )  # fmt: skip


def _copy_to(args: argparse.Namespace) -> str | None:
    """Where the copy is kept: where it was fetched from, unless another place is named."""
    if args.copy_to is None and args.resume and is_copy_address(args.resume):
        return split_address(args.resume)[0]
    named: str | None = args.copy_to
    return named


def _contradictions(args: argparse.Namespace) -> list[str]:
    """Options that would be ignored, or that can't go together."""
    of_new = {"a study file": args.study_file, "--name": args.name, "--warm-start": args.warm_start}
    of_new["--tracking-uri"] = args.tracking_uri
    of_own = {"--dashboard-port": args.dashboard_port, "--no-dashboard": args.no_dashboard}
    of_here = {"--address": args.address, "--check": args.check, **of_own}
    rules = [
        *(
            (args.resume and value, f"{name} is for a new study; with --resume the study's own counts")
            for name, value in of_new.items()
        ),
        (args.retry_failed and not args.resume, "--retry-failed takes --resume STUDY: it is for trials that have failed"),
        (args.top and not args.replicate, "--top takes --replicate N: it is how many of the best are replicated"),
        *((args.address and value, f"{name} is for a Ray of this search's own, not with --address") for name, value in of_own.items()),
        *((args.submit and value, f"{name} can't go with --submit: the job joins the cluster that it is submitted to") for name, value in of_here.items()),
        (args.submit and args.runs == runs_home(), "--submit takes --runs: where on the cluster studies are kept"),
        (args.wait_for_gpus and not (args.address or args.submit), "--wait-for-gpus takes --address: a Ray of this search's own gets no more"),
        (args.dashboard_port and args.no_dashboard, "--dashboard-port and --no-dashboard can't go together"),
    ]  # fmt: skip
    return [text for holds, text in rules if holds]


def going_on(args: argparse.Namespace, study: Path, restarts: int) -> list[str]:
    """The words that go on with a study as these have begun or resumed it, secrets and all.

    Args:
        restarts: how often it may still go on by itself.
    """
    kept = {name: value for name, value in vars(args).items() if name in _OF_EACH_LAUNCH}
    top = args.top if args.replicate else None
    again = {**kept, "top": top, "copy_to": _copy_to(args), "max_restarts": restarts or None, "resume": str(study)}
    return _words(_parser(""), argparse.Namespace(**again))


def _command(parser: Parser, args: argparse.Namespace) -> list[str]:
    """The words of a command that asks the same, each option by its full name, without secrets."""
    hidden = {"submit": None} | ({"webhook": HIDDEN} if args.webhook else {})
    return without_secrets([_SCRIPT, *_words(parser, argparse.Namespace(**(vars(args) | hidden)))])


def _words(parser: Parser, args: argparse.Namespace) -> list[str]:
    """The study file, and each option that is not as by default, by its full name."""
    words: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if value in (None, False, []) or value == action.default:
            continue
        if not action.option_strings:
            words.insert(0, str(value))
            continue
        option = action.option_strings[-1]
        if value is True:
            words.append(option)
        for one in value if isinstance(value, list) else [] if value is True else [value]:
            words += [option, str(one)]
    return words


def _parser(description: str) -> Parser:
    parser = Parser(prog="run_search.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_file", nargs="?", type=a_path, help="left out: the demo")
    parser.add_argument("--check", action="store_true", help="validate, print the plan, and stop")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override the study file")
    parser.add_argument("--name", type=not_empty, help="of the study and its folder")
    parser.add_argument("--trials", type=at_least_one)
    parser.add_argument("--sampler", help="tpe, random, gp, cmaes, or grid for every combination")
    parser.add_argument(
        "--concurrency", type=at_least_one, help="trials at once; left out: as many as the cluster holds"
    )
    parser.add_argument("--workers", type=at_least_one, help="distributed workers a trial")
    parser.add_argument("--isolation", help="trial: new worker processes for each trial; slot, the default: kept ones")
    parser.add_argument("--seed", type=whole_number, help="of the sampler")
    parser.add_argument(
        "--resume",
        type=_study,
        metavar="STUDY",
        help="go on with a study, by its name, its folder, or the address of its copy",
    )
    parser.add_argument(
        "--max-restarts",
        type=at_least_one,
        metavar="N",
        help="go on by itself up to N times, where a fault of the machine ends the search: a lost process, a full disk …",
    )
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again")
    parser.add_argument(
        "--replicate", type=at_least_one, metavar="N", help="then train the best again with N other seeds"
    )
    parser.add_argument(
        "--top", type=at_least_one, metavar="K", help=f"with --replicate: how many of the best ({_TOP})"
    )
    parser.add_argument("--refit", action="store_true", help="then train the winner on validation too, and register it")
    parser.add_argument(
        "--warm-start", type=not_empty, metavar="STUDY", help="let the sampler know an earlier study's trials"
    )
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    parser.add_argument(
        "--copy-to",
        type=a_copy_address,
        metavar="ADDRESS",
        help="keep a copy of the study there: s3://BUCKET/FOLDER, gs://…, hdfs://… or file:///FOLDER",
    )
    parser.add_argument("--tracking-uri", type=_store, help="an MLflow server; left out: a file beside the studies")
    parser.add_argument(
        "--address", type=not_empty, help="of a running Ray cluster, or auto; left out: Ray on this machine"
    )
    parser.add_argument(
        "--submit",
        type=a_web_address,
        metavar="URL",
        help="run it as a job of the Ray cluster whose dashboard is there, and show its log",
    )
    parser.add_argument(
        "--wait-for-gpus",
        type=at_least_one,
        metavar="N",
        help="with --address: begin when the cluster has N GPUs, which it may have to start first",
    )
    parser.add_argument(
        "--dashboard-port",
        type=a_port,
        metavar="PORT",
        help=f"left out: {DASHBOARD_PORT}, or the next one that is free",
    )
    parser.add_argument("--no-dashboard", action="store_true", help="start Ray without one")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.add_argument(
        "--summary-minutes", type=_minutes, default=10, help="between summaries without a terminal (10)"
    )
    parser.add_argument("--webhook", type=a_web_address, metavar="URL", help="gets the verdict as JSON at the end")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return minutes


def _study(text: str) -> str:
    """A study's name or folder, or the address of its copy, which has the study's name at its end."""
    if is_copy_address(text) and not split_address(a_copy_address(text))[1]:
        raise argparse.ArgumentTypeError("an address must have the study's name at its end, as s3://BUCKET/FOLDER/NAME")
    return a_copy_address(text) if is_copy_address(text) else not_empty(text)


def a_copy_address(text: str) -> str:
    """A parser type: where a study's copy is kept, or is."""
    try:
        return checked_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _store(text: str) -> str:
    """A place where MLflow keeps runs; a path without a scheme is one too."""
    scheme = text.partition("://")[0] if "://" in text else text.partition(":")[0] if ":" in text else "file"
    is_store = scheme.partition("+")[0] in _STORES
    if not text.strip() or not is_store or (scheme in ("http", "https") and not is_address(text, (scheme,))):
        raise argparse.ArgumentTypeError(
            f"must be a store of MLflow's, such as http://HOST:5000 or {_STORES[0]}:///FILE"
        )
    return text
