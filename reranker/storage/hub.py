"""The Hugging Face Hub, where models are fetched from: whether it answers, and if not, why."""

from __future__ import annotations

import ssl
import threading
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import constants

_PROBE_SECONDS = 5


def hub_answers() -> bool:
    """Whether the Hub answers within seconds; its own client tries six times, for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers = []

    def ask() -> None:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_PROBE_SECONDS).close()
            answers.append(True)
        except HTTPError as error:
            answers.append(error.code < 500)
        except URLError as error:
            answers.append(isinstance(error.reason, ssl.SSLError))  # the Hub's client has its own certificates
        except (OSError, ValueError, HTTPException):
            answers.append(False)

    probe = threading.Thread(target=ask, daemon=True)  # the timeout does not cover a silent name server
    probe.start()
    probe.join(2 * _PROBE_SECONDS)
    return any(answers)


def why_silent() -> str:
    """Why the Hub did not answer, as the end of a sentence that begins with "the Hub"."""
    return "is switched off by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "does not answer"
