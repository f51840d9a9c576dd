"""Hostile headers of requests, and clients that are slow: what each occupies."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import pytest
from attack import WRONG, request, send, statuses
from programs import wait_for
from servers import KEY, PROVIDER_KEY, TIMEOUT, read_all, request_bytes, running_proxy

HOP = "Connection: close, authorization, x-api-key, x-proxy-api-key, host, content-length, cookie"


@pytest.mark.parametrize(
    "headers",
    [
        [HOP],
        [HOP, "Keep-Alive: authorization", "Proxy-Connection: authorization"],
        ["Connection: x-forwarded-for, via, accept-encoding"],
        ["Connection: " + ", ".join(["authorization"] * 3000)],
        ["Connection: \x85authorization\xa0, ,,;"],
        [
            "TE: trailers, chunked",
            "Trailer: Authorization",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAA",
        ],
    ],
    ids=["connection", "older names", "ours", "3,000 times", "junk", "te"],
)
def test_hop_by_hop_headers_take_no_key_away_and_let_nobody_in(proxy, upstream, headers):
    def ask(key: str | None) -> list[int]:
        # HTTP/1.0 ends with its answer; waitress overlooks a "close" that does not stand alone.
        return statuses(send(proxy.port, request(*headers, line="POST /v1/x HTTP/1.0", key=key)))

    assert ask(KEY) == [200]
    (one,) = upstream.requests
    assert one.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert one.header("host") == f"127.0.0.1:{upstream.port}"
    assert {name.lower() for name, _ in one.headers} & {
        "te",
        "upgrade",
        "trailer",
        "connection",
    } == set()
    assert ask(WRONG) == [401]
    assert ask(None) == [401]
    assert len(upstream.requests) == 1


FORWARDED = {
    "a flood": ", ".join(["203.0.113.9"] * 3000) + ", 198.51.100.7",
    "junk on the left": "localhost, unknown, -, 1, 0x7f000001, ::ffff:zz, 198.51.100.7",
    "a port": "203.0.113.9, 198.51.100.7:65000",
    "the proxy itself": "198.51.100.7, 127.0.0.1, 127.0.0.1",
    "mapped": "203.0.113.9, ::ffff:198.51.100.7",
    "spaces": " \t203.0.113.9 ,\t 198.51.100.7\t",
}


@pytest.mark.parametrize("case", FORWARDED)
def test_only_the_last_untrusted_address_counts(upstream, case):
    """Whatever stands left of it, it is that address which is locked out, and no other."""
    with running_proxy(upstream, trusted_proxies="127.0.0.1", max_failed_attempts=1) as proxy:
        header = f"X-Forwarded-For: {FORWARDED[case]}"
        others = ["X-Real-IP: 192.0.2.8", "Forwarded: for=192.0.2.8", "True-Client-IP: 192.0.2.8"]
        assert statuses(send(proxy.port, request(header, *others, key=WRONG))) == [401]
        for address, expected in (("198.51.100.7", 429), ("203.0.113.9", 200), ("192.0.2.8", 200)):
            found = statuses(send(proxy.port, request(f"X-Forwarded-For: {address}")))
            assert found == [expected]
    sent = {name.lower() for one in upstream.requests for name, _ in one.headers}
    assert not sent & {"x-forwarded-for", "x-real-ip", "forwarded", "true-client-ip"}


@pytest.mark.parametrize("forwarded", ["203.0.113.1", "203.0.113.1, junk", "", ",,,", "127.0.0.1"])
def test_from_a_peer_that_is_not_trusted_no_address_is_believed(proxy, upstream, forwarded):
    for number in range(6):
        header = f"X-Forwarded-For: 192.0.2.{number}, {forwarded}"
        found = statuses(send(proxy.port, request(header, f"X_Forwarded_For: {number}", key=WRONG)))
        assert found == [401 if number < 5 else 429]
    assert upstream.requests == []


def test_headers_with_underscores_are_nobodys(proxy, upstream):
    (status,) = statuses(send(proxy.port, request(f"x_proxy_api_key: {WRONG}", "x_own: a")))
    assert status == 200
    assert "own" not in str(upstream.requests[0].headers).lower()


# Slow clients


def trickle(port: int, data: bytes) -> socket.socket:
    """Send all but the last byte, one at a time; the caller decides when the last one goes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data) - 1):
        sock.sendall(data[at : at + 1])
    return sock


SLOW = {
    "head": request(key=None),
    "head of a key": request("Content-Length: 0"),
    "body": request("Content-Length: 300", body=b"x" * 300),
    "chunks": request("Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 50 + b"0\r\n\r\n"),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_slow_sender_occupies_a_connection_and_neither_thread_nor_slot(upstream, case):
    """300 clients that have not sent the end of their requests, on a server of four slots."""
    with running_proxy(upstream, threads=4) as proxy, contextlib.ExitStack() as stack:
        before = threading.active_count()
        data = SLOW[case]
        slow = [stack.enter_context(trickle(proxy.port, data)) for _ in range(3)]
        for _ in range(297):
            sock = stack.enter_context(proxy.open(data[:-1]))
            slow.append(sock)
        assert proxy.server.state.slots.used == 0
        assert threading.active_count() <= before
        assert proxy.request("GET", "/v1/models").status == 200
        assert proxy.request("GET", "/health", key=None).status == 200
        slow[0].sendall(data[-1:])
        assert statuses(read_all(slow[0])) == [401 if KEY.encode() not in data else 200]


@pytest.mark.parametrize("kind", ["stream", "length"])
def test_when_a_client_that_does_not_read_leaves_its_slot_is_given_back(upstream, kind):
    framing = "Content-Length: 99999999" if kind == "length" else "Content-Type: text/event-stream"

    def large(received) -> None:
        received.sock.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        while True:
            received.sock.sendall(bytes(2**16))

    upstream.answer = large
    with running_proxy(upstream) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            assert sock.recv(1000)
            wait_for(lambda: proxy.server.state.slots.used == 1, "it does not run")
        wait_for(lambda: proxy.server.state.slots.used == 0, "the slot is still taken")
        assert upstream.closed.acquire(timeout=TIMEOUT)


def test_a_stopped_server_leaves_no_threads_and_no_connections(upstream):
    def waitress() -> set[int | None]:
        return {one.ident for one in threading.enumerate() if "waitress" in one.name}

    before = waitress()
    for _ in range(3):
        with running_proxy(upstream, threads=32) as proxy:
            assert proxy.request("GET", "/v1/models").status == 200
            assert len(waitress() - before) >= 32
        assert upstream.closed.acquire(timeout=TIMEOUT)
    wait_for(lambda: not waitress() - before, "threads are still there")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stopped_server_leaves_no_descriptors(upstream):
    def left() -> int:
        with running_proxy(upstream) as proxy:
            assert proxy.request("GET", "/v1/models").status == 200
        assert upstream.closed.acquire(timeout=TIMEOUT)
        return len(os.listdir("/proc/self/fd"))

    first = left()
    wait_for(lambda: left() <= first, "descriptors are still open")
