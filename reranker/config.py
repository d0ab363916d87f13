"""Every knob of a run: `TrialConfig` (what one training does) and `DataConfig` (what it is trained on).

Both are frozen and strict: an unknown name, a wrong type or a value out of range is an error, never a default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reranker.errors import Fault, InputError, nearest
from reranker.item_text import check_fields
from reranker.storage.user_paths import user_path

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MOST_CANDIDATES = 10_000
LabelStyle = Literal["letters", "numbers", "mixed", "id_tokens"]
Retriever = Literal["popularity", "markov", "item_knn", "ease"]

UserPath = Annotated[
    Path, Field(strict=False), BeforeValidator(lambda text: user_path(text) if isinstance(text, str | Path) else text)
]


class StrictModel(BaseModel):
    """A frozen model without unknown fields, coercion, infinity or NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def auto_or_int(low: int, high: int) -> BeforeValidator:
    """For a field that is "auto" or a number: one fault instead of one per type."""

    def check(value: object) -> object:
        if value != "auto" and not (type(value) is int and low <= value <= high):
            raise ValueError(f"must be auto or a whole number from {low} to {high:,}")
        return value

    return BeforeValidator(check)


def template_of(*fields: str) -> AfterValidator:
    """For a template of items' texts that may name these fields only; none given: any."""
    return AfterValidator(lambda text: check_fields(text, fields))


class NegativesMix(StrictModel):
    """Shares of the ways to draw training negatives; they must sum to 1."""

    uniform: float = Field(1.0, ge=0, le=1)
    popularity: float = Field(0.0, ge=0, le=1)
    retriever: float = Field(0.0, ge=0, le=1, description="hard ones: of the best 100 of the data's `retriever`")

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> NegativesMix:
        if abs(self.uniform + self.popularity + self.retriever - 1) > 1e-9:
            raise ValueError("the shares of the negatives must sum to 1")
        return self


