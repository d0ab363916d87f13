"""Texts → their embeddings by a sentence encoder, computed once and kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reranker.data.recommenders.hub_model import HubModel
from reranker.data_config import ENCODER
from reranker.errors import EnvironmentFault, first_line
from reranker.storage.atomic_files import write_file
from reranker.storage.cache_folder import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_TOKENS = 128  # of a text; what follows is not read
_AT_ONCE = 64


def embeddings(model: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """A vector of length 1 for each text, [texts, width]: the mean of its tokens' last states, normalised.

    Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019. On the CPU, in fp32.

    Args:
        model: a folder, or an id of the Hub.

    Raises:
        InputError: there is no such model, or it is no encoder of texts.
        EnvironmentFault: it is not here and can't be fetched, or can't be loaded.
    """
    named = encoder_of(model)
    encoder = named.whole("AutoModel", may_lack="pooler")  # which is not used
    tokenizer = named.loaded("AutoTokenizer")
    digest = hashlib.sha256(_sample(encoder) + bytes([MOST_TOKENS]))
    digest.update(repr(_tokens(named, tokenizer, texts[:: max(1, len(texts) // 64)])).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = cache_folder() / "embeddings" / f"{digest.hexdigest()}.npy"
    if (stored := _stored(path)) is not None and len(stored) == len(texts):
        return stored
    made = _embedded(encoder, named, tokenizer, texts)
    buffer = io.BytesIO()
    np.save(buffer, made, allow_pickle=False)
    with contextlib.suppress(EnvironmentFault):  # then they are computed again, if need be
        write_file(path, buffer.getvalue())
    return made


def encoder_of(model: str) -> HubModel:
    """The encoder by its name."""
    return HubModel(model, "encoder", "data.dense_model", ENCODER)


def _tokens(named: HubModel, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Of some texts: with the same weights, another tokenizer makes other embeddings."""
    try:
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=MOST_TOKENS)["input_ids"]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise named.fault(f"the encoder must turn texts into tokens: {first_line(error)}") from error
    return ids


def _embedded(encoder: PreTrainedModel, named: HubModel, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    import torch

    encoder = encoder.float().eval()
    order = sorted(range(len(texts)), key=lambda text: len(texts[text]))  # so that little is padded
    parts: list[NDArray[np.float32]] = []
    try:
        with torch.no_grad():
            for start in range(0, len(texts), _AT_ONCE):
                batch = [texts[i] for i in order[start : start + _AT_ONCE]]
                tokens = tokenizer(batch, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
                states = encoder(**tokens).last_hidden_state
                weights = tokens["attention_mask"][:, :, None].float()
                pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
                parts.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise named.fault(f"the encoder must turn texts into a state for each token: {first_line(error)}") from error
    embedded = np.concatenate(parts)
    if not np.isfinite(embedded).all():
        raise named.fault("the encoder must turn texts into finite numbers; some of its are NaN or infinite")
    made = np.empty_like(embedded)
    made[order] = embedded
    return made


def _sample(encoder: PreTrainedModel) -> bytes:
    """Some numbers of each weight: a folder's name does not show when another encoder lies in it."""
    weights = [weight.detach().flatten() for weight in encoder.parameters()]
    return b"".join(weight[:: max(1, len(weight) // 64)][:64].float().numpy().tobytes() for weight in weights)


def _stored(path: os.PathLike[str]) -> NDArray[np.float32] | None:
    """What was kept; None if there is nothing, or if it can't be used."""
    try:
        stored: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return stored if stored.dtype == np.float32 and stored.ndim == 2 and np.isfinite(stored).all() else None
