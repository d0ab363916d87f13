"""The demo search as a user starts it: on slots, with new workers for each trial, and without a search.

    python -m bench.search [--quick]

Without a search: the configurations that the search on slots tried, one after the other, each a script of its own that
trains all its epochs with plain SFTTrainer and scores the validation lists from full logits after each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.common import arguments, machine, padded, write
from bench.step import completions
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.metrics import ranks_of_target, summarise
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from results.study.study_folder import StudyFolder

GOOD = 0.30  # Recall@1


class _Watch:
    """Runs commands, and notes when a line first tells of a good Recall@1."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.good_after: float | None = None
        self.lines: list[str] = []

    def run(self, *command: str) -> None:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)
            told = re.search(r"epoch \d.*Recall@1 ([\d.]+)", line)
            if told and float(told[1]) >= GOOD and self.good_after is None:
                self.good_after = self.seconds
        if process.wait():
            raise RuntimeError("".join(self.lines[-20:]))

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


def search(isolation: str, runs: Path, trials: int) -> dict[str, Any]:
    """A whole search in this isolation, and what it took."""
    watch = _Watch()
    options = ["--runs", str(runs), "--name", isolation, "--isolation", isolation, "--trials", str(trials)]
    watch.run("tune/run_search.py", *options)
    return _row(
        watch, [best["ndcg_at_10"] for t in StudyFolder(runs / isolation).trials() if (best := t.best("ndcg_at_10"))]
    )


def without_a_search(study: StudyFolder) -> dict[str, Any]:
    """The same trainings one after the other, each in a process of its own."""
    watch = _Watch()
    for trial in study.trials():
        watch.run("-m", "bench.search", "--child", json.dumps(trial.values))
    return _row(watch, [float(x) for line in watch.lines for x in re.findall(r"NDCG@10 ([\d.]+)", line)])


def _row(watch: _Watch, figures: list[float]) -> dict[str, Any]:
    return {"seconds": watch.seconds, "good_after": watch.good_after, "best_ndcg_at_10": max(figures)}


def plain_script(values: dict[str, Any]) -> None:
    """What a user would write: one configuration, plain SFTTrainer, full logits."""
    torch.set_num_threads(1)
    config = TrialConfig.model_validate(values)
    data = RerankingData.prepare(DemoData(users=2000, interactions_per_user=5))
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    validation = data.validation(config)
    prompts = encoder.encode(validation)
    model = attach_lora(load_base(config, torch.device("cpu")), config)

    class Score(TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model.eval()
            with torch.no_grad():
                scores = [
                    model(**padded(encoder, prompts[i : i + 16])).logits[:, -1, encoder.label_ids].numpy()
                    for i in range(0, len(prompts), 16)
                ]
            model.train()
            found = summarise(ranks_of_target(np.concatenate(scores), [e.target for e in validation]))
            told = f"Recall@1 {found['recall_at_1']:.3f}, NDCG@10 {found['ndcg_at_10']:.3f}"
            print(f"epoch {state.epoch:.0f}: {told}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        options = SFTConfig(
            output_dir=scratch, num_train_epochs=config.epochs, per_device_train_batch_size=config.effective_batch,
            learning_rate=config.learning_rate, lr_scheduler_type="constant", activation_checkpointing=False,
            max_length=None, report_to="none", disable_tqdm=True, save_strategy="no",
            use_cpu=not torch.cuda.is_available(), seed=config.seed, loss_type="nll", completion_only_loss=True, bf16=False,
        )  # fmt: skip
        train = completions(encoder, data.training_examples(config, epoch=0))
        SFTTrainer(model, options, train_dataset=train, processing_class=encoder.tokenizer, callbacks=[Score()]).train()


def main() -> None:
    """Print the table."""
    args = arguments(__doc__, quick="three trials in the place of eight").parse_args()
    if args.child:
        plain_script(json.loads(args.child[0]))
        return
    trials = 3 if args.quick else 8
    print(f"{machine()}\n{trials} trials, once each way\n")
    print(
        f"{'way':<26}{'wall, s':>10}{'slots are':>11}{'trials/h':>10}{'to Recall@1 ≥ .30, s':>23}{'best NDCG@10':>14}"
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "slots": lambda: search("slot", runs, trials),
            "new workers each trial": lambda: search("trial", runs, trials),
            "SFTTrainer, no search": lambda: without_a_search(StudyFolder(runs / "slot")),
        }
        for name, way in ways.items():
            row = found[name] = way()
            ratio, an_hour = row["seconds"] / found["slots"]["seconds"], 3600 * trials / row["seconds"]
            good = "never" if row["good_after"] is None else f"{row['good_after']:.0f}"
            print(
                f"{name:<26}{row['seconds']:>10.0f}{ratio:>10.1f}×{an_hour:>10.0f}{good:>23}{row['best_ndcg_at_10']:>14.3f}",
                flush=True,
            )
    write(args, "search", found)


if __name__ == "__main__":
    main()
