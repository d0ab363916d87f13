"""Captions of images: made once by a model, kept by image and model, and read beside an item's text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from pydantic import ValidationError
from transformers import AutoConfig, AutoTokenizer

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.sources import demo
from reranker.errors import EnvironmentFault, InputError
from reranker.modeling.images import captions as module
from reranker.modeling.images.captions import are_kept, check_captioner, have_captions
from reranker.storage.cache_folder import cache_folder
from reranker.training.sft import fine_tune
from tests.captioner import make_captioner
from tests.pictures import noise, shop
from tests.vision import make_vision_model
from tune.study_file.preflight import check_models
from tune.study_file.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
CAPTION = TrialConfig(model="demo-tiny", candidates=3, image_mode="caption", epochs=1, max_title_tokens=64)
TITLES = demo.TITLES[:8]
BARE = TITLES[-1]  # has no image


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> Path:
    return make_captioner(tmp_path_factory.mktemp("captioner"))


def prepared(folder: Path, model: Path | str, **values: object) -> RerankingData:
    """Eight items of the demo's words, the last without an image."""
    for number in range(7):
        noise(folder / f"{number}.png", number)
    config = shop(folder, {title: f"{number}.png" for number, title in enumerate(TITLES)})
    rows = "".join(f"{title},{title},{'' if title == BARE else f'{i}.png'}\n" for i, title in enumerate(TITLES))
    config.items.write_text("item_id,text,image_path\n" + rows, encoding="utf-8")
    images = {"missing": "text", "caption_model": str(model)}
    return RerankingData.prepare(type(config).model_validate({**config.model_dump(), "images": images, **values}))


def test_the_check_knows_a_caption_model_that_is_here(captioner):
    assert check_captioner(str(captioner))


@pytest.mark.parametrize("model", ["nobody/has-this", "qwen3vl-2b"])
def test_of_a_caption_model_that_only_the_hub_can_know_the_check_says_that_it_is_not_here(model):
    assert not check_captioner(model)


@pytest.mark.parametrize("model", ["./blip", "blip model", "/nowhere/blip"])
def test_a_caption_model_that_can_be_nowhere_is_refused_by_the_check(model):
    with pytest.raises(InputError) as told:
        check_captioner(model)
    (fault,) = told.value.faults
    assert (fault.field, fault.value) == ("data.images.caption_model", model)
    assert fault.rule == "the caption model must be a folder that is there, or an id of the Hub, owner/name"


def test_a_folder_that_describes_no_images_is_refused_by_the_check(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="a caption model must describe images; llama does not"):
        check_captioner(str(tmp_path))


def test_each_image_is_described_once_and_kept(tmp_path, captioner, monkeypatch):
    data = prepared(tmp_path, captioner)
    assert not are_kept(data)
    told: list[str] = []
    have_captions(data, told.append)
    assert told == [f"describing images with {captioner}, 0 of 7"]
    described = [text for text, item in zip(data.captions, data.interactions.item_ids, strict=True) if item != BARE]
    assert all(described)
    assert len(set(described)) > 1, "what is written depends on the image"
    assert data.captions[data.interactions.item_ids.index(BARE)] == ""

    again = prepared(tmp_path, captioner)
    monkeypatch.setattr(module, "_Captioner", lambda model: pytest.fail("loaded again"))
    assert are_kept(again)
    have_captions(again)
    assert again.captions == data.captions
    assert again.sealed().captions == data.captions


def test_a_model_that_reads_images_is_asked_for_captions(tmp_path, monkeypatch):
    model = make_vision_model(tmp_path / "vision")
    asked: list[dict[str, Any]] = []
    real = transformers.Qwen3VLForConditionalGeneration.generate
    monkeypatch.setattr(
        transformers.Qwen3VLForConditionalGeneration, "generate", lambda s, **k: asked.append(k) or real(s, **k)
    )
    data = prepared(tmp_path, model)
    have_captions(data)
    assert len(asked) == 7
    words = AutoTokenizer.from_pretrained(model).decode(asked[0]["input_ids"][0])
    assert words.count("<|image_pad|>") == 2 * 2, "64 × 48 pixels are two by two tokens"
    assert len(set(data.captions)) > 2, "what is said depends on the image"


