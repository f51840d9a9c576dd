"""What the proxy records of a request and its response: each event with its time, queued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..http.grammar import Headers

AnyHeaders = Mapping[str, str] | Iterable[tuple[str, str]]

About = tuple[str, dict[str, str | None], tuple[str, ...]]
"""Client, ids, and credentials of a request."""

Event = tuple[int, About | None, str, float, tuple[Any, ...]]
"""Number of the exchange, what it is about (with its first event), direction, time, and the rest.

Of types that `marshal` knows: another process makes lines of it.
"""


class Exchange:
    """Records one request and its response, in the order in which things happen.

    Headers are a mapping or pairs of names and values.

    :param put: queues an event; True when it found room
    :param number: of this exchange
    """

    def __init__(self, put: Callable[..., bool], number: int, about: About) -> None:
        self._enqueue = put
        self._number = number
        self._about: About | None = about
        self._ended = False

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
        self._put("inbound_request", _request(method, target, headers, body, length))

    def outbound_request(
        self,
        method: str,
        url: str,
        headers: AnyHeaders,
        body: bytes | None,
        length: int | None = None,
    ) -> None:
        """Record what is sent to the backend."""
        self._put("outbound_request", _request(method, url, headers, body, length))

    def inbound_response(self, status: int, headers: AnyHeaders) -> None:
        """Record the head of the backend's response; its body follows in chunks."""
        self._put("inbound_response", (status, _pairs(headers)), belongs=True)

    def stream_chunk(self, data: bytes) -> None:
        """Record a piece of the response's body, whether it is a stream of events or not."""
        self._put("stream_chunk", (data,))

    def finished(self, error: str | None = None) -> None:
        """Record the end, once.

        :param error: what broke it off
        """
        self._put("outbound_response", (error,), belongs=True)

    def _put(self, direction: str, rest: tuple[Any, ...], *, belongs: bool = False) -> None:
        """Queue an event.

        An exchange whose first event found no room is left out as a whole.

        :param belongs: it is small, and those before it are not complete without it
        """
        if self._ended:
            return
        self._ended = direction == "outbound_response"
        about = self._about
        event: Event = (self._number, about, direction, time.time(), rest)
        if self._enqueue(event, always=belongs and about is None):
            self._about = None
        elif about is not None:
            self._ended = True


def _request(
    method: str, url: str, headers: AnyHeaders, body: bytes | None, length: int | None
) -> tuple[Any, ...]:
    body = body or b""
    return method, url, _pairs(headers), body, len(body) if length is None else length


def _pairs(headers: AnyHeaders) -> Headers:
    return list(headers.items() if isinstance(headers, Mapping) else headers)
