"""What crosses in each direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.credentials import CARRIERS
from llmauth.headers import HOP_BY_HOP, request_headers, response_headers

NAMES = st.sampled_from([*sorted(HOP_BY_HOP), "x-own", "connection", "x-two", "set-cookie"])
VALUES = st.text(st.characters(max_codepoint=255))


@given(st.lists(st.tuples(st.one_of(NAMES, VALUES), VALUES)), st.booleans())
def test_no_answer_is_split_and_no_hop_by_hop_header_leaves(headers, stream):
    for name, value in response_headers(headers, stream=stream):
        assert name.lower() not in HOP_BY_HOP
        assert name
        assert not set(name + value) & set("\r\n\0")


@given(st.dictionaries(st.sampled_from(sorted(CARRIERS | HOP_BY_HOP)), VALUES))
def test_no_credentials_leave(headers):
    environ = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in headers.items()}
    names = {name.lower() for name in request_headers(environ, via="1.1 x")}
    assert names == {"accept-encoding", "via"}


def test_what_a_carrier_holds_for_the_provider_is_kept():
    environ = {"HTTP_AUTHORIZATION": "Bearer own", "HTTP_X_API_KEY": "proxy"}
    headers = request_headers(environ, keep=("authorization",), via="1.1 x")
    assert headers == {"Authorization": "Bearer own", "Accept-Encoding": "identity", "Via": "1.1 x"}


def test_via_is_added_to():
    assert request_headers({"HTTP_VIA": "1.0 a"}, via="1.1 b")["Via"] == "1.0 a, 1.1 b"


@pytest.mark.parametrize("stream", [True, False])
def test_streams_are_not_buffered_and_not_cached(stream):
    sent = [("X-Accel-Buffering", "yes"), ("Content-Type", "x")]
    headers = dict(response_headers(sent, stream=stream))
    assert (headers["X-Accel-Buffering"] == "no") == stream
    assert ("Cache-Control" in headers) == stream
    kept = [("Cache-Control", "private")]
    assert dict(response_headers(kept, stream=stream))["Cache-Control"] == "private"
