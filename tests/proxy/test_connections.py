"""Connections to an upstream: never another client's bytes, one deadline, and a watched client."""

from __future__ import annotations

import contextlib
import http.server
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import wait_for
from servers import Listener, raw, request_bytes, running_proxy, whole
from streams import EVENT, HEAD, chunk, read_until

from llmauth.exceptions import ClientDisconnected
from llmauth.proxy import connections, keep_alive
from llmauth.proxy.connections import Connections
from llmauth.proxy.connector import Connector
from llmauth.proxy.keep_alive import KEEP_ALIVE
from llmauth.proxy.watch import TICK, Watch

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
OK = b"HTTP/1.1 200 OK\r\n"


def watch() -> Watch:
    return Watch(lambda: False, read_timeout=15.0)


def slots_free(proxy) -> None:
    wait_for(lambda: proxy.server.state.slots.used == 0, "the slot was not given back")


# A body that the upstream has not read


class Careless(http.server.BaseHTTPRequestHandler):
    """Python's own server, which leaves on the connection what no method of it reads.

    It reads the body of a POST that it likes, and repeats it.
    """

    protocol_version = "HTTP/1.1"
    status = 200

    def answer(self) -> None:
        body = f"{self.command} {self.path}".encode()
        if self.command == "POST" and self.status == 200:
            body += self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_OPTIONS = do_DELETE = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def careless():
    class Handler(Careless):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        handler = Handler
        environ = {"OPENAI_API_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        with running_proxy(None, environ) as proxy:
            yield proxy, handler
        server.shutdown()
        thread.join()


INNER = {
    "an answer for the next client": b"GET /stolen HTTP/1.1\r\nHost: x\r\n\r\n",
    "the next client's request": b"POST /theft HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
    "no request": b"{}",
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("GET", 200),
        ("HEAD", 200),
        ("OPTIONS", 200),
        ("DELETE", 200),
        ("POST", 401),
        ("POST", 404),
        ("PUT", 413),
        ("PATCH", 500),
        ("POST", 307),
    ],
)
def test_a_body_that_was_not_read_is_nobodys_request(careless, method, status, inner):
    proxy, handler = careless
    for _ in range(2):
        handler.status = status
        assert proxy.request(method, "/v1/first", body=INNER[inner]).status == status
        handler.status = 200
        assert proxy.request("GET", "/v1/second").body == b"GET /v1/second"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_an_upstream_is_asked_to_close_after_a_body_without_a_meaning(proxy, upstream, method):
    """So that it does not take what is in it for a request, either."""
    proxy.request(method, "/v1/x", body=b"{}")
    proxy.request(method, "/v1/x")
    proxy.request("POST", "/v1/x", body=b"{}")
    closing = [request.header("connection") for request in upstream.requests]
    assert closing == ["close", None, None]
    assert upstream.requests[0].body == b"{}"


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "299 Own"])
def test_a_request_that_was_taken_leaves_its_connection(proxy, upstream, status):
    upstream.answer = whole(b"{}", status)
    for method in ("POST", "PUT", "PATCH", "GET", "DELETE"):
        assert proxy.request(method, "/v1/x", body=b"{}" if method[0] == "P" else None)
    assert upstream.connections == 1


class Hasty(Listener):
    """Answers as soon as it has read a request's head, and leaves the body where it is.

    :param answer: sent at once
    :param rest: sent after the body, which is read after a while; None when it never is
    """

    def __init__(self, answer: bytes, rest: bytes | None = None) -> None:
        self.answer = answer
        self.rest = rest
        self.requests: list[bytes] = []
        self.done = threading.Event()
        super().__init__()
        self.environ = {"OPENAI_API_BASE_URL": f"http://127.0.0.1:{self.port}"}

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, AssertionError), sock:
            data = read_until(sock, b"\r\n\r\n")
            self.requests.append(data)
            sock.sendall(self.answer)
            if self.rest is not None:
                time.sleep(3 * TICK)  # so long that whoever sends has to wait
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                left = length - len(body)
                while left and (received := sock.recv(min(65536, left))):
                    left -= len(received)
                sock.sendall(self.rest if not left else b"")
            self.done.wait(15)

    def stop(self) -> None:
        self.done.set()
        super().stop()


LARGE = bytes(16 * 2**20)


