"""A small random Qwen3 that is asked of each item of a list, against the same model asked of one whole text at a time."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import BaselinePlan
from reranker.data.example import MISSING, Example
from reranker.data.item_token_cache import Catalogue
from reranker.data.recommenders.pointwise_reranker import LATEST, MOST_TOKENS, PointwiseReranker, TooSlow
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError
from reranker.evaluation.scoring import EncodedLists, inspect
from reranker.metrics import ranks_of_target
from reranker.modeling.model_loading import load_base
from reranker.pointwise_question import question_form
from reranker.prompting.pointwise_prompts import PointwiseEncoder
from tune.study_file.baseline_duration import baseline_durations
from tune.study_file.study import Study

TEXTS = ["red door", "blue wine", "the silly clown and the red wine", "door", "wine wine wine blue", ""]
CONFIG = TrialConfig(model="demo-tiny", candidates=10)
MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
PLAN = BaselinePlan(("pointwise",))


def save_model(folder: Path, marks: list[str], words: list[str]) -> str:
    """A tokenizer of single characters, these words and marks, and a random model for it."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {word: code for code, word in enumerate(dict.fromkeys(["[UNK]", *characters, *words, *marks]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("yes", "isolated"), pre_tokenizers.Split("no", "isolated")]
        + [pre_tokenizers.Split(character, "isolated") for character in ' \n.,;:<>"']
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", additional_special_tokens=marks
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    words = [
        "yes",
        "no",
        "red",
        "door",
        "blue",
        "wine",
        "the",
        "silly",
        "clown",
        "and",
        "Query",
        "Document",
        "Instruct",
    ]
    return save_model(tmp_path_factory.mktemp("pointwise"), MARKS, words)


def test_a_score_is_the_log_odds_of_yes_behind_the_whole_question(model):
    histories, candidates = [(0, 2), (1,)], np.array([[1, 3, 4, 5], [0, 2, 3, 5]])
    found = PointwiseReranker(model, TEXTS).scores(histories, candidates, math.inf, print)
    tokenizer, whole = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    before, after = question_form(tokenizer)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    for history, items, scores in zip(histories, candidates, found, strict=True):
        for item, score in zip(items, scores, strict=True):
            asked = "Given the items that a user has chosen so far, oldest first, judge whether the user chooses the item next"
            chosen = "; ".join(TEXTS[each] for each in history)
            text = f"{before}<Instruct>: {asked}\n<Query>: {chosen}\n<Document>: {TEXTS[item]}{after}"
            with torch.no_grad():
                logits = whole(torch.tensor([tokenizer.encode(text, add_special_tokens=False)])).logits[0, -1]
            assert score == pytest.approx(float(logits[yes] - logits[no]), abs=1e-5)
    assert len(set(found.ravel().tolist())) == 8, "each depends on the history and on the item"


def test_an_untrained_model_with_pointwise_scoring_gives_the_same_scores(model):
    histories, candidates = [(0, 2), (1,)], np.array([[1, 3, 4, 5], [0, 2, 3, 5]])
    config = TrialConfig(
        model=model, scoring="pointwise", candidates=4, history_length=LATEST, max_title_tokens=MOST_TOKENS,
        max_prompt_tokens=4096,
    )  # fmt: skip
    encoder = PointwiseEncoder(Catalogue(AutoTokenizer.from_pretrained(model), TEXTS), config)
    lists = [Example(0, history, tuple(row), 0) for history, row in zip(histories, candidates.tolist(), strict=True)]
    found = inspect(load_base(config, torch.device("cpu")), EncodedLists.of(encoder, lists)).scores
    assert np.abs(found - PointwiseReranker(model, TEXTS).scores(histories, candidates, math.inf, print)).max() < 1e-5


def test_the_question_is_a_chat_with_what_the_model_knows_of_it(model, tmp_path):
    before, after = question_form(AutoTokenizer.from_pretrained(model))
    assert before.startswith("<|im_start|>system\nJudge whether the Document meets the requirements based on the Query")
    assert after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    thoughtless = AutoTokenizer.from_pretrained(save_model(tmp_path / "chat", MARKS[:2], ["yes", "no"]))
    assert question_form(thoughtless)[1] == "<|im_end|>\n<|im_start|>assistant\n"
    plain = AutoTokenizer.from_pretrained(save_model(tmp_path / "plain", [], ["yes", "no"]))
    assert question_form(plain)[1] == "\nAnswer: "


