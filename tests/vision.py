"""A small random Qwen3-VL in a folder as the Hub has them, and a shop whose items have images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reranker.data.assemble import RerankingData
from reranker.data.sources import demo
from reranker.modeling.model_loading import load_tokenizer
from tests.pictures import noise, shop

MARKS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
TITLES = demo.TITLES[:12]
BARE = TITLES[-1]  # has no image
SIZES = [(64, 48), (40, 90), (32, 32), (200, 50)]  # of images, one after the other
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
}  # fmt: skip
TOWER = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
    "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def config_of(vocabulary: int, ids: list[int], **tower: Any) -> Qwen3VLConfig:
    """Of a small model with so many tokens, and the ids of MARKS."""
    start, image, end = ids
    return Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": vocabulary},
        vision_config={**TOWER, **tower},
        image_token_id=image,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )


def make_vision_model(folder: Path, **tower: Any) -> Path:
    """With the demo's tokenizer and the tokens of images; its answers depend on what it sees.

    Args:
        tower: other sizes than TOWER's.
    """
    tokenizer = load_tokenizer("demo-tiny")
    tokenizer.add_tokens(MARKS, special_tokens=True)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config_of(len(tokenizer), tokenizer.convert_tokens_to_ids(MARKS), **tower))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "embed" in name else 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 1024, "longest_edge": 65536})
    processor.save_pretrained(folder)
    return folder


def shop_with_images(folder: Path, **values: object) -> RerankingData:
    """Twelve items of the demo's words, all but the last with an image."""
    for number in range(len(TITLES)):
        noise(folder / f"{number}.png", number, SIZES[number % len(SIZES)])
    config = shop(folder, {title: f"{number}.png" for number, title in enumerate(TITLES)})
    rows = "".join(f"{title},{title},{'' if title == BARE else f'{i}.png'}\n" for i, title in enumerate(TITLES))
    config.items.write_text("item_id,text,image_path\n" + rows, encoding="utf-8")
    images = {"missing": "text"}
    return RerankingData.prepare(type(config).model_validate({**config.model_dump(), "images": images, **values}))
