"""Training on images: with the contracts of any training, in adapters that peft loads, and ranked with the same scores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy.special import softmax

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.errors import InputError, TrainingStopped
from reranker.evaluation.scoring import EncodedLists, score
from reranker.modeling.item_catalogue import item_catalogue
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base
from reranker.prompting.forward_passes import Limits, plain_passes, shared_passes
from reranker.prompting.prompts import PromptEncoder
from reranker.rank import main as rank_main
from reranker.ranking.rank_stream import RankStream
from reranker.ranking.ranker import Reranker
from reranker.training.loss import Objective
from reranker.training.sft import fine_tune
from reranker.zero_shot import zero_shot
from tests.families import gradients, same
from tests.vision import make_vision_model, shop_with_images
from tune.deployment.pyfunc_model import ServedReranker
from tune.study_file.preflight import check_models
from tune.study_file.study import Study

CPU = torch.device("cpu")
TIMED = ("seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANKER_CACHE", str(folder / "cache"))
        yield shop_with_images(folder)


def config_of(model: Path, **knobs: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "model": str(model), "candidates": 3, "image_mode": "raw_image", "max_image_pixels": 2048, "epochs": 2,
            "effective_batch": 4, "lora_rank": 4, "learning_rate": 1e-2, "skill_steps": 0, "history_length": 2, **knobs,
        }
    )  # fmt: skip


def trained(config: TrialConfig, data: RerankingData, folder: Path | None = None, **options: Any) -> dict[str, float]:
    if folder is not None:
        folder.mkdir(exist_ok=True)
    report = fine_tune(config, data, folder=None if folder is None else TrialFolder(folder), **options)
    return {name: value for name, value in report.figures.items() if name not in TIMED}


@pytest.mark.parametrize("tower", [False, True])
def test_lists_behind_which_questions_stand_train_as_lists_of_their_own(data, model, tower):
    config = config_of(model, vision_lora=tower, list_sharing=3)
    encoder = PromptEncoder(item_catalogue(config, data), config)
    torch.manual_seed(0)
    adapted = attach_lora(load_base(config, CPU), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    lists = data.shared_examples(config, epoch=0, together=3)[:2]
    examples = [example for group in lists for example in group]
    limits, objective = Limits(None, None), Objective(encoder, CPU)
    nothing = np.zeros(12, np.float32)
    shared = list(shared_passes(encoder, lists, [encoder.encode_shared(group) for group in lists], limits, nothing))
    plain = [next(plain_passes(encoder, [example], encoder.encode([example]), limits)) for example in examples]
    for batch, example in zip(plain, examples, strict=True):
        batch["bias"][0, list(example.excluded)] = -1e9

    def loss(batch: dict[str, Any]) -> torch.Tensor:
        with objective.answering(adapted, batch):
            return objective.loss(objective.logits(adapted, batch), batch["targets"]) * len(batch["targets"])

    together, apart = (gradients(adapted, torch.stack([loss(batch) for batch in way]).sum()) for way in (shared, plain))
    same(together, apart)
    assert any("visual" in name for name in together) == tower


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_images_matter(data, model):
    first = trained(config_of(model), data)
    assert trained(config_of(model), data) == first
    bases = BaseModels()
    trained(config_of(model, vision_lora=True), data, bases=bases)
    assert trained(config_of(model), data, bases=bases) == first, "on a used base too, which adapted its tower"
    for knob, value in (("image_mode", "text"), ("max_image_pixels", 1024), ("vision_lora", True)):
        assert trained(config_of(model, **{knob: value}), data) != first, knob


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_result(data, model):
    config = config_of(model, vision_lora=True, epochs=1)
    plain, saved = (
        trained(config.model_copy(update={"gradient_checkpointing": on}), data)["val_loss"] for on in (False, True)
    )
    assert saved == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
def test_a_training_that_was_cut_short_goes_on_bit_for_bit(data, model, tmp_path):
    config = config_of(model, epochs=3, vision_lora=True)
    whole = trained(config, data, tmp_path / "whole")
    stop_after = iter([False] * 4 + [True] * 99)
    with pytest.raises(TrainingStopped):
        trained(config, data, tmp_path / "cut", resume=True, should_stop=lambda: next(stop_after), state_every_s=0.0)
    assert trained(config, data, tmp_path / "cut", resume=True) == whole
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("knobs", [{"vision_lora": True}, {"skill_steps": 2, "vision_lora": True}, {"skill_steps": 2}])
def test_peft_alone_loads_the_adapter(data, model, tmp_path, knobs, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    config = config_of(model, collaborative_scores="none", **knobs)
    figures = trained(config, data, tmp_path / "trial")
    adapted = PeftModel.from_pretrained(load_base(config, CPU), str(tmp_path / "trial" / "adapter")).eval()
    has_tower = any("visual" in name for name, _ in adapted.named_parameters() if "lora_" in name)
    assert has_tower == ("vision_lora" in knobs)
    examples = data.validation(config)
    scores = score(adapted, EncodedLists.of(PromptEncoder(item_catalogue(config, data), config), examples))
    loss = -np.mean([row[e.target] for row, e in zip(scores, examples, strict=True)])
    assert loss == pytest.approx(figures["val_loss"], abs=1e-4)


def test_rank_reads_titles_and_images_as_validation_does(data, model, tmp_path, capsys):
    config = config_of(model, collaborative_scores="none", learning_rate=0.05)
    trained(config, data, tmp_path / "trial")
    reranker = Reranker.load(tmp_path / "trial")
    kept, images = data.interactions, data.interactions.images
    assert images is not None
    paths = [None if path is None else str(path) for path in images.paths]
    lines, expected = [], []
    examples = data.validation(config)
    encoder = PromptEncoder(item_catalogue(config, data), config)
    adapted = PeftModel.from_pretrained(load_base(config, CPU), str(tmp_path / "trial" / "adapter")).eval()
    for example, scores in zip(examples, score(adapted, EncodedLists.of(encoder, examples)), strict=True):
        parts = {"history": example.history, "candidates": example.candidates}
        shown = {name: [kept.item_texts[i] for i in items] for name, items in parts.items()}
        seen = {"history_images": example.history, "candidate_images": example.candidates}
        lines.append(
            {**shown, **{name: [paths[i] for i in items] for name, items in seen.items()}, "user": example.user}
        )
        expected.append(softmax(scores / reranker.adjustment.temperature))
    lines.append({"history": ["Lamp"], "candidates": ["Tent", "Rope"], "candidate_images": ["gone.png", None]})
    sink = io.StringIO()
    stream = RankStream(reranker, None)
    stream.run(io.BytesIO("\n".join(map(json.dumps, lines)).encode()), sink)
    *answers, refused = map(json.loads, sink.getvalue().splitlines())
    assert np.abs(np.array([answer["probabilities"] for answer in answers]) - expected).max() < 1e-4
    assert [answer["user"] for answer in answers] == [example.user for example in examples]
    assert "candidate_images: an image must exist (got 'gone.png')" in refused["error"]

    history, candidates = ([kept.item_texts[i] for i in part] for part in (examples[0].history, examples[0].candidates))
    by_text = reranker.rank(history, candidates).probabilities
    assert np.abs(np.array(by_text) - expected[0]).max() > 1e-3, "without images it reads the titles alone"
    asked = [f"--{name}" for name in ("history", "candidates", "history-images", "candidate-images")]
    pictured = [[i for i in part if paths[i]] for part in (examples[0].history, examples[0].candidates)]
    given = [[kept.item_texts[i] for i in part] for part in pictured] + [
        [str(paths[i]) for i in part] for part in pictured
    ]
    options = [word for name, words in zip(asked, given, strict=True) for word in (name, *words)]
    assert rank_main(["--adapter", str(tmp_path / "trial"), *options]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[1:-1]]
    printed = {title: float(probability) for _, probability, title in rows}
    by_path = reranker.rank(given[0], given[1], history_images=given[2], candidate_images=given[3])
    assert [printed[title] for title in given[1]] == pytest.approx(by_path.probabilities, abs=1e-4)

    served = ServedReranker()
    served.load_context(SimpleNamespace(artifacts={"adapter": str(tmp_path / "trial"), "base": str(model)}))
    row = {
        "history": history,
        "candidates": candidates,
        "candidate_images": [path or "" for path in lines[0]["candidate_images"]],
    }
    answer = served.predict(
        None, pd.DataFrame([{**row, "history_images": [path or "" for path in lines[0]["history_images"]]}])
    )
    assert answer["probabilities"][0] == pytest.approx(expected[0], abs=1e-4)
    with pytest.raises(InputError, match="candidate_images: images must be a list with a path for each title, or null"):
        reranker.rank(history, candidates, candidate_images=["a.png"])


def test_an_adapter_that_reads_text_takes_no_images(demo, tmp_path):
    config = TrialConfig(model="demo-tiny", epochs=1, examples_per_user=1)
    trained(config, demo, tmp_path / "trial")
    with pytest.raises(InputError, match="images need an adapter that was trained with image_mode: raw_image"):
        Reranker.load(tmp_path / "trial").rank(["Dusty Saddle"], ["Silly Clown", "Lunar Comet"], history_images=[None])


def test_the_untrained_model_is_asked_with_images_too(data, model):
    config = config_of(model)
    seen, read = (
        zero_shot(c, data, data.validation(c), BaseModels()).plain.figures["val_loss"]
        for c in (config, config.model_copy(update={"image_mode": "text"}))
    )
    assert seen != read


def test_knobs_of_images_go_together(model):
    with pytest.raises(ValidationError, match="vision_lora must be left out unless image_mode is raw_image"):
        config_of(model, vision_lora=True, image_mode="text")
    with pytest.raises(ValidationError, match="quantisation must be none with image_mode: raw_image"):
        config_of(model, quantisation="nf4")


def test_a_search_over_models_and_image_modes_is_checked_where_they_meet(data, model):
    study = Study.load(
        {
            "study": {"name": "a", "trials": 1},
            "data": {"source": "tables", "interactions": "a.csv", "items": "b.csv"},
            "fixed": {"candidates": 3, "skill_steps": 0},
            "space": {
                "model+image_mode": {
                    "choice": [["demo-tiny", "text"], [str(model), "text"], [str(model), "raw_image"]]
                },
                "max_image_pixels": {"choice": [1024, 4096], "when": {"image_mode": "raw_image"}},
            },
        }
    )
    checks = check_models(study, data, fetch=True)
    modes = {(check.config.model, check.config.image_mode) for check in checks}
    assert modes == {("demo-tiny", "text"), (str(model), "text"), (str(model), "raw_image")}
    longest = {(check.config.model, check.config.image_mode): check.longest for check in checks}
    assert longest[str(model), "raw_image"] > longest[str(model), "text"] + 8, "with the tokens of images"
