"""Reads requests: waitress's parser, made strict and its cost proportional to what is sent.

What stands in front of this server may understand a doubtful request in another way. waitress
takes several of them: two kinds of length at once, two hosts, folded lines, other versions of
HTTP. Its regular expressions need minutes for a header of spaces, and it collects a chunk's size
without a limit, both in the one thread that reads for all clients, and before any key is checked.
Here every line is checked first (RFC 9112), and only then handed on.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.utilities import Error

from .exceptions import error_body
from .guard import new_id

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100

MAX_LINE = 4096
"""Bytes of a chunk's size with its extensions, or of one line of trailers."""

MAX_TRAILERS = 16 * 1024

_REQUEST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]+ ([!-~]+) HTTP/1\.([01])")
_TARGET = re.compile(rb"/[^#]*|https?://[^#/?\[\]]+(?:[/?][^#]*)?|https?://\[[0-9A-Fa-f:.]+\][^#]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")

_TLS_HANDSHAKE = b"\x16\x03"
"""How a client of https:// begins (RFC 8446 §5.1)."""

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


@functools.cache
def _tell_of_tls() -> None:
    """Log it once: the client sees no more than that this is not TLS."""
    logger.warning(
        "a client speaks TLS to this port, which speaks plain HTTP: it must use http://, or put a "
        "reverse proxy with HTTPS in front of this server"
    )


class Refusal(Error):
    """An answer to what is not a request that can be understood in one way only.

    :param message: what is wrong with it; never a part of it, which may hold a key
    """

    _KINDS = {
        413: ("Content Too Large", "request_too_large"),
        431: ("Request Header Fields Too Large", "request_too_large"),
        501: ("Not Implemented", "not_supported"),
        505: ("HTTP Version Not Supported", "not_supported"),
    }

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.reason, self._error_code = self._KINDS.get(code, ("Bad Request", "invalid_request"))

    def to_response(self, ident: Any = None) -> Any:
        request_id = new_id()
        body = error_body(
            self.body,
            type="api_error" if self.code > 500 else "invalid_request_error",
            status="UNIMPLEMENTED" if self.code > 500 else "INVALID_ARGUMENT",
            code=self._error_code,
            request_id=request_id,
        )
        headers = [("Content-Type", "application/json"), ("x-request-id", request_id)]
        return f"{self.code} {self.reason}", headers, body


class _Refused(Exception):
    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.refusal = Refusal(message, code)


class Parser(HTTPRequestParser):
    """One request, as it arrives."""

    error: Error | None

    def received(self, data: bytes) -> int:
        """Take the next bytes; returns how many of them belong to this request."""
        try:
            if not self.headers_finished:
                self._check_line_ends(data)
            consumed = super().received(data)
        except _Refused as refused:
            consumed, self.error = len(data), refused.refusal
        except ValueError:
            consumed, self.error = len(data), Refusal("The request is malformed.")
        if self.error is not None:
            self.completed = True
            self.version = "1.1"
            if not isinstance(self.error, Refusal):
                code = getattr(self.error, "code", 400)
                words = "The request body is too large." if code == 413 else "It is malformed."
                self.error = Refusal(words, code)
        return consumed

    def _check_line_ends(self, data: bytes) -> None:
        """Refuse at once what will never become a head."""
        received = self.header_plus + data
        if received.startswith(_TLS_HANDSHAKE):
            _tell_of_tls()
            raise _Refused("This server speaks plain HTTP: use http:// in place of https://.")
        start = max(0, len(self.header_plus) - 3)
        end = received.find(b"\r\n\r\n", start)
        if _BARE_LINE_END.search(received, start, len(received) if end < 0 else end):
            raise _Refused("A line of the request ends in a bare CR or LF.")
        if len(received) > MAX_HEAD_BYTES and end < 0:
            raise _Refused(f"The headers are over {MAX_HEAD_BYTES} bytes long.", 431)

    def parse_header(self, header_plus: bytes) -> None:
        """Check a whole head, then have waitress take it apart."""
        if header_plus == b"GET / HTTP/1.0\r\n":
            super().parse_header(header_plus)  # waitress's own, when the head is too long
            return
        if len(header_plus) > MAX_HEAD_BYTES:
            raise _Refused(f"The headers are over {MAX_HEAD_BYTES} bytes long.", 431)
        request_line, *lines = header_plus.removesuffix(b"\r\n\r\n").split(b"\r\n")
        is_1_0 = _checked_request_line(request_line)
        fields = _checked_fields(lines)
        _check_framing(fields, is_1_0)
        # Without the spaces around values, for which waitress's expressions take so long.
        clean = [request_line, *(b": ".join(field) for field in fields), b"", b""]
        super().parse_header(b"\r\n".join(clean))
        if self.chunked:
            self.body_rcv: Any = Chunks(OverflowableBuffer(self.adj.inbuf_overflow))


