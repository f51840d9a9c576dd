"""Asking the server: one's own usage, and the keys, for who may manage them."""

from __future__ import annotations

import csv
import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import wait_for
from servers import KEY, Proxy, Reply, Upstream, running_proxy, whole

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.report import remaining
from llmauth.accounts.store import Database
from llmauth.accounts.terms import Terms

CHAT = "/v1/chat/completions"
PAGE = "https://chat.example"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    opened = Upstream()
    body = json.dumps(
        {"model": "gpt-4o-2024-08-06", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}
    ).encode()
    opened.answer = whole(body, headers=("Content-Type: application/json",))
    yield opened
    opened.stop()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    database = Database(tmp_path / "keys.db")
    book = KeyBook(database)
    made = {
        "root": book.add("root", {"admin": True}),
        "alice": book.add("alice", {"tokens_per_day": 1000, "budget": "20/month"}),
        "bob": book.add("bob", {}),
    }
    database.close()
    return made


@pytest.fixture
def proxy(upstream: Upstream, keys: dict[str, str], tmp_path: Path) -> Iterator[Proxy]:
    settings = {"database": str(tmp_path / "keys.db"), "cors_origins": PAGE}
    with running_proxy(upstream, max_failed_attempts=3, **settings) as running:
        yield running


def ask(proxy: Proxy, key: str, method: str, path: str, body: Any = None) -> Reply:
    data = None if body is None else json.dumps(body).encode()
    return proxy.request(method, path, {"Content-Type": "application/json"}, data, key=key)


def chat(proxy: Proxy, key: str, model: str = "gpt-4o") -> None:
    assert ask(proxy, key, "POST", CHAT, {"model": model}).status == 200


def totals(proxy: Proxy, key: str, query: str = "") -> dict[str, Any]:
    return ask(proxy, key, "GET", f"/-/usage{query}").json()["totals"]


def test_ones_own_usage_limits_and_what_is_left(proxy, keys):
    for name in ("alice", "alice", "bob"):
        chat(proxy, keys[name])
    wait_for(lambda: totals(proxy, keys["alice"])["requests"] == 2, "they are written")
    answer = ask(proxy, keys["alice"], "GET", "/-/usage").json()
    assert answer["totals"] == {
        "requests": 2, "errors": 0, "input_tokens": 200, "cached_input_tokens": 0,
        "cache_write_tokens": 0, "output_tokens": 40, "reasoning_tokens": 0, "cost_usd": None,
        "estimated_requests": 0, "unknown_requests": 0,
    }  # fmt: skip
    assert answer["unpriced_models"] == ["gpt-4o"]
    assert answer["key"]["name"] == "alice"
    assert answer["key"]["tokens_per_day"] == 1000
    assert answer["key"]["used"]["tokens_per_day"] == 240
    assert answer["key"]["hint"] == keys["alice"][-4:]
    assert answer["key"]["left"] == {"tokens_per_day": 760, "budget": "20/month"}
    assert answer["key"]["resets"].keys() == {"tokens_per_day", "budget"}


def test_what_is_left_of_each_limit_and_when_it_begins_anew():
    terms = Terms().changed({
        "requests_per_minute": 10, "tokens_per_minute": 100, "tokens_per_day": 1000, "parallel": 2,
        "budget": "20/week",
    })  # fmt: skip
    used = {
        "requests_per_minute": 3, "tokens_per_minute": 120, "tokens_per_day": 1, "parallel": 2,
        "budget": "6.000000001/week",
    }  # fmt: skip
    friday = 1_764_288_000.0  # 2025-11-28
    assert remaining(terms, used, friday) == {
        "left": {
            "requests_per_minute": 7, "tokens_per_minute": 0, "tokens_per_day": 999, "parallel": 0,
            "budget": "13.999999999/week",
        },
        "resets": {"tokens_per_day": "2025-11-29T00:00:00Z", "budget": "2025-12-01T00:00:00Z"},
    }  # fmt: skip
    total = terms.changed({"budget": "5/total"})
    assert remaining(total, {"budget": "7.5/total"}, friday) == {
        "left": {"budget": "0/total"}, "resets": {"budget": None},
    }  # fmt: skip


def test_an_admin_sees_all_and_others_only_themselves(proxy, keys):
    chat(proxy, keys["alice"])
    chat(proxy, keys["bob"], "o3")
    chat(proxy, KEY)
    wait_for(lambda: totals(proxy, keys["root"])["requests"] == 3, "they are written")
    answer = ask(proxy, keys["root"], "GET", "/-/usage?by=key,model").json()
    rows = [(row["key"], row["model"], row["input_tokens"]) for row in answer["rows"]]
    assert rows == [("alice", "gpt-4o", 100), ("bob", "o3", 100), ("default", "gpt-4o", 100)]
    own = ask(proxy, keys["bob"], "GET", "/-/usage?by=key,model").json()["rows"]
    assert [row["key"] for row in own] == ["bob"]
    assert ask(proxy, KEY, "GET", "/-/usage").json()["totals"]["requests"] == 1


