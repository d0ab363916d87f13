"""Text that will be shown → the same without passwords and keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_HIDDEN = "***"
_ADDRESS = re.compile(r"(\w[\w+.-]*://)[^\s\"'<>]*@")
_NAMED = re.compile(r"(?i)\b([\w-]*(?:password|passwd|secret|token|api[_-]?key))(=|: ?)[^\s&\"'<>]+")


def masked(text: str) -> str:
    """Without the user and password of an address, and without what is named as a secret."""
    return _NAMED.sub(rf"\1\2{_HIDDEN}", _ADDRESS.sub(rf"\1{_HIDDEN}@", text))


def masked_command(words: Sequence[str]) -> str:
    """A command as it is typed; a webhook's address is a secret as a whole."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, _ = word.partition("=")
        hook = before == "--webhook" or (name == "--webhook" and equals)
        shown.append((f"{name}={_HIDDEN}" if equals else _HIDDEN) if hook else shlex.quote(masked(word)))
    return " ".join(shown)
