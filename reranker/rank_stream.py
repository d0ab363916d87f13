"""JSON lines → one JSON line each: lists are ranked in batches as they arrive, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from reranker.errors import Fault, InputError, first_line
from reranker.ranker import Ranking, Reranker, Titles

_LINES = {"cpu": 16, "mps": 64, "cuda": 256}  # lines ranked together; on a CPU more don't help


class RankStream:
    """Answers JSON lines with one JSON line each, in order; skips blank lines.

    A line holds `history` and `candidates`; other keys are passed through. Its answer holds `order`, `probabilities`
    and `ranked`: from first to last each candidate's title and probability, and its id if the line holds
    `candidate_ids`. The answer to a line that breaks a rule holds `error` and `line`, counted from 1.
    """

    def __init__(self, reranker: Reranker, permutations: int | None) -> None:
        self._reranker, self._permutations = reranker, permutations
        self._warm = False
        self._started = time.perf_counter()
        self._scoring = 0.0
        self.answered = 0
        self.refused = 0

    def run(self, source: IO[bytes], sink: IO[str]) -> None:
        """Answer every line of `source` on `sink`."""
        first = 1
        for lines in _arriving(source, _LINES[self._reranker.device.type]):
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
        for number, result in self._ranked(requests).items():
            request = requests[number]
            passed_on = {key: request[key] for key in request if key not in ("history", "candidates")}
            if isinstance(result, Ranking):
                ranked = as_records(result, request["candidates"], request.get("candidate_ids"))
                ranking_fields = {"order": result.order, "probabilities": result.probabilities, "ranked": ranked}
                answers[number] = {**passed_on, **ranking_fields}
                self._scoring += result.seconds
                self.answered += 1
            else:
                answers[number] = {**passed_on, "error": str(result), "line": number}
        self.refused += sum("error" in answer for answer in answers.values())
        return [answers[number] for number in sorted(answers)]

    def _ranked(self, requests: dict[int, dict[str, Any]]) -> dict[int, Ranking | InputError]:
        """Rank all together, or one by one if any of them breaks a rule; by line number."""
        lists = [(request["history"], request["candidates"]) for request in requests.values()]
        try:
            if lists and not self._warm:
                self._reranker.rank_many(lists[:1], self._permutations)
                self._warm, self._started = True, time.perf_counter()
            return dict(zip(requests, self._reranker.rank_many(lists, self._permutations), strict=True))
        except InputError as error:
            if len(requests) == 1:
                return dict.fromkeys(requests, error)
            one_by_one = [self._ranked({number: request}) for number, request in requests.items()]
            return {number: result for results in one_by_one for number, result in results.items()}


def _count_refused(lines: int) -> str:
    return f"; {lines} line{'s were' if lines > 1 else ' was'} refused"


def as_records(found: Ranking, titles: Titles, ids: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The candidates from first to last, with title, probability and, if given, id."""
    return [
        {**({} if ids is None else {"id": ids[i]}), "title": titles[i], "probability": found.probabilities[i]}
        for i in found.order
    ]


def _arriving(source: IO[bytes], most: int) -> Iterator[list[bytes]]:
    """Lines as they arrive, at most `most` at a time; never waits for more, so that each line gets its answer."""
    pieces: list[bytes] = []  # of an unfinished line
    read = getattr(source, "read1", source.read)
    while chunk := read(1 << 16):
        first, *further_pieces = chunk.split(b"\n")
        pieces.append(first)
        if further_pieces:
            lines = [b"".join(pieces), *further_pieces[:-1]]
            pieces = [further_pieces[-1]]
            for start in range(0, len(lines), most):
                yield lines[start : start + most]
    if remainder := b"".join(pieces):
        yield [remainder]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError([Fault(f"a line must be JSON: {first_line(error)}")]) from None
    if not isinstance(request, dict):
        raise InputError([Fault("a line must be an object with history and candidates", value=type(request).__name__)])
    absent = [name for name in ("history", "candidates") if name not in request]
    if absent:
        raise InputError([Fault("a line must have it", field=name) for name in absent])
    ids, candidates = request.get("candidate_ids"), request["candidates"]
    if ids is not None and not (isinstance(ids, list) and isinstance(candidates, list) and len(ids) == len(candidates)):
        raise InputError([Fault("must be a list with an id for each candidate", field="candidate_ids")])
    return request
