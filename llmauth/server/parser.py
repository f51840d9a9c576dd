"""Requests as waitress wants them, read by :mod:`llmauth.http`.

waitress's own parser takes several doubtful requests: two kinds of length at once, two hosts,
folded lines, other versions of HTTP. Its regular expressions need minutes for a header of spaces,
and it collects a chunk's size without a limit, both in the one thread that reads for all clients.
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
from ..exceptions import NO_FORWARD_PROXY, error_body
from ..http.chunks import Decoder
from ..http.grammar import BadMessageError
from ..http.request import RequestHead, find_head_end, parse_head

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds, for a request that this server cannot receive at the moment."""

_AUTHORITY = re.compile(r"^https?://[^/?]*")
_TLS_HANDSHAKE = b"\x16\x03"
"""How a client of https:// begins (RFC 8446 §5.1)."""

_SOCKS = (b"\x04", b"\x05")
"""How a client of a SOCKS proxy begins, with its version (RFC 1928 §3), and waits."""


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
                return self._receive_head(data)
            consumed = int(super().received(data))
            if self.error:  # waitress's only one of a body
                raise _too_large()
        except BadMessageError as exc:
            self.fail(Refusal(str(exc), exc.status))
            return len(data)
        return consumed

    def fail(self, refusal: Refusal) -> None:
        """Have this answered in place of the request, whatever of it has arrived."""
        self.error = refusal
        self.completed = True
        self.expect_continue = False
        self.version = "1.1"

    def _receive_head(self, data: bytes) -> int:
        known = len(self.header_plus)
        received = self.header_plus + data
        if received.startswith(_TLS_HANDSHAKE):
            _tell_of_tls()
            raise BadMessageError(
                "This server speaks plain HTTP: use http:// in place of https://."
            )
        if received.startswith(_SOCKS):
            raise BadMessageError(NO_FORWARD_PROXY)
        end = find_head_end(received, known)
        if end < 0:
            self.header_plus = received
            return len(data)
        # Empty lines before a request are none of it (RFC 9112 §2.2).
        if head := received[:end].lstrip():
            self._set_head(parse_head(head))
        else:
            self.empty = self.completed = True
        self.headers_finished = True
        return end - known

    def _set_head(self, head: RequestHead) -> None:
        """Leave what a head says where waitress looks for it."""
        if head.length >= self.adj.max_request_body_size:
            raise _too_large()
        self.command, self.request_uri, self.version = head.method, head.target, head.version
        self.headers = head.headers
        self.chunked, self.content_length = head.chunked, head.length
        self.connection_close, self.expect_continue = head.is_last, head.asks_to_continue
        self.url_scheme = self.adj.url_scheme
        # Not by urlsplit, which remembers what it has split, however long.
        self.raw_path, _, self.query = _AUTHORITY.sub("", head.target).partition("?")
        self._path = None
        if head.chunked:
            self.body_rcv = _Chunks(OverflowableBuffer(self.adj.inbuf_overflow))
        elif head.length:
            buffer = OverflowableBuffer(self.adj.inbuf_overflow)
            self.body_rcv = FixedStreamReceiver(head.length, buffer)
        else:
            self.completed = True


def _too_large() -> BadMessageError:
    return BadMessageError("The request body is too large.", 413)


class _Chunks(FixedStreamReceiver):
    """Receives a body in chunks.

    :param buffer: gets the content
    """

    def __init__(self, buffer: OverflowableBuffer) -> None:
        super().__init__(0, buffer)
        self.completed = False
        self._decoder = Decoder(strict=True)

    def received(self, data: bytes) -> int:
        """Take the next bytes; returns how many of them belong to this body."""
        if content := self._decoder.feed(data):
            self.buf.append(content)
        self.completed = self._decoder.done
        return len(data) - len(self._decoder.rest) if self.completed else len(data)
