"""Whether training and scoring show the model the same prompts, whole."""

from __future__ import annotations

from results.diagnosis.checks.measures import (
    AT_GUESSING,
    BELOW_GUESSING,
    HARDLY,
    LEANING,
    first_epoch,
    leaning,
    much_easier,
    new_examples,
    other_lists,
    other_loss,
    preferred_label,
)
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def template_mismatch(e: DiagnosisInputs) -> Finding | None:
    """What is scored never came along with what was trained, from the first epochs on, when nothing is known by heart yet."""
    first = first_epoch(e)
    if first is None or other_lists(e):
        return None
    if much_easier(e, first):  # both are losses on new examples
        seen = new_examples(first)
    else:
        early = [epoch for epoch in e.winner.epochs[:3] if much_easier(e, epoch)]
        if not early or not e.at_chance or early[0]["train_loss"] > e.guessing - BELOW_GUESSING:
            return None
        seen = (
            f"in epoch {early[0]['epoch']} the training loss fell to {early[0]['train_loss']:.2f} nats, below that of guessing "
            f"({e.guessing:.2f}), while the validation loss was {early[0]['val_loss']:.2f} and the ranking that of guessing"
        )
    mass = e.losses("label_mass")
    if mass and mass[-1] < 0.5:
        seen += f"; there the list's labels have {mass[-1]:.0%} of the probability together"
    return Finding(
        "template mismatch", seen,
        "what is scored is not what was trained: another template, other labels, or another kind of lists",
        "print a training prompt and a validation prompt of one user, in tokens, and compare them",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def easier_lists(e: DiagnosisInputs) -> Finding | None:
    first, others = first_epoch(e), other_lists(e)
    if first is None or not others or not much_easier(e, first):
        return None
    return Finding(
        "training lists are easier", f"{new_examples(first)}; {others}",
        "the model learns to leave out candidates that it is never asked about",
        "draw training negatives as hard as those of the scored lists (`negatives`)", Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def labels_are_improbable(e: DiagnosisInputs) -> Finding | None:
    """Only where the objective is to name the label among all tokens; `label_ce` compares the labels alone."""
    mass = e.best.get("label_mass")
    if mass is None or mass >= 0.5 or e.winner.values.get("objective") != "token_ce":
        return None
    return Finding(
        "labels are improbable", f"the list's labels have {mass:.0%} of the probability together, among all tokens",
        "the model would mostly say something that is no label: it was trained on other prompts than it is scored on, or "
        "hardly at all", "compare a training prompt with a validation prompt, in tokens, up to the label; or train longer",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def label_prior(e: DiagnosisInputs) -> Finding | None:
    if e.picks is None or e.data.get("candidate_order") == "retriever":  # there the place does tell about the target
        return None
    if e.one_answer and e.list_dependence < HARDLY:  # nothing but a label is left: no leaning, but a model out of order
        return None
    moved, p = leaning(e.picks, e.candidates)
    if moved < LEANING or p > 0.001:
        return None
    label, first, right = preferred_label(e, e.picks)
    strong, losses = moved >= 2 * LEANING, e.losses("val_loss" if other_loss(e.winner) else "train_loss")
    empty = e.at_chance and bool(losses) and min(losses) > e.guessing - AT_GUESSING
    return Finding(
        "label prior", f"label {label} stands first in {first:.0%} of the lists and is right in {right:.0%}; for no "
        f"label to be preferred, {moved:.0%} of the lists would need another first place (p ≤ 0.001)",
        "a part of the answer comes from the label, or its place, whatever candidate stands there"
        + ("; a model that has learned nothing yet prefers some label too" if empty else ""),
        "keep shuffle_candidates on, and see that training targets are spread over all labels; `permutations: 4` averages "
        "the preference away, at four times the cost of an answer",
        Confidence.POSSIBLE if empty else Confidence.SURE if strong else Confidence.LIKELY,
        Grade.CAUSE if strong else Grade.LIMIT,
    )  # fmt: skip


def history_is_cut(e: DiagnosisInputs) -> Finding | None:
    due, dropped = (e.best.get(f"applied/history_{name}", 0) for name in ("due", "dropped"))
    cut, examples = e.best.get("applied/cut_prompts", 0), e.best.get("applied/examples", 0)
    if not examples or cut < 0.1 * examples:
        return None
    seen = f"{cut / examples:.0%} of the training prompts lost history or parts of titles to fit"
    if limit := e.winner.values.get("max_prompt_tokens"):
        seen += f" max_prompt_tokens = {limit}"
    if due:
        seen += f"; of {due / examples:.1f} items of history {(due - dropped) / examples:.1f} are left, on average"
    return Finding(
        "history is cut", seen, "the model is asked about less than was configured",
        "raise max_prompt_tokens; or lower max_title_tokens or candidates, which leaves more room for the history",
        Confidence.SURE, Grade.CAUSE if due and dropped >= 0.5 * due else Grade.LIMIT,
    )  # fmt: skip
