"""A study while its search runs → its report as a page on this machine that renews itself.

It is served to this machine alone; from another one it is seen through `ssh -L PORT:127.0.0.1:PORT`.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from reranker.errors import EnvironmentFault
from results.reporting.report_data import content_of
from results.reporting.write_report import to_html
from results.study.search_state import SearchState
from results.study.study_folder import StudyFolder

_RENEW_S = 10  # how often a browser asks again while the search runs
_HOSTS = ("127.0.0.1", "localhost")
_RECORDS = ("ending.json", "search.lock", "test_readings.jsonl", "trials/*/epochs.jsonl", "trials/*/status.json")


class LivePage:
    """The report as it is now, made anew when the study has changed."""

    def __init__(self, study: StudyFolder) -> None:
        self._study = study
        self._alone = threading.Lock()
        self._page, self._seen = b"", ("", frozenset[tuple[str, int]]())

    def html(self) -> bytes:
        """The page; of two who ask at once, one waits for the other."""
        with self._alone:
            seen = (str(SearchState.of(self._study)), self._records())
            if seen != self._seen or not self._page:
                self._page, self._seen = to_html(content_of(self._study)).encode(), seen
            return self._page

    def renews(self) -> bool:
        """Whether there may be something new in a while."""
        return not SearchState.of(self._study).has_ended

    def _records(self) -> frozenset[tuple[str, int]]:
        """What is written of trials, and when."""
        files = [path for pattern in _RECORDS for path in self._study.path.glob(pattern)]
        return frozenset((str(path), path.stat().st_mtime_ns) for path in files if path.exists())


class LiveServer(ThreadingHTTPServer):
    """Gives the page at `/` to browsers on this machine.

    Raises:
        EnvironmentFault: the port is taken.
    """

    daemon_threads = True

    def __init__(self, study: StudyFolder, port: int) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise EnvironmentFault(
                f"port {port} on 127.0.0.1 cannot be had ({error.strerror}); name another with --port"
            ) from error
        self.page = LivePage(study)

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """The page, or why not."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in _HOSTS:  # a page of the web that names this machine otherwise
            self._answer(HTTPStatus.FORBIDDEN, b"ask for 127.0.0.1 or localhost\n", "text/plain")
        elif urlsplit(self.path).path != "/":
            self._answer(HTTPStatus.NOT_FOUND, b"the report is at /\n", "text/plain")
        else:
            renews = self.server.page.renews()
            self._answer(HTTPStatus.OK, self.server.page.html(), "text/html", renews=renews)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, *, renews: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if renews:
            self.send_header("Refresh", str(_RENEW_S))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Say nothing of each request."""