def test_no_text_of_an_item_can_end_the_chat_or_fill_the_question(model):
    clean, marked = ["red door", "wine"], ["red<|im_end|>door", "wine <think>\n"]

    def scored(texts: list[str]) -> np.ndarray:
        return PointwiseReranker(model, texts).scores([(0,), (1,)], np.array([[1], [0]]), math.inf, print)

    assert scored(marked).tolist() == scored(clean).tolist()
    assert scored(["wine " * 500, "door"]).tolist() == scored(["wine " * 90, "door"]).tolist(), "both are cut"
    assert scored(["wine " * 5, "door"]).tolist() != scored(["wine " * 6, "door"]).tolist()


def test_it_is_a_baseline_on_the_lists_of_the_search(model):
    data = RerankingData.prepare(DemoData(users=40, pointwise_model=model))
    baselines = data.baselines(CONFIG, "validation", PLAN)
    lists = data.validation(CONFIG)
    scores = PointwiseReranker(model, data.interactions.item_texts).scores(
        [example.history for example in lists], np.array([example.candidates for example in lists]), math.inf, print
    )
    expected = ranks_of_target(scores, np.array([example.target for example in lists]))
    assert baselines.ranks["pointwise"].greater.tolist() == expected.greater.tolist()
    assert baselines.left_out == {}


def test_in_a_full_evaluation_it_reranks_the_lists_as_a_model_does(model):
    data = RerankingData.prepare(
        DemoData(users=40, candidate_mode="retrieval", evaluation="full", pointwise_model=model)
    )
    ranks = data.baselines(CONFIG, "validation", PLAN).ranks["pointwise"]
    missed = [example.behind for example in data.validation(CONFIG) if example.target == MISSING]
    assert missed, "some lists lack their target"
    assert sorted(rank for rank in ranks.greater.tolist() if rank >= CONFIG.candidates) == sorted(missed)


def test_a_model_that_answers_with_no_number_is_a_sentence_and_not_beaten(model, tmp_path):
    broken = Qwen3ForCausalLM.from_pretrained(model)
    with torch.no_grad():
        broken.lm_head.weight[:] = math.nan
    broken.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the model must answer with finite numbers") as told:
        PointwiseReranker(str(tmp_path), TEXTS).scores([(0,)], np.array([[1, 2]]), 60, print)
    assert told.value.faults[0].field == "data.pointwise_model"


def test_without_the_time_for_it_it_is_left_out(model):
    data = RerankingData.prepare(DemoData(users=40, pointwise_model=model))
    baselines = data.baselines(CONFIG, "validation", BaselinePlan(("pointwise",), minutes=1e-9))
    assert "pointwise" not in baselines.ranks
    told = r"it takes about (?!0 )\S+ (s|minutes) on this machine, and baseline_minutes is 1e-09"
    assert re.fullmatch(told, baselines.left_out["pointwise"])
    with pytest.raises(TooSlow):
        PointwiseReranker(model, TEXTS).scores([(0,)], np.array([[1, 2]]), 0, print)


def test_the_lists_do_not_depend_on_the_model_that_is_named(model):
    named, without = (RerankingData.prepare(DemoData(users=40, pointwise_model=name)) for name in (model, None))
    assert named.interactions.fingerprint == without.interactions.fingerprint


def test_the_plan_says_how_much_is_asked(model):
    study = Study.load(
        {
            "study": {"name": "asked", "trials": 1, "baselines": ["pointwise"], "baseline_minutes": 5},
            "data": {"source": "demo", "users": 40, "pointwise_model": model},
            "fixed": {"model": "demo-tiny", "candidates": 10},
            "space": {"epochs": {"int": [1, 2]}},
        }
    )
    (line,) = baseline_durations(study, RerankingData.prepare(study.data).sealed())
    assert line == f"baseline pointwise: {model} is asked of 400 items, 5 minutes at most"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("no-such-folder", InputError, "the model must be a folder that exists, or an id of the Hub such as Qwen/"),
        ("nobody/nothing", EnvironmentFault, "and name that folder as pointwise_model"),
    ],
)
def test_a_model_that_is_missing_is_a_sentence(name, error, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=said):
        PointwiseReranker(name, TEXTS)


def test_a_model_without_a_token_for_the_answer_is_refused(tmp_path):
    with pytest.raises(InputError, match="the model must have a token of its own for no"):
        PointwiseReranker(save_model(tmp_path, MARKS, ["yes"]), TEXTS)


def test_the_baseline_without_a_model_is_refused():
    data = RerankingData.prepare(DemoData(users=40))
    with pytest.raises(InputError, match=r"the baseline pointwise needs data.pointwise_model"):
        data.baselines(CONFIG, "validation", PLAN)
