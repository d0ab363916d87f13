"""A training step of this project against plain SFTTrainer: same base, adapter, examples and batches.

    python -m bench.step [--quick] [--shared]

The first table is of separate prompts, the second one (alone with --shared) of sixteen examples behind each list, which
plain trains on as sixteen prompts over the same candidates.

Plain is trl's SFTTrainer on prompt and completion, with its own collator, loss (of the completion) and padding, in
passes of 4, and in fp32 (its own default is bf16, which is slower on most CPUs). Each measurement is a process of its
own with one thread; the two alternate. Speed is prompt tokens without padding, or examples, a second after the first
step; memory is what the process's peak lies above what it held before training.
"""

from __future__ import annotations

import json
import random
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
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.errors import TrainingStopped
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.training.sft import fine_tune

WARM_UP = 1  # steps that are not counted
LISTS = (20, 50)  # candidates of a shared list
SHARED = {"history_length": 4, "max_title_tokens": 16, "examples_per_user": 10, "list_sharing": 16}
Lists = list[list[Example]]  # the examples of each


class _These(RerankingData):
    """Trains on given lists."""

    def __init__(self, data: RerankingData, lists: Lists) -> None:
        super().__init__(data.config, data.interactions, data.split, data.sampler)
        object.__setattr__(self, "lists", lists)

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        return _examples(vars(self)["lists"])

    def shared_examples(self, config: TrialConfig, epoch: int, together: int) -> Lists:
        lists: Lists = vars(self)["lists"]
        return lists

    def validation(self, config: TrialConfig) -> list[Example]:
        return self.training_examples(config, 0)[:1]


def _examples(lists: Lists) -> list[Example]:
    return [example for some in lists for example in some]


def ours(config: TrialConfig, data: RerankingData, lists: Lists, marks: list[float], steps: int) -> None:
    """Optimiser steps of this project's trainer."""

    def ended() -> bool:
        marks.append(time.perf_counter())
        return len(marks) > steps + WARM_UP

    try:
        fine_tune(config, _These(data, lists), should_stop=ended)
    except TrainingStopped:
        return


def plain(config: TrialConfig, data: RerankingData, lists: Lists, marks: list[float], steps: int) -> None:
    """The same steps of trl's trainer as it comes."""
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
            model, options, train_dataset=completions(encoder, _examples(lists)), processing_class=encoder.tokenizer,
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


def separate(model: str, steps: int) -> tuple[TrialConfig, RerankingData, Lists]:
    """Enough for so many steps: each example with a list of its own."""
    config, data = task(model)
    config = config.model_copy(update={"skill_steps": 0, "list_sharing": 1, "max_title_tokens": 32})
    return config, data, [[example] for example in some_lists(config, data, steps * config.effective_batch)]


def together(model: str, candidates: int, steps: int) -> tuple[TrialConfig, RerankingData, Lists]:
    """The same with shared lists, one a step."""
    config, data = task(model)
    config = config.model_copy(update={"skill_steps": 0, "candidates": candidates, **SHARED})
    full = [
        some for some in data.shared_examples(config, 0, config.effective_batch) if len(some) == config.effective_batch
    ]
    return config, data, random.Random(0).sample(full, steps)


def measure(way: str, model: str, steps: int, candidates: int = 0) -> dict[str, float]:
    """Of this process; lists are shared where it is said how many candidates they have."""
    torch.set_num_threads(1)
    SFTTrainer._get_train_sampler = lambda self, dataset=None: SequentialSampler(self.train_dataset)
    drawn = steps + WARM_UP + 1
    config, data, lists = together(model, candidates, drawn) if candidates else separate(model, drawn)
    encoder = PromptEncoder(Catalogue(load_tokenizer(model), data.interactions.item_texts), config)
    lengths = [len(prompt.input_ids) for prompt in encoder.encode(_examples(lists))]
    counted = lengths[WARM_UP * config.effective_batch : (WARM_UP + steps) * config.effective_batch]
    load_base(config, torch.device("cpu"))
    held = psutil.Process().memory_info().rss
    marks = [time.perf_counter()]
    {"ours": ours, "plain": plain}[way](config, data, lists, marks, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    seconds = marks[WARM_UP + steps] - marks[WARM_UP]
    return {
        "tokens_per_second": sum(counted) / seconds,
        "examples_per_second": len(counted) / seconds,
        "peak_mib": (peak - held) / 2**20,
        "prompt_tokens": statistics.mean(lengths),
        "prompt_tokens_sd": statistics.stdev(lengths),
        "listed_tokens": statistics.mean(len(encoder.encode_shared(some).listed) for some in lists),
    }


def both(repeats: int, *what: str) -> dict[str, list[dict[str, float]]]:
    """What the two ways give, alternating."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for way, measured in runs.items():
            measured.append(in_a_process("bench.step", way, *what))
    return runs


def row(runs: dict[str, list[dict[str, float]]], figure: str, digits: int = 0) -> str:
    """A line of the table: each way's median of a figure."""
    speed = {way: [run[figure] for run in measured] for way, measured in runs.items()}
    memory = {way: statistics.median(run["peak_mib"] for run in measured) for way, measured in runs.items()}
    ratio = statistics.median(speed["ours"]) / statistics.median(speed["plain"])
    return (
        f"{spread(speed['ours'], digits):>20}{spread(speed['plain'], digits):>20}{ratio:>7.1f}×"
        f"{memory['ours']:>10.0f}{memory['plain']:>11.0f}{memory['ours'] / memory['plain']:>7.2f}×"
    )


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="fewer steps, once each")
    parser.add_argument("--shared", action="store_true", help="the table of shared lists alone")
    args = parser.parse_args()
    if args.child:
        way, model, *numbers = args.child
        print(json.dumps(measure(way, model, *map(int, numbers))))
        return
    repeats, steps = (1, 1) if args.quick else (3, 2)
    print(
        f"{machine()}, one thread\n{repeats} runs of {steps} steps of 16 prompts, alternating; median (lowest–highest)"
    )
    memory = f"{'ratio':>8}{'ours MiB':>10}{'plain MiB':>11}{'ratio':>8}"
    found: dict[str, Any] = {}
    with model_places() as places:
        if not args.shared:
            print(f"\n{'base':<24}{'prompt tokens':>15}{'ours tok/s':>20}{'plain tok/s':>20}{memory}")
            for name in MODELS:
                found[name] = runs = both(repeats, places[name], str(steps))
                tokens = "{prompt_tokens:.0f} ± {prompt_tokens_sd:.0f}".format(**runs["ours"][0])
                print(f"{name:<24}{tokens:>15}{row(runs, 'tokens_per_second')}", flush=True)
        print(f"\n{'shared lists':<24}{'list, question':>15}{'ours examples/s':>20}{'plain examples/s':>20}{memory}")
        for candidates in LISTS:
            name = f"smollm2-135m, {candidates}"
            found[name] = runs = both(repeats, places["smollm2-135m"], str(steps), str(candidates))
            listed, prompt = (round(runs["ours"][0][key]) for key in ("listed_tokens", "prompt_tokens"))
            tokens = f"{listed} + {prompt - listed}"
            print(f"{name:<24}{tokens:>15}{row(runs, 'examples_per_second', 2)}", flush=True)
    write(args, "step", found)


if __name__ == "__main__":
    main()
