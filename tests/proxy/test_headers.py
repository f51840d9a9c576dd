"""What crosses in each direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import raw

from llmauth.auth.credentials import CARRIERS
from llmauth.proxy.headers import HOP_BY_HOP, request_headers, response_headers

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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json, application/json", "application/json"),
        ("application/json,application/json,application/json", "application/json"),
        ("a/b, c/d", "a/b, c/d"),
        ('multipart/mixed; boundary="a,b"', 'multipart/mixed; boundary="a,b"'),
        ("a/b,", "a/b,"),
    ],
)
def test_a_media_type_that_another_server_has_joined_with_itself_is_one(value, expected):
    assert request_headers({"CONTENT_TYPE": value}, via="x")["Content-Type"] == expected


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


def sent(headers: dict[str, str], **more) -> dict[str, str]:
    """Return what is sent upstream, by lower-case name."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in headers.items()}
    return {n.lower(): v for n, v in request_headers(environ, via="1.1 x", **more).items()}


DROPPED = HOP_BY_HOP | {
    "host", "cookie", "x-forwarded-for", "x-forwarded-anything", "forwarded", "x-real-ip",
    "origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-ch-ua", "sec-gpc",
    "access-control-request-method", "access-control-request-headers",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_a_header_that_concerns_no_provider_is_not_sent(name):
    assert sent({name: "x", "x-own": "y"}) == {
        "x-own": "y", "accept-encoding": "identity", "via": "1.1 x"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-goog-api-key", "api-key"])
def test_each_carrier_is_kept_only_when_it_is_the_providers(name):
    assert name not in sent({name: "k"})
    assert sent({name: "k"}, keep=(name,))[name] == "k"


def test_the_proxys_own_carrier_is_never_kept():
    assert "x-proxy-api-key" not in sent({"x-proxy-api-key": "k"}, keep=("x-proxy-api-key",))


def test_headers_named_by_connection_stay_here():
    found = sent({"connection": "close, X-One ,x-two", "x-one": "1", "x-two": "2", "x-three": "3"})
    assert {"x-one", "x-two"} & found.keys() == set()
    assert found["x-three"] == "3"
    answer = [("Connection", "X-One"), ("X-One", "1"), ("connection", "x-two"), ("X-Two", "2")]
    assert response_headers([*answer, ("X-Three", "3")], stream=False) == [("X-Three", "3")]


@pytest.mark.parametrize("encoding", ["gzip", "zstd;q=0.5, br", "identity"])
def test_an_encoding_that_the_client_asks_for_is_asked_for(encoding):
    assert sent({"accept-encoding": encoding})["accept-encoding"] == encoding


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("a\r\n b", "a b"),
        ("a\r\n\t \r\n b", "a b"),
        ("a\nSet-Cookie: x", "a Set-Cookie: x"),
        ("a\x00b\x7fc\x1b", "abc"),
        ("a\tb", "a\tb"),
        ("caf\xe9\xa0", "caf\xe9\xa0"),
    ],
    ids=["folded", "folded-twice", "split", "control", "tab", "latin-1"],
)
def test_an_answers_header_is_one_line(value, client):
    ((_, got),) = response_headers([("X-Own", value)], stream=False)
    assert got.replace("  ", " ") == client


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "a\xe9", " a"], ids=repr)
def test_an_answers_header_without_a_proper_name_is_dropped(name):
    assert response_headers([(name, "x")], stream=False) == []


def test_repeated_headers_of_an_answer_keep_their_order_and_case():
    headers = [("X-B", "1"), ("x-a", "2"), ("X-B", "3"), ("Content-Encoding", "gzip")]
    assert response_headers(headers, stream=False) == headers


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,12}", fullmatch=True), VALUES), VALUES)
def test_no_hop_by_hop_header_and_none_that_connection_names_is_sent(headers, connection):
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    environ["HTTP_CONNECTION"] = f"{connection},{','.join(n.replace('_', '-') for n in headers)}"
    found = {name.lower() for name in request_headers(environ, via="1.1 x")}
    assert found == {"accept-encoding", "via"}


@pytest.mark.parametrize("value", ["abc", "+5", "-1", "5, 6", "", "0x5", "9" * 5000, "\xb2"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_length_of_an_answer_without_a_body_is_a_number_or_not_handed_on(
    proxy, upstream, method, value
):
    """WSGI servers fail over it: a traceback, and 500."""
    status = "200 OK" if method == "HEAD" else "304 Same"
    upstream.answer = raw(f"HTTP/1.1 {status}\r\nContent-Length: {value}\r\n\r\n".encode("latin-1"))
    reply = proxy.request(method, "/v1/x")
    assert str(reply.status) in (status[:3], "502")
    assert reply.status == 502 or reply.header("content-length") is None
