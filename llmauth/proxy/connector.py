"""Opening connections to an upstream with ``requests`` and ``urllib3``.

They find the proxy, speak to it, check certificates and do TLS. They would do so without looking
up; here connecting has one deadline for all of it, and the client is watched. Only the look-up of
a name cannot be interrupted.
"""

from __future__ import annotations

import functools
import http.client
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import requests
import urllib3.connection
from requests.adapters import HTTPAdapter
from requests.exceptions import ProxyError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context
from urllib3.util.ssl_match_hostname import CertificateError

from .keep_alive import keep_alive
from .watch import Watch

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a bundle of certificates; read once, at start."""

TOO_LATE = "no connection came about in time"


class Connector:
    """Opens connections to one upstream: what ``requests`` finds out for each, found out once.

    :param origin: scheme, host and port
    :param proxy: URL of the HTTP proxy that leads to an ``https`` origin
    :param timeout: seconds for all of connecting
    """

    def __init__(self, origin: str, *, proxy: str | None, timeout: float) -> None:
        self._timeout = timeout
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=1)
        request = requests.Request("GET", origin).prepare()
        bundle = next(filter(None, map(os.environ.get, CA_VARIABLES)), None) or True
        proxies = {"https": proxy} if proxy else None
        pool: Any = adapter.get_connection_with_tls_context(request, bundle, proxies)
        adapter.cert_verify(pool, origin, bundle, None)  # type: ignore[no-untyped-call]
        if origin.startswith("https:"):
            pool.ConnectionCls = _HTTPSConnection
            pool.conn_kw["ssl_context"] = _context(pool.ca_certs, pool.ca_cert_dir)
            pool.ca_certs = pool.ca_cert_dir = None  # or each connection reads them again
        else:
            pool.ConnectionCls = _HTTPConnection
        self._pool = pool

    def connect(self, watch: Watch) -> Any:
        """Return a connected socket that does not block.

        :raises OSError: TimeoutError, ``ssl.SSLError``, ProxyError and others
        :raises ClientDisconnected: when nobody waits for it any more
        """
        watch.allow(self._timeout, TOO_LATE)
        connection = self._pool._new_conn()  # urllib3's pool knows how one is made; it keeps none
        connection.watch = watch
        try:
            self._open(connection)
        except BaseException as exc:
            connection.close()
            if isinstance(exc, CertificateError):  # from urllib3, where ssl does not compare names
                raise ssl.SSLCertVerificationError(f"CertificateError: {exc}") from exc
            raise
        watch.allow(None)
        sock = connection.sock
        if isinstance(sock, _Socket):
            del sock.watch  # it holds a request, and the connection is kept for others
        return sock

    def _open(self, connection: Any) -> None:
        if not self._pool.proxy:
            connection.connect()
            return
        try:
            self._pool._prepare_proxy(connection)
        except (TimeoutError, ssl.SSLError):
            raise
        except (OSError, http.client.HTTPException) as exc:
            raise ProxyError(f"no tunnel through the proxy: {exc}") from exc


class _Socket(socket.socket):
    """A socket that does not block, and waits where ``http.client`` speaks to a proxy over it."""

    watch: Watch

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.watch.send(self, data)

    def recv_into(self, *args: Any) -> int:
        self.watch.until_readable(self)
        return super().recv_into(*args)


class _WatchedConnection:
    """Connects under watch; mixed into urllib3's connections."""

    _dns_host: str
    port: int
    socket_options: Any
    watch: Watch

    def _new_conn(self) -> socket.socket:
        host = self._dns_host.strip("[]")
        try:
            found = socket.getaddrinfo(host, self.port, allowed_gai_family(), socket.SOCK_STREAM)
        except UnicodeError as exc:
            raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from exc
        self.watch.check()
        failure: OSError | None = None
        try:
            for number, (family, kind, protocol, _, address) in enumerate(found):
                # A network that swallows IPv6 must leave time for IPv4.
                share = self.watch.left / (len(found) - number)
                if share <= 0:
                    raise TimeoutError(TOO_LATE)
                try:
                    return self._connected(_Socket(family, kind, protocol), address, share)
                except OSError as exc:
                    failure = exc
            raise failure or OSError("the name has no address")
        finally:
            failure = None  # its traceback holds this frame, and so a request

    def _connected(self, sock: _Socket, address: Any, seconds: float) -> _Socket:
        try:
            sock.watch = self.watch
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            keep_alive(sock)
            sock.setblocking(False)
            self.watch.connect(sock, address, seconds)
        except BaseException:
            sock.close()
            raise
        return sock


class _HTTPConnection(_WatchedConnection, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_WatchedConnection, urllib3.connection.HTTPSConnection):
    pass


def _context(bundle: str | None, directory: str | None) -> Any:
    """Return a context as urllib3 makes it anew for every connection, made to keep watch.

    :param bundle: file of the trusted authorities
    :param directory: where each has a file of its own
    """
    context: Any = create_urllib3_context()
    context.load_verify_locations(bundle, directory)
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    # urllib3 sets them for each connection, when another may just be copying them.
    context.set_alpn_protocols = lambda protocols: None
    context.wrap_socket = functools.partial(_secured, context.wrap_socket)
    return context


def _secured(wrap: Callable[..., ssl.SSLSocket], sock: _Socket, **options: Any) -> ssl.SSLSocket:
    """Do what ``SSLContext.wrap_socket`` does, under watch."""
    # The end of a body that ends with the connection must be told (RFC 9112 §9.8).
    options |= {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
    watch, secured = sock.watch, wrap(sock, **options)
    try:
        watch.handshake(secured)
    except BaseException:
        secured.close()
        raise
    return secured
