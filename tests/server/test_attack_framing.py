"""Where a request ends: in one place for everybody, or the request is refused.

Every case is sent to the server itself and to a real nginx in front of it.
"""

from __future__ import annotations

import socket

import pytest
from attack import request, send, statuses
from hypothesis import given
from hypothesis import strategies as st
from servers import KEY, TIMEOUT, Upstream, read_all, running_proxy
from waitress.adjustments import Adjustments

from llmauth.http import chunks as http_chunks
from llmauth.http.grammar import MAX_LINE, BadMessageError
from llmauth.server.parser import Parser

SMUGGLED = f"GET /v1/smuggled HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def server():
    upstream = Upstream()
    with running_proxy(upstream) as proxy:
        yield upstream, proxy
    upstream.stop()


REFUSED = {
    "both lengths": (request("Content-Length: 6", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 400),
    "both lengths, other order": (
        request(CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        400,
    ),
    "two lengths": (
        request("Content-Length: 0", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        400,
    ),
    "two equal lengths": (request("Content-Length: 2", "Content-Length: 2", body=b"{}"), 400),
    "a list of lengths": (request("Content-Length: 2, 2", body=b"{}"), 400),
    "a signed length": (request("Content-Length: +2", body=b"{}"), 400),
    "a negative length": (request("Content-Length: -1", body=SMUGGLED), 400),
    "a length in hex": (request("Content-Length: 0x2", body=b"{}"), 400),
    "a length with an underscore": (request("Content-Length: 1_0", body=b"{}"), 400),
    "a length with a space": (request("Content-Length: 1 0", body=b"{}"), 400),
    "an empty length": (request("Content-Length:", body=SMUGGLED), 400),
    "a length of 5,000 digits": (request("Content-Length: " + "9" * 5000, body=b"{}"), 400),
    "a length in other digits": (request("Content-Length: \xb2", body=b"{}"), 400),
    "gzip, chunked": (request("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "chunked, gzip": (request("Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 501),
    "chunked twice": (request(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 501),
    "chunked, chunked": (request("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 501),
    "identity": (request("Transfer-Encoding: identity", body=SMUGGLED), 501),
    "xchunked": (request("Transfer-Encoding: xchunked", body=SMUGGLED), 501),
    "quoted": (request('Transfer-Encoding: "chunked"', body=SMUGGLED), 501),
    "chunked;q": (request("Transfer-Encoding: chunked;q=1", body=SMUGGLED), 501),
    "a comma": (request("Transfer-Encoding: ,", "Content-Length: 0", body=SMUGGLED), 400),
    "a coding without a value": (request("Transfer-Encoding:", body=SMUGGLED), 501),
    "vertical tab": (request("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "nbsp": (request("Transfer-Encoding: \xa0chunked", body=b"0\r\n\r\n"), 501),
    "space before colon": (request("Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    "folded": (request("Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 400),
    "chunked in HTTP/1.0": (
        request(CHUNKED, line="POST /v1/x HTTP/1.0", body=b"0\r\n\r\n" + SMUGGLED),
        400,
    ),
    "obs-fold": (request("X-A: b\r\n c"), 400),
    "folded first header": (request(host=" Host: proxy"), 400),
    "bare LF in a header": (
        request("X-A: b\nTransfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        400,
    ),
    "bare LF everywhere": (request().replace(b"\r\n", b"\n"), 400),
    "bare CR in a header": (request("X-A: b\rTransfer-Encoding: chunked"), 400),
    "NUL in a header": (request("X-A: b\0c"), 400),
    "NUL in a name": (request("X\0A: b"), 400),
    "NUL in the path": (request(line="GET /v1/x\0y HTTP/1.1"), 400),
    "a header without a colon": (request("nonsense"), 400),
    "an empty name": (request(": b"), 400),
    "a space in a name": (request("X A: b"), 400),
    "a name in Latin-1": (request("X-\xe9: b"), 400),
    "a huge request line": (request(line=f"GET /v1/{'x' * 70_000} HTTP/1.1"), 431),
    "a huge header": (request("X-A: " + "b" * 70_000), 431),
    "spaces": (request("X-A: " + " " * 60_000 + "\0"), 400),
    "spaces over the limit": (request("X-A: " + " " * 250_000 + "\0"), 431),
    "many headers": (request(*["X-A: b"] * 500), 431),
    "no version": (request(line="GET /v1/x"), 400),
    "HTTP/2": (request(line="GET /v1/x HTTP/2.0"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (request(line="GET /v1/x HTTP/1.2"), 505),
    "http/1.1": (request(line="GET /v1/x http/1.1"), 400),
    "HTTP/1.x": (request(line="GET /v1/x HTTP/1.x"), 400),
    "HTTP/1.1 twice": (request(line="GET /v1/x HTTP/1.1 HTTP/1.1"), 400),
    "two spaces": (request(line="GET  /v1/x HTTP/1.1"), 400),
    "a tab": (request(line="GET\t/v1/x HTTP/1.1"), 400),
    "a space in the path": (request(line="GET /v1/x y HTTP/1.1"), 400),
    "a lower-case method": (request(line="get /v1/x HTTP/1.1"), 400),
    "raw bytes in the path": (request(line="GET /v1/\xff HTTP/1.1"), 400),
    "a fragment": (request(line="GET /v1/x#/health HTTP/1.1"), 400),
    "authority-form": (request(line="GET proxy:80 HTTP/1.1"), 400),
    "a path without a slash": (request(line="GET v1/x HTTP/1.1"), 400),
    "a backslash first": (request(line="GET \\v1\\x HTTP/1.1"), 400),
    "a bad address": (request(line="GET http://[::1/v1/x HTTP/1.1"), 400),
    "no address": (request(line="GET http://[zz]/v1/x HTTP/1.1"), 400),
    "another scheme": (request(line="GET file:///v1/x HTTP/1.1"), 400),
    "no host in a URL": (request(line="GET http:///v1/x HTTP/1.1"), 400),
    "two hosts": (request("Host: other"), 400),
    "no host": (request(host=None), 400),
    "a bad chunk size": (request(CHUNKED, body=b"zz\r\n\r\n0\r\n\r\n"), 400),
    "a chunk size with 0x": (request(CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size with a sign": (request(CHUNKED, body=b"+2\r\n{}\r\n0\r\n\r\n"), 400),
    "a huge chunk size": (request(CHUNKED, body=b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size that ends in LF": (request(CHUNKED, body=b"2\n{}\r\n0\r\n\r\n"), 400),
    "LF and CR LF": (request(CHUNKED, body=b"2\n\r\n{}\r\n0\r\n\r\n"), 400),
    "an empty line for a size": (request(CHUNKED, body=b"\r\n2\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk longer than its size": (request(CHUNKED, body=b"2\r\n{}x\r\n0\r\n\r\n"), 400),
    "a chunk that ends in LF": (request(CHUNKED, body=b"2\r\n{}\n0\r\n\r\n"), 400),
    "an endless chunk size": (request(CHUNKED, body=b"1" * 2**21), 400),
    "an endless extension": (request(CHUNKED, body=b"1;" + b"x" * 2**21), 400),
    "NUL in an extension": (request(CHUNKED, body=b"2;\0\r\n{}\r\n0\r\n\r\n"), 400),
    "endless trailers": (request(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 2**18), 400),
    "an endless trailer": (request(CHUNKED, body=b"0\r\nX: " + b"y" * 2**21), 400),
    "a trailer that is none": (request(CHUNKED, body=b"0\r\n" + SMUGGLED), 400),
}
NGINX_MENDS = {
    # What nginx understands and writes anew, in one way that leaves no doubt.
    "two spaces", "a fragment", "bare LF everywhere", "a name in Latin-1", "raw bytes in the path",
    "a space in the path", "an empty name", "many headers", "a chunk size that ends in LF",
    "a chunk that ends in LF", "NUL in an extension", "a trailer that is none",
    "a space in a name", "a header without a colon", "HTTP/1.2", "bare CR in a header", "spaces",
    "space before colon",
    "bare LF in a header", "a coding without a value", "no host in a URL", "no address",
}  # fmt: skip
ENDLESS = {"an endless extension", "endless trailers", "an endless trailer"}
"""nginx reads these on as long as they last, in little memory; its time-outs end them."""


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_whose_end_is_in_doubt_is_refused(door, case):
    port, received, way = door
    data, status = REFUSED[case]
    if way == "nginx" and case in ENDLESS:
        return
    answer = send(port, data)
    assert "/v1/smuggled" not in [one.target for one in received]
    assert KEY.encode() not in answer
    assert b"Traceback" not in answer
    if way == "waitress":
        assert statuses(answer)[:1] == [status]
        assert len(statuses(answer)) == 1
        assert b'"type": "error"' in answer
        assert received == []
    elif case not in NGINX_MENDS:
        assert received == []
        assert all(status >= 400 for status in statuses(answer))
    else:
        assert len(received) <= 1
        assert len(statuses(answer)) <= 1


ACCEPTED = {
    "a length": (request("Content-Length: 2", body=b"{}"), b"{}"),
    "leading zeros": (request("Content-Length: 0002", body=b"{}"), b"{}"),
    "chunks": (request(CHUNKED, body=b"1\r\n{\r\n01;a=b\r\n}\r\n0\r\nX: y\r\n\r\n"), b"{}"),
    "chunked in capitals": (request("TRANSFER-ENCODING: CHUNKED", body=b"0\r\n\r\n"), b""),
    "spaces around a value": (request("Content-Length: \t 2 \t ", body=b"{}"), b"{}"),
    "absolute-form": (request(line="POST http://a/v1/x HTTP/1.1"), b""),
    "expect": (request("Expect: 100-continue", "Content-Length: 2", body=b"{}"), b"{}"),
    "another expectation": (request("Expect: nonsense", "Content-Length: 2", body=b"{}"), b"{}"),
    "HTTP/1.0": (request("Content-Length: 2", line="POST /v1/x HTTP/1.0", body=b"{}"), b"{}"),
    "lines before the request": (b"\r\n\r\n" + request("Content-Length: 2", body=b"{}"), b"{}"),
    "no length": (request(), b""),
    "a body of a GET": (request("Content-Length: 2", line="GET /v1/x HTTP/1.1", body=b"{}"), b"{}"),
    "100 headers": (request(*["X-A: b"] * 90), b""),
    "spaces in a value": (request("X-A: " + " " * 30_000 + "b"), b""),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_clear_request_arrives_once_and_nothing_after_it(door, case):
    port, received, way = door
    data, body = ACCEPTED[case]
    answer = send(port, data + SMUGGLED)
    if way == "nginx" and "spaces" in case:
        # A value over the size of its buffers, and a tab that it does not strip.
        assert statuses(answer) == [400]
        return
    assert statuses(answer) == [200]
    assert [(one.target, one.body) for one in received] == [("/v1/x", body)]


def test_pipelined_requests_are_answered_in_order_each_with_its_own_key(door):
    port, received, _ = door
    first = request("Content-Length: 2", close=False, body=b"{}")
    second = request(line="GET /v1/second HTTP/1.1", key="wrong", close=False)
    third = request(line="GET /v1/third HTTP/1.1")
    answer = send(port, first + second + third)
    assert statuses(answer) == [200, 401, 200]
    assert [one.target for one in received] == ["/v1/x", "/v1/third"]


EXPECT = "Expect: 100-continue"


@pytest.mark.parametrize("length", [None, "Content-Length: 0"])
def test_who_asks_to_send_a_body_but_has_none_is_answered(door, length):
    """Its head comes in two pieces, the first of which must not become part of the next request."""
    port, received, _ = door
    first = request(*filter(None, [length]), EXPECT, "X-A: b", close=False)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(first[:-5])
        sock.sendall(first[-5:])
        answer = b""
        # nginx says "100 Continue" all the same.
        while not statuses(answer) and (data := sock.recv(65536)):
            answer += data
        assert statuses(answer) == [200]
        sock.sendall(request(line="GET /v1/second HTTP/1.1"))
        assert statuses(read_all(sock)) == [200]
    assert [one.target for one in received] == ["/v1/x", "/v1/second"]


def test_asterisk_form_and_connect_reach_no_upstream(door):
    port, received, _ = door
    for line, possible in (
        ("OPTIONS * HTTP/1.1", [204, 400]),  # answered here, or by nginx
        ("CONNECT a:80 HTTP/1.1", [400, 405]),
    ):
        (status,) = statuses(send(port, request(line=line)))
        assert status in possible
    assert received == []


@pytest.mark.parametrize(
    "data",
    [
        request("Content-Length: 50", body=b"{}"),
        request(CHUNKED, body=b"5\r\nab"),
        request(CHUNKED, body=b"2\r\n{}\r\n0\r\n"),
        b"GET /v1/x HTTP/1.1\r\nHost: a\r\n",
        b"G",
        b"",
    ],
    ids=["short body", "short chunk", "no end of the trailers", "short head", "one byte", "none"],
)
def test_a_request_that_ends_early_is_never_forwarded(door, data):
    port, received, _ = door
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert all(status >= 400 for status in statuses(read_all(sock)))
    assert received == []


def test_after_a_half_close_the_connection_ends(door):
    """A client that closes its side counts as gone; nothing waits for it."""
    port, _, _ = door
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(request(close=False))
        sock.shutdown(socket.SHUT_WR)
        assert statuses(read_all(sock)) in ([], [200])


# The parser itself

ADJUSTMENTS = Adjustments()


def parsed(data: bytes, sizes: list[int]) -> tuple[Parser, int]:
    """Return the parser fed with pieces of these sizes, and how many bytes it took."""
    parser, at = Parser(ADJUSTMENTS), 0
    for size in [*sizes, len(data)]:
        if parser.completed or at >= len(data):
            break
        at += parser.received(data[at : at + size])
    return parser, at


LINES = st.sampled_from(
    [b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X: \t b ", b" folded", b"X"]
)
REQUESTS = st.one_of(
    st.binary(),
    st.builds(
        lambda line, lines, body: line + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body,
        st.sampled_from([b"GET / HTTP/1.1", b"POST //[ HTTP/1.1", b"GET http://[1] HTTP/1.1"]),
        st.lists(LINES, max_size=4),
        st.one_of(st.binary(), st.just(b"3\r\nabc\r\n0\r\n\r\nrest")),
    ),
)


@given(REQUESTS, st.lists(st.integers(1, 40), max_size=60))
def test_the_pieces_in_which_a_request_comes_do_not_matter(data, sizes):
    whole, taken = parsed(data, [])
    pieces, taken_in_pieces = parsed(data, sizes)
    assert (whole.error is None) == (pieces.error is None)
    if whole.error is None and whole.completed:
        assert taken == taken_in_pieces
        assert whole.headers == pieces.headers
        assert whole.get_body_stream().read() == pieces.get_body_stream().read()


def decoded(data: bytes) -> tuple[bytes, bytes] | None:
    decoder = http_chunks.Decoder(strict=True)
    try:
        content = decoder.feed(data)
    except BadMessageError:
        return None
    return (content, decoder.rest) if decoder.done else None


@given(st.lists(st.binary(min_size=1, max_size=50)), st.binary())
def test_chunks_come_out_as_they_went_in(chunks, rest):
    framed = b"".join(map(http_chunks.encode, chunks)) + http_chunks.END
    assert decoded(framed + rest) == (b"".join(chunks), rest)


PIECES = st.lists(
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b"0", b"1", b"2", b"a", b";x", b"0\r\n\r\n", b"1\r\na\r\n"]
    )
)


@given(st.builds(b"".join, PIECES))
def test_what_is_taken_for_chunks_is_taken_so_by_another_reader_too(data):
    found = decoded(data)
    if found is None:
        return
    other = http_chunks.Decoder(strict=False)
    try:
        content = other.feed(data)
    except BadMessageError:
        pytest.fail("the two readers disagree")
    assert (content, other.rest) == found


def test_a_chunks_line_is_bounded_however_it_arrives():
    decoder = http_chunks.Decoder(strict=True)
    for _ in range(MAX_LINE):
        assert decoder.feed(b"1") == b""
    with pytest.raises(BadMessageError):
        decoder.feed(b"1")