def test_a_kill_costs_no_caption_that_was_made(tmp_path, captioner, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    real, calls = module._Captioner.describe, []

    def describe(self: Any, images: list[Any]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(module._Captioner, "describe", describe)
    with pytest.raises(KeyboardInterrupt):
        have_captions(prepared(tmp_path, captioner))
    have_captions(prepared(tmp_path, captioner))
    assert calls == [2, 2, 2, 2, 1], "four were kept, three were missing"


def test_a_damaged_line_costs_its_own_caption_once(tmp_path, captioner, monkeypatch):
    have_captions(prepared(tmp_path, captioner))
    (kept,) = (cache_folder() / "captions").glob("*.jsonl")
    lines = kept.read_bytes().split(b"\n")
    kept.write_bytes(b"\n".join([*lines[:2], b"\0" * len(lines[2]), *lines[3:]]))
    again = prepared(tmp_path, captioner)
    real, calls = module._Captioner.describe, []
    monkeypatch.setattr(module._Captioner, "describe", lambda s, images: calls.append(len(images)) or real(s, images))
    have_captions(again)
    assert calls == [1]
    monkeypatch.setattr(module, "_Captioner", lambda model: pytest.fail("loaded again"))
    last = prepared(tmp_path, captioner)
    have_captions(last)
    assert last.captions == again.captions


def test_other_weights_write_captions_of_their_own(tmp_path, captioner):
    other = make_captioner(tmp_path / "other", seed=1)
    first, second = prepared(tmp_path, captioner), prepared(tmp_path, other)
    have_captions(first)
    have_captions(second)
    assert first.captions != second.captions
    assert first.interactions.fingerprint != second.interactions.fingerprint


def test_another_tokenizer_writes_captions_of_its_own(tmp_path, captioner):
    other = shutil.copytree(captioner, tmp_path / "other")
    read = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = read["model"]["vocab"]
    read["model"]["vocab"] = dict(zip(words, reversed(words.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(read), encoding="utf-8")
    first, second = prepared(tmp_path, captioner), prepared(tmp_path, other)
    have_captions(first)
    have_captions(second)
    assert first.captions != second.captions


def test_captions_stand_in_the_texts_of_image_mode_caption_alone(tmp_path, captioner):
    data = prepared(tmp_path, captioner, item_text="Shop | {text} | {caption:2}")
    have_captions(data)
    item, bare = data.interactions.item_ids.index(TITLES[0]), data.interactions.item_ids.index(BARE)
    texts = data.item_texts(CAPTION)
    assert texts[item] == f"Shop | {TITLES[0]} | " + " ".join(data.captions[item].split()[:2])
    assert texts[bare] == f"Shop | {BARE}"
    assert data.item_texts(CAPTION.model_copy(update={"image_mode": "text"}))[item] == f"Shop | {TITLES[0]}"
    without_a_place = prepared(tmp_path, captioner, item_text="{text:1}")
    have_captions(without_a_place)
    assert without_a_place.item_texts(CAPTION)[item] == f"{TITLES[0].split()[0]} | {data.captions[item]}"


@pytest.mark.slow
def test_a_model_trains_on_captions_and_counts_go_by_the_same_texts(tmp_path, captioner):
    data = prepared(tmp_path, captioner, item_text="{text} {caption}")  # the demo's model reads no bars
    (tmp_path / "trial").mkdir()
    config = CAPTION.model_copy(update={"collaborative_scores": "counts"})
    by_mode = {}
    for mode in ("text", "caption"):
        folder = TrialFolder(tmp_path / "trial") if mode == "caption" else None
        by_mode[mode] = fine_tune(config.model_copy(update={"image_mode": mode}), data, folder=folder).figures
    assert by_mode["text"]["train_loss"] != by_mode["caption"]["train_loss"]
    scores = data.title_scores(config)
    assert scores is not None
    history, candidates = data.item_texts(config)[:2], data.item_texts(config)[2:5]
    assert scores.of([history], [candidates])[0].any(), "the captioned texts are known"


STUDY: dict[str, Any] = {
    "study": {"name": "a", "trials": 1},
    "fixed": {"candidates": 3},
    "space": {"epochs": {"int": [1, 2]}},
}


def study(data: dict[str, object], **fixed: object) -> Study:
    fixed = {"model": "demo-tiny", "image_mode": "caption", **STUDY["fixed"], **fixed}
    return Study.load({**STUDY, "data": {"source": "tables", **data}, "fixed": fixed})


def test_what_is_missing_for_captions_is_said_before_any_trial(tmp_path, captioner):
    tables = {"interactions": str(tmp_path / "clicks.csv"), "items": str(tmp_path / "items.csv"), "min_user": 3}
    prepared(tmp_path, captioner)
    cases = {
        "image_mode: caption needs images of the items": {},
        "image_mode: caption needs a model that describes images": {"images": {"missing": "text"}},
    }
    for rule, more in cases.items():
        asked = study({**tables, "min_item": 1, **more})
        with pytest.raises(InputError, match=rule):
            check_models(asked, RerankingData.prepare(asked.data), fetch=True)
        with pytest.raises(InputError, match=rule):
            fine_tune(asked.base(), RerankingData.prepare(asked.data))


def test_a_caption_model_that_is_missing_or_is_none_is_one_sentence(tmp_path):
    with pytest.raises(EnvironmentFault, match="the model 'owner/captioner' is not on this machine, and the Hub"):
        have_captions(prepared(tmp_path, "owner/captioner"))
    AutoConfig.for_model("qwen3").save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="a caption model must describe images; qwen3 does not"):
        have_captions(prepared(tmp_path, tmp_path / "text"))
    with pytest.raises(ValidationError, match=r"item_text must hold another field than \{caption\}"):
        prepared(tmp_path, "owner/captioner", item_text="{caption}")


def test_a_check_makes_no_captions(tmp_path, captioner):
    data = prepared(tmp_path, captioner, item_text="{text} {caption}")
    tables = {"interactions": str(tmp_path / "clicks.csv"), "items": str(tmp_path / "items.csv"), "min_user": 3}
    asked = study(
        {
            **tables,
            "min_item": 1,
            "item_text": "{text} {caption}",
            "images": {"missing": "text", "caption_model": str(captioner)},
        }
    )
    check_models(asked, data, fetch=False)
    assert data.captions == []
    check_models(asked, data, fetch=True)
    assert len(data.captions) == 8
