"""What rankers without a language model are worth: on lists of 20 and 50, and over the whole catalogue.

    python -m bench.baselines [--data movielens | shop | PATH] [--names sasrec …] [--minutes 30] [--encoder FOLDER] [--quick]

Each is fitted on what lies before the test items. Those that are trained are tuned before on the validation lists of 50.
Whole catalogue: every item but those of the history.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch

from bench.common import arguments, machine, write
from bench.learning import source
from reranker.config import Baseline, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import AUTOMATIC, TRAINED, BaselinePlan
from reranker.data.candidates.first_stage import recommender
from reranker.data.recommenders.catalogue_lists import CatalogueLists
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.recommenders.sequence_models.tuning import retrained
from reranker.metrics import summarise

LISTS = (20, 50)
Scores = Callable[[Sequence[History], IntArray], FloatArray]


def scorers(data: RerankingData, names: Sequence[Baseline], minutes: float) -> dict[str, Scores]:
    """How each ranker scores candidates after a history that ends before the test items."""
    sequences, texts, seed = data.split.before("test"), data.interactions.item_texts, data.config.seed
    trained = tuple(name for name in names if name in TRAINED)
    config = TrialConfig(candidates=LISTS[-1])
    tuned = data.baselines(config, "validation", BaselinePlan(trained, minutes), lambda line: print(line, flush=True))
    for name, reason in tuned.left_out.items():
        print(f"{name} is left out: {reason}")
    found: dict[str, Scores] = {}
    for name in names:
        if name in tuned.figures:
            print(f"{name}: {tuned.figures[name]}, on validation {summarise(tuned.ranks[name])}", flush=True)
            found[name] = retrained(tuned.figures[name], sequences, len(texts), seed).scores_of
        elif name == "collaborative":
            found[name] = data._collaborative("test", LISTS[-1]).scores
        elif name not in TRAINED:
            found[name] = recommender(name, sequences, texts, data.config.dense_model).scores_of
    return found


def table(data: RerankingData, found: dict[str, Scores]) -> list[str]:
    """A row of Markdown for each ranker."""
    lists = {f"1+{n - 1}": RankedLists.of(data.test(TrialConfig(candidates=n))) for n in LISTS}
    examples, items = data.test(TrialConfig(candidates=LISTS[0])), len(data.interactions.item_ids)
    lists["all"] = CatalogueLists.in_catalogue(data.split, items, examples, "test")
    columns = [f"{name} {metric}" for name in lists for metric in ("Recall@1", "NDCG@10", "hit@10")]
    rows = ["| | " + " | ".join(columns) + " |", "| --- " * (1 + len(columns)) + "|"]
    for name, scores_of in found.items():
        figures = [summarise(each.ranks(scores_of)) for each in lists.values()]
        cells = [f"{f[metric]:.3f}" for f in figures for metric in ("recall_at_1", "ndcg_at_10", "recall_at_10")]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, quick="those alone that take seconds")
    parser.add_argument("--data", default="movielens", help="movielens, shop, or a MovieLens folder or zip")
    parser.add_argument("--names", nargs="+", choices=get_args(Baseline), default=[*AUTOMATIC, "bm25", *TRAINED])
    parser.add_argument("--minutes", type=float, default=30.0, help="of tuning, for each that is trained")
    parser.add_argument("--encoder", help="of dense")
    args = parser.parse_args()
    names = [name for name in args.names if not (args.quick and name in TRAINED)]
    with tempfile.TemporaryDirectory() as folder:
        config = source(args.data, Path(folder), None).model_copy(update={"dense_model": args.encoder})
        data = RerankingData.prepare(config)
    print(f"{machine()}, {torch.get_num_threads()} threads", flush=True)
    rows = table(data, scorers(data, names, args.minutes))
    write(args, "baselines", {"data": args.data, "minutes": args.minutes, "table": rows})


if __name__ == "__main__":
    main()
