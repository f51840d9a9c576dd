"""Real servers for tests: an upstream that says any bytes, and the proxy on waitress."""

from __future__ import annotations

import abc
import contextlib
import http.client
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llmauth import create_app
from llmauth.cli.logs import configure
from llmauth.config.loading import Given, load
from llmauth.config.settings import Settings
from llmauth.redact.logging import Redactor
from llmauth.server.server import Server

KEY = "proxy-key-0123456789abcdefghij"
PROVIDER_KEY = "sk-provider-0123456789abcdefghij"
TIMEOUT = 15.0


@dataclass
class Received:
    """A request as the upstream read it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    sock: socket.socket = field(repr=False)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} came twice"
        return values[0] if values else None


Answer = Callable[[Received], None]


def whole(
    body: bytes = b'{"ok": true}', status: str = "200 OK", headers: tuple[str, ...] = ()
) -> Answer:
    """Answer with one body and its length."""

    def answer(request: Received) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        request.sock.sendall("\r\n".join(lines).encode("latin-1") + body)

    return answer


def raw(data: bytes, *, close: bool = True) -> Answer:
    """Answer with these bytes."""

    def answer(request: Received) -> None:
        if close and hasattr(socket, "TCP_CORK"):
            # The end comes with the last bytes: the next request could be sent in between.
            request.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        request.sock.sendall(data)
        if close:
            request.sock.shutdown(socket.SHUT_RDWR)

    return answer


class Listener(abc.ABC):
    """Accepts connections on a port of 127.0.0.1, and serves each in a thread of its own."""

    def __init__(self) -> None:
        self.connections = 0
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @abc.abstractmethod
    def serve(self, sock: socket.socket) -> None:
        """Talk to one client, and close the connection."""

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()


class Upstream(Listener):
    """Records requests, answers as ``answer`` says.

    :param tls: of a server, to speak HTTPS
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answer: Answer = whole()
        self.requests: list[Received] = []
        self.closed = threading.Semaphore(0)
        super().__init__()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._tls:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            file = stack.enter_context(sock.makefile("rb"))
            while request := _read(file, sock):
                self.requests.append(request)
                self.answer(request)
        self.closed.release()


class Plain(Listener):
    """Answers whatever comes first in plain HTTP, as servers do that are asked for TLS."""

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _read(file, sock) -> Received | None:
    line = file.readline().decode("latin-1").rstrip("\r\n")
    if not line:
        return None
    method, target, _ = line.split(" ")
    headers = []
    while header := file.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = header.partition(":")
        headers.append((name, value.strip()))
    lower = {name.lower(): value for name, value in headers}
    assert "transfer-encoding" not in lower
    return Received(method, target, headers, file.read(int(lower.get("content-length", 0))), sock)


@dataclass
class Proxy:
    """The proxy on waitress, in this process."""

    server: Server

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        key: str | None = KEY,
        address: str | None = None,
    ) -> Reply:
        """Send one request.

        :param address: of the client, on the loopback network
        """
        source = (address, 0) if address else None
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=TIMEOUT, source_address=source
        )
        with contextlib.closing(connection):
            bearer = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request(method, path, body, bearer | (headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())

    def open(self, data: bytes) -> socket.socket:
        """Send raw bytes; the caller reads and closes."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        sock.sendall(data)
        return sock

    def exchange(self, data: bytes) -> bytes:
        """Send raw bytes and return all that comes back until the end."""
        with self.open(data) as sock:
            return read_all(sock)


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        return self.json()["error"]


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


@contextlib.contextmanager
def running_proxy(upstream: Upstream | None, environ=None, **values) -> Iterator[Proxy]:
    """Run the proxy on a free port, with the upstream as ``openai`` backend."""
    variables = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}
    if upstream:
        variables |= {"OPENAI_API_BASE_URL": upstream.url, "OPENAI_API_KEY": PROVIDER_KEY}
        variables |= {"GEMINI_API_BASE_URL": upstream.url, "ANTHROPIC_API_BASE_URL": upstream.url}
    defaults = {"port": 0, "threads": 8, "shutdown_timeout": 0.0}
    settings = load(Given(defaults | values), variables | (environ or {}))
    server = Server(create_app(settings))
    try:
        yield Proxy(server)
    finally:
        server.stop()


def configure_log(settings: Settings) -> tuple[logging.Handler, Callable[[], None]]:
    """Have this process log as a server does, but for lines of requests.

    Servers of other tests may have a last one to write.
    """
    before = logging.getLogger().handlers[:]
    undo = configure(settings, Redactor())
    (handler,) = [one for one in logging.getLogger().handlers if one not in before]
    handler.addFilter(lambda record: record.name != "llmauth.access")
    return handler, undo


def request_bytes(
    path: str, *headers: str, method: str = "POST", body: bytes = b"{}", key: str = KEY
) -> bytes:
    """Return a request with a key, for a raw socket."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: proxy",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body
