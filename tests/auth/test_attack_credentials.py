"""Credentials as an attacker sends them, over raw sockets.

Each address may fail once, so that the next request tells whether the first was counted.
"""

from __future__ import annotations

import gc
import itertools
import sys

import pytest
from attack import WRONG, request, send, statuses
from hypothesis import given
from hypothesis import strategies as st
from servers import KEY, PROVIDER_KEY, Upstream, running_proxy

from llmauth.auth.credentials import KeyRing

GEMINI = "/v1beta/models/m:generateContent"


@pytest.fixture(scope="module")
def server():
    upstream = Upstream()
    options = {"trusted_proxies": "127.0.0.1", "max_failed_attempts": 1}
    with running_proxy(upstream, **options) as proxy:
        yield upstream, proxy
    upstream.stop()


ADDRESSES = (f"203.0.{third}.{fourth}" for third in range(256) for fourth in range(256))


@pytest.fixture
def ask(server):
    """Send a request from an address of its own; returns its status, and whether it counted."""
    upstream, proxy = server
    upstream.requests.clear()
    address = next(ADDRESSES)

    def asked(*headers: str | bytes, path: str = "/v1/x", body: bytes = b"") -> tuple[int, bool]:
        from_there = f"X-Forwarded-For: {address}"
        length = [f"Content-Length: {len(body)}"] if body else []
        line = f"POST {path} HTTP/1.1"
        data = request(*headers, *length, from_there, line=line, key=None, body=body)
        (status,) = statuses(send(proxy.port, data))
        received = list(upstream.requests)
        (after,) = statuses(send(proxy.port, request(from_there)))
        upstream.requests[:] = received
        return status, after == 429

    return asked


