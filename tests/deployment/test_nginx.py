"""What is nginx's own in examples/nginx.conf."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest
from fronts import Front, free_port, nginx
from programs import wait_for
from servers import TIMEOUT, Upstream, request_bytes, running_proxy, whole
from streams import HEAD, Held, chunk, read_until


@pytest.fixture
def front(upstream: Upstream, tmp_path, cert):
    with (
        running_proxy(upstream, trusted_proxies="127.0.0.1") as proxy,
        nginx(tmp_path / "nginx", proxy.port, cert) as running,
    ):
        yield running


def test_the_first_part_of_a_slow_answer_arrives_before_the_rest(front, upstream):
    """Not only of streams, which llmauth itself tells nginx not to buffer."""
    upstream.answer = Held(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none", b"two")
    with front.open(request_bytes("/v1/x")) as sock:
        read_until(sock, b"one")
        upstream.answer.go_on.release()
        read_until(sock, b"two")
        upstream.answer.go_on.release()


def test_a_stream_that_is_silent_for_longer_than_nginx_would_wait_goes_on(front, upstream):
    """Around the example, the tests' nginx gives up after a second."""
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    with front.open(request_bytes("/v1/x")) as sock:
        read_until(sock, b"one")
        sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(TIMEOUT)
        upstream.answer.go_on.release()
        read_until(sock, b"two\r\n0\r\n\r\n")
        upstream.answer.go_on.release()


def test_a_stream_that_breaks_upstream_does_not_look_complete(front, upstream):
    def broken(request) -> None:
        request.sock.sendall(HEAD + chunk(b"data: {"))
        request.sock.shutdown(socket.SHUT_RDWR)

    upstream.answer = broken
    with front.open(request_bytes("/v1/x")) as sock:
        received = b""
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            while data := sock.recv(65536):
                received += data
    assert b"data: {" in received
    assert not received.endswith(b"0\r\n\r\n")


def test_large_headers_of_a_provider_pass(front, upstream):
    upstream.answer = whole(headers=("x-large: " + "a" * 10_000,))
    assert len(front.request("GET", "/v1/models").header("x-large") or "") == 10_000


def test_a_body_over_the_limit_is_refused_in_the_words_of_the_sdks(front):
    head = f"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: {2**28 + 1}\r\n\r\n"
    with front.open(head.encode()) as sock:
        answer = read_until(sock, b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"type": "request_too_large"' in answer


def test_its_log_has_the_path_and_the_status_without_the_query(front: Front):
    front.request("POST", "/v1beta/models/x:generateContent?alt=sse", body=b"{}")
    line = '"POST /v1beta/models/x:generateContent" 200 '
    wait_for(lambda: line in front.log("llmauth.log"), "its line")
    assert "alt=sse" not in front.log("llmauth.log")


def test_while_llmauth_is_down_it_answers_in_the_words_of_the_sdks(tmp_path, cert):
    with nginx(tmp_path / "nginx", free_port(), cert) as front:
        reply = front.request("POST", "/v1/x", body=b"{}")
    assert (reply.status, reply.error["type"]) == (502, "api_error")
