"""An upstream's answer on its way to the client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import waitress.channel
from flask import Response

from .capture import Exchange
from .exceptions import ClientDisconnected, error_body
from .guard import RequestInfo
from .headers import Headers
from .upstream import Incoming, UpstreamBroke

logger = logging.getLogger(__name__)

_BETWEEN_EVENTS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class BrokenOffError(waitress.channel.ClientDisconnected):
    """Ends an answer so that it does not look complete.

    Any exception makes a WSGI server close the connection; of this one waitress logs no traceback.
    """


class UpstreamReply(Response):
    """An upstream's answer: headers and bytes as they are, not as werkzeug would have them."""

    def __init__(self, relay: Relay, headers: Headers, *, flush: bool) -> None:
        self._relay = relay
        incoming = relay.incoming
        super().__init__(relay, incoming.status, headers, direct_passthrough=True)
        self._line = f"{incoming.status} {incoming.reason}".rstrip()
        self._flush = flush

    def __call__(self, environ: Any, start_response: Any) -> Any:
        try:
            write = start_response(self._line, list(self.headers))
            if self._flush and "waitress.client_disconnected" in environ:
                # waitress sends the headers with the first bytes, which may be minutes away.
                write(b"")
        except BaseException:
            self._relay.close()  # the server closes only what it was given
            raise
        return self._relay


class Relay:
    """The body of an upstream's answer on its way to the client.

    Owns what the exchange holds: the upstream's connection and the slot. A generator would not
    give them back when nobody ever iterates it.
    """

    def __init__(
        self,
        incoming: Incoming,
        received: Mapping[str, str],
        *,
        name: str,
        info: RequestInfo,
        release: Callable[[], None],
        exchange: Exchange | None,
    ) -> None:
        self.incoming = incoming
        self._chunks = incoming.chunks()
        self._name = name
        self._info = info
        self._release: Callable[[], None] | None = release
        self._exchange = exchange
        self._tail = b"\n\n"
        self._broken = False
        plain = "content-encoding" not in received and "content-length" not in received
        kind = received.get("content-type", "")
        self._events = plain and kind.lower().startswith("text/event-stream")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._broken:
            raise BrokenOffError
        try:
            chunk = next(self._chunks)
        except ClientDisconnected:
            self._info.error = "client_disconnected"
            raise BrokenOffError from None
        except UpstreamBroke as exc:
            return self._break_off(exc)
        if self._events:
            self._tail = (self._tail + chunk)[-4:] if len(chunk) < 4 else chunk[-4:]
        if self._exchange:
            self._exchange.stream_chunk(chunk)
        return chunk

    def close(self) -> None:
        """Give everything back; called by the server when the answer has ended, however it did."""
        release, self._release = self._release, None
        if release is None:
            return
        try:
            self.incoming.close()
            if self._exchange:
                self._exchange.finished(self._info.error)
        finally:
            release()

    def __del__(self) -> None:
        self.close()  # for an answer that the host application replaced by another

    def _break_off(self, exc: UpstreamBroke) -> bytes:
        """Tell the client of an event stream, then end in a way that does not look complete."""
        self._info.error = "upstream_broke"
        logger.warning("backend '%s' broke off in the middle of an answer (%s)", self._name, exc)
        self._broken = True
        if not self._events or not self._tail.endswith(_BETWEEN_EVENTS):
            raise BrokenOffError
        body = error_body(
            f"The backend '{self._name}' broke off in the middle of its answer.",
            type="api_error",
            status="UNAVAILABLE",
            code="upstream_broke",
            request_id=self._info.id,
        )
        return b"event: error\ndata: " + body + b"\n\n"
