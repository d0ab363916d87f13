"""A study → its figures by segment and its first places as tables of text, for the report and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from reranker.command_line.printable_text import plain
from reranker.command_line.redaction import masked
from results.leaderboard import PRETTY
from results.statistics.comparison import Comparison
from results.statistics.seed_averages import ConfigurationResult
from results.statistics.segment_text import first_place_findings, losses, result_word, segment_findings
from results.statistics.segments import Level, SegmentFigures, Segments, segments
from results.statistics.top_items import FirstPlaces, first_places
from results.statistics.verdict_text import p_value, told_difference
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder

NOTHING = "There are no ranks of a finished epoch."
_ITEMS = 10  # rows of the table of items
ITEM_HEAD = ("item", "users in training", "first places", "targets", "too often")


@dataclass(frozen=True)
class SegmentTable:
    """What a report says by segment.

    Attributes:
        missing: why there is nothing, in a sentence; empty if there is something.
        head: the heads of the columns.
        rows: the cells of each segment, all lists first; the last one is the result in a word.
        sentences: what the table shows.
        losses: where the winner is proven worse, a sentence each.
        items: the cells of each item that stands first too often, at most ten, columns as in `ITEM_HEAD`.
        item_sentences: what the trial puts first.
        found, first: the figures themselves; None if there are none.
    """

    missing: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    sentences: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    items: tuple[tuple[str, ...], ...] = ()
    item_sentences: tuple[str, ...] = ()
    found: Segments | None = None
    first: FirstPlaces | None = None

    @staticmethod
    def of_study(
        study: StudyFolder, ranked: Sequence[ConfigurationResult] | None, comparison: Comparison | None
    ) -> SegmentTable:
        """A study's, with what is known of it already; None: it is read.

        Raises:
            DamagedFile: a file of it is not what was written.
        """
        if missing := ListFacts.missing(study):
            return SegmentTable(missing=f"{missing}.")
        all_segments = segments(study, ranked, comparison)
        if all_segments is None:
            return SegmentTable(missing=NOTHING)
        return table_of(all_segments, first_places(study, all_segments.trial))

    def in_terminal(self) -> list[Table]:
        """The table of segments, and that of items if there are any."""
        tables = [_in_terminal(self.head, self.rows, left=2)]
        return [*tables, _in_terminal(ITEM_HEAD, self.items, left=1)] if self.items else tables


def table_of(found: Segments, first: FirstPlaces | None) -> SegmentTable:
    """The tables of known figures."""
    metrics = tuple(found.parts[0].winner)
    difference = f"difference in {PRETTY.get(found.metric, found.metric)}"
    return SegmentTable(
        head=("", "segment", "lists", *(PRETTY[metric] for metric in metrics), "best baseline", difference, "result"),
        rows=tuple(_row(part, found.metric) for part in found.parts),
        sentences=_safe(segment_findings(found)),
        losses=_safe(losses(found)),
        items=() if first is None else _items(first),
        item_sentences=() if first is None else _safe(first_place_findings(first)),
        found=found,
        first=first,
    )


def _row(part: SegmentFigures, metric: str) -> tuple[str, ...]:
    baseline = f"{part.best} {part.baselines[part.best][metric].mean:.3f}" if part.best else ""
    difference = "" if part.difference is None else told_difference(part.difference)
    name = f"{part.name} ({part.detail})" if part.detail else part.name
    levels = (_level(level) for level in part.winner.values())
    return part.by, name, f"{part.lists}", *levels, masked(baseline), difference, result_word(part)


def _items(first: FirstPlaces) -> tuple[tuple[str, ...], ...]:
    rows = []
    for item in [item for item in first.items if item.first > item.target][:_ITEMS]:
        shares = (f"{count / first.lists:.1%} ({count})" for count in (item.first, item.target))
        proof = "" if item.p is None else f"{'proven' if item.proven else 'not proven'}, {p_value(item.p)}"
        rows.append((masked(item.title or item.item_id), f"{item.users}", *shares, proof or "too few users"))
    return tuple(rows)


def _level(level: Level) -> str:
    return f"{level.mean:.3f} ({level.low:.3f}–{level.high:.3f})"


def _safe(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(masked(line) for line in lines)


def _in_terminal(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(head):
        is_text = number < left or column in ("best baseline", "result", ITEM_HEAD[-1])
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table
