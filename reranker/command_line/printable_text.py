"""Text from anywhere → text that a terminal shows literally, without control effects and without secrets."""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from reranker.command_line.redaction import encodable, masked

# What a terminal obeys or hides: control characters except newline and tab, and characters that change direction.
_ACTS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
} | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x2028, 0x2029)}  # fmt: skip


def plain(text: str) -> str:
    r"""The text with control characters escaped; what UTF-8 cannot encode (in paths, say) becomes a question mark.

    >>> print(plain("\x1b[31mred"))
    \x1b[31mred
    """
    return encodable(text.translate(_ACTS))


class Terminal(Console):
    """A console that prints text literally: no markup, no highlighting, no control characters, no cut lines; no secrets.

    Args:
        file: where it writes; left out: the current `sys.stdout` at each line.
        width: in columns, if the file is not a terminal.
    """

    def __init__(self, file: IO[str] | None = None, width: int = 200) -> None:
        is_terminal = (file or sys.stdout).isatty()
        super().__init__(file=file, width=None if is_terminal else width, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render text with secrets masked and control characters escaped."""
        return super().render_str(plain(masked(text)), **options)

    def say(self, text: str, style: str | None = None) -> None:
        """Print text meant for copying, such as paths and commands: lines are not wrapped."""
        self.print(text, style=style, soft_wrap=True)


def say(text: str, *, error: bool = False) -> None:
    """Print a line without a console, secrets masked."""
    print(plain(masked(text)), file=sys.stderr if error else sys.stdout, flush=True)
