"""A generated shop with the statistics of dense product reviews: its titles can be read, and say in part what comes
next.

    python -m bench.shop FOLDER

671 users and 498 products, each bought some 27 times. After a product comes another of its brand and kind (30 %), one
of the kind that goes with it, of any brand (15 %), or anything. So a ranker that counts pairs finds some of what comes
next, and one that reads titles and learns what goes with what can find more.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from reranker.data_config import TablesData

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


def make_shop(folder: Path) -> TablesData:
    """Write interactions.csv and items.csv."""
    rng = random.Random(0)
    families: list[tuple[str, str]] = []
    while len(families) < _FAMILIES:
        family = rng.choice(_BRANDS), rng.choice(_KINDS)
        families += [family] if family not in families else []
    items = [(*family, variant) for family in families for variant in rng.sample(_VARIANTS, _OF_FAMILY)][:_ITEMS]
    by_family: dict[tuple[str, str], list[int]] = {}
    by_kind: dict[str, list[int]] = {}
    for item, (brand, kind, _) in enumerate(items):
        by_family.setdefault((brand, kind), []).append(item)
        by_kind.setdefault(kind, []).append(item)
    kinds = sorted(by_kind)
    goes_with = {kind: rng.choice([other for other in kinds if other != kind]) for kind in kinds}
    popularity = [rng.paretovariate(4) for _ in items]

    def following(bought: list[int]) -> int:
        brand, kind, _ = items[bought[-1]]
        chance, pool = rng.random(), []
        if chance < _SAME_FAMILY:
            pool = by_family[brand, kind]
        elif chance < _SAME_FAMILY + _GOES_WITH:
            pool = by_kind[goes_with[kind]]
        pool = [item for item in pool if item not in bought]
        return rng.choice(pool) if pool else rng.choices(range(len(items)), popularity)[0]

    rows: list[list[int]] = []
    for user in range(_USERS):
        bought = rng.choices(range(len(items)), popularity)
        length = 15 + int(rng.expovariate(1 / 5))
        while len(bought) < length:
            item = following(bought)
            bought += [item] if item not in bought else []
        rows += [[user, item, time] for time, item in enumerate(bought)]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "items.csv", ["item_id", "text"], [[item, " ".join(words)] for item, words in enumerate(items)])
    _write(folder / "interactions.csv", ["user_id", "item_id", "timestamp"], rows)
    return TablesData(interactions=folder / "interactions.csv", items=folder / "items.csv")


def _write(path: Path, header: list[str], rows: list[list[object]] | list[list[int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    """Write the tables into the folder of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.shop", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where interactions.csv and items.csv are written")
    make_shop(parser.parse_args().folder)


if __name__ == "__main__":
    main()
