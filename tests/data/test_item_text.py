"""Templates of items' texts: what they make of fields, and what is no template."""

import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from reranker.data.sources import load, tables
from reranker.data_config import MovieLensData, TablesData
from reranker.errors import InputError
from reranker.item_text import ItemTemplate

LAMP = {"title": "Fjord  head\nlamp", "brand": "Fjord", "category": "Outdoor, Light, Head lamps"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}", "Fjord head lamp"),
        ("{title} | {brand} | {category}", "Fjord head lamp | Fjord | Outdoor, Light, Head lamps"),
        ("{title:2}|{category:1}", "Fjord head | Outdoor"),
        ("{category:2}, {category:4}", "Outdoor, Light, Outdoor, Light, Head lamps"),
        ("{ title : 2 }", "Fjord head"),
        ("{title} by {brand}", "Fjord head lamp by Fjord"),
        ("Product | {title:1}", "Product | Fjord"),
        ("{title} | {colour}", "Fjord head lamp"),
        ("{colour} | {title:1} | made by {maker}", "Fjord"),
        ("Product | {colour}", ""),
    ],
)
def test_a_template_is_filled_and_parts_without_a_value_are_left_out(template, text):
    assert ItemTemplate.parse(template).fill(LAMP) == text


def test_fields_are_named_once_in_their_order():
    assert ItemTemplate.parse("{b} {a:3} | {b:1}").fields == ("b", "a")


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("title", "a template must hold a field in braces"),
        ("", "a template must hold a field in braces"),
        ("{title", "braces must stand around the name of a field, in pairs"),
        ("{{title}}", "braces must stand around"),
        ("{}", "braces must hold the name of a field"),
        ("{title:0}", "a field's limit must be a number of words from 1, such as {title:8}"),
        ("{title:x} {} {", "from 1, such as {title:8}; braces must hold the name of a field; braces must stand"),
    ],
)
def test_what_is_no_template_is_refused_with_the_configuration(template, rule):
    with pytest.raises(ValidationError) as caught:
        TablesData(interactions=Path("a.csv"), items=Path("b.csv"), item_text=template)
    assert rule in str(caught.value)


def test_a_field_that_the_source_lacks_is_refused_with_the_nearest_one():
    with pytest.raises(ValidationError, match=r"items have no field 'genre': did you mean 'genres'\?"):
        MovieLensData(item_text="{title} | {genre}")


# Tables

CLICKS = "user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,c,3\n"
PRODUCTS = pd.DataFrame(
    {"item_id": list("abc"), "name": ["Lamp", "Tent", "Stove"], "brand": ["Fjord", "", "Alder"], "watts": [5, 0, 90]}
)


@pytest.fixture
def table(tmp_path):
    def config(frame: pd.DataFrame, template: str | None, kind: str = "csv", **values) -> TablesData:
        (tmp_path / "clicks.csv").write_text(CLICKS)
        items = tmp_path / f"items.{kind}"
        if kind == "csv":
            frame.to_csv(items, index=False)
        else:
            frame.to_parquet(items)
        return TablesData(
            interactions=tmp_path / "clicks.csv", items=items, item_text=template, min_user=3, min_item=1, **values
        )

    return config


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_a_table_become_one_text(table, kind):
    data = load(table(PRODUCTS, "{name} | {brand} | {watts} watts", kind))
    assert data.item_texts == ["Lamp | Fjord | 5 watts", "Tent | 0 watts", "Stove | Alder | 90 watts"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_template_may_name_columns_that_are_called_like_ours(table, kind):
    data = load(table(PRODUCTS.rename(columns={"name": "text", "watts": "rating"}), "{text} {item_id} {rating}", kind))
    assert data.item_texts == ["Lamp a 5", "Tent b 0", "Stove c 90"]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string())])
def test_large_lists_and_numbers_that_are_none_of_parquet_become_words(table, kind):
    config = table(PRODUCTS, "{name} | {tags} | {size}", "parquet")
    tags, sizes = pa.array([["light"], [], None], kind), pa.array([1.5, math.nan, None])
    pq.write_table(pa.table({"item_id": list("abc"), "name": list("LTS"), "tags": tags, "size": sizes}), config.items)
    assert load(config).item_texts == ["L | light | 1.5", "T", "S"]


def test_lists_and_missing_values_of_parquet_become_words(table):
    tags, brands = pd.Series([["light", "head"], [], None]), pd.Series(["Fjord", None, "Alder"])
    frame = PRODUCTS.assign(tags=tags, brand=brands)
    assert load(table(frame, "{name} | {tags:1} | {brand}", "parquet")).item_texts == [
        "Lamp | light | Fjord",
        "Tent",
        "Stove | Alder",
    ]


def test_columns_that_the_table_lacks_are_told_all_at_once(table):
    with pytest.raises(InputError) as caught:
        tables.read(table(PRODUCTS, "{nam} | {brands}"))
    assert [(fault.line, fault.field, fault.hint) for fault in caught.value.faults] == [
        (1, "nam", "did you mean 'name'?"),
        (1, "brands", "did you mean 'brand'?"),
    ]


def test_an_item_without_any_of_the_fields_is_a_fault_with_its_line(table):
    with pytest.raises(InputError) as caught:
        tables.read(table(PRODUCTS.assign(name=["Lamp", "", "Stove"]), "{name} | {brand}"))
    assert str(caught.value).endswith("items.csv:3: name, brand: must not be empty (got '')")


def test_a_template_changes_the_data_s_fingerprint_by_the_texts_alone(table):
    plain = load(table(PRODUCTS, None, item_columns={"text": "name"}))
    assert load(table(PRODUCTS, "{name}")).item_texts == plain.item_texts
    assert load(table(PRODUCTS, "{name:9}")).fingerprint == load(table(PRODUCTS, "{name}")).fingerprint
    assert load(table(PRODUCTS, "{brand} | {name}")).fingerprint != load(table(PRODUCTS, "{name}")).fingerprint
