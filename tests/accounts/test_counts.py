"""A process that is alone counts in memory, and no request passes that would not by the file."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import get
from programs import Program, llmauth, wait_for

from llmauth.accounts import accounts as accounts_module
from llmauth.accounts import limits as limits_module
from llmauth.accounts.accounts import Accounts
from llmauth.accounts.asked import Asked
from llmauth.accounts.counts import Counts
from llmauth.accounts.grant import Sent
from llmauth.accounts.keys import KeyBook, Secret, StoredKey
from llmauth.accounts.limits import MINUTE, SILENCE, Estimate, Limits
from llmauth.accounts.store import LEASE_SECONDS, VERSION, Database, HoldRow, Lease
from llmauth.accounts.terms import Terms, period_name
from llmauth.exceptions import LimitReached

NOON = 1_795_694_400.0
WINDOW = "llmauth/requests/alice"


def key(**terms: Any) -> StoredKey:
    return StoredKey("alice", "1234", NOON, None, None, None, Terms().changed(terms))


def sync(limits: Limits, **options: bool) -> None:
    """What the writer does twice a second."""
    with limits.database.transaction():
        limits.sync(**options)
    limits.synced()


def rolled_back(limits: Limits) -> None:
    """What the writer does twice a second, on a full disk."""
    with contextlib.suppress(sqlite3.Error), limits.database.transaction():
        limits.sync()
        raise sqlite3.OperationalError("disk is full")
    limits.fall_back("disk is full")


def passed(limits: Limits, stored: StoredKey, times: int) -> int:
    number = 0
    for _ in range(times):
        try:
            limits.enter(stored, None)
            number += 1
        except LimitReached:
            break
    return number


@pytest.fixture
def opened(path: Path):
    """Databases of as many processes as are wanted."""
    databases = []

    def opened() -> Database:
        databases.append(Database(path))
        return databases[-1]

    yield opened
    for database in databases:
        database.close()


@pytest.fixture
def first(opened) -> Limits:
    """The limits of a process that is alone, and has let four requests in of ten."""
    limits = Limits(opened(), "first")
    assert passed(limits, key(requests_per_minute=10), 1) == 1
    sync(limits)
    assert passed(limits, key(requests_per_minute=10), 3) == 3
    return limits


@pytest.fixture
def later(monkeypatch):
    """Moves the monotonic clock on."""
    began, moved = time.monotonic, [0.0]
    monkeypatch.setattr(limits_module.time, "monotonic", lambda: began() + moved[0])

    def later(seconds: float) -> None:
        moved[0] += seconds

    return later


def test_who_is_alone_asks_no_file(first):
    with first.database.transaction():  # nobody else gets at it
        other = threading.Thread(target=lambda: first.enter(key(requests_per_minute=10), None))
        other.start()
        other.join(5)
        assert not other.is_alive()
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 1
    sync(first)
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 5


def test_a_second_process_waits_for_the_counts_and_then_both_have_them(first, opened):
    second, more = Limits(opened(), "second"), []
    other = threading.Thread(
        target=lambda: more.append(passed(second, key(requests_per_minute=10), 20))
    )
    other.start()
    wait_for(lambda: first.database.lease().wanted, "it asks for them")
    assert not more
    assert passed(first, key(requests_per_minute=10), 2) == 2
    sync(first)
    other.join(20)
    assert more == [4]
    assert passed(first, key(requests_per_minute=10), 1) == 0


def test_processes_that_have_met_do_not_take_the_counts_from_each_other(first, opened, later):
    second = Limits(opened(), "second")
    first.database.want_lease()
    sync(first)
    for _ in range(3):
        for limits in (first, second):
            assert passed(limits, key(requests_per_minute=100), 1) == 1
            sync(limits)
            assert first.database.lease() is None
    later(3600)
    assert passed(first, key(requests_per_minute=100), 1) == 1
    sync(first)
    assert first.database.lease() is None  # the second one has been heard of
    with first.database.transaction():
        first.database.end_process("second")
    sync(first)
    assert first.database.lease().process == "first"
    assert passed(first, key(requests_per_minute=15), 20) == 15 - 4 - 7


def test_while_threads_count_the_counts_go_from_place_to_place_whole(first, opened):
    """Every request is in the file once, however often and whenever the place changes."""
    stored, second = key(requests_per_minute=10**6, parallel=10**6), Limits(opened(), "second")
    ended: list[int | None] = []
    stop = threading.Event()

    def ask(limits: Limits) -> None:
        while not stop.wait(0.0005):
            ended.append(limits.enter(stored, None))

    threads = [threading.Thread(target=ask, args=(first,)) for _ in range(6)]
    threads += [threading.Thread(target=ask, args=(second,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    places: Counter[str | None] = Counter()
    while len(places) < 3 or min(places.values()) < 20:
        for limits in (first, second):
            sync(limits)
            lease = limits.database.lease()
            places[lease and lease.process] += 1
            limits._alone_again = 0.0  # as if ten minutes had passed, and the other one had ended
            limits.database._do("DELETE FROM processes")
    stop.set()
    for thread in threads:
        thread.join()
    for limits in (first, second):
        sync(limits, last=True)
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 4 + len(ended)


def test_who_is_killed_is_waited_for_until_the_lease_ends(first, opened, later):
    sync(first)
    second = Limits(opened(), "second")
    later(LEASE_SECONDS - 0.2)
    assert passed(second, key(requests_per_minute=10), 20) == 6
    assert second.database.lease() is None
    sync(second)
    assert second.database.lease() is None  # the first one was heard of just now


def test_after_the_lease_another_one_may_have_counted(first, opened, later):
    """A process that was stopped for a while."""
    later(LEASE_SECONDS + 1)
    second = Limits(opened(), "second")
    assert passed(second, key(requests_per_minute=10), 5) == 5
    other = threading.Thread(target=passed, args=(first, key(requests_per_minute=10), 1))
    other.start()
    other.join(0.1)
    assert other.is_alive()  # it waits for its writer
    sync(first)
    other.join(20)
    assert passed(first, key(requests_per_minute=10), 20) == 10 - 4 - 5 - 1
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 10


def test_who_is_late_goes_on_when_nobody_has_counted(first, later):
    later(LEASE_SECONDS + 60)
    assert passed(first, key(requests_per_minute=10), 20) == 6
    assert first.database.lease().is_valid(limits_module.time.monotonic())
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 1


def test_without_requests_the_counts_are_given_back(first, later):
    later(20)
    sync(first)
    assert first.database.lease() is None
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 4
    assert not first.is_used


def test_who_ends_leaves_the_counts_in_the_file(first, opened):
    sync(first, last=True)
    assert passed(Limits(opened(), "second"), key(requests_per_minute=10), 20) == 6


def test_a_lease_of_before_the_machine_was_started_anew_is_none():
    assert Lease("one", 100.0, wanted=False).is_valid(99.0)
    assert not Lease("one", 100.0, wanted=False).is_valid(100.5)
    assert not Lease("one", 900_000.0, wanted=False).is_valid(5.0)


def test_what_was_rolled_back_is_told_again(first):
    rolled_back(first)
    assert passed(first, key(requests_per_minute=10), 1) == 1
    sync(first)
    assert not first.failing
    sync(first)
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 5


def test_counts_that_could_not_be_handed_in_are_kept(first):
    first.database.want_lease()
    rolled_back(first)
    assert passed(first, key(requests_per_minute=10), 20) == 6
    sync(first)
    assert first.database.lease() is None
    assert first.database.window(WINDOW, time.time(), MINUTE)[1] == 10


def test_what_a_long_request_holds_is_in_the_file_until_it_ends(first, opened, later):
    hold = first.enter(key(tokens_per_day=1000), Estimate(100, 100))
    sync(first)
    assert first.database.held("alice") == (0, 0, 0)
    later(2)
    sync(first)
    assert first.database.held("alice") == (1, 200, 0)
    first.database.want_lease()
    short = first.enter(key(tokens_per_day=1000), Estimate(100, 200))
    sync(first)
    second = Limits(opened(), "second")
    with pytest.raises(LimitReached):
        second.enter(key(tokens_per_day=1000), Estimate(501, 0))
    second.enter(key(tokens_per_day=1000), Estimate(499, 0))
    with first.database.transaction():
        first.database.release([hold, short], "first")
    assert first.database.held("alice") == (1, 499, 0)


def test_requests_that_run_are_taken_along(first, later):
    """Into the file and back, with the same ids."""
    hold = first.enter(key(parallel=2), None)
    sync(first, last=True)
    other = first.enter(key(parallel=2), None)
    assert len({hold, other}) == 2
    sync(first)
    with pytest.raises(LimitReached):
        first.enter(key(parallel=2), None)
    first.note(lambda tally: tally.release([hold], "first"))
    third = first.enter(key(parallel=2), None)
    assert third not in (hold, other)


def test_it_counts_as_the_file_does(path):
    """The same questions and changes at random, and a clock that goes back now and then."""
    database, counts, chance, now = Database(path), Counts(), random.Random(18), NOON
    ids: list[tuple[int, int]] = []
    for step in range(2000):
        now += chance.choice([0.0, 0.25, 1.5, 20.0, 20.0 if step % 50 else -90.0])
        name = chance.choice(["alice", "bob"])
        tokens = chance.randrange(100)
        with database.transaction(), counts.transaction():
            database.tidy(now, MINUTE)
            counts.tidy(now, MINUTE)
            match chance.randrange(5):
                case 0:
                    database.add_entries([(name, now)] * 2)
                    counts.add_entries([(name, now)] * 2)
                case 1:
                    database.add_tokens([(name, now, tokens)])
                    counts.add_tokens([(name, now, tokens)])
                case 2:
                    database.spend([(name, "total", tokens, 7)])
                    counts.spend([(name, "total", tokens, 7)])
                case 3:
                    ids.append(
                        (database.hold("one", name, tokens, 3), counts.hold("one", name, tokens, 3))
                    )
                case 4 if ids:
                    theirs, ours = ids.pop(chance.randrange(len(ids)))
                    database.release([theirs], "one")
                    counts.release([ours], "one")
        for one in ("alice", "bob"):
            first, number = counts.window(one, now, MINUTE)
            assert (first, number) == database.window(one, now, MINUTE)
            assert counts.held(one) == database.held(one)
            assert counts.spent(one, "total") == database.spent(one, "total")
            recent = database.recent_tokens(one, now, MINUTE)
            assert sum(tokens for _, tokens in counts.recent_tokens(one, now, MINUTE)) == sum(
                tokens for _, tokens in recent
            )
    database.close()


def test_what_it_begins_with_is_what_the_file_says(path):
    database = Database(path)
    with database.transaction():
        database.beat("one", NOON)
        database.add_entries([("alice", NOON - 61), ("alice", NOON - 59), ("alice", NOON - 1)])
        database.add_tokens([("alice", NOON - 70, 5), ("alice", NOON - 30, 7)])
        database.spend([("alice", "2026-11-26", 10, 20), ("alice", "2026-11-25", 1000, 2000)])
        mine = database.hold("one", "alice", 5, 6)
        database.hold("another", "alice", 500, 600)
    counts = Counts()
    counts.load(database, "one", NOON, MINUTE)
    assert counts.window("alice", NOON, MINUTE) == (NOON - 59, 2)
    assert counts.recent_tokens("alice", NOON, MINUTE) == [(NOON - 30, 7)]
    assert counts.spent("alice", "2026-11-26") == (10, 20)
    assert counts.spent("alice", "2026-11-25") == (0, 0)  # is over
    assert counts.held("alice") == (1, 5, 6)
    assert counts.hold("one", "alice", 0, 0) != mine
    database.close()


def test_counts_take_no_more_memory_with_time_also_while_the_file_fails():
    counts = Counts()
    for minute in range(3000):
        now = NOON + minute * MINUTE
        counts.add_entries([(f"key {minute}", now)])
        counts.add_tokens([(f"key {minute}", now, 1)])
        counts.release([counts.hold("one", f"key {minute}", 1, 1)], "one")
        counts.window(f"asked {minute}", now, MINUTE)
        counts.recent_tokens(f"asked {minute}", now, MINUTE)
        counts.held(f"asked {minute}")
        counts.tidy(now, MINUTE)
    for name in ("_entries", "_new_entries", "_tokens", "_holds", "_held", "_in_file"):
        assert len(getattr(counts, name)) <= 2, name


def test_entries_that_are_over_while_they_are_written_are_told_once(path):
    database, counts = Database(path), Counts()
    counts.add_entries([("alice", NOON - 100), ("alice", NOON - 50)])
    counts.write(database, "one")
    counts.tidy(NOON, MINUTE)
    counts.add_entries([("alice", NOON)])
    counts.written()
    counts.write(database, "one")
    assert database.window("alice", NOON, MINUTE) == (NOON - 50, 2)
    database.close()


def test_two_servers_on_one_file_let_ten_pass(path, upstream):
    """The first one has counted in memory before the second one begins."""
    database = Database(path)
    secret = KeyBook(database).add("alice", {"requests_per_minute": 10})
    environ = {"LLMAUTH_DATABASE": str(path), "OPENAI_API_BASE_URL": upstream.url}
    first, second = llmauth(**environ), llmauth(**environ)
    try:

        def statuses(server: Program, number: int) -> list[int]:
            return [get(server.port, "/v1/models", secret)[0] for _ in range(number)]

        assert statuses(first, 4) == [200] * 4
        wait_for(lambda: database.lease() is not None, "it counts in memory")
        assert statuses(first, 3) == [200] * 3
        assert statuses(second, 4) == [200, 200, 200, 429]
        assert statuses(first, 1) == [429]
        assert database.lease() is None
    finally:
        first.close()
        second.close()
        database.close()


SCHEMA_1 = """
DROP TABLE lease;
DROP TABLE holds;
CREATE TABLE holds (
    id INTEGER PRIMARY KEY, process TEXT NOT NULL, key TEXT NOT NULL, tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL, window TEXT, at REAL);
