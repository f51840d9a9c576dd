"""Upstreams that fail, lie or attack: a clear error, bounded memory, and the slot given back."""

from __future__ import annotations

import sys
import threading

import pytest
from attack import send
from programs import wait_for
from resident import bomb, grown, slow_readers
from servers import raw, request_bytes, whole
from werkzeug.serving import make_server

from llmauth import create_app

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

NO_ANSWER = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"\0\0\x12\x04\0\0\0\0\0" + bytes(18) + b"\r\n\r\n",
    "another version": b"HTTP/3.0 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of 000": b"HTTP/1.1 000 OK\r\n\r\n",
    "a status of 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "a status in letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a long status line": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "an endless header": OK + b"X: " + b"x" * 300_000,
    "a thousand headers": OK + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
    "half a head": OK + b"Content-Le",
    "a header without a colon": OK + b"nonsense\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "a length of letters": OK + b"Content-Length: abc\r\n\r\n",
    "a negative length": OK + b"Content-Length: -5\r\n\r\n",
    "a length of 5,000 digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "an unknown coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "a storm of 1xx": b"HTTP/1.1 102 Processing\r\n\r\n" * 5000,
    "a storm of 1xx with headers": b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" * 5000,
}


@pytest.mark.parametrize("case", NO_ANSWER)
def test_what_is_no_answer_is_a_502_without_internals(proxy, upstream, case):
    upstream.answer = raw(NO_ANSWER[case])
    reply = proxy.request("POST", "/v1/x", body=b"{}")
    assert reply.status == 502
    assert "openai" in reply.error["message"]
    assert str(upstream.port) not in reply.body.decode()
    wait_for(lambda: proxy.server.state.slots.used == 0, "the slot was not given back")
    upstream.answer = whole()
    assert proxy.request("POST", "/v1/x", body=b"{}").status == 200


BROKEN_OFF = {
    "too few bytes": OK + b"Content-Length: 99\r\n\r\nabc",
    "no end of the chunks": CHUNKED + b"3\r\nabc\r\n",
    "a chunk cut": CHUNKED + b"ff\r\nabc",
    "a bad size": CHUNKED + b"3\r\nabc\r\nxyz\r\n",
    "a negative size": CHUNKED + b"3\r\nabc\r\n-1\r\n",
    "a size of 100 digits": CHUNKED + b"3\r\nabc\r\n" + b"f" * 100 + b"\r\n",
    "an endless size": CHUNKED + b"3\r\nabc\r\n" + b"1" * 300_000,
    "an endless extension": CHUNKED + b"3\r\nabc\r\n1;" + b"x" * 300_000,
    "endless trailers": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 50_000,
}


@pytest.mark.parametrize("case", BROKEN_OFF)
def test_what_breaks_off_never_looks_complete(proxy, upstream, case):
    upstream.answer = raw(BROKEN_OFF[case])
    received = proxy.exchange(request_bytes("/v1/x"))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert not received.endswith(b"0\r\n\r\n")
    wait_for(lambda: proxy.server.state.slots.used == 0, "the slot was not given back")


@pytest.fixture(params=["pump", "thread"])
def door(request, proxy):
    """The port of a server that hands streams to the pump, and of one that keeps their threads."""
    if request.param == "pump":
        yield proxy.port
        return
    app = create_app(proxy.server.state.settings)
    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.port
        server.shutdown()
        thread.join()
    app.extensions["llmauth"].close()


@pytest.mark.parametrize("case", [case for case in BROKEN_OFF if "size" in case])
def test_what_is_good_arrives_before_what_is_bad(door, upstream, case):
    """Though they came together, and though the upstream then says nothing more."""
    upstream.answer = raw(BROKEN_OFF[case], close=False)
    received = send(door, request_bytes("/v1/x"))
    assert b"abc" in received
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\nforged", b"abc"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", b""),
        (OK + b"Connection: close\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    ],
    ids=[
        "HTTP/1.0",
        "with a length",
        "more than its length",
        "a body of a 204",
        "close",
        "no reason",
    ],
)
def test_a_poor_answer_that_is_clear_is_passed_on_and_nothing_after_it(
    proxy, upstream, answer, body
):
    upstream.answer = raw(answer)
    reply = proxy.request("POST", "/v1/x", body=b"{}")
    assert (reply.status // 100, reply.body) == (2, body)
    upstream.answer = whole(b"second")
    assert proxy.request("POST", "/v1/x", body=b"{}").body == b"second"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Again", "308 Gone"])
def test_redirects_are_never_followed(proxy, upstream, status):
    upstream.answer = whole(
        b"", status, (f"Location: {upstream.url}/v1/elsewhere", "Refresh: 0; url=/")
    )
    assert proxy.request("POST", "/v1/x", body=b"{}").status == int(status[:3])
    assert len(upstream.requests) == 1


# What an answer's headers could do

SPLITTING = [
    b"X-Own: a\rSet-Cookie: b=c",
    b"X-Own: a\nSet-Cookie: b=c",
    b"X-Own: a\r\n Set-Cookie: b=c",
    b"X-Own: a\0\r\x0b\x0c\x85Set-Cookie: b=c",
    b"X-Own: a\r\r\nSet-Cookie: b=c",
    b"Set-Cookie: b=c\r\nSet-Cookie2: d\r\nClear-Site-Data: *",
    b"Connection: X-Own, Date\r\nX-Own: 1\r\nUpgrade: h2c\r\nKeep-Alive: timeout=9",
    b"Access-Control-Allow-Origin: *\r\nStrict-Transport-Security: max-age=9",
]


@pytest.mark.parametrize("lines", SPLITTING, ids=repr)
@pytest.mark.parametrize("reason", [b"OK", b"a\rSet-Cookie: b=c", b"\0\x1b[31m", b"\xff\xfe"])
def test_an_upstream_sets_no_cookie_and_splits_no_answer(proxy, upstream, lines, reason):
    upstream.answer = raw(
        b"HTTP/1.1 200 " + reason + b"\r\n" + lines + b"\r\nContent-Length: 2\r\n\r\nok"
    )
    head, _, body = proxy.exchange(request_bytes("/v1/x", "Connection: close")).partition(
        b"\r\n\r\n"
    )
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    if head.startswith(b"HTTP/1.1 502 "):
        return
    assert body == b"ok"
    assert not names & {
        b"set-cookie",
        b"set-cookie2",
        b"clear-site-data",
        b"upgrade",
        b"keep-alive",
    }
    assert not names & {b"access-control-allow-origin", b"strict-transport-security"}
    assert not set(head.replace(b"\r\n", b"")) & set(b"\r\n\0\x1b\x0b\x0c")


# Memory

@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_compressed_bomb_is_passed_on_and_takes_little_memory_while_captured(tmp_path):
    assert grown(bomb, str(tmp_path / "capture.jsonl")) < 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("length", ["", "Content-Length: 67108864\r\n"], ids=["stream", "length"])
def test_clients_that_do_not_read_hold_little_memory(length):
    """Four of them ask for 64 MB each: what waits for them is bounded, in memory and on disk."""
    assert grown(slow_readers, length) < 64 * 2**20
