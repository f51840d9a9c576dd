"""Comments in event streams that are silent: between two events, and nowhere else."""

from __future__ import annotations

import json
import logging

import pytest
from programs import wait_for
from servers import read_all, request_bytes, running_proxy
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.http.chunks import Decoder
from llmauth.proxy.reply import KEEP_ALIVE

ASK = request_bytes("/v1/x", "Connection: close")
END = b"0\r\n\r\n"
PAUSES = 3
"""Comments that another stream gets meanwhile: time passes for both."""


@pytest.fixture(params=["pump", "thread"])
def keeping(request, upstream, tmp_path):
    """A proxy that keeps streams alive, carried by either."""
    values = {"keepalive_seconds": 0.01, "capture_file": str(tmp_path / "capture.jsonl")}
    with running_proxy(upstream, **values) as proxy:
        if request.param == "thread":
            proxy.server._pump.close()  # as when no thread or descriptor is left for it
        yield proxy


def content(answer: bytes) -> bytes:
    """Return what is in the chunks of an answer."""
    decoder = Decoder(strict=True)
    found = decoder.feed(answer.partition(b"\r\n\r\n")[2])
    assert decoder.done
    return found


class Clock:
    """Another stream of the same server: its comments tell that time has passed."""

    def __init__(self, proxy, upstream) -> None:
        upstream.answer = self._held = Held(HEAD, b"")
        self._sock = proxy.open(ASK)
        self._held.wait()

    def let_pass(self) -> None:
        for _ in range(PAUSES):
            read_until(self._sock, KEEP_ALIVE)

    def close(self) -> None:
        self._sock.close()
        for _ in range(2):
            self._held.go_on.release()


@pytest.fixture
def clock(keeping, upstream):
    running = Clock(keeping, upstream)
    yield running
    running.close()


def test_a_stream_that_is_silent_between_two_events_gets_comments(keeping, upstream):
    upstream.answer = held = Held(HEAD, chunk(EVENT), chunk(EVENT) + END)
    with keeping.open(ASK) as sock:
        held.wait()
        received = read_until(sock, KEEP_ALIVE)  # before the first one, too
        held.go_on.release()
        held.wait()
        received += read_until(sock, EVENT)
        received += read_until(sock, KEEP_ALIVE)
        held.go_on.release()
        received += read_all(sock)
        held.go_on.release()
    said = content(received)
    assert said.replace(KEEP_ALIVE, b"") == EVENT * 2
    assert said.startswith(KEEP_ALIVE)
    assert said.endswith(EVENT)


INSIDE = [
    b"data: {", b"data: {}\n", b"event: x\ndata: 1\n", b"data: {}\r\n\r", b":", b"data: 1\r",
    b"id: 1\n",
]  # fmt: skip


@pytest.mark.parametrize("half", INSIDE, ids=repr)
def test_none_inside_an_event(keeping, upstream, clock, half):
    upstream.answer = held = Held(HEAD + chunk(b"data: 0\n\n" + half), chunk(b"rest\n\n") + END)
    with keeping.open(ASK) as sock:
        held.wait()
        received = read_until(sock, half)
        clock.let_pass()
        held.go_on.release()
        received += read_all(sock)
        held.go_on.release()
    assert b"data: 0\n\n" + half + b"rest\n\n" in content(received)


OTHERS = {
    "no events": HEAD.replace(b"text/event-stream", b"application/x-ndjson"),
    "compressed": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
    "a length": HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 6"),
    "no type": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_content_is_left_alone(keeping, upstream, clock, case):
    first, rest = (b"a\n\n", b"b\n\n")
    if case != "a length":
        first, rest = chunk(first), chunk(rest) + END
    upstream.answer = held = Held(OTHERS[case] + first, rest)
    with keeping.open(ASK) as sock:
        held.wait()
        received = read_until(sock, b"a\n\n")
        clock.let_pass()
        held.go_on.release()
        received += read_all(sock)
        held.go_on.release()
    assert b"keep-alive" not in received
    assert b"b\n\n" in received


def test_by_default_there_are_none(upstream, clock):
    with running_proxy(upstream) as proxy:
        upstream.answer = held = Held(HEAD + chunk(EVENT), END)
        with proxy.open(ASK) as sock:
            held.wait()
            received = read_until(sock, EVENT)
            clock.let_pass()
            held.go_on.release()
            received += read_all(sock)
            held.go_on.release()
    assert content(received) == EVENT


def test_they_are_neither_counted_nor_captured(keeping, upstream, tmp_path, caplog):
    caplog.set_level(logging.INFO, "llmauth.access")
    upstream.answer = held = Held(HEAD, chunk(EVENT) + END)
    with keeping.open(ASK) as sock:
        held.wait()
        read_until(sock, KEEP_ALIVE)
        held.go_on.release()
        read_all(sock)
        held.go_on.release()
    keeping.server.stop()
    (line,) = [record.getMessage() for record in caplog.records if "/v1/x" in record.getMessage()]
    assert f" {len(EVENT)}B " in line
    events = [json.loads(one) for one in (tmp_path / "capture.jsonl").read_text().splitlines()]
    assert any(event["direction"] == "stream_end" for event in events)
    assert "keep-alive" not in json.dumps([event["payload"] for event in events])


def test_a_silent_upstream_is_not_waited_for_any_longer(upstream):
    """The time between two reads goes on, whatever the client is told meanwhile."""
    upstream.answer = held = Held(HEAD + chunk(EVENT), b"")
    with running_proxy(upstream, {"OPENAI_TIMEOUT": "1"}, keepalive_seconds=0.01) as proxy:
        for _ in ("pump", "thread"):
            with proxy.open(ASK) as sock:
                held.wait()
                received = read_all(sock)
            assert received.count(KEEP_ALIVE) >= 1
            assert b"event: error" in received or b'data: {"error"' in received
            held.go_on.release()
            proxy.server._pump.close()


def test_a_client_that_leaves_between_comments_is_noticed(keeping, upstream):
    upstream.answer = held = Held(HEAD + chunk(EVENT), b"")
    with keeping.open(ASK) as sock:
        held.wait()
        read_until(sock, KEEP_ALIVE)
    held.go_on.release()
    wait_for(lambda: keeping.server.state.slots.used == 0, "its slot is free")


def test_http_1_0_gets_them_as_well(keeping, upstream):
    upstream.answer = held = Held(HEAD + chunk(EVENT), END)
    with keeping.open(ASK.replace(b"HTTP/1.1", b"HTTP/1.0")) as sock:
        held.wait()
        received = read_until(sock, KEEP_ALIVE)
        held.go_on.release()
        received += read_all(sock)
        held.go_on.release()
    assert received.partition(b"\r\n\r\n")[2].replace(KEEP_ALIVE, b"") == EVENT