CREATE INDEX holds_of ON holds (key);
CREATE TABLE windows (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO windows VALUES (NEW.window, 1) ON CONFLICT DO UPDATE SET number = number + 1; END;
CREATE TRIGGER entry_left AFTER DELETE ON entries BEGIN
    UPDATE windows SET number = number - 1 WHERE name = OLD.window; END;
CREATE TRIGGER hold_entered AFTER INSERT ON holds WHEN NEW.window IS NOT NULL BEGIN
    INSERT INTO entries VALUES (NEW.window, NEW.at); END;
INSERT INTO holds VALUES (1, 'gone', 'alice', 100, 100, 'w', 1);
PRAGMA user_version = 1;
"""


def test_a_file_of_an_older_release_is_made_one_of_this(path):
    """What is in it stays."""
    database = Database(path)
    KeyBook(database).add("alice", {"parallel": 3})
    with database.transaction():
        database.spend([("alice", "total", 7, 7)])
    database.close()
    with sqlite3.connect(path) as older:
        older.executescript(SCHEMA_1)
    older.close()
    database = Database(path)
    assert database.spent("alice", "total") == (7, 7)
    assert database.held("alice") == (0, 0, 0)
    with database.transaction():
        database.add_holds("one", [HoldRow(5, "alice", 1, 1)])
        database.add_entries([("alice", NOON)])
        database.take_lease("one", 1.0)
    assert [found.name for found in database.all_keys()] == ["alice"]
    database.close()
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA user_version").fetchone() == (VERSION,)
        (names,) = zip(*check.execute("SELECT name FROM sqlite_master"), strict=True)
    check.close()
    assert not {"windows", "entry_added", "entry_left", "hold_entered"} & set(names)


# What must not happen when a process, a file or a clock was away for a while.


def test_who_was_stopped_knows_what_others_have_counted_and_ended(first, opened, later):
    later(LEASE_SECONDS + 1)
    second = Limits(opened(), "second")
    assert passed(second, key(requests_per_minute=10), 5) == 5
    with second.database.transaction():
        second.database.end_process("second")
    sync(first)
    sync(first)
    assert passed(first, key(requests_per_minute=10), 20) == 10 - 4 - 5


def test_counts_of_a_file_that_failed_are_read_anew_when_it_works(opened, later):
    """Between the failure and the counts, another thread may have written what has ended."""
    held: set[int] = set()
    limits = Limits(opened(), "first", held=lambda: held)
    held |= {limits.enter(key(parallel=2), None), limits.enter(key(parallel=2), None)}
    limits.fall_back("database is locked")
    with limits.database.transaction():
        limits.database.release([held.pop()], "first")
    later(2)
    for _ in range(3):
        sync(limits)
        assert limits.database.held("alice").requests == 1
    limits.enter(key(parallel=2), None)


def test_what_has_ended_and_is_not_written_counts_when_the_file_fails(opened):
    ended: list[int] = []

    def write(tally: Any) -> None:
        tally.release(ended, "first")
        tally.spend([("alice", period_name("day", time.time()), 900, 0)])

    limits = Limits(opened(), "first", unwritten=lambda: write)
    stored = key(parallel=1, tokens_per_day=1000)
    ended.append(limits.enter(stored, Estimate(100, 100)))
    limits.fall_back("database is locked")
    limits.enter(stored, Estimate(50, 50))
    with pytest.raises(LimitReached, match="900 of 1000"):
        limits.enter(key(tokens_per_day=1000), Estimate(1, 0))


def test_a_clock_that_is_right_again_has_the_month_that_was_paid_for(first, monkeypatch):
    stored, now, ahead = key(budget="20/month"), time.time(), [0.0]
    with first.database.transaction():
        first.database.spend([("alice", period_name("month", now), 10, 19 * 10**9)])
    sync(first, last=True)
    monkeypatch.setattr(limits_module.time, "time", lambda: now + ahead[0])
    for days in (0, 40, 0):
        ahead[0] = days * 86_400.0
        for _ in range(2):
            with contextlib.suppress(LimitReached):
                first.enter(stored, Estimate(1, 1, 1, 1))
            sync(first)
    with pytest.raises(LimitReached, match=r"\$19\.00 of \$20"):
        first.enter(stored, Estimate(1, 1, 10**9, 10**9))


@pytest.mark.parametrize("recovers_first", ["one", "another"])
def test_after_a_file_that_failed_for_long_what_runs_is_still_held(opened, recovers_first):
    """Nobody could say that he lives."""
    limits = {name: Limits(opened(), name) for name in ("one", "another")}
    for one in limits.values():
        one.enter(key(parallel=4), None)
        one.enter(key(parallel=4), None)
    for name, one in limits.items():
        one.fall_back("database is locked")
        with one.database.transaction():
            one.database.beat(name, time.time() - 2 * SILENCE)
    for name in (recovers_first, *limits):
        limits[name]._tidied = 0.0
        sync(limits[name])
    for one in limits.values():
        assert one.database.held("alice").requests == 4


def test_holds_that_somebody_took_for_dead_are_written_again(opened):
    limits = Limits(opened(), "one")
    limits.enter(key(parallel=4), None)
    limits.fall_back("database is locked")
    with limits.database.transaction():
        limits.database.release_dead(time.time() + 2 * SILENCE, SILENCE)
    assert limits.database.held("alice").requests == 0
    sync(limits)
    assert limits.database.held("alice").requests == 1


def test_who_has_the_counts_is_told_of_what_others_have_spent(first, opened):
    """Of requests that were sent before their key had a limit."""
    second = Limits(opened(), "second")
    with second.database.transaction():
        second.sync()
    assert not first.database.lease().wanted
    with second.database.transaction():
        second.sync(spent=True)
    assert first.database.lease().wanted


def test_counts_that_are_handed_in_while_a_thread_fails_are_no_lease(first, opened):
    first.database.want_lease()
    with first.database.transaction():
        first.sync()
    first.fall_back("the connection was busy")
    first.synced()
    second = Limits(opened(), "second")
    assert passed(second, key(requests_per_minute=10), 4) == 4
    sync(first)
    assert passed(first, key(requests_per_minute=10), 20) == 10 - 4 - 4


@pytest.fixture
def accounts(path):
    database = Database(path)
    secret = KeyBook(database).add("alice", {"parallel": 1})
    database.close()
    opened = Accounts(path)
    opened.name_of(secret.encode())
    yield opened, opened.admit(secret.encode(), "127.0.0.1")
    opened.close()


def ask(accounts: Accounts, secret: Secret) -> None:
    sent = Sent(
        key="alice", secret=secret, backend="openai", base_url="http://127.0.0.1", method="POST",
        path="/v1/chat/completions", model="m", asked=Asked(), is_ours=True,
    )  # fmt: skip
    accounts.enter(sent).end(None, 200)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_while_the_file_is_locked_who_has_ended_holds_nothing(accounts, path):
    ask(*accounts)
    with locked(path):
        for _ in range(20):
            ask(*accounts)
    wait_for(lambda: accounts[0].state == "ok", "it works again")
    ask(*accounts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps an open file")
def test_while_the_file_is_gone_who_has_ended_holds_nothing(accounts, path):
    ask(*accounts)
    path.rename(path.with_name("gone"))
    for _ in range(5):
        ask(*accounts)
        time.sleep(0.1)
    path.with_name("gone").rename(path)
    wait_for(lambda: accounts[0].state == "ok", "it works again")
    ask(*accounts)


def test_however_many_are_not_written_none_holds_anything(accounts, path, monkeypatch):
    monkeypatch.setattr(accounts_module, "MAX_WAITING", 3)
    with locked(path):
        for _ in range(10):
            ask(*accounts)
    wait_for(lambda: accounts[0].state == "ok", "it works again")
    with contextlib.closing(sqlite3.connect(path)) as check:
        assert check.execute("SELECT count(*) FROM requests").fetchone()[0] <= 3


def test_at_the_end_a_file_that_is_locked_is_tried_again(accounts, path):
    for _ in range(3):
        ask(*accounts)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    unlock = threading.Timer(2.0, other.execute, ["ROLLBACK"])
    unlock.start()
    accounts[0].close()
    unlock.join()
    assert other.execute("SELECT count(*) FROM requests").fetchone() == (3,)
    assert other.execute("SELECT count(*) FROM holds").fetchone() == (0,)
    other.close()


def test_a_file_that_fails_while_what_has_ended_is_counted_forgets_none_of_it(path, monkeypatch):
    with contextlib.closing(Database(path)) as database:
        secret = KeyBook(database).add("alice", {"tokens_per_day": 10**6}).encode()
    accounts = Accounts(path)
    monkeypatch.setattr(accounts, "_start", lambda: None)  # it is done here
    stored = accounts.admit(secret, "127.0.0.1")
    assert stored
    sent = Sent(
        key="alice", secret=stored, backend="openai", base_url="http://127.0.0.1", method="POST",
        path="/v1/chat/completions", model="m", asked=Asked(prompt_bytes=400), is_ours=True,
    )  # fmt: skip
    accounts.enter(sent).end("client_disconnected")
    note = accounts._limits.note

    def failing(*arguments: Any) -> None:
        note(*arguments)
        accounts._limits.fall_back("it fails")

    monkeypatch.setattr(accounts._limits, "note", failing)
    accounts._settle()
    assert accounts._limits.used(stored.key)["tokens_per_day"] == 100
    accounts.close()
