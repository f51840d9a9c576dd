"""What is remembered of requests is bounded in bytes: clients choose how long their texts are."""

from __future__ import annotations

import functools
import gc
import tracemalloc
from urllib.parse import urlsplit

from attack import send

import llmauth.capture.writer  # noqa: F401  the other process, whose modules have caches, too
from llmauth.accounts.asked import Asked, read_request
from llmauth.accounts.grant import Sent
from llmauth.auth.client_address import Clients
from llmauth.config.addresses import parse_address, parse_network
from llmauth.http.codings import only_decodable
from llmauth.proxy.headers import request_headers
from llmauth.redact.forms import levels
from llmauth.redact.front_proxies import kind_of


def asked_with(body):
    return read_request("POST", "/v1/chat/completions", "", {}, body, len(body))


def sent_to(path):
    return Sent(
        key="alice",
        secret=None,
        backend="openai",
        base_url="",
        method="POST",
        path=path,
        model="",
        asked=Asked(),
        is_ours=True,
    )


CLIENTS = Clients(trusted_proxies=[parse_network("127.0.0.0/8")])

DOORS = {
    "_names": lambda text: request_headers({f"HTTP_{text}": "x"}, via="1.1 x"),
    "_kind_of": kind_of,
    "_parsed": parse_address,
    "Clients._counted_as": lambda text: CLIENTS.counted_as(CLIENTS.address("127.0.0.1", text)),
    "_target": lambda text: read_request("GET", f"/{text}", "", {}, None, 0),
    "_member": lambda text: asked_with(f'{{"{text}": 1}}'.encode()),
    "_is_free": lambda text: sent_to(f"/{text}").asks_a_model,
    "only_decodable": only_decodable,
    "_decoded": lambda text: [level.text for level in levels(f"%{text}\\u{text}&{text};")],
}
"""Through which a client's text comes to each cache of the package."""

OTHERS = {"_is_credential", "_is_public", "_period_names", "_spelling", "_tell_of_tls"}
"""Of a bound that the redactor's own tests show, of the backends, of a few days, of an entry for
each byte, and of no argument."""

END = b"Host: proxy\r\nConnection: close\r\n\r\n"
LENGTHS = (16, 32, 50, 64, 128, 256, 4096, 65_536)
TEXTS = [
    text.format("a" * length)
    for length in LENGTHS
    for text in ("{}", "X-{}", "[::1%{}]", "::1%{}", "1.2.3.4:{}", "1.2.3.4,{}", "00ff{}", "#1{}")
]


def caches():
    gc.unfreeze()  # what was there before the tests: see conftest.py
    found = [one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper)]
    gc.freeze()
    return [cache for cache in found if cache.__module__.startswith("llmauth.")]


def test_every_cache_of_the_package_is_looked_at_here():
    assert {cache.__qualname__ for cache in caches()} == DOORS.keys() | OTHERS


def test_all_caches_full_of_the_largest_entries_that_clients_can_make_hold_little():
    """Measured without a bound: 62 MB for 1,024 names of headers, before any key is checked."""
    worst = {}
    for cache in caches():
        largest = 0
        for text in TEXTS if cache.__qualname__ in DOORS else ():
            DOORS[cache.__qualname__](text)  # what else it makes once is no part of the cache
            cache.cache_clear()
            tracemalloc.start()
            DOORS[cache.__qualname__](text)
            largest = max(largest, tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
        worst[cache.__qualname__] = largest * (cache.cache_parameters()["maxsize"] or 1)
    assert sum(worst.values()) < 16 * 2**20, worst


def test_the_target_of_a_request_is_not_remembered_by_the_standard_library(proxy):
    urlsplit.cache_clear()
    send(proxy.port, b"GET http://proxy/%b HTTP/1.1\r\n%b" % (b"a" * 60_000, END))
    assert urlsplit.cache_info().currsize == 0
