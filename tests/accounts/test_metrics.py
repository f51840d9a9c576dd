"""Prometheus reads what was used; only who may, and only where its package is."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from programs import wait_for
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse
from servers import KEY, Proxy, Reply, Upstream, running_proxy, whole

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database
from llmauth.web.metrics import MAX_MODELS, OTHER

CHAT = "/v1/chat/completions"
USED = {
    "model": "gpt-4o-2024-08-06",
    "usage": {
        "prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 60},
    },
}  # fmt: skip
NAMES = {
    "llmauth_requests_total": {"key", "backend", "code"},
    "llmauth_tokens_total": {"key", "backend", "model", "type"},
    "llmauth_cost_usd_total": {"key", "backend", "model"},
    "llmauth_request_duration_seconds_bucket": {"le"},
    "llmauth_request_duration_seconds_count": set(),
    "llmauth_request_duration_seconds_sum": set(),
    "llmauth_first_byte_seconds_bucket": {"le"},
    "llmauth_first_byte_seconds_count": set(),
    "llmauth_first_byte_seconds_sum": set(),
    "llmauth_requests_in_flight": set(),
    "llmauth_refused_total": {"reason"},
    "llmauth_lockouts_total": set(),
    "llmauth_usage_unknown_total": {"backend"},
}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    opened = Upstream()
    opened.answer = whole(json.dumps(USED).encode(), headers=("Content-Type: application/json",))
    yield opened
    opened.stop()


@pytest.fixture
def root(path: Path) -> str:
    database = Database(path)
    key = KeyBook(database).add("root", {"admin": True})
    KeyBook(database).add("idle", {})
    database.close()
    return key


def test_what_the_documentation_names_is_there():
    docs = Path(__file__).parents[2] / "docs"
    for page in ("deploy.md", "usage.md"):
        named = set(re.findall(r"\bllmauth_[a-z_]+", (docs / page).read_text(encoding="utf-8")))
        told = NAMES.keys() | {name.removesuffix("_bucket") for name in NAMES}
        assert named
        assert named <= told
    assert {name.partition("_bucket")[0] for name in NAMES if not name.endswith(("_sum", "_count"))
            } <= named  # fmt: skip


def ask(proxy: Proxy, key: str | None, **headers: str) -> Reply:
    return proxy.request("GET", "/metrics", headers, key=key)


def samples(reply: Reply) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what Prometheus' own parser reads, by name, then by the values of the labels in the
    order of their names."""
    assert reply.status == 200, reply.body
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(reply.body.decode()):
        for sample in family.samples:
            values = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name, {})[values] = sample.value
            if family.samples:
                assert sample.labels.keys() == NAMES[sample.name], sample
    return found


def chat(proxy: Proxy, key: str = KEY, model: str = "gpt-4o", path: str = CHAT) -> int:
    return proxy.request("POST", path, {}, json.dumps({"model": model}).encode(), key=key).status


