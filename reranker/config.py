"""Every knob of a training: `TrialConfig`. Frozen and strict: an unknown name, a wrong type or a value out of range is
an error, never a default. What it is trained on is in `reranker.data_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from reranker.errors import Fault, InputError, nearest
from reranker.storage.pydantic_faults import meant_by, names_at, rule_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MOST_CANDIDATES = 10_000
ImageMode = Literal["text", "caption", "raw_image"]
LabelStyle = Literal["letters", "numbers", "mixed", "id_tokens"]
METHODS = {"qwen3vl": "qwen3vl-2b"}  # and the model that each stands for, see `model_of_method`
Retriever = Literal["popularity", "markov", "item_knn", "ease", "bm25", "dense"]
Baseline = Literal[
    "popularity", "markov", "item_knn", "ease", "collaborative", "bm25", "dense", "pointwise", "sasrec", "gru4rec"
]


Rule = TypeVar("Rule", bound=Callable[[Any], None])


def cross_rule(check: Rule) -> Rule:
    """A method of a StrictModel that raises ValueError if fields do not go together. All that are broken are told at once."""
    check.is_cross_rule = True  # type: ignore[attr-defined]
    return check


@cache
def _cross_rules(model: type[BaseModel]) -> tuple[Callable[[Any], None], ...]:
    """Those of its bases first, each in the order in which they are written."""
    members = (member for kind in reversed(model.__mro__) for member in vars(kind).values())
    return tuple(member for member in members if getattr(member, "is_cross_rule", False))


class StrictModel(BaseModel):
    """A frozen model without unknown fields, coercion, infinity or NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _keeps_cross_rules(self) -> Self:
        broken = []
        for check in _cross_rules(type(self)):
            try:
                check(self)
            except ValueError as error:
                broken.append(PydanticCustomError("value_error", "Value error, {rule}", {"rule": str(error)}))
        if broken:
            details = [InitErrorDetails(type=rule, input={}) for rule in broken]
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self


def auto_or_int(low: int, high: int) -> BeforeValidator:
    """For a field that is "auto" or a number: one fault instead of one per type."""

    def check(value: object) -> object:
        if value != "auto" and not (type(value) is int and low <= value <= high):
            raise ValueError(f"must be auto or a whole number from {low} to {high:,}")
        return value

    return BeforeValidator(check)


def _auto_or_bool(value: object) -> object:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError("must be auto, true or false")
    return value


