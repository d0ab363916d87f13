"""How close a training step comes to what the GPU can do: FLOP utilisation by tokens a step, and by what is left out.

    python -m bench.gpu [--quick] [--shapes qwen3-0.6b …]

The peak is that of a bf16 product of 8192³, measured here. Useful FLOPs of a step: 4 × parameters without embeddings +
7 × length × (query heads × head size) × layers + 6 × LoRA's parameters, a token (forward, and backward without the
gradients of frozen weights). The bases are random, of Qwen3's shapes; the loop is a plain one: forward, backward, fused
AdamW. "plain trl" is its SFTTrainer on the same rows, of which the last token is the completion. "estimated" is what the
plan says of such a pass, without the device's context. Each figure is the median of 20 steps, or of as many as 3 s take, 5 at least. Compiled is measured last, at one
size. On a machine without a GPU tiny shapes run in fp32, to show that the bench works: those figures mean nothing.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import PeftModel
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.common import arguments, machine, write
from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.modeling.checkpoints.model_shape import Shape
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.lora.fused_lora import fuse
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.memory.memory_estimate import GIB, PassSize, estimate
from reranker.modeling.model_loading import load_tokenizer

TINY = Shape(2, 64, 4, 2, 16, 128, 1000, qk_norm=True)
PLAIN, NF4 = "plain trl", "answers, nf4"  # nf4 where bitsandbytes is installed
WAYS = (PLAIN, "full logits", "answers, inputs cast", "answers", "answers, checkpointed", "answers, bf16 adapter", NF4)
COMPILED = "answers, compiled"  # a minute or so before its first step, so not at every size
CONTEXT_GIB = 0.8  # of the device, in the estimate
LEAST, MOST_SECONDS = 5, 3.0  # steps that are timed at least, and for how long at most


def base(shape: Shape, dtype: torch.dtype, device: str) -> Qwen3ForCausalLM:
    """A randomly initialised model of this shape."""
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
                intermediate_size=shape.intermediate, num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, tie_word_embeddings=shape.tied,
            )
        )  # fmt: skip
    torch.set_default_dtype(torch.float32)
    return model


def quantise(model: Qwen3ForCausalLM, dtype: torch.dtype, device: str) -> None:
    """Hold the linear layers of the blocks in nf4, as a base is loaded for training."""
    import bitsandbytes

    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    packed = bitsandbytes.nn.Linear4bit(
                        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
                    )
                    packed.weight = bitsandbytes.nn.Params4bit(
                        layer.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
                    )
                    setattr(parent, name, packed.to(device))


def plain_steps(model: PeftModel, rows: int, length: int, device: str, count: int) -> list[float]:
    """Seconds of each step of trl's SFTTrainer as it comes, on rows of random tokens."""
    marks: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            warm = marks[2:]
            enough = len(warm) > count or (len(warm) > LEAST and warm[-1] - warm[0] > MOST_SECONDS)
            control.should_training_stop = enough

    ids = torch.randint(3, 900, (rows, length)).tolist()
    example = [{"input_ids": row, "completion_mask": [0] * (length - 1) + [1]} for row in ids]
    with tempfile.TemporaryDirectory() as scratch:
        options = SFTConfig(
            output_dir=scratch, per_device_train_batch_size=rows, max_steps=count + 4, learning_rate=1e-4,
            activation_checkpointing=False, max_length=None, report_to="none", disable_tqdm=True, save_strategy="no",
            use_cpu=device == "cpu", loss_type="nll", completion_only_loss=True, bf16=device == "cuda",
        )  # fmt: skip
        tokenizer = load_tokenizer("demo-tiny")  # for its padding alone
        dataset = Dataset.from_list(example * (count + 4))
        SFTTrainer(model, options, train_dataset=dataset, processing_class=tokenizer, callbacks=[Watch()]).train()
    return [end - start for start, end in pairwise(marks[2:])]


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / statistics.median(_timed(lambda: a @ b, device, 200))


