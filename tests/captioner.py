"""A small random BLIP that writes the demo's words about an image, in a folder as the Hub has them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BlipConfig, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from reranker.modeling.model_loading import load_tokenizer

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_captioner(folder: Path, seed: int = 0) -> Path:
    """What it writes depends on the image, and makes no sense."""
    tokenizer = load_tokenizer("demo-tiny")
    end = tokenizer.eos_token_id
    config = BlipConfig(
        text_config={
            **_SIZES, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "projection_dim": 32,
            "bos_token_id": end, "eos_token_id": end, "sep_token_id": end, "pad_token_id": tokenizer.unk_token_id,
        },
        vision_config={**_SIZES, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
