"""Reading an HTTP/1.1 response (RFC 9112) as it arrives, and nothing more lenient than safe.

``http.client`` reads a stream through five layers, and its headers with a parser for e-mail: half
of what forwarding a request cost. It also takes a body in an unknown transfer coding for one that
ends with the connection.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .chunks import Decoder
from .grammar import (
    FIELD_CHARS,
    LENGTH,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    OWS,
    TOKEN,
    BadMessageError,
    Headers,
)

MAX_INTERIM_RESPONSES = 32
"""Responses with a status of 1xx before the final one; more are an attack or a defect."""

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(r"\r?\n")
_REFUSAL = re.compile(rb"^HTTP/1\.[01] [3-5]", re.MULTILINE)
_STATUS_LINE = re.compile(rf"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([{FIELD_CHARS}]*))?")

_ONCE = frozenset({"content-length", "content-type", "date", "etag", "last-modified", "location"})
"""Fields that a message has once; said twice alike, they are one."""

Receive = Callable[[], bytes]
"""Returns the next bytes from the upstream, none at the end of the connection."""


class BadResponseError(http.client.HTTPException):
    """The upstream sent something that is not HTTP.

    :param content: what was received of the body together with it, before it
    """

    def __init__(self, message: str, content: bytes = b"") -> None:
        super().__init__(message)
        self.content = content


class NoResponseError(http.client.RemoteDisconnected):
    """The upstream closed the connection before the end of the headers."""


@dataclass
class Head:
    """The status line and the headers of a response.

    :param rest: bytes that were received after it
    """

    status: int
    reason: str
    headers: Headers
    is_1_0: bool
    rest: bytes

    def values(self, name: str) -> list[str]:
        """Return the elements of a list-valued header, in lower case."""
        lines = [value for key, value in self.headers if key.lower() == name]
        return [part.strip(OWS).lower() for part in ",".join(lines).split(",")] if lines else []


def is_refusal(data: bytes) -> bool:
    """Whether a response that is no success begins in the data, perhaps after interim ones."""
    return _REFUSAL.search(data) is not None


def read_head(receive: Receive) -> Head:
    """Read the head of the final response, past interim ones (RFC 9110 §15.2)."""
    data = b""
    for _ in range(MAX_INTERIM_RESPONSES):
        searched = 0
        while not (end := _HEAD_END.search(data, searched)):
            if len(data) > MAX_HEAD_BYTES:
                raise BadResponseError("the headers are too long")
            searched = max(0, len(data) - 3)
            received = receive()
            if not received:
                raise NoResponseError("the connection was closed before the end of the headers")
            data += received
        head = _parse_head(data[: end.start()], data[end.end() :])
        if not 100 <= head.status < 200:
            return head
        if head.status == 101:
            raise BadResponseError("nobody asked for another protocol")
        data = head.rest
    raise BadResponseError("too many interim responses")


def _parse_head(head: bytes, rest: bytes) -> Head:
    status_line, *lines = _LINE_END.split(head.decode("latin-1"))
    status = _STATUS_LINE.fullmatch(status_line)
    if not status:
        raise BadResponseError("the status line is not HTTP/1")
    if len(lines) > MAX_HEADERS:
        raise BadResponseError("there are too many headers")
    headers: Headers = []
    for line in lines:
        if line.startswith((" ", "\t")) and headers:  # obs-fold, RFC 9112 §5.2
            name, value = headers[-1]
            headers[-1] = (name, f"{value} {line.strip(OWS)}")
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(OWS)
        if not colon or not TOKEN.fullmatch(name):
            raise BadResponseError("a header is malformed")
        headers.append((name, value.strip(OWS)))
    return Head(int(status[2]), status[3] or "", _without_repeats(headers), status[1] == "0", rest)


def _without_repeats(headers: Headers) -> Headers:
    """Return the headers without the repetitions of those that a message has once."""
    kept: Headers = []
    single: set[tuple[str, str]] = set()
    for name, value in headers:
        field = name.lower(), value
        if field[0] in _ONCE:
            if field in single:
                continue
            single.add(field)
        kept.append((name, value))
    return kept


class Body:
    """The body of a response, framed as RFC 9112 §6.3 says.

    :param method: of the request
    :param head: of the response; keeps one ``Content-Length``, or none where the framing
        overrides it
    :raises BadResponseError: for a framing that is not certain
    """

    def __init__(self, method: str, head: Head) -> None:
        self._decoder: Decoder | None = None
        codings = head.values("transfer-encoding")
        self._left = _length(head, overridden=bool(codings))
        bodiless = method == "HEAD" or head.status in (204, 304)
        if bodiless:
            self._left = 0
        elif codings:
            if codings != ["chunked"]:
                raise BadResponseError("the transfer coding is unknown")
            self._decoder = Decoder(strict=False)
        options = head.values("connection")
        alive = "keep-alive" in options if head.is_1_0 else "close" not in options
        framed = self._decoder is not None or self._left is not None
        # HTTP/1.0 has no chunks: somebody in between did not understand them (RFC 9112 §6.1). And
        # a body that must not be there is told from the next answer by nothing, if it is there.
        doubtful = bodiless or (head.is_1_0 and bool(codings))
        self._keep_alive = alive and framed and not doubtful
        self.received = head.rest
        """What was received together with the head, to be fed first."""

        self.complete = self._left == 0
        """Whether all of the body has been received."""

        self._rest = head.rest if self.complete else b""

    @property
    def reusable(self) -> bool:
        """True once the connection may carry another request, as far as the response shows."""
        return self.complete and self._keep_alive and not self._rest

    def feed(self, data: bytes) -> bytes:
        """Return the content in what was received; receiving nothing is the connection's end.

        :raises BadResponseError: for bad chunking, or an end before the end
        """
        if self._decoder:
            content = self._from_chunks(self._decoder, data)
        elif self._left is not None:
            content = data[: self._left]
            self._left -= len(content)
            if not self._left:
                self._finish(data[len(content) :])
        else:
            content = data
            if not data:
                self._finish(b"")
        if not (data or self.complete):
            raise BadResponseError("the connection was closed before the end of the body")
        return content

    def chunks(self, receive: Callable[[], bytes | None]) -> Iterator[bytes]:
        """Yield the content as it arrives; raises as :meth:`feed` does.

        :param receive: returns what comes next, or None for a pause, for which nothing is yielded
        """
        while not self.complete:
            data, self.received = self.received or receive(), b""
            if data is None:
                yield b""
                continue
            try:
                content = self.feed(data)
            except BadResponseError as exc:
                if exc.content:
                    yield exc.content
                raise
            if content:
                yield content

    def _from_chunks(self, decoder: Decoder, data: bytes) -> bytes:
        try:
            content = decoder.feed(data)
        except BadMessageError as exc:
            raise BadResponseError(str(exc), exc.content) from exc
        if decoder.done:
            self._finish(decoder.rest)
        return content

    def _finish(self, rest: bytes) -> None:
        self.complete, self._rest = True, rest


def _length(head: Head, *, overridden: bool) -> int | None:
    """Return the body's length, and leave one header that says it (RFC 9110 §8.6).

    :param overridden: by a transfer coding, so that none is left
    """
    values = head.values("content-length")
    if not values:
        return None
    others = [header for header in head.headers if header[0].lower() != "content-length"]
    if overridden:
        head.headers[:] = others
        return None
    if not all(map(LENGTH.fullmatch, values)) or len(set(map(int, values))) > 1:
        raise BadResponseError("the content length is not one number")
    if len(values) > 1 or values[0] != str(int(values[0])):
        head.headers[:] = [*others, ("Content-Length", str(int(values[0])))]
    return int(values[0])
