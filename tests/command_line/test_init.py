"""`init`: from two tables of any names to a study file that passes `--check` and fits the machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reranker.data_config import TablesData
from reranker.errors import InputError
from reranker.modeling.checkpoints.model_names import check_name
from reranker.modeling.memory.memory_estimate import GIB
from tests.pictures import draw
from tune import init
from tune.study_file import loading
from tune.study_file.column_names import INTERACTION_COLUMNS, ITEM_COLUMNS, recognised
from tune.study_file.first_study import Machine, first_study
from tune.study_file.image_column import ImageColumn, image_column

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data" / "ml-latest-small.zip"


def make(folder: Path, users: int = 200, items: int = 120, length: int = 8) -> tuple[Path, Path]:
    """Tables whose columns have names of their own; users touch items in a drawn order."""
    rng = np.random.default_rng(0)
    touched = (
        np.argsort(rng.random((users, items)), axis=1)[:, :length]
        if users < 5000
        else rng.integers(items, size=(users, length))
    )
    clicks = pd.DataFrame({"Customer": np.repeat(np.arange(users), length), "sku": touched.ravel()})
    clicks["Ordered At"] = np.tile(np.arange(length) + 1_700_000_000, users)
    clicks["channel"], clicks["stars"] = "web", 5
    products = pd.DataFrame({"SKU": np.arange(items), "Product Title": [f"Lamp of the kind {i}" for i in range(items)]})
    products["price"] = 1.5
    clicks.to_csv(folder / "clicks.csv", index=False)
    products.to_csv(folder / "products.csv", index=False)
    return folder / "clicks.csv", folder / "products.csv"


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert init.main(list(map(str, words))) == 2
    return capsys.readouterr().err


def test_a_study_file_is_written_whose_plan_is_shown(tmp_path, capsys):
    clicks, products = make(tmp_path)
    assert init.main([str(clicks), str(products), "--output", str(tmp_path / "mine.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "study mine: 8 trials by ndcg_at_10, searching epochs, learning_rate, lora_rank" in printed
    assert "data: tables, 200 users, 120 items, 1600 interactions" in printed
    study = loading.load(tmp_path / "mine.yaml", check_model=check_name)
    assert isinstance(study.data, TablesData)
    assert study.data.interaction_columns.model_dump() == {
        "user_id": "Customer", "item_id": "sku", "timestamp": "Ordered At", "rating": "stars"
    }  # fmt: skip
    assert (study.data.min_user, study.data.min_item, study.base().candidates) == (5, 5, 20)


def test_a_study_file_that_is_there_is_left_alone(tmp_path, capsys):
    clicks, products = make(tmp_path)
    (tmp_path / "study.yaml").write_text("mine")
    said = refusal(capsys, clicks, products, "--output", tmp_path / "study.yaml")
    assert "is there already; name another file with --output" in said
    assert (tmp_path / "study.yaml").read_text() == "mine"


def test_the_columns_of_known_data_sets_are_recognised(tmp_path):
    headers = {
        "userId,movieId,rating,timestamp": ("userId", "movieId", "timestamp", "rating"),
        "rating,title,text,images,asin,parent_asin,user_id,timestamp": ("user_id", "asin", "timestamp", "rating"),
        "reviewerID,asin,overall,unixReviewTime": ("reviewerID", "asin", "unixReviewTime", "overall"),
        "session,article,ts,a,b,c,d,e,f,g,h,i": ("session", "article", "ts", None),
    }
    for header, expected in headers.items():
        (tmp_path / "t.csv").write_text(header + "\n")
        columns = recognised(tmp_path / "t.csv", {}, INTERACTION_COLUMNS)
        assert tuple(columns.get(name) for name in INTERACTION_COLUMNS) == expected


def test_a_column_that_is_not_recognised_is_asked_for_by_its_option(tmp_path, capsys):
    (tmp_path / "clicks.csv").write_text("who,what,at_the_time\n")
    said = refusal(capsys, tmp_path / "clicks.csv", tmp_path / "x.csv", "--output", tmp_path / "s.yaml")
    assert "none of the columns looks like the user" in said
    assert "name it with --user-column; there are: who, what, at_the_time" in said
    assert "--item-column" in said
    assert "--timestamp-column" in said
    given = {"user_id": "who", "item_id": "what", "timestamp": "at_the_time"}
    assert recognised(tmp_path / "clicks.csv", given, INTERACTION_COLUMNS) == given


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "at least two columns"),
        ("only\n1\n", "at least two columns"),
        ("user;item;time\n1;2;3\n", "between commas"),
        ("user,item\n1,2\n", "looks like when: numbers or ISO dates"),
    ],
)
def test_what_is_no_table_of_interactions_is_told(tmp_path, capsys, content, said):
    (tmp_path / "clicks.csv").write_text(content)
    assert said in refusal(capsys, tmp_path / "clicks.csv", tmp_path / "x.csv", "--output", tmp_path / "s.yaml")


def test_a_file_that_is_missing_or_of_another_kind_is_told(tmp_path, capsys):
    assert "the file must exist" in refusal(capsys, tmp_path / "a.csv", tmp_path / "b.csv")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    assert "must end in .csv or .parquet" in refusal(capsys, tmp_path / "a.xlsx", tmp_path / "b.csv")


def test_a_table_that_does_not_fit_the_memory_is_not_read(tmp_path, capsys):
    with (tmp_path / "clicks.csv").open("wb") as file:
        file.write(b"user,item,time\n")
        file.truncate(10**13)  # sparse: it takes no space
    assert "make a smaller table first" in refusal(capsys, tmp_path / "clicks.csv", tmp_path / "x.csv")


def test_filters_are_as_mild_as_the_data_need(tmp_path):
    clicks, products = make(tmp_path, users=300, length=4)  # nobody has five
    text = first_study(*columns_of(clicks, products), folder=tmp_path, name="x")
    assert "  min_user: 3\n  min_item: 5\n" in text


@pytest.mark.parametrize(
    ("gib", "models"),
    [
        (8, "  model: smollm2-135m\n"),
        (10, "  model: qwen3-0.6b\n"),
        (16, "choice: [qwen3-0.6b, qwen3-1.7b]"),
        (80, "choice: [qwen3-1.7b, qwen3-4b]"),
    ],
)
def test_models_are_those_that_the_gpu_holds(tmp_path, gib, models):
    arguments = columns_of(*make(tmp_path))
    text = first_study(*arguments, folder=tmp_path, name="x", machine=Machine("a GPU", gib * GIB, True))
    assert models in text
    (tmp_path / "x.yaml").write_text(text)
    loading.load(tmp_path / "x.yaml", check_model=check_name)


def columns_of(clicks: Path, products: Path) -> tuple[Path, Path, dict[str, str], dict[str, str]]:
    return (
        clicks,
        products,
        recognised(clicks, {}, INTERACTION_COLUMNS),
        recognised(products, {}, ITEM_COLUMNS),
    )


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason="ml-latest-small is not beside the checkout")
def test_movielens_tables_need_no_hint(tmp_path, capsys):
    with zipfile.ZipFile(SHARED) as archive:
        for name in ("ratings.csv", "movies.csv"):
            (tmp_path / name).write_bytes(archive.read(f"ml-latest-small/{name}"))
    words = [str(tmp_path / "ratings.csv"), str(tmp_path / "movies.csv"), "--output", str(tmp_path / "s.yaml")]
    assert init.main(words) == 0
    assert "610 users, 3650 items" in capsys.readouterr().out


@pytest.mark.slow
def test_two_hundred_thousand_users_are_sampled_so_that_a_trial_ends(tmp_path):
    clicks, products = make(tmp_path, users=200_000, items=5000, length=8)
    command = [sys.executable, "-m", "reranker_tuner", "init", str(clicks), str(products), "--output", "s.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    study = loading.load(tmp_path / "s.yaml", check_model=check_name)
    assert (study.data.evaluation_users, study.data.training_users) == (300, 416)
    assert "1248 training examples an epoch, 300 lists of 20 to score" in done.stdout


# Images


def with_images(folder: Path, cells: list[str], column: str = "photo") -> tuple[Path, Path]:
    """The usual tables, whose products have such a column, its values over and over."""
    clicks, products = make(folder)
    table = pd.read_csv(products)
    table[column] = [cells[row % len(cells)] for row in range(len(table))]
    table.to_csv(products, index=False)
    return clicks, products


def test_a_column_of_paths_of_images_is_recognised_by_how_they_end(tmp_path, capsys):
    draw(tmp_path / "a.png")
    clicks, products = with_images(tmp_path, ["a.png", "gone.JPG"])
    assert init.main([str(clicks), str(products), "--output", str(tmp_path / "mine.yaml")]) == 0
    study = loading.load(tmp_path / "mine.yaml", check_model=check_name)
    assert isinstance(study.data, TablesData)
    assert study.data.images is not None
    assert study.data.images.model_dump() == {
        "column": "photo", "missing": "text", "fetch": False, "caption_model": None
    }  # fmt: skip
    assert "  images: 60 of 120 items have one; the others are read as text: 60 × an image must exist" in (
        capsys.readouterr().out
    )
    assert "# a path in 120 of the first 120 rows\n" in (tmp_path / "mine.yaml").read_text()


def test_addresses_are_not_fetched_unasked_and_the_file_says_how(tmp_path):
    (clicks, products, *columns) = columns_of(*with_images(tmp_path, ["https://x.example/a.jpg?v=2", "", "b"]))
    image = image_column(products)
    assert image == ImageColumn("photo", True, 40, 120)
    text = first_study(clicks, products, *columns, folder=tmp_path, name="x", image=image)
    assert (
        '  images: {column: "photo", missing: text}  # an address in 40 of the first 120 rows; fetch: true gets them, once\n'
        in text
    )
    assert "  # image_mode: {choice: [text, caption]}" in text


@pytest.mark.parametrize("cells", [["a lamp", "b.png", "c"], [""], ["7"]])
def test_a_column_of_which_few_values_end_so_is_none(tmp_path, cells):
    assert image_column(with_images(tmp_path, cells)[1]) is None


def test_of_two_the_column_with_more_images_is_taken(tmp_path):
    _, products = with_images(tmp_path, ["a.png", ""], "photo")
    table = pd.read_csv(products)
    table["large"] = "b.png"
    table.to_csv(products, index=False)
    image = image_column(products)
    assert image is not None
    assert (image.name, image.named) == ("large", 120)


def test_a_column_that_holds_something_else_is_not_taken_for_images(tmp_path):
    assert image_column(with_images(tmp_path, ["a.png"])[1], taken=["photo"]) is None


def test_a_parquet_table_has_images_too(tmp_path):
    pd.DataFrame({"sku": [1, 2], "photo": ["a.png", None]}).to_parquet(tmp_path / "p.parquet")
    assert image_column(tmp_path / "p.parquet") == ImageColumn("photo", False, 1, 2)


def test_a_row_with_a_cell_too_many_is_for_the_table_s_reader_to_tell(tmp_path):
    (tmp_path / "p.csv").write_text("sku,photo\na,x.png,more\n")
    assert image_column(tmp_path / "p.csv") == ImageColumn("photo", False, 1, 1)
    with pytest.raises(InputError, match="the table has no such column"):
        image_column(tmp_path / "p.csv", "foto")


def test_the_user_names_the_column_of_images(tmp_path, capsys):
    clicks, products = with_images(tmp_path, ["a"])
    assert image_column(products, "photo") == ImageColumn("photo", False, 0, 120)
    said = refusal(capsys, clicks, products, "--image-column", "foto", "--output", tmp_path / "s.yaml")
    assert "products.csv:1: foto: the table has no such column; did you mean 'photo'?" in said


def test_tables_without_images_have_none_in_the_file(tmp_path):
    clicks, products, *columns = columns_of(*make(tmp_path))
    assert image_column(products) is None
    assert "image" not in first_study(clicks, products, *columns, folder=tmp_path, name="x")
