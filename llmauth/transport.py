"""The adapter and the connections of ``requests`` and ``urllib3``, made to keep watch.

``requests`` and ``urllib3`` choose, check, open, pool and close connections, with TLS and all;
what is said over one is :mod:`llmauth.http1`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import requests
import urllib3.connection
from requests.adapters import HTTPAdapter

from .exceptions import INCOMPLETE, InvalidRequest
from .http1 import Body, read_head
from .watch import Watch

SEND_TOGETHER = 64 * 1024
"""Bytes; a body up to this size leaves in one go with its head."""

READ_SIZE = 16 * 1024
"""Bytes of a large request body that are read from the server's file at a time."""

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a bundle of certificates; read once, at start."""

current = threading.local()
"""The exchange of this thread: urllib3 has no way to hand a connection the caller's own data."""


@dataclass
class Exchange:
    """One request on its way.

    :param head: request line and headers as they are sent
    """

    watch: Watch
    method: str
    head: bytes
    body: bytes | IO[bytes] | None
    length: int


class Response:
    """A response whose body has not been read yet."""

    # What urllib3 looks at before it hands a response on.
    headers: dict[str, str] = {}
    version_string = "HTTP/1.1"
    length_remaining = None
    retries: Any = None
    _connection: Any = None
    _pool: Any = None

    def __init__(self, sock: Any, exchange: Exchange) -> None:
        self.sock = sock
        self._receive = lambda: exchange.watch.receive(sock)
        head = read_head(self._receive)
        self.status = head.status
        self.reason = head.reason
        self.fields = head.headers
        self.body = Body(exchange.method, head)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body's bytes as they arrive."""
        return self.body.chunks(self._receive)

    def close(self) -> None:
        """Return the connection to its pool, closed unless it can be used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if not self.body.reusable:
                connection.close()
            self._pool._put_conn(connection)


class _WatchedConnection:
    """Sends the request as it was given and keeps watch; mixed into urllib3's connections."""

    sock: Any
    timeout: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange: Exchange = current.exchange
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
            sock: Any = self.sock
            sock.setblocking(False)
        watch, body = exchange.watch, exchange.body
        if body is None or (isinstance(body, bytes) and len(body) <= SEND_TOGETHER):
            watch.send(self.sock, exchange.head + (body or b""))
        else:
            watch.send(self.sock, exchange.head)
            self._send_file(watch, body, exchange.length)
        watch.request_sent()

    def _send_file(self, watch: Watch, body: Any, left: int) -> None:
        if isinstance(body, bytes):
            watch.send(self.sock, body)
            return
        while left and (data := body.read(min(READ_SIZE, left))):
            watch.send(self.sock, data)
            left -= len(data)
        if left:
            raise InvalidRequest(INCOMPLETE)

    def getresponse(self) -> Response:
        return Response(self.sock, current.exchange)


class _HTTPConnection(_WatchedConnection, urllib3.connection.HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_WatchedConnection, urllib3.connection.HTTPSConnection):  # type: ignore[misc]
    pass


class Adapter(HTTPAdapter):
    """An adapter for one host: what ``requests`` finds out for every request, found out once."""

    def __init__(self, origin: str, connections: int, proxy: str | None) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        bundle = next(filter(None, map(os.environ.get, CA_VARIABLES)), None)
        request = requests.Request("GET", origin).prepare()
        proxies = {"https": proxy} if proxy else None
        pool: Any = super().get_connection_with_tls_context(request, bundle or True, proxies)
        super().cert_verify(pool, origin, bundle or True, None)  # type: ignore[no-untyped-call]
        secure = origin.startswith("https:")
        pool.ConnectionCls = _HTTPSConnection if secure else _HTTPConnection
        self._pool = pool
        self._request = request
        self._request.headers.clear()

    def exchange(self, exchange: Exchange, timeout: Any) -> Response:
        """Send a request and return the response once its headers are there."""
        current.exchange = exchange
        try:
            response: Any = self.send(self._request, stream=True, timeout=timeout)
            return response  # type: ignore[no-any-return]
        finally:
            del current.exchange  # a thread may be idle for long, and this holds a request

    def close(self) -> None:
        self._pool.close()
        super().close()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._pool

    def cert_verify(self, *args: Any) -> None:
        pass

    def request_url(self, *args: Any) -> str:
        return "/"  # the target goes past urllib3, which would normalise it and write it to logs

    def build_response(self, req: Any, resp: Any) -> Any:
        return resp  # nobody needs a requests.Response here, least of all its cookies
