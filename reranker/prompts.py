"""Examples → token ids that end where the model must name a label. The only prompt template, for training and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from reranker.candidates import Example
from reranker.config import LETTERS, TrialConfig
from reranker.errors import Fault, InputError

QUESTION = "Answer with the label of the candidate that comes next."
_SHORTEST_TITLE = 4  # tokens: below this a title says nothing
_USER_MARK, _ANSWER_MARK = "USER0MARK", "ANSWER0MARK"


@dataclass(frozen=True)
class Prompt:
    """A question in tokens. `target` is the position of the true label among the list's labels."""

    input_ids: list[int]
    target: int
    history_dropped: int = 0  # oldest items left out to fit max_prompt_tokens
    title_tokens: int | None = None  # titles were cut to this many tokens to fit


def labels(count: int) -> list[str]:
    """The first `count` labels: A…Z a…z."""
    return list(LETTERS[:count])


def render(history: Sequence[str], candidates: Sequence[str], config: TrialConfig) -> str:
    """The user's message: candidates with their labels, history oldest first, and the question."""
    named = zip(labels(len(candidates)), candidates, strict=True)
    if config.label_position == "after":
        lines = [f"{title}: {label}" for label, title in named]
    else:
        lines = [f"{label}. {title}" for label, title in named]
    listed = "\n".join(["Candidates:", *lines])
    seen = "\n".join(["Seen by the user, oldest first:", *(f"- {title}" for title in history)])
    blocks = [listed, seen] if config.prompt_order == "candidates_first" else [seen, listed]
    return "\n\n".join([*blocks, QUESTION])


def chat(tokenizer: PreTrainedTokenizerBase, content: str, answer: str | None = None) -> str:
    """The conversation as text, in the tokenizer's chat template with thinking switched off.

    Without an answer it ends where the model must begin one. A tokenizer without a template gets plain text.
    """
    if tokenizer.chat_template is None:
        return f"{tokenizer.bos_token or ''}{content}\n\nAnswer:\n{answer or ''}"
    messages = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=answer is None, enable_thinking=False
    )
    assert isinstance(text, str)
    return text


class PromptEncoder:
    """Turns examples into prompts for one tokenizer, one catalogue and one configuration.

    Attributes:
        label_ids: token id of each of the list's labels, in order; length `config.candidates`.
        answer_ids: for each label the tokens of the whole answer: the label and the end of the turn.
        pad_id: token id that fills a batch.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, item_texts: Sequence[str], config: TrialConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self._head, self._tail = chat(tokenizer, _USER_MARK).split(_USER_MARK)
        self.label_ids = [self._label_id(label) for label in labels(config.candidates)]
        end = self._end_of_turn()
        self.answer_ids = [[label, *end] for label in self.label_ids]
        pad = tokenizer.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
        self._texts = [_one_line(text, special) for text in item_texts]
        self._titles = {config.max_title_tokens: self._cut(config.max_title_tokens)}

    def encode(self, examples: Sequence[Example]) -> list[Prompt]:
        """Prompts in the order of the examples, each within `max_prompt_tokens`.

        Titles are cut to `max_title_tokens`. Where a prompt is still too long, the oldest history goes first,
        then titles are halved down to 4 tokens; candidates are never dropped.

        Raises:
            InputError: a prompt cannot fit; names the knobs to change.
        """
        titles = self.config.max_title_tokens
        limit = self.config.max_prompt_tokens
        shown = [example.history[-self.config.history_length :] for example in examples]
        encoded = self._encode_as(examples, shown, titles)
        prompts = []
        for example, history, ids in zip(examples, shown, encoded, strict=True):
            prompt = Prompt(ids, example.target)
            prompts.append(prompt if len(ids) <= limit else self._fit(example, history, prompt))
        return prompts

    def check_vocabulary(self) -> None:
        """Refuse a tokenizer that cannot read the catalogue, as the demo models' can't read any but the demo's.

        Raises:
            InputError: over 5% of the titles' tokens are unknown to the tokenizer.
        """
        tokens = [token for ids in self._tokenize(self._texts[:1000]) for token in ids]
        unknown = tokens.count(self.tokenizer.unk_token_id) if self.tokenizer.unk_token_id is not None else 0
        if unknown > 0.05 * len(tokens):
            rule = f"the model must know the words of the catalogue; {unknown / len(tokens):.0%} are unknown to it"
            hint = "the demo models read the demo catalogue only"
            raise InputError([Fault(rule, field="model", value=self.config.model, hint=hint)])

    def _fit(self, example: Example, history: tuple[int, ...], prompt: Prompt) -> Prompt:
        full, limit, titles = len(history), self.config.max_prompt_tokens, self.config.max_title_tokens
        while len(prompt.input_ids) > limit and (len(history) > 1 or titles > _SHORTEST_TITLE):
            if len(history) > 1:
                history = history[1:]
            else:
                titles = max(_SHORTEST_TITLE, titles // 2)
                prompt = replace(prompt, title_tokens=titles)
            prompt = replace(
                prompt,
                input_ids=self._encode_as([example], [history], titles)[0],
                history_dropped=full - len(history),
            )
        if len(prompt.input_ids) > limit:
            raise InputError(
                [
                    Fault(
                        f"a prompt of {len(example.candidates)} candidates needs {len(prompt.input_ids)} tokens even with "
                        f"one history item and titles of {titles} tokens",
                        field="max_prompt_tokens",
                        value=limit,
                        hint=f"raise it to {len(prompt.input_ids)} or lower `candidates`",
                    )
                ]
            )
        return prompt

    def _encode_as(
        self, examples: Sequence[Example], histories: Sequence[tuple[int, ...]], title_tokens: int
    ) -> list[list[int]]:
        if title_tokens not in self._titles:
            self._titles[title_tokens] = self._cut(title_tokens)
        titles = self._titles[title_tokens]
        texts = [
            self._head
            + render([titles[i] for i in history], [titles[i] for i in example.candidates], self.config)
            + self._tail
            for example, history in zip(examples, histories, strict=True)
        ]
        return self._tokenize(texts)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoding: Any = self.tokenizer(list(texts), add_special_tokens=False)
        ids: list[list[int]] = encoding["input_ids"]
        return ids

    def _cut(self, tokens: int) -> list[str]:
        cut = []
        for text, ids in zip(self._texts, self._tokenize(self._texts), strict=True):
            cut.append(text if len(ids) <= tokens else str(self.tokenizer.decode(ids[:tokens])).strip())
        return cut

    def _label_id(self, label: str) -> int:
        """The label's token where the answer begins: the prompt's own tokens must not change by adding it."""
        before, after = self._tokenize([self._tail, self._tail + label])
        if after[:-1] != before or len(after) != len(before) + 1 or after[-1] == self.tokenizer.unk_token_id:
            raise InputError(
                [Fault("every label must be one token of the model's tokenizer", field="label_style", value=label)]
            )
        return after[-1]

    def _end_of_turn(self) -> list[int]:
        """The tokens that close an answer: up to the template's first special token, or the tokenizer's end of text."""
        closing = chat(self.tokenizer, _USER_MARK, _ANSWER_MARK).split(_ANSWER_MARK)[-1]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())
        ids = self._tokenize([closing])[0]
        for position, token in enumerate(ids):
            if token in special:
                return ids[: position + 1]
        eos = self.tokenizer.eos_token_id
        return [eos] if isinstance(eos, int) else []


def _one_line(text: str, special: Sequence[str]) -> str:
    """A title that cannot break the prompt: on one line, and without the tokenizer's control tokens."""
    for token in special:
        if token in text:
            text = text.replace(token, " ")
    return " ".join(text.split())
