"""What a model is trained on, a class a source: `DataConfig`. Frozen and strict, as `reranker.config` is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BeforeValidator, Field

from reranker.config import Retriever, StrictModel, cross_rule
from reranker.item_text import CAPTION, ItemTemplate, check_fields
from reranker.storage.user_paths import user_path

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # an example of one
POINTWISE = "Qwen/Qwen3-Reranker-0.6B"  # an example of a model for the baseline of that name
UserPath = Annotated[
    Path, Field(strict=False), BeforeValidator(lambda text: user_path(text) if isinstance(text, str | Path) else text)
]


def _folders(value: object) -> object:
    """A folder, or several; each once."""
    if isinstance(value, str | Path):
        return user_path(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(entry, str | Path) for entry in value):
        raise ValueError("must be a folder, or a list of folders")
    folders = tuple(user_path(entry) for entry in value)
    if len(set(folders)) < len(folders):
        raise ValueError("must name each folder once")
    return folders


UserFolders = Annotated[Path | tuple[Path, ...], BeforeValidator(_folders, json_schema_input_type=str | list[str])]


def _moment(value: object) -> object:
    is_date = isinstance(value, str) and _is_date(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if value is not None and not is_date and not is_number:
        raise ValueError(
            "must be a share between 0 and 1, a date such as 2018-06-30, or a timestamp as the data have it"
        )
    return value


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


Moment = (
    int | float | str
)  # a share of the interactions, a timestamp in their unit, or a date (of UTC, if it has no zone)
_MomentField = Annotated[Moment | None, BeforeValidator(_moment)]
_VALIDATION_FROM, _TEST_FROM = 0.8, 0.9
# What came later, and the value that data of before have; their fingerprints must stay.
_LATER_FIELDS: dict[str, object] = {
    "item_text": None,
    "release": None,
    "dense_model": None,
    "pointwise_model": None,
    "images": None,
    "teacher_scores": None,
    "split": "leave_one_out",
    "validation_from": None,
    "test_from": None,
    "targets_per_user": 1,
    "evaluation": "sampled",
    "test_users": None,
}


def is_share(moment: Moment) -> TypeGuard[float]:
    """Whether it is a share of the interactions rather than a time."""
    return not isinstance(moment, str) and 0 < moment < 1


def without_later_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dumped settings without the fields that came later and change nothing: equal to those of before."""
    return {
        name: value for name, value in settings.items() if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]
    }


def template_of(*fields: str) -> AfterValidator:
    """For a template of items' texts that may name these fields only; none given: any."""
    return AfterValidator(lambda text: check_fields(text, fields))


def _usable(text: str) -> str:
    user_path(text)  # raises ValueError where no file and no repository can have such a name
    return text


