"""The demo's smallest base with the words yes and no, which point-wise questions are answered with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from reranker.modeling.checkpoints.model_files import BUNDLED


def save_answering_base(folder: Path, name: str = "demo-tiny") -> str:
    """The base and its tokenizer, whose two new words have random embeddings; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (BUNDLED / name).glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    known = len(words)
    for word in ("yes", "no"):
        words[word] = len(words)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(str(BUNDLED / name), dtype=torch.float32)
    old = model.get_input_embeddings().weight.data
    torch.manual_seed(0)
    new = old.std() * torch.randn(len(words), old.shape[1])
    new[:known] = old[:known]
    model.resize_token_embeddings(len(words), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(new)
    model.save_pretrained(str(folder))
    return str(folder)
