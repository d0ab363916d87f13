"""Text from anywhere → what a terminal shows: every character as it is, none of which acts."""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console
from rich.text import Text

# What a terminal obeys or hides: control characters but for the line's end and the tab, and what turns text around.
_ACTS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
} | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x2028, 0x2029)}  # fmt: skip


def plain(text: str) -> str:
    """The text with such characters spelled out, and with what is no text (of a path, say) as a question mark."""
    return text.translate(_ACTS).encode("utf-8", "replace").decode("utf-8")


class Terminal(Console):
    """A console that takes all text as it is: no markup, no colours of its own, no control characters, no cut lines.

    Args:
        file: where it writes; left out, what `sys.stdout` is at each line.
        width: where the file is no terminal.
    """

    def __init__(self, file: IO[str] | None = None, width: int = 200) -> None:
        shown = (file or sys.stdout).isatty()
        super().__init__(file=file, width=None if shown else width, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def say(self, text: str, style: str | None = None) -> None:
        """Text that is to be copied, such as paths and commands: no line is broken but where it has its ends."""
        self.print(text, style=style, soft_wrap=True)


def say(text: str, *, error: bool = False) -> None:
    """A line where there is no console."""
    print(plain(text), file=sys.stderr if error else sys.stdout, flush=True)
