"""Text to show or store → the same without passwords, tokens, keys and webhooks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

HIDDEN = "***"

_START = r"(?<![\w-])"
_NAME = (
    r"(?:[\w.-]{0,60}?(?:password|passwd|passphrase|pwd|secret|token|signature|credentials?"
    r"|(?:api|access|account|private|secret|shared)[_-]?key(?:[_-]?id)?)|sig)"
)
_VALUE = (
    r"(?:\*{3}(?![^\s,;&\"'<>})\]])"  # already masked
    r"|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'"
    r"|[\"']\S*"
    r"|(?:[^\s&\"'<>;]|;(?!\s?[\w ]{1,40}=))+)"  # a semicolon ends it if another name follows
)
_HEADER = r"(?i:(?<![\w-])(?:proxy-)?authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?)"
_RULES = [
    (re.compile(r"(?<![\w+.-])([a-zA-Z][\w+.-]{0,40}://)[^\s\"'<>]{1,500}@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(https?://[\w.-]*(?:hooks\.slack\.com|webhook\.office\.com|/api/webhooks))/\S+"), rf"\1/{HIDDEN}"),
    (re.compile(rf"({_HEADER})(?:\w+\s+)?[^\s\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer\s+)(?:[^\s\"']+)|\b(bearer\s+)(?=\S*\d)[^\s\"']{6,}"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)({_START}{_NAME}[\"']?\s{{0,3}}(?:=|:(?!/))\s{{0,3}}){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)({_START}--{_NAME}\s+){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{16,}"), HIDDEN),
]  # fmt: skip


def masked(text: str) -> str:
    """Hide the user and password in URLs, and whatever is named as a secret or looks like one."""
    for pattern, shown in _RULES:
        text = pattern.sub(shown, text)
    return text


def masked_command(words: Sequence[str]) -> str:
    """A command as one would type it, with secrets hidden; a webhook's whole address is a secret."""
    return " ".join(HIDDEN if word == HIDDEN else _quoted(word) for word in without_secrets(words))


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command, with secrets and the values of secret options hidden."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, _ = word.partition("=")
        if _is_secret(before):
            shown.append(HIDDEN)
        elif equals and _is_secret(name):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(masked(word))
    return shown


def _is_secret(option: str) -> bool:
    if option.startswith("--we"):
        return "--webhook".startswith(option)
    return option.startswith("--") and masked(f"{option} x") != f"{option} x"


def _quoted(word: str) -> str:
    _, equals, value = word.partition("=")
    return word if equals and value == HIDDEN else shlex.quote(word)
