"""Which key a request carries."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import quote

import pytest
from growth import ALLOWED, TIMES, growth
from hypothesis import given
from hypothesis import strategies as st

from llmauth.auth.credentials import (
    CARRIERS,
    MAX_CREDENTIALS,
    BadCredentials,
    KeyRing,
    ShownKey,
    find_key,
    strip_query_keys,
)

RING = KeyRing([("a", "key-a-0123456789"), ("b", "key-b-0123456789")])
HEADERS = st.dictionaries(
    st.sampled_from(sorted(CARRIERS)),
    st.one_of(st.text(st.characters(max_codepoint=255)), st.just("Bearer key-a-0123456789")),
)


@given(headers=HEADERS, path=st.text(), query=st.text(st.characters(max_codepoint=255)))
def test_any_input_is_a_key_or_none_or_malformed(headers, path, query):
    refused, found = None, None
    try:
        found = find_key(headers.get, path, query, RING)
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
    assert "secret-123" not in repr(find_key({"api-key": "secret-123"}.get, "/", "", RING))


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
    found = find_key(headers.get, path, query, RING)
    assert (found and found.token) == token
    assert (found is not None and found.own_credentials) == own


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({"authorization": "Bearer"}, "", 400),
        ({"authorization": "Bearer a b"}, "", 400),
        ({"x-proxy-api-key": ""}, "", 400),
        ({"x-goog-api-key": "x" * 4097}, "", 400),
        ({"authorization": "Basic dXNlcjpwYXNz"}, "", 401),
        ({"authorization": "key-without-a-scheme"}, "", 401),
    ],
)
def test_malformed_credentials_are_refused_as_the_clients_error(headers, query, code):
    with pytest.raises(BadCredentials) as caught:
        find_key(headers.get, "/v1beta/models", query, RING)
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
        ({"x-api-key": "a", "api-key": "b", "x-goog-api-key": "a"}, 2),
        ({"x-api-key": "a", "authorization": "Basic dXNlcjpwYXNz"}, 2),
        ({"x-api-key": "a", "authorization": "Bearer b c"}, 2),
        ({"x-api-key": "a", "authorization": "Bearer " + "x" * 4097}, 2),
        ({"x-proxy-api-key": "a", "authorization": "Bearer b"}, 2),
        ({"x-proxy-api-key": "", "authorization": "Basic dXNlcjpwYXNz"}, 1),
        ({"api-key": "x" * 4097}, 1),
    ],
)
def test_malformed_credentials_count_when_they_carry_a_guess(headers, guesses):
    with pytest.raises(BadCredentials) as caught:
        find_key(headers.get, "/v1/models", "", RING)
    assert len(caught.value.guesses) == guesses


BESIDE = {
    "a stray key": {"x-api-key": "stray"},
    "two of them": {"x-api-key": "stray", "x-goog-api-key": "other"},
    "Basic": {"authorization": "Basic d2ViOnB3"},
    "another scheme": {"authorization": "Digest username=a, realm=b"},
    "an empty Bearer": {"authorization": "Bearer "},
    "a key without a scheme": {"authorization": "stray"},
    "two tokens": {"authorization": "Bearer one two"},
    "one that is too long": {"authorization": f"Bearer {'x' * 5000}"},
    "an empty X-Proxy-Api-Key": {"x-proxy-api-key": " "},
    "a stray X-Proxy-Api-Key": {"x-proxy-api-key": "stray"},
    "an empty key": {"x-api-key": ""},
    "the same key": {"x-goog-api-key": "key-a-0123456789"},
}
CARRYING = {
    "Authorization": ({"authorization": "Bearer key-a-0123456789"}, ""),
    "x-api-key": ({"x-api-key": "key-a-0123456789"}, ""),
    "x-goog-api-key": ({"x-goog-api-key": "key-a-0123456789"}, ""),
    "api-key": ({"api-key": "key-a-0123456789"}, ""),
    "?key=": ({}, "key=key-a-0123456789"),
    "the second ?key=": ({}, "key=stray&key=key-a-0123456789"),
    "X-Proxy-Api-Key": ({"x-proxy-api-key": "key-a-0123456789"}, ""),
}


@pytest.mark.parametrize(
    ("carrying", "beside"),
    [
        (carrying, beside)
        for carrying, (headers, _) in CARRYING.items()
        for beside in BESIDE
        if not headers.keys() & BESIDE[beside].keys()
    ],
)
def test_whoever_shows_a_right_key_is_in_whatever_stands_beside_it(carrying, beside):
    """SDKs and agents for which two variables are set send both."""
    headers, query = CARRYING[carrying]
    found = find_key((headers | BESIDE[beside]).get, "/v1beta/models", query, RING)
    assert found.token == b"key-a-0123456789"
    assert found.own_credentials == (carrying == "X-Proxy-Api-Key")


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(CARRYING, 2)])
def test_two_different_keys_of_ours_are_refused_and_are_no_guesses(first, second):
    (headers, query), (others, other_query) = CARRYING[first], CARRYING[second]
    headers = {name: value.replace("key-a", "key-b") for name, value in headers.items()}
    query = f"{query.replace('key-a', 'key-b')}&{other_query}"
    with pytest.raises(BadCredentials, match="two different keys") as caught:
        find_key((headers | others).get, "/v1beta/models", query, RING)
    assert caught.value.refusal.code == 400
    assert caught.value.guesses == ()


def test_of_several_none_of_which_is_right_each_different_one_is_a_guess():
    headers = {"authorization": "Bearer a", "x-api-key": "b", "api-key": "a"}
    with pytest.raises(BadCredentials) as caught:
        find_key(headers.get, "/v1beta/models", "key=c&key=d", RING)
    assert caught.value.refusal.code == 401
    assert ("WWW-Authenticate", 'Bearer realm="llmauth", error="invalid_token"') in (
        caught.value.refusal.extra_headers
    )
    assert sorted(caught.value.guesses) == ["a", "b", "c", "d"]


def test_only_so_many_credentials_of_a_request_are_compared():
    compared = []

    class Counting(KeyRing):
        def match(self, token: bytes) -> str | None:
            compared.append(token)
            return super().match(token)

    query = "&".join(f"key=guess-{number}" for number in range(3000))
    with pytest.raises(BadCredentials) as caught:
        find_key({"x-api-key": "a"}.get, "/v1beta/models", query, Counting([("a", "x" * 20)]))
    assert len(compared) == len(caught.value.guesses) == MAX_CREDENTIALS == 16
    right = {"authorization": "Bearer key-a-0123456789"}
    assert find_key(right.get, "/v1beta/models", query, RING).token == b"key-a-0123456789"


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


SHOWN = "Key-1+2/3=4%41~567890"
HOLDING = {
    "plain": SHOWN,
    "inside": f"app/{SHOWN}/1.0",
    "percent-encoded": quote(SHOWN, safe=""),
    "every character": "".join(f"%{ord(c):02x}" for c in SHOWN),
    "twice": quote(quote(SHOWN, safe=""), safe=""),
    "in JSON": json.dumps({"key": SHOWN}).replace("K", "\\u004b"),
    "in HTML": SHOWN.replace("+", "&#43;"),
    **{
        f"in base64, {begin}": base64.b64encode(f"{begin}:{SHOWN}:x".encode()).decode()
        for begin in ("", "u", "us", "user")
    },
}


@pytest.mark.parametrize("case", HOLDING)
def test_the_key_is_found_however_it_is_written(case):
    shown = ShownKey(SHOWN)
    assert shown.is_in(HOLDING[case])
    assert shown.without({"X-A": HOLDING[case], "X-B": "b"}) == {"X-B": "b"}
    assert shown.without_in_query(f"a=1&b={HOLDING[case].replace('&', '%26')}&c") == "a=1&c"


@pytest.mark.parametrize("text", ["", "Key-1", SHOWN[1:], SHOWN[:-1], SHOWN.lower(), "%4B%65"])
def test_what_is_not_the_key_stays(text):
    shown = ShownKey(SHOWN)
    assert not shown.is_in(text)
    assert shown.without({"A": text, "B": "%41"}) == {"A": text, "B": "%41"}
    assert shown.without_in_query(text) == text


def test_a_header_that_is_named_by_the_key_is_left_out():
    shown = ShownKey("my-proxy_key-0123456789")
    assert shown.without({"My-Proxy-Key-0123456789": "x", "Accept": "y"}) == {"Accept": "y"}


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"a=1;key={SHOWN[:5]}longer&b", f"a=1;key={SHOWN[:5]}longer&b"),
        ("a=1;token=my-key-0123456789;b=2&c", "a=1;b=2&c"),
        ("my-key-0123456789", ""),
        ("my-key-0123456789=1&my%2Dkey%2d0123456789", ""),
    ],
)
def test_a_parameter_that_holds_the_key_is_left_out(query, left):
    assert ShownKey("my-key-0123456789").without_in_query(query) == left


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("secret", "Bearer secret", True),
        ("secret", "my.secret/1", True),
        ("secret", "secretary", False),
        ("secret", "top_secret", True),
        ("abc", "abc", True),
        ("abc", "token=abc", True),
        ("abc", "application/abc", False),
        ("abc", "abc, def", False),
    ],
)
def test_a_short_key_is_found_where_it_is_a_word(key, text, found):
    assert ShownKey(key).is_in(text) == found
    assert ("X" in ShownKey(key).without({"X": text, "Y": "y"})) == (not found)


@pytest.mark.parametrize("unit", ["a", "%41", "%", "&", "key-a-012345678", "=", ";", "%2541"])
def test_the_key_is_looked_for_in_proportion(unit):
    shown = ShownKey("key-a-0123456789")

    def look(size: int) -> None:
        text = unit * (size // len(unit))
        shown.without({"X-A": text})
        shown.without_in_query(text)

    assert growth(lambda: look(3000), lambda: look(TIMES * 3000)) <= ALLOWED
