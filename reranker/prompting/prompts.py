"""Examples → token ids that end where the model must name a label. The one template of whole lists, in training and scoring."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from reranker.config import TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import FORMS, Catalogue, ImageMarks, Titles
from reranker.errors import Fault, InputError
from reranker.modeling.images.image_inputs import ImageInputs
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.prompting.chat import chat
from reranker.prompting.labels import label_texts

_AT_ONCE = 64  # examples
SHORTEST_TITLE = 4  # tokens; a shorter title says nothing
Piece = str | tuple[int, int]


@dataclass(frozen=True)
class Question:
    """What is asked of a list: the heading of the items next to it, and the sentence at the end."""

    heading: str
    sentence: str


NEXT = Question("Seen by the user, oldest first:\n", "Answer with the label of the candidate that comes next.")
FIND = Question("Find this candidate:\n", "Answer with its label.")  # an example's history is then just its target
_USER_MARK, _ANSWER_MARK = "USER0MARK", "ANSWER0MARK"


@dataclass(frozen=True)
class Prompt:
    """A question as tokens; those of images as in `reranker.modeling.images.image_inputs`. `target` is the position of the true label among the list's labels."""

    input_ids: list[int]
    target: int
    history_dropped: int = 0  # oldest items dropped to fit max_prompt_tokens
    title_tokens: int | None = None  # titles were cut to this many tokens to fit


@dataclass(frozen=True)
class SharedPrompt:
    """One list as tokens, and the questions after it; `input_ids` of a question are the tokens after the list."""

    listed: list[int]
    questions: list[Prompt]

    @property
    def tokens(self) -> int:
        """Tokens of all questions if each had its own list."""
        return sum(len(self.listed) + len(question.input_ids) for question in self.questions)


def render(
    history: Sequence[str],
    candidates: Sequence[str],
    labels: Sequence[str],
    config: TrialConfig,
    question: Question = NEXT,
) -> str:
    """The user's message: candidates with their labels, history oldest first, and the question."""
    titles = [*history, *candidates]
    listed = range(len(history), len(titles))
    return _text(_pieces(range(len(history)), listed, labels, config, question), titles)


def _pieces(
    history: Sequence[int],
    candidates: Sequence[int],
    labels: Sequence[str],
    config: TrialConfig,
    question: Question,
) -> list[Piece]:
    """The user's message in pieces that can be tokenised one by one: texts, and titles as (form, item)."""
    blocks = [_listed(candidates, labels, config), _beside(history, question)]
    if config.prompt_order == "history_first":
        blocks.reverse()
    return [*chain.from_iterable(blocks), question.sentence]


def _listed(candidates: Sequence[int], labels: Sequence[str], config: TrialConfig) -> list[Piece]:
    title, line, _ = range(len(FORMS))
    named = zip(labels[: len(candidates)], candidates, strict=True)
    if config.label_position == "after":
        lines: list[tuple[Piece, Piece]] = [((title, item), f" {label}\n") for label, item in named]
    else:
        lines = [(f"{label}.", (line, item)) for label, item in named]
    return _block("Candidates:\n", lines)


def _beside(items: Sequence[int], question: Question) -> list[Piece]:
    _, line, _ = range(len(FORMS))
    return _block(question.heading, [("-", (line, item)) for item in items])


def _block(heading: str, lines: Sequence[tuple[Piece, Piece]]) -> list[Piece]:
    """A heading and lines, followed by a blank line."""
    _, _, last = range(len(FORMS))
    *pieces, end = [heading, *chain.from_iterable(lines)]
    return [*pieces, f"{end}\n" if isinstance(end, str) else (last, end[1])]


def _text(pieces: Sequence[Piece], titles: Sequence[str]) -> str:
    return "".join(p if isinstance(p, str) else FORMS[p[0]].format(titles[p[1]]) for p in pieces)