class TrialConfig(StrictModel):
    """One configuration. A field is called a knob; the search draws some of them, the rest stay as given here."""

    # The model
    model: str = Field("qwen3-0.6b", min_length=1, description="a name, a Hub id, a folder or a .gguf file")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the frozen base; auto: bf16 where the device is faster with it"
    )
    quantisation: Literal["none", "nf4"] = Field(
        "none", description="of the frozen base: nf4 holds its layers in 4 bits, and computes in `precision` (QLoRA)"
    )
    # The question
    candidates: int = Field(20, ge=2, le=MOST_CANDIDATES, description="items in a list, the target among them")
    negatives: NegativesMix = Field(NegativesMix(), description="how training negatives are drawn")
    label_style: LabelStyle = Field(
        "letters",
        description="A…Z a…z; 1, 2, 3 …; mixed: letters, then numbers; id_tokens: pairs of letters that are one token",
    )
    label_position: Literal["before", "after"] = Field("after", description="where the label stands, by its title")
    prompt_order: Literal["history_first", "candidates_first"] = Field(
        "candidates_first", description="which part of the question stands first"
    )
    history_length: int = Field(5, ge=1, le=100_000, description="most recent items shown")
    max_title_tokens: int = Field(16, ge=1, le=100_000, description="longer titles are cut")
    max_prompt_tokens: int = Field(
        1024, ge=16, le=1_000_000, description="older history is dropped, then titles cut, to fit"
    )
    # The training data
    examples_per_user: int | None = Field(
        3, ge=1, le=1_000_000, description="of an epoch; each epoch takes the next older ones; null: all"
    )
    shuffle_candidates: bool = Field(True, description="a new order each epoch; false: one order per example")
    list_sharing: Annotated[Literal["auto"] | int, auto_or_int(1, MOST_CANDIDATES)] = Field(
        "auto", description="examples behind one list, with candidates_first: the list is computed once for all of them"
    )
    list_correction: float = Field(
        1.0, ge=0, le=1, description="of shared lists for what stands in them as others' targets; 0: none, 1: in full"
    )
    skill_steps: Annotated[Literal["auto"] | int, auto_or_int(0, 10_000)] = Field(
        "auto",
        description="of teaching the base to find a candidate by its title, before the training; auto: until it can",
    )
    skill_mix: float = Field(0.0, ge=0, le=0.5, description="share of such questions that stay among the training's")
    # The optimisation
    objective: Literal["label_ce", "token_ce"] = Field(
        "label_ce", description="softmax over the list's labels, or over the whole vocabulary as in plain SFT"
    )
    epochs: int = Field(3, ge=1, le=10_000, description="rounds of `examples_per_user` examples of each user")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="peak, of AdamW")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="after the warm-up")
    warmup_epochs: float = Field(0.1, ge=0, le=10_000, description="linear warm-up, in epochs, whatever the horizon is")
    weight_decay: float = Field(0.0, ge=0, le=1, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="larger gradients are scaled down to this norm")
    effective_batch: int = Field(32, ge=1, le=65_536, description="examples per optimiser step, over all workers")
    micro_batch: int | None = Field(
        None, ge=1, le=65_536, description="most examples per forward pass and worker; null: automatic"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time")
    # The adapter
    lora_rank: int = Field(16, ge=1, le=1024, description="of the adapter's matrices")
    lora_alpha: int = Field(32, ge=1, le=1_000_000, description="scale × rank; left out: twice the rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input, in training")
    lora_targets: Literal["all_linear", "attention", "qv"] = Field(
        "all_linear", description="layers that get an adapter: all linear ones, q k v o, or q and v"
    )
    lora_init: Literal["zero", "pissa", "olora"] = Field(
        "zero", description="where A and B start: B at zero, or both at the base's main directions (SVD, or QR)"
    )
    lora_plus_ratio: float = Field(1.0, ge=1, le=1000, description="LoRA+: the learning rate of B over that of A")
    rslora: bool = Field(False, description="rank-stabilised: the adapter's scale is alpha / √rank, not alpha / rank")
    dora: bool = Field(
        False, description="DoRA: the length of each weight's row is trained apart from its direction; slower"
    )
    # The answer
    collaborative_scores: Literal["auto", "none", "counts"] = Field(
        "auto",
        description="counts: what users did next and together is added to the labels' logits; auto: not for the demo",
    )
    model_weight: float = Field(
        1.0, gt=0, le=1, description="of the model's logits beside the collaborative scores, in training and in use"
    )
    permutations: int = Field(1, ge=1, le=20, description="candidate orders averaged at inference")
    seed: int = Field(0, ge=0, lt=2**31, description="of the adapter, the negatives and the orders")

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_rank(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("lora_alpha") is None:
            rank = data.get("lora_rank", cls.model_fields["lora_rank"].default)
            if isinstance(rank, int) and rank >= 1:
                return {**data, "lora_alpha": 2 * rank}
        return data

    @model_validator(mode="after")
    def _lora_variants_go_together(self) -> TrialConfig:
        if self.dora and self.lora_init != "zero":
            raise ValueError("dora must be left out with lora_init: pissa or olora")
        if self.quantisation != "none" and (self.dora or self.lora_init != "zero"):
            raise ValueError("dora and lora_init must be left out with quantisation: they need the base's own weights")
        if self.dora and self.lora_targets != "all_linear":
            raise ValueError("dora must be left out unless lora_targets is all_linear")
        return self

    @model_validator(mode="after")
    def _each_candidate_has_a_letter(self) -> TrialConfig:
        if self.label_style == "letters" and self.candidates > len(LETTERS):
            raise ValueError(
                f"candidates must be at most {len(LETTERS)} with label_style: letters; numbers, mixed and id_tokens have "
                "more labels"
            )
        return self

    @model_validator(mode="after")
    def _a_list_can_be_shared(self) -> TrialConfig:
        if self.list_sharing == "auto" or self.list_sharing == 1:
            return self
        if self.prompt_order == "history_first":
            raise ValueError(
                "list_sharing must be auto or 1 with prompt_order: history_first, where no list comes first"
            )
        if self.list_sharing > self.candidates:
            raise ValueError("list_sharing must be at most `candidates`: each example's target stands in the list")
        return self


class _DataBase(StrictModel):
    min_user: int = Field(5, ge=3, description="users with fewer interactions are dropped (3: train, validation, test)")
    min_item: int = Field(5, ge=1, description="items with fewer interactions are dropped")
    seed: int = Field(0, ge=0, lt=2**31, description="of tied timestamps and of the evaluation lists")
    candidate_mode: Literal["ground_truth", "retrieval"] = Field(
        "ground_truth", description="validation and test lists: the target among negatives, or what a retriever fetches"
    )
    retriever: Retriever = Field(
        "item_knn", description="the first stage: of retrieved lists, and of hard negatives for training"
    )
    candidate_order: Literal["shuffled", "retriever"] = Field(
        "shuffled", description="how retrieved lists stand in prompts: by seed, or as the retriever ranks them"
    )
    evaluation_negatives: Literal["uniform", "popularity"] = Field(
        "uniform", description="how the negatives of validation and test lists are drawn; the same for all trials"
    )
    evaluation_users: int | None = Field(None, ge=1, description="score a seeded sample of users; null: all")
    training_users: int | None = Field(None, ge=1, description="train on a seeded sample of users; null: all")

    @model_validator(mode="after")
    def _mode_has_what_is_set(self) -> _DataBase:
        if self.candidate_mode == "retrieval" and self.evaluation_negatives != "uniform":
            raise ValueError("evaluation_negatives must be left out with candidate_mode: retrieval, which has none")
        if self.candidate_mode == "ground_truth" and self.candidate_order != "shuffled":
            raise ValueError(
                "candidate_order must be left out without candidate_mode: retrieval: only its lists have one"
            )
        return self


class DemoData(_DataBase):
    """A generated catalogue whose sequences follow a known rule, so that the best reachable score is known."""

    source: Literal["demo"] = "demo"
    min_item: int = Field(1, ge=1, description="items with fewer interactions are dropped")
    users: int = Field(2000, ge=10, le=100_000, description="how many are generated")
    interactions_per_user: int = Field(8, ge=4, description="length of each generated sequence")

    @model_validator(mode="after")
    def _is_made_in_seconds(self) -> DemoData:
        if self.users * self.interactions_per_user > 1_000_000:
            raise ValueError("users × interactions_per_user must be at most 1,000,000")
        return self


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

    @model_validator(mode="after")
    def _is_in_one_place(self) -> MovieLensData:
        if self.path is not None and self.release is not None:
            raise ValueError("release must be left out with path, which says what to read")
        return self


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
        str, template_of("title", "brand", "category", "main_category", "description", "features", "price")
    ] = Field(
        "{title}",
        description="template of an item's text, of title, brand, category, main_category, description, features, price",
    )


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
    path: UserPath = Field(description="the folder with behaviors.tsv and news.tsv, of the train or dev part")
    item_text: Annotated[str, template_of("title", "category", "subcategory", "abstract")] = Field(
        "{title}", description="template of an item's text, of title, category, subcategory, abstract"
    )


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

    @model_validator(mode="after")
    def _ratings_have_a_range(self) -> YelpData:
        if self.lowest_rating > self.highest_rating:
            raise ValueError("lowest_rating must be at most highest_rating")
        return self


DataConfig = Annotated[
    DemoData | MovieLensData | TablesData | AmazonData | RecBoleData | MindData | SteamData | YelpData,
    Field(discriminator="source"),
]


def absolute_paths(data: DataConfig, folder: Path) -> dict[str, Path]:
    """The fields that are paths. Relative ones are looked up in `folder`, else in the current folder."""
    return {
        name: (folder / value if os.path.exists(folder / value) else value).absolute()
        for name, value in data
        if isinstance(value, Path)
    }


def build_trial_config(values: dict[str, Any], *, file: str = "", line: int | None = None) -> TrialConfig:
    """Validate the values of all knobs.

    Raises:
        InputError: with one fault for each knob that is unknown or breaks its rule.
    """
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(validation_faults(error, TrialConfig, file=file, line=line)) from None


def validation_faults(
    error: ValidationError, model: type[BaseModel], *, file: str = "", line: int | None = None
) -> list[Fault]:
    """Pydantic's errors as faults: the field, the rule, the value, and the nearest name."""
    faults = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            hint = nearest(str(item["loc"][-1]), model.model_fields) if len(item["loc"]) == 1 else ""
            faults.append(Fault("there is no such knob", file, line, field, hint=hint))
        else:
            rule = "this must be given" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
            value = None if item["type"] == "missing" or isinstance(item["input"], dict) else item["input"]
            faults.append(Fault(rule[0].lower() + rule[1:], file, line, field, value))
    return faults
