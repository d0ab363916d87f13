"""A generated shop with the statistics of dense product reviews: its titles can be read, and say in part what comes
next.

    python -m bench.shop FOLDER [--reachable 20 50]

671 users and 498 products, each bought some 27 times. After a product comes another of its brand and kind (30 %), one
of the kind that goes with it, of any brand (15 %), or anything. So a ranker that counts pairs finds some of what comes
next, and one that reads titles and learns what goes with what can find more.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import TablesData
from reranker.metrics import FloatArray, Ranks, summarise

_BRANDS = [
    "Alder", "Birch", "Cobalt", "Delphi", "Ember", "Fjord", "Granite", "Harbor", "Indigo", "Juniper", "Kestrel",
    "Linden", "Mistral", "Nimbus", "Orchid", "Pioneer",
]  # fmt: skip
_KINDS = [
    "running shoes", "sport socks", "water bottle", "yoga mat", "foam roller", "tent", "sleeping bag",
    "camp stove", "head lamp", "hiking boots", "rain jacket", "coffee grinder", "espresso cups", "milk frother",
    "kettle", "tea pot", "bread knife", "cutting board", "frying pan", "apron", "desk lamp", "notebook",
    "fountain pen", "ink bottle", "paper tray", "office chair", "foot rest", "monitor stand", "keyboard",
    "mouse pad", "garden hose", "watering can", "pruning shears", "seed box", "flower pot", "plant food",
    "bird feeder", "bird seed", "dog leash", "dog bowl", "cat tree", "cat toy", "guitar strings", "guitar capo",
    "music stand", "drum sticks", "paint brush", "sketch pad", "easel", "water colours",
]  # fmt: skip
_VARIANTS = [
    "classic", "compact", "deluxe", "travel", "junior", "pro", "ultra", "basic", "premium", "mini",
]  # fmt: skip
_USERS, _FAMILIES, _OF_FAMILY, _ITEMS = 671, 125, 4, 498
_SAME_FAMILY, _GOES_WITH = 0.3, 0.15


class Shop:
    """Its products, and how a purchase follows from those before it."""

    def __init__(self) -> None:
        self._rng = rng = random.Random(0)
        families: list[tuple[str, str]] = []
        while len(families) < _FAMILIES:
            family = rng.choice(_BRANDS), rng.choice(_KINDS)
            families += [family] if family not in families else []
        items = [(*family, variant) for family in families for variant in rng.sample(_VARIANTS, _OF_FAMILY)]
        self.items = items[:_ITEMS]
        by_family: dict[tuple[str, str], list[int]] = {}
        by_kind: dict[str, list[int]] = {}
        for item, (brand, kind, _) in enumerate(self.items):
            by_family.setdefault((brand, kind), []).append(item)
            by_kind.setdefault(kind, []).append(item)
        kinds = sorted(by_kind)
        goes_with = {kind: rng.choice([other for other in kinds if other != kind]) for kind in kinds}
        self._alike = [by_family[brand, kind] for brand, kind, _ in self.items]  # by item
        self._with = [by_kind[goes_with[kind]] for _, kind, _ in self.items]
        self._popularity = [rng.paretovariate(4) for _ in self.items]

    def purchases(self) -> list[int]:
        """Of one user more, in order."""
        bought = [self._anything()]
        length = 15 + int(self._rng.expovariate(1 / 5))
        while len(bought) < length:
            item = self._following(bought)
            bought += [item] if item not in bought else []
        return bought

    def probabilities(self, bought: Sequence[int]) -> FloatArray:
        """How probable each product is to be drawn next, by the rules that it is drawn by, [items]."""
        drawn = np.array(self._popularity) / sum(self._popularity)
        chances = np.zeros(len(drawn))
        left = 1.0
        for chance, pool in ((_SAME_FAMILY, self._alike[bought[-1]]), (_GOES_WITH, self._with[bought[-1]])):
            if new := [item for item in pool if item not in bought]:
                chances[new] += chance / len(new)
                left -= chance
        return chances + left * drawn

    def _following(self, bought: list[int]) -> int:
        chance, pool = self._rng.random(), []
        if chance < _SAME_FAMILY:
            pool = self._alike[bought[-1]]
        elif chance < _SAME_FAMILY + _GOES_WITH:
            pool = self._with[bought[-1]]
        pool = [item for item in pool if item not in bought]
        return self._rng.choice(pool) if pool else self._anything()

    def _anything(self) -> int:
        return self._rng.choices(range(len(self.items)), self._popularity)[0]


def make_shop(folder: Path) -> TablesData:
    """Write interactions.csv and items.csv."""
    shop = Shop()
    rows = [[user, item, time] for user in range(_USERS) for time, item in enumerate(shop.purchases())]
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "items.csv", ["item_id", "text"], [[item, " ".join(words)] for item, words in enumerate(shop.items)]
    )
    _write(folder / "interactions.csv", ["user_id", "item_id", "timestamp"], rows)
    return TablesData(interactions=folder / "interactions.csv", items=folder / "items.csv")


def reachable(data: RerankingData, candidates: int) -> dict[str, float]:
    """The figures of a ranker that knows the rules, on the validation lists of so many candidates; and its loss."""
    shop, examples = Shop(), data.validation(TrialConfig(candidates=candidates))
    numbers = np.array(data.interactions.item_ids, dtype=np.int64)
    scores = np.array(
        [np.log(shop.probabilities(numbers[list(e.history)].tolist())[numbers[list(e.candidates)]]) for e in examples]
    )
    targets = np.array([example.target for example in examples])
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks = Ranks((scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1)
    return {"loss": float((np.logaddexp.reduce(scores, axis=1) - own[:, 0]).mean()), **summarise(ranks)}


def _write(path: Path, header: list[str], rows: list[list[object]] | list[list[int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    """Write the tables into the folder of the command line, and print what can be reached on them."""
    parser = argparse.ArgumentParser(prog="python -m bench.shop", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where interactions.csv and items.csv are written")
    parser.add_argument(
        "--reachable", type=int, nargs="+", default=[], metavar="CANDIDATES", help="in lists of so many"
    )
    args = parser.parse_args()
    data = make_shop(args.folder)
    for candidates in args.reachable:
        found = reachable(RerankingData.prepare(data), candidates)
        shown = ", ".join(f"{name} {found[name]:.3f}" for name in ("loss", "recall_at_1", "ndcg_at_10"))
        print(f"lists of {candidates}, by the rules that the shop was made by: {shown}")


if __name__ == "__main__":
    main()
