"""Which architectures of the installed transformers can be trained, and which share lists, as a Markdown table.

    python -m bench.architectures

Each is tried in small, as before a search; see `reranker.modeling.architecture_check`. Takes some minutes.
"""

from __future__ import annotations

import signal
import warnings
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.modeling.architecture_check import architecture_of
from reranker.modeling.model_loading import check_structure

_MOST_S = 120  # for one


def verdict(kind: str) -> str:
    """What the check says of an architecture in its default configuration; empty if it has none."""
    try:
        described = AutoConfig.for_model(kind)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(described)
    except Exception:  # noqa: BLE001  (many need a configuration of their own)
        return ""
    try:
        check_structure(base, TrialConfig())
    except InputError:
        return "refused: not built like Llama"
    architecture = architecture_of(described)
    if architecture.fault:
        return f"refused: {architecture.fault.split(' (')[0]}"
    if not architecture.tried:
        return "not tried: no miniature could be built; a list for each example"
    return "trained, lists shared" if architecture.shares_lists else "trained, a list for each example"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, _too_long)
    by_verdict: dict[str, list[str]] = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        signal.alarm(_MOST_S)
        try:
            found = verdict(kind)
        except _TooLong:
            found = ""
        signal.alarm(0)
        by_verdict.setdefault(found or "no default configuration", []).append(f"`{kind}`")
    print(f"transformers {transformers.__version__}\n\n| verdict | architectures |\n| --- | --- |")
    for found, kinds in sorted(by_verdict.items(), key=lambda item: -len(item[1])):
        print(f"| {found} | {', '.join(kinds)} |")


class _TooLong(BaseException):
    """Not an Exception, which the check would take for the architecture's fault."""


def _too_long(*_: Any) -> None:
    raise _TooLong


if __name__ == "__main__":
    main()
