"""What is going on, as the page at /dashboard asks for it: true figures, of bounded size."""

from __future__ import annotations

import functools
import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from servers import KEY, running_proxy

from llmauth.accounts import overview
from llmauth.accounts.keys import Directory, KeyBook
from llmauth.accounts.store import TOTALS, Database, RequestRow
from llmauth.accounts.terms import NANO, PERIODS, period_name

NOW = 1_800_000_000.0  # 2027-01-15, a Friday


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "keys.db")


def row(key: str = "alice", model: str = "gpt-4o", ago: float = 0.0, **more: Any) -> RequestRow:
    values: dict[str, Any] = {
        "at": NOW - ago * 86_400, "key": key, "backend": "openai", "model": model, "status": 200,
        "ended": "complete", "streamed": False, "input": 100, "cached": None, "written": None,
        "output": 20, "reasoning": None, "cost": NANO, "estimated": False, "ms": 900,
        "first_ms": 300,
    }  # fmt: skip
    return RequestRow(**values | more)


def add(database: Database, *rows: RequestRow) -> None:
    with database.transaction():
        database.add_requests((period_name("day", one.at), one) for one in rows)


def figures(database: Database, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"by": "key", "since": "2027-01-09", "until": "2027-01-15"}
    return overview.figures(database, **asked | more)


def names_of(keys: int) -> list[str]:
    return [f"key-{number:02}" for number in range(keys)]


def test_days_tell_the_largest_keys_apart_and_the_rest_as_one(database):
    for number, name in enumerate(names_of(10)):
        add(database, *[row(name, cost=(number + 1) * NANO)] * 2, row(name, ago=1, cost=NANO))
    found = figures(database)
    assert found["series"] == [f"key-{number:02}" for number in range(9, 1, -1)]
    days = {(one["day"], one["key"]): one for one in found["days"]}
    assert days["2027-01-15", "key-09"]["cost_usd"] == 20.0
    assert days["2027-01-15", None]["cost_usd"] == 6.0
    assert days["2027-01-14", None]["requests"] == 2
    assert len(days) == 18
    assert found["totals"]["requests"] == 30
    assert found["totals"]["cost_usd"] == 120.0


def test_of_today_the_week_is_told_as_well_but_not_summed(database):
    add(database, row(), row(ago=1), row(ago=6), row(ago=7))
    found = figures(database, since="2027-01-15")
    assert [one["day"] for one in found["days"]] == ["2027-01-09", "2027-01-14", "2027-01-15"]
    assert found["totals"]["requests"] == 1
    assert found["models"][0]["requests"] == 1


@pytest.mark.parametrize("name", ["alice", "ALICE"])
def test_one_key_gets_its_own_figures_only(database, name):
    add(database, row("alice"), row("bob", "o3"), row("bob", "o3"))
    found = figures(database, by="model", key=name)
    assert found["totals"]["requests"] == 1
    assert [one["model"] for one in found["models"]] == ["gpt-4o"]
    assert found["series"] == ["gpt-4o"]


def test_without_requests_there_are_zeros(database):
    found = figures(database)
    assert (found["totals"]["requests"], found["totals"]["cost_usd"]) == (0, 0.0)
    assert (found["days"], found["series"], found["models"]) == ([], [], [])


def test_models_have_the_median_of_the_last_days_first_bytes(database):
    add(
        database,
        *(row(first_ms=first) for first in (100, 200, 900)),
        row(first_ms=9000, ago=1.1),
        row(first_ms=9000, status=500),
        row(model="o3", first_ms=None),
        row(model="o3", first_ms=None, backend="azure"),
    )
    models = {one["model"]: one for one in figures(database)["models"]}
    assert (models["gpt-4o"]["first_byte_ms"], models["o3"]["first_byte_ms"]) == (200, None)
    assert models["o3"]["requests"] == 2


def test_models_without_a_price_and_usage_that_is_unknown_are_named(database):
    add(
        database,
        row(cost=None),
        row(model="o3"),
        row(model="o3", backend="vllm", input=None, output=None, cost=None),
        row(model="bad", status=500, input=None, output=None, cost=None),
    )
    found = figures(database)
    assert found["unpriced"] == {"gpt-4o": 1, "o3": 1}
    assert found["unknown"] == {"vllm": 1}


