"""Figures by segment and first places → sentences."""

from __future__ import annotations

from results.leaderboard import PRETTY
from results.statistics.segments import LEAST, SegmentFigures, Segments
from results.statistics.top_items import FirstPlaces, Item
from results.statistics.verdict_text import p_value, signed, told_difference

_NAMED = 3  # items named in a sentence


def result_word(part: SegmentFigures) -> str:
    """What is proven of the winner against the best baseline of a segment."""
    difference = part.difference
    if difference is None:
        return "too few users" if part.baselines else ""
    return difference.word


def losses(segments: Segments) -> list[str]:
    """A sentence for each segment where the winner is proven worse than a baseline, the largest loss first."""
    name = PRETTY.get(segments.metric, segments.metric)
    return [
        f"WORSE than {baseline} in {name} on {part.lists} lists, {part.words}: "
        f"{told_difference(difference)}, {p_value(difference.p)}."
        for part, baseline, difference in segments.losses
    ]


def segment_findings(segments: Segments) -> list[str]:
    """Where the winner loses, where it is behind without proof, and what the intervals allow for."""
    parts = [part for part in segments.parts if part.by]
    if not parts:
        return ["All lists are alike in what is known of them, so there are no segments."]
    lines = losses(segments)
    behind = [
        part for part in parts if (difference := part.difference) and difference.mean < 0 and not difference.proven
    ]
    if behind:
        listed = "; ".join(f"{part.words}, {part.best}" for part in behind)
        lines.append(f"Behind the best baseline there, but not proven so: {listed}.")
    tested = [part for part in parts if part.against]
    if tested and not lines:
        lines.append(f"On no segment of {LEAST} users or more is the winner behind a baseline.")
    if tested:
        lines.append(
            f"Differences allow for all {len(tested)} segments being tested together, and in each all configurations, "
            "their epochs and all baselines; levels have intervals of their own. Segments with lists of fewer than "
            f"{LEAST} users are not tested."
        )
    return lines


def first_place_findings(first: FirstPlaces) -> list[str]:
    """How much of the catalogue stands first, how new it is, and what stands first too often."""
    gain = first.novelty_gain
    compared = "as new as" if gain.low <= 0 <= gain.high else "less new than" if gain.mean < 0 else "newer than"
    coverage = (
        f"Trial {first.trial.number} puts {first.first} of {first.catalogue} items first ({first.coverage:.0%} of the "
        f"catalogue); {first.targets} are a target, {first.listed} stand in a list."
    )
    novelty = (
        f"What it puts first is {compared} what users took: {first.novelty.mean:.2f} bits against "
        f"{first.target_novelty.mean:.2f} ({signed(gain.mean, 2)}, {signed(gain.low, 2)} to {signed(gain.high, 2)})."
    )
    lines = [coverage, novelty]
    if often := first.too_often:
        named = "; ".join(_share(item, first.lists) for item in often[:_NAMED])
        more = f" and {len(often) - _NAMED} more" if len(often) > _NAMED else ""
        lines.append(f"Proven to stand first too often: {named}{more}.")
    else:
        lines.append("No item is proven to stand first too often.")
    return lines


def _share(item: Item, lists: int) -> str:
    shares = f"{item.first / lists:.1%} of first places, {item.target / lists:.1%} of targets"
    return f"{item.title} ({shares}, {p_value(item.p or 0.0)})"
