"""Talking to an upstream through ``requests``: pools, timeouts, raw reads."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from .backends import Backend
from .descriptors import is_exhausted
from .echo import Echo
from .exceptions import InvalidRequest, Unavailable, UpstreamTimeout, UpstreamUnreachable
from .headers import Headers
from .reasons import why
from .transport import Adapter, Exchange, Response
from .watch import TICK, Watch


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
    """

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | IO[bytes] | None = field(default=None, repr=False)
    length: int = 0


class Incoming(Protocol):
    """An upstream's response, whose body has not been read yet."""

    status: int
    reason: str
    headers: Headers

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
    try:
        return EchoUpstream(backend) if backend.is_echo else HTTPUpstream(backend, connections)
    except OSError as exc:  # it reads the certificates that are trusted
        if is_exhausted(exc):
            raise exhausted() from exc
        raise


class HTTPUpstream:
    """Sends requests to one backend over HTTP."""

    def __init__(self, backend: Backend, connections: int) -> None:
        self._settings = backend.settings
        self._adapter = Adapter(backend.origin, connections, backend.settings.proxy)
        self._host = backend.origin.partition("://")[2]
        # urllib3 calls "read timeout" what is our tick; the watch knows the real ones.
        self._timeout = Timeout(connect=self._settings.connect_timeout, read=TICK)

    def send(self, outgoing: Outgoing, gone: Callable[[], bool]) -> Incoming:
        watch = Watch(
            gone,
            first_byte_timeout=self._settings.first_byte_timeout,
            read_timeout=self._settings.read_timeout,
        )
        exchange = Exchange(
            watch, outgoing.method, self._head(outgoing), outgoing.body, outgoing.length
        )
        name = self._settings.name
        try:
            response = self._adapter.exchange(exchange, self._timeout)
        except requests.Timeout as exc:
            raise UpstreamTimeout(f"The backend '{name}' did not answer in time.") from exc
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as exc:
            if is_exhausted(exc):
                raise exhausted() from exc
            raise UpstreamUnreachable(
                f"The backend '{name}' could not be reached: {why(exc)}."
            ) from exc
        watch.headers_received()
        return HTTPIncoming(response, self._settings.read_timeout)

    def close(self) -> None:
        self._adapter.close()

    def _head(self, outgoing: Outgoing) -> bytes:
        """Return the request line and the headers (RFC 9112 §3, §5)."""
        lines = [f"{outgoing.method} {outgoing.target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in outgoing.headers.items()]
        if outgoing.body is not None:
            lines.append(f"Content-Length: {outgoing.length}")
        head = "\r\n".join(lines)
        # Every server refuses these before us; a request must not become two, whatever the server.
        breaks = len(lines) - 1
        split = head.count("\n") != breaks or head.count("\r") != breaks
        if split or "\0" in head or " " in outgoing.target:
            raise InvalidRequest("The request holds a control character where none may be.")
        return f"{head}\r\n\r\n".encode("latin-1")


class HTTPIncoming:
    """A response whose body can also be fed from its socket; see :mod:`llmauth.pump`.

    :param read_timeout: seconds between two reads
    """

    def __init__(self, response: Response, read_timeout: float) -> None:
        self._response = response
        self.sock = response.sock
        self.body = response.body
        self.read_timeout = read_timeout
        self.status = response.status
        self.reason = response.reason
        self.headers: Headers = response.fields

    def chunks(self) -> Iterator[bytes]:
        try:
            yield from self._response.chunks()
        except (OSError, http.client.HTTPException) as exc:
            raise UpstreamBroke(str(exc)) from exc

    def close(self) -> None:
        self._response.close()


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
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        getattr(self._chunks, "close", lambda: None)()
