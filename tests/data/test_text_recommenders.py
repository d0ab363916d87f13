"""BM25 and a sentence encoder as rankers: against their formulas, and what they refuse."""

from __future__ import annotations

import math
import pickle
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import BaselinePlan
from reranker.data.baselines.baseline_ranks import baseline_ranks
from reranker.data.candidates.first_stage import Retriever
from reranker.data.example import Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders import sentence_encoder
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.recommenders.sentence_encoder import embeddings
from reranker.data.recommenders.text_recommenders import LATEST, bm25, dense, words_of
from reranker.data.split import split
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError
from reranker.storage.cache_folder import cache_folder

TEXTS = ["The Red Door", "the red, red wine (1999)", "Blue Door", "Wine", "Ночь в Париже", "紅い扉", "紅葉", "!?"]
CONFIG = TrialConfig(candidates=10)


def formula(query: list[list[str]], documents: list[list[str]], of: int) -> float:
    """BM25 with k1 = 1.2, b = 0.75 and Lucene's idf, without its constant factor k1 + 1."""
    mean, tf = sum(map(len, documents)) / len(documents), Counter(documents[of])
    score = 0.0
    for word in (word for text in query for word in text):
        frequency = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        score += idf * tf[word] / (tf[word] + 1.2 * (0.25 + 0.75 * len(documents[of]) / mean))
    return score


def test_bm25_is_its_formula_with_the_latest_texts_as_the_query():
    words = [
        ["the", "red", "door"], ["the", "red", "red", "wine", "1999"], ["blue", "door"], ["wine"],
        ["ночь", "в", "париже"], ["紅", "い", "扉"], ["紅", "葉"], [],
    ]  # fmt: skip
    fitted, everything = bm25(TEXTS), np.arange(8)[None]
    for history in ((0,), (1, 3), (5,), (7,), (4, 0, 1)):
        expected = [formula([words[item] for item in history], words, item) for item in range(8)]
        np.testing.assert_allclose(fitted.scores_of([history], everything)[0], expected, atol=1e-12)
        np.testing.assert_allclose(fitted.scores([history])[0], expected, atol=1e-12)
    assert LATEST == 3
    assert np.array_equal(fitted.scores_of([(2, 3, 4, 0, 1)], everything), fitted.scores_of([(4, 0, 1)], everything))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी फ़िल्में", ["हिन्दी", "फ़िल्में"]),  # vowels are marks on the letters before them
        ("Cafe\u0301 CAF\u00c9", ["café", "café"]),  # two spellings of one word
        ("ＡＢＣ ﬁne", ["abc", "fine"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),  # written without spaces, as Japanese is
        ("紅い扉・𠮷", ["紅", "い", "扉", "𠮷"]),
        ("❤️ 👍 -", []),
    ],
)
def test_words_are_whole_in_every_script(text, words):
    assert words_of(text) == [unicodedata.normalize("NFKC", word) for word in words]


def world(texts: list[str]) -> Interactions:
    """Three users of all items but the last, in other orders."""
    items = len(texts)
    orders = [np.roll(np.arange(items - 1), shift).astype(np.int32) for shift in range(3)]
    return Interactions(["a", "b", "c"], [f"i{i}" for i in range(items)], texts, orders, [], "")


def test_bm25_without_words_is_refused_as_a_first_stage_and_left_out_as_a_baseline():
    data = world(["!", "…", "?", "--", "( )", "'"])
    with pytest.raises(InputError, match="bm25 needs item texts that have words"):
        Retriever("bm25", data.sequences, data.item_texts)
    found = baseline_ranks(
        data,
        split(data),
        RankedLists.of([Example(0, (0,), (4, 1), 0)]),
        "validation",
        BaselinePlan(("bm25", "popularity")),
    )
    assert found.left_out == {"bm25": "no item text has a word"}
    assert list(found.ranks) == ["random", "popularity"]


def test_bm25_makes_retrieved_lists_and_is_a_baseline_on_them():
    data = RerankingData.prepare(
        DemoData(users=100, candidate_mode="retrieval", retriever="bm25", candidate_order="retriever")
    )
    lists, texts = data.validation(CONFIG), data.interactions.item_texts
    for example in lists[::20]:
        words = {word for item in example.history[-LATEST:] for word in texts[item].split()}
        assert words & set(texts[example.candidates[0]].split()), "the first one shares a word with the history"
    found = data.baselines(CONFIG, "validation", BaselinePlan(("bm25",)))
    assert list(found.ranks) == ["random", "bm25", "retriever"]
    whole = found.ranks["bm25"].greater + found.ranks["bm25"].ties >= found.ranks["retriever"].greater
    assert whole.all(), "the order of its lists is one of its own scores, whose ties popularity breaks"


# A sentence encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A small random BERT that knows the words of some texts."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["red", "door", "wine", "blue", "the", "silly", "clown"]
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8"
    )
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=140,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


SHOWN = ["the red door", "wine", "blue wine and a red door", "", "silly clown " * 90]


