"""Which key a request carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.credentials import CARRIERS, KeyRing, Malformed, find_key, strip_query_keys

RING = KeyRing([("a", "key-a-0123456789"), ("b", "key-b-0123456789")])
HEADERS = st.dictionaries(
    st.sampled_from(sorted(CARRIERS)),
    st.one_of(st.text(st.characters(max_codepoint=255)), st.just("Bearer key-a-0123456789")),
)


@given(headers=HEADERS, path=st.text(), query=st.text(st.characters(max_codepoint=255)))
def test_any_input_is_a_key_or_none_or_malformed(headers, path, query):
    try:
        found = find_key(headers.get, path, query)
    except Malformed as malformed:
        assert malformed.refusal.code in (400, 401)
        for guess in malformed.guesses:
            assert guess
    else:
        assert found is None or found.token.strip()


@given(st.one_of(st.binary(), st.sampled_from([b"key-a-012345678", b"key-a-01234567890", b""])))
def test_only_the_exact_key_matches(token):
    assert (RING.match(token) is None) == (token not in (b"key-a-0123456789", b"key-b-0123456789"))


def test_the_name_of_the_key_is_told_and_the_key_is_not():
    assert RING.match(b"key-b-0123456789") == "b"
    assert repr(RING) == "KeyRing(a, b)"
    assert "secret-123" not in repr(find_key({"api-key": "secret-123"}.get, "/", ""))


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
    with pytest.raises(Malformed) as caught:
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
