"""Limits hold exactly, in threads and processes, and go on in memory while the file fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmauth.accounts import limits as limits_module
from llmauth.accounts.keys import StoredKey
from llmauth.accounts.limits import DEFAULT_OUTPUT, MINUTE, SILENCE, Estimate, Limits, Tally
from llmauth.accounts.store import Database
from llmauth.accounts.terms import PERIODS, Terms, period_name
from llmauth.exceptions import LimitReached

NOON = 1_795_694_400.0
"""2026-11-26T12:00:00Z."""


class Clock:
    """Time that stands still until it is moved; the monotonic clock is another one."""

    def __init__(self) -> None:
        self.now = NOON
        self.monotonic_now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.monotonic_now

    def sleep(self, seconds: float) -> None:
        self.monotonic_now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits_module, "time", clock)
    return clock


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "limits.db")
    yield opened
    opened.close()


def sync(limits: Limits, **options: bool) -> None:
    """What the writer does twice a second."""
    with limits.database.transaction():
        limits.sync(**options)
    limits.synced()


def alone(limits: Limits) -> Limits:
    """Have it count in memory."""
    limits.enter(key("somebody", requests_per_minute=10), None)
    sync(limits)
    return limits


@pytest.fixture(params=["in the file", "alone"])
def limits(request, database: Database, clock: Clock) -> Limits:
    limits = Limits(database, "one")
    return alone(limits) if request.param == "alone" else limits


def tally(limits: Limits) -> Tally:
    """Where it is counted."""
    return limits._counts or limits.database


def key(name: str = "alice", **terms: Any) -> StoredKey:
    return StoredKey(name, "1234", NOON, None, None, None, Terms().changed(terms))


@dataclass
class Used:
    """What a request has used in the end."""

    tokens: int
    cost: int = 0
    at: float = NOON

    def write(self, tally: Tally, process: str = "one") -> None:
        tally.add_tokens([("alice", self.at, self.tokens)])
        tally.spend(
            ("alice", period_name(period, self.at), self.tokens, self.cost) for period in PERIODS
        )


def refusal(limits: Limits, stored: StoredKey, estimate: Estimate | None = None) -> LimitReached:
    with pytest.raises(LimitReached) as error:
        limits.enter(stored, estimate)
    return error.value


def headers(refused: LimitReached) -> dict[str, str]:
    return {name.lower(): value for name, value in refused.get_headers()}


def test_requests_are_counted_in_a_moving_minute(limits, clock):
    stored = key(requests_per_minute=3)
    for _ in range(3):
        limits.enter(stored, None)
        clock.now += 10
    refused = refusal(limits, stored)
    assert refused.error_code == "rate_limit_exceeded"
    assert headers(refused) | {
        "retry-after": "30",
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "30s",
    } == headers(refused)
    assert "x-should-retry" not in headers(refused)
    clock.now += 30
    limits.enter(stored, None)
    assert headers(refusal(limits, stored))["retry-after"] == "10"


def test_a_refused_request_is_not_counted(limits, clock):
    stored = key(requests_per_minute=1)
    limits.enter(stored, None)
    for _ in range(5):
        clock.now += 10
        refusal(limits, stored)
    clock.now += 10
    limits.enter(stored, None)


@pytest.mark.parametrize("place", ["in the file", "alone"])
def test_of_many_at_once_exactly_as_many_pass(database, place):
    limits, stored, passed = Limits(database, "one"), key(requests_per_minute=10), []
    if place == "alone":
        alone(limits)
    barrier = threading.Barrier(40)

    def ask() -> None:
        barrier.wait()
        try:
            limits.enter(stored, None)
            passed.append(True)
        except LimitReached:
            pass

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 10


PROCESS = """
import sys
from pathlib import Path
from llmauth.accounts.keys import StoredKey
from llmauth.accounts.limits import Estimate, Limits
from llmauth.accounts.store import Database
from llmauth.accounts.terms import Terms
from llmauth.exceptions import LimitReached
limits = Limits(Database(Path(sys.argv[1])), sys.argv[2])
terms = Terms(requests_per_minute=25, parallel=20, tokens_per_day=15_000)
stored = StoredKey("alice", "1234", 0.0, None, None, None, terms)
passed = {"requests": 0, "held": 0}
for _ in range(40):
    try:
        limits.enter(stored, Estimate(500, 500))
        passed["held"] += 1
    except LimitReached as exc:
        passed[exc.error_code] = passed.get(exc.error_code, 0) + 1