@pytest.mark.usefixtures("own_cache")
def test_a_text_s_embedding_is_the_mean_of_its_tokens_states_normalised(encoder):
    found = embeddings(str(encoder), SHOWN)
    tokenizer, model = BertTokenizerFast.from_pretrained(encoder), BertModel.from_pretrained(encoder).eval()
    for text, row in zip(SHOWN, found, strict=True):
        with torch.no_grad():
            tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
            mean = model(**tokens).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)
    fitted = dense(SHOWN, str(encoder))
    np.testing.assert_allclose(fitted.scores([(0, 1)])[0], found @ (found[0] + found[1]), atol=1e-5)


@pytest.mark.usefixtures("own_cache")
def test_embeddings_are_computed_once_and_again_if_the_file_is_damaged(encoder, monkeypatch):
    first, made = embeddings(str(encoder), SHOWN), []
    whole = sentence_encoder._embedded
    monkeypatch.setattr(sentence_encoder, "_embedded", lambda *args: made.append(1) or whole(*args))
    assert np.array_equal(embeddings(str(encoder), SHOWN), first)
    assert not made
    (kept,) = (cache_folder() / "embeddings").iterdir()
    kept.write_bytes(kept.read_bytes()[:90])
    assert np.array_equal(embeddings(str(encoder), SHOWN), first)
    embeddings(str(encoder), SHOWN[:2])
    assert len(made) == 2


@pytest.mark.usefixtures("own_cache")
def test_an_encoder_of_which_a_weight_is_no_number_is_a_sentence(encoder, tmp_path):
    model = BertModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] = math.nan  # of wine
    model.save_pretrained(tmp_path)
    BertTokenizerFast.from_pretrained(encoder).save_pretrained(tmp_path)
    assert np.isfinite(embeddings(str(tmp_path), ["the red door"])).all()
    with pytest.raises(InputError, match="the encoder must turn texts into finite numbers") as told:
        embeddings(str(tmp_path), SHOWN)
    assert told.value.faults[0].field == "data.dense_model"


@pytest.mark.usefixtures("own_cache")
def test_another_tokenizer_makes_other_embeddings_of_the_same_weights(encoder, tmp_path):
    BertModel.from_pretrained(encoder).save_pretrained(tmp_path)
    words = (encoder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]), encoding="utf-8")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    assert not np.allclose(embeddings(str(encoder), SHOWN), embeddings(str(tmp_path), SHOWN))


@pytest.mark.usefixtures("own_cache")
def test_a_dense_first_stage_takes_its_embeddings_along(encoder, monkeypatch):
    data = RerankingData.prepare(
        DemoData(users=60, candidate_mode="retrieval", retriever="dense", dense_model=str(encoder))
    )
    lists = data.validation(CONFIG)
    monkeypatch.setattr(sentence_encoder, "encoder_of", None)  # another machine need not have the encoder
    stage = pickle.loads(pickle.dumps(data)).sampler._first_stage
    histories = [example.history for example in lists]
    assert [
        sorted(row)
        for row in stage.top(histories, 10, histories, np.ones(len(data.interactions.item_ids), bool)).tolist()
    ] == [sorted(e.candidates) for e in lists]


def test_the_encoder_counts_for_the_fingerprint_where_it_makes_lists_or_negatives(encoder):
    def fingerprint(**settings) -> str:
        return RerankingData.prepare(DemoData(users=60, **settings)).interactions.fingerprint

    assert fingerprint() == fingerprint(dense_model=str(encoder))
    assert fingerprint() != fingerprint(retriever="dense", dense_model=str(encoder))


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("no-such-folder", InputError, "must be a folder that exists, or an id of the Hub such as"),
        (
            "nobody/nothing",
            EnvironmentFault,
            "is not on this machine, and the Hub is switched off by HF_HUB_OFFLINE; fetch it",
        ),
    ],
)
def test_an_encoder_that_is_missing_is_a_sentence(name, error, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=said) as told:
        embeddings(name, SHOWN)
    assert "\n" not in str(told.value)


def test_a_folder_without_weights_or_with_those_of_another_model_is_a_sentence(encoder, tmp_path):
    for file in encoder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EnvironmentFault, match="could not be loaded"):
        embeddings(str(tmp_path), SHOWN)
    save_file({"pooler.dense.bias": torch.zeros(16)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="the encoder must hold all its weights; these are missing: embeddings"):
        embeddings(str(tmp_path), SHOWN)


@pytest.mark.usefixtures("own_cache")
def test_a_dense_baseline_ranks_by_similarity(encoder):
    data = RerankingData.prepare(DemoData(users=60, dense_model=str(encoder)))
    found = data.baselines(CONFIG, "validation", BaselinePlan(("dense",)))
    lists = RankedLists.of(data.validation(CONFIG))
    assert np.array_equal(
        found.ranks["dense"].greater, lists.ranks(dense(data.interactions.item_texts, str(encoder)).scores_of).greater
    )