def test_the_names_are_those_of_the_documentation_and_the_sums_those_of_the_file(
    upstream, path, root, tmp_path
):
    config = tmp_path / "llmauth.yaml"
    config.write_text("accounts:\n  prices:\n    gpt-4o: {input: 2.5, output: 10}\n")
    environ = {"LLMAUTH_CONFIG": str(config)}
    with running_proxy(upstream, environ, database=str(path), max_failed_attempts=2) as proxy:
        for model in ("gpt-4o", "gpt-4o", "unheard-of"):
            assert chat(proxy, model=model) == 200
        upstream.answer = whole(b"{}", "404 Not Found")
        assert chat(proxy) == 404
        upstream.answer = whole(b"{}")
        assert chat(proxy, root) == 200
        for number in range(3):
            proxy.request("POST", CHAT, key=f"wrong-key-of-someone-{number}", address="127.0.0.9")
        wait_for(
            lambda: samples(ask(proxy, root)).get("llmauth_lockouts_total") == {(): 1},
            "all is written",
        )
        found = samples(ask(proxy, root))
    assert found.keys() == NAMES.keys()
    assert found["llmauth_requests_total"] == {
        ("openai", "200", "default"): 3, ("openai", "404", "default"): 1,
        ("openai", "200", "root"): 1,
    }  # fmt: skip
    tokens = found["llmauth_tokens_total"]
    assert tokens["openai", "default", "gpt-4o", "input"] == 200
    assert tokens["openai", "default", "gpt-4o", "cached_input"] == 120
    assert tokens["openai", "default", "gpt-4o", "output"] == 40
    assert found["llmauth_cost_usd_total"]["openai", "default", "gpt-4o"] == pytest.approx(9e-4)
    assert found["llmauth_usage_unknown_total"] == {("openai",): 1}
    assert found["llmauth_refused_total"] == {
        ("invalid_api_key",): 2, ("too_many_failed_attempts",): 1,
    }  # fmt: skip
    assert found["llmauth_request_duration_seconds_count"] == {(): 5}
    assert found["llmauth_request_duration_seconds_bucket"][("+Inf",)] == 5
    assert found["llmauth_requests_in_flight"] == {(): 0}


def test_totals_outlive_the_process(upstream, path, root):
    for expected in (1, 2):
        with running_proxy(upstream, database=str(path)) as proxy:
            chat(proxy)
            wait_for(
                lambda expected=expected: samples(ask(proxy, root)).get("llmauth_requests_total")
                == {("openai", "200", "default"): expected},
                "it is written",
            )


def test_a_refusal_of_a_limit_has_its_reason(upstream, path, root):
    database = Database(path)
    key = KeyBook(database).add("alice", {"requests_per_minute": 1})
    database.close()
    with running_proxy(upstream, database=str(path)) as proxy:
        assert [chat(proxy, key), chat(proxy, key)] == [200, 429]
        wait_for(
            lambda: samples(ask(proxy, root)).get("llmauth_refused_total")
            == {("rate_limit_exceeded",): 1},
            "it is written",
        )


def test_of_many_models_a_hundred_are_told_apart_and_no_total_ever_falls(upstream, path, root):
    def add(day: str, models: list[str]) -> None:
        with sqlite3.connect(path) as connection:
            connection.executemany(
                "INSERT INTO daily VALUES (?, 'k', 'b', ?, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0)",
                [(day, model) for model in models],
            )
        connection.close()

    def told() -> dict[str, float]:
        tokens = samples(ask(proxy, root))["llmauth_tokens_total"]
        return {model: value for (_, _, model, kind), value in tokens.items() if kind == "input"}

    with running_proxy(upstream, database=str(path)) as proxy:
        add("2026-01-02", [f"m{number}" for number in range(MAX_MODELS - 1)])
        before = told()
        add("2026-01-02", [f"a{number}" for number in range(30)])
        after = told()
        add("2026-01-01", ["earlier"])
        last = told()
    assert len(before) == MAX_MODELS - 1
    assert OTHER not in before
    assert len(after) == MAX_MODELS + 1
    assert after[OTHER] == 29 * 7
    assert last[OTHER] == 30 * 7
    for earlier, later in ((before, after), (after, last)):
        assert all(later[model] >= value for model, value in earlier.items())


@pytest.mark.parametrize(
    ("key", "status", "said"),
    [(None, 401, "wants its proxy key"), (KEY, 403, "is no admin's"), ("idle", 403, "no admin's")],
    ids=["none", "configured", "another"],
)
def test_only_an_admin_may_ask(upstream, path, root, key, status, said):
    if key == "idle":
        database = Database(path)
        key = KeyBook(database).rotate("idle")
        database.close()
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = ask(proxy, key)
        assert (reply.status, said in reply.error["message"]) == (status, True)
        assert ask(proxy, root).status == 200
    assert not upstream.requests


