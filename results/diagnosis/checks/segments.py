"""Checks of parts of the lists: where the winner is worse than a ranker that needs no training."""

from __future__ import annotations

from results.diagnosis.checks.measures import not_beaten, pretty_metric
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.paired_tests import Difference
from results.statistics.segments import SegmentFigures
from results.statistics.verdict_text import p_value, told_difference

_NAMED = 3  # parts in a sentence
_KNOWN_BEFOREHAND = "the length of a history is known beforehand, so these lists can be given to the baseline"
_REMEDIES = {  # by what the lists are told apart by, and the part
    ("history", "short"): "train on short histories too: `examples_per_user: null` asks for every prefix of a user",
    ("history", "long"): "show more of a history: history_length, and max_prompt_tokens with it",
    (
        "target",
        "cold",
    ): "texts that tell more of an item (item_text, max_title_tokens): there is nothing else to know it by",
    ("target", "long tail"): "negatives by popularity (`negatives: {uniform: 0.5, popularity: 0.5}`), so that what is "
    "popular is often wrong in training; and texts that tell more of an item (item_text, max_title_tokens)",
    (
        "target",
        "short head",
    ): "`collaborative_scores: counts`, which knows what is popular; or fewer negatives by popularity",
    ("place", "not listed"): "a better retriever, or more candidates: no order of the list can win these back",
}
_BY_PLACE = (
    "keep shuffle_candidates on; `permutations: 4` averages over the places, at four times the cost of an answer"
)


def worse_on_a_part(inputs: DiagnosisInputs) -> Finding | None:
    """The winner is proven worse than a baseline on a segment; one that does as well on all lists has a finding of its own."""
    losses = _losses(inputs)
    if inputs.by_segment is None or not losses:
        return None
    name = pretty_metric(inputs.by_segment.metric)
    told = [
        f"{part.words}, {part.lists} lists: {told_difference(difference)} against {baseline}, {p_value(difference.p)}"
        for part, baseline, difference in losses[:_NAMED]
    ]
    more = f"; and on {len(losses) - _NAMED} more" if len(losses) > _NAMED else ""
    remedies = dict.fromkeys(remedy for part, *_ in losses for remedy in _remedies(part))
    return Finding(
        "worse than a baseline on a part of the lists",
        f"in {name}, on {'; '.join(told)}{more} (parts, configurations and baselines all tested together)",
        "the mean over all lists hides that these are ranked worse than without what was trained",
        "; ".join(remedies),
        Confidence.SURE, Grade.LIMIT,
    )  # fmt: skip


def _remedies(part: SegmentFigures) -> list[str]:
    if part.by == "history":
        return [*filter(None, [_REMEDIES.get((part.by, part.name))]), _KNOWN_BEFOREHAND]
    return [_REMEDIES.get((part.by, part.name), _BY_PLACE)]


def _losses(inputs: DiagnosisInputs) -> list[tuple[SegmentFigures, str, Difference]]:
    """The largest loss of each segment, to a baseline that does not do as well on all lists."""
    largest: dict[str, tuple[SegmentFigures, str, Difference]] = {}
    if inputs.by_segment is None:
        return []
    everywhere = inputs.by_segment.parts[0].against.items()
    told_already = {*not_beaten(inputs), *(name for name, overall in everywhere if overall.proven and overall.mean < 0)}
    for part, baseline, difference in inputs.by_segment.losses:
        if baseline not in told_already:
            largest.setdefault(part.words, (part, baseline, difference))
    return list(largest.values())
