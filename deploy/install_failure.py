"""A log of pip → why an installation failed, in one sentence, and what to do: python deploy/install_failure.py LOG

Standard library alone: nothing else is installed yet.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_CAUSES = (  # what a log has of it → what to tell; the first that is found counts
    (
        r"No space left on device|\[Errno 28\]",
        "no space is left on the disk: it takes 3 GB, with CUDA 7; free some, then make install again",
    ),
    (
        r"Permission denied|\[Errno 13\]",
        "a file or folder may not be written: this checkout and pip's cache must be this user's own",
    ),
    (
        (
            r"name resolution|getaddrinfo failed|establish a new connection|Connection refused|Network is unreachable"
            r"|No route to host|timed out|Cannot connect to proxy|ProxyError|ConnectionResetError|Connection aborted"
            r"|CERTIFICATE_VERIFY_FAILED"
        ),
        (
            "the package index could not be reached: look at the network, at HTTPS_PROXY and at PIP_INDEX_URL, or bring the "
            "packages along from another machine (make kit)"
        ),
    ),
    (
        (
            r"DO NOT MATCH THE HASHES|BadZipFile|File is not a zip file|is invalid|invalid wheel|has an invalid|zlib\.error"
            r"|Bad magic number|Bad CRC|Error -3 while decompressing|IncompleteRead"
        ),
        "a package was damaged on its way or in pip's cache: python3 -m pip cache purge, then make install again",
    ),
    (
        r"No matching distribution found for (?P<package>[^\s(]+)",
        (
            "the package index has no {package} for this Python and machine: name another Python (make PYTHON=python3.12 …), or another "
            "index (PIP_INDEX_URL)"
        ),
    ),
    (
        r"ensurepip is not available|No module named ensurepip|No module named venv",
        "this Python cannot make virtual environments: install the package python3-venv, or name another Python (make PYTHON=…)",
    ),
    (
        r"Killed|MemoryError",
        "the machine ran out of memory: end other programs, then make install again",
    ),
)


def cause(log: str) -> str:
    """Why the installation failed, and what to do."""
    for sign, sentence in _CAUSES:
        if match := re.search(sign, log):
            return sentence.format(**match.groupdict())
    errors = [line for line in log.splitlines() if line.lower().startswith("error")]
    return errors[-1].partition(":")[2].strip() if errors else "pip does not say why"


def main() -> int:
    """Print it."""
    log = Path(sys.argv[1])
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    print(f"error: the installation failed: {cause(text)}\nthe whole log: {log}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
