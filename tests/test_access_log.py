"""A line for each request: what it says, and that no request waits for it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
from typing import Any

import pytest
from programs import wait_for
from servers import Proxy, read_all, request_bytes, running_proxy, whole
from test_streams import HEAD, Held, chunk


@pytest.fixture
def logged(caplog):
    """Return the fields of the lines that have been logged."""
    caplog.set_level(logging.INFO, "llmauth.access")

    def fields() -> list[dict[str, Any]]:
        return [json.loads(r.access) for r in caplog.records if r.name == "llmauth.access"]

    return fields


def line(proxy: Proxy, logged) -> dict[str, Any]:
    """Return the fields of the one line."""
    wait_for(logged, "a line")
    proxy.server.state.journal.flush()
    (fields,) = logged()
    return fields


# A client that leaves


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_that_leaves_before_the_first_byte_is_no_failure_of_the_server(
    upstream, logged, tmp_path, leave
):
    upstream.answer = Held(b"")
    capture = tmp_path / "capture.jsonl"
    with running_proxy(upstream, capture_file=str(capture)) as proxy:
        sock = proxy.open(request_bytes("/v1/x"))
        upstream.answer.wait()
        leave(sock)
        fields = line(proxy, logged)
    upstream.answer.go_on.release()
    assert (fields["status"], fields["error"]) == ("499", "client_disconnected")
    end = json.loads(capture.read_text().splitlines()[-1])
    assert (end["direction"], end["metadata"]) == (
        "outbound_response", {"error": "client_disconnected"},
    )  # fmt: skip


def test_a_request_that_the_servers_end_cuts_is_the_servers_doing(upstream, logged):
    upstream.answer = Held(b"")
    with running_proxy(upstream) as proxy, contextlib.closing(
        proxy.open(request_bytes("/v1/x", "Connection: close"))
    ) as sock:
        upstream.answer.wait()
        proxy.server.stop()
        assert read_all(sock).startswith(b"HTTP/1.1 503 ")
        fields = line(proxy, logged)
    upstream.answer.go_on.release()
    assert (fields["status"], fields["error"]) == ("503", "overloaded")


@pytest.mark.parametrize("framing", ["a length", "chunks"])
def test_a_client_that_leaves_in_the_middle_of_an_answer_is_in_its_line(upstream, logged, framing):
    data = b"x" * 2**20
    lengths = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    over = threading.Event()

    def endless(received) -> None:
        with contextlib.suppress(OSError):
            received.sock.sendall(HEAD if framing == "chunks" else lengths)
            while True:
                received.sock.sendall(chunk(data) if framing == "chunks" else data)
        over.set()

    upstream.answer = endless
    with running_proxy(upstream) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            assert sock.recv(1)
        fields = line(proxy, logged)
        assert over.wait(20)
    assert (fields["status"], fields["error"]) == ("200", "client_disconnected")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("answer", [
    whole(), whole(b""), whole(b"x" * 2**20), Held(HEAD + chunk(b"one") + b"0\r\n\r\n"),
], ids=["short", "empty", "long", "stream"])  # fmt: skip
def test_an_answer_that_arrives_whole_has_no_error(upstream, logged, method, answer):
    upstream.answer = answer
    with running_proxy(upstream) as proxy:
        if isinstance(answer, Held):
            answer.go_on.release()
        assert proxy.request(method, "/v1/x", {"Connection": "close"}).status == 200
        fields = line(proxy, logged)
    assert (fields["status"], fields["error"]) == ("200", "-")
