"""Training on a tiny real model: every knob's value arrives where it acts, and the figures mean what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import NegativesMix, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError, TrainingError, TrainingStopped
from reranker.evaluation.scoring import EncodedLists, inspect, score
from reranker.metrics import chance, ranks_of_target, summarise
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.report_figures import best_report
from reranker.training.batch_plan import largest_pass, share_of_batch
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from reranker.training.training_status import TrainingStatus, clock
from tests.present import present

CPU = torch.device("cpu")
TINY = TrialConfig(
    model="demo-tiny", epochs=1, examples_per_user=1, learning_rate=1e-2, lora_rank=4, effective_batch=16,
    list_sharing=1, skill_steps=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def train(config: TrialConfig, data: RerankingData, folder: Path | None = None) -> list[TrainingReport]:
    reports: list[TrainingReport] = []
    kept = TrialFolder(folder) if folder else None
    fine_tune(config, data, folder=kept, on_report=lambda report: reports.append(report) or True)
    return reports


@pytest.mark.slow
def test_rate_rank_and_epochs_arrive_in_the_optimiser_the_adapter_and_the_steps(small, tmp_path):
    config = TINY.model_copy(update={"epochs": 3, "learning_rate": 3.7e-3, "lora_rank": 5, "lora_alpha": 11})
    reports = train(config, small, tmp_path)
    assert [report.figures["epoch"] for report in reports] == [1, 2, 3]
    assert reports[-1].figures["applied/learning_rate"] == pytest.approx(3.7e-3, abs=0)
    assert reports[-1].figures["applied/optimizer_steps"] == 3 * math.ceil(64 / config.effective_batch)
    assert reports[-1].figures["applied/examples"] == 3 * 64
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {w.shape[0] for name, w in weights.items() if "lora_A" in name} == {5}
    assert {w.shape[1] for name, w in weights.items() if "lora_B" in name} == {5}
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (5, 11)


@pytest.mark.slow
def test_a_training_says_how_far_it_is_and_gives_the_same_whether_or_not_anyone_listens(small, tmp_path, monkeypatch):
    monkeypatch.setattr("reranker.training.step_watch._STATUS_S", 0.0)  # after each step
    config, pulses = TINY.model_copy(update={"epochs": 2, "lora_dropout": 0.1}), list[TrainingStatus]()
    quiet, heard = (TrialFolder(tmp_path / name) for name in ("quiet", "heard"))
    reports = [
        fine_tune(config, small, folder=quiet),
        fine_tune(config, small, folder=heard, on_status=pulses.append),
    ]
    shares = [int(p.doing.split()[-1][:-1]) for p in pulses if p.doing.endswith("%")]
    assert shares[: len(shares) // 2] == shares[len(shares) // 2 :] == sorted(set(shares))
    assert shares[-1] == 100
    pulses = [pulse for pulse in pulses if not pulse.doing.endswith("%")]
    assert [(p.doing, p.epoch, p.step, p.steps) for p in pulses[:7]] == [
        ("loading demo-tiny", 0, 0, 0), *[("", 1, step, 4) for step in range(5)], ("scoring 64 lists", 1, 4, 4)
    ]  # fmt: skip
    assert [(p.doing, p.epoch, p.step) for p in pulses[7:]] == [
        *[("", 2, step) for step in range(5)], ("scoring 64 lists", 2, 4)
    ]  # fmt: skip
    at_third = pulses[4]
    speed, left = f"{at_third.tokens_per_second:,.0f} tokens/s", f"{clock(present(at_third.seconds_left))} left"
    assert at_third.text(2) == f"epoch 1/2 · step 3/4 · loss {at_third.loss:.3f} · {speed} · {left}"
    assert pulses[5].loss == pytest.approx(heard.read_reports()[0]["train_loss"], abs=1e-3)
    assert [pulse.seconds_left for pulse in pulses[-2:]] == [0, 0]
    timed = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}
    figures = [{name: value for name, value in r.figures.items() if name not in timed} for r in reports]
    assert figures[0] == figures[1]
    adapters = [load_file(folder.adapter / "adapter_model.safetensors") for folder in (quiet, heard)]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def test_a_warm_up_that_never_ends_is_seen_in_what_was_applied(small):
    config = TINY.model_copy(update={"warmup_epochs": 10.0})
    assert train(config, small)[-1].figures["applied/learning_rate"] < config.learning_rate / 5


@pytest.mark.slow
def test_overfits_32_examples():
    data = RerankingData.prepare(DemoData(users=32))
    config = TrialConfig(
        model="demo-tiny", epochs=60, examples_per_user=1, learning_rate=5e-3, lora_rank=32, effective_batch=8,
        list_sharing=1,
        candidates=10, schedule="linear",
    )  # fmt: skip
    fixed = data.training_examples(config, 0)
    frozen = _Frozen(data, fixed)
    best = max(report.figures["recall_at_1"] for report in train(config, frozen))
    assert best >= 0.95


class _Frozen(RerankingData):
    """Trains on the same lists in every epoch and scores those very lists."""

    examples: list[Example]

    def __init__(self, data, examples):
        super().__init__(data.config, data.interactions, data.split, data.sampler)
        object.__setattr__(self, "examples", examples)

    def training_examples(self, config, epoch):
        return self.examples

    def validation(self, config):
        return self.examples


class _Shuffled(RerankingData):
    """Training targets drawn at random: there is nothing to learn."""

    def training_examples(self, config, epoch):
        rng = np.random.default_rng(epoch)
        examples = super().training_examples(config, epoch)
        return [type(e)(e.user, e.history, e.candidates, int(rng.integers(len(e.candidates)))) for e in examples]


@pytest.mark.slow
def test_shuffled_labels_stay_within_chance(demo):
    data = _Shuffled(demo.config, demo.interactions, demo.split, demo.sampler)
    config = TINY.model_copy(update={"epochs": 3, "examples_per_user": 4})
    last = train(config, data)[-1].figures["recall_at_1"]
    expected = chance(config.candidates)["recall_at_1"]
    spread = math.sqrt(expected * (1 - expected) / 300)
    assert abs(last - expected) < 3 * spread


def test_a_constant_scorer_gets_exactly_chance(demo):
    examples = demo.validation(TINY)
    ranks = ranks_of_target(np.zeros((len(examples), 20), np.float32), [e.target for e in examples])
    assert summarise(ranks) == pytest.approx(chance(20), abs=1e-12)


@pytest.mark.slow
def test_learns_the_rule_of_the_demo():
    data = RerankingData.prepare(DemoData(users=600))
    config = TrialConfig(model="demo-tiny", epochs=3, learning_rate=2e-3, lora_rank=16, examples_per_user=3)
    reports = train(config, data)
    assert reports[-1].figures["recall_at_1"] > 0.2
    assert reports[-1].figures["val_loss"] < math.log(20) - 0.5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(small):
    first, again = (train(TINY, small)[-1].figures["val_loss"] for _ in range(2))
    other = train(TINY.model_copy(update={"seed": 1}), small)[-1].figures["val_loss"]
    assert first == again
    assert first != other


@pytest.mark.slow
def test_gradient_accumulation_takes_the_same_steps(small):
    whole = train(TINY.model_copy(update={"micro_batch": 16}), small)[-1].figures
    parts = train(TINY.model_copy(update={"micro_batch": 5}), small)[-1].figures
    assert (parts["applied/micro_batch"], whole["applied/micro_batch"]) == (5, 16)
    assert parts["applied/optimizer_steps"] == whole["applied/optimizer_steps"]
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-4)


def test_token_ce_learns_the_label_too(small):
    config = TINY.model_copy(update={"objective": "token_ce", "epochs": 2})
    first, second = train(config, small)
    assert second.figures["train_loss"] < first.figures["train_loss"]


def test_token_ce_is_the_loss_of_the_answer_s_tokens(small):
    config = TINY.model_copy(update={"objective": "token_ce", "learning_rate": 1e-12})
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), small.interactions.item_texts), config)
    model, losses = load_base(config, CPU).eval(), []
    for prompt in encoder.encode(small.training_examples(config, epoch=0)):
        answer = encoder.answer_ids[prompt.target]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt.input_ids, *answer]])).logits[0, -len(answer) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).item())
    assert train(config, small)[-1].figures["train_loss"] == pytest.approx(np.mean(losses), abs=1e-4)


@pytest.mark.slow
def test_token_ce_takes_the_same_steps_in_smaller_passes(small):
    whole, parts = (
        train(TINY.model_copy(update={"objective": "token_ce", "micro_batch": size}), small)[-1].figures
        for size in (16, 4)
    )
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-4)


@pytest.mark.slow
def test_every_knob_changes_something():
    """No dead knobs: another value of any field changes a prompt, a list, the adapter, the steps or a figure."""
    small = RerankingData.prepare(DemoData(users=24))
    base = TINY.model_copy(update={"effective_batch": 8, "epochs": 2, "schedule": "linear", "warmup_epochs": 0.5})
    other = {
        "model": "demo-small", "precision": "bf16", "candidates": 10, "negatives": NegativesMix(uniform=0, popularity=1),
        "label_position": "before", "prompt_order": "history_first", "history_length": 2, "max_title_tokens": 1,
        "max_prompt_tokens": 84, "examples_per_user": 2, "shuffle_candidates": False, "objective": "token_ce",
        "epochs": 3, "learning_rate": 5e-3, "schedule": "cosine", "warmup_epochs": 1.0, "weight_decay": 0.5,
        "max_grad_norm": 0.01, "effective_batch": 4, "micro_batch": 2, "lora_rank": 2, "lora_alpha": 1,
        "lora_dropout": 0.5, "lora_targets": "qv", "permutations": 3, "seed": 7, "list_sharing": 4,
            "skill_steps": 3, "skill_mix": 0.4, "history_dropout": 0.5, "first_candidates": 2, "positives": 2, "dpo_epochs": 1, "collaborative_scores": "counts",
        "label_prior": "divide", "teacher": "ease",
        "lora_init": "pissa", "lora_plus_ratio": 16.0, "rslora": True, "dora": True,
    }  # fmt: skip
    untested = {"label_style", "gradient_checkpointing", "quantisation", "shard_base", "compile_layers"} | {
        "list_correction",
        "model_weight",
        "teacher_weight",
        "teacher_temperature",
        "dpo_beta",
        "positive_grades",
    }  # see below
    untested |= {"image_mode", "max_image_pixels", "vision_lora"}  # of data with images, see test_raw_images.py
    untested |= {"scoring"}  # for which the demo's models have no words, see test_pointwise.py
    assert set(other) | untested == set(TrialConfig.model_fields)
    reference = _figures(base, small)
    for knob, value in [
        *other.items(),
        ("negatives", NegativesMix(uniform=0.5, retriever=0.5)),
        ("objective", "ranknet"),
        ("objective", "lambdaloss"),
    ]:
        assert _figures(base.model_copy(update={knob: value}), small) != reference, knob
    preferring = base.model_copy(update={"dpo_epochs": 1})
    assert _figures(preferring.model_copy(update={"dpo_beta": 0.1}), small) != _figures(preferring, small)
    shared = base.model_copy(update={"list_sharing": 4})
    assert _figures(shared.model_copy(update={"list_correction": 0.5}), small) != _figures(shared, small)
    counted = base.model_copy(update={"collaborative_scores": "counts"})
    assert _figures(counted.model_copy(update={"model_weight": 0.5}), small) != _figures(counted, small)
    taught = base.model_copy(update={"teacher": "collaborative"})
    of_teacher = _figures(taught, small)
    assert of_teacher != _figures(base.model_copy(update={"teacher": "item_knn"}), small)
    assert _figures(taught.model_copy(update={"teacher_weight": 0.2}), small) != of_teacher
    assert _figures(taught.model_copy(update={"teacher_temperature": 3.0}), small) != of_teacher


def _figures(config: TrialConfig, data: RerankingData) -> dict[str, float]:
    figures = train(config, data)[-1].figures
    timed = ("seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb")
    return {name: value for name, value in figures.items() if name not in timed}


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_result(small):
    plain = train(TINY, small)[-1].figures["val_loss"]
    saved = train(TINY.model_copy(update={"gradient_checkpointing": True}), small)[-1].figures["val_loss"]
    assert saved == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(
    ("gib", "options", "checkpointed"),
    [(24.0, {}, False), (0.1, {}, True), (24.0, {"checkpointed": True}, True)],
    ids=["there is enough", "too little", "enough, and it did not fit"],
)
def test_gradient_checkpointing_is_chosen_by_the_memory(gib, options, checkpointed, small, monkeypatch):
    calls = []
    original = PreTrainedModel.activation_checkpointing_enable
    monkeypatch.setattr(
        "transformers.PreTrainedModel.activation_checkpointing_enable",
        lambda self, *args, **options: calls.append(1) or original(self, *args, **options),
    )
    monkeypatch.setattr("reranker.training.sft.own_memory", lambda device: gib * 2**30)
    fine_tune(TINY, small, **options)
    assert bool(calls) == checkpointed


@pytest.mark.slow
def test_the_kept_adapter_is_that_of_the_best_epoch(demo, tmp_path):
    config = TINY.model_copy(update={"epochs": 3, "examples_per_user": 3, "learning_rate": 2e-2})
    reports = train(config, demo, tmp_path)
    best = max(reports, key=lambda report: report.figures["ndcg_at_10"])
    model = attach_lora(load_base(config, CPU), config)
    model.load_adapter(str(tmp_path / "adapter"), adapter_name="kept")
    model.set_adapter("kept")
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), demo.interactions.item_texts), config)
    examples = demo.validation(config)
    ranks = ranks_of_target(score(model, EncodedLists.of(encoder, examples)), [e.target for e in examples])
    assert summarise(ranks)["ndcg_at_10"] == pytest.approx(best.figures["ndcg_at_10"], abs=1e-9)
    users, kept = TrialFolder(tmp_path).read_ranks()
    assert users == [demo.interactions.user_ids[e.user] for e in examples]
    assert kept.greater.tolist() == present(best.evaluation).ranks.greater.tolist()


def test_scores_are_those_of_the_whole_model_for_each_prompt_alone(demo):
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), demo.interactions.item_texts), TINY)
    model = load_base(TINY, CPU).eval()
    examples = demo.validation(TINY)[:6]
    for row, prompt in zip(score(model, EncodedLists.of(encoder, examples)), encoder.encode(examples), strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([prompt.input_ids])).logits[0, -1, encoder.label_ids]
        assert torch.allclose(torch.from_numpy(row), torch.log_softmax(alone, dim=-1), atol=1e-5)


def test_scoring_merges_the_adapter_and_leaves_every_weight_as_it_was(demo, demo_tokenizer):
    config = TINY.model_copy(update={"lora_dropout": 0.5})
    encoder = PromptEncoder(Catalogue(demo_tokenizer, demo.interactions.item_texts), config)
    examples = demo.validation(config)[:20]
    model = attach_lora(load_base(config, torch.device("cpu")), config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    scores = score(model, EncodedLists.of(encoder, examples))
    assert {name: parameter.equal(before[name]) for name, parameter in model.named_parameters()} == dict.fromkeys(
        before, True
    )
    assert model.training

    model.eval()
    prompts = [torch.tensor([prompt.input_ids]) for prompt in encoder.encode(examples)]

    def of_the_whole_model() -> np.ndarray:
        logits = torch.cat([model(ids).logits[:, -1, encoder.label_ids] for ids in prompts])
        return torch.log_softmax(logits, dim=-1).numpy()

    with torch.no_grad():
        assert np.abs(scores - of_the_whole_model()).max() < 1e-4
        with model.disable_adapter():
            assert np.abs(scores - of_the_whole_model()).max() > 0.1


def test_permutations_average_over_the_order_of_the_candidates(demo):
    model = load_base(TINY, CPU)
    config = TINY.model_copy(update={"permutations": 20})
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), demo.interactions.item_texts), config)
    example = demo.validation(config)[0]
    turned = type(example)(example.user, example.history, example.candidates[7:] + example.candidates[:7], 0)
    scores, of_turned = (score(model, EncodedLists.of(encoder, [it]))[0] for it in (example, turned))
    assert np.allclose(np.roll(scores, -7), of_turned, atol=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_failure_with_its_cause(small, tmp_path):
    broken = load_base(TINY, CPU)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path)
    load_tokenizer("demo-tiny").save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="diverged in epoch 1: the loss is not finite"):
        train(TINY.model_copy(update={"model": str(tmp_path)}), small)


def test_an_effective_batch_that_the_workers_cannot_share_is_refused():
    with pytest.raises(InputError, match="effective_batch"):
        share_of_batch(TINY, workers=3)


def test_a_pass_holds_as_many_prompts_as_their_length_allows():
    config = TINY.model_copy(update={"effective_batch": 64})
    assert largest_pass(config, 1, 100, 4096) == 40
    assert largest_pass(config, 2, 100, 4096) == 32
    assert largest_pass(config, 1, 5000, 4096) == 1


@pytest.mark.slow
def test_an_unwritable_folder_is_one_clear_error(small, tmp_path):
    (tmp_path / "adapter").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        train(TINY, small, tmp_path)


def stopped_after(epoch: int) -> Callable[[TrainingReport], bool]:
    """As a kill between two epochs leaves it: the state of this epoch, and nothing of the next."""

    def on_report(report: TrainingReport) -> bool:
        if report.figures["epoch"] == epoch:
            raise KeyboardInterrupt
        return True

    return on_report


def same_training(folder: TrialFolder, other: TrialFolder) -> None:
    timed = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}
    figures = [[{k: v for k, v in e.items() if k not in timed} for e in f.read_reports()] for f in (folder, other)]
    assert figures[0] == figures[1]
    kept, others = (load_file(f.adapter / "adapter_model.safetensors") for f in (folder, other))
    assert all(torch.equal(kept[name], others[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, tmp_path, schedule):
    config = TINY.model_copy(update={"epochs": 3, "lora_dropout": 0.1, "schedule": schedule})
    whole, broken = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "broken")
    fine_tune(config, small, folder=whole, resume=True)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            fine_tune(config, small, folder=broken, on_report=stopped_after(epoch), resume=True)
    fine_tune(config, small, folder=broken, resume=True)
    same_training(broken, whole)


@pytest.mark.slow
def test_reports_within_an_epoch_change_nothing_of_the_training(small, tmp_path):
    config = TINY.model_copy(update={"epochs": 2, "lora_dropout": 0.1})
    folders = [TrialFolder(tmp_path / str(per_epoch)) for per_epoch in (1, 3)]
    for folder, per_epoch in zip(folders, (1, 3), strict=True):
        fine_tune(config, small, folder=folder, reports_per_epoch=per_epoch, resume=True)
    one, three = (folder.read_reports() for folder in folders)
    assert [(e["report"], e["epoch"], e["applied/optimizer_steps"]) for e in three] == [
        (1, 1 / 3, 1), (2, 2 / 3, 3), (3, 1, 4), (4, 4 / 3, 5), (5, 5 / 3, 7), (6, 2, 8),
    ]  # fmt: skip
    same = ["train_loss", "val_loss", "ndcg_at_10", "label_mass", "applied/examples", "padding"]
    assert [[e[name] for name in same] for e in three[2::3]] == [[e[name] for name in same] for e in one]
    kept, others = (load_file(present(folder.last_state()) / "adapter_model.safetensors") for folder in folders)
    assert all(torch.equal(kept[name], others[name]) for name in kept)


def test_more_reports_than_steps_are_refused(small):
    with pytest.raises(InputError, match="there must be a step between two reports, and an epoch has 4"):
        fine_tune(TINY, small, reports_per_epoch=5)


@pytest.mark.slow
def test_reports_within_an_epoch_are_on_a_part_of_the_lists_and_never_the_best_once_one_is_on_all(tmp_path):
    data = RerankingData.prepare(DemoData(users=200, evaluation_users=160))
    folder = TrialFolder(tmp_path)
    fine_tune(TINY.model_copy(update={"epochs": 2}), data, folder=folder, reports_per_epoch=2, metric="val_loss")
    reports = folder.read_reports()
    assert [e.get("scored_share") for e in reports] == [100 / 160, None, 100 / 160, None]
    assert [len(folder.read_report(number).greater) for number in (1, 2, 3, 4)] == [100, 160, 100, 160]
    best = min(reports[1::2], key=lambda e: e["val_loss"])
    assert best_report(reports, "val_loss") == best
    assert np.array_equal(folder.read_ranks()[1].greater, folder.read_report(best["report"]).greater)
    facts = json.loads((folder.adapter / "reranker.json").read_text())
    assert facts["epoch"] == best["epoch"]


@pytest.mark.slow
@pytest.mark.parametrize(("stop_at", "every"), [(6, math.inf), (7, 0.0)])
def test_a_training_that_is_cut_within_an_epoch_goes_on_from_its_last_state(small, tmp_path, stop_at, every):
    config = TINY.model_copy(update={"epochs": 3, "lora_dropout": 0.1, "schedule": "cosine"})
    whole, broken = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "broken")
    options: dict[str, Any] = {"resume": True, "reports_per_epoch": 2}
    fine_tune(config, small, folder=whole, **options)
    asked: list[bool] = []
    with pytest.raises(TrainingStopped):
        fine_tune(
            config, small, folder=broken, should_stop=lambda: asked.append(True) or len(asked) == stop_at,
            state_every_s=every, **options,
        )  # fmt: skip
    state = broken.last_state()
    assert state is not None
    assert state.name == ("state-4" if every else f"state-{stop_at - 1}")
    fine_tune(config, small, folder=broken, **options)
    same_training(broken, whole)


@pytest.mark.slow
@pytest.mark.parametrize("report", [1, 2, 4])
def test_a_training_that_is_killed_while_it_scores_repeats_the_scoring_alone(small, tmp_path, monkeypatch, report):
    monkeypatch.setattr("reranker.training.trainer._UNSAVED_S", 0.0)
    config = TINY.model_copy(update={"epochs": 2, "lora_dropout": 0.1})
    whole, broken = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "broken")
    fine_tune(config, small, folder=whole, resume=True, reports_per_epoch=2)
    scorings: list[bool] = []

    def killed(*args):
        scorings.append(True)
        if len(scorings) == report:
            raise KeyboardInterrupt
        return inspect(*args)

    with monkeypatch.context() as patched:
        patched.setattr("reranker.training.trainer.inspect", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(config, small, folder=broken, resume=True, reports_per_epoch=2)
    assert len(broken.read_reports()) == report - 1
    state = broken.last_state()
    assert state is not None
    assert state.name == f"state-{2 * report}"
    fine_tune(config, small, folder=broken, resume=True, reports_per_epoch=2)
    same_training(broken, whole)


@pytest.mark.slow
def test_an_epoch_whose_state_was_not_written_is_trained_again_and_not_reported_again(small, tmp_path):
    config = TINY.model_copy(update={"epochs": 3})
    whole, broken = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "broken")
    fine_tune(config, small, folder=whole, resume=True)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, small, folder=broken, on_report=stopped_after(2), resume=True)
    broken.drop_state()
    reported: list[float] = []
    fine_tune(
        config, small, folder=broken, on_report=lambda r: reported.append(r.figures["epoch"]) or True, resume=True
    )
    assert reported == [3]
    same_training(broken, whole)


@pytest.mark.parametrize(
    "damaged", ["optimizer.pt", "adapter_model.safetensors", "trainer_state.json", "rng_state.pth"]
)
def test_a_state_that_a_power_cut_has_emptied_is_none(small, tmp_path, damaged):
    folder = TrialFolder(tmp_path)
    fine_tune(TINY, small, folder=folder, resume=True)
    state = folder.last_state()
    assert state is not None
    assert state.name == "state-4"
    (state / damaged).write_bytes(b"")
    assert folder.last_state() is None


def test_a_stop_ends_the_training_at_the_next_step(small, tmp_path):
    asked: list[bool] = []
    with pytest.raises(TrainingStopped, match="optimiser step 2"):
        fine_tune(TINY, small, folder=TrialFolder(tmp_path), should_stop=lambda: asked.append(True) or len(asked) == 2)
    assert TrialFolder(tmp_path).read_reports() == []


@pytest.mark.slow
def test_a_smaller_micro_batch_takes_the_same_steps(small):
    reports = [fine_tune(TINY, small, micro_batch=size).figures for size in (16, 4)]
    assert [report["applied/micro_batch"] for report in reports] == [16, 4]
    assert reports[0]["applied/optimizer_steps"] == reports[1]["applied/optimizer_steps"]
    assert reports[0]["val_loss"] == pytest.approx(reports[1]["val_loss"], abs=1e-3)


class _WithoutLists(RerankingData):
    def validation(self, config: TrialConfig) -> list[Example]:
        return []


def test_without_validation_lists_every_epoch_is_kept_and_none_is_scored(small, tmp_path):
    data = _WithoutLists(small.config, small.interactions, small.split, small.sampler)
    reports = train(TINY.model_copy(update={"epochs": 2}), data, tmp_path)
    assert [report.best for report in reports] == [True, True]
    assert all("val_loss" not in report.figures and report.evaluation is None for report in reports)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not TrialFolder(tmp_path).has_ranks


@pytest.mark.slow
def test_what_stood_first_is_kept_for_each_list_and_the_labels_have_nearly_all_of_the_mass(demo, tmp_path):
    config = TINY.model_copy(update={"epochs": 1})
    (report,) = train(config, demo, tmp_path)
    kept = present(TrialFolder(tmp_path).read_picks())
    assert kept.target.tolist() == [e.target for e in demo.validation(config)]
    assert (kept.first == kept.target).mean() == pytest.approx(report.figures["recall_at_1"], abs=1e-9)
    assert 0.5 < report.figures["label_mass"] <= 1
