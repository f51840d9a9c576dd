"""Streams: every byte at once, cancelled at once, never quietly cut."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import http.client
import os
import re
import signal
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
from programs import listens, llmauth, wait_for
from servers import (
    KEY,
    PROVIDER_KEY,
    TIMEOUT,
    raw,
    read_all,
    request_bytes,
    running_proxy,
    whole,
)
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.server import server
from llmauth.server import stream as streams
from llmauth.server.channel import Channel


def test_each_chunk_arrives_before_the_next_is_sent(proxy, upstream):
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two"), b"0\r\n\r\n")
    with proxy.open(request_bytes("/v1/x")) as sock:
        head = read_until(sock, b"one")
        assert b"X-Accel-Buffering: no" in head
        assert b"Cache-Control: no-store" in head
        upstream.answer.go_on.release()
        assert b"two" in read_until(sock, b"two")
        upstream.answer.go_on.release()
        upstream.answer.go_on.release()
        assert read_all(sock).endswith(b"0\r\n\r\n")


def test_the_headers_of_a_stream_arrive_before_its_first_byte(proxy, upstream):
    upstream.answer = Held(HEAD, chunk(b"one") + b"0\r\n\r\n")
    with proxy.open(request_bytes("/v1/x")) as sock:
        read_until(sock, b"\r\n\r\n")
        upstream.answer.go_on.release()
        upstream.answer.go_on.release()
        read_until(sock, b"one")


@pytest.mark.skipif(sys.platform != "linux", reason="counts segments as Linux does")
def test_an_answer_leaves_in_one_piece_also_on_a_connection_that_is_used_again(proxy, upstream):
    with proxy.open(b"") as sock:
        for _ in range(3):
            sock.sendall(request_bytes("/v1/x"))
            assert read_until(sock, b'{"ok": true}').startswith(b"HTTP/1.1 200 OK\r\n")
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156)
        assert int.from_bytes(told[152:], sys.byteorder) == 3  # tcpi_data_segs_in


@pytest.mark.parametrize(
    "answer",
    [
        Held(b""),
        Held(HEAD),
        Held(HEAD + chunk(EVENT)),
        Held(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc"),
    ],
    ids=["no headers yet", "no body yet", "silent in mid-stream", "silent with a length"],
)
def test_when_the_client_leaves_the_upstream_is_closed(proxy, upstream, answer):
    upstream.answer = answer
    with proxy.open(request_bytes("/v1/x")) as sock:
        answer.wait()
        time.sleep(0.05)
        sock.close()
        left = time.monotonic()
        (request,) = upstream.requests
        request.sock.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionResetError):
            assert request.sock.recv(1) == b""
        assert time.monotonic() - left < 5 * 0.5  # the aim is 0.5 s; machines are noisy
    answer.go_on.release()


def test_a_streaming_upstream_is_closed_when_the_client_leaves(proxy, upstream):
    stopped = threading.Event()

    def endless(request) -> None:
        try:
            request.sock.sendall(HEAD)
            while True:
                request.sock.sendall(chunk(EVENT))
                time.sleep(0.01)
        except OSError:
            stopped.set()

    upstream.answer = endless
    with proxy.open(request_bytes("/v1/x")) as sock:
        read_until(sock, EVENT)
    assert stopped.wait(TIMEOUT)


def test_a_thousand_cancelled_requests_leave_nothing_behind(upstream):
    """As many sockets and threads as before, in this process that holds both of its ends.

    Those that were there before the proxy are left out: they are of other tests, and may end.
    """
    of_others = descriptors() | set(threading.enumerate())
    with running_proxy(upstream, threads=32) as proxy:
        lifecycle = proxy.server.state.slots

        def left() -> int:
            upstream.answer = Held(HEAD + chunk(EVENT), b"0\r\n\r\n")
            with proxy.open(request_bytes("/v1/x")) as sock:
                read_until(sock, EVENT)
                upstream.answer.go_on.release()
                upstream.answer.go_on.release()
                assert read_all(sock).endswith(b"0\r\n\r\n")
            wait_for(lambda: lifecycle.used == 0, "the request ends")
            return len((descriptors() | set(threading.enumerate())) - of_others)

        def usual() -> float:
            """Return the median of some counts: a socket may be about to close during one."""
            return statistics.median(left() for _ in range(9))

        before = usual()
        for number in range(1000):
            wait_for(lambda: lifecycle.used < 16, "cancelled requests end")
            upstream.answer = Held(b"" if number % 2 else HEAD + chunk(EVENT))
            with proxy.open(request_bytes("/v1/x")) as sock:
                upstream.answer.wait()
                if number % 3:
                    sock.settimeout(0.002)
                    with contextlib.suppress(TimeoutError):
                        sock.recv(10)
            upstream.answer.go_on.release()
        wait_for(lambda: lifecycle.used == 0, "cancelled requests end")
        wait_for(lambda: usual() <= before, "sockets and threads are closed")


def test_a_connection_that_ended_is_not_held_by_an_idle_thread(proxy, upstream):
    """Each holds its last request and what is left of its buffers; there are hundreds of threads.

    The collector of cycles, which would find some of them much later, is off.
    """
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert proxy.request("POST", "/v1/x", body=b"{}").status == 200
        wait_for(lambda: not connections(), "connections are freed")
    finally:
        gc.enable()


def connections() -> list[Channel]:
    return [one for one in gc.get_objects() if isinstance(one, Channel)]


def descriptors() -> set[object]:
    """Return the files and sockets that this process has open, where the system tells."""
    where = next((path for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), None)
    found: set[object] = set()
    for number in os.listdir(where) if where else ():
        with contextlib.suppress(OSError):  # closed since, as the folder's own is
            status = os.fstat(int(number))
            found.add((number, status.st_dev, status.st_ino))
    return found


@pytest.mark.parametrize(
    "head",
    [HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"],
    ids=["stream", "with a length"],
)
def test_a_client_that_stays_but_does_not_read_is_cut(proxy, upstream, monkeypatch, head):
    """waitress alone would wait for ever, with a thread."""
    for module in (server, streams):
        monkeypatch.setattr(module, "STALLED", 0.5)
    ended = threading.Event()

    def answer(request) -> None:
        with contextlib.suppress(OSError):
            request.sock.sendall(head)
            while True:
                request.sock.sendall(chunk(bytes(2**20)))
        ended.set()

    upstream.answer = answer
    lifecycle = proxy.server.state.slots
    with proxy.open(request_bytes("/v1/x")) as sock:
        assert sock.recv(10)
        assert lifecycle.used == 1
        assert ended.wait(TIMEOUT)
        wait_for(lambda: lifecycle.used == 0, "the slot is free")


def test_a_large_upload_passes_without_being_held_in_memory(upstream):
    """100 MB; the peak of resident memory grows by a fraction of that."""
    proxy = llmauth(
        LLM_INTERACTIVE_PROXY_API_KEY=KEY,
        OPENAI_API_BASE_URL=upstream.url,
        OPENAI_API_KEY=PROVIDER_KEY,
    )
    digest, size = hashlib.sha256(), 100 * 1024 * 1024

    def answer(request) -> None:
        whole(hashlib.sha256(request.body).hexdigest().encode())(request)

    upstream.answer = answer
    with contextlib.closing(proxy):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {KEY}"}
            connection.request("GET", "/v1/models", headers=headers)
            connection.getresponse().read()
            before = peak_megabytes(proxy.process.pid)

            def blocks():
                for number in range(100):
                    block = bytes([number]) * (1024 * 1024)
                    digest.update(block)
                    yield block

            headers["Content-Length"] = str(size)
            connection.request("POST", "/v1/files", blocks(), headers)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, digest.hexdigest().encode())
            assert peak_megabytes(proxy.process.pid) - before < 20


def peak_megabytes(pid: int) -> float:
    """Return the most memory that a process ever had resident; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    text = status.read_text(encoding="ascii") if status.exists() else ""
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + chunk(EVENT),
        HEAD + chunk(EVENT) + b"zz\r\n",
        HEAD + b"ff\r\nabc",
        HEAD + chunk(b"data: {"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"{"),
    ],
    ids=["no end", "bad chunking", "short chunk", "mid-event", "too few bytes", "json"],
)
def test_a_stream_that_breaks_upstream_never_looks_complete(proxy, upstream, answer):
    def broken(request) -> None:
        request.sock.sendall(answer)
        request.sock.shutdown(socket.SHUT_RDWR)

    upstream.answer = broken
    received = proxy.exchange(request_bytes("/v1/x"))
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert not received.endswith(b"0\r\n\r\n")
    if b"Content-Length: 99" in received:
        assert received.endswith(b"\r\n\r\nabc")
    whole_events = answer.endswith((EVENT + b"\r\n", b"zz\r\n"))
    assert (b"broke off" in received) == whole_events
    assert proxy.server.state.slots.used == 0


