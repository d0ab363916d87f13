"""Item texts → a recommender that looks for items whose texts are like those of the history; it learns nothing of users."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from reranker.data.recommenders.linear_recommenders import Recommender
from reranker.data.recommenders.sentence_encoder import embeddings
from reranker.errors import Fault, InputError

LATEST = 3  # items of the history whose texts are the query
# Words, and each character of the scripts that are written without spaces
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_SATURATION, _BY_LENGTH = 1.2, 0.75


def has_words(texts: Sequence[str]) -> bool:
    """Whether any text has a word."""
    return any(_WORD.search(text) for text in texts)


def bm25(texts: Sequence[str]) -> Recommender:
    """The item's BM25 score for the words of the history's latest texts as one query.

    Source: Robertson and Zaragoza, The probabilistic relevance framework: BM25 and beyond, 2009, with the inverse
    document frequency of Lucene, which is never negative.

    Raises:
        InputError: no text has a word.
    """
    if not has_words(texts):
        raise InputError([Fault("bm25 needs item texts that have words", field="data.retriever", value="bm25")])
    words = [_WORD.findall(text.casefold()) for text in texts]
    lengths = np.array([len(row) for row in words])
    codes, vocabulary = pd.factorize(np.array([word for row in words for word in row], dtype=object))
    rows = np.repeat(np.arange(len(texts)), lengths)
    counts = csr_matrix((np.ones(len(codes)), (rows, codes)), shape=(len(texts), len(vocabulary)))
    frequency = np.bincount(counts.indices, minlength=len(vocabulary))
    rarity = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
    saturated_at = _SATURATION * (1 - _BY_LENGTH + _BY_LENGTH * lengths / lengths.mean())
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
