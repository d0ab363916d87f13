"""Item texts → a recommender that looks for items whose texts are like those of the history; it learns nothing of users."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from reranker.data.recommenders.linear_recommenders import Recommender
from reranker.data.recommenders.sentence_encoder import embeddings
from reranker.errors import Fault, InputError

LATEST = 3  # items of the history whose texts are the query
# Scripts that are written without spaces: Thai and Lao, Burmese, Khmer, Japanese and Chinese
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_MARKS = range(0x300, 0x1F000)  # where there are marks that belong to the letter before, such as vowels of Hindi
_SATURATION, _BY_LENGTH = 1.2, 0.75


def has_words(texts: Sequence[str]) -> bool:
    """Whether any text has a word."""
    return any(map(words_of, texts))


def words_of(text: str) -> list[str]:
    """Its words, and each letter of the scripts that are written without spaces; without case, and in one spelling of what
    Unicode has several of.

    >>> words_of("Cafe\u0301, CAFÉ: 紅い")
    ['café', 'café', '紅', 'い']
    """
    words: list[str] = _word().findall(unicodedata.normalize("NFKC", text).casefold())
    return words


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in _MARKS if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"[^\W{_UNSPACED}]+(?:[{marks}]+[^\W{_UNSPACED}]*)*|(?=\w)[{_UNSPACED}][{marks}]*")


def bm25(texts: Sequence[str], counted: NDArray[np.bool_] | None = None) -> Recommender:
    """The item's BM25 score for the words of the history's latest texts as one query.

    Source: Robertson and Zaragoza, The probabilistic relevance framework: BM25 and beyond, 2009, with the inverse
    document frequency of Lucene, which is never negative.

    Args:
        counted: the items whose texts tell how rare a word is, and how long a text; None: all.

    Raises:
        InputError: no text has a word.
    """
    if not has_words(texts):
        raise InputError([Fault("bm25 needs item texts that have words", field="data.retriever", value="bm25")])
    words = [words_of(text) for text in texts]
    is_counted = np.ones(len(texts), dtype=np.bool_) if counted is None else counted
    lengths = np.array([len(row) for row in words])
    codes, vocabulary = pd.factorize(np.array([word for row in words for word in row], dtype=object))
    rows = np.repeat(np.arange(len(texts)), lengths)
    counts = csr_matrix((np.ones(len(codes)), (rows, codes)), shape=(len(texts), len(vocabulary)))
    frequency = np.bincount(counts[is_counted].indices, minlength=len(vocabulary))
    rarity = np.log1p((is_counted.sum() - frequency + 0.5) / (frequency + 0.5))
    usual = lengths[is_counted].mean() or 1.0
    saturated_at = _SATURATION * (1 - _BY_LENGTH + _BY_LENGTH * lengths / usual)
    weighed = counts.copy()
    weighed.data /= weighed.data + np.repeat(saturated_at, np.diff(counts.indptr))
    weighed.data *= rarity[counts.indices]
    return Recommender(counts, np.zeros(len(texts)), LATEST, weighed)


def dense(texts: Sequence[str], model: str) -> Recommender:
    """The item's cosine similarity to the history's latest texts, summed, by a sentence encoder.

    Raises:
        InputError, EnvironmentFault: the encoder can't be used, or is not here and can't be fetched.
    """
    embedded = embeddings(model, texts).astype(np.float64)
    return Recommender(embedded, np.zeros(len(texts)), LATEST, embedded)