class _DataBase(StrictModel):
    min_user: int = Field(5, ge=3, description="users with fewer interactions are dropped (3: train, validation, test)")
    min_item: int = Field(5, ge=1, description="items with fewer interactions are dropped")
    seed: int = Field(0, ge=0, lt=2**31, description="of tied timestamps and of the evaluation lists")
    split: Literal["leave_one_out", "time"] = Field(
        "leave_one_out",
        description="each user's last item tests and the last but one validates; or time: periods, the same for all users",
    )
    validation_from: _MomentField = Field(
        None,
        description="split by time: when the training ends, as a share of the interactions, a date or a timestamp; null: 0.8",
    )
    test_from: _MomentField = Field(
        None, description="split by time: when the validation ends, as in validation_from; null: 0.9"
    )
    targets_per_user: int | None = Field(
        1,
        ge=1,
        description="split by time: how many of a user's items in a period are asked for, from the first; null: all",
    )
    candidate_mode: Literal["ground_truth", "retrieval"] = Field(
        "ground_truth", description="validation and test lists: the target among negatives, or what a retriever fetches"
    )
    retriever: Retriever = Field(
        "item_knn", description="the first stage: of retrieved lists, and of hard negatives for training"
    )
    dense_model: Annotated[str, AfterValidator(_usable)] | None = Field(
        None, description="of retriever and baseline `dense`: a sentence encoder, as a folder or an id of the Hub"
    )
    pointwise_model: Annotated[str, AfterValidator(_usable)] | None = Field(
        None, description="of baseline `pointwise`: a causal language model, as a folder or an id of the Hub"
    )
    candidate_order: Literal["shuffled", "retriever"] = Field(
        "shuffled", description="how retrieved lists stand in prompts: by seed, or as the retriever ranks them"
    )
    evaluation: Literal["sampled", "full"] = Field(
        "sampled",
        description="ranks among the list's candidates; or full: in the whole catalogue, whose first items the list holds",
    )
    evaluation_negatives: Literal["uniform", "popularity"] = Field(
        "uniform", description="how the negatives of validation and test lists are drawn; the same for all trials"
    )
    evaluation_users: int | None = Field(None, ge=1, description="score a seeded sample of users; null: all")
    test_users: int | None = Field(
        None, ge=1, description="users of the sealed test, from the same sample; null: evaluation_users"
    )
    training_users: int | None = Field(None, ge=1, description="train on a seeded sample of users; null: all")
    teacher_scores: UserPath | None = Field(
        None, description="CSV or Parquet with user_id, item_id and score, for teacher: file"
    )

    @property
    def period_begins(self) -> dict[str, Moment]:
        """When the validation and the test begin, if the split is by time."""
        return {
            "validation_from": _VALIDATION_FROM if self.validation_from is None else self.validation_from,
            "test_from": _TEST_FROM if self.test_from is None else self.test_from,
        }

    @cross_rule
    def _split_has_what_is_set(self) -> None:
        for name in ("validation_from", "test_from", "targets_per_user"):
            if self.split != "time" and getattr(self, name) != _LATER_FIELDS[name]:
                raise ValueError(f"{name} must be left out without split: time")
        validation, test = self.period_begins.values()
        if is_share(validation) and is_share(test) and validation >= test:
            raise ValueError(f"validation_from must be below test_from, which is {test}; it is {validation}")

    @cross_rule
    def _mode_has_what_is_set(self) -> None:
        if self.candidate_mode == "retrieval" and self.evaluation_negatives != "uniform":
            raise ValueError("evaluation_negatives must be left out with candidate_mode: retrieval, which has none")
        if self.retriever == "dense" and self.dense_model is None:
            raise ValueError(
                f"retriever: dense needs dense_model, a sentence encoder: a folder, or an id of the Hub such as {ENCODER}"
            )
        if self.candidate_mode == "ground_truth" and self.evaluation == "full":
            raise ValueError(
                "evaluation: full must have candidate_mode: retrieval, whose retriever ranks the catalogue"
            )
        if self.candidate_mode == "ground_truth" and self.candidate_order != "shuffled":
            raise ValueError(
                "candidate_order must be left out without candidate_mode: retrieval: only its lists have one"
            )


class DemoData(_DataBase):
    """A generated catalogue whose sequences follow a known rule, so that the best reachable score is known."""

    source: Literal["demo"] = "demo"
    min_item: int = Field(1, ge=1, description="items with fewer interactions are dropped")
    users: int = Field(2000, ge=10, le=100_000, description="how many are generated")
    interactions_per_user: int = Field(8, ge=4, description="length of each generated sequence")

    @cross_rule
    def _is_made_in_seconds(self) -> None:
        if self.users * self.interactions_per_user > 1_000_000:
            raise ValueError("users × interactions_per_user must be at most 1,000,000")


class MovieLensData(_DataBase):
    """A MovieLens folder or zip, or a release that lies in a known place; else `ml-latest-small`, fetched if need be."""

    source: Literal["movielens"] = "movielens"
    path: UserPath | None = Field(
        None, description="a MovieLens folder or zip; left out: ml-latest-small, fetched if need be"
    )
    release: Literal["ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m"] | None = Field(
        None, description="another one than ml-latest-small, looked for in the known places"
    )
    min_rating: float = Field(0.0, ge=0, le=5, description="lower ratings are no interactions")
    item_text: Annotated[str, template_of("title", "genres", "year")] | None = Field(
        None, description="template of an item's text, of title, genres, year; null: the title with its year"
    )

    @cross_rule
    def _is_in_one_place(self) -> None:
        if self.path is not None and self.release is not None:
            raise ValueError("release must be left out with path, which says what to read")


