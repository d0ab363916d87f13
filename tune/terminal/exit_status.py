"""A finished search → what other programs learn of it: an exit code, a message to a webhook."""

from __future__ import annotations

import json
from http.client import HTTPException
from urllib.error import URLError
from urllib.request import Request, urlopen

from reranker.command_line.printable_text import say
from reranker.command_line.redaction import HIDDEN
from results.statistics.verdict_text import verdict
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tune.execution.failure_cause import MACHINE
from tune.searching.stop_rules import INTERRUPTED, TOO_MANY_FAILURES

_WEBHOOK_S = 10.0


def exit_code(folder: StudyFolder, ending: str) -> int:
    """130 after Ctrl-C; 1 after a fault of the machine; 0 if any trial finished an epoch; else, or after too many
    failures, 1 if ours, 2 if yours."""
    if ending == INTERRUPTED:
        return 130
    if is_fault_of_machine(ending):
        return 1
    trials = list(folder.trials())
    if any(trial.reports for trial in trials) and not ending.startswith(TOO_MANY_FAILURES):
        return 0
    failed = [folder.read_status(trial.number)["ours"] for trial in trials if trial.status is TrialStatus.FAILED]
    return 1 if any(failed) else 2


def is_fault_of_machine(ending: str) -> bool:
    """Whether that is why a search has ended, so that it may go on as soon as the machine is well again."""
    return ending.startswith(MACHINE)


def tell_webhook(url: str | None, folder: StudyFolder) -> None:
    """POST {study, folder, verdict, reason, complete} as JSON; a webhook that does not take it is worth a line only.

    Its address is a secret and is never shown.
    """
    if not url:
        return
    content = {"study": folder.name, "folder": str(folder.path), "verdict": verdict(folder), **folder.read_ending()}
    request = Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    try:
        urlopen(request, timeout=_WEBHOOK_S).close()
    except (URLError, OSError, ValueError, HTTPException) as error:
        why = str(error).replace(url, HIDDEN)
        say(f"the webhook could not be told: {why}", error=True)
