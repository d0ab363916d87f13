"""Item texts → titles fit for a prompt, and their tokens: made once per tokenizer, shared by all processes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from reranker.errors import Fault, InputError
from reranker.storage.atomic_files import write_file
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # takes half a second

FORMS = ("{}:", " {}\n", " {}\n\n")  # forms of a title in a prompt, up to the start of the next piece
EMPTY_TITLE = "a title must be more than control tokens"
# Every form of a title between the pieces of a prompt, with a letter and a number as its label
_CHECKED = f"\n{FORMS[0]} A\n{FORMS[0]} 7\n-{FORMS[1]}-{FORMS[2]}B.{FORMS[1]}8.{FORMS[2]}Seen"
_SHOWN_FAULTS = 20
_LOCK_SECONDS = 600  # then this process also makes the table that another one is making


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Rows of token ids: all ids in sequence, int32 [tokens], and where each row starts, int64 [rows + 1]."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> TokenTable:
        """The table with these rows."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return TokenTable(np.fromiter((i for row in rows for i in row), np.int32, count=starts[-1]), starts)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    @staticmethod
    def kept(name: str, make: Callable[[], TokenTable]) -> TokenTable:
        """The table of this name from the cache folder, memory-mapped; made and kept there if missing.

        A damaged file is made again. If the table cannot be kept, it stays in this process.
        """
        path = cache_folder() / "tokens" / f"{name}.i32"
        if (stored := TokenTable._mapped(path)) is not None:
            return stored
        table = None
        try:
            make_folder(path.parent)
            with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
                if TokenTable._mapped(path) is None:
                    table = make()
                    table._write(path)
        except (OSError, NotImplementedError):  # the latter on a file system without locks
            return table or make()
        return TokenTable._mapped(path) or table or make()

    @staticmethod
    def _mapped(path: Path) -> TokenTable | None:
        """What `_write` wrote, int32: a checksum of the rest, the number of rows, their lengths, the tokens. None if
        the file is missing or damaged."""
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
    """Titles cut to a number of tokens. `tokens` has a row for each of FORMS and item (form × items + item).

    `tokens` is None if this tokenizer's tokens span the ends of pieces: then prompts are tokenised as a whole.
    """

    texts: list[str]
    tokens: TokenTable | None


@dataclass(eq=False)
class ImageMarks:
    """What stands for images in the titles that a model reads; `reranker.modeling.images.image_inputs` makes them.

    Attributes:
        text: before the title of an item that has an image.
        token: the id of the one token in it that stands for the image.
        counts: of each item, how many tokens the image is in a prompt; 0 without one.
        key: differs for other images.
    """

    text: str
    token: int
    counts: Sequence[int]
    key: str