class PromptEncoder:
    """Turns examples into prompts for one catalogue, its tokenizer and one configuration.

    Titles are tokenised once and joined for each prompt if that gives exactly the tokens of the whole text; with other
    tokenizers the whole text is tokenised each time.

    Attributes:
        labels: the list's labels, in order; length `config.candidates`.
        trie: their tokens.
        answer_ids: for each label the tokens of the full answer: label and end of turn.
        pad_id: token id used for padding.

    Raises:
        InputError: the labels cannot be told apart by the model's tokens, or not be trained in this way.
    """

    def __init__(self, catalogue: Catalogue, config: TrialConfig, question: Question = NEXT) -> None:
        self.catalogue, self.tokenizer, self.config = catalogue, catalogue.tokenizer, config
        self._asks = question
        self._head, self._tail = chat(self.tokenizer, _USER_MARK).split(_USER_MARK)
        self.labels = label_texts(config.label_style, config.candidates, self._are_tokens)
        label_ids, end = self._label_tokens(), self._end_of_turn()
        self.answer_ids = [[*ids, *end] for ids in label_ids]
        self.trie = self._label_trie(label_ids, end)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self._fixed = self._tokenize_fixed()

    @property
    def label_ids(self) -> list[int]:
        """Token id of each label, where each is one token."""
        assert self.trie.is_flat
        return list(self.trie.tokens)

    @property
    def images(self) -> ImageInputs | None:
        """The images in the prompts, if there are any; the ids of their tokens are then negative."""
        return self.catalogue.marks if isinstance(self.catalogue.marks, ImageInputs) else None

    @property
    def tokenizes_whole_prompts(self) -> bool:
        """Whether tokens span the ends of titles, so that titles cannot be tokenised once."""
        return self._fixed is None

    @cached_property
    def shares_lists(self) -> bool:
        """Whether questions can stand behind one list: the list comes first, ends with a token, and is kept as it is by
        the layers that read on. Recurrent layers have seen the questions before by then."""
        first = self.config.prompt_order == "candidates_first"
        return first and not self.tokenizes_whole_prompts and self._reads_on_alike

    @cached_property
    def _reads_on_alike(self) -> bool:
        return continues_side_by_side(self.config.model)

    def encode(self, examples: Sequence[Example]) -> list[Prompt]:
        """Prompts in the order of the examples, each within `max_prompt_tokens`.

        Titles are cut to `max_title_tokens`. If a prompt is still too long, the oldest history is dropped first,
        then titles are halved down to 4 tokens; candidates are never dropped.

        Raises:
            InputError: a prompt cannot fit; names the knobs to change.
        """
        titles = self.config.max_title_tokens
        limit = self.config.max_prompt_tokens
        shown = [example.history[-self.config.history_length :] for example in examples]
        prompts = []
        for start in range(0, len(examples), _AT_ONCE):  # cut the long ones before making the next
            chunk, histories = examples[start : start + _AT_ONCE], shown[start : start + _AT_ONCE]
            encoded = self._encode_as(chunk, histories, titles, self._fixed)
            for example, history, ids in zip(chunk, histories, encoded, strict=True):
                prompt = Prompt(ids, example.target)
                prompts.append(prompt if len(ids) <= limit else self._fit(example, history, prompt))
        return prompts

    def encode_shared(self, examples: Sequence[Example]) -> SharedPrompt:
        """Examples with the same candidates as one list, and one question per example in their order.

        List and question have the tokens of `encode` unless something is cut: titles are cut for all questions alike.
        Only where the encoder `shares_lists`.

        Raises:
            InputError: a prompt cannot fit; names the knobs to change.
        """
        limit, titles = self.config.max_prompt_tokens, self.config.max_title_tokens
        most = min(titles, SHORTEST_TITLE)
        while True:
            if self.catalogue.titles(titles).tokens is None:
                raise self._too_long(examples[0], limit + 1, titles)
            lines = _listed(examples[0].candidates, self.labels, self.config)
            listed = self._put_together([self._head, *lines], titles)
            questions = [self._question(example, titles, limit - len(listed)) for example in examples]
            longest = len(listed) + max(len(question.input_ids) for question in questions)
            if longest <= limit:
                return SharedPrompt(listed, questions)
            if titles == most:
                raise self._too_long(examples[0], longest, titles)
            titles = max(most, titles // 2)

    def _question(self, example: Example, titles: int, room: int) -> Prompt:
        """The tokens after the list, within `room` if they fit with one history item."""
        history = example.history[-self.config.history_length :]
        cut = titles if titles < self.config.max_title_tokens else None

        def without(dropped: int) -> Prompt:
            ids = self._put_together([*_beside(history[dropped:], self._asks), self._asks.sentence], titles)
            return Prompt(ids, example.target, dropped, cut)

        uncut = without(0)
        return (
            uncut
            if len(uncut.input_ids) <= room
            else without(fewest(len(history), lambda n: len(without(n).input_ids) <= room))
        )

    def _fit(self, example: Example, history: tuple[int, ...], prompt: Prompt) -> Prompt:
        limit, titles = self.config.max_prompt_tokens, self.config.max_title_tokens

        def without(dropped: int, titles: int) -> Prompt:
            ids = self._encode_as([example], [history[dropped:]], titles, self._fixed)[0]
            cut = titles if titles < self.config.max_title_tokens else None
            return replace(prompt, input_ids=ids, title_tokens=cut, history_dropped=dropped)

        most = len(history) - 1
        prompt = without(fewest(len(history), lambda n: len(without(n, titles).input_ids) <= limit), titles)
        while len(prompt.input_ids) > limit and titles > SHORTEST_TITLE:
            titles = max(SHORTEST_TITLE, titles // 2)
            prompt = without(most, titles)
        if len(prompt.input_ids) > limit:
            raise self._too_long(example, len(prompt.input_ids), titles)
        return prompt

    def _too_long(self, example: Example, needed: int, titles: int) -> InputError:
        rule = (
            f"a prompt of {len(example.candidates)} candidates needs {needed} tokens even with one history item and "
            f"titles of {titles} tokens"
        )
        images = "" if self.catalogue.marks is None else ", or `max_image_pixels`"
        hint = f"raise it to {needed} or lower `candidates`{images}"
        return InputError([Fault(rule, field="max_prompt_tokens", value=self.config.max_prompt_tokens, hint=hint)])

    def _encode_as(
        self,
        examples: Sequence[Example],
        histories: Sequence[tuple[int, ...]],
        title_tokens: int,
        fixed: dict[str, NDArray[np.int32]] | None,
    ) -> list[list[int]]:
        rendered = [
            _pieces(history, example.candidates, self.labels, self.config, self._asks)
            for example, history in zip(examples, histories, strict=True)
        ]
        titles = self.catalogue.titles(title_tokens)
        if fixed is None or titles.tokens is None:
            texts = [self._head + _text(pieces, titles.texts) + self._tail for pieces in rendered]
            prompts = self.catalogue.tokenize(texts)
        else:
            prompts = [_joined([self._head, *pieces], titles, fixed) for pieces in rendered]
        return [self._with_images(ids, pieces) for ids, pieces in zip(prompts, rendered, strict=True)]

    def _put_together(self, pieces: Sequence[Piece], title_tokens: int) -> list[int]:
        assert self._fixed is not None
        return self._with_images(_joined(pieces, self.catalogue.titles(title_tokens), self._fixed), pieces)

    def _with_images(self, ids: list[int], pieces: Sequence[Piece]) -> list[int]:
        return with_whole_images(
            self.catalogue.marks, ids, [piece[1] for piece in pieces if not isinstance(piece, str)]
        )

    def _tokenize_fixed(self) -> dict[str, NDArray[np.int32]] | None:
        """The tokens of each prompt piece that is not a title; those of the question run to the end of the prompt.

        None if a prompt joined from pieces differs from the tokens of the whole text.
        """
        titles = self.catalogue.titles(self.config.max_title_tokens)
        candidates = [i % len(titles.texts) for i in range(self.config.candidates)]
        lengths = {self.config.candidates, *map(self.config.candidates_in, range(self.config.epochs))}
        prompts = [
            _pieces(history, candidates[:length], self.labels, self.config, self._asks)
            for history, length in [(candidates[:2], self.config.candidates), *(([], n) for n in sorted(lengths))]
        ]
        texts = sorted({self._head, *(p for pieces in prompts for p in pieces if isinstance(p, str))})
        text_ids = self.catalogue.tokenize_pieces(texts)
        if text_ids is None or titles.tokens is None:
            return None
        sentence = self._asks.sentence
        sentence_ids = self.catalogue.tokenize([sentence + self._tail])[0]
        fixed = {
            text: np.array(ids, np.int32)
            for text, ids in zip([*texts, sentence], [*text_ids, sentence_ids], strict=True)
        }
        example = Example(0, tuple(candidates[:2]), tuple(candidates), 0)
        from_whole_text, from_pieces = (
            self._encode_as([example], [example.history], self.config.max_title_tokens, piece_ids)
            for piece_ids in (None, fixed)
        )
        return fixed if from_pieces == from_whole_text else None

    def _label_tokens(self) -> list[list[int]]:
        """The tokens of each label at the start of the answer; adding it must not change the prompt's own tokens."""
        before, *after = self.catalogue.tokenize([self._tail, *(self._tail + label for label in self.labels)])
        tokens = [ids[len(before) :] for ids in after]
        for label, ids, own in zip(self.labels, after, tokens, strict=True):
            if ids[: len(before)] != before or not own or self.tokenizer.unk_token_id in own:
                rule = "every label must be made of tokens that the model's tokenizer knows"
                raise InputError([Fault(rule, field="label_style", value=label)])
        return tokens

    def _label_trie(self, label_ids: list[list[int]], end: list[int]) -> LabelTrie:
        try:
            trie = LabelTrie.of(label_ids, end[0] if end else None)
        except ValueError as error:
            raise self._no_label(f"labels must be told apart by their tokens, and {error}") from error
        if trie.is_flat:
            return trie
        if self.config.objective == "token_ce":
            raise self._no_label("objective: token_ce needs labels of one token each")
        if not self._reads_on_alike:
            raise self._no_label(f"with {self.config.model}, whose layers are recurrent, each label must be one token")
        return trie

    def _no_label(self, rule: str) -> InputError:
        style = self.config.label_style
        hint = "label_style: letters, or id_tokens for more than 52 candidates"
        return InputError([Fault(rule, field="label_style", value=style, hint=hint)])

    def _are_tokens(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is one token as an answer, and in a line of the list."""
        question = ("{}." if self.config.label_position == "before" else ": {}\n").format
        ones = []
        for place in (lambda text: self._tail + text, question):
            empty, *filled = self.catalogue.tokenize([place(text) for text in ("", *texts)])
            ones.append([len(ids) == len(empty) + 1 for ids in filled])
        return [all(pair) for pair in zip(*ones, strict=True)]

    def _end_of_turn(self) -> list[int]:
        """The tokens that close an answer: up to the template's first special token, or the tokenizer's end of text."""
        closing = chat(self.tokenizer, _USER_MARK, _ANSWER_MARK).split(_ANSWER_MARK)[-1]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())
        ids = self.catalogue.tokenize([closing])[0]
        for position, token in enumerate(ids):
            if token in special:
                return ids[: position + 1]
        eos = self.tokenizer.eos_token_id
        return [eos] if isinstance(eos, int) else []


def _joined(pieces: Sequence[Piece], titles: Titles, fixed: dict[str, NDArray[np.int32]]) -> list[int]:
    table, count = titles.tokens, len(titles.texts)
    assert table is not None
    ids: list[int] = np.concatenate(
        [fixed[p] if isinstance(p, str) else table[p[0] * count + p[1]] for p in pieces]
    ).tolist()
    return ids


def with_whole_images(marks: ImageMarks | None, ids: list[int], items: Iterable[int]) -> list[int]:
    """The tokens with each image's one token replaced by all of its tokens, whose ids name its item.

    Args:
        items: whose titles stand in the text, in its order.
    """
    if marks is None:
        return ids
    pictured = [item for item in items if marks.counts[item]]
    replaced = np.array(ids)
    lengths, at = np.ones(len(ids), dtype=np.int64), np.flatnonzero(replaced == marks.token)
    replaced[at], lengths[at] = [-1 - item for item in pictured], [marks.counts[item] for item in pictured]
    expanded: list[int] = np.repeat(replaced, lengths).tolist()
    return expanded


def continues_side_by_side(model: str) -> bool:
    """Whether the model computes several continuations of a prompt side by side, as they are alone."""
    from reranker.modeling.architecture_check import architecture_of  # here, since it takes seconds
    from reranker.modeling.model_loading import describe

    return architecture_of(describe(model)).shares_lists


def fewest(items: int, fits: Callable[[int], bool]) -> int:
    """The fewest of `items` to drop so that the rest fits; at least one item stays."""
    return min(bisect_left(range(1, items), True, key=fits) + 1, items - 1)
