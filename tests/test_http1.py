"""Reading responses: whatever the pieces in which they arrive, and nothing that is not HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.http1 import BadResponseError, Body, ChunkedDecoder, NoResponseError, read_head


def receiver(data: bytes, sizes: list[int]):
    """Return a function that returns the data in pieces, then nothing."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    pieces = [piece for piece in [*pieces, data[at:]] if piece]
    return lambda: pieces.pop(0) if pieces else b""


SIZES = st.lists(st.integers(1, 40), max_size=60)
HEAD = b"HTTP/1.1 200 OK\r\n"


def read(data: bytes, sizes: list[int], method: str = "GET") -> tuple[bytes, Body]:
    receive = receiver(data, sizes)
    body = Body(method, read_head(receive))
    return b"".join(body.chunks(receive)), body


@given(st.lists(st.binary(min_size=1, max_size=50)), SIZES, st.sampled_from([b"", b";x=1"]))
def test_chunks_come_out_as_they_went_in(chunks, sizes, extension):
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks)
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nX: y\r\n\r\n"
    content, body = read(data, sizes)
    assert content == b"".join(chunks)
    assert body.reusable


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1), SIZES, st.data())
def test_chunks_that_end_early_never_look_complete(chunks, sizes, data):
    framed = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    cut = data.draw(st.integers(0, len(framed) - 1))
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(BadResponseError):
        read(head + framed[:cut], sizes)


BAD_CHUNKS = {
    "size": b"zz\r\n",
    "negative": b"-1\r\n",
    "endless": b"1" * 5000,
    "endless extension": b"1;" + b"x" * 5000 + b"\r\n",
    "longer than its size": b"1\r\nabc",
    "trailers": b"0\r\n" + b"X: y\r\n" * 20_000,
}


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1))
def test_chunks_before_what_is_none_come_out_without_another_read(bad, chunks):
    data = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + BAD_CHUNKS[bad]
    head = read_head(receiver(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", []))
    pieces = iter([data])
    content = []
    with pytest.raises(BadResponseError):
        content.extend(Body("GET", head).chunks(lambda: next(pieces)))
    assert b"".join(content).startswith(b"".join(chunks))


@given(st.binary(max_size=100), SIZES)
def test_a_body_with_a_length(content, sizes):
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(content)
    read_content, body = read(head + content, sizes)
    assert read_content == content
    assert body.reusable
    read_content, body = read(head + content + b"HTTP/1.1 200", sizes)
    assert read_content == content
    if content:
        with pytest.raises(BadResponseError):
            read(head + content[:-1], sizes)


@given(st.binary(max_size=100), SIZES)
def test_a_body_that_ends_with_the_connection(content, sizes):
    read_content, body = read(HEAD + b"\r\n" + content, sizes)
    assert read_content == content
    assert not body.reusable


@given(st.binary(), SIZES)
def test_any_bytes_are_a_response_or_a_clear_error(data, sizes):
    try:
        read(data, sizes)
    except (BadResponseError, NoResponseError) as error:
        assert str(error)


@given(st.binary())
def test_any_bytes_are_chunks_or_a_clear_error(data):
    decoder = ChunkedDecoder()
    try:
        content = decoder.feed(data)
    except BadResponseError:
        return
    assert len(content) <= len(data)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: 1, 2\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +1\r\n",
        b"Content-Length: 1_0\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"No colon\r\n",
        b"Bad name: x\r\n",
        b": x\r\n",
    ],
)
def test_framing_on_which_two_parties_could_disagree_is_refused(headers):
    with pytest.raises(BadResponseError):
        read(HEAD + headers + b"\r\n0\r\n\r\n", [])


def test_chunked_overrides_a_length_which_is_not_passed_on():
    data = HEAD + b"Content-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    receive = receiver(data, [])
    head = read_head(receive)
    body = Body("GET", head)
    assert b"".join(body.chunks(receive)) == b"a"
    assert head.values("content-length") == []


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", False),
        (b"HTTP/1.1 204 None\n\n", True),
    ],
)
def test_when_a_connection_is_used_again(head, reusable):
    assert read(head, [])[1].reusable == reusable
