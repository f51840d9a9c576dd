"""The end of a server: who is served stays served, who comes too late is told."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import threading

import pytest
from attack import statuses
from programs import llmauth, wait_for
from servers import KEY, TIMEOUT, read_all, request_bytes, running_proxy
from streams import HEAD, Held, chunk, read_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"x" * 100_000


def upload(framing: str) -> tuple[bytes, bytes, bytes]:
    """Return a request as its head, the beginning of its body, and the rest."""
    head = f"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()
    half = len(BODY) // 2
    if framing == "chunked":
        parts = chunk(BODY[:half]), chunk(BODY[half:]) + b"0\r\n\r\n"
        return head + b"Transfer-Encoding: chunked\r\n\r\n", *parts
    head += b"Content-Length: %d\r\n" % len(BODY)
    if framing == "expected":
        head += b"Expect: 100-continue\r\n"
    return head + b"\r\n", BODY[:half], BODY[half:]


@contextlib.contextmanager
def stopping(proxy):
    """Have the server stop meanwhile; what it returned is in the list in the end."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(proxy.server.stop()))
    thread.start()
    listeners = proxy.server._listeners
    wait_for(lambda: not any(one.accepting for one in listeners), "the listeners close")
    try:
        yield returned
    finally:
        thread.join(2 * TIMEOUT)
        assert not thread.is_alive()


@contextlib.contextmanager
def streaming(proxy, upstream):
    """Keep the server from ending while a stream runs, and see that the stream is complete."""
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    with proxy.open(request_bytes("/v1/x")) as sock:
        read_until(sock, b"one")
        yield
        upstream.answer.go_on.release()
        upstream.answer.go_on.release()
        assert read_all(sock).endswith(b"0\r\n\r\n")


def is_told(answer: bytes) -> bool:
    """True for the answer to a request that came too late, on a connection that has ended."""
    wanted = (b"HTTP/1.1 503 ", b"Retry-After: 5\r\n", b"Connection: close\r\n", b'"overloaded"')
    return all(part in answer for part in wanted)


@pytest.mark.parametrize("framing", ["with a length", "chunked", "expected"])
def test_a_request_that_is_being_received_is_served(upstream, framing):
    head, begin, rest = upload(framing)
    with running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy, proxy.open(head) as sock:
        if framing == "expected":
            read_until(sock, b"100 Continue\r\n\r\n")
        sock.sendall(begin)
        wait_for(lambda: any(one.is_receiving for one in proxy.server._channels()), "it arrives")
        with stopping(proxy) as cut:
            sock.sendall(rest)
            answer = read_all(sock)
        assert statuses(answer) == [200]
        assert b"Connection: close" in answer
        assert cut == [0]
    assert upstream.requests[0].body == BODY


@pytest.mark.parametrize("framing", ["with a length", "chunked", "expected"])
def test_what_has_not_arrived_in_time_is_told(upstream, framing):
    head, begin, rest = upload(framing)
    with running_proxy(upstream, shutdown_timeout=0.3) as proxy, proxy.open(head) as sock:
        if framing == "expected":
            read_until(sock, b"100 Continue\r\n\r\n")
        sock.sendall(begin)
        wait_for(lambda: any(one.is_receiving for one in proxy.server._channels()), "it arrives")
        with stopping(proxy) as cut:
            assert is_told(read_all(sock))
            with contextlib.suppress(OSError):
                sock.sendall(rest)
        assert cut == [1]
    assert not upstream.requests