def test_a_stream_of_named_events_ends_in_a_named_error(proxy, upstream):
    event = b"event: message_start\ndata: {}\n\n"
    upstream.answer = raw(HEAD + chunk(event))
    received = proxy.exchange(request_bytes("/v1/x"))
    assert b'event: error\ndata: {"type": "error", "error": {"message": "The b' in received


@pytest.mark.parametrize(
    ("seconds", "answer", "status"),
    [
        ("first_byte_timeout", Held(b""), b"504"),
        ("read_timeout", Held(HEAD + chunk(EVENT)), b"200"),
    ],
)
def test_timeouts(upstream, tmp_path, seconds, answer, status):
    file = tmp_path / "llmauth.yaml"
    file.write_text(f"backends: {{openai: {{{seconds}: 0.4}}}}")
    upstream.answer = answer
    with running_proxy(upstream, {"LLMAUTH_CONFIG": str(file)}) as proxy:
        received = proxy.exchange(request_bytes("/v1/x", "Connection: close"))
        assert received.startswith(b"HTTP/1.1 " + status)
        assert not received.endswith(b"0\r\n\r\n")
    answer.go_on.release()


def test_health_answers_and_further_requests_get_503_while_every_slot_streams(upstream):
    upstream.answer = Held(HEAD + chunk(EVENT))
    with running_proxy(upstream, threads=4) as proxy, contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(proxy.open(request_bytes("/v1/x")))
            read_until(sock, EVENT)
        assert proxy.request("GET", "/health", key=None).status == 200
        assert proxy.request("GET", "/v1/x", key="wrong-key-123").status == 401
        refused = proxy.request("POST", "/v1/x", body=b"{}")
        assert (refused.status, refused.header("retry-after")) == (503, "1")
        assert refused.error["type"] == "overloaded_error"
        for _ in range(4):
            upstream.answer.go_on.release()


