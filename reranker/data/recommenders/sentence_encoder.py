"""Texts → their embeddings by a sentence encoder, computed once and kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from numpy.typing import NDArray

from reranker.data_config import ENCODER
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.storage.atomic_files import write_file
from reranker.storage.cache_folder import cache_folder
from reranker.storage.hub import hub_answers, why_silent
from reranker.storage.user_paths import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELD = "data.dense_model"
MOST_TOKENS = 128  # of a text; what follows is not read
_AT_ONCE, _SHOWN = 64, 3
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def embeddings(model: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """A vector of length 1 for each text, [texts, width]: the mean of its tokens' last states, normalised.

    Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019. On the CPU, in fp32.

    Args:
        model: a folder, or an id of the Hub.

    Raises:
        InputError: there is no such model, or it is no encoder of texts.
        EnvironmentFault: it is not here and can't be fetched, or can't be loaded.
    """
    encoder, info = _loaded("AutoModel", model, output_loading_info=True)
    if missing := [name for name in info["missing_keys"] if "pooler" not in name]:  # which is not used
        rule = f"the encoder must hold all its weights; these are missing: {', '.join(sorted(missing)[:_SHOWN])}"
        raise InputError([Fault(rule, field=FIELD, value=model)])
    digest = hashlib.sha256(_sample(encoder) + bytes([MOST_TOKENS]))
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = cache_folder() / "embeddings" / f"{digest.hexdigest()}.npy"
    if (stored := _stored(path)) is not None and len(stored) == len(texts):
        return stored
    made = _embedded(encoder, _loaded("AutoTokenizer", model), model, texts)
    buffer = io.BytesIO()
    np.save(buffer, made, allow_pickle=False)
    with contextlib.suppress(EnvironmentFault):  # then they are computed again, if need be
        write_file(path, buffer.getvalue())
    return made


def is_here(model: str) -> bool:
    """Whether the encoder can be loaded without a network.

    Raises:
        InputError: there can be no such encoder.
    """
    _check_name(model)
    if os.path.isdir(user_path(model)):
        return True
    try:
        _from_pretrained("AutoConfig", model, local_files_only=True)
        _from_pretrained("AutoTokenizer", model, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def _check_name(model: str) -> None:
    if not os.path.isdir(user_path(model)) and not _HUB_ID.fullmatch(model):
        rule = f"the encoder must be a folder that exists, or an id of the Hub such as {ENCODER}"
        raise InputError([Fault(rule, field=FIELD, value=model)])


def _loaded(auto_class: str, model: str, **options: Any) -> Any:
    _check_name(model)
    try:
        return _from_pretrained(auto_class, model, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        if os.path.isdir(user_path(model)):
            raise EnvironmentFault(f"the encoder {model!r} could not be loaded: {first_line(error)}") from error
    if not hub_answers():
        raise EnvironmentFault(
            f"the encoder {model!r} is not on this machine, and the Hub {why_silent()}; fetch it where there is a "
            f"network (hf download {model} --local-dir FOLDER) and name that folder as dense_model"
        )
    try:
        return _from_pretrained(auto_class, model, **options)
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | GatedRepoError):
            rule = "the Hub knows no such encoder, or you have no access to it (log in with `hf auth login`)"
            raise InputError([Fault(rule, field=FIELD, value=model)]) from error
        raise EnvironmentFault(f"the encoder {model!r} could not be loaded: {first_line(error)}") from error


def _from_pretrained(auto_class: str, model: str, **options: Any) -> Any:
    import transformers  # takes seconds
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = str(user_path(model)) if os.path.isdir(user_path(model)) else model
    return getattr(transformers, auto_class).from_pretrained(name, trust_remote_code=False, **options)


def _embedded(encoder: PreTrainedModel, tokenizer: Any, model: str, texts: Sequence[str]) -> NDArray[np.float32]:
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
        rule = f"the encoder must turn texts into a state for each token: {first_line(error)}"
        raise InputError([Fault(rule, field=FIELD, value=model)]) from error
    embedded = np.concatenate(parts)
    made = np.empty_like(embedded)
    made[order] = embedded
    return made


def _sample(encoder: PreTrainedModel) -> bytes:
    """Some numbers of each weight: a folder's name does not show when another encoder lies in it."""
    weights = [weight.detach().flatten() for weight in encoder.parameters()]
    return b"".join(weight[:: max(1, len(weight) // 64)][:64].float().numpy().tobytes() for weight in weights)


def _stored(path: os.PathLike[str]) -> NDArray[np.float32] | None:
    """What was kept; None if there is nothing, or if it is damaged."""
    try:
        stored: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return stored if stored.dtype == np.float32 and stored.ndim == 2 else None
