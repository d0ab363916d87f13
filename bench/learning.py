"""What a real model learns against what its training costs: plain prompts, shared lists, the skill first, and both.

    python -m bench.learning [--quick] [--data movielens | shop] [--examples 6000] [--ways both skill shared plain …]
    python -m bench.learning --ways both --set learning_rate=1e-3 lora_rank=8

Each way is a process of its own. It trains on prefixes of all users in a drawn order, no prefix twice, and scores
validation lists now and then; seconds are those of training, the skill's included, without scoring. `shop` is made by
`bench.shop`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import arguments, in_a_process, machine, write
from bench.shop import make_shop
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DataConfig, MovieLensData
from reranker.metrics import summarise
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport

WAYS: dict[str, dict[str, Any]] = {
    "both": {"list_sharing": 16, "skill_steps": "auto"},
    "skill": {"list_sharing": 1, "skill_steps": "auto"},
    "shared": {"list_sharing": 16, "skill_steps": 0},
    "plain": {"list_sharing": 1, "skill_steps": 0},
}
COMMON = {"model": "smollm2-135m", "examples_per_user": None}  # the rest are the defaults


@dataclass(frozen=True, eq=False)
class Slices(RerankingData):
    """An epoch is the next so many prefixes of a drawn order."""

    examples: int = 1000

    def _prefixes(self, config: TrialConfig, epoch: int) -> np.ndarray[Any, Any]:
        prefixes = super()._prefixes(config, 0)
        order = np.random.default_rng(config.seed).permutation(len(prefixes))
        return prefixes[np.resize(order, (epoch + 1) * self.examples)[epoch * self.examples :]]


def source(name: str, folder: Path, lists: int | None) -> DataConfig:
    """The data of a name or path."""
    data = make_shop(folder) if name == "shop" else MovieLensData(path=None if name == "movielens" else Path(name))
    return data.model_copy(update={"evaluation_users": lists})


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One training in this process."""
    if not torch.cuda.is_available():
        torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        whole = RerankingData.prepare(source(job["data"], Path(folder), job["lists"])).sealed()
    data = Slices(
        whole.config, whole.interactions, whole.split, whole.sampler, examples=job["examples"] // job["reports"]
    )
    config = build_trial_config({**COMMON, "epochs": job["reports"], **job["knobs"]})
    curve: list[dict[str, float]] = []

    def report(epoch: TrainingReport) -> bool:
        figures = epoch.figures
        curve.append({**figures, "trained_s": figures["train_seconds"] + figures.get("applied/skill_seconds", 0.0)})
        line = {name: round(figures[name], 4) for name in ("train_loss", "val_loss", "recall_at_1", "ndcg_at_10")}
        print(json.dumps({**job["knobs"], **line, "at": round(curve[-1]["trained_s"])}), file=sys.stderr, flush=True)
        return True

    fine_tune(config, data, on_report=report)
    return {"knobs": job["knobs"], "curve": curve}


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="a tenth of the examples")
    parser.add_argument(
        "--data", default="movielens", help="movielens, shop, or a MovieLens folder or zip (%(default)s)"
    )
    parser.add_argument("--examples", type=int, default=6000, help="that are trained on (%(default)s)")
    parser.add_argument("--reports", type=int, default=4, help="times that the lists are scored (%(default)s)")
    parser.add_argument("--lists", type=int, help="that are scored, of a sample of the users (all)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--set", nargs="+", default=[], metavar="KNOB=VALUE", help="of all ways")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU (%(default)s)")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(json.loads(args.child[0]))))
        return
    given = {name: json.loads(value) for name, value in (text.split("=", 1) for text in args.set)}
    examples = args.examples // 10 if args.quick else args.examples
    print(f"{machine()}\n{examples} examples of {args.data}, each way once")
    with tempfile.TemporaryDirectory() as folder:
        data = RerankingData.prepare(source(args.data, Path(folder), args.lists))
    config = build_trial_config({**COMMON, **given})
    print(f"\n{'way':<14}{'seconds':>9}{'examples':>10}{'train loss':>12}{'Recall@1':>10}{'NDCG@10':>9}")
    for name, ranks in data.baselines(config, "validation").ranks.items():
        told = summarise(ranks)
        print(f"{name:<14}{'':>9}{'':>10}{'':>12}{told['recall_at_1']:>10.3f}{told['ndcg_at_10']:>9.3f}")
    found: dict[str, Any] = {}
    for way in args.ways:
        job = {
            "data": args.data, "examples": examples, "reports": args.reports, "lists": args.lists,
            "threads": args.threads,
            "knobs": {**WAYS[way], **given},
        }  # fmt: skip
        found[way] = in_a_process("bench.learning", json.dumps(job))
        for at in found[way]["curve"]:
            print(
                f"{way:<14}{at['trained_s']:>9.0f}{at['applied/examples']:>10.0f}{at['train_loss']:>12.3f}"
                f"{at['recall_at_1']:>10.3f}{at['ndcg_at_10']:>9.3f}",
                flush=True,
            )
    write(args, "learning", found)


if __name__ == "__main__":
    main()
