"""A table → CSV that a spreadsheet shows and does not run."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from reranker.command_line.redaction import encodable

_ACTS = tuple("=+-@\t＝＋－＠")  # what a cell begins with that spreadsheets take for a formula


def as_csv(table: pd.DataFrame) -> str:
    """CSV without the index. Text that a spreadsheet would run, from a title or a name, gets an apostrophe in front."""
    columns = {_shown(name): cells if is_numeric_dtype(cells) else cells.map(_shown) for name, cells in table.items()}
    return encodable(pd.DataFrame(columns).to_csv(index=False))


def _shown(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")  # pandas does not quote it, and it would begin another row
    return f"'{text}" if text.lstrip(" \n").startswith(_ACTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
