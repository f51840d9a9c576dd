"""Streams that have left their thread: carried by one, between two sockets."""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import struct
import threading

import pytest
from servers import KEY, TIMEOUT, read_all, request_bytes, running_proxy
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.server.pump import Pump
from llmauth.server.stream import Stream

TO_THE_END = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


class Source:
    """An upstream's side that hands on what it is fed, until it is told to end."""

    read_timeout = TIMEOUT

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self.sock = sock
        self.received = received
        self.complete = self.broken = self.left = self.is_cut = False
        self.ended = threading.Event()
        self.passed: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        if data == b"defect":
            raise RuntimeError("a defect")
        self.complete = not data
        return data

    def break_off(self, reason: Exception) -> bytes:
        self.broken = True
        return b"(broken)"

    def client_left(self) -> None:
        self.left = True


@pytest.fixture
def pump():
    carrier = Pump()
    yield carrier
    carrier.close()


@pytest.fixture
def carried(pump):
    """Start streams; each is its source, the upstream's other end and the client's."""
    with contextlib.ExitStack() as stack:

        def start(received: bytes = b"", *, chunked: bool = True):
            upstream, far_upstream = socket.socketpair()
            client, far_client = socket.socketpair()
            for sock in (upstream, far_upstream, far_client):
                stack.enter_context(sock)
            far_client.settimeout(TIMEOUT)
            source = Source(upstream, received)
            stream = Stream(
                source,
                client,
                chunked=chunked,
                passed=source.passed.append,
                ended=source.ended.set,
            )
            assert pump.carry(stream)
            return source, far_upstream, far_client

        yield start


def test_what_came_before_is_passed_on_first(carried):
    source, upstream, client = carried(b"one")
    upstream.sendall(b"two")
    assert read_until(client, b"two") == b"3\r\none\r\n3\r\ntwo\r\n"
    upstream.close()
    assert client.recv(100) == b"0\r\n\r\n"
    assert client.recv(100) == b""
    assert source.ended.wait(TIMEOUT)
    assert source.passed == [b"one", b"two"]


def test_a_defect_in_one_stream_leaves_the_others_alone(carried, caplog):
    broken, broken_upstream, broken_client = carried()
    _, upstream, client = carried()
    broken_upstream.sendall(b"defect")
    assert broken.ended.wait(TIMEOUT)
    assert read_all(broken_client) == b""
    upstream.sendall(b"on")
    assert read_until(client, b"on") == b"2\r\non\r\n"
    assert "unexpected error" in caplog.text


def test_when_polling_fails_streams_are_cut_and_later_ones_keep_their_threads(
    pump, carried, monkeypatch, caplog
):
    source, _, client = carried(b"one")
    read_until(client, b"one")

    def fails(*args: object) -> None:
        raise OSError("no more polling")

    monkeypatch.setattr(pump._selector, "select", fails)
    assert source.ended.wait(TIMEOUT)
    assert read_all(client) == b""
    assert not pump.carry(Stream(source, client, chunked=True, passed=len, ended=lambda: None))
    assert "unexpected error" in caplog.text


def test_while_the_client_does_not_read_the_upstream_is_not_read_either(carried):
    source, upstream, client = carried(chunked=False)
    _, other_upstream, other_client = carried()
    sent, block = 0, b"x" * 65536
    upstream.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += upstream.send(block)
            # Once this has passed, the pump has seen everything before it.
            other_upstream.sendall(b".")
            read_until(other_client, b".")
            assert sent < 2**26, "the pump takes in without an end"
    held = sum(map(len, source.passed))
    received = 0
    while received < held:
        received += len(client.recv(65536))
    upstream.setblocking(True)
    upstream.close()
    while data := client.recv(65536):
        received += len(data)
    assert received == sent
    assert source.complete


def test_what_a_client_says_during_its_stream_is_dropped(carried):
    source, upstream, client = carried()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    upstream.sendall(b"one")
    read_until(client, b"one")
    assert not source.ended.is_set()
    client.close()
    assert source.ended.wait(TIMEOUT)
    assert source.left


def test_closing_the_pump_cuts_what_is_left(pump, carried):
    source, _, client = carried(b"one")
    read_until(client, b"one")
    pump.close()
    assert source.ended.is_set()
    assert read_all(client) == b""
    assert not pump.carry(Stream(source, client, chunked=True, passed=len, ended=lambda: None))


class FewSockets(selectors.SelectSelector):
    """As on Windows: any socket, whatever its number, but only some of them."""

    def _select(self, readers, writers, _, timeout):
        poll = select.poll()
        for sock in {*readers, *writers}:
            wanted = select.POLLIN * (sock in readers) | select.POLLOUT * (sock in writers)
            poll.register(sock, wanted)
        ready = [sock for sock, _ in poll.poll(None if timeout is None else timeout * 1000)]
        return [s for s in ready if s in readers], [s for s in ready if s in writers], []


def test_streams_beyond_what_select_can_watch_keep_their_threads(upstream, monkeypatch):
    few = FewSockets if hasattr(select, "poll") else selectors.SelectSelector
    monkeypatch.setattr(selectors, "DefaultSelector", few)
    monkeypatch.setattr("llmauth.server.pump.SELECT_LIMIT", 1)
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    with running_proxy(upstream) as proxy, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(proxy.open(request_bytes("/v1/x"))) for _ in range(3)]
        for sock in socks:
            read_until(sock, b"one")
        for _ in range(2 * len(socks)):
            upstream.answer.go_on.release()
        for sock in socks:
            assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")


def test_streams_take_no_threads(upstream):
    upstream.answer = Held(HEAD + chunk(EVENT))
    with running_proxy(upstream, threads=6) as proxy, contextlib.ExitStack() as stack:
        dispatcher = proxy.server.dispatcher
        for _ in range(5):
            read_until(stack.enter_context(proxy.open(request_bytes("/v1/x"))), EVENT)
        deadline = threading.Event()
        for _ in range(100):
            if dispatcher.busy == 0:
                break
            deadline.wait(0.05)
        assert dispatcher.busy == 0
        assert proxy.server.state.slots.used == 5
        for _ in range(5):
            upstream.answer.go_on.release()


def old_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def test_http_1_0_gets_the_bytes_and_the_end_of_the_connection(proxy, upstream):
    def answer(request) -> None:
        request.sock.sendall(HEAD + chunk(b"one"))
        request.sock.sendall(chunk(b"two") + b"0\r\n\r\n")

    upstream.answer = answer
    head, _, body = proxy.exchange(old_request("/v1/x")).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"onetwo"


def test_http_1_0_sees_a_broken_stream_as_a_broken_connection(proxy, upstream):
    upstream.answer = Held(HEAD + chunk(b"{"))
    with proxy.open(old_request("/v1/x")) as sock:
        read_until(sock, b"{")
        upstream.requests[0].sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    upstream.answer.go_on.release()


def test_an_upstream_that_resets_mid_stream_breaks_the_stream(proxy, upstream):
    held = Held(HEAD + chunk(EVENT))

    def resets(request) -> None:
        held(request)
        request.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise OSError("close it")

    upstream.answer = resets
    with proxy.open(request_bytes("/v1/x")) as sock:
        read_until(sock, EVENT)
        held.go_on.release()
        rest = read_all(sock)
    assert b"broke off" in rest
    assert not rest.endswith(b"0\r\n\r\n")
