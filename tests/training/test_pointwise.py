"""Each candidate asked about by itself: the loss, the gradients and the scores are those of whole prompts one by one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3_5TextConfig

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.evaluation.scoring import EncodedLists, flops_per_list, inspect, score
from reranker.evaluation.title_probe import title_probes
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.forward_passes import Limits, pointwise_passes
from reranker.prompting.pointwise_prompts import PointwiseEncoder
from reranker.training.loss import Objective, binary_ce
from reranker.training.preference_stage import softmax_dpo
from reranker.training.ranking_losses import lambdaloss, listnet, ranknet
from reranker.training.sft import fine_tune
from reranker.zero_shot import keep_zero_shot, zero_shot
from tests.families import gradients, same
from tests.trained import trains_the_same_after_a_break
from tests.yes_no import save_answering_base

CPU = torch.device("cpu")
TIMED = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}
OBJECTIVES = {"label_ce": listnet, "ranknet": ranknet, "lambdaloss": lambdaloss, "binary_ce": binary_ce}


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=24))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrialConfig:
    base = save_answering_base(tmp_path_factory.mktemp("base"))
    return TrialConfig(
        model=base, scoring="pointwise", candidates=5, epochs=1, examples_per_user=1, learning_rate=1e-3, lora_rank=4,
        effective_batch=16,
    )  # fmt: skip


def encoder_for(config: TrialConfig, data: RerankingData) -> PointwiseEncoder:
    return PointwiseEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)


def adapted(config: TrialConfig):
    torch.manual_seed(0)
    model = attach_lora(load_base(config, CPU), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def odds_one_by_one(model, encoder: PointwiseEncoder, examples: list[Example]) -> torch.Tensor:
    """By the whole model, a prompt at a time."""
    yes, no = encoder.trie.tokens
    rows = []
    for prompt in encoder.encode(examples):
        ends = [model(torch.tensor([ids])).logits[0, -1] for ids in prompt.whole]
        rows.append(torch.stack([end[yes] - end[no] for end in ends]))
    return torch.stack(rows)


def figures(config: TrialConfig, data: RerankingData, **options) -> dict[str, float]:
    return {name: value for name, value in fine_tune(config, data, **options).figures.items() if name not in TIMED}


def test_a_score_is_the_log_odds_of_yes_behind_a_whole_prompt(config, small):
    model, encoder, examples = adapted(config).eval(), encoder_for(config, small), small.validation(config)[:8]
    with torch.no_grad():
        expected = odds_one_by_one(model, encoder, examples)
    found = inspect(model, EncodedLists.of(encoder, examples))
    assert np.abs(found.scores - expected.numpy()).max() < 1e-5
    assert found.scores.shape == (8, 5)
    assert (found.mass > 0).all()
    assert (found.mass < 1).all()


def test_the_score_of_a_candidate_does_not_depend_on_what_else_is_in_the_list(config, small):
    model, encoder = adapted(config), encoder_for(config, small)
    example = small.validation(config)[0]
    turned = Example(example.user, example.history, example.candidates[::-1], 0)
    scores, of_turned = score(model, EncodedLists.of(encoder, [example, turned]))
    assert np.abs(scores - of_turned[::-1]).max() < 1e-5


def test_more_candidates_than_a_pass_holds_are_scored_in_several(config, small, monkeypatch):
    model, encoder, examples = adapted(config), encoder_for(config, small), small.validation(config)[:3]
    lists = EncodedLists.of(encoder, examples)
    expected = score(model, lists)
    monkeypatch.setattr("reranker.evaluation.scoring._BATCH_TOKENS", {"cpu": lists.beginnings[0] + 30})
    assert np.abs(score(model, lists) - expected).max() < 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("is_shared", [True, False])
def test_loss_and_gradients_are_those_of_the_whole_model_prompt_by_prompt(config, small, objective, is_shared):
    config = config.model_copy(update={"objective": objective})
    model, encoder = adapted(config).train(), encoder_for(config, small)
    encoder.__dict__["shares_beginnings"] = is_shared
    examples = small.training_examples(config, 0)[:3]
    targets = torch.tensor([example.target for example in examples])
    relevance = F.one_hot(targets, config.candidates).float()
    expected = OBJECTIVES[objective](odds_one_by_one(model, encoder, examples), relevance).mean()
    plain = gradients(model, expected)
    (batch,) = pointwise_passes(encoder, examples, encoder.encode(examples), Limits(None, None))
    assert ("layout" in batch) == is_shared
    ours = Objective(encoder, CPU)
    with ours.answering(model, batch):
        loss = ours.loss(ours.logits(model, batch), batch["targets"])
        of_ours = gradients(model, loss)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    same(of_ours, plain)


def test_counts_teachers_and_several_right_items_act_on_the_log_odds(config, small):
    odds = torch.tensor([[0.5, -1.0, 2.0]])
    counted = Objective(
        encoder_for(config.model_copy(update={"objective": "binary_ce", "teacher_weight": 0.25}), small), CPU
    )
    relevance, teacher = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.5, 0.3, 0.2]]).log()
    own = (F.softplus(-odds[0, 0]) + F.softplus(-odds[0, 1]) + F.softplus(odds[0, 2])).item() / 3
    divergence = F.kl_div(odds.log_softmax(1), teacher, reduction="sum", log_target=True).item()
    found = counted.loss(odds[:, None], torch.tensor([0]), teacher, relevance).item()
    assert found == pytest.approx(0.75 * own + 0.25 * divergence, abs=1e-6)


def test_collaborative_scores_are_added_to_the_log_odds(config, small):
    counted = config.model_copy(update={"collaborative_scores": "counts", "model_weight": 0.5})
    model, encoder = adapted(counted).train(), encoder_for(counted, small)
    examples = small.training_examples(counted, 0)[:2]
    (batch,) = pointwise_passes(encoder, examples, encoder.encode(examples), Limits(None, None))
    ours = Objective(encoder, CPU)
    with ours.answering(model, batch), torch.no_grad():
        found = ours.logits(model, batch)[:, 0]
    with torch.no_grad():
        odds = odds_one_by_one(model, encoder, examples)
    expected = 0.5 * odds + torch.tensor([example.collaborative for example in examples])
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.slow
def test_training_lowers_the_loss(config, small):
    longer = {"objective": "binary_ce", "epochs": 6, "learning_rate": 1e-2, "lora_rank": 8, "examples_per_user": 2}
    losses = []
    fine_tune(
        config.model_copy(update=longer), small, on_report=lambda r: losses.append(r.figures["train_loss"]) or True
    )
    assert min(losses[3:]) < losses[0] - 0.01


def test_smaller_passes_take_the_same_steps(config, small):
    whole, parts = (figures(config, small, micro_batch=size) for size in (None, 3))
    assert (whole["applied/micro_batch"], parts["applied/micro_batch"]) == (16, 3)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-5)
    assert whole["applied/optimizer_steps"] == parts["applied/optimizer_steps"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [{"objective": "binary_ce", "lora_dropout": 0.1, "first_candidates": 3, "positives": 2}, {"dpo_epochs": 1}],
    ids=["binary_ce, longer lists", "a second stage"],
)
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(config, small, tmp_path, knobs):
    assert trains_the_same_after_a_break(config.model_copy(update={"epochs": 2, **knobs}), small, tmp_path)


def test_the_second_stage_begins_where_nothing_was_learned_since(config, small):
    reports = []
    two = config.model_copy(update={"epochs": 2, "dpo_epochs": 1, "learning_rate": 1e-12, "warmup_epochs": 0})
    fine_tune(two, small, on_report=lambda report: reports.append(report.figures) or True)
    assert reports[1]["train_loss"] == pytest.approx(math.log(5), abs=1e-5)
    zero = torch.zeros(1, 5)
    assert softmax_dpo(zero, zero, torch.tensor([0]), 1.0).item() == pytest.approx(math.log(5), abs=1e-6)


@pytest.mark.slow
def test_a_recurrent_base_computes_each_candidate_s_whole_prompt(small, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_answering_base(tmp_path))
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    }  # fmt: skip
    described = Qwen3_5TextConfig(**sizes, vocab_size=len(tokenizer), tie_word_embeddings=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(described).save_pretrained(tmp_path)
    config = TrialConfig(
        model=str(tmp_path), scoring="pointwise", candidates=3, epochs=1, examples_per_user=1, history_length=2
    )
    encoder, examples = encoder_for(config, small), small.validation(config)[:2]
    assert not encoder.shares_beginnings
    assert figures(config, small)["recall_at_1"] > 0
    model = load_base(config, CPU).eval()
    with torch.no_grad():
        expected = odds_one_by_one(model, encoder, examples)
    lists = EncodedLists.of(encoder, examples)
    assert np.abs(score(model, lists) - expected.numpy()).max() < 1e-4
    whole = EncodedLists(lists.prompts, [[0]] * 6, 1, lists.trie, lists.pad_id)
    assert flops_per_list(model, lists) == pytest.approx(3 * flops_per_list(model, whole), rel=1e-9)


def test_a_history_s_operations_are_counted_once(config, small):
    encoder, model = encoder_for(config, small), load_base(config, CPU)
    lists = EncodedLists.of(encoder, small.validation(config)[:1])
    shape = model.config
    outside = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    blocks = sum(p.numel() for p in model.parameters() if id(p) not in outside)
    attention = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim
    common, lengths = lists.beginnings[0], [len(prompt.input_ids) for prompt in lists.prompts]
    expected = 2 * (blocks * common + attention * common**2)
    for length in lengths:
        expected += 2 * (blocks * (length - common) + attention * (length**2 - common**2) + shape.hidden_size * 2)
    assert flops_per_list(model, lists) == pytest.approx(expected, rel=1e-9)


def test_the_untrained_model_is_asked_the_same_and_has_no_prior_of_labels(config, small, tmp_path):
    bases, examples = BaseModels(), small.validation(config)
    plain, without_prior = (TrialFolder(tmp_path / name) for name in ("plain", "without"))
    keep_zero_shot(config, small, bases, plain, without_prior)
    assert plain.has_ranks
    assert not without_prior.path.exists()
    found = zero_shot(config, small, examples, bases)
    assert found.without_prior is None
    assert found.figures.keys() == {"label_mass", "seconds_per_list"}
    scores = score(load_base(config, CPU), EncodedLists.of(encoder_for(config, small), examples))
    better = [int((row > row[e.target]).sum()) for row, e in zip(scores, examples, strict=True)]
    assert found.plain.ranks.greater.tolist() == better


def test_titles_are_not_asked_for(config, small):
    encoder = encoder_for(config, small)
    assert title_probes(encoder.catalogue, config, small.validation(config)) == []
    assert "titles_found" not in figures(config, small)


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"scoring": "listwise", "objective": "binary_ce"}, "objective: binary_ce needs scoring: pointwise"),
        (
            {"objective": "token_ce"},
            "objective must not be token_ce with scoring: pointwise: binary_ce trains yes and no",
        ),
        ({"list_sharing": 2}, "list_sharing must be auto or 1 with scoring: pointwise"),
        ({"skill_steps": 5}, "skill_steps and skill_mix must be left out with scoring: pointwise, which has no labels"),
        ({"skill_mix": 0.1}, "skill_steps and skill_mix must be left out with scoring: pointwise, which has no labels"),
        ({"permutations": 2}, "permutations must be 1 with scoring: pointwise, where candidates have no order"),
        ({"label_prior": "divide"}, "label_prior must be keep with scoring: pointwise, which has no labels"),
        (
            {"objective": "binary_ce", "positives": 2, "positive_grades": "rating"},
            "positive_grades must be order with objective: binary_ce",
        ),
    ],
)
def test_knobs_that_mean_nothing_there_are_refused(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"scoring": "pointwise", **knobs})


def test_there_need_be_no_label_for_each_candidate():
    assert build_trial_config({"scoring": "pointwise", "candidates": 1000}).candidates == 1000


def test_the_adapter_is_one_that_peft_loads_on_the_plain_base(config, small, tmp_path):
    from peft import PeftModel

    folder = TrialFolder(Path(tmp_path) / "trial")
    folder.write_config(config)
    report = fine_tune(config, small, folder=folder)
    model = PeftModel.from_pretrained(load_base(config, CPU), str(folder.adapter)).eval()
    examples = small.validation(config)[:8]
    with torch.no_grad():
        odds = odds_one_by_one(model, encoder_for(config, small), examples)
    places = torch.tensor([example.target for example in examples])
    ranks = (odds > odds.gather(1, places[:, None])).sum(dim=1).tolist()
    assert report.evaluation is not None
    assert ranks == report.evaluation.ranks.greater.tolist()[:8]
