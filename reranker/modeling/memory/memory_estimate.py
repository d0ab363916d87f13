"""A configuration and its model's shape → an estimate of the training's memory, without loading anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_shape import Shape, Tower
from reranker.modeling.checkpoints.precision import in_bf16
from reranker.modeling.checkpoints.quantisation import NF4_BYTES

GIB = 2**30
_CUDA_CONTEXT = 0.8 * GIB  # of the driver and its libraries, per process
_CPU_LIBRARIES = 0.7 * GIB  # torch, transformers, trl and Ray in a worker process
_AMPERE = 8.0  # compute capability from which a GPU has bf16
_SLACK = 1.1  # fragmentation on a GPU
_CPU_SLACK = 1.5  # on a CPU, measured with SmolLM2-135M in fp32 and bf16: 7.6 and 4.4 GiB
MOST_KEPT = 512 * 2**20  # bytes of what a frozen vision tower made of images, in the host's memory
_ANSWER_POSITIONS = 3  # of token_ce: before the answer, the label, the end of the turn


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one worker's device.

    Attributes:
        weights: the frozen base.
        adapter: LoRA's matrices with their gradients and AdamW's two moments, and with a second stage what they were when it
            began; all in fp32.
        activations: kept from the forward pass of one micro batch for its backward pass, and the logits.
        rest: libraries, the device's context, and fragmentation.
    """

    weights: float
    adapter: float
    activations: float
    rest: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.adapter + self.activations + self.rest


@dataclass(frozen=True)
class PassSize:
    """The size of a forward pass, whose rows are prompts, or lists with questions after them, or histories with candidates.

    Attributes:
        rows: prompts, or lists, or histories.
        width: tokens of a prompt, or of a question, or of a candidate.
        prefix: tokens of a list or a history; 0 if rows are prompts.
        branches: questions per list, or candidates per history.
        pointwise: whether rows are histories.
    """

    rows: int
    width: int
    prefix: int = 0
    branches: int = 1
    pointwise: bool = False

    @property
    def examples(self) -> int:
        """Prompts, or questions of all lists, or candidates of all histories."""
        return self.rows * self.branches

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * (self.prefix + self.branches * self.width)

    def __str__(self) -> str:
        if not self.prefix:
            return f"{self.rows} × {self.width} tokens"
        if self.pointwise:
            histories = "1 history" if self.rows == 1 else f"{self.rows} histories"
            return f"{histories} of {self.prefix} tokens with {self.branches} candidates of {self.width}"
        lists = "1 list" if self.rows == 1 else f"{self.rows} lists"
        questions = "1 question" if self.branches == 1 else f"{self.branches} questions"
        return f"{lists} of {self.prefix} tokens with {questions} of {self.width}"


