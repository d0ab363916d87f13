"""Examples that share a list: which ones do, what counts as their negatives, and that training on them is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reranker.config import NegativesMix, TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import CandidateSampler, training_prefixes
from reranker.data.example import Example
from reranker.data.interactions import Interactions
from reranker.data.item_token_cache import Catalogue
from reranker.data.split import split
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.training.batch_plan import examples_of_a_list
from reranker.training.ranking_losses import RANKING_LOSSES
from reranker.training.sft import fine_tune
from tests.trained import trains_the_same_after_a_break

SHARED = TrialConfig(model="demo-tiny", epochs=1, learning_rate=1e-3, lora_rank=4, list_sharing=8, effective_batch=16)
TIMED = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def figures(config: TrialConfig, data: RerankingData, **options) -> dict[str, float]:
    return {name: value for name, value in fine_tune(config, data, **options).figures.items() if name not in TIMED}


def target(example) -> int:
    return example.candidates[example.target]


def test_every_prefix_is_asked_once_behind_a_list_that_holds_all_targets(small):
    lists = small.shared_examples(SHARED, 0, 8)
    asked = sorted((e.user, target(e)) for some in lists for e in some)
    plain = sorted((e.user, target(e)) for e in small.training_examples(SHARED, 0))
    assert asked == plain
    assert {len(some) for some in lists} <= {7, 8}
    for some in lists:
        assert {example.candidates for example in some} == {some[0].candidates}
        assert len(set(some[0].candidates)) == SHARED.candidates
    histories = {(e.user, target(e)): e.history for e in small.training_examples(SHARED, 0)}
    assert all(e.history == histories[e.user, target(e)] for some in lists for e in some)


def test_the_examples_of_one_user_stand_in_different_lists(small):
    for some in small.shared_examples(SHARED, 0, 8):
        assert len({example.user for example in some}) == len(some)


def test_users_so_few_that_they_must_meet_do_not_become_each_other_s_negatives():
    data = RerankingData.prepare(DemoData(users=10))
    lists = data.shared_examples(SHARED, 0, 16)
    assert any(len({example.user for example in some}) < len(some) for some in lists)
    for example in (example for some in lists for example in some):
        own = {i for i, item in enumerate(example.candidates) if item in data.interactions.touched.of(example.user)}
        assert set(example.excluded) == own - {example.target}


def test_lists_differ_from_epoch_to_epoch_and_are_drawn_by_seed(small):
    first = small.shared_examples(SHARED, 0, 8)
    assert first == small.shared_examples(SHARED, 0, 8)
    assert first != small.shared_examples(SHARED, 1, 8)
    assert first != small.shared_examples(SHARED.model_copy(update={"seed": 1}), 0, 8)
    groups = [{(e.user, target(e)) for e in some} for some in first]
    assert groups != [{(e.user, target(e)) for e in some} for some in small.shared_examples(SHARED, 1, 8)]


def test_targets_stand_at_every_label_equally_often(demo):
    config = SHARED.model_copy(update={"examples_per_user": None})
    places = [e.target for some in demo.shared_examples(config, 0, 8) for e in some]
    counts = np.bincount(places, minlength=20)
    expected = len(places) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45.3  # chi-squared, 19 degrees of freedom, p = .0006


def fitted(lists: list[list[Example]], bias: torch.Tensor) -> torch.Tensor:
    """A score for each item, all that the label softmax over these lists can learn without looking at the user."""
    examples = [example for some in lists for example in some]
    candidates = torch.tensor([example.candidates for example in examples])
    targets = torch.tensor([example.target for example in examples])
    out = torch.zeros(candidates.shape)
    for row, example in zip(out, examples, strict=True):
        row[list(example.excluded)] = -1e9
    scores = torch.zeros(len(bias), requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.1)
    for _ in range(150):
        loss = F.cross_entropy((scores + bias)[candidates] + out, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return scores.detach()


@pytest.mark.slow
def test_with_the_correction_scores_mean_what_they_mean_after_plain_lists(demo):
    config = SHARED.model_copy(update={"examples_per_user": None})
    none = torch.zeros(len(demo.interactions.item_ids))
    correction = torch.from_numpy(demo.list_correction(config, 8))
    shared = [some for epoch in range(10) for some in demo.shared_examples(config, epoch, 8)]
    plain = fitted([demo.training_examples(config, epoch) for epoch in range(10)], none)

    def apart(scores: torch.Tensor) -> float:
        often = torch.from_numpy(np.bincount(np.concatenate(demo.split.train), minlength=len(none)) > 10)
        return float((scores - plain)[often].std())

    with_it, without, reversed_ = (apart(fitted(shared, bias)) for bias in (correction, none, -correction))
    assert with_it < 0.5 * without < 0.5 * reversed_


def as_negatives(examples: list[Example], items: int) -> np.ndarray:
    """How often each item is a negative, [items]."""
    right_or_out = [{example.target, *example.further, *example.excluded} for example in examples]
    negatives = [
        np.delete(example.candidates, list(places)) for example, places in zip(examples, right_or_out, strict=True)
    ]
    return np.bincount(np.concatenate(negatives), minlength=items)


@pytest.mark.parametrize(
    ("positives", "together", "negatives"),
    [
        (1, 16, NegativesMix()),
        (2, 8, NegativesMix()),
        (4, 4, NegativesMix()),
        (1, 16, NegativesMix(uniform=0.5, popularity=0.5)),
        (1, 16, NegativesMix(uniform=0.5, retriever=0.5)),
        (1, 4, NegativesMix(uniform=0.0, retriever=1.0)),
    ],
)
def test_the_correction_is_how_much_more_often_shared_lists_have_an_item_as_a_negative(
    demo, positives, together, negatives
):
    items = len(demo.interactions.item_ids)
    config = SHARED.model_copy(update={"positives": positives, "negatives": negatives})
    random = NegativesMix(uniform=1 - negatives.popularity, popularity=negatives.popularity)
    without_hard = config.model_copy(update={"negatives": random})  # what scores are to mean
    shared, expected = np.zeros(items), np.zeros(items)
    for epoch in range(10):  # the latest of a user, with fewer right items, are in some epochs alone
        correction = demo.list_correction(config, together, epoch)
        expected += as_negatives(demo.training_examples(without_hard, epoch), items) * np.exp(-correction)
        lists = demo.shared_examples(config, epoch, together)
        shared += as_negatives([example for some in lists for example in some], items)
    by_popularity = np.argsort(-np.bincount(np.concatenate(demo.split.train), minlength=items), kind="stable")
    for some in np.split(by_popularity, [10, 50, 200])[:3]:  # a constant for all items cancels in the softmax
        shares = [counts[some].sum() / counts.sum() for counts in (expected, shared)]
        assert np.log(shares[0] / shares[1]) == pytest.approx(0.0, abs=0.05)


def test_hard_negatives_fill_shared_lists_too(small):
    config = SHARED.model_copy(update={"negatives": NegativesMix(uniform=0, retriever=1)})
    prefixes = training_prefixes(small.split, config.examples_per_user, None, 0)
    pools = {
        tuple(p): set(row) for p, row in zip(prefixes.tolist(), small.sampler._hard.of(prefixes).tolist(), strict=True)
    }
    for some in small.shared_examples(config, 0, 8):
        users = [e.user for e in some]
        allowed = set().union(*(pool for (user, _), pool in pools.items() if user in users))
        assert set(some[0].candidates) <= allowed | {target(e) for e in some}


def test_the_tokens_are_those_of_separate_prompts(small):
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts), SHARED)
    for some in small.shared_examples(SHARED, 0, 8):
        shared = encoder.encode_shared(some)
        whole = [shared.listed + question.input_ids for question in shared.questions]
        assert whole == [prompt.input_ids for prompt in encoder.encode(some)]


def test_a_prompt_that_is_too_long_loses_its_oldest_history(small):
    encoder = PromptEncoder(
        Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts),
        SHARED.model_copy(update={"max_prompt_tokens": 84}),
    )
    cut = 0
    for some in small.shared_examples(SHARED, 0, 8):
        shared = encoder.encode_shared(some)
        assert max(len(shared.listed) + len(q.input_ids) for q in shared.questions) <= 84
        for question, prompt in zip(shared.questions, encoder.encode(some), strict=True):
            assert shared.listed + question.input_ids == prompt.input_ids
            assert question.history_dropped == prompt.history_dropped
            cut += question.history_dropped > 0
    assert cut


def test_the_loss_of_guessing_is_that_of_the_lists_that_are_trained_on(small):
    losses, correction = [], small.list_correction(SHARED, 8)
    for some in small.shared_examples(SHARED, 0, 8):
        for example in some:
            added = torch.tensor(correction[list(example.candidates)])
            added[list(example.excluded)] = -1e9
            losses.append(F.cross_entropy(added, torch.tensor(example.target)).item())
    assert figures(SHARED, small)["guessing_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    alone = SHARED.model_copy(update={"list_sharing": 1})
    assert figures(alone, small)["guessing_loss"] == pytest.approx(np.log(20), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["label_ce", "token_ce", *RANKING_LOSSES])
def test_the_loss_is_that_of_separate_prompts_over_the_same_lists(small, objective):
    config = SHARED.model_copy(update={"objective": objective, "learning_rate": 1e-12})
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), small.interactions.item_texts), config)
    model, losses = load_base(config, torch.device("cpu")).eval(), []
    correction = small.list_correction(config, 8)
    labels = torch.tensor(encoder.label_ids)
    for some in small.shared_examples(config, 0, 8):
        for example, prompt in zip(some, encoder.encode(some), strict=True):
            answer = encoder.answer_ids[prompt.target]
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt.input_ids, *answer]])).logits[0, -len(answer) - 1 : -1]
            bias = torch.tensor(correction[list(example.candidates)])
            bias[list(example.excluded)] = -1e9
            logits[0, labels] += bias
            if objective == "label_ce":
                losses.append(F.cross_entropy(logits[0, labels], torch.tensor(prompt.target)).item())
            elif objective in RANKING_LOSSES:
                alone = RANKING_LOSSES[objective](logits[:1, labels], torch.eye(20)[[prompt.target]])
                losses.append(alone.item())
            else:
                losses.append(F.cross_entropy(logits, torch.tensor(answer)).item())
    assert figures(config, small)["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.slow
def test_smaller_passes_take_the_same_steps(small):
    whole, parts = (figures(SHARED, small, micro_batch=size) for size in (None, 3))
    assert (whole["applied/micro_batch"], parts["applied/micro_batch"]) == (16, 3)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-5)
    assert whole["applied/optimizer_steps"] == parts["applied/optimizer_steps"]


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_result(small):
    saved = figures(SHARED.model_copy(update={"gradient_checkpointing": True}), small)
    assert saved["val_loss"] == pytest.approx(figures(SHARED, small)["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_a_bf16_base_trains_too(small):
    config = SHARED.model_copy(update={"precision": "bf16"})
    assert figures(config, small)["val_loss"] == pytest.approx(figures(SHARED, small)["val_loss"], abs=0.05)


@pytest.mark.slow
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, tmp_path):
    config = SHARED.model_copy(update={"epochs": 2, "lora_dropout": 0.1})
    assert trains_the_same_after_a_break(config, small, tmp_path)


def test_how_many_share_a_list():
    def sharing(workers: int = 1, **knobs) -> int:
        return examples_of_a_list(TrialConfig(model="demo-tiny", **knobs), workers)

    assert sharing() == 16
    assert sharing(list_sharing=1) == 1
    assert sharing(list_sharing="auto", effective_batch=16) == 8  # two lists a step, for one worker as for two
    assert sharing(workers=2, list_sharing="auto", effective_batch=16) == 8
    assert sharing(list_sharing="auto", effective_batch=64) == 16
    assert sharing(list_sharing="auto", effective_batch=64, candidates=10) == 8
    assert sharing(list_sharing="auto", effective_batch=16, prompt_order="history_first") == 1
    assert sharing(workers=4, list_sharing=8, effective_batch=16) == 4  # no more than a worker's share
    assert sharing(list_sharing=5, effective_batch=16) == 4


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"list_sharing": 4, "prompt_order": "history_first"}, "no list comes first"),
        ({"list_sharing": 12, "candidates": 10}, "at most `candidates`"),
    ],
)
def test_what_no_list_can_hold_is_refused(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", **knobs})


def test_the_correction_is_right_for_targets_that_are_rare():
    """On a large catalogue an epoch's own targets would look far too frequent, and all other items too rare."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 2001)
    shares /= shares.sum()
    sequences = [rng.choice(2000, size=12, replace=False, p=shares).astype(np.int32) for _ in range(300)]
    names = [f"{i}" for i in range(2000)]
    interactions = Interactions([f"{u}" for u in range(300)], names, names, sequences, [], "")
    sampler = CandidateSampler(interactions, split(interactions), "popularity")
    config = TrialConfig(candidates=20, collaborative_scores="none")
    prefixes = training_prefixes(split(interactions), 2, None, 0)
    lists = sampler.shared_examples(config, prefixes, 0, 16)
    known = np.log(shares)  # of a ranker that knows the popularity, against uniform negatives

    def loss(correction: np.ndarray) -> float:
        losses = []
        for example in (example for group in lists for example in group):
            scores = (known + correction)[list(example.candidates)]
            allowed = np.delete(scores, list(example.excluded))
            losses.append(np.log(np.exp(allowed).sum()) - scores[example.target])
        return float(np.mean(losses))

    all_prefixes = training_prefixes(split(interactions), None, None, 0)
    right, of_one_epoch = (sampler.list_correction(config, taken, 16) for taken in (all_prefixes, prefixes))
    assert loss(right) < loss(np.zeros(2000)) - 0.2
    assert loss(right) < loss(of_one_epoch) - 0.2
