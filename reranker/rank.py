"""An adapter, a history and candidates → the candidates in order, for one list or a stream of them.

python -m reranker.rank --adapter results/runs/demo/refit --history "Dusty Saddle" --candidates "Silly Clown" "Lunar Comet"
python -m reranker.rank --adapter results/runs/demo/refit --jsonl lists.jsonl > ranked.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from reranker.candidates import Example
from reranker.catalogue import EMPTY_TITLE, PassingTitles
from reranker.config import LETTERS, TrialConfig, build_trial_config, validation_faults
from reranker.console import say
from reranker.entry import Parser, a_path, at_least_one, last_net
from reranker.errors import EnvironmentFault, Fault, InputError, TrainingError
from reranker.files import DamagedFile
from reranker.low_rank import fuse
from reranker.models import base_fingerprint, load_base, load_tokenizer
from reranker.prompts import PromptEncoder
from reranker.scoring import EncodedLists, FloatArray, score
from reranker.trial_folder import ADAPTER_FACTS, TrialFolder, check_adapter

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # one option of theirs by another

Titles = Sequence[str]

_LINES = {"cpu": 16, "mps": 64, "cuda": 256}  # of a stream, that are ranked together: on CPU more bring nothing


@dataclass(frozen=True)
class Ranking:
    """One list's answer.

    Attributes:
        order: positions in the candidates as given, the best first; equals stay in the order given.
        probabilities: of each candidate to be the one that comes next, as given; they sum to 1.
        seconds: that tokenising and scoring took; a list's share, where several were ranked together.
    """

    order: list[int]
    probabilities: list[float]
    seconds: float


class Reranker:
    """A base model with an adapter, which ranks titles by the code that scored its validation lists.

    Attributes:
        config: the training's; its prompt is the one that is asked, whatever the number of candidates.
        device: where the model is.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, config: TrialConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self._model = model
        self._titles = PassingTitles(load_tokenizer(config.model))
        self._encoders: dict[tuple[int, int], PromptEncoder] = {}
        self._alone = threading.Lock()  # scoring changes the model meanwhile, and servers ask from several threads

    @staticmethod
    def load(adapter: Path | str, device: str | None = None, base: Path | str | None = None) -> Reranker:
        """A kept adapter on its base.

        Args:
            adapter: its folder, or the trial's or refit's folder that holds it.
            device: as torch names it; None: a GPU where there is one.
            base: a folder in the place of the model that the adapter was trained on, where that has moved.

        Raises:
            EnvironmentFault: there is no whole adapter there, or its base cannot be had.
            InputError: the adapter does not belong to the base.
        """
        folder, config, trained_on = _find(Path(adapter).expanduser())
        if base is not None:
            config = config.model_copy(update={"model": str(base)})
        there = _device(device)
        model = load_base(config, there)
        if trained_on and base_fingerprint(model) != trained_on:
            rule = "the base model's weights must be those that the adapter was trained on"
            raise InputError([Fault(rule, str(folder), field="model", value=config.model)])
        try:
            adapted = PeftModel.from_pretrained(model, str(folder))
        except (RuntimeError, ValueError) as error:
            rule = f"the adapter must belong to the base model: {_first_line(error)}"
            raise InputError([Fault(rule, str(folder), field="model", value=config.model)]) from error
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise EnvironmentFault(f"the adapter in {folder} cannot be read: {_first_line(error)}") from error
        in_fp32 = model.dtype == torch.float32  # a bf16 base is left alone: merged, the adapter would be rounded
        final = adapted.merge_and_unload() if in_fp32 else adapted
        if not in_fp32:
            fuse(adapted)
        return Reranker(final.to(there).eval(), config, there)

    def rank(self, history: Titles, candidates: Titles, permutations: int | None = None) -> Ranking:
        """Order the candidates by how probable each is to come next.

        Args:
            history: titles, oldest first.
            candidates: titles, all different: the model has never seen a list with one twice.
            permutations: orders of the candidates that are averaged; None: as the adapter was validated.

        Raises:
            InputError: a title is no text, a list is empty, too long or names a candidate twice.
        """
        return self.rank_many([(history, candidates)], permutations)[0]

    def rank_many(self, lists: Sequence[tuple[Titles, Titles]], permutations: int | None = None) -> list[Ranking]:
        """What `rank` gives for each (history, candidates), scored together.

        Raises:
            InputError: every fault of every list.
        """
        config = self._asked(permutations)
        with self._alone:
            faults = [
                fault if len(lists) == 1 else replace(fault, file=f"list {number}")
                for number, (history, candidates) in enumerate(lists, start=1)
                for fault in self._faults(history, candidates)
            ]
            if faults:
                raise InputError(faults)
            started = time.perf_counter()
            scores = self.scores([(h[-config.history_length :], c) for h, c in lists], config)
            seconds = (time.perf_counter() - started) / max(1, len(lists))
        return [_ranking(row, seconds) for row in scores]

    def scores(self, lists: Sequence[tuple[Titles, Titles]], config: TrialConfig | None = None) -> list[FloatArray]:
        """Log-probabilities of each list's candidates, for titles that are known to be sound.

        Args:
            config: in the place of the training's.
        """
        config = config or self.config
        texts = list(dict.fromkeys(title for history, candidates in lists for title in (*history, *candidates)))
        code = {text: i for i, text in enumerate(texts)}
        self._titles.read(texts)
        of_count: dict[int, list[int]] = {}
        for row, (_, candidates) in enumerate(lists):
            of_count.setdefault(len(candidates), []).append(row)
        found: dict[int, FloatArray] = {}
        for count, rows in of_count.items():
            codes = [[tuple(code[title] for title in part) for part in lists[i]] for i in rows]
            examples = [
                Example(0, history, candidates, 0) for history, candidates in codes
            ]  # what is true plays no part
            with self._autocast():
                scores = score(self._model, EncodedLists.of(self._encoder(config, count), examples))
            found |= zip(rows, scores, strict=True)
        return [found[row] for row in range(len(lists))]

    def _encoder(self, config: TrialConfig, candidates: int) -> PromptEncoder:
        key = candidates, config.permutations
        if key not in self._encoders:
            self._encoders[key] = PromptEncoder(self._titles, config.model_copy(update={"candidates": candidates}))
        return self._encoders[key]

    def _autocast(self) -> Any:
        """As in training, where a bf16 base's fp32 adapter computes in bf16."""
        half = self._model.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def _asked(self, permutations: int | None) -> TrialConfig:
        if permutations is None:
            return self.config
        return build_trial_config({**self.config.model_dump(mode="json"), "permutations": permutations})

    def _faults(self, history: Titles, candidates: Titles) -> list[Fault]:
        named = {"history": history, "candidates": candidates}
        found = [fault for name, titles in named.items() for fault in _faults_of_texts(name, titles)]
        if found:
            return found
        self._titles.read([*history, *candidates])
        cleaned = self._titles.texts[len(history) :]
        for name, texts in (("history", self._titles.texts[: len(history)]), ("candidates", cleaned)):
            found += [Fault(EMPTY_TITLE, field=name, value=named[name][i]) for i, text in enumerate(texts) if not text]
        found += [
            Fault(
                "a candidate must stand once in a list", field="candidates", value=text, hint="tell them apart by name"
            )
            for text in dict.fromkeys(cleaned)
            if cleaned.count(text) > 1
        ]
        try:
            self._titles.check_vocabulary(self.config.model)
        except InputError as error:
            found += error.faults
        return found


