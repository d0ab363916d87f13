"""A training step of this project against plain SFTTrainer: same base, adapter, prompts and batches.

    python -m bench.step [--quick]

Plain is trl's SFTTrainer on prompt and completion, with its own collator, loss (of the completion) and padding. Each
measurement is a process of its own; the two alternate. Speed is prompt tokens without padding a second after the first
steps; memory is what the process's peak lies above what it held before training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from reranker.catalogue import Catalogue
from reranker.config import DemoData, MovieLensData, TrialConfig
from reranker.data import RerankingData
from reranker.datasets import is_here
from reranker.errors import TrainingStopped
from reranker.models import BUNDLED, attach_lora, load_base, load_tokenizer
from reranker.prompts import PromptEncoder
from reranker.sft import fine_tune

WARM_UP = 1  # steps that are not counted
MODELS = {"qwen3, 256 × 4, 152k": "wide", "smollm2-135m": "smollm2-135m"}


def wide_vocabulary(folder: Path) -> Path:
    """A random Qwen3 of 4 layers, 256 wide, with Qwen3's vocabulary of 152k; it reads with the demo's tokenizer."""
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=256, num_hidden_layers=4, intermediate_size=768,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED / "demo-tiny").save_pretrained(folder)
    return folder


def task(model: str) -> tuple[TrialConfig, RerankingData]:
    movielens = MovieLensData()
    if model == "smollm2-135m" and is_here(movielens):
        data = RerankingData.prepare(movielens)
    else:
        data = RerankingData.prepare(DemoData(users=200, interactions_per_user=20))
    config = TrialConfig(
        model=model, candidates=20, history_length=20, examples_per_user=4, effective_batch=8, micro_batch=8,
        learning_rate=1e-4, max_prompt_tokens=2048,
    )  # fmt: skip
    return config, data


class _Clock:
    """Seconds a step, after the first ones."""

    def __init__(self, steps: int) -> None:
        self.last, self.marks = steps + WARM_UP, [time.perf_counter()]

    def ended(self) -> bool:
        self.marks.append(time.perf_counter())
        return len(self.marks) > self.last

    @property
    def seconds(self) -> float:
        return self.marks[-1] - self.marks[WARM_UP]


def ours(config: TrialConfig, data: RerankingData, steps: int) -> _Clock:
    clock = _Clock(steps)
    with contextlib.suppress(TrainingStopped):
        fine_tune(config, data, should_stop=clock.ended)
    return clock


def plain(config: TrialConfig, data: RerankingData, steps: int) -> _Clock:
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    prompts = encoder.encode(data.training_examples(config, epoch=0)[: (steps + WARM_UP + 1) * config.effective_batch])
    rows = [
        {
            "input_ids": [*prompt.input_ids, *encoder.answer_ids[prompt.target]],
            "completion_mask": [0] * len(prompt.input_ids) + [1] * len(encoder.answer_ids[prompt.target]),
        }
        for prompt in prompts
    ]
    clock = _Clock(steps)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = clock.ended()

    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, per_device_train_batch_size=config.micro_batch or 1, learning_rate=config.learning_rate,
            activation_checkpointing=False, max_length=None, report_to="none", disable_tqdm=True, save_strategy="no",
            use_cpu=not torch.cuda.is_available(), seed=config.seed, loss_type="nll",
        )  # fmt: skip
        model = attach_lora(load_base(config, torch.device("cpu")), config)
        SFTTrainer(
            model, arguments, train_dataset=Dataset.from_list(rows), processing_class=encoder.tokenizer,
            callbacks=[Watch()],
        ).train()  # fmt: skip
    return clock


def measure(way: Callable[[TrialConfig, RerankingData, int], _Clock], model: str, steps: int) -> dict[str, float]:
    """Tokens a second and MiB, of this process."""
    torch.set_num_threads(1)
    config, data = task(model)
    encoder = PromptEncoder(Catalogue(load_tokenizer(model), data.interactions.item_texts), config)
    some = encoder.encode(data.training_examples(config, epoch=0)[:64])
    length = statistics.mean(len(prompt.input_ids) for prompt in some)
    load_base(config, torch.device("cpu"))
    held = psutil.Process().memory_info().rss
    clock = way(config, data, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return {
        "tokens_per_second": length * config.effective_batch * steps / clock.seconds,
        "peak_mib": (peak - held) / 2**20,
        "prompt_tokens": length,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer steps, once each")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "MODEL", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        way, model, steps = args.child
        print(json.dumps(measure({"ours": ours, "plain": plain}[way], model, int(steps))))
        return
    repeats, steps = (1, 2) if args.quick else (3, 5)
    found: dict[str, Any] = {"machine": machine()}
    print(
        f"{found['machine']}\n{repeats} runs of {steps} steps of 8 prompts each, alternating; medians (lowest–highest)\n"
    )
    print(
        f"{'base':<24}{'prompt':>8}{'ours tok/s':>20}{'plain tok/s':>20}{'ratio':>8}{'ours MiB':>10}{'plain MiB':>11}{'ratio':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            place = str(wide_vocabulary(Path(folder))) if model == "wide" else model
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
            for _ in range(repeats):
                for way, measured in runs.items():
                    measured.append(_in_a_process(way, place, steps))
            found[name] = runs
            speed = {way: [run["tokens_per_second"] for run in measured] for way, measured in runs.items()}
            memory = {way: statistics.median(run["peak_mib"] for run in measured) for way, measured in runs.items()}
            ratio = statistics.median(speed["ours"]) / statistics.median(speed["plain"])
            print(
                f"{name:<24}{runs['ours'][0]['prompt_tokens']:>8.0f}{_spread(speed['ours']):>20}{_spread(speed['plain']):>20}"
                f"{ratio:>7.1f}×{memory['ours']:>10.0f}{memory['plain']:>11.0f}{memory['ours'] / memory['plain']:>7.2f}×",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


def machine() -> str:
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{psutil.cpu_count()} CPUs ({platform.machine()})"
    )
    return f"{device}, torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, one thread"


def _in_a_process(way: str, model: str, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.step", "--child", way, model, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"


if __name__ == "__main__":
    main()
