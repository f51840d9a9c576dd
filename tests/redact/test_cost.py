"""What masking costs: in proportion to the text, whatever is in it and whatever is known."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from growth import ALLOWED, TIMES, growth

from llmauth.auth.credentials import (
    MAX_CREDENTIALS,
    BadCredentials,
    KeyRing,
    credentials_in,
    find_key,
    query_keys,
    tokens_in,
)
from llmauth.auth.request import header_getter
from llmauth.capture.streams import stream_without_secrets
from llmauth.redact import memory
from llmauth.redact.forms import Form, forms
from llmauth.redact.memory import MAX_OBSERVED, OBSERVED
from llmauth.redact.messages import hidden
from llmauth.redact.redactor import Redactor, is_credential, masked_entirely
from llmauth.redact.shapes import SHAPES
from llmauth.redact.uris import is_ambiguous, masked_uri, uri_secrets

SIZE = 3000

STEMS = sorted({shape.stem for shape in SHAPES} | {"ant-", "proj-", "sk-ant-", "password"})
SEPARATORS = (
    "", "+", " ", "=", ":", "-", "@", '="', '": "', "%3D", "\\u003d", ", ", "='a1", "=a1&",
)  # fmt: skip
BEFORE = ("", "//", "?key=", '"password": "')
AFTER = ("", "****", "@ a")
OTHER = [
    "a", "A", "1", "a1", "-", "_", "=", "/", "//", "//a", "//a@", "//a:@", "@", " ", "\t", "\n",
    "\\n", "\\", "\\\\", '"', '\\"', "%", "%25", "%41", "%C3%A9", "&amp;", "&#", "\\u0041",
    "\\uD83D", "\0", "1,", "12, ", "0x7", "0x73,", "73 ", "73:", "115,\n    ", "é", "\u0130",
    "\ud800", "?", "?a=", "?a=,", "&a=b", "key", "?token", "a.", "a=b; ", "cookie: a=b; ", "****",
    "AKIA0", "sk-aA1",
]  # fmt: skip


def cost(do: Callable[[str], object], make: Callable[[int], str]) -> float:
    small, large = make(SIZE), make(TIMES * SIZE)
    return growth(lambda: do(small), lambda: do(large))


@pytest.mark.parametrize("unit", dict.fromkeys([*STEMS, *OTHER]), ids=ascii)
def test_a_text_of_any_shape_costs_in_proportion_to_its_length(unit: str) -> None:
    redactor = Redactor(["Zk3vQ9Yw7Tt5Rq"])
    separators = SEPARATORS if unit in STEMS else ("",)
    all_ends = list(itertools.product(BEFORE, AFTER))
    some_ends = all_ends if unit in OTHER else [("", ""), ('"password": "', "****")]
    for separator, ends in itertools.product(separators, some_ends):

        def make(size: int, each: str = unit + separator, ends: tuple[str, str] = ends) -> str:
            return ends[0] + each * (size // len(each)) + ends[1]

        grown = cost(redactor.text, make)
        assert grown <= ALLOWED, (grown, unit + separator, ends)


@pytest.mark.parametrize("seed", range(12))
def test_a_text_of_any_mixture_costs_in_proportion_to_its_length(seed: int) -> None:
    chance, redactor = random.Random(seed), Redactor(["Zk3vQ9Yw7Tt5Rq"])
    units = chance.sample([stem + end for stem in STEMS for end in SEPARATORS] + OTHER, 4)

    def make(size: int) -> str:
        source, text = random.Random(seed), ""
        while len(text) < size:
            text += source.choice(units)
        return text

    assert cost(redactor.text, make) <= ALLOWED, units


CROWDS: dict[str, Callable[[int], str]] = {
    "one character": lambda n: "a" * (20 + n % 200),
    "one beginning": lambda n: f"sk-proj-abcdefgh{n:04}",
    "one middle": lambda n: f"{n:04}-abcdefghijklmnopqrstuvwxyz",
    "short": lambda n: f"abc{n:03}",
    "shorter": lambda n: f"a{n % 1000:03}",
    "in other capitals": lambda n: "".join(
        c.upper() if n >> i & 1 else c for i, c in enumerate("abcdefghijklmnop")
    ),
    "long": lambda n: "ab" * 127 + f"{n:04}",
    "not ascii": lambda n: "é" * 200 + f"{n:04}",
    "escapes": lambda n: "%2541" * 40 + f"{n:04}",
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_a_credential_costs_the_same_whatever_is_known(crowd: Callable[[int], str]) -> None:
    """Those that are forgotten for it included, of which there are none at first."""
    news = (tuple(crowd(n) for n in range(at, at + 100)) for at in itertools.count(0, 100))
    full = Redactor()
    for _ in range(OBSERVED // 100 + 1):
        indexed(full, *next(news))
    ratio = growth(lambda: indexed(Redactor(), *next(news)), lambda: indexed(full, *next(news)))
    assert ratio <= ALLOWED


def indexed(redactor: Redactor, *credentials: str) -> Redactor:
    """Observe credentials and search: that is when their forms are made."""
    redactor.observe(*credentials)
    redactor.text("")
    return redactor


def test_whoever_refuses_a_key_makes_no_forms_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    forms_of = memory._forms
    monkeypatch.setattr(memory, "_forms", lambda one: made.append(one) or forms_of(one))
    redactor = Redactor()
    redactor.observe(*(f"guess-number-{number}" for number in range(OBSERVED + 5)))
    assert made == []
    assert redactor.text("guess-number-5!") == "****!"
    assert redactor.text("guess-number-4!") == "guess-number-4!"  # the oldest are forgotten
    assert len(made) == OBSERVED
    redactor.observe("guess-number-5")
    redactor.text("")
    assert len(made) == OBSERVED


def test_nobody_searches_before_what_was_observed_is_indexed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even while another thread is still at it."""
    begun, go_on = threading.Event(), threading.Event()
    texts: list[str] = []
    forms_of = memory._forms

    def slowly(credential: str) -> Iterator[Form]:
        begun.set()
        go_on.wait(10)
        return forms_of(credential)

    monkeypatch.setattr(memory, "_forms", slowly)
    redactor = Redactor()
    redactor.observe("a-guess-of-somebody")

    def search() -> None:
        texts.append(redactor.text("it was a-guess-of-somebody"))

    first, second = threading.Thread(target=search), threading.Thread(target=search)
    first.start()
    begun.wait(10)
    second.start()
    second.join(0.2)
    go_on.set()
    first.join()
    second.join()
    assert texts == ["it was ****"] * 2


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_a_text_costs_in_proportion_whatever_is_known(crowd: Callable[[int], str]) -> None:
    redactor = Redactor()
    indexed(redactor, *map(crowd, range(OBSERVED)))
    for unit in (crowd(0), crowd(1), crowd(0)[:4], crowd(0)[:9], crowd(0)[:15], crowd(511)):

        def make(size: int, each: str = unit) -> str:
            return each * (size // len(each))

        assert cost(redactor.text, make) <= ALLOWED


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("text", ["sk-" * 341, "a" * 1024, "/v1/x?" * 170], ids=["sk", "a", "url"])
def test_a_text_that_breaks_off_costs_the_same_whatever_is_known(
    crowd: Callable[[int], str], text: str
) -> None:
    """As the path of an access log's line, which anybody may have as long as he likes."""
    few, many = Redactor([crowd(0)]), Redactor()
    many.observe(*map(crowd, range(OBSERVED)))
    assert growth(lambda: few.text(text, cut=True), lambda: many.text(text, cut=True)) <= ALLOWED


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_what_is_forgotten_leaves_nothing_behind(crowd: Callable[[int], str]) -> None:
    redactor = Redactor()
    indexed(redactor, *map(crowd, range(OBSERVED)))
    indexed(redactor, *(f"Other-{number:05}" for number in range(OBSERVED)))
    other = indexed(Redactor(), *(f"Other-{number:05}" for number in range(OBSERVED)))
    assert known(redactor) == known(other)


def known(redactor: Redactor) -> list[object]:
    index = redactor._index
    tables = [(table.blocks, table._heads) for table in index._tables]
    return [index._begun, *tables]


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_each_of_a_crowd_is_masked(crowd: Callable[[int], str]) -> None:
    redactor = Redactor()
    credentials = [crowd(number) for number in range(OBSERVED)]
    redactor.observe(*credentials)
    for credential in credentials:
        assert redactor.text(f"of {credential} it") == "of **** it".replace(
            "****", "sk-proj-****" if redactor.text(credential).startswith("sk-") else "****"
        )


@pytest.mark.parametrize(
    "credential",
    [
        "a" * 256, "é" * 256, "%2541é" * 43, "a b&amp;%41é" * 20, "\\u0041é%41" * 24,
        "\U0001f511" * 256, "\ud800é" * 99, "&amp;amp;amp;" * 20, "a\nb " * 64, "\\n" * 128,
        "A-b_C " * 43,
    ],
    ids=lambda credential: ascii(credential[:12]),
)  # fmt: skip
def test_a_credential_has_so_many_forms_at_most(credential: str) -> None:
    found = list(forms(credential, word=8, longer=True))
    assert len(found) <= 66
    assert sum(len(form.text) for form in found) < 64 * 1024


# What a request carries


def pairs(size: int) -> str:
    return "; ".join(f"name-{n}={n:016}" for n in range(size // 30))


def listed(size: int) -> str:
    return ", ".join(f"token-{n:012}" for n in range(size // 20))


def asked(size: int) -> str:
    return "&".join(f"key=guess-{n:09}" for n in range(size // 20))


REQUESTS: dict[str, Callable[[int], dict[str, str]]] = {
    "cookies": lambda n: {"HTTP_COOKIE": pairs(n)},
    "cookies without values": lambda n: {"HTTP_COOKIE": "a" * n},
    "cookies that are short": lambda n: {"HTTP_COOKIE": "a=b;" * (n // 4)},
    "cookies that are empty": lambda n: {"HTTP_COOKIE": ";=" * (n // 2)},
    "no token and cookies": lambda n: {"HTTP_AUTHORIZATION": "Bearer", "HTTP_COOKIE": pairs(n)},
    "Bearer, a list": lambda n: {"HTTP_AUTHORIZATION": "Bearer " + listed(n)},
    "words": lambda n: {"HTTP_AUTHORIZATION": "Digest " + listed(n).replace(",", "")},
    "commas": lambda n: {"HTTP_AUTHORIZATION": "," * n},
    "blanks": lambda n: {"HTTP_AUTHORIZATION": "Bearer" + " " * n + "x"},
    "x-api-key, a list": lambda n: {"HTTP_X_API_KEY": listed(n)},
    "many headers": lambda n: {f"HTTP_MY_{i}_TOKEN": listed(n // 50) for i in range(50)},
    "basic": lambda n: {"HTTP_AUTHORIZATION": "Basic " + "OmFi" * (n // 4)},
    "one long key": lambda n: {"HTTP_X_API_KEY": "ab" * (n // 2)},
    "key= in the query": lambda n: {"QUERY_STRING": asked(n)},
    "one key= in the query": lambda n: {"QUERY_STRING": "key=abcdefghi&" * (n // 14)},
    "key= without values": lambda n: {"QUERY_STRING": "key=&" * (n // 5)},
    "no key=": lambda n: {"QUERY_STRING": "&monkey=" * (n // 8)},
    "not ascii": lambda n: {"HTTP_COOKIE": pairs(n).replace("0", "\xc3\xa9")},
}


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_a_request_is_read_in_proportion_and_little_of_it_is_remembered(
    request_of: Callable[[int], dict[str, str]],
) -> None:
    def remembered(environ: dict[str, str]) -> tuple[str, ...]:
        return credentials_in(environ, environ.get("QUERY_STRING", ""), ["a-guess-of-ours"])

    small, large = request_of(SIZE), request_of(TIMES * SIZE)
    assert growth(lambda: remembered(small), lambda: remembered(large)) <= ALLOWED
    found = remembered(request_of(60_000))
    assert found[0] == "a-guess-of-ours"
    assert len(found) <= MAX_CREDENTIALS == 16
    assert max(map(len, found)) <= MAX_OBSERVED == 256


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_what_may_be_meant_as_a_key_is_remembered_before_anything_else(
    request_of: Callable[[int], dict[str, str]],
) -> None:
    environ = request_of(3000) | {"HTTP_X_GOOG_API_KEY": "the-key-itself-1"}
    if "one" not in environ.get("QUERY_STRING", ""):
        assert "the-key-itself-1" in credentials_in(environ, "")


READERS: dict[str, Callable[[str], object]] = {
    "masked_uri": masked_uri,
    "is_ambiguous": is_ambiguous,
    "uri_secrets": uri_secrets,
    "hidden": hidden,
    "is_credential": is_credential,
    "masked_entirely": masked_entirely,
    "tokens_in": lambda text: list(tokens_in(text)),
    "query_keys": query_keys,
    "find_key": lambda text: keys_found(text),
    "a stream": lambda text: stream_without_secrets(
        Redactor(), "events", text, range(0, len(text), 7), broken=True
    ),
}
UNITS = [
    "//", "//a", "?", "?a", "?key", "?pass", "&key=a", "@", "a", " ", "key=", "-key", "_cookie",
    "a1B2", "cookie", "bearer ", "\n\n", "data: {}\n\n", '{"a": "b"}\n', ",", "=", "-", ".",
]  # fmt: skip


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whatever_reads_a_value_does_so_in_proportion(read: Callable[[str], object]) -> None:
    for unit in UNITS:
        assert cost(read, lambda size, each=unit: each * (size // len(each))) <= ALLOWED, unit


def keys_found(text: str) -> None:
    with contextlib.suppress(BadCredentials):
        find_key(header_getter({}), "/gemini/v1beta/models", f"key=a&{text}&key=a", KeyRing(()))


def test_names_of_headers_that_are_long_are_not_remembered() -> None:
    from llmauth.redact import redactor

    before = redactor._is_credential.cache_info().currsize
    assert not is_credential("x" * 60_000)
    assert is_credential("x" * 60_000 + "-token")
    assert redactor._is_credential.cache_info().currsize == before


BODIES = {
    "one secret": ('"password": "', "a", 2_000_000),
    "one secret of escapes": ('"password": "', "\\u0041", 325_000),
    "stems": ("", "basic+", 325_000),
    "lines": ("", "a\n", 1_000_000),
    "codes": ("", "115, ", 400_000),
    "cookies": ("cookie: ", "a=b; ", 400_000),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory")
@pytest.mark.parametrize(("start", "unit", "times"), BODIES.values(), ids=BODIES)
def test_a_body_takes_memory_in_proportion(start: str, unit: str, times: int) -> None:
    program = """
import re, resource, sys
from pathlib import Path
from llmauth.redact.redactor import Redactor
redactor, text = Redactor(["Zk3vQ9Yw7Tt5Rq"]), sys.argv[1] + sys.argv[2] * int(sys.argv[3])
held = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
limit = held + 40 * len(text)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
redactor.text(text)
"""
    command = [sys.executable, "-c", program, start, unit, str(times)]
    subprocess.run(command, check=True, timeout=120)
