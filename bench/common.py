"""What the benches share: the models and lists that they measure on, processes of their own, and how they tell."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
import transformers
import trl
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.sources import is_here
from reranker.data_config import DemoData, MovieLensData
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.prompting.prompts import Prompt, PromptEncoder

FOUND = Path(__file__).parent / "found"  # where the figures are written too, as JSON
MODELS = {"qwen3, 256 × 4, 152k": "wide", "smollm2-135m": "smollm2-135m"}


@contextmanager
def model_places() -> Iterator[dict[str, str]]:
    """For each of MODELS what `TrialConfig.model` takes."""
    with TemporaryDirectory() as folder:
        yield {name: str(_wide_vocabulary(Path(folder))) if m == "wide" else m for name, m in MODELS.items()}


def _wide_vocabulary(folder: Path) -> Path:
    """A random Qwen3 of 4 layers, 256 wide, with Qwen3's vocabulary of 152k; it reads with the demo's tokenizer."""
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=256, num_hidden_layers=4, intermediate_size=768,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED / "demo-tiny").save_pretrained(folder)
    return folder


def task(model: str) -> tuple[TrialConfig, RerankingData]:
    """What the model reads: of real films where it can and they are here, every prefix with up to 50 of history."""
    movielens = MovieLensData()
    if model == "smollm2-135m" and is_here(movielens):
        data = RerankingData.prepare(movielens)
    else:
        data = RerankingData.prepare(DemoData(users=200, interactions_per_user=20))
    config = TrialConfig(
        model=model, candidates=20, history_length=50, examples_per_user=None, effective_batch=16,
        learning_rate=1e-4, max_prompt_tokens=2048,
    )  # fmt: skip
    return config, data


def some_lists(config: TrialConfig, data: RerankingData, count: int) -> list[Example]:
    """The same random ones for everybody."""
    return random.Random(0).sample(data.training_examples(config, epoch=0), count)


def padded(encoder: PromptEncoder, prompts: Sequence[Prompt]) -> Any:
    """Prompts as one batch, as other programs make it: padded on the left, with a mask."""
    ids = {"input_ids": [prompt.input_ids for prompt in prompts]}
    return encoder.tokenizer.pad(ids, padding_side="left", return_tensors="pt")


def arguments(description: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help=f"where the figures are written (a file in {FOUND.name}/)")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    return parser


def write(args: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Keep the figures as JSON, with the machine and the time, where `--out` says."""
    path = args.json or FOUND / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "time": time.strftime("%Y-%m-%d %H:%M"), **found}
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def in_a_process(module: str, *arguments: str) -> Any:
    """What `python -m module --child …` prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--child", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """The CPU or GPU, and the versions of torch and transformers, in a line."""
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{psutil.cpu_count()} CPUs ({platform.machine()})"
    return f"{device}, torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and from where to where."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