def _faults_of_texts(name: str, titles: Any) -> list[Fault]:
    if isinstance(titles, str) or not isinstance(titles, Sequence):
        return [Fault("titles must be a list of texts", field=name, value=type(titles).__name__)]
    if not titles:
        return [Fault("there must be at least one title", field=name)]
    if name == "candidates" and len(titles) > len(LETTERS):
        rule = f"a list has at most {len(LETTERS)} candidates, a label each"
        return [Fault(rule, field=name, value=len(titles), hint="rank the best of a first stage")]
    return [Fault("a title must be a text", field=name, value=title) for title in titles if not _is_text(title)]


def _is_text(title: Any) -> bool:
    if not isinstance(title, str) or not title.strip():
        return False
    try:
        title.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can say and no tokenizer takes
        return False
    return True


def _ranking(scores: FloatArray, seconds: float) -> Ranking:
    if not np.isfinite(scores).all():
        raise TrainingError(
            "the model's answer holds NaN or infinity: the adapter has diverged, or its precision is too low"
        )
    shares = np.exp(scores.astype(np.float64) - scores.max())
    order = np.argsort(-scores, kind="stable")
    return Ranking(order.tolist(), (shares / shares.sum()).tolist(), seconds)


def _find(path: Path) -> tuple[Path, TrialConfig, str]:
    """The adapter's folder, and what it was trained with: the configuration, its own or its trial's, and the base's
    fingerprint, empty of an older one."""
    folder = path if (path / "adapter_config.json").is_file() else path / "adapter"
    absent = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if absent:
        raise EnvironmentFault(f"there is no adapter in {path}: an adapter's folder must hold {' and '.join(absent)}")
    check_adapter(folder)
    facts = folder / ADAPTER_FACTS
    try:
        if facts.is_file():
            known = json.loads(facts.read_text(encoding="utf-8"))
            return folder, TrialConfig.model_validate(known["config"]), known["base"]
        return folder, TrialFolder(folder.parent).read_config(), ""
    except ValidationError as error:
        raise InputError(validation_faults(error, TrialConfig, file=str(facts))) from None
    except DamagedFile as error:
        if error.path.exists():
            raise
        rule = f"{folder} must hold {ADAPTER_FACTS}, or lie in its trial's folder beside config.json"
        raise EnvironmentFault(rule) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvironmentFault(f"{facts} cannot be read: {_first_line(error)}") from error


