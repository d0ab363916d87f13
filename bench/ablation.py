"""Each choice by itself against the defaults: what it changes in NDCG@10, over seeds and paired user by user.

    python -m bench.ablation [--quick] [--data demo | movielens | shop | FOLDER_OR_ZIP] [--model demo-small]
    python -m bench.ablation --choices ranknet lambdaloss "every prefix" --rates 5e-4 1e-3 --seeds 5

Every training sees about as many examples. Its figures are kept when it ends, in a file that the next run goes on with, so
hours of it can be stopped and taken up again. The interval of a difference is of users and seeds together, 95 % for all
choices of a rate at once (Bonferroni).
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common import FOUND, arguments, machine
from bench.learning import source
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import Fault, InputError
from reranker.metrics import values_of
from reranker.modeling.checkpoints.model_names import TOYS
from reranker.modeling.model_cache import BaseModels
from reranker.training.sft import fine_tune

DEFAULT = "as by default"
MANY = 100  # epochs, with which any second stage goes
CHOICES: dict[str, dict[str, Any]] = {
    # labels and the question
    "numbers": {"label_style": "numbers"},
    "pairs of letters": {"label_style": "id_tokens"},
    "label before": {"label_position": "before"},
    "history first": {"prompt_order": "history_first"},
    "point-wise": {"scoring": "pointwise"},
    "point-wise, binary_ce": {"scoring": "pointwise", "objective": "binary_ce"},
    "history of 3": {"history_length": 3},
    "history of 10": {"history_length": 10},
    # the training data
    "one list an example": {"list_sharing": 1},
    "every prefix": {"examples_per_user": None},
    "one example a user": {"examples_per_user": 1},
    "popular negatives": {"negatives": {"uniform": 0.5, "popularity": 0.5}},
    "hard negatives": {"negatives": {"uniform": 0.5, "popularity": 0.0, "retriever": 0.5}},
    "orders fixed": {"shuffle_candidates": False},
    "history dropout": {"history_dropout": 0.2},
    "fewer candidates first": {"first_candidates": 5},
    "no correction": {"list_correction": 0.0},
    "skill mixed in": {"skill_mix": 0.2},
    # the objective
    "token_ce": {"objective": "token_ce"},
    "ranknet": {"objective": "ranknet"},
    "lambdaloss": {"objective": "lambdaloss"},
    "two right items": {"positives": 2},
    "two, by rating": {"positives": 2, "positive_grades": "rating"},  # of data with ratings
    "last epoch by DPO": {"dpo_epochs": 1},
    "teacher collaborative": {"teacher": "collaborative"},
    "teacher ease": {"teacher": "ease"},
    "teacher item_knn": {"teacher": "item_knn"},
    # regularisation and the answer
    "LoRA dropout": {"lora_dropout": 0.1},
    "weight decay": {"weight_decay": 0.1},
    "cosine": {"schedule": "cosine"},
    "prior divided": {"label_prior": "divide"},
    "four orders": {"permutations": 4},
}
_FIGURES = ("recall_at_1", "val_loss", "calibration_error")
Runs = list[dict[str, Any]]


def main() -> None:
    """Print the table of each rate."""
    parser = arguments(__doc__, quick="one seed, a tenth of the examples")
    parser.add_argument(
        "--data", default="demo", help="demo, movielens, shop, or a MovieLens folder or zip (%(default)s)"
    )
    parser.add_argument("--model", default="demo-small", help="(%(default)s)")
    parser.add_argument("--examples", type=int, default=8000, help="that each training sees (%(default)s)")
    parser.add_argument(
        "--lists", type=int, default=600, help="that are scored, of a sample of the users (%(default)s)"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3], help="learning rates (2e-3)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES), metavar="CHOICE")
    parser.add_argument("--set", nargs="+", default=[], metavar="KNOB=VALUE", help="of all trainings")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (%(default)s)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(args.threads)
    given = {name: json.loads(value) for name, value in (text.split("=", 1) for text in args.set)}
    seeds, examples = (1, args.examples // 10) if args.quick else (args.seeds, args.examples)
    kept = Kept(args.json or FOUND / "ablation.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        data = RerankingData.prepare(
            DemoData(users=2000, interactions_per_user=5, evaluation_users=args.lists)
            if args.data == "demo"
            else source(args.data, Path(folder), args.lists)
        ).sealed()
    is_rated = data.interactions.worths is not None
    left_out = set() if is_rated else {"positive_grades"}
    left_out |= {"scoring"} if args.model in TOYS else set()  # which know neither yes nor no
    choices = [choice for choice in args.choices if not left_out & CHOICES[choice].keys()]
    print(
        f"{machine()}\n{' '.join([args.model, *args.set])} on {args.data}, {examples} examples, {seeds} seeds, {args.lists} lists; kept in {kept.path}"
    )
    bases = BaseModels()
    default = build_trial_config({"model": args.model, **given})
    most = 1.5 * max(examples, data.count_examples(default))
    for rate in args.rates:
        print(
            f"\nrate {rate:g}\n{'choice':<24}{'NDCG@10':>9}{'± seeds':>9}{'difference (95 %)':>28}"
            + "".join(f"{n:>19}" for n in _FIGURES)
        )
        usual: Runs = []
        for choice in [DEFAULT, *choices]:
            runs = []
            try:
                for seed in range(seeds):
                    knobs = {
                        "model": args.model,
                        "learning_rate": rate,
                        "seed": seed,
                        **given,
                        **CHOICES.get(choice, {}),
                    }
                    runs.append(kept.run(of_length(knobs, examples, most, data), data, bases))
            except InputError as error:
                if choice == DEFAULT:
                    raise
                print(f"{choice:<24}not here: {error}", flush=True)
                continue
            usual = usual or runs
            print(row(choice, runs, usual, len(choices)), flush=True)


def of_length(knobs: dict[str, Any], examples: int, most: float, data: RerankingData) -> TrialConfig:
    """The configuration with as many epochs as see about so many examples, and at least one.

    Raises:
        InputError: even one sees more than `most`, or the knobs do not go together, or not with the model.
    """
    epoch = data.count_examples(build_trial_config({"epochs": MANY, **knobs}))
    if epoch > most:
        raise InputError([Fault(f"an epoch has {epoch:,} examples, far more than the other trainings see")])
    config = build_trial_config({**knobs, "epochs": max(1, round(examples / epoch))})
    if config.first_candidates is not None and config.epochs == 1:
        raise InputError([Fault("lists grow from epoch to epoch, and there is one", field="first_candidates")])
    return config


class Kept:
    """Figures of trainings, a line each, by what was trained on what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._runs: dict[str, dict[str, Any]] = {run["key"]: run for run in map(json.loads, lines)}

    def run(self, config: TrialConfig, data: RerankingData, bases: BaseModels) -> dict[str, Any]:
        """The figures of this training, and NDCG@10 of each list; trained if it was not yet."""
        places = {"interactions", "items", "path"}  # of files, which say nothing
        settings = data.config.model_dump_json(exclude=places)
        asked = f"{config.model_dump_json()} {data.interactions.fingerprint} {settings}"
        key = hashlib.sha256(asked.encode()).hexdigest()[:16]
        if key not in self._runs:
            report = fine_tune(config, data, bases=bases)
            assert report.evaluation is not None
            values = values_of(report.evaluation.ranks, "ndcg_at_10")
            run = {"key": key, "values": values.round(6).tolist(), **{name: report.figures[name] for name in _FIGURES}}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            self._runs[key] = run
        return self._runs[key]


def row(choice: str, runs: Runs, usual: Runs, choices: int) -> str:
    """A line of the table."""
    values, before = (np.array([run["values"] for run in some]) for some in (runs, usual))
    level, error = _mean(values.mean(axis=1))
    line = f"{choice:<24}{level:>9.3f}{error:>9.3f}"
    if choice == DEFAULT:
        line += f"{'':>28}"
    else:
        gaps = values - before
        gap, of_seeds = _mean(gaps.mean(axis=1))
        reach = NormalDist().inv_cdf(1 - 0.025 / choices) * math.hypot(of_seeds, _mean(gaps.mean(axis=0))[1])
        line += f"{gap:>+11.3f} ({gap - reach:+.3f} to {gap + reach:+.3f})".rjust(28)
    return line + "".join(f"{np.mean([run[name] for run in runs]):>19.3f}" for name in _FIGURES)


def _mean(values: NDArray[np.float64] | Iterable[float]) -> tuple[float, float]:
    """The mean and its standard error; 0 for one value."""
    array = np.asarray(values)
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else 0.0


if __name__ == "__main__":
    main()
