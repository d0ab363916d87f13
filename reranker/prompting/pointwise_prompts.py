"""Examples → for each candidate a prompt that ends where the model must say yes or no; those of a list begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from reranker.config import TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.errors import Fault, InputError
from reranker.modeling.images.image_inputs import ImageInputs
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.pointwise_question import about, answer_tokens, question_form
from reranker.prompting.prompts import SHORTEST_TITLE, PromptEncoder, continues_side_by_side, fewest, with_whole_images

YES, NO = range(2)  # among the labels


@dataclass(frozen=True)
class PointwisePrompt:
    """One list as a prompt for each candidate: what all of them begin with, and the rest of each, as tokens."""

    beginning: list[int]
    items: list[list[int]]
    history_dropped: int = 0  # oldest items dropped to fit max_prompt_tokens
    title_tokens: int | None = None  # titles were cut to this many tokens to fit

    @property
    def longest(self) -> int:
        """Tokens of the longest of the prompts."""
        return len(self.beginning) + max(map(len, self.items))

    @property
    def whole(self) -> list[list[int]]:
        """The prompts one by one, in the order of the candidates."""
        return [self.beginning + item for item in self.items]


class PointwiseEncoder:
    """Turns examples into prompts with one candidate each, in the words of `reranker.pointwise_question`.

    The four parts of a prompt, the form before the question, the question with the history, the candidate and the form
    behind it, are tokenised one by one, so a history has the same tokens before each of its candidates.

    Attributes:
        trie: the tokens of yes and no.
        pad_id: token id used for padding.

    Raises:
        InputError: the model has no token of its own for yes or for no.
    """

    def __init__(self, catalogue: Catalogue, config: TrialConfig) -> None:
        self.catalogue, self.tokenizer, self.config = catalogue, catalogue.tokenizer, config
        try:
            tokens = answer_tokens(self.tokenizer)
        except ValueError as error:
            rule = f"with scoring: pointwise {error}"
            raise InputError(
                [Fault(rule, field="model", value=config.model, hint="scoring: listwise asks for labels instead")]
            ) from None
        self.trie = LabelTrie.of([[token] for token in tokens], None)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self._before, self._after = catalogue.tokenize(question_form(self.tokenizer))

    @property
    def images(self) -> ImageInputs | None:
        """The images in the prompts, if there are any; the ids of their tokens are then negative."""
        return self.catalogue.marks if isinstance(self.catalogue.marks, ImageInputs) else None

    @property
    def shares_lists(self) -> bool:
        """Whether several examples can stand behind one list: there is none."""
        return False

    @cached_property
    def shares_beginnings(self) -> bool:
        """Whether what a list's prompts begin with can be computed once for all of them."""
        return continues_side_by_side(self.config.model)

    def encode(self, examples: Sequence[Example]) -> list[PointwisePrompt]:
        """In the order of the examples; each prompt is within `max_prompt_tokens`.

        Titles are cut to `max_title_tokens`. If a list's longest prompt is still too long, the oldest history is dropped
        first, for all of its candidates alike, then titles are halved down to 4 tokens.

        Raises:
            InputError: a prompt cannot fit; names the knobs to change.
        """
        return [self._encoded(example) for example in examples]

    def _encoded(self, example: Example) -> PointwisePrompt:
        limit, titles = self.config.max_prompt_tokens, self.config.max_title_tokens
        history = example.history[-self.config.history_length :]
        items = self._items(example.candidates, titles)

        def without(dropped: int) -> PointwisePrompt:
            cut = titles if titles < self.config.max_title_tokens else None
            return PointwisePrompt(self._beginning(history[dropped:], titles), items, dropped, cut)

        prompt = without(0)
        if prompt.longest > limit:
            prompt = without(fewest(len(history), lambda dropped: without(dropped).longest <= limit))
        while prompt.longest > limit and titles > SHORTEST_TITLE:
            titles = max(SHORTEST_TITLE, titles // 2)
            items = self._items(example.candidates, titles)
            prompt = without(len(history) - 1)
        if prompt.longest > limit:
            rule = f"a prompt of one candidate needs {prompt.longest} tokens even with one history item and titles of {titles} tokens"
            images = "" if self.catalogue.marks is None else " or lower `max_image_pixels`"
            hint = f"raise it to {prompt.longest}{images}"
            raise InputError([Fault(rule, field="max_prompt_tokens", value=limit, hint=hint)])
        return prompt

    def _beginning(self, history: Sequence[int], title_tokens: int) -> list[int]:
        texts = self.catalogue.titles(title_tokens).texts
        (asked,) = self.catalogue.tokenize([about(texts[item] for item in history)])
        return [*self._before, *with_whole_images(self.catalogue.marks, asked, history)]

    def _items(self, candidates: Sequence[int], title_tokens: int) -> list[list[int]]:
        texts = self.catalogue.titles(title_tokens).texts
        tokens = self.catalogue.tokenize([f" {texts[item]}" for item in candidates])
        return [
            [*with_whole_images(self.catalogue.marks, ids, [item]), *self._after]
            for item, ids in zip(candidates, tokens, strict=True)
        ]


Encoder = PromptEncoder | PointwiseEncoder


def encoder_of(catalogue: Catalogue, config: TrialConfig) -> Encoder:
    """The encoder of the question that the configuration asks.

    Raises:
        InputError: the model's tokens do not do for its answers.
    """
    return PointwiseEncoder(catalogue, config) if config.scoring == "pointwise" else PromptEncoder(catalogue, config)