@pytest.mark.parametrize(
    ("status", "size"),
    [(413, len(LARGE)), (401, len(LARGE)), (307, len(LARGE)), (413, 1)],
)
def test_a_refusal_that_does_not_wait_for_the_request_arrives_and_ends_the_connection(status, size):
    """Though the upstream neither reads on nor closes."""
    hasty = Hasty(b"HTTP/1.1 %d Now\r\nContent-Length: 5\r\n\r\nearly" % status)
    with running_proxy(None, hasty.environ) as proxy:
        for _ in range(2):
            reply = proxy.request("POST", "/v1/files", body=LARGE[:size])
            assert (reply.status, reply.body) == (status, b"early")
        slots_free(proxy)
    hasty.stop()
    assert hasty.connections == 2


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"Content-Length: 3\r\n\r\nall"),
        (OK, b"Content-Length: 3\r\n\r\nall"),
        (OK + b"Content-Length: 3\r\n\r\n", b"all"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"2\r\nll\r\n0\r\n\r\n"),
    ],
    ids=["interim", "its line", "its head", "its first chunk"],
)
def test_an_upstream_that_begins_to_answer_gets_the_rest_of_the_request(answer, rest):
    """Some answer while they read; such a connection is not used again."""
    hasty = Hasty(answer, rest)
    with running_proxy(None, hasty.environ) as proxy:
        for _ in range(2):
            reply = proxy.request("POST", "/v1/files", body=LARGE)
            assert (reply.status, reply.body) == (200, b"all")
    hasty.stop()
    assert hasty.connections == 2


# More than was announced

MORE = {
    "more than its length": ("POST", OK + b"Content-Length: 2\r\n\r\nok"),
    "more than no bytes": ("POST", OK + b"Content-Length: 0\r\n\r\n"),
    "after the last chunk": (
        "POST",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    "after the trailers": (
        "POST",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    ),
    "after a stream": ("POST", HEAD + chunk(EVENT) + b"0\r\n\r\n"),
    "after HEAD": ("HEAD", OK + b"Content-Length: 60\r\n\r\n"),
    "after HEAD with chunks": ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    "after a 204": ("DELETE", b"HTTP/1.1 204 None\r\n\r\n"),
    "after a 304": ("GET", b"HTTP/1.1 304 Same\r\nContent-Length: 60\r\n\r\n"),
}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("case", MORE)
def test_what_comes_after_an_answer_is_nobodys(proxy, upstream, case, late):
    method, answer = MORE[case]
    upstream.answer = raw(answer if late else answer + FORGED, close=False)
    for _ in range(2):
        proxy.request(method, "/v1/first")
        slots_free(proxy)
        if late:
            with contextlib.suppress(OSError):  # closed at once, if more may come
                upstream.requests[-1].sock.sendall(FORGED)
    upstream.answer = whole(b"own")
    assert proxy.request("POST", "/v1/second", body=b"{}").body == b"own"
    assert upstream.connections == 3


@pytest.mark.parametrize("case", ["after HEAD", "after a 204", "after a 304"])
def test_where_nobody_can_know_whether_a_body_follows_the_connection_ends(proxy, upstream, case):
    method, answer = MORE[case]
    upstream.answer = raw(answer, close=False)
    for number in range(3):
        proxy.request(method, "/v1/first")
        wait_for(lambda: upstream.closed.acquire(blocking=False), "the connection is closed")
        assert upstream.connections == number + 1


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=60), st.integers(0, 200), st.binary(max_size=9))
def test_two_requests_on_one_connection(body, late, announced, start):
    """Whatever an upstream sends for the first, the second's answer is never of it."""
    method = bytes([announced % 7])
    head = OK + b"Content-Length: %d\r\n\r\n" % announced
    targets.two_requests(method + head + body + targets.LATER + late)
    targets.two_requests(method + start + head + body + targets.LATER + FORGED)


# Idle connections


def pair() -> tuple[socket.socket, socket.socket]:
    own, far = socket.socketpair()
    own.setblocking(False)
    return own, far


def test_the_connection_used_last_is_used_first_and_the_oldest_are_too_many():
    pairs = [pair() for _ in range(3)]
    made = Connections(lambda _: "new", kept=2, idle_timeout=55.0)
    for own, _ in pairs:
        made.give_back(own)
    assert [made.lease(watch()) for _ in range(3)] == [pairs[2][0], pairs[1][0], "new"]
    assert pairs[0][1].recv(1) == b""


