"""Item texts → titles fit for a prompt, and their tokens: made once for a tokenizer, shared by all processes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from reranker.errors import Fault, InputError
from reranker.storage.atomic_files import write_file
from reranker.storage.cache_folder import cache_folder

FORMS = ("{}:", " {}\n", " {}\n\n")  # how a title stands in a prompt, up to where the next piece begins
EMPTY_TITLE = "a title must be more than control tokens"
_SHOWN_FAULTS = 20
_LOCK_SECONDS = 600  # after which a table that another process is making is made here as well


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Rows of token ids: int32 [tokens] one after the other, and int64 [rows + 1] where each begins."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> TokenTable:
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return TokenTable(np.fromiter((i for row in rows for i in row), np.int32, count=starts[-1]), starts)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    @staticmethod
    def kept(name: str, make: Callable[[], TokenTable]) -> TokenTable:
        """The table of this name from the cache folder, memory-mapped; made and kept there where it is not yet.

        A file that is not what was written is made again. Where nothing can be kept the table stays in this process.
        """
        path = cache_folder() / "tokens" / f"{name}.i32"
        if (found := TokenTable._mapped(path)) is not None:
            return found
        made = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
                if TokenTable._mapped(path) is None:
                    made = make()
                    made._write(path)
        except (OSError, NotImplementedError):  # the latter of a file system without locks
            return made or make()
        return TokenTable._mapped(path) or made or make()

    @staticmethod
    def _mapped(path: Path) -> TokenTable | None:
        """What `_write` wrote, int32: a checksum of the rest, the number of rows, their lengths, the tokens. None if there
        is nothing, or something else."""
        try:
            content = np.memmap(path, np.int32, "r")
        except (OSError, ValueError):
            return None
        if len(content) < 2:
            return None
        checksum, rows = (int(number) for number in content[:2])
        if checksum != _checksum(content[1:]) or not 0 <= rows <= len(content) - 2:
            return None
        starts = np.concatenate([[0], np.cumsum(content[2 : 2 + rows], dtype=np.int64)])
        return TokenTable(content[2 + rows :], starts)

    def _write(self, path: Path) -> None:
        content = np.concatenate([[0, len(self.starts) - 1], np.diff(self.starts), self.ids]).astype(np.int32)
        content[0] = _checksum(content[1:])
        write_file(path, content.tobytes())


def _checksum(numbers: NDArray[np.int32]) -> int:
    """CRC-32 as int32."""
    return int(np.uint32(zlib.crc32(numbers.data)).astype(np.int32))


@dataclass(frozen=True, eq=False)
class Titles:
    """Titles cut to so many tokens. `tokens` has a row for each of FORMS and item (form × items + item).

    It is None where this tokenizer's tokens reach over the ends of the pieces: then prompts are tokenised whole.
    """

    texts: list[str]
    tokens: TokenTable | None


class Catalogue:
    """The item texts of a study as one tokenizer reads them, each on one line and without its control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, item_texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self._special = sorted(special, key=len, reverse=True)
        self._given = item_texts
        self.texts = self._clean(item_texts)
        self._titles: dict[int, Titles] = {}

    def titles(self, most_tokens: int) -> Titles:
        """Every title, those of more than `most_tokens` tokens cut to that."""
        if most_tokens not in self._titles:
            texts = self._cut(most_tokens)
            table = TokenTable.kept(self._fingerprint(texts), lambda: self._tabulate(texts))
            self._titles[most_tokens] = Titles(texts, table if len(table.starts) > 1 else None)
        return self._titles[most_tokens]

    def fingerprint(self, most_tokens: int) -> str:
        """Equal for equal titles, cut to `most_tokens`, in equal tokens."""
        return self._fingerprint(self.titles(most_tokens).texts)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens around it."""
        if not texts:
            return []
        encoding: Any = self.tokenizer(
            list(texts), add_special_tokens=False, verbose=False
        )  # or it warns of long titles
        ids: list[list[int]] = encoding["input_ids"]
        return ids

    def tokenize_pieces(self, pieces: Sequence[str]) -> list[list[int]] | None:
        """Token ids of each piece as it stands between others in a prompt; None where one has no clear ends.

        Tokenizers look at what is beside: at the end of a text a blank line is one token in some, before a word two.
        """
        beside = [(":" if piece[:1] == " " else "\n", "S" if piece[-1:] == "\n" else " S") for piece in pieces]
        around = {text: ids for text in (":", "\n", "S", " S") for ids in self.tokenize([text])}
        found = []
        whole = self.tokenize([f"{left}{piece}{right}" for piece, (left, right) in zip(pieces, beside, strict=True)])
        for ids, (left, right) in zip(whole, beside, strict=True):
            begin, end = len(around[left]), len(ids) - len(around[right])
            if ids[:begin] != around[left] or ids[end:] != around[right]:
                return None
            found.append(ids[begin:end])
        return found

    def check(self, model: str) -> None:
        """Refuse titles of which nothing is left, and a tokenizer that cannot read the catalogue.

        Raises:
            InputError: a title is nothing but control tokens, or over 5% of the titles' tokens are unknown to the tokenizer.
        """
        empty = [text for text, title in zip(self._given, self.texts, strict=True) if not title]
        if empty:
            faults = [Fault(EMPTY_TITLE, field="text", value=text, hint=f"{model} has them") for text in empty]
            raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))
        self.check_vocabulary(model)

    def check_vocabulary(self, model: str) -> None:
        """Refuse a tokenizer that cannot read the catalogue, as the demo models' can't read any but the demo's.

        Raises:
            InputError: over 5% of the titles' tokens are unknown to the tokenizer.
        """
        tokens = [token for ids in self.tokenize(self.texts[:1000]) for token in ids]
        unknown = tokens.count(self.tokenizer.unk_token_id) if self.tokenizer.unk_token_id is not None else 0
        if unknown > 0.05 * len(tokens):
            rule = f"the model must know the words of the catalogue; {unknown / len(tokens):.0%} are unknown to it"
            hint = "the demo models read the demo catalogue only; smollm2-135m reads any text and needs no Hub"
            raise InputError([Fault(rule, field="model", value=model, hint=hint)])

    def _clean(self, texts: Sequence[str]) -> list[str]:
        return [_one_line(text, self._special) for text in texts]

    def _cut(self, tokens: int) -> list[str]:
        cut = []
        for text, ids in zip(self.texts, self.tokenize(self.texts), strict=True):
            cut.append(text if len(ids) <= tokens else str(self.tokenizer.decode(ids[:tokens])).strip())
        return cut

    def _tabulate(self, texts: Sequence[str]) -> TokenTable:
        """The titles in all forms; without rows if putting them together is not the same as tokenising the whole."""
        rows = self.tokenize_pieces([form.format(text) for form in FORMS for text in texts])
        beside = [" A\n", "-", "B.", "Seen"]
        fixed = self.tokenize_pieces(beside)
        if rows is None or fixed is None:
            return TokenTable.of([])
        name, line, last = (slice(n * len(texts), (n + 1) * len(texts)) for n in range(len(FORMS)))
        label, dash, number, word = fixed
        wholes = [
            f"\n{FORMS[0]} A\n-{FORMS[1]}-{FORMS[2]}B.{FORMS[1]}B.{FORMS[2]}Seen".replace("{}", text) for text in texts
        ]
        before, *_ = self.tokenize(["\n"])
        for whole, a, b, c in zip(self.tokenize(wholes), rows[name], rows[line], rows[last], strict=True):
            if whole != [*before, *a, *label, *dash, *b, *dash, *c, *number, *b, *number, *c, *word]:
                return TokenTable.of([])
        return TokenTable.of(rows)

    def _fingerprint(self, texts: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for part in (self.tokenizer.backend_tokenizer.to_str(), *FORMS, *texts):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()[:32]


class PassingTitles(Catalogue):
    """The titles of the questions at hand, others each time: prompts are tokenised whole, and nothing is kept on disk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, [])

    def read(self, texts: Sequence[str]) -> None:
        """Take these in the place of the ones before."""
        self.texts = self._clean(texts)
        self._titles.clear()

    def titles(self, most_tokens: int) -> Titles:
        if most_tokens not in self._titles:
            self._titles[most_tokens] = Titles(self._cut(most_tokens), tokens=None)
        return self._titles[most_tokens]


def _one_line(text: str, special: Sequence[str]) -> str:
    """A title that cannot break the prompt: on one line, and without the tokenizer's control tokens."""
    for token in special:
        if token in text:
            text = text.replace(token, " ")
    return " ".join(text.split())