def estimate(config: TrialConfig, shape: Shape, size: PassSize, *, on_gpu: bool) -> MemoryEstimate:
    """A worker's peak memory, during the backward pass of its largest forward pass.

    A layer keeps for each token: the inputs of its norms (in fp32), the inputs of the linear layers with an adapter,
    the inputs and outputs of attention, the two sides of the gated MLP, one of them after its activation, and the
    low-rank products. Counted with torch's saved_tensors_hooks (tests/modeling/test_memory_estimate.py). Added to this
    is what one layer's backward pass needs at once. With gradient checkpointing only each layer's input is kept;
    automatic counts as without.

    Args:
        on_gpu: on a GPU that supports bf16.
    """
    width = 2 if in_bf16(config, on_gpu=on_gpu) else 4
    lora: float = sum(config.lora_rank * (i + o) for i, o in _targets(shape, config.lora_targets)) * shape.layers
    targets = _targets(shape, config.lora_targets)
    inputs = shape.hidden + (shape.intermediate + shape.hidden if config.lora_targets == "all_linear" else 0)
    dropped = sum(i for i, _ in targets) if config.lora_dropout else 0
    norms = 2 * shape.hidden + ((shape.heads + shape.kv_heads) * shape.head_dim if shape.qk_norm else 0)
    token = (inputs + dropped + 3 * shape.intermediate) * width + (norms + len(targets) * config.lora_rank) * 4
    layer = size.tokens * token + _kept_by_attention(shape, size) * width
    at_once: float = size.tokens * (4 * shape.intermediate + 4 * shape.hidden) * width
    kept: float = layer * shape.layers
    if config.gradient_checkpointing is True:
        kept = layer + size.tokens * shape.hidden * width * shape.layers
    positions = size.examples * (_ANSWER_POSITIONS if config.objective == "token_ce" else 1)
    logits = positions * shape.vocabulary * (width + (8 if config.objective == "token_ce" else 0))
    weights: float = shape.parameters * width
    if shape.tower is not None and config.vision_lora:
        lora += sum(config.lora_rank * (i + o) for i, o in shape.tower.targets)
        kept += _kept_by_tower(shape.tower, config, size.tokens, width)
    adapter = lora * 4 * (5.0 if config.dpo_epochs else 4.0)
    if config.quantisation == "nf4":  # of what is not an embedding; the largest layer is unpacked for each product
        weights = shape.embeddings * width + (shape.parameters - shape.embeddings) * NF4_BYTES
        at_once += max(i * o for i, o in _targets(shape, "all_linear")) * width
    if shape.shards > 1:  # the layer that computes is whole, and so is the next one
        weights -= shape.layers * shape.layer * width * (1 - 1 / shape.shards)
        at_once += 2 * shape.layer * width
    activations = kept + at_once + logits
    images = MOST_KEPT if config.image_mode == "raw_image" and not config.vision_lora and not on_gpu else 0
    libraries, slack = (_CUDA_CONTEXT, _SLACK) if on_gpu else (_CPU_LIBRARIES, _CPU_SLACK)
    rest = libraries + images + (slack - 1) * (weights + adapter + activations)
    return MemoryEstimate(weights, adapter, activations, rest)


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory in bytes; `free` is what other processes leave of it.

    Attributes:
        bf16: whether it is a GPU that computes in bf16.
    """

    device: str
    total: float
    free: float
    on_gpu: bool
    bf16: bool = False


def device_memory() -> DeviceMemory:
    """Of the smallest GPU here, else of the host."""
    return gpu_memory() or host_memory()


def gpu_memory() -> DeviceMemory | None:
    """Of the smallest GPU that this process may see, asked of the driver without using the GPU; None without one."""
    if not shutil.which("nvidia-smi") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits"]
    completed = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = [line.rsplit(",", 3) for line in completed.stdout.strip().splitlines() if line.count(",") >= 3]
    if completed.returncode != 0 or not rows:
        return None
    name, total, free, capability = min(rows, key=lambda row: float(row[1]))
    bf16 = float(capability) >= _AMPERE
    return DeviceMemory(name.strip(), float(total) * 2**20, float(free) * 2**20, on_gpu=True, bf16=bf16)


def host_memory() -> DeviceMemory:
    """Of this machine."""
    memory = psutil.virtual_memory()
    return DeviceMemory("this machine's memory", float(memory.total), float(memory.available), on_gpu=False)


def _kept_by_attention(shape: Shape, size: PassSize) -> int:
    """How many numbers one layer keeps: queries, keys, values, and the output.

    Prompts have no mask. Shared lists have one for each of the heads that share keys, and repeat keys and values for
    each question; the outputs of both parts are copied once more to join them.
    """
    heads, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if not size.prefix:
        return size.tokens * (2 * heads + 2 * kv)
    seen, groups = size.prefix + size.width, shape.heads // shape.kv_heads
    masks = groups * (size.rows * size.prefix**2 + size.examples * size.width * seen)
    return size.tokens * (3 * heads + 2 * kv) + size.examples * seen * 2 * kv + masks


def _kept_by_tower(tower: Tower, config: TrialConfig, tokens: int, width: int) -> float:
    """Bytes that a tower with an adapter keeps for a pass, as though all of its tokens were those of images: its norms'
    inputs and outputs, queries, keys, values, attention's output, the MLP's inputs, and the low-rank products. Counted
    as the language model's.
    """
    patch = (11 * tower.hidden + 2 * tower.intermediate) * width + 4 * config.lora_rank * 4
    layers = 1 if config.gradient_checkpointing is True else tower.layers
    checkpoints = tower.layers * tower.hidden * width if config.gradient_checkpointing is True else 0
    mergers = tower.mergers * (4 * tower.merged * tower.hidden * width + 2 * config.lora_rank * 4)
    return float(tokens * (tower.merged * (layers * patch + checkpoints) + mergers))


def _targets(shape: Shape, names: str) -> list[tuple[int, int]]:
    """(input, output) widths of the linear layers of one block that get an adapter."""
    heads, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    q, k, v, o = (shape.hidden, heads), (shape.hidden, kv), (shape.hidden, kv), (heads, shape.hidden)
    if names == "qv":
        return [q, v]
    mlp = [(shape.hidden, shape.intermediate)] * 2 + [(shape.intermediate, shape.hidden)]
    return [q, k, v, o] + (mlp if names == "all_linear" else [])
