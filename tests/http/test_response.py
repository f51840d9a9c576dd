"""Reading responses: whatever the pieces in which they arrive, and nothing that is not HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.http import chunks as http_chunks
from llmauth.http.grammar import BadMessageError
from llmauth.http.response import (
    BadResponseError,
    Body,
    NoResponseError,
    is_refusal,
    read_head,
)


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
    framed = b"".join(map(http_chunks.encode, chunks)) + http_chunks.END
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
    data = b"".join(map(http_chunks.encode, chunks)) + BAD_CHUNKS[bad]
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
    decoder = http_chunks.Decoder(strict=False)
    try:
        content = decoder.feed(data)
    except BadMessageError:
        return
    assert len(content) <= len(data)


def test_content_goes_out_as_one_chunk():
    assert http_chunks.encode(b"0123456789abcdef") == b"10\r\n0123456789abcdef\r\n"
    assert http_chunks.encode(b"") == b""  # a chunk of no bytes would be the end


CHUNKS = {
    "plain": (b"1\r\na\r\n0\r\n\r\n", True, True),
    "an extension": (b"1;x=y\r\na\r\n0\r\n\r\n", True, True),
    "a trailer": (b"1\r\na\r\n0\r\nX: y\r\n\r\n", True, True),
    "lines that end in LF": (b"1\na\r\n0\n\n", False, True),
    "trailers that end in LF": (b"1\r\na\r\n0\r\nX: y\n\r\n", False, True),
    "spaces around a size": (b" 1 \r\na\r\n0 \r\n\r\n", False, True),
    "a control in an extension": (b"1;\0\r\na\r\n0\r\n\r\n", False, True),
    "CR before CR LF": (b"1\r\r\na\r\n0\r\n\r\n", False, True),
    "a trailer that is none": (b"1\r\na\r\n0\r\nnone\r\n\r\n", False, True),
    "a chunk that ends in LF": (b"1\r\na\n0\r\n\r\n", False, False),
    "a longer chunk": (b"1\r\nab\r\n0\r\n\r\n", False, False),
    "no size": (b"\r\na\r\n0\r\n\r\n", False, False),
    "a size with 0x": (b"0x1\r\na\r\n0\r\n\r\n", False, False),
    "a size of 16 digits": (b"0000000000000001\r\na\r\n0\r\n\r\n", False, False),
}


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("case", CHUNKS)
def test_chunks_of_requests_are_read_strictly_and_those_of_responses_as_they_are_sent(case, size):
    data, *taken = CHUNKS[case]
    for strict, is_taken in zip((True, False), taken, strict=True):
        decoder, content = http_chunks.Decoder(strict=strict), b""
        try:
            for at in range(0, len(data), size):
                content += decoder.feed(data[at : at + size])
        except BadMessageError:
            assert not is_taken
            continue
        assert is_taken
        assert decoder.done
        assert (content, decoder.rest) == (b"a", b"")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: 1, 2\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +1\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: 1,\r\n",
        b"Content-Length: ,1\r\n",
        b"Content-Length: 1,,1\r\n",
        b"Content-Length: 1, +1\r\n",
        b"Content-Length: 1 1\r\n",
        b"Content-Length: 1\r\n 1\r\n",
        b"Content-Length: 1;1\r\n",
        b"Content-Length: 0x1\r\n",
        b"Content-Length: 1.0\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length: \xa01\r\n",
        b"Content-Length: \x0b1\r\n",
        b"Content-Length: 1\r\nContent-Length:\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: " + b"9" * 19 + b"\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked,\r\n",
        b"Transfer-Encoding:\r\n",
        b"Transfer-Encoding: chunked\xa0\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: chunked;x=1\r\n",
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


LENGTHS = {
    "one": b"Content-Length: 5\r\n",
    "a list": b"Content-Length: 5, 5\r\n",
    "a list of many": b"Content-Length: 5,5 ,\t5\r\n",
    "two lines": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "two lines apart": b"Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n",
    "a list and a line": b"Content-Length: 5, 5\r\nContent-Length: 5\r\n",
    "other spellings": b"Content-Length: 05, 5\r\nContent-Length: 005\r\n",
    "leading zeros": b"Content-Length: 005\r\n",
    "spaces": b"Content-Length: \t 5 \t\r\n",
    "a space before the colon": b"Content-Length : 5\r\n",
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("lines", LENGTHS)
def test_a_length_that_is_said_more_than_once_is_handed_on_once(lines, method):
    head = read_head(receiver(HEAD + LENGTHS[lines] + b"\r\nabcde", []))
    body = Body(method, head)
    assert [value for name, value in head.headers if name.lower() == "content-length"] == ["5"]
    if method == "GET":
        assert b"".join(body.chunks(lambda: b"")) == b"abcde"
        assert body.reusable


@pytest.mark.parametrize("line", ["1, 2", "1,", "+1", "abc", "", "-1"])
@pytest.mark.parametrize("status", [b"200", b"204", b"304"])
def test_a_length_that_is_none_is_refused_also_where_there_is_no_body(line, status):
    """It would be handed on, and the next one trip over it."""
    data = b"HTTP/1.1 %b X\r\nContent-Length: %b\r\n\r\n" % (status, line.encode())
    with pytest.raises(BadResponseError):
        Body("HEAD", read_head(receiver(data, [])))


def test_what_a_message_has_once_is_one_when_it_is_said_twice_alike():
    twice = b"Content-Type: a/b\r\ncontent-type: a/b\r\nX: y\r\nX: y\r\nETag: 1\r\nETag: 2\r\n"
    assert read_head(receiver(HEAD + twice + b"\r\n", [])).headers == [
        ("Content-Type", "a/b"),
        ("X", "y"),
        ("X", "y"),
        ("ETag", "1"),
        ("ETag", "2"),
    ]


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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: TE, close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: a\r\nConnection: close\r\n\r\n",
         False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", False),
        (b"HTTP/1.1 204 None\n\n", False),
        (b"HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 304 Same\r\n\r\n", False),
        (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", False),
        (HEAD + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            False,
        ),
    ],
)
def test_when_a_connection_is_used_again(head, reusable):
    """Never after a 204 or 304, whose body, if there is one against all rules, may still come."""
    assert read(head, [])[1].reusable == reusable


def test_after_an_answer_to_head_a_connection_is_never_used_again():
    assert not read(HEAD + b"Content-Length: 0\r\n\r\n", [], "HEAD")[1].reusable


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"HTTP/1.1 301 Moved", True),
        (b"HTTP/1.1 200 OK", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 413 No", True),
        (b"HTTP/1.1 103 Hints\nX: y\n\nHTTP/1.1 503", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (b"HTTP/1.1 103 Hints\r\nX: HTTP/1.1 200 OK\r\n\r\n", False),
        (b"HTTP/1.", False),
        (b"", False),
    ],
)
def test_whether_a_refusal_has_begun(data, refusal):
    assert is_refusal(data) == refusal