REFUSED = {
    # Not attempts: nothing that could be a key, or nowhere where a key belongs
    "nothing": ([], 401, False),
    "empty": (["Authorization:"], 401, False),
    "blank": (["Authorization: \t "], 401, False),
    "an empty x-api-key": (["x-api-key:"], 401, False),
    "only the scheme": (["Authorization: Bearer"], 400, False),
    "an empty X-Proxy-Api-Key": (["X-Proxy-Api-Key:"], 400, False),
    "in a cookie": ([f"Cookie: key={KEY}; Authorization=Bearer {KEY}"], 401, False),
    "in Proxy-Authorization": ([f"Proxy-Authorization: Bearer {KEY}"], 401, False),
    "in X-Authorization": ([f"X-Authorization: Bearer {KEY}"], 401, False),
    "with an underscore": ([f"x_api_key: {KEY}"], 401, False),
    "in From and Referer": ([f"From: {KEY}", f"Referer: http://a/?key={KEY}"], 401, False),
    # Attempts
    "wrong": ([f"Authorization: Bearer {WRONG}"], 401, True),
    "basic": ([f"Authorization: Basic {KEY}"], 401, True),
    "no scheme": ([f"Authorization: {KEY}"], 401, True),
    "a colon": ([f"Authorization: Bearer: {KEY}"], 401, True),
    "an equals sign": ([f"Authorization: Bearer={KEY}"], 401, True),
    "a scheme that begins so": ([f"Authorization: BearerToken {KEY}"], 401, True),
    "a tab for the space": ([f"Authorization: Bearer\t{KEY}"], 401, True),
    "quotes": ([f'Authorization: Bearer "{KEY}"'], 401, True),
    "a comma after it": ([f"Authorization: Bearer {KEY},"], 401, True),
    "a semicolon after it": ([f"x-api-key: {KEY};"], 401, True),
    "two tokens": ([f"Authorization: Bearer {KEY} {KEY}"], 400, True),
    "a tab between two": ([f"Authorization: Bearer {KEY}\t{WRONG}"], 400, True),
    "right, then wrong": ([f"Authorization: Bearer {k}" for k in (KEY, WRONG)], 400, True),
    "two of x-api-key": ([f"x-api-key: {k}" for k in (KEY, WRONG)], 401, True),
    "parameters": ([f"Authorization: Bearer {KEY}, realm=x"], 400, True),
    "a prefix": ([f"Authorization: Bearer {KEY[:-1]}"], 401, True),
    "a suffix": ([f"Authorization: Bearer {KEY[1:]}"], 401, True),
    "the first 20": ([f"Authorization: Bearer {KEY[:20]}{'x' * 11}"], 401, True),
    "one more": ([f"Authorization: Bearer {KEY}x"], 401, True),
    "twice in one": ([f"Authorization: Bearer {KEY}{KEY}"], 401, True),
    "upper case": ([f"Authorization: Bearer {KEY.upper()}"], 401, True),
    "percent-encoded": ([f"Authorization: Bearer %70{KEY[1:]}"], 401, True),
    "SQL": ([f"Authorization: Bearer {KEY}'--"], 401, True),
    "Cyrillic": ([b"Authorization: Bearer " + KEY.replace("e", "е").encode()], 401, True),
    "full-width": ([b"x-api-key: " + KEY.replace("p", "ｐ").encode()], 401, True),
    "a zero-width space": ([b"x-api-key: " + KEY.encode() + "\u200b".encode()], 401, True),
    "a soft hyphen": ([f"x-api-key: {KEY}\xad"], 401, True),
    "a no-break space": ([f"x-api-key: {KEY}\xa0"], 401, True),
    "a C1 line break": ([f"Authorization: Bearer \x85{KEY}"], 401, True),
    "invalid UTF-8": ([b"x-api-key: \xff\xfe\xc0\x80"], 401, True),
    "UTF-16": ([b"x-api-key: " + KEY.encode("utf-16-be").replace(b"\0", b"\x80")], 401, True),
    "4,096 bytes": ([f"x-api-key: {'x' * 4096}"], 401, True),
    "4,097 bytes": ([f"Authorization: Bearer {'x' * 4097}"], 400, True),
    "the right key 150 times": ([f"Authorization: Bearer {KEY * 150}"], 400, True),
    "60 KB": ([f"Authorization: Bearer {'x' * 60_000}"], 400, True),
    "64 KiB": ([f"Authorization: Bearer {'x' * 65_536}"], 431, False),
    "wrong in two": ([f"Authorization: Bearer {WRONG}", f"x-api-key: {KEY}x"], 401, True),
    "wrong beside one of the provider": (
        [f"X-Proxy-Api-Key: {WRONG}", "Authorization: Bearer sk-own-0123456789"], 401, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_key_in_its_place_is_refused(server, ask, case):
    headers, status, counted = REFUSED[case]
    assert ask(*headers) == (status, counted)
    assert server[0].requests == []


@pytest.mark.parametrize(
    ("path", "status", "counted"),
    [
        (f"/v1/chat/completions?key={KEY}", 401, False),
        (f"{GEMINI}?KEY={KEY}", 401, False),
        (f"{GEMINI}?api_key={KEY}", 401, False),
        (f"{GEMINI}?x[key]={KEY}", 401, False),
        (f"{GEMINI}?%6bey={KEY}", 401, False),
        (f"{GEMINI}?a=1;key={KEY}", 401, False),
        (f"{GEMINI};key={KEY}", 401, False),
        (f"/v1/{KEY}", 401, False),
        (f"{GEMINI}?key={WRONG}", 401, True),
        (f"{GEMINI}?key={KEY}x&key={WRONG}", 401, True),
        (f"{GEMINI}?key={KEY}%00", 401, True),
        (f"{GEMINI}?key={'%41' * 5000}", 400, True),
    ],
)
def test_what_is_not_the_key_in_a_url(server, ask, path, status, counted):
    assert ask(path=path) == (status, counted)
    assert server[0].requests == []


def test_a_key_in_the_body_is_none(server, ask):
    assert ask(body=f'{{"key": "{KEY}", "api_key": "{KEY}"}}'.encode()) == (401, False)
    assert server[0].requests == []


@pytest.mark.parametrize(
    "header",
    [
        f"Authorization: bEaReR {KEY}",
        f"Authorization: Bearer    {KEY}",
        f"Authorization: Bearer {KEY}\t ",
        f"AUTHORIZATION: BEARER {KEY}",
        f"X-Api-Key:{KEY}",
        f"API-KEY: \t{KEY}\t",
        f"x-goog-api-key: {KEY}",
        f"x-proxy-api-key: {KEY}",
    ],
)
def test_the_key_in_any_case_and_spacing_of_its_header(server, ask, header):
    assert ask(header) == (200, False)
    (received,) = server[0].requests
    assert KEY not in str(received.headers)


CARRIERS = {
    "Authorization": "Authorization: Bearer {}",
    "x-api-key": "x-api-key: {}",
    "x-goog-api-key": "x-goog-api-key: {}",
    "api-key": "api-key: {}",
    "query": "{}",
}
PAIRS = [*itertools.permutations(CARRIERS, 2)]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_every_carrier_against_every_other(server, ask, pair):
    """Whoever shows a right key is in, and nothing of the other one is handed on."""
    upstream = server[0]

    def both(first: str, second: str) -> tuple[int, bool]:
        keys = dict(zip(pair, (first, second), strict=True))
        path = f"{GEMINI}?key={keys.pop('query')}" if "query" in keys else GEMINI
        return ask(*(CARRIERS[name].format(key) for name, key in keys.items()), path=path)

    assert both(KEY, KEY) == (200, False)
    (received,) = upstream.requests
    assert KEY not in f"{received.target} {received.headers}"
    upstream.requests.clear()
    assert both(KEY, WRONG) == (200, False)
    (received,) = upstream.requests
    assert KEY not in f"{received.target} {received.headers}"
    assert WRONG not in f"{received.target} {received.headers}"
    upstream.requests.clear()
    assert both(WRONG, f"{KEY}x") == (401, True)
    assert upstream.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        ["Authorization: Basic d2ViOnB3", f"x-api-key: {KEY}"],
        ["Authorization: Bearer", f"x-api-key: {KEY}"],
        [f"Authorization: Bearer {WRONG} {WRONG}", f"api-key: {KEY}"],
        [f"X-Proxy-Api-Key: {WRONG}", f"Authorization: Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}"] * 2,
        [f"x-api-key: {KEY}"] * 3,
    ],
    ids=["curl -u", "empty", "two tokens", "the wrong way round", "two lines", "three lines"],
)
def test_whoever_shows_a_right_key_is_in_and_is_not_counted(server, ask, headers):
    """By X-Proxy-Api-Key, too: it is one carrier among others, unless its key is ours."""
    assert ask(*headers) == (200, False)
    (received,) = server[0].requests
    assert received.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert KEY not in str(received.headers)
    assert WRONG not in str(received.headers)


