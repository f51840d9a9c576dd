"""What a request leaves for the wire capture: it takes the time, and queues what it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from .capture_events import ExchangeLog

_OVERHEAD = 1024
"""Bytes an event takes beside its body."""

AnyHeaders = Mapping[str, str] | Iterable[tuple[str, str]]


class Item(NamedTuple):
    log: ExchangeLog
    direction: str
    at: float
    size: int
    render: Callable[[], list[str]]


class Exchange:
    """Records one request and its response, in the order in which things happen.

    Headers are a mapping or pairs of names and values.
    """

    def __init__(self, put: Callable[..., bool], log: ExchangeLog) -> None:
        self._enqueue = put
        self._log = log
        self._begun = self._skipped = self._finished = False

    def inbound_request(
        self,
        method: str,
        target: str,
        headers: AnyHeaders,
        body: bytes | None,
        length: int | None = None,
    ) -> None:
        """Record what the client sent.

        :param length: of the body, of which only the beginning may be given
        """
        self._request("inbound_request", method, target, headers, body, length)

    def outbound_request(
        self,
        method: str,
        url: str,
        headers: AnyHeaders,
        body: bytes | None,
        length: int | None = None,
    ) -> None:
        """Record what is sent to the backend."""
        self._request("outbound_request", method, url, headers, body, length)

    def inbound_response(self, status: int, headers: AnyHeaders) -> None:
        """Record the head of the backend's response; its body follows in chunks."""
        at, pairs = time.time(), _pairs(headers)
        self._put("inbound_response", at, lambda: self._log.response(at, status, pairs))

    def stream_chunk(self, data: bytes) -> None:
        """Record a piece of the response's body, whether it is a stream of events or not."""
        at = time.time()
        self._put("stream_chunk", at, lambda: self._log.chunk(at, data), len(data))

    def finished(self, error: str | None = None) -> None:
        """Record the end, once.

        :param error: what broke it off
        """
        if not self._finished:
            self._finished = True
            at = time.time()
            self._put("outbound_response", at, lambda: self._log.finished(at, error))

    def _request(
        self,
        direction: str,
        method: str,
        url: str,
        headers: AnyHeaders,
        body: bytes | None,
        length: int | None,
    ) -> None:
        at, pairs, data = time.time(), _pairs(headers), body or b""

        def render() -> list[str]:
            return self._log.request(direction, at, method, url, pairs, data, length)

        self._put(direction, at, render, len(data))

    def _put(
        self, direction: str, at: float, render: Callable[[], list[str]], size: int | None = None
    ) -> None:
        """Queue an event; one without a size, of its own bytes, belongs to those before it.

        An exchange whose first event found no room is left out as a whole.
        """
        if self._skipped:
            return
        item = Item(self._log, direction, at, (size or 0) + _OVERHEAD, render)
        always, patient = self._begun and size is None, direction != "stream_chunk"
        queued = self._enqueue(item, always=always, patient=patient)
        self._skipped = not self._begun and not queued
        self._begun = self._begun or queued


def _pairs(headers: AnyHeaders) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)