class InteractionColumns(StrictModel):
    """What the columns of the table of interactions are called."""

    user_id: str = Field("user_id", min_length=1)
    item_id: str = Field("item_id", min_length=1)
    timestamp: str = Field("timestamp", min_length=1)
    rating: str = Field("rating", min_length=1)


class ItemColumns(StrictModel):
    """What the columns of the table of items are called."""

    item_id: str = Field("item_id", min_length=1)
    text: str = Field("text", min_length=1)


class ImageSource(StrictModel):
    """What is done with images of items."""

    missing: Literal["error", "text"] = Field(
        "error", description="an item whose image is missing or does not open: a fault, or read as text, and counted"
    )
    fetch: bool = Field(False, description="get images from http and https addresses, once, into the cache folder")
    caption_model: str | None = Field(
        None,
        min_length=1,
        description="for image_mode: caption; a Hub id or folder of a model that describes images in words",
    )


class ItemImageSource(ImageSource):
    """Where images of items are: paths, or addresses, in a column of the table of items."""

    column: str = Field("image_path", min_length=1, description="of the items; paths are from the table's folder")


def _check_captions(images: ImageSource | None, item_text: str | None, *, is_column: bool) -> None:
    """Captions stand beside a text, and where nothing makes them their field must be one of the items' own.

    Raises:
        ValueError: with the rule that is broken.
    """
    named = set(ItemTemplate.parse(item_text).fields) if item_text else set()
    captioned = images is not None and images.caption_model is not None
    if captioned and named == {CAPTION}:
        raise ValueError("item_text must hold another field than {caption}, for items and trials without one")
    if CAPTION in named and not captioned and not is_column:
        raise ValueError("item_text must not hold {caption} without images.caption_model, which makes captions")


class TablesData(_DataBase):
    """Your own tables, CSV or Parquet: interactions (user_id, item_id, timestamp) and items (item_id, text)."""

    source: Literal["tables"] = "tables"
    interactions: UserPath = Field(description="CSV or Parquet with user_id, item_id, timestamp and perhaps rating")
    items: UserPath = Field(description="CSV or Parquet with item_id and text")
    min_rating: float | None = Field(None, description="lower ratings are no interactions; null: all are")
    interaction_columns: InteractionColumns = Field(InteractionColumns(), description="names that differ from these")
    item_columns: ItemColumns = Field(ItemColumns(), description="names that differ from these")
    item_text: Annotated[str, template_of()] | None = Field(
        None,
        description="template of an item's text, of the items' columns: \"{title} | {brand:3}\"; null: the column `text`",
    )
    images: ItemImageSource | None = Field(None, description="of the items, for image_mode; null: none are looked at")

    @cross_rule
    def _captions_stand_beside_a_text(self) -> None:
        _check_captions(self.images, self.item_text, is_column=True)


class _ImportedData(_DataBase):
    most_malformed: float = Field(
        0.01, ge=0, le=1, description="share of a file's lines that may be malformed, and are left out"
    )


class AmazonData(_ImportedData):
    """Amazon reviews of 2014, 2018 or 2023: a file of reviews or ratings, and one of metadata."""

    source: Literal["amazon"] = "amazon"
    year: Literal[2014, 2018, 2023] = Field(description="of the release that both files are from")
    reviews: UserPath = Field(description="reviews as JSON lines, or ratings as CSV; .gz or unpacked")
    metadata: UserPath = Field(description="the products' metadata as JSON lines; .gz or unpacked")
    min_rating: float = Field(0.0, ge=0, le=5, description="lower ratings are no interactions")
    item_text: Annotated[
        str, template_of("title", "brand", "category", "main_category", "description", "features", "price", CAPTION)
    ] = Field(
        "{title}",
        description="template of an item's text, of title, brand, category, main_category, description, features, price, caption",
    )
    images: ImageSource | None = Field(
        None, description="of the products, by the addresses in the metadata, for image_mode; null: none are looked at"
    )

    @property
    def image_field(self) -> str:
        """Of the metadata, with addresses of images."""
        return {2014: "imUrl", 2018: "imageURLHighRes", 2023: "images"}[self.year]

    @cross_rule
    def _captions_stand_beside_a_text(self) -> None:
        _check_captions(self.images, self.item_text, is_column=False)


