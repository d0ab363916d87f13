"""Images of Amazon's products, by the addresses in their metadata: which one is taken, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reranker.data.assemble import RerankingData
from reranker.data.interactions import Interactions
from reranker.data.sources import amazon, load
from reranker.data_config import AmazonData
from reranker.errors import InputError
from tests.data.test_amazon import METADATA, REVIEWS, as_lines
from tests.pictures import draw, serving

pytestmark = pytest.mark.usefixtures("own_cache")


def products(year: int, *images: dict[str, Any]) -> str:
    """The year's usual products, the first of them with these fields besides."""
    return as_lines(
        [{**record, **more} for record, more in zip(METADATA[year], [*images, {}, {}, {}, {}], strict=False)]
    )


@pytest.fixture
def config(tmp_path):
    def make(year: int, metadata: str, images: dict[str, Any] | None, **values: Any) -> AmazonData:
        (tmp_path / "reviews.json").write_text(as_lines(REVIEWS[year]))
        (tmp_path / "meta.json").write_text(metadata)
        files = {"reviews": tmp_path / "reviews.json", "metadata": tmp_path / "meta.json"}
        return AmazonData.model_validate(
            {"year": year, "min_user": 3, "min_item": 1, "images": images, **files, **values}
        )

    return make


def addresses(config: AmazonData) -> list[str]:
    return [str(image) for image in amazon.read(config).items["image"]]


@pytest.mark.parametrize(
    ("year", "fields", "address"),
    [
        (2014, {"imUrl": "http://x/a.jpg"}, "http://x/a.jpg"),
        (2018, {"imageURL": ["http://x/small.jpg"], "imageURLHighRes": ["http://x/a.jpg", "http://x/b.jpg"]}, "http://x/a.jpg"),
        (2018, {"imageURL": ["http://x/small.jpg"], "imageURLHighRes": []}, "http://x/small.jpg"),
        (2023, {"images": [{"variant": "PT01", "large": "http://x/b.jpg"}, {"variant": "MAIN", "large": "http://x/a.jpg"}]}, "http://x/a.jpg"),
        (2023, {"images": [{"thumb": "http://x/t.jpg", "large": None, "hi_res": "http://x/h.jpg"}]}, "http://x/h.jpg"),
        (2023, {"images": []}, ""),
        (2023, {"images": "http://x/a.jpg"}, ""),
        (2018, {"imageURLHighRes": [7], "imageURL": None}, ""),
    ],
)  # fmt: skip
def test_each_year_s_metadata_have_one_image_a_product(config, year, fields, address):
    assert addresses(config(year, products(year, fields), {}))[0] == address


def test_without_the_setting_no_image_is_looked_for(config):
    made = config(2018, products(2018, {"imageURLHighRes": ["http://x/a.jpg"]}), None)
    assert list(amazon.read(made).items.columns) == ["item_id", "text"]
    assert load(made).images is None


def fetched(config, tmp_path: Path, **images: Any) -> Interactions:
    """Products of which the first has an image that is there, the second one that is not, and the others none."""
    draw(tmp_path / "a.png")
    with serving({"/a.png": (tmp_path / "a.png").read_bytes()}) as (at, _):
        metadata = products(2018, {"imageURLHighRes": [f"{at}/a.png"]}, {"imageURLHighRes": [f"{at}/gone.png"]})
        return load(config(2018, metadata, {"fetch": True, **images}))


def test_images_are_fetched_and_the_others_are_read_as_text(config, tmp_path):
    images = fetched(config, tmp_path, missing="text").images
    assert images is not None
    picture = images.open(0)
    assert picture is not None
    assert picture.size == (64, 48)
    assert images.note == (
        "images: 1 of 4 items have one; the others are read as text: 2 × every item must have an image; 1 × an image must be "
        "where its address says: HTTP 404"
    )


def test_or_each_is_told_with_its_line_and_field(config, tmp_path):
    with pytest.raises(InputError) as caught:
        fetched(config, tmp_path)
    assert [(fault.line, fault.field, fault.rule) for fault in caught.value.faults] == [
        (2, "imageURLHighRes", "an image must be where its address says: HTTP 404"),
        (3, "imageURLHighRes", "every item must have an image"),
        (4, "imageURLHighRes", "every item must have an image"),
    ]
    assert caught.value.faults[0].file == str(tmp_path / "meta.json")


def test_nothing_is_fetched_that_was_not_asked_for(config):
    with pytest.raises(InputError) as caught:
        load(config(2018, products(2018, *[{"imageURLHighRes": ["http://x/a.jpg"]}] * 4), {}))
    assert {fault.rule for fault in caught.value.faults} == {"an image must be a file on this machine, not an address"}
    assert "data.images.fetch: true gets addresses" in caught.value.faults[0].hint


def test_captions_stand_where_the_template_says(config, tmp_path):
    data = fetched(config, tmp_path, missing="text", caption_model="x")
    assert data.captioned is not None
    assert data.captioned.filled(["a lamp", "", "", ""])[:2] == ["Lamp | a lamp", "Tent & pegs"]
    made = config(
        2018, products(2018), {"missing": "text", "caption_model": "x"}, item_text="{title} | {caption:2} | {brand}"
    )
    captioned = load(made).captioned
    assert captioned is not None
    assert captioned.filled(["a lamp there", "", "", ""])[:2] == ["Lamp | a lamp | Fjord", "Tent & pegs | Fjord"]


@pytest.mark.parametrize(
    ("images", "item_text", "rule"),
    [
        (None, "{title} {caption}", "item_text must not hold {caption} without images.caption_model"),
        ({"caption_model": "x"}, "{caption}", "item_text must hold another field than {caption}"),
    ],
)
def test_captions_need_a_model_and_a_text(config, images, item_text, rule):
    with pytest.raises(ValidationError, match=rule.replace("{", r"\{")):
        config(2018, products(2018), images, item_text=item_text)


def test_an_image_mode_without_images_says_how_to_have_them(config):
    data = RerankingData.prepare(config(2018, products(2018), None))
    with pytest.raises(InputError) as caught:
        data.check_images("raw_image")
    assert caught.value.faults[0].hint == "data.images: {fetch: true} gets those whose addresses the metadata have"
