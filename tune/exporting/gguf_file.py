"""A merged model → a GGUF file, for llama.cpp and what is built on it: Llama's architecture (SmolLM2), Qwen2's and Qwen3's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reranker.errors import Fault, InputError

# By model type: the architecture, and how the tokenizer splits text before its merges, as llama.cpp calls it.
_ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, "smollm"),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, "qwen2"),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, "qwen2"),
}
_ELSEWHERE = "--form merged, then llama.cpp's convert_hf_to_gguf.py"


def check_architecture(model_type: str) -> None:
    """
    Raises:
        InputError: its GGUF form is not known here.
    """
    if model_type not in _ARCHITECTURES:
        rule = f"a GGUF file can be written for {', '.join(sorted(_ARCHITECTURES))} only"
        raise InputError([Fault(rule, field="model", value=model_type, hint=_ELSEWHERE)])


def save_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, saved: Path, path: Path, name: str) -> None:
    """Write the file: matrices in 16 bits (bf16 where the model is), vectors in fp32.

    Args:
        saved: a folder with the model's tokenizer, as transformers saves it.
        name: of the model, as programs show it.

    Raises:
        InputError: its GGUF form is not known here.
    """
    config: Any = model.config
    check_architecture(config.model_type)
    _check_details(config, tokenizer)
    architecture, splits = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, saved, config.vocab_size, splits)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    in_bf16 = model.dtype == torch.bfloat16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if in_bf16 else gguf.LlamaFileType.MOSTLY_F16)
    for key, weights in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise InputError([Fault("the GGUF format has no place for these weights", field="model", value=key)])
        values = weights.detach().float()
        if config.model_type == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            values = _as_rotated(values, heads)
        _add(writer, stored, values, in_bf16=in_bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_details(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if config.model_type == "llama" and config.vocab_size != 49152:  # Llama 3 splits text otherwise
        rule = "for Llama's architecture, a GGUF file can be written with SmolLM2's tokenizer only"
        raise InputError([Fault(rule, field="model", value=f"{config.vocab_size} tokens", hint=_ELSEWHERE)])
    splitter = type(getattr(tokenizer, "backend_tokenizer", tokenizer).model).__name__
    if splitter != "BPE":
        rule = "a GGUF file can be written with a byte-pair tokenizer only"
        raise InputError([Fault(rule, field="model", value=splitter, hint=_ELSEWHERE)])
    if config.rope_parameters.get("rope_type", "default") != "default":
        rule = "a GGUF file can be written only for a model whose RoPE is not scaled"
        raise InputError([Fault(rule, field="model", value=config.rope_parameters["rope_type"], hint=_ELSEWHERE)])


def _add(writer: gguf.GGUFWriter, name: str, values: Tensor, *, in_bf16: bool) -> None:
    table: NDArray[Any] = values.numpy()
    if table.ndim < 2:
        writer.add_tensor(name, table)
    elif in_bf16:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quantize(table, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, table.astype(np.float16))


def _as_rotated(weights: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring dimensions of Llama's heads, transformers the two halves."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, saved: Path, vocabulary: int, splits: str
) -> None:
    """Its tokens by their numbers; numbers that the model has and the tokenizer lacks get a name that is not used."""
    by_number = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(vocabulary):
        if number not in by_number:
            tokens.append(f"[PAD{number}]")
            kinds.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(by_number[number])
        special = number in added and added[number].special
        kinds.append(
            gguf.TokenType.CONTROL
            if special
            else gguf.TokenType.USER_DEFINED
            if number in added
            else gguf.TokenType.NORMAL
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    gguf.SpecialVocab(saved, load_merges=True, n_vocab=vocabulary).add_to_gguf(writer, quiet=True)
