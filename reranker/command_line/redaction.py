"""Text to show or store → the same without passwords, tokens, keys and webhooks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

HIDDEN = "***"

_START = r"(?<![\w-])"
_NAME = (  # of a secret, in whatever spelling
    r"(?:[\w.-]{0,60}?(?:password|passwd|passphrase|pwd|secret|token|signature|credentials?|connection[_-]?string"
    r"|(?:api|access|account|private|secret|shared|signing|encryption|master|subscription|ssh|license|storage)[_-]?key"
    r"(?:[_-]?id)?|apikey|webhook(?:[_-]?ur[li])?)|sig)"
)
_VARIABLE = (  # a shell's variable: where the secret is, not what it is; or a sentence of ours about it
    r"(?![bB]?[\"']?\$\{?[A-Z_][A-Z0-9_]*\b)(?!must be\b)"
)
_VALUE = (
    r"(?:\*{3}(?![^\s,;&\"'<>})\]])"  # already masked
    r"|\\+\"(?:[^\"\\]|\\(?!\"))*\\+\""  # JSON within JSON
    r"|[bB]?\"(?:\\.|[^\"\\])*\"|[bB]?'(?:\\.|[^'\\])*'"
    r"|[\"']\S*"
    r"|(?:[^\s&\"'<>;]|;(?!\s?[\w ]{1,40}=))+)"  # a semicolon ends it if another name follows
)
_IS = r"(?:\\*[\"']?\]?\s{0,3}(?:=>|=|:(?!/)|%3[dD])\s{0,3}|[\"']\s?,\s?(?=[bB]?[\"']))"  # between a name and its value
_QUOTED_PASSWORD = (  # with the user before it; a quote or bracket that ends a word of JSON or of a list is none of it
    r"[^\s\"'<>:/@]{0,100}:(?:[^\s\"'<>/@]|[\"'<>](?![\s,:;}\])]|$)){1,200}"
)
_HEADER = r"(?i:(?<![\w-])(?:proxy-)?authorization(?:\\*[\"']?\s{0,3}[:=]\s{0,3}|[\"']\s?,\s?)(?:[bB]?\\*[\"'])?)"
_FORMS = (  # how tokens begin, by who gives them out
    r"hf_|api_org_|gh[oprsu]_|github_pat_|gl(?:pat|dt|rt|ptt|soat|ft)-|sk-|[rs]k_(?:live|test)_|xox[abeoprs]-|xapp-"
    r"|A[KS]IA|AIza|ya29\.|npm_|pypi-|dckr_pat_|dapi|shp(?:at|ss)_|nvapi-|gsk_|xai-|pplx-|r8_|tskey-|hv[sb]\.|dop_v1_"
    r"|wandb_v1_|ATATT|SG\.|lin_api_|ntn_|sbp_"
)
_HOOKS = (  # addresses whose path is a secret
    r"[\w.-]*(?:hooks\.slack\.com|webhook\.office\.com|hooks\.zapier\.com|logic\.azure\.com|maker\.ifttt\.com"
    r"|chat\.googleapis\.com|events\.pagerduty\.com|api\.telegram\.org)|[^\s/\"'<>]+(?:/[\w.-]+){0,4}?/(?:web)?hooks?"
)
_RULES = [
    (re.compile(r"-----BEGIN ([A-Z ]{0,30})PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(rf"(https?://(?:{_HOOKS}))/[^\s\"'<>]+"), rf"\1/{HIDDEN}"),
    (re.compile(rf"(?<![\w+.-])([a-zA-Z][\w+.-]{{0,40}}://)(?:[^\s\"'<>]{{1,500}}|{_QUOTED_PASSWORD})@"), rf"\1{HIDDEN}@"),
    (re.compile(rf"({_HEADER})(?i:digest|aws4[\w-]*)\s[^\n]*"), rf"\1{HIDDEN}"),
    (re.compile(rf"({_HEADER})(?!\w+\s+\$|\$)(?:\w+\s+)?[^\s\"'\\]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?im)^(.{0,60}?(?<![\w-])(?:set-)?cookie:\s)[^\n\"']+"), rf"\1{HIDDEN}"),
    (re.compile(rf"\b(Bearer\s+){_VARIABLE}(?:[^\s\"'\\]+)|\b(bearer\s+)(?=\S*\d)[^\s\"'\\]{{6,}}"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?im)^(?P<before>(?P<indent>[ \t]*)(?:- )?{_NAME}:[ \t]*)[|>][+-]?(?:\n(?P=indent)[ \t]+[^\n]*)+"), rf"\g<before>{HIDDEN}"),
    (re.compile(rf"(?im)^([ \t]*(?:- )?{_NAME}:[ \t]+)(?![\"'|>{{\[]){_VARIABLE}[^\n#&;,}}]+\b"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)({_START}{_NAME}{_IS})(?-i:{_VARIABLE}){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(rf"({_START}(?:[A-Z0-9_]{{0,60}}_)?(?:PASS|PW|PAT|AUTH|DSN|COOKIE)\s?=\s?){_VARIABLE}{_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)({_START}--{_NAME}\s+)(?-i:{_VARIABLE}){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&;](?:key|code|auth|pass|pw)=)[^\s&\"'<>]+"), rf"\1{HIDDEN}"),
    (re.compile(r"((?<!\S)(?:-u|--user|--proxy-user)[ =]?[\"']?)[^\s:\"'$]+:[^\s\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(\blogin\s+\S+\s+password\s+)\S+"), rf"\1{HIDDEN}"),
    (re.compile(r"(\bwandb login\s+)[0-9a-f]{40}\b"), rf"\1{HIDDEN}"),
    (re.compile(r"(?<![\w/.:-])(?!mailto:|acct:|sip:)[\w.-]{1,40}:[^\s@:/\"']{3,80}@(?!sha256)(?=[\w-]+(?:\.[\w-]+|:\d))"), f"{HIDDEN}@"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(rf"(?<![A-Za-z0-9])(?:{_FORMS})[A-Za-z0-9_.-]{{16,}}"), HIDDEN),
]  # fmt: skip


def masked(text: str) -> str:
    """Hide the user and password in URLs, and whatever is named as a secret or looks like one.

    >>> masked("postgresql://me:secret@host/db")
    'postgresql://***@host/db'
    """
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


def encodable(text: str) -> str:
    """The text with a question mark for what UTF-8 cannot encode, such as the bytes of a path that is not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