def step_of(way: str, model: PeftModel, rows: int, length: int, device: str) -> Callable[[], None]:
    """One optimiser step of `rows` prompts of `length` tokens."""
    ids = torch.randint(3, 900, (rows, length), device=device)
    labels = torch.arange(20, device=device)
    targets = torch.randint(0, 20, (rows,), device=device)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
    run: Any = torch.compile(model) if way.endswith("compiled") else model
    mixed = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def step() -> None:
        with mixed:
            if way == "full logits":
                logits = run(input_ids=ids, use_cache=False).logits.float()
                F.cross_entropy(logits[:, -2], ids[:, -1]).backward()  # type: ignore[no-untyped-call]
            else:
                with only_answers(model, labels):
                    logits = run(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
                    F.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(way: str, shape: Shape, rows: int, length: int, device: str, repeats: int) -> dict[str, float]:
    """Tokens a second, useful FLOP/s and GiB, or no figures where it does not fit."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = TrialConfig(lora_rank=16)
    frozen_base = base(shape, dtype, device)
    if way == NF4:
        quantise(frozen_base, dtype, device)
        config = config.model_copy(update={"quantisation": "nf4"})
    model = attach_lora(frozen_base, config)
    if way.endswith("bf16 adapter"):
        model = model.to(dtype)
    elif device == "cuda" and way in ("answers", "answers, checkpointed", NF4):  # as in training
        fuse(model)
    if way.endswith("checkpointed"):
        config = config.model_copy(update={"gradient_checkpointing": True})
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    lora = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = shape.parameters - shape.embeddings
    per_token = 4 * frozen + 7 * length * shape.heads * shape.head_dim * shape.layers + 6 * lora
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        if way == PLAIN:
            seconds = statistics.median(plain_steps(model, rows, length, device, repeats))
        else:
            seconds = statistics.median(_timed(step_of(way, model.train(), rows, length, device), device, repeats))
    except torch.OutOfMemoryError:
        return {}
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return {
        "tokens_per_second": rows * length / seconds,
        "flops": per_token * rows * length / seconds,
        "gib": memory,
        "estimated": estimate(config, shape, PassSize(rows, length), on_gpu=True).total / GIB - CONTEXT_GIB,
    }


def _timed(call: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each call, after three that are not counted; fewer than `repeats` where they take long."""
    seconds: list[float] = []
    while len(seconds) < 3 + repeats and (len(seconds) < 3 + LEAST or sum(seconds[3:]) < MOST_SECONDS):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[3:]


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="the small model, fewer steps")
    parser.add_argument("--shapes", nargs="+", choices=["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"], metavar="NAME")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if device == "cpu":
        torch.set_num_threads(1)
    names = args.shapes or (["qwen3-0.6b"] if args.quick else ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"])
    shapes = {name: shape for name in names if (shape := MODELS[name].shape)} if device == "cuda" else {"tiny": TINY}
    length, batches = (1024, (2, 8, 32)) if device == "cuda" else (64, (2, 4))
    peak = peak_flops(device, dtype)
    print(f"{machine()}\npeak of a square product in {dtype}: {peak / 1e12:.2f} TFLOP/s; prompts of {length} tokens\n")
    print(f"{'shape':<12}{'way':<24}{'tokens/step':>12}{'tokens/s':>11}{'utilisation':>13}{'GiB':>7}{'estimated':>11}")
    found: dict[str, Any] = {"peak_flops": peak, "rows": []}
    ways = [way for way in WAYS if way != NF4 or importlib.util.find_spec("bitsandbytes")]
    runs = [(name, rows, way) for name in shapes for rows in batches for way in ways]
    if device == "cuda":
        runs += [(name, batches[1], COMPILED) for name in shapes]
    try:
        for name, rows, way in runs:
            got = measure(way, shapes[name], rows, length, device, LEAST if args.quick else 20)
            found["rows"].append({"shape": name, "way": way, "tokens": rows * length, **got})
            told = (
                f"{got['tokens_per_second']:>11.0f}{got['flops'] / peak:>13.1%}{got['gib']:>7.1f}{got['estimated']:>11.1f}"
                if got
                else "  does not fit"
            )
            print(f"{name:<12}{way:<24}{rows * length:>12}{told}", flush=True)
            torch.compiler.reset()
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    finally:
        write(args, "gpu", found)  # also what was measured before it was stopped


if __name__ == "__main__":
    main()
