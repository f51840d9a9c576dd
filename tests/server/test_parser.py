"""Requests are understood as waitress understands them, where they are taken at all."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

from llmauth.server.parser import Parser

ADJUSTMENTS = Adjustments()
FIELDS = (
    "command", "request_uri", "version", "path", "query", "url_scheme", "headers", "chunked",
    "content_length", "connection_close", "headers_finished", "completed",
)  # fmt: skip

names = st.sampled_from([
    "Accept", "Connection", "connection", "Expect", "Content-Length", "Content_Length",
    "Transfer-Encoding", "X-Api-Key", "x-api-key", "X_Api_Key", "X.~!",
])  # fmt: skip
values = st.sampled_from([
    "", "a", "close", "Close", "keep-alive", "Keep-Alive", "100-continue", "0", "12", "chunked",
    " \t padded \t ", "a, b", "\xe9\xff", "\x85 \xa0",
])  # fmt: skip
targets = st.one_of(
    st.sampled_from([
        "/", "//", "/v1/chat?a=b?c", "/a%2Fb%00%e9%E9%zz", "/?", "/a;b=c", "/../x", "//h/p?q#f",
        "http://example.org", "http://example.org/a%20b?c", "https://[::1]:8/a?b", "*",
    ]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map("/".__add__),
)  # fmt: skip


@given(
    st.sampled_from(["GET", "POST", "OPTIONS", "M-SEARCH"]),
    targets,
    st.sampled_from(["1.0", "1.1"]),
    # Of lines that say the same, waitress joins all.
    st.lists(
        st.tuples(names, values), max_size=5, unique_by=lambda one: (one[0].lower(), one[1].strip())
    ),
)
def test_what_is_taken_reads_as_in_waitress(method, target, version, fields):
    lines = [f"{method} {target} HTTP/{version}", "Host: a"]
    lines += [f"{name}:{value}" for name, value in fields]
    data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    ours, theirs = Parser(ADJUSTMENTS), HTTPRequestParser(ADJUSTMENTS)
    consumed = ours.received(data), theirs.received(data)
    if ours.error:
        return
    assert consumed == (len(data), len(data))
    assert theirs.error is None
    # waitress knows a connection's wish only where it stands alone.
    lists = {"connection_close"} if "," in theirs.headers.get("CONNECTION", "") else set()
    for field in [one for one in FIELDS if one not in lists]:
        assert getattr(ours, field) == getattr(theirs, field), field
    # waitress would wait for a body here though none is to come.
    assert ours.expect_continue == (theirs.expect_continue and theirs.body_rcv is not None)


def test_a_request_that_cannot_be_read_has_what_waitress_logs_of_a_client_that_left():
    parser = Parser(ADJUSTMENTS)
    parser.received(b"nonsense\r\n\r\n")
    assert parser.error
    assert (parser.command, parser.path) == ("", "")


_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a"]), max_size=12).map(b"".join),
    st.lists(st.integers(1, 14), max_size=4),
)
def test_line_ends_are_judged_alike_in_whatever_pieces_they_come(text, cuts):
    parser, places = Parser(ADJUSTMENTS), sorted({0, *cuts, len(text)})
    for start, end in itertools.pairwise(places):
        parser.received(text[start:end])
        if parser.completed:
            break
    head, end, _ = text.partition(b"\r\n\r\n")
    bare = _BARE_LINE_END.search(head + end) is not None
    said = parser.error is not None and "bare CR or LF" in str(parser.error.body)
    assert bare or not said
    assert parser.error is not None or not bare
