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

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
"""As ``http.client`` has it, which many clients are built on."""

MAX_INTERIM_RESPONSES = 32
"""Responses with a status of 1xx before the final one; more are an attack or a defect."""

MAX_LINE = 4096
"""Bytes of a chunk's size with its extensions, or of the trailers."""

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_REFUSAL = re.compile(rb"^HTTP/1\.[01] [3-5]", re.MULTILINE)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_OWS = " \t"

_ONCE = frozenset({"content-length", "content-type", "date", "etag", "last-modified", "location"})
"""Fields that a message has once; said twice alike, they are one."""

Receive = Callable[[], bytes]
"""Returns the next bytes from the upstream, none at the end of the connection."""


class BadResponseError(http.client.HTTPException):
    """The upstream sent something that is not HTTP."""

    content = b""
    """What was received of the body together with it, before it."""


class NoResponseError(http.client.RemoteDisconnected):
    """The upstream closed the connection before the end of the headers."""


@dataclass
class Head:
    """The status line and the headers of a response.

    :param rest: bytes that were received after it
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]
    is_1_0: bool
    rest: bytes

    def values(self, name: str) -> list[str]:
        """Return the elements of a list-valued header, in lower case."""
        found = [value for key, value in self.headers if key.lower() == name]
        return [part.strip(_OWS).lower() for part in ",".join(found).split(",")] if found else []


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
        head = _parsed(data[: end.start()], data[end.end() :])
        if not 100 <= head.status < 200:
            return head
        if head.status == 101:
            raise BadResponseError("nobody asked for another protocol")
        data = head.rest
    raise BadResponseError("too many interim responses")


def _parsed(head: bytes, rest: bytes) -> Head:
    status_line, *lines = _LINE_END.split(head)
    status = _STATUS_LINE.fullmatch(status_line)
    if not status:
        raise BadResponseError("the status line is not HTTP/1")
    if len(lines) > MAX_HEADERS:
        raise BadResponseError("there are too many headers")
    headers: list[tuple[str, str]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and headers:  # obs-fold, RFC 9112 §5.2
            name, value = headers[-1]
            headers[-1] = (name, f"{value} {line.decode('latin-1').strip(_OWS)}")
            continue
        raw, colon, content = line.partition(b":")
        raw = raw.rstrip(b" \t")
        if not colon or not _NAME.fullmatch(raw):
            raise BadResponseError("a header is malformed")
        headers.append((raw.decode("ascii"), content.decode("latin-1").strip(_OWS)))
    reason = (status[3] or b"").decode("latin-1")
    return Head(int(status[2]), reason, _once(headers), status[1] == b"0", rest)


def _once(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers without the repetitions of those that a message has once."""
    kept: list[tuple[str, str]] = []
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
        self._decoder: ChunkedDecoder | None = None
        codings = head.values("transfer-encoding")
        self._left = _length(head, overridden=bool(codings))
        bodiless = method == "HEAD" or head.status in (204, 304)
        if bodiless:
            self._left = 0
        elif codings:
            if codings != ["chunked"]:
                raise BadResponseError("the transfer coding is unknown")
            self._decoder = ChunkedDecoder()
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
            content = self._decoder.feed(data)
            if self._decoder.done:
                self._finish(self._decoder.rest)
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

    def chunks(self, receive: Receive) -> Iterator[bytes]:
        """Yield the content as it arrives; raises as :meth:`feed` does."""
        while not self.complete:
            data, self.received = self.received or receive(), b""
            try:
                content = self.feed(data)
            except BadResponseError as exc:
                if exc.content:
                    yield exc.content
                raise
            if content:
                yield content

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
    if not all(map(_LENGTH.fullmatch, values)) or len(set(map(int, values))) > 1:
        raise BadResponseError("the content length is not one number")
    if len(values) > 1 or values[0] != str(int(values[0])):
        head.headers[:] = [*others, ("Content-Length", str(int(values[0])))]
    return int(values[0])


_SIZE_LINE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedDecoder:
    """Takes the chunks of RFC 9112 §7.1 apart; drops extensions and trailers."""

    def __init__(self) -> None:
        self._state = _SIZE_LINE
        self._left = 0
        self._buffer = b""
        self._trailer_bytes = 0
        self.done = False

    @property
    def rest(self) -> bytes:
        """What was fed after the end."""
        return self._buffer

    def feed(self, data: bytes) -> bytes:
        """Return the content that has become known; sets ``done`` at the end.

        :raises BadResponseError: for anything but chunks
        """
        content: list[bytes] = []
        try:
            self._take_apart(self._buffer + data if self._buffer else data, content)
        except BadResponseError as exc:
            exc.content = b"".join(content)
            raise
        return content[0] if len(content) == 1 else b"".join(content)

    def _take_apart(self, buffer: bytes, content: list[bytes]) -> None:
        at = 0
        while not self.done:
            if self._state == _DATA:
                piece = buffer[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = _DATA_END
            if self._state == _DATA_END:
                end = buffer[at : at + 2]
                if end != b"\r\n"[: len(end)]:
                    raise BadResponseError("a chunk is longer than its size")
                if len(end) < 2:
                    break
                at += 2
                self._state = _SIZE_LINE
            end_of_line = buffer.find(b"\n", at)
            if (len(buffer) if end_of_line < 0 else end_of_line) - at > MAX_LINE:
                raise BadResponseError("a line between chunks is too long")
            if end_of_line < 0:
                break
            self._line(buffer[at:end_of_line].rstrip(b"\r"))
            at = end_of_line + 1
        self._buffer = buffer[at:]

    def _line(self, line: bytes) -> None:
        if self._state == _TRAILERS:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_HEAD_BYTES:
                raise BadResponseError("the trailers are too long")
            self.done = not line
            return
        size = line.partition(b";")[0].strip(b" \t")
        if not _SIZE.fullmatch(size):
            raise BadResponseError("a chunk's size is not a number")
        self._left = int(size, 16)
        self._state = _DATA if self._left else _TRAILERS
