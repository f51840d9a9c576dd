"""Talking to an upstream: one request, one response, over a connection that is leased for it."""

from __future__ import annotations

import http.client
import io
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Protocol

from ..echo.backend import Echo
from ..exceptions import (
    INCOMPLETE,
    InvalidRequest,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ..http.grammar import NOT_IN_A_FIELD, TARGET, UNESCAPED, Headers
from ..http.response import Body, Head, read_head
from ..providers.backend import Backend
from .connections import Connections
from .connector import Connector
from .descriptors import is_exhausted
from .failures import why
from .watch import Watch

SEND_TOGETHER = 64 * 1024
"""Bytes; a body up to this size leaves in one go with its head."""

READ_SIZE = 16 * 1024
"""Bytes of a large request body that are read from the server's file at a time."""

WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose body has a meaning, so that an upstream reads it."""


def exhausted() -> Unavailable:
    """Return the answer for want of a connection to a backend."""
    return Unavailable("This server has no connection left. Try again.", retry_after=5)


class UpstreamBroke(Exception):
    """The upstream ended its response too early, or sent something that is not HTTP."""


@dataclass
class Outgoing:
    """A request to an upstream.

    :param target: raw path and query
    :param headers: by their usual names, without framing
    :param body: bytes, a file of ``length`` bytes, or None
    :param is_ours: it is not the client's own key that the upstream takes
    :raises InvalidRequest: for what cannot be sent as it is
    """

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | IO[bytes] | None = field(default=None, repr=False)
    length: int = 0
    is_ours: bool = True

    def __post_init__(self) -> None:
        # Our own server refuses these before any key is asked for; others let some of them pass.
        if not TARGET.fullmatch(self.target):
            raise InvalidRequest(UNESCAPED)
        if NOT_IN_A_FIELD.search("".join([*self.headers, *self.headers.values()])):
            raise InvalidRequest("A header of the request holds a character that may not be there.")


class Incoming(Protocol):
    """An upstream's response, whose body has not been read yet."""

    status: int
    reason: str
    headers: Headers

    @property
    def complete(self) -> bool:
        """True when the chunk that was yielded last is known to be the end."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the body's bytes as they arrive; raises UpstreamBroke and ClientDisconnected."""

    def close(self) -> None:
        """Return the connection to its pool if the body was read to its end, else close it."""


class Upstream(Protocol):
    """Sends requests to one backend."""

    def send(self, outgoing: Outgoing, gone: Callable[[], bool]) -> Incoming:
        """Send the request and wait for the response's headers.

        :param gone: true once nobody waits for the answer any more
        :raises UpstreamUnreachable: when there is no valid answer
        :raises UpstreamTimeout: when it does not come in time
        :raises ClientDisconnected: once ``gone`` is true
        """

    def close(self) -> None:
        """Close idle connections."""


def open_upstream(backend: Backend, connections: int) -> Upstream:
    """Return the upstream of a backend.

    :param connections: how many are kept for use again; as many as there are threads
    """
    if backend.is_echo:
        return EchoUpstream(backend)
    settings = backend.settings
    try:
        connector = Connector(
            backend.origin, proxy=settings.proxy, timeout=settings.connect_timeout
        )
    except OSError as exc:  # it reads the certificates that are trusted
        if is_exhausted(exc):
            raise exhausted() from exc
        raise
    return HTTPUpstream(
        backend,
        Connections(connector.connect, kept=connections, idle_timeout=settings.idle_timeout),
    )


class HTTPUpstream:
    """Sends requests to one backend over HTTP."""

    def __init__(self, backend: Backend, connections: Connections) -> None:
        self._settings = backend.settings
        self._connections = connections
        self._host = backend.origin.partition("://")[2]

    def send(self, outgoing: Outgoing, gone: Callable[[], bool]) -> Incoming:
        head = self._head(outgoing)
        watch = Watch(gone, read_timeout=self._settings.read_timeout)
        name = self._settings.name
        try:
            return self._answer(watch, outgoing, head)
        except TimeoutError as exc:
            raise UpstreamTimeout(f"The backend '{name}' did not answer in time.") from exc
        except (OSError, http.client.HTTPException) as exc:
            if is_exhausted(exc):
                raise exhausted() from exc
            raise UpstreamUnreachable(
                f"The backend '{name}' could not be reached: {why(exc)}."
            ) from exc

    def close(self) -> None:
        self._connections.close()

    def _answer(self, watch: Watch, outgoing: Outgoing, head: bytes) -> HTTPIncoming:
        sock = self._connections.lease(watch)
        try:
            sent = _send(watch, sock, head, outgoing)
            watch.allow(self._settings.first_byte_timeout)
            answer = read_head(partial(watch.receive, sock))
            body = Body(outgoing.method, answer)
            watch.allow(None)
        except BaseException:
            sock.close()
            raise
        taken = sent and _was_read(outgoing, answer.status)
        return HTTPIncoming(watch, sock, answer, body, self._connections if taken else None)

    def _head(self, outgoing: Outgoing) -> bytes:
        """Return the request line and the headers (RFC 9112 §3, §5)."""
        lines = [f"{outgoing.method} {outgoing.target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in outgoing.headers.items()]
        if outgoing.body is not None:
            lines.append(f"Content-Length: {outgoing.length}")
        if outgoing.length and outgoing.method not in WITH_CONTENT:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _send(watch: Watch, sock: Any, head: bytes, outgoing: Outgoing) -> bool:
    """Send a request; False when the upstream did not wait for all of it."""
    body, left = outgoing.body, outgoing.length
    try:
        if body is None or (isinstance(body, bytes) and len(body) <= SEND_TOGETHER):
            return watch.send(sock, head + (body or b"")) and not watch.answered_early
        source = io.BytesIO(body) if isinstance(body, bytes) else body
        going_on = watch.send(sock, head)
        while going_on and left:
            piece = _read(source, min(READ_SIZE, left))
            left -= len(piece)
            if not left:
                watch.receive_early(sock)
            going_on = watch.send(sock, piece)
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return False  # it may have answered before it closed the connection
    return going_on and not watch.answered_early


def _read(source: IO[bytes], size: int) -> bytes:
    try:
        piece = source.read(size)
    except Exception as exc:  # each server has errors of its own for a body that breaks off
        raise InvalidRequest(INCOMPLETE) from exc
    if not piece:
        raise InvalidRequest(INCOMPLETE)
    return piece


def _was_read(outgoing: Outgoing, status: int) -> bool:
    """Whether an upstream that answered so has read the request's body; else it is what comes next.

    Many do not read what has no meaning (RFC 9110 §9.3.1), nor what they refuse.
    """
    return not outgoing.length or (outgoing.method in WITH_CONTENT and 200 <= status < 300)


class HTTPIncoming:
    """A response whose body can also be fed from its socket; see :mod:`llmauth.server.pump`.

    :param connections: where the socket may return to once the body is complete; None for nowhere
    """

    tells_pauses = False
    """Nothing is yielded now and then while nothing comes."""

    def __init__(
        self, watch: Watch, sock: Any, head: Head, body: Body, connections: Connections | None
    ) -> None:
        self._watch = watch
        self._connections = connections
        self._closed = False
        self.sock = sock
        self.body = body
        self.read_timeout = watch.read_timeout
        self.status = head.status
        self.reason = head.reason
        self.headers: Headers = head.headers

    @property
    def complete(self) -> bool:
        return self.body.complete

    def chunks(self) -> Iterator[bytes]:
        receive = self._watch.receive_or_pause if self.tells_pauses else self._watch.receive
        try:
            yield from self.body.chunks(partial(receive, self.sock))
        except (OSError, http.client.HTTPException) as exc:
            raise UpstreamBroke(str(exc)) from exc

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connections and self.body.reusable:
            self._connections.give_back(self.sock)
        else:
            self.sock.close()


class EchoUpstream:
    """The echo backend, without a network."""

    def __init__(self, backend: Backend) -> None:
        self._echo = Echo()

    def send(self, outgoing: Outgoing, gone: Callable[[], bool]) -> Incoming:
        body = outgoing.body
        data = body if isinstance(body, bytes) else body.read(outgoing.length) if body else b""
        headers = {name.lower(): value for name, value in outgoing.headers.items()}
        path, _, query = outgoing.target.partition("?")
        reply = self._echo.respond(outgoing.method, path, query, headers.get, data)
        return _EchoIncoming(reply.status, reply.headers, reply.chunks)

    def close(self) -> None:
        pass


class _EchoIncoming:
    def __init__(self, status: int, headers: Headers, chunks: Iterable[bytes]) -> None:
        self.status = status
        self.reason = http.client.responses.get(status, "")
        self.headers = headers
        self.complete = False
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        getattr(self._chunks, "close", lambda: None)()
