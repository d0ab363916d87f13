"""A data configuration → where its published files are to be had, and on what terms, as far as their publishers say.

docs/YOUR_DATA.md has the same table. Terms are a summary: those at the address hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from reranker.data_config import AmazonData, DataConfig, MindData, MovieLensData, RecBoleData, SteamData, YelpData

_UNSTATED = "see the publisher's page"
_TO_CITE = f"{_UNSTATED}, which says what to cite"


@dataclass(frozen=True)
class Origin:
    """
    Attributes:
        address: the publisher's page.
        terms: the licence, in a few words.
    """

    address: str
    terms: str

    @property
    def hint(self) -> str:
        """What to do about a file that is absent."""
        return f"fetch it from {self.address} ({self.terms})"

    def __str__(self) -> str:
        return f"published at {self.address}; terms: {self.terms}"


_NOT_PASSED_ON = "for research, with citation; not to be passed on or used commercially without permission"
MOVIELENS = {
    "ml-latest-small": Origin(
        "https://grouplens.org/datasets/movielens/latest/",
        "for research, with citation; to be passed on under the same terms alone; not to be used commercially without permission",
    ),
    "ml-100k": Origin("https://grouplens.org/datasets/movielens/100k/", _NOT_PASSED_ON),
    "ml-1m": Origin("https://grouplens.org/datasets/movielens/1m/", _NOT_PASSED_ON),
    "ml-10m": Origin("https://grouplens.org/datasets/movielens/10m/", _NOT_PASSED_ON),
    "ml-20m": Origin("https://grouplens.org/datasets/movielens/20m/", _NOT_PASSED_ON),
    "ml-25m": Origin("https://grouplens.org/datasets/movielens/25m/", _NOT_PASSED_ON),
    "ml-32m": Origin(
        "https://grouplens.org/datasets/movielens/32m/", "for research, with citation; see the README in the zip"
    ),
}
ANY_MOVIELENS = Origin("https://grouplens.org/datasets/movielens/", "for research, with citation; see its README")
AMAZON = {
    2014: Origin("https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html", _TO_CITE),
    2018: Origin("https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/", _TO_CITE),
    2023: Origin("https://amazon-reviews-2023.github.io/", _TO_CITE),
}
RECBOLE = Origin("https://recbole.io/dataset_list.html", "each data set has its own; see its publisher's page")
MIND = Origin("https://msnews.github.io", "Microsoft Research License Terms, for non-commercial research")
STEAM = Origin("https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data", _TO_CITE)
YELP = Origin("https://www.yelp.com/dataset", "Yelp's Dataset User Agreement")


def origin_of(config: DataConfig) -> Origin | None:
    """None for data that nobody has published: the demo's, and tables of one's own.

    A MovieLens folder or zip that is named by its path may be of any release.
    """
    if isinstance(config, MovieLensData):
        return ANY_MOVIELENS if config.path is not None else MOVIELENS[config.release or "ml-latest-small"]
    if isinstance(config, AmazonData):
        return AMAZON[config.year]
    for kind, origin in ((RecBoleData, RECBOLE), (MindData, MIND), (SteamData, STEAM), (YelpData, YELP)):
        if isinstance(config, kind):
            return origin
    return None
