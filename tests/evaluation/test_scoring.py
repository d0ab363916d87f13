"""Lists' scores do not depend on what is computed once for several prompts; the labels' mass is that of the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.errors import TrainingError
from reranker.evaluation.scoring import EncodedLists, _alike, at_places, in_own_order, inspect
from reranker.evaluation.title_probe import title_probes
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder


def encoder(config: TrialConfig, data: RerankingData) -> PromptEncoder:
    return PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)


def alone(model: torch.nn.Module, ids: list[int], labels: list[int]) -> tuple[torch.Tensor, float]:
    """A prompt's label log-probabilities among themselves, and their mass, from full logits."""
    logits = model(torch.tensor([ids])).logits[0, -1].double()
    return torch.log_softmax(logits[labels], dim=-1), float(torch.softmax(logits, dim=-1)[labels].sum())


@pytest.mark.parametrize("order", ["candidates_first", "history_first"])
@torch.no_grad()
def test_scores_masses_and_probes_are_those_of_each_prompt_by_itself(demo, order):
    config = TrialConfig(model="demo-tiny", prompt_order=order, permutations=3, skill_steps=0)
    model = attach_lora(load_base(config, torch.device("cpu")), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.normal_(std=0.3)
    encode = encoder(config, demo)
    examples = demo.validation(config)[:12]
    lists, probes = EncodedLists.of(encode, examples), title_probes(encode.catalogue, config, examples)
    scored = inspect(model, lists, probes)
    model.eval()
    found = np.zeros((36, 20))
    for row, (prompt, places) in enumerate(zip(lists.prompts, lists.orders, strict=True)):
        shares, mass = alone(model, prompt.input_ids, encode.label_ids)
        found[row, places] = shares.numpy()
        if row < 12:
            assert scored.mass[row] == pytest.approx(mass, abs=1e-5)
    np.testing.assert_allclose(scored.scores, found.reshape(3, 12, 20).mean(axis=0), atol=2e-5)
    named = [int(alone(model, p.prompt.input_ids, encode.label_ids)[0].argmax()) in p.right for p in probes]
    assert scored.found.tolist() == named


def test_in_more_orders_than_a_list_has_what_a_model_prefers_of_places_still_cancels(demo):
    config = TrialConfig(model="demo-tiny", candidates=3, permutations=4, skill_steps=0)
    lists = EncodedLists.of(encoder(config, demo), demo.validation(config)[:2])
    of_labels = [-0.5, -1.5, -4.0]  # whatever stands there
    scores = in_own_order(np.tile(of_labels, (len(lists.prompts), 1)), lists)
    np.testing.assert_allclose(scores, np.full((2, 3), -2.0), rtol=1e-6)
    np.testing.assert_allclose(at_places(of_labels, 4), [-2.0] * 3, rtol=1e-6)


def test_a_list_is_computed_once_for_its_probe_and_a_history_once_for_its_orders(demo):
    def groups(**knobs) -> list[int]:
        config = TrialConfig(model="demo-tiny", permutations=2, skill_steps=0, **knobs)
        encode, examples = encoder(config, demo), demo.validation(config)[:3]
        lists, probes = EncodedLists.of(encode, examples), title_probes(encode.catalogue, config, examples)
        prompts = [p.input_ids for p in lists.prompts] + [p.prompt.input_ids for p in probes]
        return sorted(len(g.members) for g in _alike(prompts, [0, 1, 2] * 2 + [p.row for p in probes]))

    assert groups(prompt_order="candidates_first") == [1, 1, 1, 2, 2, 2]  # the other order; the list and its probe
    assert groups(prompt_order="history_first", candidates=2) == [1, 1, 1, 2, 2, 2]  # the probe; both orders


def test_a_pass_that_does_not_fit_the_memory_is_scored_in_parts(demo, monkeypatch):
    config = TrialConfig(model="demo-tiny", permutations=2, skill_steps=0)
    model = load_base(config, torch.device("cpu"))
    encode, examples = encoder(config, demo), demo.validation(config)[:20]
    lists, probes = EncodedLists.of(encode, examples), title_probes(encode.catalogue, config, examples)
    expected = inspect(model, lists, probes)
    sizes: list[int] = []
    forward = model.forward

    def small_memory(*args, **kwargs):
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", small_memory)
    scored = inspect(model, lists, probes)
    np.testing.assert_allclose(scored.scores, expected.scores, atol=2e-5)
    assert scored.found.tolist() == expected.found.tolist()
    assert 2 <= sum(size > 400 for size in sizes) <= 8  # what did not fit once is not tried again


def test_a_single_list_that_does_not_fit_is_the_scoring_s_fault_and_not_the_micro_batch_s(demo, monkeypatch):
    config = TrialConfig(model="demo-tiny", skill_steps=0)
    model = load_base(config, torch.device("cpu"))

    def no_memory(*args, **kwargs):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")

    monkeypatch.setattr(model, "forward", no_memory)
    lists = EncodedLists.of(encoder(config, demo), demo.validation(config)[:2])
    with pytest.raises(TrainingError, match=r"scoring a list of \d+ tokens does not fit the memory"):
        inspect(model, lists)