def test_however_many_models_and_requests_there_are_so_many_are_told(database):
    add(database, *(row(model=f"model-{number}") for number in range(200)))
    found = figures(database, by="model")
    assert len(found["models"]) == overview.MODELS
    assert len(found["days"]) == overview.SERIES + 1
    assert sum(one["requests"] for one in found["days"]) == 200
    assert len(overview.latest(database)) == overview.REQUESTS


def test_the_last_requests_come_first(database):
    ended = "refused: insufficient_quota"
    add(database, row(ago=1), row("bob", status=429, ended=ended, input=None, cost=None))
    latest = overview.latest(database)
    assert [one["key"] for one in latest] == ["bob", "alice"]
    assert latest[0]["at"] == "2027-01-15T08:00:00Z"
    assert (latest[0]["ended"], latest[0]["input_tokens"]) == (ended, None)
    assert [one["key"] for one in overview.latest(database, "alice")] == ["alice"]


NEARLY = {
    "budget": ({"budget": "20/month"}, "17/month"),
    "tokens_per_day": ({"tokens_per_day": 1000}, 850),
    "tokens_per_minute": ({"tokens_per_minute": 1000}, 850),
    "requests_per_minute": ({"requests_per_minute": 10}, 9),
    "parallel": ({"parallel": 2}, 2),
}


def use(database: Database, key: str, dollars: int, tokens: int, requests: int, held: int) -> None:
    with database.transaction():
        names = [period_name(period, NOW) for period in PERIODS]
        database.spend((key, name, tokens, dollars * NANO) for name in names)
        database.add_tokens([(key, NOW - 5, tokens)])
        database.add_entries([(f"llmauth/requests/{key}", NOW)] * requests)
        for _ in range(held):
            database.hold("process", key, 1, 1)


def keys_of(database: Database) -> list[Any]:
    directory = Directory()
    directory.load(database)
    return list(directory.keys.values())


@pytest.mark.parametrize(("terms", "used"), NEARLY.values(), ids=NEARLY)
def test_a_limit_is_named_once_more_than_four_fifths_are_used(database, terms, used):
    book = KeyBook(database)
    for name in ("alice", "bob", "paused"):
        book.add(name, terms)
    book.add("free", {})
    book.change("paused", {"paused": True})
    for name in ("alice", "paused", "free"):
        use(database, name, 17, 850, 9, 2)
    use(database, "bob", 16, 800, 8, 1)
    (limit,) = terms
    assert overview.near_limits(database, keys_of(database)) == [
        {"kind": "limit", "key": "alice", "limit": limit, "used": used, "of": terms[limit]}
    ]


def test_keys_that_expire_within_a_week_are_named(database):
    book = KeyBook(database)
    for name, days in (("c", 8), ("b", 6), ("a", 2), ("gone", 3)):
        book.add(name, {"expires": f"{days}d"})
    book.revoke("gone")
    assert [one["key"] for one in overview.ending(keys_of(database))] == ["a", "b"]


def test_all_tables_of_totals_say_the_same(database):
    rows = [row(f"key-{n % 7}", f"model-{n % 3}", n % 5, cost=n, input=n) for n in range(200)]
    add(database, *rows[:100])
    add(database, *rows[100:])
    days = ("2027-01-01", "2027-01-15")
    for by in (["day", "key"], ["day", "backend", "model"], ["key"], ["model"], ["day"], []):
        whole: dict[Any, list[int]] = {}
        for day, key, backend, model, *sums in database.totals(
            ["day", "key", "backend", "model"], *days, None
        ):
            named = {"day": day, "key": key, "backend": backend, "model": model}
            group = tuple(named[name] for name in by)
            before = whole.get(group, [0] * len(TOTALS))
            whole[group] = [a + b for a, b in zip(before, sums, strict=True)]
        found = {one[: len(by)]: [*one[len(by) :]] for one in database.totals(by, *days, None)}
        assert found == whole


def test_what_is_read_does_not_grow_with_the_requests(tmp_path):
    """Steps of SQLite's machine: as many for a hundred requests a key and day as for one."""
    few, many = (Database(tmp_path / f"{each}.db") for each in (1, 100))
    rows = [row(name, ago=ago) for name in names_of(12) for ago in range(30)]
    add(few, *rows)
    add(many, *rows * 100)
    dates = ("2027-01-15", "2027-01-09", "2026-12-17")
    for since, by in itertools.product(dates, ("key", "model")):
        asked = [functools.partial(figures, one, by=by, since=since) for one in (few, many)]
        steps = [*map(_steps, asked)]
        assert steps[1] < steps[0] * 1.2 + overview.TIMED * 20, (since, by)


