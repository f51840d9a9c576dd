"""What is fuzzed: each target takes any bytes, and raises only when something is wrong.

``run.py`` feeds them with bytes that atheris makes up; ``test_fuzz_corpus.py`` with those it kept.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable
from unittest import mock

from growth import ALLOWED, TIMES, growth
from urllib3.util.wait import wait_for_read
from waitress.adjustments import Adjustments

from llmauth.auth.client_address import Clients
from llmauth.auth.credentials import BadCredentials, KeyRing, find_key, strip_query_keys
from llmauth.auth.request import header_getter, raw_target
from llmauth.config.addresses import parse_network
from llmauth.config.settings import BackendSettings
from llmauth.exceptions import ClientDisconnected, RequestRefused
from llmauth.http.response import BadResponseError, Body, NoResponseError, read_head
from llmauth.providers.backend import Backend
from llmauth.proxy import watch
from llmauth.proxy.connections import Connections
from llmauth.proxy.headers import HOP_BY_HOP, request_headers, response_headers
from llmauth.proxy.upstream import HTTPUpstream, Outgoing, UpstreamBroke
from llmauth.redact.redactor import Redactor
from llmauth.server.parser import Parser

SIZE = 1000  # characters
KEY = "fuzz-key-0123456789abcdef"
RING = KeyRing([("fuzz", KEY)])
CLIENTS = Clients(trusted_proxies=[parse_network("10.0.0.0/8"), parse_network("fd00::/8")])
ADJUSTMENTS = Adjustments()
REDACTOR = Redactor([KEY])
REDACTOR.observe(*("a" * number for number in range(4, 40)))


def request(data: bytes) -> None:
    """A request from the wire on, to what the upstream would be sent."""
    whole, taken = _parsed(data, len(data))
    pieces, taken_in_pieces = _parsed(data, 7)
    assert (whole.error is None) == (pieces.error is None), "the pieces matter"
    if whole.error is not None or not whole.completed or whole.empty:
        return
    assert taken == taken_in_pieces, "the request ends elsewhere"
    environ = {f"HTTP_{name}": value for name, value in whole.headers.items()}
    environ |= {"REQUEST_URI": whole.request_uri, "REQUEST_METHOD": whole.command}
    path, query = raw_target(environ)
    own = _credentials(environ, path, query)
    headers = request_headers(environ, via="1.1 fuzz")
    names = {name.lower() for name in headers}
    assert not names & (HOP_BY_HOP | {"host", "cookie", "x-proxy-api-key", "authorization"})
    assert not set("".join(headers) + "".join(headers.values())) & set("\r\n\0"), "split"
    left, _ = strip_query_keys(query, RING, keep=own, any_value=True)
    assert f"key={KEY}" not in left.split("&")
    assert CLIENTS.address("10.0.0.1", environ.get("HTTP_X_FORWARDED_FOR"))


def credentials(data: bytes) -> None:
    """Headers, path and query as a server hands them on."""
    lines = data.decode("latin-1").split("\n")
    path, _, query = lines[0].partition("?")
    pairs = (line.partition(":") for line in lines[1:])
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, _, value in pairs}
    _credentials(environ, path, query)
    CLIENTS.counted_as(CLIENTS.address(lines[-1], lines[0]))


def response(data: bytes) -> None:
    """A response from the wire on, to what the client would be sent."""
    found = []
    for size in (len(data) or 1, 5):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]

        def receive(left: list[bytes] = pieces) -> bytes:
            return left.pop(0) if left else b""

        content: list[bytes] = []
        try:
            head = read_head(receive)
            content.extend(Body("GET", head).chunks(receive))
        except (BadResponseError, NoResponseError) as error:
            assert str(error)
            found.append(b"".join(content))
            continue
        headers = response_headers(head.headers, stream=False)
        assert not {name.lower() for name, _ in headers} & HOP_BY_HOP
        assert not set("".join(map("".join, headers)) + head.reason) & set("\r\n"), "split"
        found.append((head.status, headers, b"".join(content)))
    assert found[0] == found[1], "the pieces matter"


def redaction(data: bytes) -> None:
    """A text of the log: a secret in it is masked, and it costs in proportion to its length."""
    text = data.decode("utf-8", "surrogateescape")
    assert KEY not in REDACTOR.text(text + KEY)
    assert KEY not in REDACTOR.text(f"{text} {KEY} {text}")
    unit = text or KEY
    small, large = unit * (SIZE // len(unit)), unit * (TIMES * SIZE // len(unit))
    grown = growth(lambda: REDACTOR.text(small), lambda: REDACTOR.text(large))
    assert grown <= ALLOWED, f"{TIMES} times the text costs {grown:.0f} times as much"


LATER = b"\xff\xfe"
"""What stands between the bytes that answer the first of two requests, and those that come once
it has been answered."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_STATUS = re.compile(rb"^HTTP/1\.[01] ([2-5]\d\d)", re.MULTILINE)
_SECOND = b"the second answer"
_HONEST = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_SECOND), _SECOND)
_FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
_BACKEND = Backend(BackendSettings("fuzz", "http://127.0.0.1:9", "none", "FUZZ_KEY"))


