"""Prompts with images: their tokens and places are the model's own, and answers are those of the whole model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen3VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.images.item_images import given_images
from reranker.errors import InputError
from reranker.evaluation.scoring import EncodedLists, Probe, flops_per_list, inspect, score
from reranker.modeling.architecture_check import architecture_of
from reranker.modeling.batching import pad_right
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.modeling.checkpoints.model_shape import read_shape
from reranker.modeling.images.image_inputs import ImageInputs, image_tokens
from reranker.modeling.item_catalogue import item_catalogue
from reranker.modeling.labels.label_trie import LabelTrie
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import check_base, load_base
from reranker.modeling.shared_list_attention import lay_out
from reranker.prompting.prompts import FIND, PromptEncoder
from tests.pictures import noise
from tests.vision import BARE, make_vision_model, shop_with_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, monkeypatch_module) -> RerankingData:
    folder = tmp_path_factory.mktemp("shop")
    monkeypatch_module.setenv("RERANKER_CACHE", str(folder / "cache"))
    return shop_with_images(folder)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def config_of(model: Path, **knobs: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {"model": str(model), "candidates": 3, "image_mode": "raw_image", "max_image_pixels": 4096, **knobs}
    )


def encoded(config: TrialConfig, data: RerankingData) -> PromptEncoder:
    return PromptEncoder(item_catalogue(config, data), config)


def whole_model(base: Any, encoder: PromptEncoder, ids: list[int]) -> np.ndarray:
    """The labels' log-probabilities by transformers' own way from a text and its images to logits."""
    assert encoder.images is not None
    processor = AutoImageProcessor.from_pretrained(encoder.config.model, backend="pil")
    size = {"shortest_edge": 1024, "longest_edge": encoder.config.max_image_pixels}
    opened = [encoder.images.images.open(item) for item, _ in image_tokens(ids)]
    token = encoder.images.token
    tokens = torch.tensor([[token if i < 0 else i for i in ids]])
    seen = processor(images=opened, size=size, return_tensors="pt") if opened else {}
    kinds = {"mm_token_type_ids": (tokens == token).int()} if opened else {}
    with torch.no_grad():
        logits = base(input_ids=tokens, **seen, **kinds).logits[0, -1, encoder.label_ids]
    return torch.log_softmax(logits, dim=-1).numpy()


def test_an_image_s_tokens_stand_before_its_title(data, model):
    encoder = encoded(config_of(model), data)
    example = data.validation(encoder.config)[0]
    (prompt,) = encoder.encode([example])
    items = [*example.candidates, *example.history[-5:]]
    images = encoder.images
    assert images is not None
    bare = data.interactions.item_ids.index(BARE)
    expected = [(item, images.counts[item]) for item in items if item != bare]
    assert image_tokens(prompt.input_ids) == expected
    assert images.counts[bare] == 0
    assert max(images.counts) <= 4, "4,096 pixels are four tokens of 32 × 32"

    text = encoder._head + "Candidates:\n"
    mark = images.text.replace("<|image_pad|>", "<|image_pad|>" * images.counts[example.candidates[0]])
    tokenizer = AutoTokenizer.from_pretrained(model)
    before = tokenizer(text + mark, add_special_tokens=False)["input_ids"]
    assert [images.token if i < 0 else i for i in prompt.input_ids[: len(before)]] == before


@pytest.mark.parametrize("most", [1024, 4096, 16_384])
def test_no_image_is_more_tokens_than_its_limit_allows(tmp_path, most):
    sizes = [(43, 99), (100, 120), (10, 11), (900, 9), (9, 900), (64, 48), (1600, 1200)]
    files = [noise(tmp_path / f"{number}.png", number, size) for number, size in enumerate(sizes)]
    images, rules = given_images([str(file) for file in files])
    assert not any(rules)
    processor = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 65_536, "longest_edge": 2**24})
    inputs = ImageInputs(images, processor, "", 0, most)  # sizes as Qwen3-VL's own, which enlarges what is small
    assert max(inputs.counts) <= most // 1024
    for item, count in enumerate(inputs.counts):
        pixels, grid = inputs._pixels(item)
        assert len(pixels) == int(grid.prod()) == 4 * count


@pytest.mark.parametrize("order", ["candidates_first", "history_first"])
def test_scores_are_those_of_the_whole_model(data, model, order):
    config = config_of(model, prompt_order=order, permutations=2)
    encoder, base = encoded(config, data), load_base(config, CPU).eval()
    lists = EncodedLists.of(encoder, data.validation(config))
    alone = [whole_model(base, encoder, prompt.input_ids) for prompt in lists.prompts]
    unrotated = np.zeros((len(alone), 3))
    for row, order_of, scores in zip(unrotated, lists.orders, alone, strict=True):
        row[order_of] = scores
    expected = unrotated.reshape(2, -1, 3).mean(axis=0)
    assert np.abs(score(base, lists) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1


def test_questions_behind_one_list_share_it_and_its_images(data, model):
    config = config_of(model)
    encoder, base = encoded(config, data), load_base(config, CPU).eval()
    finder = PromptEncoder(encoder.catalogue, config, FIND)
    lists = EncodedLists.of(encoder, data.validation(config)[:2])
    asked = [Example(e.user, (e.candidates[1],), e.candidates, 1) for e in data.validation(config)[:2]]
    probes = [Probe(row, prompt, (1,)) for row, prompt in enumerate(finder.encode(asked))]
    assert encoder.shares_lists
    alone = [int(whole_model(base, finder, probe.prompt.input_ids).argmax()) == 1 for probe in probes]
    together = inspect(base, lists, probes)
    assert together.found.tolist() == alone
    apart = np.array([whole_model(base, encoder, prompt.input_ids) for prompt in lists.prompts])
    assert np.abs(together.scores - apart).max() < 1e-4


def test_other_pictures_give_other_answers_and_none_gives_those_of_the_text(data, model):
    config = config_of(model)
    encoder, base = encoded(config, data), load_base(config, CPU).eval()
    examples = data.validation(config)
    seen = score(base, EncodedLists.of(encoder, examples))
    text = config.model_copy(update={"image_mode": "text"})
    read = score(base, EncodedLists.of(encoded(text, data), examples))
    assert np.abs(seen - read).max() > 0.1
    images = data.interactions.images
    assert images is not None
    none = replace(images, paths=(None,) * 12, hashes=("",) * 12, sizes=(None,) * 12)
    bare = replace(data, interactions=replace(data.interactions, images=none))
    assert np.array_equal(score(base, EncodedLists.of(encoded(config, bare), examples)), read)


def test_places_are_those_that_the_model_itself_gives(data, model):
    encoder, base = encoded(config_of(model, max_image_pixels=16_384), data), load_base(config_of(model), CPU)
    images = encoder.images
    assert images is not None
    prompts = [prompt.input_ids for prompt in encoder.encode(data.validation(encoder.config))]
    batch = images.in_pass({**pad_right(prompts, encoder.pad_id)})
    grids = [images.grids[item] for item in batch["pictures"]]
    real = torch.arange(batch["input_ids"].shape[1]) <= batch["ends"][:, None]
    own, _ = base.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=(batch["input_ids"] == images.token).int(),
        image_grid_thw=torch.tensor([(1, 2 * g[0], 2 * g[1]) for g in grids if g is not None]),
        attention_mask=real.long(),
    )
    assert torch.equal(batch["places"][:, real], own[:, real])
    assert len({grid for grid in grids if grid and grid[0] != grid[1]}) > 1, "images of several shapes"


def test_places_behind_a_shared_list_are_those_of_each_whole_text(data, model):
    encoder, base = encoded(config_of(model, max_image_pixels=16_384), data), load_base(config_of(model), CPU)
    images = encoder.images
    assert images is not None

    def seen(item: int) -> list[int]:
        return [-1 - item] * images.counts[item]

    shapes = list(enumerate(images.grids))
    tall = next(item for item, grid in shapes if grid and grid[0] > grid[1])
    wide = next(item for item, grid in shapes if grid and grid[0] < grid[1])
    listed = [7, *seen(tall), 8, 9, *seen(wide), 10]
    questions = [[11, *seen(wide), 12], [13, 14, *seen(tall), *[15] * 4]]
    trie = LabelTrie.of([[20, 21], [20, 22], [23]], end=None)
    ids, layout = lay_out([listed], [questions], encoder.pad_id, trie)
    batch = images.in_pass({"input_ids": ids, "layout": layout.parts()})
    assert batch["pictures"] == [tall, wide, wide, tall]
    for branch, question in enumerate(questions):
        text = torch.tensor([[*listed, *question, 20]])  # with the label's first token, after which the second is due
        grids = [images.grids[item] for item, _ in image_tokens(text[0].tolist())]
        own, _ = base.model.get_rope_index(
            text, (text < 0).int(), torch.tensor([(1, 2 * g[0], 2 * g[1]) for g in grids if g is not None])
        )
        end = layout.prefix + layout.width * (branch + 1)
        columns = [*range(len(listed)), *range(end - len(question) - 1, end)]
        assert torch.equal(batch["places"][:, 0, columns], own[:, 0])


def test_a_frozen_tower_sees_each_image_once(data, model, monkeypatch):
    config = config_of(model)
    encoder, base = encoded(config, data), load_base(config, CPU).eval()
    calls: list[int] = []
    real = base.model.get_image_features
    monkeypatch.setattr(base.model, "get_image_features", lambda *a, **k: calls.append(1) or real(*a, **k))
    lists = EncodedLists.of(encoder, data.validation(config))
    first = score(base, lists)
    shown = {item for prompt in lists.prompts for item, _ in image_tokens(prompt.input_ids)}
    assert len(calls) == len(shown)
    assert np.array_equal(score(base, lists), first)
    assert len(calls) == len(shown)


def test_flops_count_the_tower(data, model):
    config = config_of(model)
    encoder, base = encoded(config, data), load_base(config, CPU).eval()
    lists = EncodedLists.of(encoder, data.validation(config)[:1])
    (prompt,) = lists.prompts
    assert encoder.images is not None
    pixels, grids = zip(*(encoder.images._pixels(item) for item, _ in image_tokens(prompt.input_ids)), strict=True)
    base.model.visual.config._attn_implementation = "eager"  # torch does not count its fused attention on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        base.model.get_image_features(torch.cat(pixels), torch.cat(grids))
    words = replace(lists, prompts=[replace(prompt, input_ids=[max(0, i) for i in prompt.input_ids])])
    tower = flops_per_list(base, lists) - flops_per_list(base, words)
    assert tower == pytest.approx(counter.get_total_flops(), rel=0.02)
    adapted = attach_lora(base, config.model_copy(update={"vision_lora": True}))
    assert flops_per_list(adapted, lists) - flops_per_list(adapted, words) == tower, "adapters are merged"


def test_what_reads_no_images_is_refused(data, model, tmp_path):
    config = config_of(Path("demo-tiny"))
    with pytest.raises(
        InputError,
        match=r"^image_mode: raw_image needs a model that reads images; demo-tiny \(qwen3\) does not.*qwen3vl-2b",
    ):
        check_base(config)
    with pytest.raises(InputError, match="needs a model that reads images"):
        item_catalogue(config, data)
    without = RerankingData.prepare(data.config.model_copy(update={"images": None}))
    with pytest.raises(InputError, match=r"^image_mode: raw_image needs images of the items"):
        item_catalogue(config_of(model), without)
    check_base(config_of(model))


def test_a_prompt_that_is_too_long_for_its_images_says_so(data, model):
    config = config_of(model, max_prompt_tokens=40)
    with pytest.raises(InputError, match="or lower `candidates`, or `max_image_pixels`"):
        encoded(config, data).encode(data.validation(config))


def test_the_architecture_shares_lists_and_its_shape_is_read(model):
    assert architecture_of(Qwen3VLConfig()) == architecture_of(AutoConfig.from_pretrained(model))
    assert architecture_of(Qwen3VLConfig()).shares_lists
    shape, base = read_shape(model / "config.json"), load_base(config_of(model), CPU)
    assert shape is not None
    assert shape.tower is not None
    assert shape.parameters == pytest.approx(sum(p.numel() for p in base.parameters()), rel=0.02)
    tower = sum(p.numel() for p in base.model.visual.parameters())
    assert shape.tower.parameters == pytest.approx(tower, rel=0.05)


def test_qwen3_vl_goes_by_name():
    assert {name: entry.hub for name, entry in MODELS.items() if name.startswith("qwen3vl")} == {
        f"qwen3vl-{size}b": f"Qwen/Qwen3-VL-{size}B-Instruct" for size in (2, 4, 8)
    }