def test_as_a_bypass_path_it_is_for_everybody_and_still_ours(upstream, path, root):
    with running_proxy(upstream, database=str(path), bypass_paths=["/metrics"]) as proxy:
        reply = ask(proxy, None)
    assert reply.status == 200
    assert b"# TYPE llmauth_requests_in_flight gauge" in reply.body
    assert not upstream.requests


def test_no_other_sites_page_reads_it(upstream, path, root):
    page = "https://chat.example"
    with running_proxy(upstream, database=str(path), cors_origins=page) as proxy:
        reply = ask(proxy, root, Origin=page)
    assert reply.header("Access-Control-Allow-Origin") is None


def test_without_a_database_it_is_the_backends_own(upstream):
    with running_proxy(upstream) as proxy:
        assert ask(proxy, KEY).status == 200
    assert upstream.requests[0].target == "/metrics"


def test_without_the_package_it_says_how_to_get_it(upstream, path, root, monkeypatch):
    for module in ("prometheus_client", "prometheus_client.core"):
        monkeypatch.setitem(sys.modules, module, None)
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = ask(proxy, root)
    assert reply.status == 501
    assert "pip install 'llmauth[metrics]'" in reply.error["message"]


def test_long_sums_keep_no_request_waiting(upstream, path, root, monkeypatch):
    """Each has a connection of its own: while one reads, requests are let in and counted."""
    read, reading, go_on = Database._report, threading.Event(), threading.Event()

    def slowly(database: Database, *statement: Any) -> Any:
        reading.set()
        assert go_on.wait(30)
        return read(database, *statement)

    database = Database(path)
    key = KeyBook(database).add("alice", {"requests_per_minute": 100, "tokens_per_day": 10**6})
    database.close()
    with running_proxy(upstream, database=str(path)) as proxy:
        monkeypatch.setattr(Database, "_report", slowly)
        asking = threading.Thread(target=ask, args=(proxy, root))
        asking.start()
        assert reading.wait(30)
        assert [chat(proxy, key) for _ in range(3)] == [200] * 3

        def counted() -> int:
            with closing(sqlite3.connect(path)) as other:
                return other.execute("SELECT count(*) FROM requests").fetchone()[0]

        wait_for(lambda: counted() == 3, "they are counted")
        go_on.set()
        asking.join()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows replaces no open file")
def test_a_file_that_is_replaced_is_the_one_that_is_read(upstream, path, root, tmp_path):
    other = Database(tmp_path / "other.db")
    KeyBook(other).add("root", {"admin": True})
    with sqlite3.connect(path) as connection:
        old = connection.execute("SELECT * FROM secrets WHERE name = 'root'").fetchone()
    with sqlite3.connect(other.path) as connection:
        connection.execute("UPDATE secrets SET digest = ?", (old[0],))
    other.close()
    with running_proxy(upstream, database=str(path)) as proxy:
        chat(proxy)
        wait_for(lambda: "llmauth_requests_total" in samples(ask(proxy, root)), "it is counted")
        for file in path.parent.glob("other.db*"):
            file.replace(path.parent / file.name.replace("other.db", path.name))
        wait_for(lambda: "llmauth_requests_total" not in samples(ask(proxy, root)), "it is read")


def test_open_metrics_for_who_asks_for_it(upstream, path, root):
    with running_proxy(upstream, database=str(path)) as proxy:
        chat(proxy)
        reply = ask(proxy, root, Accept="application/openmetrics-text; version=1.0.0")
    assert reply.header("Content-Type").startswith("application/openmetrics-text")
    assert list(parse_open(reply.body.decode()))


def test_while_the_file_cannot_be_read_it_says_so(upstream, path, root):
    with running_proxy(upstream, database=str(path)) as proxy:
        assert ask(proxy, root).status == 200
        database: Any = proxy.server.state.accounts.database
        database._connection.execute("ALTER TABLE counters RENAME TO lost")
        reply = ask(proxy, root)
        assert (reply.status, reply.header("Retry-After")) == (503, "5")
        assert "database cannot be read" in reply.error["message"]
        database._connection.execute("ALTER TABLE lost RENAME TO counters")