class _Far:
    """An upstream and the connection to it: each request that is sent gets the next answer."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.fileno, self.recv = self._near.fileno, self._near.recv

    def send(self, data: memoryview) -> int:
        self.say(self._answers.pop(0))
        return len(data)

    def say(self, data: bytes) -> None:
        self._far.sendall(data)
        if data and self.fileno() >= 0:
            wait_for_read(self._near, 1.0)

    def has_more(self) -> bool:
        return self.fileno() >= 0 and wait_for_read(self._near, 0)

    def close(self) -> None:
        self._near.close()
        self._far.close()


def two_requests(data: bytes) -> None:
    """What an upstream sends for one request, and then, before it gets another.

    The first byte says what the first request is like.
    """
    kind, (answer, _, late) = (data or b"\0")[0], data[1:].partition(LATER)
    method, body = _METHODS[kind % 7], b"{}" if kind & 8 else None
    status = _STATUS.search(answer)
    doubtful = method == "HEAD" or (status and status[1] in (b"204", b"304"))
    if body and status:
        doubtful = doubtful or method[0] != "P" or not status[1].startswith(b"2")
    # Where nobody can know that nothing of the first is due any more, something is.
    far = _Far(answer, (_FORGED if doubtful else b"") + _HONEST)
    other = _Far(_HONEST)
    first = Outgoing(method, "/1", {}, body, len(body or b""))
    opened = iter((far, other))
    connections = Connections(lambda _: next(opened), kept=2, idle_timeout=55.0)
    upstream = HTTPUpstream(_BACKEND, connections)
    with contextlib.closing(far), contextlib.closing(other), mock.patch.object(watch, "TICK", 0):
        with contextlib.suppress(ClientDisconnected, RequestRefused, UpstreamBroke):
            _content(upstream, first, far, other)
        with contextlib.suppress(OSError):
            far.say(late)
        second = Outgoing("POST", "/2", {}, b"{}", 2)
        assert _content(upstream, second, far, other) == _SECOND, "bytes of another answer"


def _content(upstream: HTTPUpstream, outgoing: Outgoing, *ends: _Far) -> bytes:
    """Ask, and give up when nothing more comes."""
    incoming = upstream.send(outgoing, lambda: not any(end.has_more() for end in ends))
    try:
        return b"".join(incoming.chunks())
    finally:
        incoming.close()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": request,
    "credentials": credentials,
    "response": response,
    "redaction": redaction,
    "two_requests": two_requests,
}


def _parsed(data: bytes, size: int) -> tuple[Parser, int]:
    parser, at = Parser(ADJUSTMENTS), 0
    while at < len(data) and not parser.completed:
        at += parser.received(data[at : at + size])
    return parser, at


def _credentials(environ: dict[str, str], path: str, query: str) -> bool:
    """Check what the request carries; returns whether the rest of it is the provider's."""
    try:
        presented = find_key(header_getter(environ), path, query, RING)
    except BadCredentials as malformed:
        assert malformed.refusal.code in (400, 401)
        assert all(malformed.guesses)
        return False
    if presented is None:
        return False
    assert presented.token
    assert (RING.match(presented.token) is not None) == (presented.token == KEY.encode())
    return presented.own_credentials