def test_200_streams_at_once_are_all_complete(upstream):
    def stream(request) -> None:
        request.sock.sendall(HEAD)
        for number in range(20):
            request.sock.sendall(chunk(b"data: %d\n\n" % number))
            time.sleep(0.02)
        request.sock.sendall(b"0\r\n\r\n")

    upstream.answer = stream
    bodies: list[bytes] = []
    with running_proxy(upstream, threads=256) as proxy:

        def client() -> None:
            bodies.append(proxy.request("POST", "/v1/x", body=b"{}").body)

        clients = [threading.Thread(target=client) for _ in range(200)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
    assert bodies == [b"".join(b"data: %d\n\n" % n for n in range(20))] * 200


def test_a_shutdown_lets_streams_finish(upstream):
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n", b"")
    with running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            read_until(sock, b"one")
            stopping = threading.Thread(target=proxy.server.stop)
            stopping.start()
            until = time.monotonic() + TIMEOUT
            while not proxy.server.state.slots.draining and time.monotonic() < until:
                time.sleep(0.01)
            with pytest.raises(ConnectionRefusedError):
                proxy.open(b"")
            upstream.answer.go_on.release()
            upstream.answer.go_on.release()
            assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")
            stopping.join(TIMEOUT)
        upstream.answer.go_on.release()


def test_a_shutdown_cuts_streams_after_its_time(upstream):
    upstream.answer = Held(HEAD + chunk(b"one"))
    with running_proxy(upstream, shutdown_timeout=0.3) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            read_until(sock, b"one")
            assert proxy.server.stop() == 1
            assert not read_all(sock).endswith(b"0\r\n\r\n")
        upstream.requests[0].sock.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionResetError):
            assert upstream.requests[0].sock.recv(1) == b""
    upstream.answer.go_on.release()


def test_while_streams_finish_readyz_says_so_and_a_second_signal_ends_it_now(upstream):
    upstream.answer = Held(HEAD + chunk(b"one"))
    proxy = llmauth(
        LLM_INTERACTIVE_PROXY_API_KEY=KEY,
        OPENAI_API_BASE_URL=upstream.url,
        APP_SHUTDOWN_TIMEOUT="600",
    )
    with (
        contextlib.closing(proxy),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port)) as kept_alive,
        socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT) as sock,
    ):

        def ready() -> int:
            kept_alive.request("GET", "/readyz")
            response = kept_alive.getresponse()
            response.read()
            return response.status

        assert ready() == 200
        sock.sendall(request_bytes("/v1/x"))
        read_until(sock, b"one")
        proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: ready() == 503, "/readyz turns")
        wait_for(lambda: not listens(proxy.port), "nothing more is accepted")
        assert proxy.process.poll() is None
        assert proxy.stop(signal.SIGTERM) == 1
        upstream.answer.go_on.release()
