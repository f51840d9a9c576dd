"""A backend that repeats the server's key for it does not show it to the client."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import threading
import time
import tracemalloc
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import KEY, PROVIDER_KEY, Upstream, raw, read_all, request_bytes, running_proxy, whole

from llmauth.proxy.reply import HELD_BACK, masked
from llmauth.proxy.upstream import UpstreamBroke
from llmauth.redact.key_mask import KeyMask

ODD_KEY = "sk-a/b+c=d.e~f_0123456789"
NAMES = {"/": "&sol;", "+": "&plus;", "=": "&equals;", ".": "&period;", "_": "&lowbar;"}
SPELLINGS = {
    "plain": lambda key: key,
    "bearer": lambda key: f"Bearer {key}",
    "capitals": str.upper,
    "percent-encoded": lambda key: quote(key, safe=""),
    "every character percent-encoded": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "percent-encoded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "JSON": lambda key: key.replace("/", "\\/"),
    "JSON escapes": lambda key: "".join(f"\\u00{ord(c):02X}" for c in key),
    "JSON in JSON": lambda key: json.dumps(json.dumps(key.replace("/", "\\/")))[1:-1],
    "JSON of a percent-encoded one": lambda key: quote(key, safe="").replace("%", "\\u0025"),
    "percent-encoded JSON": lambda key: quote("".join(f"\\u00{ord(c):02x}" for c in key)),
    "JavaScript": lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
    "braces": lambda key: "".join(f"\\u{{{ord(c):x}}}" for c in key),
    "old JavaScript": lambda key: "".join(f"%u00{ord(c):02X}" for c in key),
    "HTML names": lambda key: "".join(NAMES.get(c, c) for c in key),
    "HTML in HTML": lambda key: "".join(f"&amp;#{ord(c)};" for c in key),
    "HTML with zeros": lambda key: "".join(f"&#{ord(c):07};" for c in key),
    "HTML": lambda key: html.escape(key).replace("/", "&#x2F;").replace("+", "&#43;"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", [PROVIDER_KEY, ODD_KEY, r"sk-a\\b\c0123456789012345"])
def test_a_key_is_masked_at_the_same_length_however_it_is_written(key, spelling):
    written = SPELLINGS[spelling](key)
    body = f"<<{written}>>".encode()
    shown = KeyMask([key]).data(body)
    assert len(shown) == len(body)
    assert re.fullmatch(rb'<<(?:Bearer |\\")?\*{20,}(?:\\")?>>', shown)
    assert KeyMask([key]).text(f"<<{written}>>") == shown.decode()


@given(st.binary(max_size=200))
def test_what_holds_no_key_stays(data):
    mask = KeyMask([PROVIDER_KEY])
    assert mask.data(data) == data
    assert mask.text(data.decode("latin-1")) == data.decode("latin-1")


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        ("EMPTY", "the key EMPTY is wrong, EMPTYness", "the key ***** is wrong, EMPTYness"),
        ("xyz", "xyz", "xyz"),
        ("12345678", "a123456789", "a********9"),
    ],
)
def test_a_short_key_is_masked_as_a_word_and_a_very_short_one_not(key, text, shown):
    assert KeyMask([key]).text(text) == shown


def test_no_body_makes_the_search_slow():
    """Nothing in the pattern repeats without a small bound, so that no position costs much."""
    pattern = KeyMask([PROVIDER_KEY])._pattern.pattern
    assert not re.search(rb"[*+]|,\}", pattern)
    assert max(int(most) for most in re.findall(rb"\{\d+,(\d+)\}", pattern)) <= 8


def answers(body: bytes, status: str, headers: tuple[str, ...] = ()):
    """Return the ways in which a body can come: with its length, in chunks, ended by closing."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers)).encode()
    half = body.index(b"sk-") + 5
    pieces = [body[:half], body[half : half + 1], body[half + 1 :]]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces)

    def dripping(request):
        request.sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for one in pieces:
            request.sock.sendall(b"%x\r\n%b\r\n" % (len(one), one))
            time.sleep(0.01)
        request.sock.sendall(b"0\r\n\r\n")

    return {
        "length": whole(body, status, headers),
        "chunks": raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"),
        "dripping": dripping,
        "closing": raw(head + b"Connection: close\r\n\r\n" + body),
    }


BODY = json.dumps({"error": {"message": f"Incorrect API key: {PROVIDER_KEY}.", "n": 1}}).encode()


@pytest.mark.parametrize("way", ["length", "chunks", "dripping", "closing"])
@pytest.mark.parametrize("status", ["400 Bad", "401 No", "404 Gone", "429 Wait", "500 X", "503 Y"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_an_error_shows_no_key_of_the_server(proxy, upstream, way, status, kind):
    upstream.answer = answers(BODY, status, (f"Content-Type: {kind}",))[way]
    reply = proxy.request("POST", "/v1/x", body=b"{}")
    assert str(reply.status) == status[:3]
    assert reply.body == BODY.replace(PROVIDER_KEY.encode(), b"*" * len(PROVIDER_KEY))


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "401 No", "500 X"])
def test_no_head_shows_a_key_of_the_server(proxy, upstream, status):
    plain, quoted = PROVIDER_KEY, "".join(f"%{ord(c):02X}" for c in PROVIDER_KEY)
    headers = (
        f"X-Debug: Bearer {plain}; q={quoted}",
        f"Location: /v1/x?key={plain}",
        f"{plain}: 1",
        "Content-Type: application/json",
    )
    upstream.answer = whole(b"{}", f"{status} {plain}", headers)
    received = proxy.exchange(request_bytes("/openai/v1/x", "Connection: close")).decode()
    stars = "*" * len(plain)
    assert plain not in received
    assert quoted not in received
    assert f"X-Debug: Bearer {stars}; q={'*' * len(quoted)}\r\n" in received
    assert f"Location: /openai/v1/x?key={stars}\r\n" in received
    assert f" {status} {stars}\r\n" in received
    assert f"{stars}: 1\r\n".lower() in received.lower()


