"""The command that steers a running search.

python tune/run_search.py control STUDY stop TRIAL
python tune/run_search.py control STUDY keep TRIAL
python tune/run_search.py control STUDY add learning_rate=1e-4 lora_rank=8
python tune/run_search.py control STUDY pause | resume
"""

from __future__ import annotations

from typing import Any

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty, whole_number
from reranker.command_line.printable_text import say
from reranker.errors import Fault, InputError
from reranker.storage.yaml_lines import Document, override
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder
from tune.searching.stop_pause_requests import ask


def _knobs(texts: list[str]) -> dict[str, Any]:
    """`knob=value` texts, read as a study file reads values."""
    document = Document(values={}, places={(): ("add", None)})
    for text in texts:
        knob, separator, value = text.partition("=")
        if not separator or not knob:
            raise InputError([Fault("a knob must be given as knob=value", "add", value=text)])
        override(document, (knob,), value, f"--add {text}")
    if document.faults:
        raise InputError(document.faults)
    return dict(document.values)


@last_net
def main(argv: list[str] | None = None) -> int:
    """Leave a request to a running search, and print its answer."""
    parser = Parser(prog="run_search.py control", description="Steer a search while it runs.")
    parser.add_argument("study", type=not_empty, help="its name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("stop", help="end one trial").add_argument("trial", type=whole_number)
    acts.add_parser("keep", help="let one trial train all its epochs").add_argument("trial", type=whole_number)
    acts.add_parser("add", help="try this next").add_argument("knobs", nargs="+", metavar="KNOB=VALUE")
    acts.add_parser("pause", help="start no trial, and hold the running ones at their next report")
    acts.add_parser("resume", help="go on after a pause")
    args = parser.parse_args(argv)
    details: dict[str, Any] = {"trial": args.trial} if args.act in ("stop", "keep") else {}
    if args.act == "add":
        details = {"values": _knobs(args.knobs)}
    say(ask(StudyFolder.open(args.runs, args.study), args.act, **details))
    return 0
