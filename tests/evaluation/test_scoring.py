"""Lists' scores do not depend on what is computed once for several prompts; the labels' mass is that of the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import EncodedLists, _alike, inspect
from reranker.evaluation.title_probe import title_probes
from reranker.modeling.checkpoints import load_base, load_tokenizer
from reranker.modeling.lora import attach_lora
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
        shares, mass = alone(model, prompt.input_ids, lists.label_ids)
        found[row, places] = shares.numpy()
        if row < 12:
            assert scored.mass[row] == pytest.approx(mass, abs=1e-5)
    np.testing.assert_allclose(scored.scores, found.reshape(3, 12, 20).mean(axis=0), atol=2e-5)
    named = [int(alone(model, p.prompt.input_ids, lists.label_ids)[0].argmax()) in p.right for p in probes]
    assert scored.found.tolist() == named


def test_a_list_is_computed_once_for_its_probe_and_a_history_once_for_its_orders(demo):
    def groups(**knobs) -> list[int]:
        config = TrialConfig(model="demo-tiny", permutations=2, skill_steps=0, **knobs)
        encode, examples = encoder(config, demo), demo.validation(config)[:3]
        lists, probes = EncodedLists.of(encode, examples), title_probes(encode.catalogue, config, examples)
        prompts = [p.input_ids for p in lists.prompts] + [p.prompt.input_ids for p in probes]
        return sorted(len(g.members) for g in _alike(prompts, [0, 1, 2] * 2 + [p.row for p in probes]))

    assert groups(prompt_order="candidates_first") == [1, 1, 1, 2, 2, 2]  # the other order; the list and its probe
    assert groups(prompt_order="history_first", candidates=2) == [1, 1, 1, 2, 2, 2]  # the probe; both orders
