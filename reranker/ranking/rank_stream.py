"""JSON lines → one JSON line each: lists are ranked in batches as they arrive, in order."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from reranker.errors import Fault, InputError, json_kind
from reranker.ranking.list_ranker import ListRanker, Question, Ranking, Titles
from reranker.storage.file_kinds import what_it_is
from reranker.storage.limits import LINE_BYTES

_QUESTION = ("history", "candidates", "history_images", "candidate_images")


class RankStream:
    """Answers JSON lines with one JSON line each, in order; skips blank lines.

    A line holds `history` and `candidates`, and perhaps `history_images` and `candidate_images`, paths of each title's
    image or null; other keys are passed through. Its answer holds `order`, `probabilities`
    and `ranked`: from first to last each candidate's title and probability, and its id if the line holds
    `candidate_ids`. The answer to a line that breaks a rule holds `error` and `line`, counted from 1.
    """

    def __init__(self, reranker: ListRanker, permutations: int | None) -> None:
        self._reranker, self._permutations = reranker, permutations
        self._warm = False
        self._started = time.perf_counter()
        self._scoring = 0.0
        self.answered = 0
        self.refused = 0

    def run(self, source: IO[bytes], sink: IO[str]) -> None:
        """Answer every line of `source` on `sink`."""
        first = 1
        for lines in _arriving(source, self._reranker.batch_lists):
            answers = self._answer(lines, first)
            sink.write("".join(json.dumps(answer) + "\n" for answer in answers))
            sink.flush()
            first += len(lines)

    def summary(self) -> str:
        """The number of lists so far, the speed, and the number of refused lines."""
        wall = time.perf_counter() - self._started
        text = f"{self.answered} list{'s' * (self.answered != 1)} in {wall:.1f} s"
        if self.answered:
            text += (
                f": {self.answered / wall:.2f} lists/s, {1000 * self._scoring / self.answered:.1f} ms a list in scoring"
            )
        return text + (_count_refused(self.refused) if self.refused else "")

    def _answer(self, lines: list[bytes], first: int) -> list[dict[str, Any]]:
        requests: dict[int, dict[str, Any]] = {}
        answers: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(lines, start=first):
            try:
                if line.strip():
                    requests[number] = _parsed(line)
            except InputError as error:
                answers[number] = {"error": str(error), "line": number}
                self.refused += 1
        for number, result in self._ranked(requests).items():
            request = requests[number]
            passed_on = {key: request[key] for key in request if key not in _QUESTION}
            if isinstance(result, Ranking):
                ranked = as_records(result, request["candidates"], request.get("candidate_ids"))
                ranking_fields = {"order": result.order, "probabilities": result.probabilities, "ranked": ranked}
                answers[number] = {**passed_on, **ranking_fields}
                self._scoring += result.seconds
                self.answered += 1
            else:
                answers[number] = {**passed_on, "error": str(result), "line": number}
                self.refused += 1
        return [answers[number] for number in sorted(answers)]

    def _ranked(self, requests: dict[int, dict[str, Any]]) -> dict[int, Ranking | InputError]:
        """By line number.

        Raises:
            RerankerError: a list could not be ranked, which is no fault of its line's.
        """
        lists = [
            Question(request["history"], request["candidates"], request.get("candidate_ids"))
            for request in requests.values()
        ]
        images = [(request.get("history_images"), request.get("candidate_images")) for request in requests.values()]
        if lists and not self._warm:
            self._reranker.rank_each(lists[:1], self._permutations, images[:1])
            self._warm, self._started = True, time.perf_counter()
        answers: dict[int, Ranking | InputError] = {}
        for number, answer in zip(requests, self._reranker.rank_each(lists, self._permutations, images), strict=True):
            if not isinstance(answer, Ranking | InputError):
                raise answer
            answers[number] = answer
        return answers


def _count_refused(lines: int) -> str:
    return f"; {lines} line{'s were' if lines > 1 else ' was'} refused"


def as_records(ranking: Ranking, titles: Titles, ids: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The candidates from first to last, with title, probability and, if given, id."""
    return [
        {**({} if ids is None else {"id": ids[i]}), "title": titles[i], "probability": ranking.probabilities[i]}
        for i in ranking.order
    ]


def _arriving(source: IO[bytes], most: int) -> Iterator[list[bytes]]:
    """Lines as they arrive, at most `most` at a time; never waits for more, so that each line gets its answer."""
    pieces: list[bytes] = []  # of an unfinished line
    read = getattr(source, "read1", source.read)
    longest, length = LINE_BYTES.most, 0
    while chunk := read(1 << 16):
        first, *further_pieces = chunk.split(b"\n")
        if length <= longest:  # of a longer line so much is kept as tells that it is too long
            pieces.append(first)
        length = len(further_pieces[-1]) if further_pieces else length + len(first)
        if further_pieces:
            lines = [b"".join(pieces), *further_pieces[:-1]]
            pieces = [further_pieces[-1]]
            for start in range(0, len(lines), most):
                yield lines[start : start + most]
    if remainder := b"".join(pieces):
        yield [remainder]


def _parsed(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_BYTES.most:
        raise InputError([Fault(LINE_BYTES.rule("a line"), hint=LINE_BYTES.hint)])
    try:
        request = json.loads(line.decode("utf-8-sig"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError([Fault(f"a line must be {_why_not_json(error)}", hint=what_it_is(line[:64]))]) from None
    if not isinstance(request, dict):
        rule = f"a line must be an object with history and candidates, not {json_kind(request)}"
        raise InputError([Fault(rule)])
    absent = [name for name in ("history", "candidates") if name not in request]
    if absent:
        raise InputError([Fault("this must be given", field=name) for name in absent])
    return request


class _NotFinite(ValueError):
    """A number that JSON can't hold; passed on, it would make the answer one that other readers refuse."""


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _NotFinite(text)
    return number


def _why_not_json(error: Exception) -> str:
    """What a line should be and is not, as the end of "a line must be"."""
    if isinstance(error, UnicodeDecodeError):
        return f"UTF-8 text; byte {error.start + 1} is not"
    if isinstance(error, json.JSONDecodeError):
        return f"JSON; at character {error.pos + 1}: {error.msg[0].lower()}{error.msg[1:]}"
    if isinstance(error, _NotFinite):
        return f"JSON, whose numbers are finite; {error} is not"
    return (
        "JSON without brackets in thousands"
        if isinstance(error, RecursionError)
        else "JSON with numbers of at most 4,300 digits"
    )