@pytest.mark.parametrize("name", [name for name in CARRIERS if name != "query"])
def test_beside_the_proxys_own_carrier_the_others_are_the_providers(server, ask, name):
    own = CARRIERS[name].format("sk-own-0123456789")
    assert ask(f"X-Proxy-Api-Key: {KEY}", own) == (200, False)
    (received,) = server[0].requests
    assert own.partition(": ")[2] == received.header(name)
    assert PROVIDER_KEY not in str(received.headers)


# The time of the comparison


def operations(ring: KeyRing, token: bytes) -> list[str]:
    """Return what Python and C functions run while a token is compared, in order."""
    calls: list[str] = []

    def record(frame, event, argument) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(argument.__name__)

    gc.disable()  # or what it calls would be recorded
    sys.setprofile(record)
    try:
        ring.match(token)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


RING = KeyRing([(f"k{number}", f"{number}{KEY}") for number in range(5)])
GUESSES = st.one_of(
    st.binary(),
    st.builds(
        lambda number, end: f"{number}{KEY}"[:end].encode(), st.integers(0, 5), st.integers()
    ),
    st.builds(lambda number, end: f"{number}{KEY}{end}".encode(), st.integers(0, 5), st.text()),
)


@given(GUESSES)
def test_the_comparison_does_the_same_whatever_the_guess(token):
    """Digests of one length, each compared to its end by hmac.compare_digest.

    How long that takes is measured by benchmarks/timing.py.
    """
    expected = operations(RING, b"")
    assert expected.count("compare_digest") == 5
    assert operations(RING, token) == expected
