"""A prompt for each candidate: its text, what is cut to fit, and which models can't be asked."""

from __future__ import annotations

import copy

import pytest
from tokenizers.processors import TemplateProcessing

from reranker.config import TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.errors import InputError
from reranker.modeling.model_loading import load_tokenizer
from reranker.pointwise_question import about, question_form
from reranker.prompting.pointwise_prompts import PointwiseEncoder, encoder_of
from reranker.prompting.prompts import PromptEncoder
from tests.yes_no import save_answering_base

POINTWISE = TrialConfig(model="demo-tiny", scoring="pointwise", candidates=4)
TITLES = [
    "Dusty Saddle",
    "Lonesome Sheriff",
    "Untamed Ranch",
    "Stellar Probe",
    "Lunar Comet",
    "Haunted Crypt Grave Coven",
]
EXAMPLE = Example(0, (0, 1, 2), (3, 4, 5, 0), 2)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Catalogue:
    return Catalogue(load_tokenizer(save_answering_base(tmp_path_factory.mktemp("base"))), TITLES)


def test_each_prompt_is_the_question_of_one_candidate(qwen3_tokenizer):
    encoder = PointwiseEncoder(Catalogue(qwen3_tokenizer, TITLES), POINTWISE)
    (prompt,) = encoder.encode([EXAMPLE])
    before, after = question_form(qwen3_tokenizer)
    for item, ids in zip(EXAMPLE.candidates, prompt.whole, strict=True):
        text = f"{before}{about(TITLES[:3])} {TITLES[item]}{after}"
        assert qwen3_tokenizer.decode(ids) == text
        assert ids == qwen3_tokenizer.encode(text, add_special_tokens=False)
    assert [qwen3_tokenizer.decode([token]) for token in encoder.trie.tokens] == ["yes", "no"]


def test_a_question_begins_as_every_text_of_the_model_does(words):
    tokenizer = copy.deepcopy(words.tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    template = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template  # as Gemma's and Llama's
    (prompt,) = PointwiseEncoder(Catalogue(tokenizer, TITLES), POINTWISE).encode([EXAMPLE])
    (as_it_was,) = PointwiseEncoder(words, POINTWISE).encode([EXAMPLE])
    assert prompt.beginning == [tokenizer.bos_token_id, *as_it_was.beginning]


def test_the_oldest_history_goes_first_then_titles_are_cut_for_all_candidates_alike(words):
    (whole,) = PointwiseEncoder(words, POINTWISE).encode([EXAMPLE])
    for limit, dropped in ((whole.longest, 0), (whole.longest - 1, 1), (whole.longest - 3, 2)):
        config = POINTWISE.model_copy(update={"max_prompt_tokens": limit})
        (cut,) = PointwiseEncoder(words, config).encode([EXAMPLE])
        assert (cut.history_dropped, cut.title_tokens) == (dropped, None)
        assert cut.items == whole.items
        (shorter,) = PointwiseEncoder(words, POINTWISE).encode([Example(0, EXAMPLE.history[dropped:], *_asked())])
        assert cut.beginning == shorter.beginning
    long = Catalogue(words.tokenizer, [" ".join([title] * 5) for title in TITLES])
    config = POINTWISE.model_copy(update={"max_prompt_tokens": whole.longest + 6})
    (cut,) = PointwiseEncoder(long, config).encode([EXAMPLE])
    assert (cut.history_dropped, cut.title_tokens) == (2, 8)
    assert cut.longest <= whole.longest + 6


def _asked() -> tuple[tuple[int, ...], int]:
    return EXAMPLE.candidates, EXAMPLE.target


def test_what_can_never_fit_is_told(words):
    with pytest.raises(InputError, match=r"a prompt of one candidate needs \d+ tokens even with one history item"):
        PointwiseEncoder(words, POINTWISE.model_copy(update={"max_prompt_tokens": 16})).encode([EXAMPLE])


def test_only_as_much_history_counts_as_the_configuration_says(words):
    config = POINTWISE.model_copy(update={"history_length": 1})
    (short,) = PointwiseEncoder(words, config).encode([EXAMPLE])
    (alone,) = PointwiseEncoder(words, POINTWISE).encode([Example(0, EXAMPLE.history[-1:], *_asked())])
    assert short == alone


def test_a_model_without_the_words_can_t_be_asked(demo_tokenizer):
    rule = r"with scoring: pointwise the model must have a token of its own for yes"
    with pytest.raises(InputError, match=rule):
        encoder_of(Catalogue(demo_tokenizer, TITLES), POINTWISE)
    assert isinstance(encoder_of(Catalogue(demo_tokenizer, TITLES), TrialConfig(model="demo-tiny")), PromptEncoder)