def _steps(action: Any) -> int:
    """Count what SQLite does, by tens, on all connections that are opened meanwhile."""
    counted = 0
    connect = sqlite3.connect

    def count() -> int:
        nonlocal counted
        counted += 10
        return 0

    def counting(*given: Any, **more: Any) -> sqlite3.Connection:
        connection = connect(*given, **more)
        connection.set_progress_handler(count, 10)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", counting)
        action()
    return counted


@pytest.fixture
def many(tmp_path: Path) -> Path:
    database = Database(tmp_path / "many.db")
    book = KeyBook(database)
    for number in range(120):
        book.add(f"key-{number:03}", {"note": "odd" if number % 2 else "even"})
    database.close()
    return tmp_path / "many.db"


def test_keys_are_found_by_name_or_note_and_only_so_many_are_told(many, monkeypatch):
    monkeypatch.undo()
    database = Database(many)
    root = KeyBook(database).add("root", {"admin": True})
    KeyBook(database).revoke("key-001")
    with database.transaction():
        database.note_used([("key-003", 1_790_000_000.0)])
    database.close()
    with running_proxy(None, default_backend="echo", database=str(many)) as proxy:

        def ask(query: str) -> dict[str, Any]:
            return proxy.request("GET", f"/-/keys{query}", key=root).json()

        assert (len(ask("")["keys"]), ask("")["number"]) == (121, 121)
        odd = ask("?find=ODD&limit=3")
        assert [one["name"] for one in odd["keys"]] == ["key-003", "key-005", "key-007"]
        assert odd["keys"][0]["last_used"] == "2026-09-21T14:13:20Z"
        assert odd["number"] == 60
        assert [one["name"] for one in ask("?find=odd&limit=100")["keys"]][-1] == "key-001"
        reply = proxy.request("GET", "/-/keys?limit=few", key=root)
        assert (reply.status, "limit: 'few'" in reply.json()["error"]["message"]) == (400, True)


def test_an_admin_sees_all_and_others_only_themselves(many, monkeypatch):
    monkeypatch.undo()
    database = Database(many)
    book = KeyBook(database)
    root, alice = book.add("root", {"admin": True}), book.add("alice", {"expires": "2d"})
    with database.transaction():
        database.note_blocks([("203.0.113.9", time.time() + 60)])
    now = period_name("day", time.time())
    with database.transaction():
        database.add_requests(
            (now, row(name, at=time.time())) for name in ("root", "alice", "default", "key-001")
        )
    database.close()
    with running_proxy(None, default_backend="echo", database=str(many)) as proxy:
        seen = {
            name: proxy.request("GET", "/-/overview", key=key).json()
            for name, key in (("root", root), ("alice", alice), ("default", KEY))
        }
    for name, number in (("root", 4), ("alice", 1), ("default", 1)):
        assert (seen[name]["name"], seen[name]["totals"]["requests"]) == (name, number)
        assert len(seen[name]["requests"]) == number
    assert seen["root"]["attention"]["lockout"]["first"][0]["address"] == "203.0.113.9"
    assert seen["root"]["attention"]["expiry"]["number"] == 1
    assert list(seen["alice"]["attention"]) == ["expiry"]
    assert seen["alice"]["key"]["name"] == "alice"
    assert "key" not in seen["default"]
    assert seen["default"]["attention"] == {}


def test_a_database_that_fails_is_said_in_words_and_needs_attention(many, monkeypatch):
    monkeypatch.undo()
    root = KeyBook(Database(many)).add("root", {"admin": True})
    with running_proxy(None, default_backend="echo", database=str(many)) as proxy:
        assert proxy.request("GET", "/-/overview", key=root).status == 200
        with sqlite3.connect(many) as connection:
            connection.execute("ALTER TABLE daily RENAME TO weekly")
            connection.execute("ALTER TABLE daily_models RENAME TO weekly_models")
        reply = proxy.request("GET", "/-/overview", key=root)
    assert (reply.status, reply.header("retry-after")) == (503, "5")
    assert "The database fails (no such table" in reply.json()["error"]["message"]
