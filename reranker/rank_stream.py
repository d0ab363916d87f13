"""JSON lines → a JSON line each: lists ranked together, in order, as they arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from reranker.errors import Fault, InputError, first_line
from reranker.ranker import Ranking, Reranker, Titles

_LINES = {"cpu": 16, "mps": 64, "cuda": 256}  # of a stream, that are ranked together: on CPU more bring nothing


class RankStream:
    """JSON lines in, a JSON line out for each, in order; blank lines are passed over.

    A line holds `history` and `candidates`, and whatever else, which is handed through. Its answer holds `order` and
    `probabilities`, and `ranked`: from the first place to the last each candidate's title and probability, and its id where
    the line holds `candidate_ids`. That of a line which breaks a rule holds `error` and `line`, counted from 1.
    """

    def __init__(self, reranker: Reranker, permutations: int | None) -> None:
        self._reranker, self._permutations = reranker, permutations
        self._warm = False
        self._started = time.perf_counter()
        self._scoring = 0.0
        self.answered = 0
        self.refused = 0

    def run(self, source: IO[bytes], sink: IO[str]) -> None:
        first = 1
        for lines in _arriving(source, _LINES[self._reranker.device.type]):
            answers = self._answer(lines, first)
            sink.write("".join(json.dumps(answer) + "\n" for answer in answers))
            sink.flush()
            first += len(lines)

    def summary(self) -> str:
        wall = time.perf_counter() - self._started
        text = f"{self.answered} list{'s' * (self.answered != 1)} in {wall:.1f} s"
        if self.answered:
            text += (
                f": {self.answered / wall:.2f} lists/s, {1000 * self._scoring / self.answered:.1f} ms a list in scoring"
            )
        return text + (_count_refused(self.refused) if self.refused else "")

    def _answer(self, lines: list[bytes], first: int) -> list[dict[str, Any]]:
        asked: dict[int, dict[str, Any]] = {}
        answers: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(lines, start=first):
            try:
                if line.strip():
                    asked[number] = _parsed(line)
            except InputError as error:
                answers[number] = {"error": str(error), "line": number}
        for number, found in self._ranked(asked).items():
            given = asked[number]
            others = {key: given[key] for key in given if key not in ("history", "candidates")}
            if isinstance(found, Ranking):
                ranked = as_records(found, given["candidates"], given.get("candidate_ids"))
                of_all = {"order": found.order, "probabilities": found.probabilities, "ranked": ranked}
                answers[number] = {**others, **of_all}
                self._scoring += found.seconds
                self.answered += 1
            else:
                answers[number] = {**others, "error": str(found), "line": number}
        self.refused += sum("error" in answer for answer in answers.values())
        return [answers[number] for number in sorted(answers)]

    def _ranked(self, asked: dict[int, dict[str, Any]]) -> dict[int, Ranking | InputError]:
        """All together, or each by itself where one of them breaks a rule."""
        lists = [(line["history"], line["candidates"]) for line in asked.values()]
        try:
            if lists and not self._warm:
                self._reranker.rank_many(lists[:1], self._permutations)
                self._warm, self._started = True, time.perf_counter()
            return dict(zip(asked, self._reranker.rank_many(lists, self._permutations), strict=True))
        except InputError as error:
            if len(asked) == 1:
                return dict.fromkeys(asked, error)
            alone = [self._ranked({number: line}) for number, line in asked.items()]
            return {number: found for one in alone for number, found in one.items()}


def _count_refused(lines: int) -> str:
    return f"; {lines} line{'s were' if lines > 1 else ' was'} refused"


def as_records(found: Ranking, titles: Titles, ids: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Each candidate from the first place to the last."""
    return [
        {**({} if ids is None else {"id": ids[i]}), "title": titles[i], "probability": found.probabilities[i]}
        for i in found.order
    ]


def _arriving(source: IO[bytes], most: int) -> Iterator[list[bytes]]:
    """Lines as they come, so many at once: whoever writes one and waits for the answer gets it."""
    pieces: list[bytes] = []  # of a line that has no end yet
    read = getattr(source, "read1", source.read)
    while chunk := read(1 << 16):
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        if others:
            lines = [b"".join(pieces), *others[:-1]]
            pieces = [others[-1]]
            for start in range(0, len(lines), most):
                yield lines[start : start + most]
    if rest := b"".join(pieces):
        yield [rest]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError([Fault(f"a line must be JSON: {first_line(error)}")]) from None
    if not isinstance(found, dict):
        raise InputError([Fault("a line must be an object with history and candidates", value=type(found).__name__)])
    absent = [name for name in ("history", "candidates") if name not in found]
    if absent:
        raise InputError([Fault("a line must have it", field=name) for name in absent])
    ids, candidates = found.get("candidate_ids"), found["candidates"]
    if ids is not None and not (isinstance(ids, list) and isinstance(candidates, list) and len(ids) == len(candidates)):
        raise InputError([Fault("must be a list with an id for each candidate", field="candidate_ids")])
    return found