class Catalogue:
    """The item texts of a study for one tokenizer, each on one line and without the tokenizer's control tokens.

    Args:
        marks: of the items' images, where the model reads them.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, item_texts: Sequence[str], marks: ImageMarks | None = None
    ) -> None:
        self.tokenizer, self.marks = tokenizer, marks
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self._special = sorted(special, key=len, reverse=True)
        self._given = item_texts
        self.texts = self._clean(item_texts)
        self._titles: dict[int, Titles] = {}

    def titles(self, most_tokens: int) -> Titles:
        """All titles, cut to `most_tokens` tokens."""
        if most_tokens not in self._titles:
            texts = self._marked(self._cut(most_tokens))
            table = TokenTable.kept(self._fingerprint(texts), lambda: self._tabulate(texts))
            self._titles[most_tokens] = Titles(texts, table if len(table.starts) > 1 else None)
        return self._titles[most_tokens]

    def fingerprint(self, most_tokens: int) -> str:
        """A hash of the tokenizer, the titles, cut to `most_tokens`, and the images."""
        images = [] if self.marks is None else [self.marks.key]
        return self._fingerprint([*self.titles(most_tokens).texts, *images])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens around it."""
        if not texts:
            return []
        encoding: Any = self.tokenizer(
            list(texts), add_special_tokens=False, verbose=False
        )  # else it warns about long titles
        ids: list[list[int]] = encoding["input_ids"]
        return ids

    def tokenize_pieces(self, pieces: Sequence[str]) -> list[list[int]] | None:
        """Token ids of each piece when between others in a prompt; None if tokens span the ends of a piece.

        Tokens depend on the neighbours: some tokenizers make a blank line one token at the end of a text, two before a
        word.
        """
        neighbours = [(":" if piece[:1] == " " else "\n", "S" if piece[-1:] == "\n" else " S") for piece in pieces]
        neighbour_ids = {text: ids for text in (":", "\n", "S", " S") for ids in self.tokenize([text])}
        piece_ids = []
        surrounded = self.tokenize(
            [f"{left}{piece}{right}" for piece, (left, right) in zip(pieces, neighbours, strict=True)]
        )
        for ids, (left, right) in zip(surrounded, neighbours, strict=True):
            begin, end = len(neighbour_ids[left]), len(ids) - len(neighbour_ids[right])
            if ids[:begin] != neighbour_ids[left] or ids[end:] != neighbour_ids[right]:
                return None
            piece_ids.append(ids[begin:end])
        return piece_ids

    def check(self, model: str) -> None:
        """Refuse empty titles, and a tokenizer that cannot read the catalogue.

        Raises:
            InputError: a title has only control tokens, or over 5% of the titles' tokens are unknown to the tokenizer.
        """
        empty = [text for text, title in zip(self._given, self.texts, strict=True) if not title]
        if empty:
            faults = [Fault(EMPTY_TITLE, field="text", value=text, hint=f"{model} has them") for text in empty]
            raise InputError(faults[:_SHOWN_FAULTS], total=len(faults))
        self.check_vocabulary(model)

    def check_vocabulary(self, model: str) -> None:
        """Refuse a tokenizer that cannot read the catalogue: the demo models' reads only the demo's.

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

    def _marked(self, texts: list[str]) -> list[str]:
        if (marks := self.marks) is None:
            return texts
        return [f"{marks.text}{text}" if count else text for text, count in zip(texts, marks.counts, strict=True)]

    def _tabulate(self, texts: Sequence[str]) -> TokenTable:
        """The titles in all forms; no rows if joining them differs from tokenising the whole text."""
        rows = self.tokenize_pieces([form.format(text) for form in FORMS for text in texts])
        fixed_ids = self.tokenize_pieces([" A\n", " 7\n", "-", "B.", "8.", "Seen"])
        if rows is None or fixed_ids is None:
            return TokenTable.of([])
        name, line, last = (slice(n * len(texts), (n + 1) * len(texts)) for n in range(len(FORMS)))
        letter, digit, dash, letter_first, digit_first, word = fixed_ids
        before, *_ = self.tokenize(["\n"])
        wholes = [_CHECKED.replace("{}", text) for text in texts]
        for whole_ids, a, b, c in zip(self.tokenize(wholes), rows[name], rows[line], rows[last], strict=True):
            pieces = (before, a, letter, a, digit, dash, b, dash, c, letter_first, b, digit_first, c, word)
            if whole_ids != list(chain(*pieces)):
                return TokenTable.of([])
        return TokenTable.of(rows)

    def _fingerprint(self, texts: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for part in (self.tokenizer.backend_tokenizer.to_str(), *FORMS, _CHECKED, *texts):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()[:32]


class PassingTitles(Catalogue):
    """The titles of the current questions only: prompts are tokenised as a whole, and nothing is kept on disk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, [])

    def read(self, texts: Sequence[str], marks: ImageMarks | None = None) -> None:
        """Replace the titles, and what stands for their images, by these."""
        self.texts, self.marks = self._clean(texts), marks
        self._titles.clear()

    def titles(self, most_tokens: int) -> Titles:
        """The current titles, cut to `most_tokens` tokens; never with a token table."""
        if most_tokens not in self._titles:
            self._titles[most_tokens] = Titles(self._marked(self._cut(most_tokens)), tokens=None)
        return self._titles[most_tokens]


def _one_line(text: str, special: Sequence[str]) -> str:
    """A title that cannot break the prompt: on one line, and without the tokenizer's control tokens."""
    for token in special:
        if token in text:
            text = text.replace(token, " ")
    return " ".join(text.split())
