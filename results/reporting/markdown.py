"""A report's content → Markdown for a GitHub comment. Texts from the study are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reranker.command_line.printable_text import plain
from results.reporting.report_content import Content, Reading, Step, Tile
from results.reporting.report_leaderboard import Board, Row
from results.reporting.segment_table import ITEM_HEAD, SegmentTable
from results.statistics.verdict_text import signed

_ROWS = 10  # trials in the short leaderboard
_LIMIT = 59_900  # bytes; GitHub takes 65,536 characters
_LONG = 1000  # characters of one text


def to_markdown(content: Content) -> str:
    """Verdict, what is proven, the sealed test, a short leaderboard, who gains, the diagnosis, and how to
    reproduce it."""
    parts = [
        f"## {escaped(content.study)}: {escaped(content.headline)}",
        " · ".join(escaped(fact) for fact in content.context),
        escaped(content.lead),
        escaped(content.learned),
        _list(f"**{escaped(line)}**" for line in content.trouble),
        _list(_tile(tile) for tile in content.tiles),
        *_proven(content),
        "**What next**",
        "\n".join(f"{i}. {_step(step)}" for i, step in enumerate(content.steps, start=1)),
        "### Sealed test",
        *_readings(content),
        "### Leaderboard",
        _board(content.board),
        escaped(content.lesson),
        _list(_failure(*failure) for failure in content.failures[:_ROWS]),
        "### Who gains",
        *_segments(content.segments),
        "### Diagnosis",
        _diagnosis(content),
        "### Reproduce",
        _list(_step(step) for step in content.commands),
        _list(f"{escaped(name)}: {code(value)}" for name, value in content.facts),
    ]
    return _cut("\n\n".join(part for part in parts if part) + "\n")


def escaped(text: str) -> str:
    """The text on one line, escaped: no formatting, HTML, link, mention or reference."""
    text = re.sub(r"([\\`*_{}\[\]()<>#|~$!&])", r"\\\1", _short(re.sub(r"\s+", " ", text)))
    text = re.sub(r"^(\d+)([.)])(?!\S)", r"\1\\\2", re.sub(r"^([-+=])(?!\d)", r"\\\1", text))  # would start a list
    text = re.sub(r":(?=[^\s\d])", r"\:", re.sub(r"(?i)\bwww\.", r"www\.", text))
    return re.sub(r"(?<![A-Za-z0-9])@(?=[A-Za-z0-9])", "@\u200b", re.sub(r"#(?=\d)", "#\u200b", text))


def prose(text: str) -> str:
    """A sentence in which `backticks` mark code."""
    parts = _short(text).split("`")
    if len(parts) % 2 == 0:
        return escaped(text)
    return "".join(code(part) if i % 2 else escaped(part) for i, part in enumerate(parts))


def code(text: str) -> str:
    """A code span for any text. Not for a table, where a pipe would end it."""
    text = _short(" ".join(text.split()))
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    padded = f" {text} " if text.startswith("`") or text.endswith("`") else text
    return f"{fence}{padded}{fence}" if text else ""


def _short(text: str) -> str:
    text = plain(text)  # what a terminal obeys, or what changes direction, would act where the file is read
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _cut(text: str) -> str:
    """Cut to the limit at a line end: half a code span would leave its text unescaped."""
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        size += len(line.encode())
        if size > _LIMIT:
            return "".join([*lines, "\n… the rest is in report.html\n"])
        lines.append(line)
    return text


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _tile(tile: Tile) -> str:
    return f"**{escaped(tile.label)}: {escaped(tile.value)}** ({escaped('; '.join(tile.notes))})"


def _failure(name: str, cause: str) -> str:
    return f"{escaped(name)} failed: {code(cause or 'no cause was written')}"


def _step(step: Step) -> str:
    return prose(step.text) + (f" {code(step.command)}" if step.command else "")


def _table(head: list[str], rows: list[list[str]], left_columns: int) -> str:
    lines = [head, [":--" if i < left_columns else "--:" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _proven(content: Content) -> list[str]:
    if not content.proofs:
        return [escaped(line) for line in content.proven]
    rows = []
    for proof in content.proofs:
        interval = f"{signed(proof.low)} to {signed(proof.high)}"
        rows.append(
            [
                escaped(proof.baseline),
                f"{proof.level:.3f}",
                signed(proof.mean),
                interval,
                escaped(proof.p),
                proof.word,
            ]
        )
    table = _table(["against", escaped(content.board.metric), "difference", "95%", "p", "proven"], rows, left_columns=1)
    return [table, " ".join(escaped(line) for line in content.proven)]


def _readings(content: Content) -> list[str]:
    if content.sealed:
        return [f"Not opened yet; once: {code(content.seal_command)}"]
    unreadable = "**It has been opened, but the record of its readings can't be read.**"
    return [_reading(reading) for reading in content.readings] or [unreadable]


def _reading(reading: Reading) -> str:
    warning = f"**UNSEALED AGAIN**, given reason: {code(reading.unseal)}. " if reading.unseal else ""
    head = ["", *(escaped(column) for column in reading.columns), "difference (95%)"]
    table = _table(head, [[escaped(cell) for cell in row] for row in reading.rows], left_columns=1)
    return f"{warning}{escaped(reading.trial)}, {escaped(reading.time)} ({escaped(reading.record)})\n\n{table}"


def _board(board: Board) -> str:
    """The best trials, every baseline, and chance."""
    if not board.rows:
        return "No trial has started."
    rows, trials = [], 0
    for row in board.rows:
        trials += row.kind == "trial"
        if row.kind in ("baseline", "chance") or trials <= _ROWS:
            rows.append(row)
    head = ["", "name", escaped(board.metric), "95%", "status", *(escaped(column) for column in board.columns)]
    table = _table(head, [_line(row) for row in rows], left_columns=2)
    notes = [escaped(row.note) for row in rows if row.note]
    left_out = len(board.rows) - len(rows)
    return "\n\n".join([table, *notes, *([f"{left_out} more in report.html"] if left_out else [])])


def _line(row: Row) -> list[str]:
    name = escaped(f"↳ {row.name}" if row.kind == "replicate" else row.name)
    return [
        row.rank,
        f"**{name}**" if row.place == "winner" else f"{name} (not told apart)" if row.place == "alike" else name,
        "" if row.value is None else f"{row.value:.3f}",
        "{:.3f} to {:.3f}".format(*row.interval) if row.interval else "",
        escaped(row.status),
        *(escaped(cell) for cell in row.cells),
    ]


def _segments(table: SegmentTable) -> list[str]:
    """The figures by segment, and what stands first too often."""
    if table.missing:
        return [prose(table.missing)]
    rows, items = ([[escaped(cell) for cell in row] for row in cells] for cells in (table.rows, table.items))
    return [
        _table([escaped(column) for column in table.head], rows, left_columns=2),
        _list(escaped(line) for line in (*table.sentences, *table.item_sentences)),
        *([_table(list(ITEM_HEAD), items, left_columns=1)] if items else []),
    ]


def _diagnosis(content: Content) -> str:
    if not content.findings:
        return "Nothing was found that explains weak results."
    return "\n".join(
        f"{i}. **{escaped(finding.name)}** ({finding.confidence}): {prose(finding.seen)}. {prose(finding.means)}. "
        f"Next: {prose(finding.next_step)}."
        for i, finding in enumerate(content.findings, start=1)
    )
