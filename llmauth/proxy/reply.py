"""An upstream's answer on its way to the client."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..exceptions import BrokenOff, ClientDisconnected, error_body
from ..http.grammar import Headers
from ..http.response import BadResponseError
from ..redact.key_mask import KeyMask
from .failures import detail
from .slots import Lease
from .upstream import HTTPIncoming, Incoming, UpstreamBroke

logger = logging.getLogger(__name__)

HELD_BACK = 1024 * 1024
"""Bytes of one line of an error body that are held back at most while the backend's key is masked
in it."""

_COMPRESSED = frozenset(
    {"br", "compress", "dcb", "dcz", "deflate", "gzip", "x-compress", "x-gzip", "zstd"}
)
"""IANA's registry of content codings, where texts stay no texts."""

_BETWEEN_EVENTS = (b"\n\n", b"\r\n\r\n", b"\r\r")


KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients of event streams leave out (HTML standard, §9.2.6)."""


@dataclass
class Reply:
    """What goes back to the client: an upstream's answer, or what is made of it.

    :param line: status and reason
    :param headers: all but what every answer of this server has
    :param flush: the head is to be sent before there is any content
    """

    status: int
    line: str
    headers: Headers
    body: ReplyBody
    flush: bool


class ReplyBody:
    """The content of a reply, as the server asks for it.

    Ends the lease. A generator would not when nobody ever iterates it.

    :param received: the upstream's headers, by their lower-case names
    :param name: of the backend
    :param keep_alive: seconds of silence between two events after which there is a comment, 0 for
        none
    """

    def __init__(
        self,
        incoming: Incoming,
        received: Mapping[str, str],
        *,
        name: str,
        lease: Lease,
        keep_alive: float = 0.0,
    ) -> None:
        self._incoming = incoming
        self._chunks = incoming.chunks()
        self._grant = lease.grant
        self._filter = lease.grant.usage_filter if lease.grant else None
        self._name = name
        self._lease = lease
        self._info = lease.info
        self._exchange = lease.exchange
        self._tail = b"\n\n"
        self.broken = False
        self._is_being_sent = False
        plain = "content-encoding" not in received and "content-length" not in received
        kind = received.get("content-type", "")
        self._events = plain and kind.lower().startswith("text/event-stream")
        self._named: bool | None = None
        self._pause = keep_alive if self._events else 0.0
        self._silent_since = time.monotonic()
        if self._pause and isinstance(incoming, HTTPIncoming):
            incoming.tells_pauses = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._is_being_sent = False
        if self.broken:
            raise BrokenOff
        try:
            while not (chunk := next(self._chunks)):
                if comment := self.keep_alive(time.monotonic()):
                    self._is_being_sent = True
                    return comment
        except StopIteration:
            self._end_grant()
            if rest := self._held():
                return rest
            raise
        except ClientDisconnected:
            last_words = self.cut() if self._lease.cut_off else b""
            if not last_words:
                self.client_left()
                raise BrokenOff from None
            return last_words
        except UpstreamBroke as exc:
            last_words = self.break_off(exc)
            if not last_words:
                raise BrokenOff from None
            return last_words
        self._is_being_sent = True
        chunk = self._noted(chunk)
        if self._incoming.complete:
            self._incoming.close()  # its connection is free for what the client asks next
        return chunk

    def keep_alive(self, now: float) -> bytes:
        """Return a comment when the client has heard nothing for long; never inside an event."""
        if not self._pause or now - self._silent_since < self._pause or not self._is_between_events:
            return b""
        self._silent_since = now
        return KEEP_ALIVE

    @property
    def _is_between_events(self) -> bool:
        return self._events and self._tail.endswith(_BETWEEN_EVENTS)

    def client_left(self) -> None:
        """Take note that nobody reads any more, or is to, because the server is being stopped."""
        self._info.error = self._lease.cut_off or "client_disconnected"

    def _noted(self, chunk: bytes) -> bytes:
        """Return what of a piece of the answer goes to the client, after all have taken note."""
        if self._exchange:
            self._exchange.stream_chunk(chunk)
        if self._grant:
            self._grant.feed(chunk)
        self._end_grant()
        return self._passed(self._filter.feed(chunk) if self._filter else chunk)

    def _end_grant(self) -> None:
        """Have an answer counted that has ended, before the client has it, and asks for more."""
        if self._grant and self._incoming.complete:
            self._grant.end(None)

    def _held(self) -> bytes:
        """Return what was held back of an answer that has ended."""
        return self._passed(self._filter.end()) if self._filter else b""

    def _passed(self, chunk: bytes) -> bytes:
        """Take note of what the client gets."""
        if self._events and chunk:
            if self._named is None:
                self._named = chunk.startswith(b"event:")
            self._tail = (self._tail + chunk)[-4:] if len(chunk) < 4 else chunk[-4:]
            if self._pause:
                self._silent_since = time.monotonic()
        return chunk

    def close(self) -> None:
        """End the request; called by the server when the answer has ended, however it did."""
        if self._is_being_sent and self._info.error is None:
            self.client_left()  # or the server would have asked for more
        self._is_being_sent = False
        self._lease.end(self._info.error)

    def __del__(self) -> None:
        self.close()  # for an answer that the host application replaced by another

    def break_off(self, reason: Exception) -> bytes:
        """End the answer so that it does not look complete.

        :returns: an event for the client, when the stream is one of events and between two
        """
        self._info.error = "upstream_broke"
        logger.warning(
            "%s: the backend '%s' broke off in the middle of an answer (%s)",
            self._info.id,
            self._name,
            detail(reason),
            extra={"request_id": self._info.id},
        )
        message = f"The backend '{self._name}' broke off in the middle of its answer."
        return self._last_words(502, "api_error", "UNAVAILABLE", "upstream_broke", message)

    def cut(self) -> bytes:
        """End the answer because the server ends, or the client's right to it.

        :returns: as :meth:`break_off`
        """
        self.client_left()
        if self._lease.cut_off == "key_withdrawn":
            message = "The key was withdrawn while its request was running."
            kind = 401, "authentication_error", "UNAUTHENTICATED", "key_withdrawn"
        else:
            message = "This server is being stopped. Try again."
            kind = 503, "api_error", "UNAVAILABLE", "server_stopping"
        return self._last_words(*kind, message)

    def _last_words(self, code: int, type: str, status: str, name: str, message: str) -> bytes:
        """Return what was held back, and between two events one that says why they end here."""
        self.broken = True
        rest = self._held()
        if not self._is_between_events:
            return rest
        if self._named is False:
            # Google's client wants ``error`` to come first, and its code to be a number.
            error = {"message": message, "type": type, "code": code, "status": status}
            data = json.dumps({"error": error, "request_id": self._info.id})
            return rest + f"data: {data}\n\n".encode("ascii")
        body = error_body(
            message, type=type, status=status, code=name, request_id=self._info.id
        )
        return rest + b"event: error\ndata: " + body + b"\n\n"


class StreamBody(ReplyBody):
    """A stream from a socket, which can also be fed by whoever reads that in our place."""

    def __init__(
        self,
        incoming: HTTPIncoming,
        received: Mapping[str, str],
        *,
        name: str,
        lease: Lease,
        keep_alive: float = 0.0,
    ) -> None:
        super().__init__(incoming, received, name=name, lease=lease, keep_alive=keep_alive)
        self._body = incoming.body
        self.sock = incoming.sock
        self.read_timeout = incoming.read_timeout

    @property
    def received(self) -> bytes:
        return self._body.received

    @property
    def is_cut(self) -> bool:
        return self._lease.cut_off is not None

    @property
    def complete(self) -> bool:
        return self._body.complete

    @property
    def is_whole(self) -> bool:
        """True when all of it probably came together with the head."""
        return self.complete or self.received.endswith(b"\r\n0\r\n\r\n")

    def feed(self, data: bytes) -> bytes:
        """Return the content in what was read, and what is left to say when the rest is no HTTP."""
        bad: BadResponseError | None = None
        try:
            content = self._body.feed(data)
        except BadResponseError as exc:
            content, bad = exc.content, exc
        if content:
            content = self._noted(content)
        self._end_grant()
        if self._filter and (self.complete or bad or not data):
            content += self._held()
        return content + self.break_off(bad) if bad else content


def masked(incoming: Incoming, mask: KeyMask) -> Incoming:
    """Return an answer with the backend's key masked in its head, and in the body of an error.

    A compressed body is handed on as it is, and so is one that is no error's.
    """
    if not mask.longest:
        return incoming
    head = "\n".join([incoming.reason, *map("\n".join, incoming.headers)])
    if mask.text(head) != head:
        incoming.reason = mask.text(incoming.reason)
        incoming.headers = [
            (mask.text(name), value if name.lower() == "content-length" else mask.text(value))
            for name, value in incoming.headers
        ]
    if incoming.status < 400 or _is_compressed(incoming.headers):
        return incoming
    return _MaskedError(incoming, mask)


def _is_compressed(headers: Headers) -> bool:
    """True where a coding is named that hides what is said; the others name none that does."""
    values = [value for name, value in headers if name.lower() == "content-encoding"]
    return any(coding.strip().lower() in _COMPRESSED for coding in ",".join(values).split(","))


class _MaskedError:
    """An error whose body is masked on its way."""

    def __init__(self, incoming: Incoming, mask: KeyMask) -> None:
        self.status = incoming.status
        self.reason = incoming.reason
        self.headers: Headers = incoming.headers
        self.close = incoming.close
        self.complete = False  # lines of it may be held back
        self._incoming = incoming
        self._mask = mask

    def chunks(self) -> Iterator[bytes]:
        """Yield whole lines as they arrive: a key has no line break in it, an event ends in one."""
        held = bytearray()
        try:
            for chunk in self._incoming.chunks():
                lines = len(held) + chunk.rfind(b"\n") + 1 if b"\n" in chunk else 0
                held += chunk
                if lines:
                    yield self._mask.data(bytes(held[:lines]))
                    del held[:lines]
                elif len(held) >= HELD_BACK:
                    known = len(held) - self._mask.longest
                    held[:] = self._mask.data(bytes(held))
                    yield bytes(held[:known])
                    del held[:known]
        except UpstreamBroke:
            if held:
                yield self._mask.data(bytes(held))
            raise
        if held:
            yield self._mask.data(bytes(held))
