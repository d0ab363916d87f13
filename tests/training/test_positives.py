"""What a user touched next as further right items: where they stand, what the guard refuses, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reranker.config import TrialConfig, build_trial_config
from reranker.data.agreement import check_agreement
from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import CandidateSampler
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData, TablesData
from reranker.errors import InputError
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.forward_passes import Limits, plain_passes
from reranker.prompting.prompts import PromptEncoder
from reranker.training.batch_plan import examples_of_a_list
from reranker.training.ranking_losses import RANKING_LOSSES, listnet
from reranker.training.sft import fine_tune

THREE = TrialConfig(
    model="demo-tiny", positives=3, examples_per_user=None, epochs=1, effective_batch=16, lora_rank=4, list_sharing=4
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def examples_of(data: RerankingData, together: int) -> list[Example]:
    if together == 1:
        return data.training_examples(THREE, 0)
    return [example for some in data.shared_examples(THREE, 0, together) for example in some]


@pytest.mark.parametrize("together", [1, 4])
def test_a_list_holds_what_the_user_touched_next_in_training(small, together):
    found: dict[int, int] = {}
    for example in examples_of(small, together):
        train = small.split.train[example.user].tolist()
        at = train.index(example.candidates[example.target])
        items = [example.candidates[place] for place in example.further]
        assert items == train[at + 1 : at + 3]
        assert len(set(example.candidates)) == THREE.candidates
        right = {example.target, *example.further}
        own = {i for i, item in enumerate(example.candidates) if item in small.interactions.touched.of(example.user)}
        assert set(example.excluded) == own - right
        found[len(items)] = found.get(len(items), 0) + 1
    assert set(found) == {0, 1, 2}


def test_the_places_of_right_items_are_drawn_like_any(small):
    places = [place for example in small.training_examples(THREE, 0) for place in example.further]
    counts = np.bincount(places, minlength=THREE.candidates)
    expected = len(places) / THREE.candidates
    assert ((counts - expected) ** 2 / expected).sum() < 45.3  # chi-squared, 19 degrees of freedom, p = .0006


def test_the_guard_refuses_a_right_item_that_is_held_out(small):
    example = next(e for e in small.training_examples(THREE, 0) if e.further)
    held_out = int(small.split.validation.items[small.split.validation.users == example.user][0])
    candidates = list(example.candidates)
    candidates[example.further[0]] = held_out
    with pytest.raises(InputError, match="what else is right must be of the user's training part"):
        check_no_leak([replace(example, candidates=tuple(candidates))], small.interactions, small.split, "train")


def test_lists_of_one_right_item_are_as_they_were(small):
    one = THREE.model_copy(update={"positives": 1})
    assert all(not example.further for example in small.training_examples(one, 0))
    assert small.validation(one) == small.validation(THREE)


def test_fewer_share_a_list(small):
    assert examples_of_a_list(THREE.model_copy(update={"list_sharing": "auto"}), workers=1) == 4
    assert examples_of_a_list(THREE.model_copy(update={"list_sharing": "auto", "positives": 1}), workers=1) == 8


@pytest.mark.parametrize("objective", ["label_ce", *RANKING_LOSSES])
@pytest.mark.parametrize("sharing", [1, 4])
def test_the_training_loss_is_that_of_the_formula(small, sharing, objective):
    config = THREE.model_copy(
        update={"objective": objective, "list_sharing": sharing, "learning_rate": 1e-12, "examples_per_user": 3}
    )
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts), config)
    model, losses = load_base(config, torch.device("cpu")).eval(), []
    loss = RANKING_LOSSES.get(objective, listnet)
    correction = small.list_correction(config, sharing) if sharing > 1 else np.zeros(len(encoder.catalogue.texts))
    plain = [[example] for example in small.training_examples(config, 0)]
    for some in plain if sharing == 1 else small.shared_examples(config, 0, sharing):
        for example, prompt in zip(some, encoder.encode(some), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt.input_ids])).logits[:, -1, encoder.label_ids]
            logits += torch.tensor(correction[list(example.candidates)], dtype=torch.float32)
            logits[0, list(example.excluded)] = -1e9
            relevance = torch.zeros(1, config.candidates)
            for nth, place in enumerate((example.target, *example.further)):
                relevance[0, place] = 0.5**nth
            losses.append(loss(logits, relevance).item())
    reports = []
    fine_tune(config, small, on_report=lambda report: reports.append(report.figures) or True)
    assert reports[0]["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_one_example_of_each_user_has_several_right_items_in_the_first_epoch(small):
    examples = small.training_examples(THREE.model_copy(update={"examples_per_user": 1}), 0)
    for example in examples:
        assert len(example.further) == min(2, len(small.split.train[example.user]) - 2)


@pytest.fixture(scope="module")
def rated(small, tmp_path_factory):
    """The same interactions as tables, with ratings: an item's code tells its stars, 1 to 5."""
    folder, known = tmp_path_factory.mktemp("rated"), small.interactions
    rows = ["user_id,item_id,timestamp,rating"]
    for user, sequence in zip(known.user_ids, known.sequences, strict=True):
        rows += [f"{user},{known.item_ids[i]},{time},{1 + i % 5}" for time, i in enumerate(sequence.tolist())]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    items = [f'{name},"{text}"' for name, text in zip(known.item_ids, known.item_texts, strict=True)]
    (folder / "items.csv").write_text("\n".join(["item_id,text", *items]) + "\n", encoding="utf-8")
    tables = TablesData(interactions=folder / "rows.csv", items=folder / "items.csv", min_item=1)
    return RerankingData.prepare(tables)


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("sealed", [False, True])
def test_right_items_are_worth_what_their_ratings_say(rated, small, together, sealed):
    config = THREE.model_copy(update={"positive_grades": "rating"})
    data, grades = (rated.sealed() if sealed else rated), [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
    listed = [data.training_examples(config, 0)] if together == 1 else data.shared_examples(config, 0, together)
    examples = [example for some in listed for example in some]
    assert any(len(example.further) == 2 for example in examples)
    for example in examples:
        right = [example.candidates[place] for place in (example.target, *example.further)]
        codes = [small.interactions.item_ids.index(data.interactions.item_ids[item]) for item in right]
        worths = tuple(grades[code % 5] for code in codes)
        assert example.worths == (worths if example.further else ())


def test_the_worths_are_what_the_loss_weighs_right_items_by(rated):
    config = THREE.model_copy(update={"positive_grades": "rating", "list_sharing": 1})
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), rated.interactions.item_texts), config)
    examples = rated.training_examples(config, 0)
    for batch, example in zip(
        [next(plain_passes(encoder, [e], encoder.encode([e]), Limits(None, None))) for e in examples],
        examples,
        strict=True,
    ):
        if example.further:
            row = batch["relevance"][0]
            assert row[[example.target, *example.further]].tolist() == list(example.worths)
            assert int((row > 0).sum()) == 1 + len(example.further)


def test_without_ratings_they_cannot_be_graded_by_them(small, rated):
    graded = THREE.model_copy(update={"positive_grades": "rating"})
    unrated = replace(rated.interactions, worths=None)
    with pytest.raises(InputError, match="needs interactions with a rating, and these have none"):
        CandidateSampler(unrated, rated.split, "popularity").training_examples(graded, np.array([[0, 1]]), 0)
    with pytest.raises(InputError, match="needs interactions with a rating, and source: demo has none"):
        check_agreement(graded, small.config)


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"positive_grades": "rating"}, "positive_grades must be order unless positives is more than 1"),
        ({"positives": 20}, "positives must be less than `candidates`"),
        ({"positives": 3, "first_candidates": 3}, "positives must be less than `candidates`"),
        ({"positives": 3, "list_sharing": 7}, "list_sharing times positives must be at most `candidates`"),
        ({"positives": 2, "objective": "token_ce"}, "positives must be 1 with objective: token_ce"),
        ({"positives": 2, "dpo_epochs": 1}, "positives must be 1 with objective: token_ce or dpo_epochs"),
    ],
)
def test_bounds(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", "candidates": 20, "epochs": 2, **knobs})
