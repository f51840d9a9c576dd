"""The adapter, pool and connections of ``requests`` and ``urllib3``, made to keep watch."""

from __future__ import annotations

import http.client
import os
import threading
from dataclasses import dataclass
from typing import Any

import requests
import urllib3.connection
from requests.adapters import HTTPAdapter

from .watch import Watch, WatchedSocket

HOLD = 64 * 1024
"""Bytes of head and body that are sent in one go."""

MAX_INTERIM_RESPONSES = 32
"""Responses with a status of 1xx before the final one; more are an attack or a defect."""

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a bundle of certificates; read once, at start."""

current = threading.local()
"""The exchange of this thread: urllib3 has no way to hand a connection the caller's own data."""


@dataclass
class Watched:
    watch: Watch
    target: str


class _Response(http.client.HTTPResponse):
    """Reads past interim responses (RFC 9110 §15.2), of which ``http.client`` knows only 100."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_RESPONSES):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                break
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("no final response")


class _WatchedConnection:
    """Sends the raw target and keeps watch; mixed into urllib3's connections."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._exchange: Watched = current.exchange
        self._held: list[bytes] | None = []
        super().request(*args, **kwargs)  # type: ignore[misc]
        self._flush()
        self._exchange.watch.request_sent()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, self._exchange.target, *args, **kwargs)  # type: ignore[misc]

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")

    def send(self, data: Any) -> None:
        """Hold the head until the first of the body is there: one packet for most requests."""
        if self._held is not None and isinstance(data, bytes):
            self._held.append(data)
            if sum(map(len, self._held)) < HOLD:
                return
            data = b""
        self._flush()
        if data:
            self._exchange.watch.send(self.sock, data)

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = b"".join(self._held), None
            if self.sock is None:
                self.connect()  # type: ignore[attr-defined]
            self._exchange.watch.send(self.sock, held)

    def response_class(self, sock: Any, **kwargs: Any) -> _Response:
        return _Response(WatchedSocket(sock, self._exchange.watch), **kwargs)  # type: ignore[arg-type]

    sock: Any


class _HTTPConnection(_WatchedConnection, urllib3.connection.HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_WatchedConnection, urllib3.connection.HTTPSConnection):  # type: ignore[misc]
    pass


class Adapter(HTTPAdapter):
    """An adapter for one host: what ``requests`` finds out for every request, found out once."""

    def __init__(self, origin: str, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        bundle = next(filter(None, map(os.environ.get, CA_VARIABLES)), None)
        request = requests.Request("GET", origin).prepare()
        pool: Any = super().get_connection_with_tls_context(request, bundle or True)
        super().cert_verify(pool, origin, bundle or True, None)  # type: ignore[no-untyped-call]
        secure = origin.startswith("https:")
        pool.ConnectionCls = _HTTPSConnection if secure else _HTTPConnection
        self._pool = pool

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._pool

    def cert_verify(self, *args: Any) -> None:
        pass

    def request_url(self, *args: Any) -> str:
        return "/"  # the target goes past urllib3, which would normalise it and write it to logs

    def build_response(self, req: Any, resp: Any) -> Any:
        return resp  # nobody needs a requests.Response here, least of all its cookies
