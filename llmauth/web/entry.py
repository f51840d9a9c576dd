"""The line for each request, and the entry through which requests reach the application."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from typing import Any

from ..auth.request import RequestInfo
from ..exceptions import BrokenOff, RequestRefused
from ..http.grammar import Headers
from ..proxy.reply import KEEP_ALIVE, StreamBody
from .access_log import Line, logger
from .extension import ENTRY, State


class Entry:
    """The outermost WSGI layer of the stand-alone application.

    It parses the request's path once, so that routing and guard see the same one; it answers
    whoever is not let in before anything else is done for him; it gives every response its
    headers and every request a line in the log.

    :param application: the WSGI application behind it
    :param state: of the same application
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], state: State) -> None:
        self._application = application
        self._state = state

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[ENTRY] = self._state
        info = self._state.guard.info(environ)
        if not info.decided:
            self._state.admit_raw(environ)
        answer = _Answer(self._state, info, environ, start_response)
        if info.refusal:
            if accounts := self._state.accounts:
                accounts.note_refused(info.refusal.error_code)
            answer.refuse(info.refusal)
            return answer
        try:
            answer.body = self._application(environ, answer.start)
        except BaseException:
            answer.close()
            raise
        return _carried(answer, environ) or answer


def _carried(answer: _Answer, environ: dict[str, Any]) -> Iterable[bytes] | None:
    """Leave a stream to the server, where that can carry it without this thread."""
    carry, body = environ.get("llmauth.carry"), answer.body
    if carry is None or not isinstance(body, StreamBody) or body.is_whole:
        return None
    carried: Iterable[bytes] | None = carry(environ, body, answer.passed, answer.close)
    return carried


class _Answer:
    """A response on its way out, whoever made it: all of them leave through here.

    It gets the headers that every response has when it begins, is counted as it passes, and when
    it ends, however it does, what it holds is given back and its line is left for the log.
    """

    def __init__(
        self, state: State, info: RequestInfo, environ: dict[str, Any], start_response: Any
    ) -> None:
        self._state = state
        self.body: Iterable[bytes] = ()
        self._info = info
        self._environ = environ
        self._start_response = start_response
        self._status = "-"
        self._sent = 0
        self._first: float | None = None
        self._iterator: Iterator[bytes] | None = None
        self._ended = False

    def __del__(self) -> None:
        self.close()  # uvicorn's WSGI middleware does not

    def start(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._status = status[:3]
        names = [name for name, _ in headers]
        added = self._state.added_headers(self._info, self._environ, names)
        write: Callable[[bytes], object] = self._start_response(status, headers + added, exc_info)
        return write

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer whoever is not let in."""
        body = refusal.get_body().encode("ascii")
        headers = [*refusal.get_headers(), ("Content-Length", str(len(body)))]
        self.start(f"{refusal.code} {responses[refusal.code or 500]}", headers)
        self.body = [] if self._environ["REQUEST_METHOD"] == "HEAD" else [body]

    def __iter__(self) -> Iterator[bytes]:
        self._iterator = iter(self.body)
        return self

    def __next__(self) -> bytes:
        assert self._iterator is not None
        try:
            chunk = next(self._iterator)
        except BrokenOff:
            raise self._environ.get("llmauth.broken_off", BrokenOff) from None
        if chunk is not KEEP_ALIVE:
            self.passed(chunk)
        return chunk

    def passed(self, chunk: bytes) -> None:
        """Count what is sent."""
        if self._first is None:
            self._first = time.perf_counter()
        self._sent += len(chunk)

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
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
        self._state.access_log.put(Line.of(self._info, method, self._status, self._sent, *times))
