"""The knob `lora_targets` → the layers that get an adapter, in peft's notation. Does not import peft."""

from __future__ import annotations

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # of a block like Llama's
LORA_TARGETS: dict[str, str | list[str]] = {
    "all_linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qv": ["q_proj", "v_proj"],
}
