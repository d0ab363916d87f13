"""Requests to a running search, left as files in its study's folder, and the command line that leaves them.

python tune/run_search.py control STUDY stop TRIAL
python tune/run_search.py control STUDY add learning_rate=1e-4 lora_rank=8
python tune/run_search.py control STUDY pause | resume
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reranker.console import say
from reranker.entry import Parser, a_path, last_net, not_empty
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.files import DamagedFile, read_json, write_json
from reranker.yaml_text import Document, override
from results.study_folder import RUNS, StudyFolder

_ANSWER_S = 30.0
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Request:
    """What is asked of a running search. `trial` goes with stop, `values` (knobs) with add."""

    id: str
    act: Literal["stop", "add", "pause", "resume"]
    trial: int | None = None
    values: dict[str, Any] = field(default_factory=dict)


_REQUEST = TypeAdapter(Request)


def take_up(folder: StudyFolder) -> Iterator[Request]:
    """The requests that nobody has answered yet, oldest first. What is no request is answered so, and dropped."""
    for path in sorted(folder.control.glob("*.request")):
        try:
            yield _read(path)
        except DamagedFile as fault:
            write_json(path.with_suffix(".answer"), {"text": f"not a request: {fault.damage}", "accepted": False})
            path.rename(path.with_suffix(".refused"))


def _read(path: Path) -> Request:
    """
    Raises:
        DamagedFile: it is not what `ask` leaves.
    """
    try:
        request = _REQUEST.validate_json(json.dumps(read_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "request"
        raise DamagedFile(path, f"{field}: {first['msg'].lower()}", "ask again") from None
    if request.id != path.stem or (request.act == "stop") != (request.trial is not None):
        raise DamagedFile(path, "its name and its act must fit what it holds", "ask again")
    return request


def answer(folder: StudyFolder, request: Request, text: str, accepted: bool = True) -> None:
    """Tell whoever asked what came of it; the request is done with."""
    write_json(folder.control / f"{request.id}.answer", {"text": text, "accepted": accepted})
    (folder.control / f"{request.id}.request").unlink(missing_ok=True)


def refusal(rule: str) -> InputError:
    return InputError([Fault(rule)])


def ask(folder: StudyFolder, act: str, **details: Any) -> str:
    """Leave a request and wait for the search's answer.

    Raises:
        EnvironmentFault: no search is running in the folder, or it does not answer.
        InputError: the search refuses.
    """
    if not folder.is_searched():
        raise EnvironmentFault(f"no search is running in {folder.path}")
    request = Request(f"{time.time_ns()}", act, **details)  # type: ignore[arg-type]
    write_json(folder.control / f"{request.id}.request", asdict(request))
    answered = folder.control / f"{request.id}.answer"
    deadline = time.monotonic() + _ANSWER_S
    while not answered.exists():
        if time.monotonic() > deadline:
            (folder.control / f"{request.id}.request").unlink(missing_ok=True)
            raise EnvironmentFault(f"the search in {folder.path} did not answer within {_ANSWER_S:.0f} s")
        time.sleep(0.1)
    reply = read_json(answered)
    answered.unlink()
    if not reply["accepted"]:
        raise refusal(reply["text"])
    return str(reply["text"])


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
    parser = Parser(prog="run_search.py control", description="Steer a search while it runs.")
    parser.add_argument("study", type=not_empty, help="its name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=RUNS, help="where studies are kept")
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("stop", help="end one trial").add_argument("trial", type=int)
    acts.add_parser("add", help="try this next").add_argument("knobs", nargs="+", metavar="KNOB=VALUE")
    acts.add_parser("pause", help="begin no trial, and hold the running ones at their next epoch")
    acts.add_parser("resume", help="go on after a pause")
    args = parser.parse_args(argv)
    details: dict[str, Any] = {"trial": args.trial} if args.act == "stop" else {}
    if args.act == "add":
        details = {"values": _knobs(args.knobs)}
    say(ask(StudyFolder.open(args.runs, args.study), args.act, **details))
    return 0
