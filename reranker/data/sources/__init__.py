"""A data configuration → filtered interactions, read by the module for its source."""

from __future__ import annotations

from reranker.data.interactions import Interactions, build_interactions
from reranker.data.recommenders.sentence_encoder import encoder_of
from reranker.data.sources import amazon, demo, mind, movielens, recbole, steam, tables, yelp
from reranker.data.sources.reading.streamed_tables import Imported
from reranker.data_config import (
    AmazonData,
    DataConfig,
    DemoData,
    MindData,
    MovieLensData,
    RecBoleData,
    SteamData,
    TablesData,
    YelpData,
)


def load(config: DataConfig) -> Interactions:
    """Read the tables of the configured source, filter them, and order each user's items by time.

    Raises:
        InputError: the files or the filtered interactions break a rule.
        EnvironmentFault: a file cannot be read or fetched.
    """
    if isinstance(config, DemoData):
        return build_interactions(*demo.read(config), config)
    if isinstance(config, MovieLensData):
        return build_interactions(*movielens.read(config), config)
    if isinstance(config, TablesData):
        return build_interactions(*tables.read(config), config, items_file=str(config.items))
    imported = _import(config)
    return build_interactions(imported.interactions, imported.items, config, skipped=imported.skipped)


def _import(config: AmazonData | RecBoleData | MindData | SteamData | YelpData) -> Imported:
    if isinstance(config, AmazonData):
        return amazon.read(config)
    if isinstance(config, MindData):
        return mind.read(config)
    if isinstance(config, SteamData):
        return steam.read(config)
    if isinstance(config, YelpData):
        return yelp.read(config)
    return recbole.read(config)


def is_here(config: DataConfig) -> bool:
    """Whether the data, and the encoder of their first stage, can be loaded without fetching anything."""
    encoder = config.dense_model if config.retriever == "dense" else None
    if encoder is not None and not encoder_of(encoder).is_here():
        return False
    if not isinstance(config, MovieLensData) or config.path is not None or config.release is not None:
        return True
    return movielens.find_local() is not None
