"""Which key a request carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.auth.credentials import CARRIERS, BadCredentials, KeyRing, find_key, strip_query_keys

RING = KeyRing([("a", "key-a-0123456789"), ("b", "key-b-0123456789")])
HEADERS = st.dictionaries(
    st.sampled_from(sorted(CARRIERS)),
    st.one_of(st.text(st.characters(max_codepoint=255)), st.just("Bearer key-a-0123456789")),
)


@given(headers=HEADERS, path=st.text(), query=st.text(st.characters(max_codepoint=255)))
def test_any_input_is_a_key_or_none_or_malformed(headers, path, query):
    refused, found = None, None
    try:
        found = find_key(headers.get, path, query)
    except BadCredentials as malformed:
        refused = malformed
    if refused:
        assert refused.refusal.code in (400, 401)
        assert all(refused.guesses)
        assert not any(
            guess in refused.refusal.description for guess in refused.guesses if len(guess) > 20
        )
    else:
        assert found is None or found.token


KEYS = (b"key-a-0123456789", b"key-b-0123456789")
NEARLY = st.one_of(
    st.sampled_from(KEYS),
    st.builds(lambda key, end: key[:end], st.sampled_from(KEYS), st.integers(0, 15)),
    st.builds(bytes.__add__, st.sampled_from(KEYS), st.binary()),
    st.builds(bytes.__add__, st.binary(), st.sampled_from(KEYS)),
    st.sampled_from([key.upper() for key in KEYS]),
    st.binary(),
)


@given(NEARLY)
def test_only_the_exact_key_matches(token):
    assert (RING.match(token) is not None) == (token in KEYS)


def test_the_name_of_the_key_is_told_and_the_key_is_not():
    assert RING.match(b"key-b-0123456789") == "b"
    assert repr(RING) == "KeyRing(a, b)"
    assert "secret-123" not in repr(find_key({"api-key": "secret-123"}.get, "/", ""))


@pytest.mark.parametrize(
    ("headers", "path", "query", "token", "own"),
    [
        ({}, "/v1/models", "", None, False),
        ({"authorization": "Bearer k"}, "/", "", b"k", False),
        ({"authorization": "bEARER   k "}, "/", "", b"k", False),
        ({"authorization": " "}, "/", "", None, False),
        ({"x-api-key": "k"}, "/", "", b"k", False),
        ({"x-goog-api-key": "k"}, "/", "", b"k", False),
        ({"api-key": " k\t"}, "/", "", b"k", False),
        ({"api-key": ""}, "/", "", None, False),
        ({"x-api-key": "k", "authorization": "Bearer k"}, "/", "", b"k", False),
        ({"x-proxy-api-key": "k"}, "/", "", b"k", True),
        ({"x-proxy-api-key": "k", "authorization": "Basic other"}, "/", "", b"k", True),
        ({"x-proxy-api-key": "k", "x-api-key": "a", "api-key": "b"}, "/", "", b"k", True),
        ({}, "/v1beta/models/m:generateContent", "key=k", b"k", False),
        ({}, "/v1beta/models/m:generateContent", "alt=sse&key=%6B%2B", b"k+", False),
        ({}, "/v1/models", "key=k", b"k", False),
        ({}, "/gemini/models", "key=k", b"k", False),
        ({}, "/v1beta/models", "key=", None, False),
        ({}, "/v1beta/models", "monkey=k&keys=k", None, False),
        ({}, "/v1/chat/completions", "key=k", None, False),
        ({"api-key": "k" * 4096}, "/", "", b"k" * 4096, False),
    ],
)
def test_every_carrier_is_read(headers, path, query, token, own):
    found = find_key(headers.get, path, query)
    assert (found and found.token) == token
    assert (found is not None and found.own_credentials) == own


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({"authorization": "Bearer"}, "", 400),
        ({"authorization": "Bearer a b"}, "", 400),
        ({"authorization": "Bearer a"}, "key=b", 400),
        ({}, "key=a&key=b", 400),
        ({"x-proxy-api-key": ""}, "", 400),
        ({"x-goog-api-key": "x" * 4097}, "", 400),
        ({"authorization": "Basic dXNlcjpwYXNz"}, "", 401),
        ({"authorization": "key-without-a-scheme"}, "", 401),
    ],
)
def test_malformed_credentials_are_refused_as_the_clients_error(headers, query, code):
    with pytest.raises(BadCredentials) as caught:
        find_key(headers.get, "/v1beta/models", query)
    assert caught.value.refusal.code == code


@pytest.mark.parametrize(
    ("headers", "guesses"),
    [
        ({"authorization": "Bearer"}, 0),
        ({"authorization": "Bearer  "}, 0),
        ({"authorization": "Bearer a b"}, 1),
        ({"authorization": "Basic dXNlcjpwYXNz"}, 1),
        ({"authorization": "Bearer a, Bearer b"}, 1),
        ({"x-proxy-api-key": " "}, 0),
        ({"x-api-key": "a", "api-key": "b"}, 2),
        ({"api-key": "x" * 4097}, 1),
    ],
)
def test_malformed_credentials_count_when_they_carry_a_guess(headers, guesses):
    with pytest.raises(BadCredentials) as caught:
        find_key(headers.get, "/v1/models", "")
    assert len(caught.value.guesses) == guesses


@pytest.mark.parametrize(
    ("query", "keep", "any_value", "expected"),
    [
        ("key=key-a-0123456789", False, False, ("", False)),
        ("a=1&key=other&b", False, False, ("a=1&key=other&b", False)),
        ("a=1&key=other&b", False, True, ("a=1&b", False)),
        ("a=1&key=other&b", True, True, ("a=1&key=other&b", True)),
        ("key=key%2Da-0123456789&x", True, True, ("x", False)),
        ("monkey=1&key", False, True, ("monkey=1", False)),
    ],
)
def test_keys_are_stripped_from_queries(query, keep, any_value, expected):
    assert strip_query_keys(query, RING, keep=keep, any_value=any_value) == expected
