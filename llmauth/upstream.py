"""Talking to an upstream through ``requests``: pools, timeouts, raw reads."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import SKIP_HEADER, Timeout

from .backends import Backend
from .echo import Echo
from .exceptions import UpstreamTimeout, UpstreamUnreachable
from .headers import Headers
from .transport import Adapter, Watched, current
from .watch import TICK, Watch

READ_SIZE = 64 * 1024

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
    return EchoUpstream(backend) if backend.is_echo else HTTPUpstream(backend, connections)


class HTTPUpstream:
    """Sends requests to one backend over HTTP."""

    def __init__(self, backend: Backend, connections: int) -> None:
        self._settings = backend.settings
        self._adapter = Adapter(backend.origin, connections)
        # urllib3 calls "read timeout" what is our tick; the watch knows the real ones.
        self._timeout = Timeout(connect=self._settings.connect_timeout, read=TICK)

    def send(self, outgoing: Outgoing, gone: Callable[[], bool]) -> Incoming:
        watch = Watch(
            gone,
            first_byte_timeout=self._settings.first_byte_timeout,
            read_timeout=self._settings.read_timeout,
        )
        request = requests.PreparedRequest()
        request.method, request.url = outgoing.method, self._settings.base_url
        request.headers, request.body = _framed(outgoing), outgoing.body  # type: ignore[assignment]
        current.exchange = Watched(watch, outgoing.target)
        name = self._settings.name
        try:
            raw: Any = self._adapter.send(request, stream=True, timeout=self._timeout)  # type: ignore[arg-type]
        except requests.Timeout as exc:
            raise UpstreamTimeout(f"The backend '{name}' did not answer in time.") from exc
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as exc:
            raise UpstreamUnreachable(
                f"The backend '{name}' could not be reached: {_why(exc)}."
            ) from exc
        watch.headers_received()
        return _HTTPIncoming(raw)

    def close(self) -> None:
        self._adapter.close()


def _framed(outgoing: Outgoing) -> Mapping[str, str]:
    headers = dict(outgoing.headers)
    headers.setdefault("User-Agent", SKIP_HEADER)
    if outgoing.body is not None:
        headers["Content-Length"] = str(outgoing.length)
    return headers


def _why(exc: BaseException) -> str:
    """Say in plain words what kept the upstream from answering; no addresses, no internals."""
    text = _chain(exc)
    for sign, words in (
        ("NameResolutionError", "its name cannot be resolved"),
        ("CERTIFICATE_VERIFY_FAILED", "its TLS certificate is not trusted"),
        ("SSLError", "the TLS handshake failed"),
        ("ConnectionRefusedError", "it refuses connections"),
        ("refused", "it refuses connections"),
        ("NewConnectionError", "no connection could be made"),
        ("InvalidHeader", "it did not answer with valid HTTP"),
        ("BadStatusLine", "it did not answer with valid HTTP"),
        ("HTTPException", "it did not answer with valid HTTP"),
        ("LineTooLong", "it did not answer with valid HTTP"),
        ("RemoteDisconnected", "it closed the connection without an answer"),
        ("ConnectionResetError", "it closed the connection without an answer"),
    ):
        if sign in text:
            return words
    return "the connection failed"


def _chain(exc: BaseException) -> str:
    return f"{exc!r} {exc.__context__!r} {exc.__cause__!r}"


class _HTTPIncoming:
    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.status: int = raw.status
        self.reason: str = raw.reason or ""
        self.headers: Headers = list(raw.headers.iteritems())

    def chunks(self) -> Iterator[bytes]:
        read = self._raw.read1
        try:
            while data := read(READ_SIZE, decode_content=False):
                yield data
        except (HTTPError, OSError, http.client.HTTPException) as exc:
            raise UpstreamBroke(type(exc).__name__) from exc

    def close(self) -> None:
        original = self._raw._original_response
        if original is None or original.isclosed():
            self._raw.release_conn()
        else:
            self._raw.close()


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
