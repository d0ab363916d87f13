"""What each objective and teacher makes of the same examples, on the demo: NDCG@10 over seeds, and how sure it is of itself.

    python -m bench.objectives [--quick] [--model demo-small] [--epochs 5] [--rates 2e-3 5e-3] [--seeds 3] [--ways …]

Each training has the demo's data and prompt. A difference is that to label_ce at the same rate, user by user, with the
standard errors of users and of seeds together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from bench.common import arguments, machine, write
from reranker.config import build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.metrics import values_of
from reranker.modeling.model_cache import BaseModels
from reranker.training.sft import fine_tune

WAYS: dict[str, dict[str, Any]] = {
    "label_ce": {},
    "token_ce": {"objective": "token_ce"},
    "ranknet": {"objective": "ranknet"},
    "lambdaloss": {"objective": "lambdaloss"},
    "collaborative": {"teacher": "collaborative"},
    "ease": {"teacher": "ease"},
    "item_knn": {"teacher": "item_knn"},
}
COMMON = {
    "history_length": 6, "examples_per_user": 1, "schedule": "linear", "effective_batch": 16, "list_sharing": 16,
}  # fmt: skip
_FIGURES = ("recall_at_1", "val_loss", "calibrated_loss", "calibration_error", "calibrated_error", "temperature")


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="one seed, one epoch")
    parser.add_argument("--model", default="demo-small", help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of 2,000 examples (%(default)s)")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 5e-3], help="learning rates (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    args = parser.parse_args()
    seeds, epochs = (1, 1) if args.quick else (args.seeds, args.epochs)
    torch.set_num_threads(1)
    data = RerankingData.prepare(DemoData(users=2000, interactions_per_user=5, evaluation_users=600)).sealed()
    print(f"{machine()}\n{args.model}, {epochs} epochs of 2,000 examples, {seeds} seeds, 600 lists of 20")
    print(
        f"{'way':<14}{'rate':>8}{'NDCG@10':>9}{'± seeds':>9}{'difference':>12}{'±':>7}"
        + "".join(f"{n:>18}" for n in _FIGURES)
    )
    bases, found = BaseModels(), dict[str, Any]()
    for rate in args.rates:
        of_users: dict[str, np.ndarray[Any, Any]] = {}
        for way in args.ways:
            runs, rows = [], []
            for seed in range(seeds):
                knobs = {"model": args.model, "epochs": epochs, "learning_rate": rate, "seed": seed, **WAYS[way]}
                report = fine_tune(build_trial_config({**COMMON, **knobs}), data, bases=bases)
                assert report.evaluation is not None
                runs.append(report.figures)
                rows.append(values_of(report.evaluation.ranks, "ndcg_at_10"))
            of_users[way] = np.array(rows)
            level, error = _mean(of_users[way].mean(axis=1))
            line = f"{way:<14}{rate:>8.0e}{level:>9.3f}{error:>9.3f}"
            if way != "label_ce" and "label_ce" in of_users:
                gaps = of_users[way] - of_users["label_ce"]
                gap, of_seeds = _mean(gaps.mean(axis=1))
                line += f"{gap:>+12.3f}{math.hypot(of_seeds, _mean(gaps.mean(axis=0))[1]):>7.3f}"
            else:
                line += f"{'':>19}"
            means = {name: float(np.mean([run[name] for run in runs])) for name in _FIGURES}
            print(line + "".join(f"{means[name]:>18.3f}" for name in _FIGURES), flush=True)
            found[f"{way} {rate:g}"] = runs
    write(args, "objectives", found)


def _mean(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The mean and its standard error; 0 for one value."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
