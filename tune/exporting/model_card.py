"""An adapter, and the study that it comes from if it lies in one → its model card: what it is, what it can, for what it is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from reranker.command_line.redaction import encodable
from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_names import MODELS
from results.statistics.comparison import Comparison, compare
from results.statistics.verdict_text import findings, verdict
from results.study.study_folder import StudyFolder

_KNOBS = (
    "model", "epochs", "learning_rate", "lora_rank", "candidates", "history_length", "scoring", "label_style", "prompt_order", "objective",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from.

    Attributes:
        study: whose it is; None: it lies in no study's folder.
        trial: that it is of, or that the refit repeats.
        is_refit: whether it was trained on validation items as well, so that no figure is its own.
    """

    study: StudyFolder | None
    trial: int | None = None
    is_refit: bool = False

    @staticmethod
    def of(adapter: Path) -> Origin:
        """By where the adapter's folder lies: `STUDY/trials/NUMBER/adapter` or `STUDY/refit/adapter`."""
        place = adapter.resolve()
        if place.parent.name == "refit" and _is_study(place.parents[1]):
            recipe = json.loads((place.parent / "recipe.json").read_text(encoding="utf-8"))
            return Origin(StudyFolder(place.parents[1]), int(recipe["trial"]), is_refit=True)
        if len(place.parents) > 2 and place.parents[1].name == "trials" and _is_study(place.parents[2]):
            return Origin(StudyFolder(place.parents[2]), int(place.parent.name))
        return Origin(None)


def _is_study(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def model_card(config: TrialConfig, origin: Origin, form: str, *, licence: str, adds_counts: bool) -> str:
    """The card as Markdown, with the fields that the Hub reads at its head.

    Args:
        form: merged, lora or gguf.
        licence: as the Hub calls it; empty: that of the base, where it is known.
        adds_counts: whether collaborative scores lie beside it.
    """
    entry = MODELS.get(config.model)
    base = (entry.hub if entry is not None else None) or config.model
    base_licence = "apache-2.0" if entry is not None and entry.note.startswith("Apache-2.0") else "other"
    head = {
        "base_model": base,
        "library_name": {"lora": "peft", "merged": "transformers", "gguf": "gguf"}[form],
        "license": licence or base_licence,
        "pipeline_tag": "text-ranking",
    }
    fields = [
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
        "tags: [reranking, recommendation, lora]",
    ]
    lines = ["---", *fields, "---", "", *_body(config, origin, base, form, adds_counts=adds_counts), ""]
    return encodable("\n".join(lines))


def _body(config: TrialConfig, origin: Origin, base: str, form: str, *, adds_counts: bool) -> list[str]:
    what = {
        "lora": "A LoRA adapter for",
        "merged": "A model merged from a LoRA adapter and",
        "gguf": "A GGUF file of a LoRA adapter merged into",
    }
    lines = [
        f"# Reranker on {base}",
        "",
        (
            f"{what[form]} `{base}`. It was trained to order lists of {config.candidates} candidate items by how probable each is to come next after a "
            f"user's history: {_question(config)}."
        ),
        "",
        "## What it can",
        "",
        *_figures(origin),
        "",
        "## What it is not for",
        "",
        "- It knows the items and the tastes of the data that it was trained on; on others it has not been measured.",
        (
            "- What was popular in that data may stand first more often than users would choose it; fairness to users or makers of "
            "items was not measured."
        ),
        "- It ranks what it is given. It writes no text, and its answers are not facts.",
    ]
    if adds_counts:
        lines.append(
            "- `collaborative.npz` holds how often items were taken, and together. Without it the ranking is that of the model alone, "
            "which was not what was measured. Look whether counts of your users may be given away."
        )
    lines += ["", "## How it is asked", "", *_use(config, form, adds_counts=adds_counts)]
    knobs = config.model_dump(mode="json")
    shown = [knob for knob in _KNOBS if config.scoring == "listwise" or knob not in ("label_style", "prompt_order")]
    lines += [
        "",
        "## How it was trained",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {knob} | {_cell(knobs[knob])} |" for knob in shown),
    ]
    return lines


def _cell(value: object) -> str:
    """A knob's value in a table; a model may be a folder, whose name may hold what ends a cell."""
    return str(value).replace("|", "\\|")


def _figures(origin: Origin) -> list[str]:
    study = origin.study
    if study is None:
        return ["It lies in no study's folder, so nothing is known of its figures."]
    manifest = study.read_manifest()
    lines = [f"Study `{study.name}`, trial {origin.trial}, data {manifest['tags']['data_fingerprint']}."]
    if origin.is_refit:
        lines.append("It is a refit: the trial's recipe on training and validation items. The figures are the trial's.")
    comparison: Comparison | None = compare(study)
    if comparison is None or comparison.winner.number != origin.trial:
        return [*lines, "", "It is not the study's best trial; what is proven there is of another."]
    return [*lines, "", verdict(study), "", *(f"- {sentence.strip()}" for sentence in findings(comparison))]


def _question(config: TrialConfig) -> str:
    if config.scoring == "pointwise":
        return "each is asked about in a prompt of its own, behind the history, and the log-odds of yes are its score"
    return "both are titles in a prompt, and the logits of the candidates' labels are the scores"


def _use(config: TrialConfig, form: str, *, adds_counts: bool) -> list[str]:
    if form == "lora":
        return [
            "```sh",
            "reranker-tuner rank --adapter FOLDER --history TITLE TITLE --candidates TITLE TITLE TITLE",
            "```",
        ]
    besides = ", to which the scores of `collaborative.npz` are added" if adds_counts else ""
    scores, module = "the log-probabilities of the labels as the next token", "prompts"
    if config.scoring == "pointwise":
        scores, module = "log p(yes) − log p(no) as the next token of each candidate's prompt", "pointwise_prompts"
    return [
        (
            f"The prompt is that of `reranker.json`; the scores are {scores}{besides}. `reranker.prompting.{module}` of "
            "reranker-tuner makes the prompt."
        ),
    ]