def test_a_connection_is_not_used_after_it_has_been_idle_for_too_long(monkeypatch):
    """A NAT may have forgotten it; and then the request would hang until its time is over."""
    now = 1000.0
    monkeypatch.setattr(connections, "monotonic", lambda: now)
    made = Connections(lambda _: "new", kept=9, idle_timeout=55.0)
    pairs = [pair() for _ in range(3)]
    for own, _ in pairs:
        made.give_back(own)
    now += 54.9
    assert made.lease(watch()) is pairs[2][0]
    made.give_back(pairs[2][0])
    now += 0.1
    assert made.lease(watch()) is pairs[2][0]
    assert [far.recv(1) for _, far in pairs[:2]] == [b"", b""]
    made.give_back(pairs[2][0])
    now += 55.0
    assert made.lease(watch()) == "new"


@pytest.mark.parametrize("sent", [b"x", FORGED, None], ids=["a byte", "an answer", "the end"])
def test_a_connection_on_which_something_came_is_closed(sent):
    made = Connections(lambda _: "new", kept=9, idle_timeout=55.0)
    own, far = pair()
    made.give_back(own)
    if sent:
        far.sendall(sent)
    else:
        far.shutdown(socket.SHUT_WR)
    assert made.lease(watch()) == "new"
    assert own.fileno() == -1
    far.close()


def test_idle_connections_are_closed_with_the_rest_and_none_is_kept_then():
    made = Connections(lambda _: "new", kept=9, idle_timeout=55.0)
    pairs = [pair() for _ in range(2)]
    made.give_back(pairs[0][0])
    made.close()
    made.give_back(pairs[1][0])
    assert [far.recv(1) for _, far in pairs] == [b"", b""]