print(passed["held"])
limits.database.close()
"""


def test_processes_that_share_the_file_count_together(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "shared.db")]
    processes = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"
    ]
    held = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(held) == 15  # 15,000 tokens of 1,000 each, before 20 at a time and 25 a minute


def test_parallel_requests_end(limits):
    stored = key(parallel=2)
    holds = [limits.enter(stored, None) for _ in range(2)]
    refused = refusal(limits, stored)
    assert refused.error_code == "too_many_parallel_requests"
    assert headers(refused)["retry-after"] == "1"
    tally(limits).release(holds[:1], "one")
    limits.enter(stored, None)


def test_what_a_dead_process_held_is_released(database, clock):
    stored = key(parallel=1)
    Limits(database, "dead").enter(stored, None)
    limits = Limits(database, "one")
    refusal(limits, stored)
    clock.now += SILENCE + 1
    limits.enter(stored, None)


@pytest.mark.parametrize("back", [-86_400, -10, 10, 86_400])
def test_a_clock_that_is_set_prolongs_nothing_for_more_than_a_minute(limits, clock, back):
    stored = key(requests_per_minute=2, tokens_per_minute=100)
    for _ in range(2):
        limits.enter(stored, Estimate(10, 10))
    Used(80).write(tally(limits))
    clock.now += back
    if back < MINUTE:
        assert float(headers(refusal(limits, stored))["retry-after"]) <= MINUTE
    clock.now += MINUTE + 1
    limits.enter(stored, None)


@pytest.mark.parametrize(
    ("used", "estimate", "held"),
    [
        (0, Estimate(100, 200), 300),
        (0, Estimate(100, None), 1000),
        (700, Estimate(100, 200), 300),
        (700, Estimate(100, None), 300),
        (999, Estimate(1, 0), 1),
    ],
    ids=["said", "default, up to what is left", "said, fits", "the rest", "the last one"],
)
@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_tokens_are_held_in_advance(limits, limit, used, estimate, held):
    if used:
        Used(used).write(tally(limits))
    limits.enter(key(**{limit: 1000}), estimate)
    assert tally(limits).held("alice").tokens == held


def test_without_a_small_limit_the_default_is_held(limits):
    limits.enter(key(tokens_per_day=10**6), Estimate(100, None))
    assert tally(limits).held("alice").tokens == 100 + DEFAULT_OUTPUT


@pytest.mark.parametrize(
    ("used", "estimate"),
    [(1000, Estimate(0, None)), (1200, Estimate(0, 0)), (500, Estimate(501, None)),
     (500, Estimate(100, 401)), (0, Estimate(0, 1001))],
    ids=["used up", "overdrawn", "long prompt", "long answer", "never possible"],
)  # fmt: skip
def test_tokens_of_the_day_are_used_up(limits, used, estimate):
    Used(used).write(tally(limits))
    refused = refusal(limits, key(tokens_per_day=1000), estimate)
    assert refused.error_code == "insufficient_quota"
    assert headers(refused)["x-should-retry"] == "false"
    assert headers(refused)["retry-after"] == str(12 * 3600)
    assert f"{used} of 1000 tokens this day" in refused.description
    assert "begins anew on 2026-11-27T00:00:00Z" in refused.description


def test_the_next_day_begins_anew(limits, clock):
    Used(1000).write(tally(limits))
    stored = key(tokens_per_day=1000)
    refusal(limits, stored, Estimate(1, 1))
    clock.now += 12 * 3600
    limits.enter(stored, Estimate(1, 1))


def test_tokens_of_a_minute_come_back_one_by_one(limits, clock):
    for at, tokens in ((NOON - 50, 300), (NOON - 30, 300), (NOON - 10, 300)):
        Used(tokens, at=at).write(tally(limits))
    stored = key(tokens_per_minute=1000)
    refused = refusal(limits, stored, Estimate(100, 400))
    assert refused.error_code == "rate_limit_exceeded"
    assert headers(refused)["retry-after"] == "30"
    assert headers(refused)["x-ratelimit-limit-tokens"] == "1000"
    assert headers(refused)["x-ratelimit-remaining-tokens"] == "100"
    clock.now += 30
    limits.enter(stored, Estimate(100, 400))


def test_what_never_fits_into_a_minute_is_not_worth_another_try(limits):
    refused = refusal(limits, key(tokens_per_minute=1000), Estimate(100, 5000))
    assert headers(refused)["x-should-retry"] == "false"
    assert "retry-after" not in headers(refused)
    assert "max_tokens" in refused.description


@pytest.mark.parametrize(
    ("period", "retry_after"),
    [("day", "43200"), ("week", str(3 * 86_400 + 43_200)), ("month", str(4 * 86_400 + 43_200)),
     ("total", None)],
)  # fmt: skip
def test_a_budget_is_used_up(limits, period, retry_after):
    stored = key(budget=f"20/{period}")
    limits.enter(stored, Estimate(10, 10, 2500, 10_000))
    Used(5, 20 * 10**9).write(tally(limits))
    refused = refusal(limits, stored, Estimate(10, 10, 2500, 10_000))
    assert refused.error_code == "insufficient_quota"
    assert headers(refused).get("retry-after") == retry_after
    assert "$20.00 of $20.00" in refused.description


def test_dollars_are_held_by_the_models_price(limits):
    stored = key(budget="1/day")
    limits.enter(stored, Estimate(1000, 500, 2500, 10_000))
    assert tally(limits).held("alice").cost == 1000 * 2500 + 500 * 10_000
    refused = refusal(limits, stored, Estimate(1000, 100_000, 2500, 10_000))
    assert "may need more than is left" in refused.description


def test_parallel_requests_do_not_overdraw(limits):
    """Of those that may each use a tenth, ten run."""
    stored, passed = key(tokens_per_day=1000), 0
    for _ in range(20):
        try:
            limits.enter(stored, Estimate(50, 50))
            passed += 1
        except LimitReached:
            break
    assert passed == 10


def test_what_another_pays_for_counts_as_a_request_only(limits):
    stored = key(tokens_per_day=10, parallel=1, budget="0.01/day")
    limits.enter(stored, None)
    assert tally(limits).held("alice") == (1, 0, 0)


def test_limits_go_on_in_memory_while_the_file_is_locked(tmp_path, database, clock, caplog):
    limits = Limits(database, "one")
    Used(900).write(database)
    stored = key(tokens_per_day=1000, requests_per_minute=3)
    limits.enter(stored, Estimate(1, 1))
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    limits.enter(stored, Estimate(49, 49))
    assert limits.failing
    assert "the database fails (database is locked)" in caplog.text
    refused = refusal(limits, stored, Estimate(1, 1))  # what was used before still counts
    assert refused.error_code == "insufficient_quota"
    limits.enter(key(requests_per_minute=3), None)
    refusal(limits, key(requests_per_minute=3))
    other.execute("ROLLBACK")
    other.close()
    sync(limits)
    assert not limits.failing
    # What was counted meanwhile is in the file now, or will be when it is worth while.
    assert tally(limits).held("alice").requests == 2
    assert database.window("llmauth/requests/alice", clock.now, MINUTE)[1] == 3


class Failing:
    """A store of requests a minute that can be made to fail."""

    def __init__(self) -> None:
        self.fails = False
        self.counted = 0

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        if self.fails:
            raise ConnectionError
        self.counted += 1
        return self.counted <= limit

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return NOON - 20, limit


def test_requests_are_counted_in_the_shared_store_and_in_the_file_while_that_fails(
    database, clock
):
    store = Failing()
    limits, stored = Limits(database, "one", store, (ConnectionError,)), key(requests_per_minute=2)
    for _ in range(2):
        limits.enter(stored, None)
    assert headers(refusal(limits, stored))["retry-after"] == "40"
    store.fails = True
    for _ in range(2):
        limits.enter(stored, None)
    assert headers(refusal(limits, stored))["retry-after"] == str(MINUTE)


def test_what_is_used_is_shown(limits):
    Used(120, 10**9 // 2).write(tally(limits))
    stored = key(
        requests_per_minute=5, tokens_per_minute=500, tokens_per_day=1000, parallel=3,
        budget="20/month",
    )  # fmt: skip
    limits.enter(stored, Estimate(10, 10))
    assert limits.used(stored) == {
        "requests_per_minute": 1,
        "tokens_per_minute": 120,
        "tokens_per_day": 120,
        "parallel": 1,
        "budget": "0.5/month",
    }