class NegativesMix(StrictModel):
    """Shares of the ways to draw training negatives; they must sum to 1."""

    uniform: float = Field(1.0, ge=0, le=1)
    popularity: float = Field(0.0, ge=0, le=1)
    retriever: float = Field(0.0, ge=0, le=1, description="hard ones: of the best 100 of the data's `retriever`")

    @cross_rule
    def _shares_sum_to_one(self) -> None:
        if abs(self.uniform + self.popularity + self.retriever - 1) > 1e-9:
            raise ValueError("the shares of the negatives must sum to 1")


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
    shard_base: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        "auto",
        description="a trial's workers divide the base's layers among them, each holding a part; slower; auto: where no "
        "single GPU holds it",
    )
    compile_layers: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        "auto",
        description="torch.compile for all of the base's layers but the last, in training; auto: on a GPU, where a "
        "measurement at the start shows that it pays",
    )
    # The question
    candidates: int = Field(20, ge=2, le=MOST_CANDIDATES, description="items in a list, the target among them")
    negatives: NegativesMix = Field(NegativesMix(), description="how training negatives are drawn")
    scoring: Literal["listwise", "pointwise"] = Field(
        "listwise",
        description="listwise: all candidates in one prompt, scored by the logits of their labels; pointwise: a prompt for "
        "each, answered yes or no, scored by the log-odds of yes",
    )
    label_style: LabelStyle = Field(
        "letters",
        description="A…Z a…z; 1, 2, 3 …; mixed: letters, then numbers; id_tokens: pairs of letters that are one token",
    )
    label_position: Literal["before", "after"] = Field("after", description="where the label stands, by its title")
    prompt_order: Literal["history_first", "candidates_first"] = Field(
        "candidates_first", description="which part of the question stands first"
    )
    image_mode: ImageMode = Field(
        "text",
        description="what is read of an item: its text, a caption of its image beside it, or the image itself before it",
    )
    max_image_pixels: int = Field(
        16_384, ge=1024, le=16_777_216, description="of an image that is read itself; larger ones are shrunk to that"
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
    history_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a history that is left out at random in training, another one each epoch"
    )
    first_candidates: int | None = Field(
        None,
        ge=2,
        le=MOST_CANDIDATES,
        description="items in the training lists of the first epoch; more each epoch, the last has `candidates`; "
        "null: all have",
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
    positives: int = Field(
        1,
        ge=1,
        le=100,
        description="items of a training list that are right: the target, and what the user touched next",
    )
    positive_grades: Literal["order", "rating"] = Field(
        "order",
        description="what each of several positives is worth: half of the one before; or 1/16 to 1 by the user's rating",
    )
    objective: Literal["label_ce", "token_ce", "ranknet", "lambdaloss", "binary_ce"] = Field(
        "label_ce",
        description="softmax over the list's candidates; or over the whole vocabulary, as in plain SFT; or the true item "
        "against each other one: all alike, or weighted by what it is worth in NDCG; or, pointwise, yes or no to each",
    )
    teacher: Literal["none", "collaborative", "item_knn", "ease", "file"] = Field(
        "none",
        description="whose scores of a list's candidates are trained on beside the true item; file: data.teacher_scores",
    )
    teacher_weight: float = Field(0.5, gt=0, le=1, description="of the teacher's part of the loss; 1: nothing else")
    teacher_temperature: float = Field(
        1.0, ge=0.1, le=10, description="of the teacher's probabilities; 1: as sure as its scores are right"
    )
    dpo_epochs: int = Field(
        0,
        ge=0,
        le=10_000,
        description="the last epochs, in which softmax-DPO against the model as it was before them replaces the objective",
    )
    dpo_beta: float = Field(1.0, ge=0.01, le=100, description="of softmax-DPO: how much a gain over that model counts")
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
    gradient_checkpointing: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        "auto", description="less memory for a third more time; auto: where the memory holds too small a pass otherwise"
    )
    # The adapter
    lora_rank: int = Field(16, ge=1, le=1024, description="of the adapter's matrices")
    lora_alpha: int = Field(32, ge=1, le=1_000_000, description="scale × rank; left out: twice the rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input, in training")
    lora_targets: Literal["all_linear", "attention", "qv"] = Field(
        "all_linear", description="layers that get an adapter: all linear ones, q k v o, or q and v"
    )
    vision_lora: bool = Field(
        False, description="the layers that make embeddings of images get an adapter too, with image_mode: raw_image"
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
        description="counts: what users did next and together is added to the model's scores; auto: not for the demo",
    )
    model_weight: float = Field(
        1.0, gt=0, le=1, description="of the model's scores beside the collaborative ones, in training and in use"
    )
    permutations: int = Field(1, ge=1, le=20, description="candidate orders averaged at inference")
    label_prior: Literal["keep", "divide"] = Field(
        "keep", description="what the model prefers of the labels themselves: kept, or divided out of its answers"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the adapter, the negatives and the orders")

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_rank(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("lora_alpha") is None:
            rank = data.get("lora_rank", cls.model_fields["lora_rank"].default)
            if isinstance(rank, int) and rank >= 1:
                return {**data, "lora_alpha": 2 * rank}
        return data

    @model_validator(mode="before")
    @classmethod
    def _method_names_a_model(cls, data: Any) -> Any:
        return model_of_method(data) if isinstance(data, dict) else data

    @cross_rule
    def _lora_variants_go_together(self) -> None:
        if self.dora and self.lora_init != "zero":
            raise ValueError("dora must be left out with lora_init: pissa or olora")
        if self.quantisation != "none" and (self.dora or self.lora_init != "zero"):
            raise ValueError("dora and lora_init must be left out with quantisation: they need the base's own weights")
        if self.shard_base is True and (self.dora or self.quantisation != "none"):
            raise ValueError(
                "shard_base must be auto or false with dora or quantisation: both need a layer's whole weights"
            )
        if self.compile_layers is True and not self.may_compile:
            rule = "quantisation or shard_base: true; it was never tried with them"
            if self.gradient_checkpointing is True:
                rule = "gradient_checkpointing: true, which runs layers as they are"
            raise ValueError(f"compile_layers must be auto or false with {rule}")
        if self.dora and self.lora_targets != "all_linear":
            raise ValueError("dora must be left out unless lora_targets is all_linear")

    @cross_rule
    def _what_reads_images_goes_together(self) -> None:
        if self.vision_lora and self.image_mode != "raw_image":
            raise ValueError("vision_lora must be left out unless image_mode is raw_image, which alone reads images")
        if self.image_mode == "raw_image" and self.quantisation != "none":
            raise ValueError("quantisation must be none with image_mode: raw_image; it was never tried with images")

    @cross_rule
    def _only_lists_have_labels(self) -> None:
        if self.scoring == "listwise":
            if self.objective == "binary_ce":
                raise ValueError("objective: binary_ce needs scoring: pointwise, where each answer is yes or no")
            return
        if self.objective == "token_ce":
            raise ValueError("objective must not be token_ce with scoring: pointwise: binary_ce trains yes and no")
        if self.list_sharing not in ("auto", 1):
            raise ValueError("list_sharing must be auto or 1 with scoring: pointwise, where no candidates are listed")
        if self.skill_steps not in ("auto", 0) or self.skill_mix:
            raise ValueError("skill_steps and skill_mix must be left out with scoring: pointwise, which has no labels")
        if self.permutations > 1:
            raise ValueError("permutations must be 1 with scoring: pointwise, where candidates have no order")
        if self.label_prior != "keep":
            raise ValueError("label_prior must be keep with scoring: pointwise, which has no labels")
        if self.objective == "binary_ce" and self.positive_grades != "order":
            raise ValueError(
                "positive_grades must be order with objective: binary_ce, to which all right items are alike"
            )

    @cross_rule
    def _a_teacher_compares_labels(self) -> None:
        if self.teacher != "none" and self.objective == "token_ce":
            raise ValueError("teacher must be none with objective: token_ce, which does not compare candidates")
        if self.teacher == "collaborative" and self.collaborative_scores == "counts":
            raise ValueError(
                "teacher must not be collaborative with collaborative_scores: counts, which the model is added to anyway"
            )

    @cross_rule
    def _a_second_stage_comes_after_a_first(self) -> None:
        if not self.dpo_epochs:
            return
        if self.dpo_epochs >= self.epochs:
            raise ValueError("dpo_epochs must be less than `epochs`: what is trained before is what it starts from")
        if self.objective == "token_ce":
            raise ValueError("dpo_epochs must be 0 with objective: token_ce, which does not compare candidates")
        if self.teacher != "none":
            raise ValueError("dpo_epochs must be 0 with a teacher, of which the second stage knows nothing")

    @cross_rule
    def _several_positives_leave_room(self) -> None:
        if self.positives == 1:
            if self.positive_grades != "order":
                raise ValueError(
                    "positive_grades must be order unless positives is more than 1: one has nothing beside it"
                )
            return
        if self.objective == "token_ce" or self.dpo_epochs:
            raise ValueError("positives must be 1 with objective: token_ce or dpo_epochs, which know one right answer")
        if self.positives >= self.least_candidates:
            raise ValueError("positives must be less than `candidates` (and `first_candidates`)")
        if self.list_sharing != "auto" and self.list_sharing * self.positives > self.least_candidates:
            raise ValueError(
                "list_sharing times positives must be at most `candidates` (and `first_candidates`): all stand in the list"
            )

    @cross_rule
    def _each_candidate_has_a_letter(self) -> None:
        if self.scoring == "listwise" and self.label_style == "letters" and self.candidates > len(LETTERS):
            raise ValueError(
                f"candidates must be at most {len(LETTERS)} with label_style: letters; numbers, mixed and id_tokens have "
                "more labels"
            )

    @cross_rule
    def _a_list_can_be_shared(self) -> None:
        if self.first_candidates is not None and self.first_candidates > self.candidates:
            raise ValueError("first_candidates must be at most `candidates`")
        if self.list_sharing == "auto" or self.list_sharing == 1:
            return
        if self.prompt_order == "history_first":
            raise ValueError(
                "list_sharing must be auto or 1 with prompt_order: history_first, where no list comes first"
            )
        if self.list_sharing > self.candidates:
            raise ValueError("list_sharing must be at most `candidates`: each example's target stands in the list")
        if self.list_sharing > self.least_candidates:
            raise ValueError(
                "list_sharing must be at most `first_candidates`: each example's target stands in the list"
            )

    @property
    def may_compile(self) -> bool:
        """Whether nothing rules `compile_layers` out."""
        return self.quantisation == "none" and self.shard_base is not True and self.gradient_checkpointing is not True

    @property
    def least_candidates(self) -> int:
        """Items in the shortest training lists."""
        return self.candidates_in(0)

    def candidates_in(self, epoch: int) -> int:
        """Items in the training lists of an epoch, counted from 0: from `first_candidates` on equally more each epoch."""
        if self.first_candidates is None or epoch >= self.epochs - 1:
            return self.candidates
        return self.first_candidates + (self.candidates - self.first_candidates) * epoch // (self.epochs - 1)


def model_of_method(values: Mapping[str, Any], searched: Iterable[str] = ()) -> dict[str, Any]:
    """Knobs without `method`, as other programs call what a model is: it stands for a model, unless another is named.

    Args:
        searched: knobs that are searched.

    Raises:
        ValueError: there is no such method; the message is the rule.
    """
    knobs = {name: value for name, value in values.items() if name != "method"}
    if "method" not in values:
        return knobs
    method = values["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS)} or left out: `model` says what other models are")
    return knobs if "model" in {*knobs, *searched} else {"model": METHODS[method], **knobs}


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
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            hint = nearest(str(item["loc"][-1]), model.model_fields)
            faults.append(Fault("there is no such knob", file, line, field, hint=hint))
        elif item["type"] == "extra_forbidden":
            hint = nearest(str(item["loc"][-1]), names_at(model, item["loc"][:-1]))
            faults.append(Fault(rule_of(item), file, line, field, hint=hint))
        else:
            value = None if item["type"] == "missing" or isinstance(item["input"], dict) else item["input"]
            faults.append(Fault(rule_of(item), file, line, field, value, meant_by(item)))
    return faults