def _device(name: str | None) -> torch.device:
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise EnvironmentFault(f"there is no device {name!r} here: {_first_line(error)}") from error
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Stream:
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
                ranked = _ranked(found, given["candidates"], given.get("candidate_ids"))
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


def _ranked(found: Ranking, titles: Titles, ids: Sequence[Any] | None) -> list[dict[str, Any]]:
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
        raise InputError([Fault(f"a line must be JSON: {_first_line(error)}")]) from None
    if not isinstance(found, dict):
        raise InputError([Fault("a line must be an object with history and candidates", value=type(found).__name__)])
    absent = [name for name in ("history", "candidates") if name not in found]
    if absent:
        raise InputError([Fault("a line must have it", field=name) for name in absent])
    ids, candidates = found.get("candidate_ids"), found["candidates"]
    if ids is not None and not (isinstance(ids, list) and isinstance(candidates, list) and len(ids) == len(candidates)):
        raise InputError([Fault("must be a list with an id for each candidate", field="candidate_ids")])
    return found


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 ranked, 2 something was refused, 130 after Ctrl-C."""
    args = _arguments(argv)
    reranker = Reranker.load(args.adapter, args.device, args.base)
    if args.jsonl:
        return _rank_stream(reranker, args)
    _rank_one(reranker, args)
    return 0


def _rank_one(reranker: Reranker, args: argparse.Namespace) -> None:
    reranker.rank(args.history, args.candidates, args.permutations)  # warms up
    found = reranker.rank(args.history, args.candidates, args.permutations)
    print("rank  probability  candidate")
    for place, i in enumerate(found.order, start=1):
        print(f"{place:>4}  {found.probabilities[i]:>11.4f}  {_shown(args.candidates[i])}")
    orders = args.permutations or reranker.config.permutations
    where = f"{reranker.device.type}, {orders} order{'s' * (orders > 1)} of the candidates"
    print(f"{1000 * found.seconds:.1f} ms a list ({where})", flush=True)


def _shown(text: str) -> str:
    """A title as a terminal may see it: control characters are written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _rank_stream(reranker: Reranker, args: argparse.Namespace) -> int:
    stream = _Stream(reranker, args.permutations)
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
    parser.add_argument("--candidates", nargs="+", metavar="TITLE", help="all different")
    parser.add_argument(
        "--jsonl",
        type=a_path,
        metavar="FILE",
        help="an object a line with history and candidates, and candidate_ids if you like; - is the input",
    )
    parser.add_argument(
        "--permutations", type=at_least_one, help="candidate orders averaged; left out: as in validation"
    )
    parser.add_argument("--base", type=a_path, help="folder of the base model, where it has moved")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; left out: a GPU where there is one")
    args = parser.parse_args(argv)
    if bool(args.jsonl) == bool(args.history or args.candidates) or bool(args.history) != bool(args.candidates):
        parser.error("give --history and --candidates, or --jsonl")
    return args


if __name__ == "__main__":
    sys.exit(main())