def _checked_request_line(line: bytes) -> bool:
    """Return whether the request is one of HTTP/1.0."""
    found = _REQUEST_LINE.fullmatch(line)
    if not found:
        if re.search(rb" HTTP/(?!1\.[01]$)[0-9.]+$", line):
            raise _Refused("This server speaks HTTP/1.1.", 505)
        raise _Refused("The request line is malformed.")
    target, method = found[1], line.partition(b" ")[0]
    if not (_TARGET.fullmatch(target) or method == b"CONNECT" or line[:10] == b"OPTIONS * "):
        raise _Refused("The request target is neither a path nor a URL.")
    return found[2] == b"0"


def _checked_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(lines) > MAX_HEADERS:
        raise _Refused(f"The request has more than {MAX_HEADERS} headers.", 431)
    fields = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if not found:  # a folded line, too: RFC 9112 §5.2 lets a server refuse it
            raise _Refused("A header is malformed.")
        fields.append((found[1], found[2].strip(b" \t")))
    return fields


def _check_framing(fields: list[tuple[bytes, bytes]], is_1_0: bool) -> None:
    """Make sure that there is one way to tell where the request ends, and one host.

    RFC 9112 §3.2, §6.1 and §6.3 want these refused, or let a server do so.
    """

    def values(name: bytes) -> list[bytes]:
        return [value for key, value in fields if key.lower() == name]

    hosts, lengths = values(b"host"), values(b"content-length")
    codings = values(b"transfer-encoding")
    if len(hosts) > 1 or (not hosts and not is_1_0):
        raise _Refused("The request must have one Host header.")
    if codings and (lengths or is_1_0):
        raise _Refused("The request has two kinds of length, or one that HTTP/1.0 does not know.")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise _Refused("The only transfer coding of requests is 'chunked'.", 501)
    if lengths and (len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        raise _Refused("The content length is not one number.")


class Chunks:
    """Takes the chunks of a request's body apart (RFC 9112 §7.1); drops extensions and trailers.

    :param buffer: receives the content
    """

    def __init__(self, buffer: Any) -> None:
        self.completed = False
        self.error: Error | None = None
        self._buffer = buffer
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._trailers = 0

    def __len__(self) -> int:
        return int(self._buffer.__len__())

    def getfile(self) -> Any:
        return self._buffer.getfile()

    def getbuf(self) -> Any:
        return self._buffer

    def received(self, data: bytes) -> int:
        """Take the next bytes; returns how many of them belong to this body."""
        at = 0
        while at < len(data) and not self.completed and self.error is None:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                self._buffer.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", at)
            stop = end + 1 if end >= 0 else len(data)
            self._line += data[at:stop]
            at = stop
            if len(self._line) > MAX_LINE:
                self.error = Refusal("A line between chunks is too long.")
            elif end >= 0:
                line, self._line = self._line, b""
                self._take(line)
        return at

    def _take(self, line: bytes) -> None:
        if self._state == _DATA_END:
            self._state = _SIZE
            if line != b"\r\n":
                self.error = Refusal("A chunk is longer than its size.")
        elif self._state == _SIZE:
            size = _CHUNK_SIZE.fullmatch(line)
            if not size:
                self.error = Refusal("A chunk's size is not a number.")
                return
            self._left = int(size[1], 16)
            self._state = _DATA if self._left else _TRAILERS
        elif line == b"\r\n":
            self.completed = True
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS or not _FIELD.fullmatch(line.removesuffix(b"\r\n")):
                self.error = Refusal("The trailers are malformed.")
