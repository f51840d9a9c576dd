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
from urllib.parse import unquote

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.utilities import Error

from ..auth.request import new_id
from ..exceptions import error_body

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100

MAX_LINE = 4096
"""Bytes of a chunk's size with its extensions, or of one line of trailers."""

MAX_TRAILERS = 16 * 1024

RETRY_AFTER = 5
"""Seconds, for a request that this server cannot receive at the moment."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Z]+) ([!-~]+) HTTP/(1\.[01])")
_TARGET = re.compile(r"/[^#]*|https?://[^#/?\[\]]+(?:[/?][^#]*)?|https?://\[[0-9A-Fa-f:.]+\][^#]*")
_ORIGIN = re.compile(r"^https?://[^/?]*")
_ASTERISK = ("OPTIONS", "*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})  # TAB is white space
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
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
        503: ("Service Unavailable", "overloaded"),
        505: ("HTTP Version Not Supported", "not_supported"),
    }

    _CLASSES = {
        501: ("api_error", "UNIMPLEMENTED"),
        503: ("overloaded_error", "UNAVAILABLE"),
        505: ("api_error", "UNIMPLEMENTED"),
    }

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.reason, self._error_code = self._KINDS.get(code, ("Bad Request", "invalid_request"))

    def to_response(self, ident: Any = None) -> Any:
        request_id = new_id()
        type, status = self._CLASSES.get(self.code, ("invalid_request_error", "INVALID_ARGUMENT"))
        body = error_body(
            self.body, type=type, status=status, code=self._error_code, request_id=request_id
        )
        headers = [("Content-Type", "application/json"), ("x-request-id", request_id)]
        if self.code == 503:
            headers.append(("Retry-After", str(RETRY_AFTER)))
        return f"{self.code} {self.reason}", headers, body


class _Refused(Exception):
    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.refusal = Refusal(message, code)


class Parser(HTTPRequestParser):
    """One request, as it arrives.

    :ivar environ: for WSGI, once the head is there
    :ivar is_refused: it is answered without its body
    :ivar closes: its answer is the last one on the connection
    :ivar awaits_continue: it expects a 100, which waits for the verdict
    """

    environ: dict[str, Any] | None = None
    is_refused = False
    closes = False
    awaits_continue = False

    error: Error | None
    body_rcv: Any
    headers: dict[str, str]
    command: Any = ""
    raw_path: str | None = None
    _path: Any = ""  # waitress logs it also of a request that could not be read
    request_uri: Any
    query: Any

    @property
    def path(self) -> Any:
        """The decoded path, for whoever wants it: nobody does of a path of 64 KiB of escapes."""
        if self._path is None:
            self._path = unquote(self.raw_path or "", "latin-1")
        return self._path

    @path.setter
    def path(self, value: Any) -> None:
        self._path = value

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
        if (error := self.error) is not None:
            if not isinstance(error, Refusal):
                code = getattr(error, "code", 400)
                words = "The request body is too large." if code == 413 else "It is malformed."
                error = Refusal(words, code)
            self.fail(error)
        return consumed

    def fail(self, refusal: Refusal) -> None:
        """Have this answered in place of the request, whatever of it has arrived."""
        self.error = refusal
        self.completed = True
        self.expect_continue = False
        self.version = "1.1"

    def _check_line_ends(self, data: bytes) -> None:
        """Refuse at once what will never become a head."""
        received = self.header_plus + data
        if received.startswith(_TLS_HANDSHAKE):
            _tell_of_tls()
            raise _Refused("This server speaks plain HTTP: use http:// in place of https://.")
        start = max(0, len(self.header_plus) - 3)
        end = received.find(b"\r\n\r\n", start)
        # One byte more, which may be the first half of a line's end.
        first = max(0, start - 1)
        if _has_bare_line_end(received[first : len(received) if end < 0 else end + 2], first > 0):
            raise _Refused("A line of the request ends in a bare CR or LF.")
        if len(received) > MAX_HEAD_BYTES and end < 0:
            raise _Refused(f"The headers are over {MAX_HEAD_BYTES} bytes long.", 431)

    def parse_header(self, header_plus: bytes) -> None:
        """Check a whole head, and leave what it says where waitress looks for it."""
        if header_plus == b"GET / HTTP/1.0\r\n":
            super().parse_header(header_plus)  # waitress's own, when the head is too long
            return
        if len(header_plus) > MAX_HEAD_BYTES:
            raise _Refused(f"The headers are over {MAX_HEAD_BYTES} bytes long.", 431)
        head = header_plus.decode("latin-1").removesuffix("\r\n\r\n")
        request_line, *lines = head.split("\r\n")
        self.command, self.request_uri, self.version = _checked_request_line(request_line)
        # All at once: a pattern for each line takes five times as long, and this is for anybody.
        controls = len(header_plus) - len(header_plus.translate(None, _CONTROLS))
        if controls != 2 * (len(lines) + 2):  # the ends of the lines, and the empty one
            raise _Refused("A header holds a control character.")
        headers = self.headers = _checked_headers(lines)
        _check_framing(headers, self.version)
        self.url_scheme = self.adj.url_scheme
        # Not by urlsplit, which remembers what it has split, however long.
        self.raw_path, _, self.query = _ORIGIN.sub("", self.request_uri).partition("?")
        self._path = None
        connection = headers.get("CONNECTION", "").lower()
        if self.version == "1.1":
            self.connection_close = connection == "close"
        else:
            self.connection_close = connection != "keep-alive"
        self._expect_body()
        # waitress would wait for ever for the body of a request that has none, and take the next
        # request for more of its head.
        if self.version == "1.1" and self.body_rcv is not None:
            self.expect_continue = headers.get("EXPECT", "").lower() == "100-continue"

    def _expect_body(self) -> None:
        self.chunked = self.headers.pop("TRANSFER_ENCODING", None) is not None
        if self.chunked:
            self.body_rcv = Chunks(OverflowableBuffer(self.adj.inbuf_overflow))
        elif length := int(self.headers.get("CONTENT_LENGTH", 0)):
            self.content_length = length
            buffer = OverflowableBuffer(self.adj.inbuf_overflow)
            self.body_rcv = FixedStreamReceiver(length, buffer)


def _has_bare_line_end(lines: bytes, go_on: bool) -> bool:
    """True for a CR or LF without the other, which may be outside.

    :param go_on: there is something before these lines, too
    """
    # Counted, not matched: a pattern takes a hundred times as long, and this is done for anybody.
    ends = lines.count(b"\r\n")
    feeds = lines.count(b"\n") - (go_on and lines.startswith(b"\n"))
    returns = lines.count(b"\r") - lines.endswith(b"\r")
    return feeds != ends or returns != ends


def _checked_request_line(line: str) -> tuple[str, str, str]:
    """Return method, target and version."""
    found = _REQUEST_LINE.fullmatch(line)
    if not found:
        if re.search(r" HTTP/(?!1\.[01]$)[0-9.]+$", line):
            raise _Refused("This server speaks HTTP/1.1.", 505)
        raise _Refused("The request line is malformed.")
    method, target, version = found.groups()
    if not (_TARGET.fullmatch(target) or method == "CONNECT" or (method, target) == _ASTERISK):
        raise _Refused("The request target is neither a path nor a URL.")
    return method, target, version


def _checked_headers(lines: list[str]) -> dict[str, str]:
    """Return the headers as waitress has them: named as in a WSGI environ, repeated ones joined.

    A name with an underscore would pass for another one there, and is dropped.
    """
    if len(lines) > MAX_HEADERS:
        raise _Refused(f"The request has more than {MAX_HEADERS} headers.", 431)
    headers: dict[str, str] = {}
    for line in lines:
        spelled, colon, value = line.partition(":")
        # A folded line, too: RFC 9112 §5.2 lets a server refuse it.
        if not colon or not _TOKEN.fullmatch(spelled):
            raise _Refused("A header is malformed.")
        if "_" in spelled:
            continue
        name, value = spelled.upper().replace("-", "_"), value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name == "HOST":
            raise _Refused("The request must have one Host header.")
        else:
            headers[name] += ", " + value
    return headers


def _check_framing(headers: dict[str, str], version: str) -> None:
    """Make sure that there is one way to tell where the request ends, and one host.

    RFC 9112 §3.2, §6.1 and §6.3 want these refused, or let a server do so.
    """
    length, coding = headers.get("CONTENT_LENGTH"), headers.get("TRANSFER_ENCODING")
    if "HOST" not in headers and version == "1.1":
        raise _Refused("The request must have one Host header.")
    if coding is not None and (length is not None or version == "1.0"):
        raise _Refused("The request has two kinds of length, or one that HTTP/1.0 does not know.")
    if coding is not None and coding.lower() != "chunked":
        raise _Refused("The only transfer coding of requests is 'chunked'.", 501)
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
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
            field = line.decode("latin-1").removesuffix("\r\n")
            if self._trailers > MAX_TRAILERS or not _FIELD.fullmatch(field):
                self.error = Refusal("The trailers are malformed.")
