"""What load balancers and supervisors ask, and how: without a key, and some of them in a hurry."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from attack import WRONG, request, statuses
from servers import TIMEOUT, Proxy, read_all, request_bytes, running_proxy

from llmauth import create_app
from llmauth.config.loading import load
from llmauth.server.server import Server

PAGES = ("/health", "/healthz", "/livez", "/readyz", "/docs", "/openapi.json")
SETTINGS = {"port": 0, "default_backend": "echo", "keys": {"a": "k" * 32}}


class Held:
    """A proxy whose threads wait, before they answer, until they may go on."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Semaphore(0), threading.Event()
        app = create_app(load(SETTINGS, {}))
        inner = app.wsgi_app

        def application(environ, start_response):
            self.asked.release()
            assert self.may_answer.wait(TIMEOUT)
            return inner(environ, start_response)

        app.wsgi_app = application
        self.proxy = Proxy(Server(app))

    def let_loop_read(self) -> None:
        """Return once the thread that reads has looked at all connections, twice."""
        for _ in range(2):
            with self.proxy.open(b"no request\r\n\r\n") as sock:
                assert sock.recv(12) == b"HTTP/1.1 400"


@pytest.fixture
def held():
    running = Held()
    yield running
    running.may_answer.set()
    running.proxy.server.stop()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("line", [
    *(f"GET {page}" for page in PAGES), "HEAD /health", "OPTIONS /health", "OPTIONS /",
])  # fmt: skip
def test_who_closes_his_side_at_once_is_answered(held, line, version):
    with held.proxy.open(f"{line} HTTP/{version}\r\nHost: a\r\n\r\n".encode()) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert held.asked.acquire(timeout=TIMEOUT)
        held.let_loop_read()
        held.may_answer.set()
        (status,) = statuses(read_all(sock))
    assert status in (200, 204)


def test_each_of_several_questions_is_answered_before_the_connection_ends(held):
    with held.proxy.open(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 5) as sock:
        sock.shutdown(socket.SHUT_WR)
        held.let_loop_read()
        held.may_answer.set()
        assert statuses(read_all(sock)) == [200] * 5


def test_what_was_forwarded_is_given_up_when_the_client_closes_his_side(proxy, upstream):
    """A client that leaves looks the same, and a provider's answer costs."""
    asked, ended = threading.Event(), threading.Event()

    def answer(received):
        asked.set()
        if received.sock.recv(1) == b"":
            ended.set()

    upstream.answer = answer
    with proxy.open(request_bytes("/v1/chat/completions")) as sock:
        assert asked.wait(TIMEOUT)
        sock.shutdown(socket.SHUT_WR)
        assert ended.wait(TIMEOUT)


def test_a_connection_that_is_reset_in_the_meantime_is_given_up(held):
    server = held.proxy.server
    with held.proxy.open(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") as sock:
        assert held.asked.acquire(timeout=TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    held.let_loop_read()
    held.may_answer.set()
    assert server.stop() == 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("target", [*PAGES, "/", "*", "http://a/health"])
def test_haproxy_asks_for_options(echo, target, version):
    """Its ``option httpchk``, with a path and without, takes any 2xx."""
    data = f"OPTIONS {target} HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    answer = echo.exchange(data)
    (status,) = statuses(answer)
    assert status in (200, 204)
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", ["/v1/models", "/health/", "//health", "/x", "/*", "/-/keys"])
def test_options_of_anything_else_want_the_key(echo, target):
    assert echo.request("OPTIONS", target, key=None).status == 401


@pytest.mark.parametrize("path", ["/health", "/"])
def test_with_an_origin_it_is_a_page_that_asks(echo, path):
    page = {"Origin": "https://page.example"}
    assert echo.request("OPTIONS", path, page, key=None).status == 401
    page["Access-Control-Request-Method"] = "GET"
    assert echo.request("OPTIONS", path, page, key=None).status == 403


def test_probes_count_as_no_attempt_and_are_answered_to_who_is_locked_out():
    with running_proxy(None, default_backend="echo") as proxy:
        for _ in range(6):
            locked = proxy.exchange(request(key=WRONG))
        assert statuses(locked) == [429]
        for path in ("/livez", "/health"):
            for method in ("GET", "OPTIONS"):
                assert proxy.request(method, path, key=None).status == 200