@pytest.mark.parametrize("data", [b"P", b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX: "])
def test_half_a_head_is_told(upstream, data):
    with running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy, proxy.open(data) as sock:
        wait_for(lambda: any(one.request for one in proxy.server._channels()), "it arrives")
        with stopping(proxy):
            assert is_told(read_all(sock))


def test_pipelined_requests_that_were_there_are_served_and_what_follows_them_is_told(upstream):
    upstream.answer = Held(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    with running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy:
        two = request_bytes("/v1/x") + request_bytes("/v1/y")
        with proxy.open(two) as sock:
            upstream.answer.wait()
            with stopping(proxy):
                for _ in range(2):
                    upstream.answer.go_on.release()
                    upstream.answer.go_on.release()
                answer = read_all(sock)
    assert statuses(answer) == [200, 200]
    assert answer.count(b"Connection: close") == 1


def test_a_request_behind_an_upload_is_told_in_its_turn(upstream):
    head, begin, rest = upload("with a length")
    with running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy, proxy.open(head) as sock:
        sock.sendall(begin)
        wait_for(lambda: any(one.is_receiving for one in proxy.server._channels()), "it arrives")
        with stopping(proxy):
            sock.sendall(rest + request_bytes("/v1/y") + request_bytes("/v1/z"))
            answer = read_all(sock)
    first, *later = statuses(answer)
    assert first == 200
    assert later in ([], [503])  # the connection may have been ended by the first
    assert b"Connection: close" in answer
    assert [one.target for one in upstream.requests] == ["/v1/x"]


@pytest.mark.parametrize("body", [b"{}", BODY * 20], ids=["short", "long"])
def test_a_request_that_comes_later_is_told(upstream, body):
    with (
        running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy,
        streaming(proxy, upstream),
        proxy.open(HEALTH) as sock,
    ):
        read_until(sock, b'"ok"')
        proxy.server.state.slots.draining = True
        with contextlib.suppress(ConnectionError):
            sock.sendall(request_bytes("/v1/x", body=body))
        assert is_told(read_all(sock))
    assert len(upstream.requests) == 1


def test_the_pages_for_probes_are_served_to_the_end(upstream):
    with (
        running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy,
        streaming(proxy, upstream),
        proxy.open(HEALTH) as sock,
    ):
        read_until(sock, b'"ok"')
        proxy.server.state.slots.draining = True
        sock.sendall(HEALTH.replace(b"health", b"readyz"))
        answer = read_all(sock)
    assert b'"stopping"' in answer
    assert b"Connection: close" in answer


def test_idle_connections_end_while_others_are_served(upstream):
    with (
        running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy,
        contextlib.ExitStack() as stack,
    ):
        used, unused = (stack.enter_context(proxy.open(data)) for data in (HEALTH, b""))
        read_until(used, b'"ok"')
        with streaming(proxy, upstream), stopping(proxy):
            assert used.recv(1) == unused.recv(1) == b""
            # `streaming` goes on only now.
            upstream.answer.go_on.release()
            upstream.answer.go_on.release()


def test_connections_that_were_not_accepted_yet_are_told(upstream):
    with (
        running_proxy(upstream, shutdown_timeout=TIMEOUT) as proxy,
        contextlib.ExitStack() as stack,
    ):
        for listener in proxy.server._listeners:
            listener._paused_until = math.inf
        socks = [stack.enter_context(proxy.open(request_bytes("/v1/x"))) for _ in range(5)]
        with stopping(proxy):
            answers = [read_all(sock) for sock in socks]
    # The thread that reads may have been about to accept the first.
    assert all(map(is_told, answers[1:]))
    assert is_told(answers[0]) or statuses(answers[0]) == [200]


@pytest.mark.parametrize("framing", ["stream", "with a length"])
def test_an_answer_that_is_cut_is_not_logged_as_complete_nor_as_left(upstream, framing, caplog):
    head = HEAD if framing == "stream" else b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    upstream.answer = Held(head + (chunk(b"one") if framing == "stream" else b"one"), b"")
    caplog.set_level("INFO", "llmauth.access")
    with (
        running_proxy(upstream, shutdown_timeout=0.0) as proxy,
        proxy.open(request_bytes("/v1/x")) as sock,
    ):
        read_until(sock, b"one")
        assert proxy.server.stop() == 1
        assert b"0\r\n\r\n" not in read_all(sock)
    assert "error=server_stopping" in caplog.text


def test_sigterm_during_an_upload_and_a_clean_end(upstream):
    program = llmauth(
        LLM_INTERACTIVE_PROXY_API_KEY=KEY,
        OPENAI_API_BASE_URL=upstream.url,
        APP_SHUTDOWN_TIMEOUT="20",
    )
    head, begin, rest = upload("with a length")
    with contextlib.closing(program):
        where = ("127.0.0.1", program.port)
        with (
            socket.create_connection(where, TIMEOUT) as sock,
            socket.create_connection(where, TIMEOUT) as other,
        ):
            for one in (sock, other):
                one.sendall(HEALTH)
                read_until(one, b'"ok"')
            sock.sendall(head + begin)
            for _ in range(2):  # the second is read after all that was there before it
                other.sendall(HEALTH)
                read_until(other, b'"ok"')
            program.process.send_signal(signal.SIGTERM)
            other.sendall(HEALTH)
            with contextlib.suppress(OSError):  # until the signal has been heard
                while b"Connection: close" not in other.recv(9999):
                    other.sendall(HEALTH)
            sock.sendall(rest)
            answer = read_all(sock)
        assert statuses(answer) == [200]
        assert program.process.wait(TIMEOUT) == 0
    assert upstream.requests[0].body == BODY
