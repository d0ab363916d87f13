"""A training step of this project against plain SFTTrainer: same base, adapter, examples and batches.

    python -m bench.step [--quick]

Plain is trl's SFTTrainer on prompt and completion, with its own collator, loss (of the completion) and padding, in passes
of 4, and in fp32 (its own default is bf16, which is slower on most CPUs). Each measurement is a process of its own with
one thread; the two alternate. Speed is prompt tokens without padding a second after the first step; memory is what the
process's peak lies above what it held before training.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.common import MODELS, arguments, in_a_process, machine, model_places, some_lists, spread, task, write
from reranker.candidates import Example
from reranker.catalogue import Catalogue
from reranker.config import TrialConfig
from reranker.data import RerankingData
from reranker.errors import TrainingStopped
from reranker.models import attach_lora, load_base, load_tokenizer
from reranker.prompts import PromptEncoder
from reranker.sft import fine_tune

WARM_UP = 1  # steps that are not counted


class _These(RerankingData):
    """Trains on given lists."""

    def __init__(self, data: RerankingData, lists: list[Example]) -> None:
        super().__init__(data.config, data.interactions, data.split, data.sampler)
        object.__setattr__(self, "lists", lists)

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        lists: list[Example] = vars(self)["lists"]
        return lists

    def validation(self, config: TrialConfig) -> list[Example]:
        return self.training_examples(config, 0)[:1]


def ours(config: TrialConfig, data: RerankingData, lists: list[Example], marks: list[float], steps: int) -> None:
    def ended() -> bool:
        marks.append(time.perf_counter())
        return len(marks) > steps + WARM_UP

    try:
        fine_tune(config, _These(data, lists), should_stop=ended)
    except TrainingStopped:
        return


def plain(config: TrialConfig, data: RerankingData, lists: list[Example], marks: list[float], steps: int) -> None:
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    model = attach_lora(load_base(config, torch.device("cpu")), config)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())
            control.should_training_stop = len(marks) > steps + WARM_UP

    with tempfile.TemporaryDirectory() as scratch:
        options = SFTConfig(
            output_dir=scratch, per_device_train_batch_size=4, gradient_accumulation_steps=config.effective_batch // 4,
            learning_rate=config.learning_rate, activation_checkpointing=False, max_length=None, report_to="none",
            disable_tqdm=True, save_strategy="no", use_cpu=not torch.cuda.is_available(), seed=config.seed,
            loss_type="nll", completion_only_loss=True, bf16=False,
        )  # fmt: skip
        SFTTrainer(
            model, options, train_dataset=completions(encoder, lists), processing_class=encoder.tokenizer,
            callbacks=[Watch()],
        ).train()  # fmt: skip


def completions(encoder: PromptEncoder, lists: Sequence[Example]) -> Dataset:
    """Prompts with their answers, as plain SFT on completions takes them."""
    return Dataset.from_list(
        [
            {
                "input_ids": [*prompt.input_ids, *encoder.answer_ids[prompt.target]],
                "completion_mask": [0] * len(prompt.input_ids) + [1] * len(encoder.answer_ids[prompt.target]),
            }
            for prompt in encoder.encode(lists)
        ]
    )


def measure(way: str, model: str, steps: int) -> dict[str, float]:
    """Of this process."""
    torch.set_num_threads(1)
    SFTTrainer._get_train_sampler = lambda self, dataset=None: SequentialSampler(self.train_dataset)
    config, data = task(model)
    lists = some_lists(config, data, (steps + WARM_UP + 1) * config.effective_batch)
    encoder = PromptEncoder(Catalogue(load_tokenizer(model), data.interactions.item_texts), config)
    lengths = [len(prompt.input_ids) for prompt in encoder.encode(lists)]
    counted = lengths[WARM_UP * config.effective_batch : (WARM_UP + steps) * config.effective_batch]
    load_base(config, torch.device("cpu"))
    held = psutil.Process().memory_info().rss
    marks = [time.perf_counter()]
    {"ours": ours, "plain": plain}[way](config, data, lists, marks, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return {
        "tokens_per_second": sum(counted) / (marks[WARM_UP + steps] - marks[WARM_UP]),
        "peak_mib": (peak - held) / 2**20,
        "prompt_tokens": statistics.mean(lengths),
        "prompt_tokens_sd": statistics.stdev(lengths),
    }


def main() -> None:
    args = arguments(__doc__, quick="fewer steps, once each").parse_args()
    if args.child:
        way, model, steps = args.child
        print(json.dumps(measure(way, model, int(steps))))
        return
    repeats, steps = (1, 1) if args.quick else (3, 2)
    print(
        f"{machine()}, one thread\n{repeats} runs of {steps} steps of 16 prompts, alternating; median (lowest–highest)"
    )
    print(f"\n{'base':<24}{'prompt tokens':>15}{'ours tok/s':>20}{'plain tok/s':>20}{'ratio':>8}", end="")
    print(f"{'ours MiB':>10}{'plain MiB':>11}{'ratio':>8}")
    found: dict[str, Any] = {}
    with model_places() as places:
        for name in MODELS:
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
            for _ in range(repeats):
                for way, measured in runs.items():
                    measured.append(in_a_process("bench.step", way, places[name], str(steps)))
            found[name] = runs
            speed = {way: [run["tokens_per_second"] for run in measured] for way, measured in runs.items()}
            memory = {way: statistics.median(run["peak_mib"] for run in measured) for way, measured in runs.items()}
            ratio = statistics.median(speed["ours"]) / statistics.median(speed["plain"])
            tokens = "{prompt_tokens:.0f} ± {prompt_tokens_sd:.0f}".format(**runs["ours"][0])
            print(
                f"{name:<24}{tokens:>15}{spread(speed['ours']):>20}{spread(speed['plain']):>20}{ratio:>7.1f}×", end=""
            )
            print(
                f"{memory['ours']:>10.0f}{memory['plain']:>11.0f}{memory['ours'] / memory['plain']:>7.2f}×", flush=True
            )
    write(args, "step", found)


if __name__ == "__main__":
    main()