class RecBoleData(_ImportedData):
    """Atomic files of RecBole: NAME.inter and NAME.item."""

    source: Literal["recbole"] = "recbole"
    path: UserPath = Field(description="the folder with NAME.inter and NAME.item, or NAME.inter itself")
    user_field: str = Field("user_id", min_length=1, description="of the user, without its type")
    item_field: str = Field("item_id", min_length=1, description="of the item, in both files, without its type")
    time_field: str = Field("timestamp", min_length=1, description="of the time, without its type")
    rating_field: str = Field("rating", min_length=1, description="of the rating, if there is one, without its type")
    min_rating: float | None = Field(None, description="lower ratings are no interactions; null: all are")
    item_text: Annotated[str, template_of()] | None = Field(
        None, description="template of an item's text, of the fields of NAME.item; null: its title or name"
    )


class MindData(_ImportedData):
    """MIND, Microsoft's news: clicks of impressions, and those before them."""

    source: Literal["mind"] = "mind"
    path: UserFolders = Field(
        description="the folder with behaviors.tsv and news.tsv, of the train or dev part; or a list of such folders, read as one log"
    )
    item_text: Annotated[str, template_of("title", "category", "subcategory", "abstract")] = Field(
        "{title}", description="template of an item's text, of title, category, subcategory, abstract"
    )

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, in their order."""
        return (self.path,) if isinstance(self.path, Path) else self.path


class SteamData(_ImportedData):
    """Steam's reviews and games, a Python dictionary a line."""

    source: Literal["steam"] = "steam"
    reviews: UserPath = Field(description="steam_reviews.json.gz, packed or not")
    games: UserPath = Field(description="steam_games.json.gz, packed or not")
    min_hours: float | None = Field(
        None, ge=0, description="games played for fewer hours are no interactions; null: all are"
    )
    item_text: Annotated[str, template_of("title", "genres", "tags", "specs", "developer", "publisher", "price")] = (
        Field(
            "{title}",
            description="template of an item's text, of title, genres, tags, specs, developer, publisher, price",
        )
    )


class YelpData(_ImportedData):
    """Yelp's reviews and businesses, or other JSON lines of the same kind with other names."""

    source: Literal["yelp"] = "yelp"
    reviews: UserPath = Field(description="yelp_academic_dataset_review.json, or JSON lines like it; packed or not")
    businesses: UserPath = Field(
        description="yelp_academic_dataset_business.json, or JSON lines like it; packed or not"
    )
    user_field: str = Field("user_id", min_length=1, description="of the user, in a review")
    item_field: str = Field("business_id", min_length=1, description="of the item, in both files")
    time_field: str = Field("date", min_length=1, description="of the time: a number, or an ISO date")
    rating_field: str = Field("stars", min_length=1, description="of the rating, in a review")
    lowest_rating: float = Field(1.0, description="that a review can have")
    highest_rating: float = Field(5.0, description="that a review can have")
    min_rating: float | None = Field(None, description="lower ratings are no interactions; null: all are")
    item_text: Annotated[str, template_of()] = Field(
        "{name}", description="template of an item's text, of any fields of the businesses"
    )

    @cross_rule
    def _ratings_have_a_range(self) -> None:
        if self.lowest_rating > self.highest_rating:
            raise ValueError("lowest_rating must be at most highest_rating")


DataConfig = Annotated[
    DemoData | MovieLensData | TablesData | AmazonData | RecBoleData | MindData | SteamData | YelpData,
    Field(discriminator="source"),
]


def absolute_paths(data: DataConfig, folder: Path) -> dict[str, Path | tuple[Path, ...]]:
    """The fields that are paths, or several. Relative ones are looked up in `folder`, else in the current folder."""

    def absolute(path: Path) -> Path:
        return (folder / path if os.path.exists(folder / path) else path).absolute()

    found: dict[str, Path | tuple[Path, ...]] = {}
    for name, value in data:
        if isinstance(value, Path):
            found[name] = absolute(value)
        elif isinstance(value, tuple):
            found[name] = tuple(map(absolute, value))
    return found
