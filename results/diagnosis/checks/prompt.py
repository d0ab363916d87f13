"""Checks of the prompts: the same in training and scoring, uncut, without a preferred label."""

from __future__ import annotations

from results.diagnosis.checks.measures import (
    AT_GUESSING,
    BELOW_GUESSING,
    HARDLY,
    LEANING,
    first_epoch,
    gains_by_epoch,
    is_pointwise,
    leaning,
    much_easier,
    new_examples,
    other_lists,
    preferred_label,
)
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def template_mismatch(inputs: DiagnosisInputs) -> Finding | None:
    """From the first epochs on, before the model can overfit, validation does not follow training."""
    first = first_epoch(inputs)
    if first is None or other_lists(inputs):
        return None
    if much_easier(inputs, first):  # in epoch 1 both losses are on new examples
        seen = new_examples(first)
    else:
        easier_epochs = [epoch for epoch in inputs.winner.whole_epochs[:3] if much_easier(inputs, epoch)]
        if not easier_epochs or not inputs.at_chance or inputs.gain_in_training(easier_epochs[0]) < BELOW_GUESSING:
            return None
        seen = (
            f"in epoch {easier_epochs[0]['epoch']:g} the training loss fell to {easier_epochs[0]['train_loss']:.2f} "
            f"nats, below that of {inputs.guess_in_training(easier_epochs[0])}, while the validation loss was "
            f"{easier_epochs[0]['val_loss']:.2f} and the ranking that of guessing"
        )
    masses = inputs.losses("label_mass")
    if masses and masses[-1] < 0.5 and not is_pointwise(inputs):
        seen += f"; there the list's labels have {masses[-1]:.0%} of the probability together"
    return Finding(
        "template mismatch", seen,
        "what is scored is not what was trained: another template, other labels, or another kind of lists",
        "print a training prompt and a validation prompt of one user, in tokens, and compare them",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def easier_lists(inputs: DiagnosisInputs) -> Finding | None:
    """Training lists are easier than the scored ones, by construction and by their loss."""
    first, list_difference = first_epoch(inputs), other_lists(inputs)
    if first is None or not list_difference or not much_easier(inputs, first):
        return None
    return Finding(
        "training lists are easier", f"{new_examples(first)}; {list_difference}",
        "the model learns to leave out candidates that it is never asked about",
        "draw training negatives as hard as those of the scored lists (`negatives`)", Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def labels_are_improbable(inputs: DiagnosisInputs) -> Finding | None:
    """Applies only to `token_ce`, which predicts the label among all tokens; `label_ce` compares labels only."""
    mass = inputs.best.get("label_mass")
    if mass is None or mass >= 0.5 or inputs.winner.values.get("objective") != "token_ce":
        return None
    return Finding(
        "labels are improbable", f"the list's labels have {mass:.0%} of the probability together, among all tokens",
        "the model would mostly say something that is no label: it was trained on other prompts than it is scored on, "
        "or hardly at all",
        "compare a training prompt with a validation prompt, in tokens, up to the label; or train longer",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def label_prior(inputs: DiagnosisInputs) -> Finding | None:
    """The model prefers some label, whatever candidate stands there."""
    # In the retriever's order the position does tell about the target.
    if inputs.picks is None or inputs.data.get("candidate_order") == "retriever" or is_pointwise(inputs):
        return None
    # A model that answers with one label only is broken, not biased.
    if inputs.one_answer and inputs.list_dependence < HARDLY:
        return None
    moved, p = leaning(inputs.picks, inputs.candidates)
    if moved < LEANING or p > 0.001:
        return None
    label, first_share, right_share = preferred_label(inputs, inputs.picks)
    strong, gains = moved >= 2 * LEANING, gains_by_epoch(inputs)
    unlearned = inputs.at_chance and bool(gains) and max(gains) < AT_GUESSING
    return Finding(
        "label prior",
        f"label {label} stands first in {first_share:.0%} of the lists and is right in {right_share:.0%}; for no "
        f"label to be preferred, {moved:.0%} of the lists would need another first place (p ≤ 0.001)",
        "a part of the answer comes from the label, or its place, whatever candidate stands there"
        + ("; a model that has learned nothing yet prefers some label too" if unlearned else ""),
        "keep shuffle_candidates on, and see that training targets are spread over all labels; `permutations: 4` "
        "averages the preference away, at four times the cost of an answer",
        Confidence.POSSIBLE if unlearned else Confidence.SURE if strong else Confidence.LIKELY,
        Grade.CAUSE if strong else Grade.LIMIT,
    )  # fmt: skip


def history_is_cut(inputs: DiagnosisInputs) -> Finding | None:
    """At least a tenth of the training prompts were shortened to fit."""
    due, dropped = (inputs.best.get(f"applied/history_{name}", 0) for name in ("due", "dropped"))
    cut, examples = inputs.best.get("applied/cut_prompts", 0), inputs.best.get("applied/examples", 0)
    if not examples or cut < 0.1 * examples:
        return None
    seen = f"{cut / examples:.0%} of the training prompts lost history or parts of titles to fit"
    if limit := inputs.winner.values.get("max_prompt_tokens"):
        seen += f" max_prompt_tokens = {limit}"
    if due:
        seen += f"; of {due / examples:.1f} items of history {(due - dropped) / examples:.1f} are left, on average"
    return Finding(
        "history is cut", seen, "the model is asked about less than was configured",
        "raise max_prompt_tokens; or lower max_title_tokens or candidates, which leaves more room for the history",
        Confidence.SURE, Grade.CAUSE if due and dropped >= 0.5 * due else Grade.LIMIT,
    )  # fmt: skip
