"""The line for each request, and the entry through which requests reach the application."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from typing import Any

from ..auth.request import RequestInfo
from ..proxy.reply import PolledRelay
from ..server.handover import Nothing, take_connection
from ..server.stream import Stream
from .access_log import Journal, Line, logger
from .extension import State

NOTHING = Nothing()


class Entry:
    """The outermost WSGI layer of the stand-alone application.

    It parses the request's path once, so that routing and guard see the same one; it answers
    whoever is not let in before anything else is done for him; it gives every response a request
    id and every request a line in the log.

    :param application: the WSGI application behind it
    :param state: of the same application
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], state: State) -> None:
        self._application = application
        self._state = state
        self._cors = state.cors
        self._journal = state.journal
        self._pump = state.pump

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        info = self._state.admit_raw(environ)
        answer = _Answer(self._journal, info, environ, start_response)
        if refusal := info.refusal:
            body = refusal.get_body().encode("ascii")
            headers = [*refusal.get_headers(), ("Content-Length", str(len(body)))]
            headers += self._cors.headers(environ)
            answer.start(f"{refusal.code} {responses[refusal.code or 500]}", headers)
            answer.body = [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
            return answer
        try:
            answer.body = self._application(environ, answer.start)
        except BaseException:
            answer.close()
            raise
        return NOTHING if self._handed_over(answer, environ) else answer

    def _handed_over(self, answer: _Answer, environ: dict[str, Any]) -> bool:
        """Leave a stream to the pump, when the server is one whose connections can be taken."""
        relay = answer.body
        if not isinstance(relay, PolledRelay) or relay.is_whole:
            return False
        client = take_connection(environ)
        if client is None:
            return False
        chunked = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        stream = Stream(relay, client, chunked=chunked, passed=answer.passed, ended=answer.close)
        taken = self._pump.carry(stream)
        if not taken:
            client.close()
        return taken


class _Answer:
    """A response on its way out: counted, timed, and logged when it ends."""

    def __init__(
        self, journal: Journal, info: RequestInfo, environ: dict[str, Any], start_response: Any
    ) -> None:
        self._journal = journal
        self.body: Iterable[bytes] = ()
        self._info = info
        self._environ = environ
        self._start_response = start_response
        self._status = "-"
        self._sent = 0
        self._first: float | None = None
        self._iterator: Iterator[bytes] | None = None

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._status = status[:3]
        if not any(name.lower() in ("x-request-id", "request-id") for name, _ in headers):
            headers = [*headers, ("x-request-id", self._info.id)]
        write: Callable[[bytes], object] = self._start_response(status, headers, exc_info)
        return write

    def __iter__(self) -> Iterator[bytes]:
        self._iterator = iter(self.body)
        return self

    def __next__(self) -> bytes:
        assert self._iterator is not None
        chunk = next(self._iterator)
        self.passed(chunk)
        return chunk

    def passed(self, chunk: bytes) -> None:
        """Count what is sent."""
        if self._first is None:
            self._first = time.perf_counter()
        self._sent += len(chunk)

    def close(self) -> None:
        try:
            if close := getattr(self.body, "close", None):
                close()
        finally:
            self._log()

    def _log(self) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        now, began = time.perf_counter(), self._info.started
        method, first = self._environ["REQUEST_METHOD"], self._first or now
        times = (first - began) * 1000, (now - began) * 1000
        self._journal.put(Line.of(self._info, method, self._status, self._sent, *times))