def test_as_csv(proxy, keys):
    chat(proxy, keys["alice"])
    wait_for(lambda: totals(proxy, keys["alice"])["requests"] == 1, "it is written")
    reply = ask(proxy, keys["root"], "GET", "/-/usage?by=model&format=csv")
    rows = list(csv.DictReader(io.StringIO(reply.body.decode())))
    assert [(row["model"], row["input_tokens"], row["cost_usd"]) for row in rows] == [
        ("gpt-4o", "100", "")
    ]
    assert reply.header("Content-Type").startswith("text/csv")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?by=colour", "by: 'colour' is none of day, key, backend, model"),
        ("?since=yore", "since: 'yore' is no day"),
        ("?until=2026-13-01", "until: '2026-13-01' is no day"),
        ("?format=xml", "format: 'xml' is neither"),
        ("?group=key", "group: unknown. There are by, since, until, format"),
    ],
)
def test_what_cannot_be_asked(proxy, keys, query, said):
    refused(ask(proxy, keys["alice"], "GET", f"/-/usage{query}"), said)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?by=day", "by: 'day' is neither key nor model"),
        ("?since=yore", "since: 'yore' is no day"),
        ("?key=bob", "key: unknown. There are by, since, until"),
    ],
)
def test_what_no_overview_can_be_asked_for(proxy, keys, query, said):
    refused(ask(proxy, keys["alice"], "GET", f"/-/overview{query}"), said)


def refused(reply: Reply, said: str) -> None:
    assert reply.status == 400
    assert said in reply.json()["error"]["message"]


def test_an_admin_makes_changes_rotates_and_revokes_keys(proxy, keys, caplog):
    caplog.set_level(logging.INFO)
    root = keys["root"]
    made = ask(proxy, root, "POST", "/-/keys", {"name": "carol", "models": ["gpt-4o*"]})
    assert made.status == 201
    assert made.header("Cache-Control") == "no-store"
    key = made.json()["key"]
    assert made.json()["models"] == ["gpt-4o*"]
    chat(proxy, key)
    changed = ask(proxy, root, "PATCH", "/-/keys/carol", {"models": None, "parallel": 2})
    assert (changed.json()["models"], changed.json()["parallel"]) == ([], 2)
    assert "key" not in changed.json()
    assert ask(proxy, root, "PATCH", "/-/keys/carol", {"paused": True}).json()["state"] == "paused"
    assert ask(proxy, key, "POST", CHAT, {}).status == 401
    ask(proxy, root, "PATCH", "/-/keys/carol", {"paused": False})
    new = ask(proxy, root, "POST", "/-/keys/carol/rotate", {"overlap": "1h"}).json()["key"]
    for one in (key, new):
        chat(proxy, one)
    assert ask(proxy, root, "DELETE", "/-/keys/carol").json()["state"] == "revoked"
    assert ask(proxy, new, "POST", CHAT, {}).status == 401
    listed = ask(proxy, root, "GET", "/-/keys").json()["keys"]
    assert [one["name"] for one in listed] == ["alice", "bob", "carol", "root"]
    for done in ("added", "changed", "rotated", "revoked"):
        assert f"'root' {done} 'carol'" in caplog.text
    assert key[8:] not in caplog.text
    assert new[8:] not in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"name": "alice"}, 409, "There is a key 'alice' already"),
        ({"name": "default"}, 409, "environment"),
        ({}, 400, "name: is missing"),
        ({"name": 7}, 400, "name: is missing"),
        ({"name": "a b"}, 400, "cannot name a key"),
        ({"name": "x", "rpm": 3}, 400, "rpm: unknown"),
        ({"name": "x", "parallel": 0}, 400, "parallel: '0'"),
        ({"name": "x", "expires": "2020-01-01"}, 400, "is past"),
        ([], 400, "no JSON object"),
        ("text", 400, "no JSON object"),
    ],
)
def test_what_no_key_can_be_made_of(proxy, keys, body, status, said):
    reply = ask(proxy, keys["root"], "POST", "/-/keys", body)
    assert reply.status == status
    assert said in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/-/keys/nobody", {}),
        ("DELETE", "/-/keys/nobody", None),
        ("POST", "/-/keys/nobody/rotate", {}),
        ("DELETE", "/-/lockouts/203.0.113.9", None),
        ("GET", "/-/secrets", None),
        ("GET", "/-/", None),
    ],
)
def test_what_there_is_not(proxy, keys, upstream, method, path, body):
    assert ask(proxy, keys["root"], method, path, body).status == 404
    assert upstream.requests == []