def test_the_idle_timeout_is_a_setting_of_the_backend(upstream, tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text("backends: {openai: {idle_timeout: 0.01}}")
    with running_proxy(upstream, {"LLMAUTH_CONFIG": str(file)}) as proxy:
        proxy.request("POST", "/v1/x", body=b"{}")
        wait_for(
            lambda: proxy.request("POST", "/v1/x", body=b"{}") and upstream.connections > 1,
            "another connection is opened",
        )


def test_the_system_asks_whether_an_idle_upstream_is_still_there(upstream):
    sock = Connector(upstream.url, proxy=None, timeout=15.0).connect(watch())
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEP_ALIVE == 60


class Socket:
    """Of a system on which options have other names."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int, int]] = []
        self.controls: list[tuple[int, tuple[int, int, int]]] = []

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)

    def ioctl(self, control: int, values: tuple[int, int, int]) -> None:
        self.controls.append((control, values))


ON = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


@pytest.mark.parametrize(
    ("platform", "idle", "options", "controls"),
    [
        ("linux", 4, [ON, (socket.IPPROTO_TCP, 4, 60)], []),
        ("darwin", 16, [ON, (socket.IPPROTO_TCP, 16, 60)], []),
        ("win32", 3, [ON, (socket.IPPROTO_TCP, 3, 60)], []),
        ("win32", None, [ON], [(0x98000004, (1, 60_000, 1_000))]),
        ("aix", None, [ON], []),
    ],
    ids=["Linux", "macOS", "Windows", "an old Windows", "without the option"],
)
def test_keep_alive_is_asked_for_by_the_systems_own_names(
    monkeypatch, platform, idle, options, controls
):
    monkeypatch.setattr(keep_alive, "_IDLE", idle)
    monkeypatch.setattr(keep_alive, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(socket, "SIO_KEEPALIVE_VALS", 0x98000004, raising=False)
    sock = Socket()
    keep_alive.keep_alive(sock)
    assert (sock.options, sock.controls) == (options, controls)


def test_an_idle_connection_holds_no_request(upstream):
    """Its watch would, and with it all that the server knows of the request."""
    sock = Connector(upstream.url, proxy=None, timeout=15.0).connect(watch())
    with sock:
        assert not vars(sock)


# Connecting


class Dripping(Listener):
    """Sends the beginning of what is expected, then a byte now and then, for ever.

    :param starts: what is sent first, each part once something has been received
    :param drip: what is sent again and again
    """

    def __init__(self, starts: list[bytes], drip: bytes) -> None:
        self.starts, self.drip = starts, drip
        self.reached = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self.stopped = threading.Event()
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            for start in self.starts:
                sock.recv(65536)
                sock.sendall(start)
            self.reached.release()
            while not self.stopped.wait(0.02):
                sock.sendall(self.drip)
        self.left.release()

    def stop(self) -> None:
        self.stopped.set()
        super().stop()


RECORD = b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb"
"""The beginning of a long message of a handshake."""

DRIPS = {
    "a proxy's status line": ([b"HTTP/1.1 200 "], b"x", "proxy"),
    "a proxy's headers": ([b"HTTP/1.1 200 OK\r\n"], b"X: y\r\n", "proxy"),
    "a proxy that says nothing": ([b""], b"", "proxy"),
    "TLS": ([RECORD], b"\0", "https"),
    "TLS behind a proxy": ([b"HTTP/1.1 200 OK\r\n\r\n", RECORD], b"\0", "proxy"),
    "TLS that says nothing": ([b""], b"", "https"),
    "the status line": ([b"HTTP/1.1 200 "], b"x", "http"),
    "interim answers": ([b"HTTP/1.1 102 On it\r\n"], b"X: y\r\n", "http"),
}


@contextlib.contextmanager
def dripping(case: str, seconds: float, tmp_path):
    """Run a proxy before an upstream that drips.

    :param seconds: for connecting, and for the answer to begin
    """
    starts, drip, kind = DRIPS[case]
    server = Dripping(starts, drip)
    file = tmp_path / "llmauth.yaml"
    file.write_text(
        f"backends: {{openai: {{connect_timeout: {seconds}, first_byte_timeout: {seconds}}}}}"
    )
    url = "https://127.0.0.1:9" if kind == "proxy" else f"{kind}://127.0.0.1:{server.port}"
    environ = {"LLMAUTH_CONFIG": str(file), "OPENAI_API_BASE_URL": url}
    if kind == "proxy":
        environ["OPENAI_PROXY"] = f"http://127.0.0.1:{server.port}"
    with running_proxy(None, environ, threads=4) as proxy:
        yield server, proxy
    server.stop()


@pytest.mark.parametrize("case", DRIPS)
def test_connecting_and_the_head_have_one_deadline_however_they_drip(tmp_path, case):
    with dripping(case, 0.4, tmp_path) as (server, proxy):
        assert proxy.request("POST", "/v1/x", body=b"{}").status == 504
        slots_free(proxy)
        assert not server.drip or server.left.acquire(timeout=15)


@pytest.mark.parametrize("case", DRIPS)
def test_a_client_that_leaves_while_an_upstream_drips_frees_its_slot(tmp_path, case):
    with dripping(case, 600, tmp_path) as (server, proxy):
        with proxy.open(request_bytes("/v1/x")):
            assert server.reached.acquire(timeout=15)
            assert proxy.server.state.slots.used == 1
        slots_free(proxy)


@pytest.fixture
def full():
    """An address that takes no connection, and refuses none."""
    # Others take more connections than they are told to, or refuse them; CI runs on Linux.
    if sys.platform != "linux":
        pytest.skip("fills the queue of a port as Linux does")
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()


def found(monkeypatch, *addresses) -> None:
    """Have every name resolve to these addresses."""
    kinds = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    answer = [(*kinds, address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answer)


def test_an_address_that_swallows_everything_leaves_time_for_the_next(full, upstream, monkeypatch):
    connector = Connector("http://two.example", proxy=None, timeout=1.0)
    found(monkeypatch, full, ("127.0.0.1", upstream.port))
    connector.connect(watch()).close()


def test_all_addresses_share_one_deadline(full, monkeypatch):
    connector = Connector("http://many.example", proxy=None, timeout=0.5)
    found(monkeypatch, *[full] * 500)
    with pytest.raises(TimeoutError, match="no connection came about in time"):
        connector.connect(watch())


def test_a_client_that_leaves_ends_connecting(full, monkeypatch):
    connector = Connector("http://never.example", proxy=None, timeout=600.0)
    found(monkeypatch, full, full)
    with pytest.raises(ClientDisconnected):
        connector.connect(Watch(lambda: True, read_timeout=600.0))


@pytest.mark.parametrize("name", ["x" * 64 + ".example", "nowhere.invalid"])
def test_a_name_that_cannot_be_resolved(upstream, name):
    with running_proxy(upstream, {"OPENAI_API_BASE_URL": f"http://{name}"}) as proxy:
        reply = proxy.request("GET", "/v1/x")
    assert reply.status == 502
    assert "its name cannot be resolved" in reply.error["message"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_hosts_that_are_addresses(address):
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listening = stack.enter_context(socket.create_server((address, 0), family=family))
        except OSError:
            # Containers often have none, which is no fault of theirs; IPv4 is everywhere.
            if family == socket.AF_INET:
                raise
            pytest.skip("there is no IPv6")
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{listening.getsockname()[1]}"
        Connector(url, proxy=None, timeout=15.0).connect(watch()).close()
