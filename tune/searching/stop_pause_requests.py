"""Requests to a running search, left as files in its study's folder, and their answers. Its command is
`tune.control`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.storage.atomic_files import DamagedFile, read_json, write_json
from results.study.study_folder import StudyFolder

_ANSWER_S = 30.0
_OF_A_TRIAL = ("stop", "keep")
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Request:
    """What is asked of a running search. `trial` goes with stop and keep, `values` (knobs) with add.

    Attributes:
        by: where it was asked for.
    """

    id: str
    act: Literal["stop", "keep", "add", "pause", "resume"]
    trial: int | None = None
    values: dict[str, Any] = field(default_factory=dict)
    by: str = "control"


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
    if request.id != path.stem or (request.act in _OF_A_TRIAL) != (request.trial is not None):
        raise DamagedFile(path, "its name and its act must match what it holds", "ask again")
    return request


def answer(folder: StudyFolder, request: Request, text: str, accepted: bool = True) -> None:
    """Tell whoever asked what came of it; the request is done with."""
    write_json(folder.control / f"{request.id}.answer", {"text": text, "accepted": accepted})
    (folder.control / f"{request.id}.request").unlink(missing_ok=True)


def refusal(rule: str) -> InputError:
    """The error of a request that breaks a rule."""
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