PATHS = [
    ("GET", "/-/keys"), ("POST", "/-/keys"), ("PATCH", "/-/keys/alice"),
    ("DELETE", "/-/keys/alice"), ("POST", "/-/keys/alice/rotate"), ("GET", "/-/lockouts"),
    ("DELETE", "/-/lockouts/127.0.0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("name", ["alice", "default"])
def test_without_an_admins_key_nothing_is_managed(proxy, keys, method, path, name):
    key = keys.get(name, KEY)
    reply = ask(proxy, key, method, path, {"name": "x"})
    assert (reply.status, reply.json()["error"]["code"]) == (403, "admin_not_allowed")
    assert ask(proxy, keys["root"], "GET", "/-/keys").json()["keys"][0]["state"] == "active"


@pytest.mark.parametrize(("method", "path"), [*PATHS, ("GET", "/-/usage"), ("GET", "/-/overview")])
@pytest.mark.parametrize("carrier", ["x-api-key", "X-Proxy-Api-Key", "api-key"])
def test_the_key_comes_as_no_page_of_another_site_can_send_it(proxy, keys, method, path, carrier):
    reply = proxy.request(method, path, {carrier: keys["root"]}, b"{}", key=None)
    assert (reply.status, reply.json()["error"]["code"]) == (403, "key_not_allowed")


@pytest.mark.parametrize("path", ["/-/usage", "/-/keys", "/-/overview"])
def test_cors_opens_none_of_it(proxy, keys, path):
    asking = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    preflight = proxy.request("OPTIONS", path, asking, key=None)
    assert preflight.status == 401
    reply = proxy.request("GET", path, {"Origin": PAGE}, key=keys["root"])
    for answer in (preflight, reply):
        assert answer.header("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    "path",
    ["//-/keys", "///-/keys", "http://proxy//-/keys", "//-//keys", "/-//keys", "/-/keys//x"],
)
def test_no_other_way_to_write_the_path_leads_there_or_to_a_provider(proxy, keys, upstream, path):
    asking = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for method in ("GET", "POST", "PATCH", "DELETE"):
        reply = proxy.request(method, path, {"Origin": PAGE}, b'{"name":"x"}', key=keys["root"])
        assert reply.status == 404
        assert reply.json()["error"]["code"] in ("not_found", "unknown_route")
    proxy.request("OPTIONS", path, asking, key=None)
    assert upstream.requests == []
    assert "x" not in str(ask(proxy, keys["root"], "GET", "/-/keys").json()["keys"][-1]["name"])


def test_without_a_database_it_says_how_to_get_one(upstream):
    with running_proxy(upstream) as proxy:
        reply = proxy.request("GET", "/-/usage")
    assert reply.status == 404
    assert "LLMAUTH_DATABASE" in reply.json()["error"]["message"]


def test_an_address_is_let_in_again(proxy, keys):
    away = "127.0.0.9"

    def guess(key: str) -> int:
        return proxy.request("POST", CHAT, {}, b"{}", key=key, address=away).status

    assert [guess(f"wrong-key-number-{number}") for number in range(4)] == [401, 401, 401, 429]

    def locked() -> list[str]:
        found = ask(proxy, keys["root"], "GET", "/-/lockouts").json()["lockouts"]
        return [one["address"] for one in found]

    wait_for(lambda: locked() == [away], "it is listed")
    assert ask(proxy, keys["root"], "DELETE", f"/-/lockouts/{away}").status == 200
    wait_for(lambda: guess(KEY) == 200, "it is let in")
    assert locked() == []


def test_while_another_program_holds_the_database_admins_are_told_so(
    proxy, keys, tmp_path, monkeypatch
):
    monkeypatch.setattr("llmauth.accounts.keys._PATIENCE", 0.05)
    other = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        reply = ask(proxy, keys["root"], "POST", "/-/keys", {"name": "carol"})
        assert reply.status == 503
        assert "nothing was changed" in reply.json()["error"]["message"]
        assert reply.header("Retry-After") == "5"
        assert ask(proxy, keys["root"], "GET", "/-/keys").status == 200
        assert ask(proxy, keys["alice"], "GET", "/-/usage").status == 200
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert ask(proxy, keys["root"], "POST", "/-/keys", {"name": "carol"}).status == 201
