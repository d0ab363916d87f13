"""The demo's world follows its stated rule, its best score is right, and the shipped bases are what the demo needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reranker.config import LETTERS, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data.sources import demo as world
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.evaluation.scoring import EncodedLists, score
from reranker.metrics import ranks_of_target, summarise
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder

MODELS = ["demo-tiny", "demo-small"]


@pytest.fixture(scope="module")
def large() -> RerankingData:
    return RerankingData.prepare(DemoData(users=4000, seed=3))


def config_of(model: str) -> TrialConfig:
    return TrialConfig(model=model, candidates=20, history_length=6)


def recall_at_1(scores: np.ndarray, examples: list[Example]) -> float:
    targets = np.array([example.target for example in examples])
    return float(summarise(ranks_of_target(scores.astype(np.float32), targets))["recall_at_1"])


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, items = world.read(DemoData(users=50, seed=1))
    again, _ = world.read(DemoData(users=50, seed=1))
    other, other_items = world.read(DemoData(users=50, seed=2))
    assert first.equals(again)
    assert not first.equals(other)
    assert items.equals(other_items)  # the catalogue and the rule belong to the demo, not to the seed


def test_the_tables_have_the_configured_shape_and_no_item_twice_for_one_user():
    interactions, items = world.read(DemoData(users=123, interactions_per_user=40))
    assert len(interactions) == 123 * 40
    assert not interactions.duplicated(["user_id", "item_id"]).any()
    assert interactions["user_id"].is_monotonic_increasing
    assert items["text"].is_unique
    assert {len(text.split()) for text in items["text"]} == {2}
    assert set(interactions["item_id"]) <= set(items["item_id"])


def test_every_item_can_be_drawn_but_no_more_than_there_are():
    interactions, items = world.read(DemoData(users=10, interactions_per_user=300))
    assert (interactions.groupby("user_id")["item_id"].nunique() == len(items)).all()
    with pytest.raises(InputError, match="interactions_per_user"):
        world.read(DemoData(users=10, interactions_per_user=301))


def test_one_genre_follows_another_as_often_as_stated():
    interactions, _ = world.read(DemoData(users=5000, interactions_per_user=10, seed=5))
    genres = interactions["item_id"].str[1:].astype(int).to_numpy().reshape(5000, 10) // 25
    before, after = genres[:, :-1].ravel(), genres[:, 1:].ravel()
    names = [genre.name for genre in world.GENRES]
    followers = np.array([names.index(genre.follower) for genre in world.GENRES])
    assert sorted(followers) == list(range(12))  # a permutation
    assert (followers != np.arange(12)).all()
    by_chance = 0.10 / 12
    for share, expected in (
        ((after == followers[before]).mean(), 0.65 + by_chance),
        ((after == before).mean(), 0.25 + by_chance),
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(after))


def test_the_first_item_is_drawn_by_popularity_within_its_genre():
    interactions, _ = world.read(DemoData(users=20_000, interactions_per_user=4, seed=6))
    firsts = interactions["item_id"].to_numpy()[::4]
    places = np.array([int(item_id[1:]) % 25 for item_id in firsts])
    weights = np.arange(1, 26) ** -world.ZIPF
    expected = weights / weights.sum()
    observed = np.bincount(places, minlength=25) / len(places)
    assert (np.abs(observed - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(places))).all()


def test_the_oracle_leaves_out_what_was_seen():
    """By hand: of two genres' second items, where in each genre the most popular item is already seen."""
    names = [genre.name for genre in world.GENRES]
    last, follower = 0, names.index(world.GENRES[0].follower)
    of_last, of_follower = 25 * last, 25 * follower
    history = (of_follower + 0, of_last + 0)  # the follower's most popular item is gone
    example = Example(0, history, (of_follower + 1, of_last + 1), 0)
    z = np.arange(1, 26) ** -world.ZIPF
    share = np.array([(0.65 + 0.1 / 12) * z[1] / z[1:].sum(), (0.25 + 0.1 / 12) * z[1] / z[1:].sum()])
    assert world.oracle_scores(world.ITEM_IDS, [example])[0] == pytest.approx(share / share.sum())


def test_the_best_reachable_score_is_what_the_oracle_gets(large):
    examples = large.validation(config_of("demo-tiny"))
    scores = world.oracle_scores(large.interactions.item_ids, examples)
    best = large.best_reachable(config_of("demo-tiny"))
    assert best is not None
    assert scores.shape == (4000, 20)
    assert 0.45 < best < 0.55
    assert abs(recall_at_1(scores, examples) - best) < 4 * np.sqrt(best * (1 - best) / len(examples))


def test_the_oracle_works_on_a_catalogue_with_items_missing(large):
    examples = large.validation(config_of("demo-tiny"))[:50]
    used = sorted({item for example in examples for item in (*example.history, *example.candidates)})
    place = {item: i for i, item in enumerate(used)}
    moved = [
        Example(e.user, tuple(place[i] for i in e.history), tuple(place[i] for i in e.candidates), e.target)
        for e in examples
    ]
    ids = large.interactions.item_ids
    assert len(used) < len(ids)
    kept = world.oracle_scores([ids[item] for item in used], moved)
    assert kept == pytest.approx(world.oracle_scores(ids, examples))


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_tokenizer_reads_every_prompt_with_the_label_after_its_title(model, large):
    tokenizer = load_tokenizer(model)
    config = TrialConfig(model=model, candidates=52, history_length=6)
    encoder = PromptEncoder(Catalogue(tokenizer, large.interactions.item_texts), config)
    assert tokenizer.convert_ids_to_tokens(encoder.label_ids) == list(LETTERS)
    prompts = encoder.encode(large.validation(config)[:200])
    assert all(tokenizer.unk_token_id not in prompt.input_ids for prompt in prompts)
    ids = encoder.encode([Example(0, (0,), tuple(range(1, 53)), 0)])[0].input_ids
    words = tokenizer.convert_ids_to_tokens(ids)
    for item, label in zip(range(1, 53), LETTERS, strict=True):
        adjective, noun = large.interactions.item_texts[item].split()
        assert words[words.index(label) - 2 : words.index(label)] == [adjective, noun]


@pytest.mark.parametrize("model", MODELS)
def test_a_shipped_base_has_the_skill_but_not_the_rule(model, large):
    """Alone it does better than chance (.05), and so much worse than possible that LoRA has something to learn."""
    config = config_of(model)
    examples = large.validation(config)[:1500]
    encoder = PromptEncoder(Catalogue(load_tokenizer(model), large.interactions.item_texts), config)
    scores = score(load_base(config, torch.device("cpu")), EncodedLists.of(encoder, examples))
    assert 0.09 < recall_at_1(scores, examples) < 0.20  # 4 standard errors of chance: .023


def test_the_shipped_bases_are_small():
    files = [file for model in MODELS for file in Path(BUNDLED / model).rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"model.safetensors", "tokenizer.json", "config.json"}
    assert sum(file.stat().st_size for file in files) < 2_000_000
