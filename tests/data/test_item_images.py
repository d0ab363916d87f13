"""Files of images: what opens, how, and what is said of those that don't."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reranker.data.assemble import RerankingData
from reranker.data.images import item_images as module
from reranker.data.images.item_images import given_images, opened
from reranker.data.sources import load
from reranker.data_config import TablesData
from reranker.errors import EnvironmentFault, InputError
from reranker.storage.limits import IMAGE_BYTES, IMAGE_PIXELS
from tests.pictures import COLOURS, draw, serving, shop
from tune.study_file.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def first_pixel(data: bytes) -> tuple[int, ...]:
    image = opened(data)
    assert image.mode == "RGB"
    return tuple(int(part) for part in np.asarray(image)[0, 0])


def near(found: tuple[int, ...], colour: str) -> bool:
    return max(abs(a - b) for a, b in zip(found, COLOURS[colour], strict=True)) < 40


def test_whatever_its_kind_an_image_becomes_rgb():
    red, blue = (Image.new("RGB", (40, 30), COLOURS[name]) for name in ("red", "blue"))
    assert near(first_pixel(content(red.convert("CMYK"), "JPEG")), "red")
    assert near(first_pixel(content(red, "GIF", save_all=True, append_images=[blue])), "red"), "the first frame"
    assert near(first_pixel(content(red, "PNG", save_all=True, append_images=[blue])), "red")
    assert near(first_pixel(content(red, "WEBP")), "red")
    assert first_pixel(content(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG")) == (255, 255, 255), "behind it is white"
    palette = Image.new("P", (9, 9), 0)
    palette.putpalette([0, 0, 0, 250, 20, 10])
    assert first_pixel(content(palette, "PNG", transparency=0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((9, 9), 200 << 8, dtype=np.uint16))
    assert first_pixel(content(deep, "PNG")) == (200, 200, 200), "16 bits are scaled, not cut off"


def test_an_image_stands_upright():
    lying = Image.new("RGB", (40, 20), COLOURS["blue"])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    assert opened(content(lying, "JPEG", exif=exif)).size == (20, 40)
    broken = content(lying, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff")
    assert opened(broken).size == (40, 20), "what it says of itself may be broken"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "an image must not be empty"),
        (b"<html>404</html>", "an image must be one of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (content(Image.new("RGB", (300, 300), "red"), "JPEG")[:-400], "an image must be whole"),
        (content(Image.effect_noise((90, 90), 50), "PNG")[:-3000], "an image must be whole"),
        (content(Image.new("1", (8000, 8000)), "PNG"), "an image must have at most 50,000,000 pixels"),
        (content(Image.new("L", (1, 300)), "PNG"), "at most 200 times as long as it is wide"),
        (content(Image.new("F", (9, 9)), "TIFF"), "an image must have 8 or 16 bits a channel"),
        (b"\0" * (IMAGE_BYTES.usual + 1), "an image must have at most 31,457,280 bytes"),
    ],
)
def test_what_is_no_usable_image_is_refused_by_a_rule(data, rule):
    with pytest.raises(ValueError, match=rule):
        opened(data)


def broken_shop(folder: Path, **values: object) -> TablesData:
    draw(folder / "good.png")
    draw(folder / "good.jpg", "blue")
    (folder / "torn.jpg").write_bytes((folder / "good.jpg").read_bytes()[:-200])
    (folder / "page.png").write_text("not found", encoding="utf-8")
    cells = {"a": "good.png", "b": "good.jpg", "c": "torn.jpg", "d": "page.png", "e": "", "f": "gone.png"}
    return shop(folder, {**cells, "g": "https://example.org/g.png", "h": "."}, **values)


def test_every_image_that_is_missing_or_broken_is_told_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        load(broken_shop(tmp_path))
    told = [(fault.line, fault.field, fault.value, fault.rule) for fault in caught.value.faults]
    assert told == [
        (4, "image_path", "torn.jpg", "an image must be whole"),
        (5, "image_path", "page.png", "an image must be one of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (6, "image_path", "", "every item must have an image"),
        (7, "image_path", "gone.png", "an image must exist"),
        (
            8,
            "image_path",
            "https://example.org/g.png",
            "an image must be a file on this machine, not an address",
        ),
        (9, "image_path", ".", "an image must exist"),
    ]
    assert caught.value.faults[0].file == str(tmp_path / "items.csv")
    assert "data.images.missing: text" in caught.value.faults[0].hint


def test_a_split_that_leaves_a_side_empty_is_told_beside_them(tmp_path):
    with pytest.raises(InputError) as caught:
        load(broken_shop(tmp_path, split="time", validation_from=5000))
    assert [fault.field for fault in caught.value.faults] == [*["image_path"] * 6, "data.validation_from"]
    assert caught.value.total == 7


def test_or_they_are_read_as_text_and_counted(tmp_path):
    data = load(broken_shop(tmp_path, images={"missing": "text"}))
    images = data.images
    assert images is not None
    assert [path is not None for path in images.paths] == [True, True, *[False] * 6]
    assert images.note.startswith("images: 2 of 8 items have one; the others are read as text: 2 × an image must exist")
    picture = images.open(0)
    assert picture is not None
    assert picture.size == (64, 48)
    assert images.open(5) is None


def test_the_plan_says_how_many_items_have_an_image(tmp_path):
    from reranker.config import TrialConfig

    data = RerankingData.prepare(broken_shop(tmp_path, images={"missing": "text"}, min_user=3))
    assert "  images: 2 of 8 items have one;" in data.sealed().describe(TrialConfig(candidates=2))


def test_images_of_items_that_the_filters_leave_out_are_not_looked_at(tmp_path):
    config = shop(tmp_path, dict.fromkeys("abcd", "good.png"))
    draw(tmp_path / "good.png")
    with (tmp_path / "items.csv").open("a", encoding="utf-8") as file:
        file.write("z,Nobody's,gone.png\n")
    assert load(config).images is not None


def test_contents_decide_the_fingerprint_and_places_do_not(tmp_path):
    for name, colour in (("one", "red"), ("two", "red"), ("three", "blue")):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / f"{name}.png", colour)
    prints = {
        name: load(shop(tmp_path / name, dict.fromkeys("abc", f"{name}.png"))).fingerprint
        for name in ("one", "two", "three")
    }
    assert prints["one"] == prints["two"] != prints["three"]
    without = load(shop(tmp_path / "one", dict.fromkeys("abc", "one.png"), images=None))
    assert without.images is None
    assert without.fingerprint != prints["one"]


def test_a_file_that_changes_later_is_not_taken_for_the_old_one(tmp_path):
    draw(tmp_path / "a.png")
    images = load(shop(tmp_path, dict.fromkeys("abc", "a.png"))).images
    assert images is not None
    draw(tmp_path / "a.png", "blue")
    with pytest.raises(EnvironmentFault, match=r"a\.png has changed since the data were prepared"):
        images.open(1)


def test_what_was_opened_once_is_not_opened_again(tmp_path, monkeypatch):
    config = broken_shop(tmp_path, images={"missing": "text"})
    note = load(config).images
    monkeypatch.setattr(module, "opened", lambda data: pytest.fail("opened again"))
    assert load(config).images == note


def test_a_verdict_is_not_kept_when_a_limit_is_raised(tmp_path, monkeypatch):
    draw(tmp_path / "good.png")
    monkeypatch.setenv(IMAGE_PIXELS.variable, "1000")
    with pytest.raises(InputError, match="an image must have at most 1,000 pixels") as caught:
        load(shop(tmp_path, dict.fromkeys("abc", "good.png")))
    how = f"the variable {IMAGE_PIXELS.variable} raises that"
    assert caught.value.faults[0].hint.startswith(f"{how}; data.images.missing: text")
    counted = load(shop(tmp_path, dict.fromkeys("abc", "good.png"), images={"missing": "text"})).images
    assert counted is not None
    assert counted.note.endswith(f"3 × an image must have at most 1,000 pixels ({how})")
    monkeypatch.delenv(IMAGE_PIXELS.variable)
    images = load(shop(tmp_path, dict.fromkeys("abc", "good.png"))).images
    assert images is not None
    assert images.sizes == ((64, 48),) * 3


def test_a_title_is_asked_of_without_an_image_by_none_or_a_blank(tmp_path):
    images, rules = given_images([None, "", " ", str(draw(tmp_path / "a.png"))])
    assert rules == [""] * 4
    assert [path is not None for path in images.paths] == [False, False, False, True]


def test_a_column_that_is_not_there_is_a_fault_of_the_file(tmp_path):
    config = shop(tmp_path, dict.fromkeys("abc", "a.png"), images={"column": "picture"})
    with pytest.raises(InputError, match=r"items\.csv:1: picture: the file must have this column"):
        load(config)


def test_addresses_are_fetched_once_where_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(IMAGE_BYTES.variable, str(2**20))
    answers = {"/a.png": draw(tmp_path / "a.png").read_bytes(), "/large.png": b"\0" * (2**20 + 1)}
    with serving(answers) as (at, asked):
        cells = {"a": f"{at}/a.png", "b": f"{at}/gone.png", "c": f"{at}/large.png", "d": "ftp://here/a.png"}
        with pytest.raises(InputError) as caught:
            load(shop(tmp_path, cells, images={"fetch": True}))
        images = load(shop(tmp_path, cells, images={"fetch": True, "missing": "text"})).images
    assert [fault.rule for fault in caught.value.faults] == [
        "an image must be where its address says: HTTP 404",
        "an image must have at most 1,048,576 bytes",
        "an image's address must begin with http:// or https://",
    ]
    assert images is not None
    assert images.open(0) is not None
    assert asked.count("/a.png") == 1


def test_an_address_of_several_items_is_asked_for_once(tmp_path):
    drawn = draw(tmp_path / "a.png").read_bytes()
    with serving({"/none.png": drawn}) as (at, asked):
        cells = {f"i{number}": f"{at}/{'none' if number % 2 else 'gone'}.png" for number in range(12)}
        images = load(shop(tmp_path, cells, images={"fetch": True, "missing": "text"})).images
    assert images is not None
    assert images.note.startswith("images: 6 of 12 items have one; the others are read as text: 6 × an image must be")
    assert sorted(asked) == ["/gone.png", "/none.png"]


def test_an_address_is_asked_for_as_browsers_write_it(tmp_path):
    drawn = draw(tmp_path / "a.png").read_bytes()
    written = ["/%C3%A9t%C3%A9%202.png", "/50%25.png?size=a%20b"]
    with serving(dict.fromkeys(written, drawn)) as (at, asked):
        cells = {"a": f"{at}/été 2.png", "b": f"{at}/50%25.png?size=a b", "c": "http://été..example/a.png"}
        images = load(shop(tmp_path, cells, images={"fetch": True, "missing": "text"})).images
    assert images is not None
    assert [path is not None for path in images.paths] == [True, True, False]
    assert "1 × an image must be where its address says: encoding with 'idna'" in images.note
    assert sorted(asked) == sorted(written)


def test_what_an_address_gives_that_is_no_image_is_not_kept(tmp_path):
    drawn = draw(tmp_path / "a.png").read_bytes()
    answers = {"/a.png": b"<html>try again later</html>", "/b.png": drawn[: len(drawn) // 2]}
    with serving(answers) as (at, _):
        cells = {"a": f"{at}/a.png", "b": f"{at}/b.png", "c": f"{at}/a.png", "d": f"{at}/b.png"}
        with pytest.raises(InputError) as caught:
            load(shop(tmp_path, cells, images={"fetch": True}))
        answers |= {"/a.png": drawn, "/b.png": drawn}
        images = load(shop(tmp_path, cells, images={"fetch": True, "missing": "text"})).images
    assert {fault.rule for fault in caught.value.faults} == {
        "an image must be one of PNG, JPEG, WEBP, GIF, BMP, TIFF",
        "an image must be whole",
    }
    assert images is not None
    assert all(images.open(item) is not None for item in range(4))


def test_a_study_without_images_is_the_same_as_before_there_were_any(tmp_path):
    values: dict[str, Any] = {
        "study": {"name": "a", "trials": 1},
        "data": {"source": "tables", "interactions": "a.csv", "items": "b.csv"},
        "space": {"epochs": {"int": [1, 2]}},
    }
    with_images = Study.load({**values, "data": {**values["data"], "images": {}}})
    plain = Study.load(values)
    later = {"item_text", "images", "dense_model", "split", "validation_from", "test_from", "targets_per_user"}
    later |= {"evaluation", "test_users"}
    data = plain.data.model_dump(mode="json", exclude=later | {"teacher_scores", "pointwise_model"})  # as they were
    before = json.dumps([plain.metric, data, plain.fixed, plain.source["space"]], sort_keys=True)
    assert plain.fingerprint == hashlib.sha256(before.encode()).hexdigest()[:16]
    assert plain.fingerprint != with_images.fingerprint