def test_a_user_and_password_of_the_base_url_are_no_less_a_key(upstream):
    url = upstream.url.replace("//", "//user:p%40ssw0rd-0123@")
    pair = base64.b64encode(b"user:p@ssw0rd-0123").decode()
    upstream.answer = whole(
        f"p@ssw0rd-0123 {pair}".encode(), "401 No", (f"X-A: Basic {pair} p%40ssw0rd-0123",)
    )
    environ = {"OPENAI_API_BASE_URL": url, "OPENAI_API_KEY": ""}
    with running_proxy(None, environ) as proxy:
        reply = proxy.request("GET", "/v1/x")
    assert set(reply.body) == set(b"* ")
    assert set(reply.header("x-a").removeprefix("Basic ")) == set("* ")


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("200 OK", ("Content-Type: text/event-stream",), BODY),
        ("200 OK", (), BODY),
        ("401 No", ("Content-Encoding: gzip",), gzip.compress(BODY)),
        ("401 No", ("Content-Encoding: identity", "Content-Encoding: x-gzip"), gzip.compress(BODY)),
    ],
)
def test_answers_and_compressed_errors_arrive_as_they_came(proxy, upstream, status, headers, body):
    upstream.answer = whole(body, status, headers)
    assert proxy.request("POST", "/v1/x", {"Accept-Encoding": "gzip"}, b"{}").body == body


@pytest.mark.parametrize("coding", ["identity", "identity, IDENTITY", "none", "utf-8", "", ","])
def test_a_coding_that_hides_nothing_keeps_no_key_from_being_masked(proxy, upstream, coding):
    upstream.answer = whole(BODY, "401 No", (f"Content-Encoding: {coding}",))
    reply = proxy.request("POST", "/v1/x", body=b"{}")
    assert PROVIDER_KEY.encode() not in reply.body
    assert len(reply.body) == len(BODY)


def test_a_clients_own_provider_key_is_the_clients(proxy, upstream):
    own = "sk-own-0123456789abcdefghij"
    upstream.answer = whole(own.encode(), "401 No", (f"X-A: {own}",))
    headers = {"X-Proxy-Api-Key": KEY, "Authorization": f"Bearer {own}"}
    reply = proxy.request("GET", "/v1/x", headers, key=None)
    assert (reply.body, reply.header("x-a")) == (own.encode(), own)


def test_the_length_of_a_body_is_no_key(upstream):
    upstream.answer = whole(b"x" * 1234, "401 No", ("X-A: 1234",))
    with running_proxy(upstream, {"OPENAI_API_KEY": "1234"}) as proxy:
        reply = proxy.request("GET", "/v1/x")
    assert (len(reply.body), reply.header("x-a")) == (1234, "****")


def test_a_key_from_a_file_that_was_replaced_is_masked_as_well(proxy, upstream):
    backend = proxy.server.state.backends["openai"]
    backend.key = "sk-new-0123456789abcdefghij"
    upstream.answer = whole(f"{PROVIDER_KEY} {backend.key}".encode(), "401 No")
    assert set(proxy.request("GET", "/v1/x").body) == set(b"* ")


def test_events_of_an_error_leave_as_they_come(proxy, upstream: Upstream):
    def answer(request):
        kind = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        request.sock.sendall(b"HTTP/1.1 500 X\r\n" + kind)
        for _ in range(2):
            event = b"data: " + PROVIDER_KEY.encode() + b"\n\n"
            request.sock.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            assert arrived.acquire(timeout=10)
        request.sock.sendall(b"0\r\n\r\n")

    arrived = threading.Semaphore(0)
    upstream.answer = answer
    with proxy.open(request_bytes("/v1/x", "Connection: close")) as sock:
        data = b""
        for number in (1, 2):
            while data.count(b"data: " + b"*" * len(PROVIDER_KEY) + b"\n\n") < number:
                assert (more := sock.recv(65536))
                data += more
            arrived.release()
        data += read_all(sock)
    assert data.endswith(b"0\r\n\r\n")
    assert PROVIDER_KEY.encode() not in data


class _Incoming:
    status, reason = 500, "X"

    def __init__(self, pieces, *, breaks=False):
        self.headers = []
        self._pieces = pieces
        self._breaks = breaks

    def chunks(self):
        yield from self._pieces
        if self._breaks:
            raise UpstreamBroke("broke")

    def close(self):
        pass


@pytest.mark.parametrize("size", [1, 7, 1000, HELD_BACK + 1])
def test_a_large_error_is_masked_to_its_end_wherever_it_is_cut(size):
    key = PROVIDER_KEY.encode()
    body = b"x" * (HELD_BACK - 20) + key + b"y" * (HELD_BACK if size > 1 else 99) + key
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    tracemalloc.start()
    try:
        shown = b"".join(masked(_Incoming(iter(pieces)), KeyMask([PROVIDER_KEY])).chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert shown == body.replace(key, b"*" * len(key))
    assert peak < 10 * HELD_BACK


def test_what_came_before_an_error_broke_off_is_masked_and_it_breaks_off():
    body = masked(_Incoming([b"a", PROVIDER_KEY.encode()], breaks=True), KeyMask([PROVIDER_KEY]))
    chunks = body.chunks()
    assert next(chunks) == b"a" + b"*" * len(PROVIDER_KEY)
    with pytest.raises(UpstreamBroke):
        next(chunks)
