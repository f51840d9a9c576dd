"""The database: all of its SQL, and nothing but SQL, so that another one could take its place.

SQLite in WAL mode, for any number of processes on one machine (the file must be on a local disk).
Moments are Unix times in UTC, money is in billionths of a dollar.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from ..exceptions import ConfigurationError

VERSION = 1
"""Of the schema, in ``PRAGMA user_version``."""

APPLICATION = 0x6C6C6D61
"""``PRAGMA application_id``: what tells our files from those of other programs."""

MAX_LOCKOUTS = 10_000
"""Addresses that are kept to be shown."""

BUSY_SECONDS = 1.0
"""For which a request may wait for another writer; batches are written in milliseconds."""

_PREPARING = 10  # seconds
_LOG_PAGES = 4000
"""Of 4 KiB, written beside the file before they are put into it, which waits for the disk."""

_SCHEMA = """
CREATE TABLE keys (
    name TEXT PRIMARY KEY COLLATE NOCASE, created REAL NOT NULL, expires REAL, paused REAL,
    revoked REAL, last_used REAL, terms TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE secrets (
    digest BLOB PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, hint TEXT NOT NULL,
    created REAL NOT NULL, ends REAL) WITHOUT ROWID;
CREATE TABLE entries (window TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX entries_of ON entries (window, at);
CREATE TABLE windows (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO windows VALUES (NEW.window, 1) ON CONFLICT DO UPDATE SET number = number + 1; END;
CREATE TRIGGER entry_left AFTER DELETE ON entries BEGIN
    UPDATE windows SET number = number - 1 WHERE name = OLD.window; END;
CREATE TABLE holds (
    id INTEGER PRIMARY KEY, process TEXT NOT NULL, key TEXT NOT NULL, tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL, window TEXT, at REAL);
CREATE INDEX holds_of ON holds (key);
CREATE TRIGGER hold_entered AFTER INSERT ON holds WHEN NEW.window IS NOT NULL BEGIN
    INSERT INTO entries VALUES (NEW.window, NEW.at); END;
CREATE TABLE tokens (
    key TEXT NOT NULL, at INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (key, at)) WITHOUT ROWID;
CREATE TABLE spent (
    key TEXT NOT NULL, period TEXT NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL,
    PRIMARY KEY (key, period)) WITHOUT ROWID;
CREATE INDEX spent_in ON spent (period);
CREATE TABLE requests (
    at REAL NOT NULL, key TEXT NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,
    status INTEGER, ended TEXT NOT NULL, streamed INTEGER NOT NULL, input INTEGER, cached INTEGER,
    written INTEGER, output INTEGER, reasoning INTEGER, cost INTEGER, estimated INTEGER NOT NULL,
    ms INTEGER NOT NULL, first_ms INTEGER);
CREATE INDEX requests_at ON requests (at);
CREATE TABLE counters (
    name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (name, labels)) WITHOUT ROWID;
CREATE INDEX requests_of ON requests (key, at);
CREATE TABLE state (revision INTEGER NOT NULL);
INSERT INTO state VALUES (0);
CREATE TRIGGER secret_added AFTER INSERT ON secrets BEGIN
    UPDATE state SET revision = revision + 1; END;
CREATE TRIGGER secret_ended AFTER UPDATE ON secrets BEGIN
    UPDATE state SET revision = revision + 1; END;
CREATE TRIGGER key_changed AFTER UPDATE OF expires, paused, revoked, terms ON keys BEGIN
    UPDATE state SET revision = revision + 1; END;
CREATE TABLE processes (id TEXT PRIMARY KEY, beat REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE lockouts (
    address TEXT PRIMARY KEY, until REAL NOT NULL, cleared REAL) WITHOUT ROWID;
"""


class KeyRow(NamedTuple):
    """A key as it is kept.

    :param terms: what it may do, as text
    :param last_used: to within seconds
    """

    name: str
    created: float
    expires: float | None
    paused: float | None
    revoked: float | None
    last_used: float | None
    terms: str


class SecretRow(NamedTuple):
    """What is kept of the secret of a key: never itself.

    :param hint: its last characters
    :param ends: when it ends, or ended, because another took its place
    """

    digest: bytes
    name: str
    hint: str
    created: float
    ends: float | None


class RequestRow(NamedTuple):
    """A request that has ended; None is what nobody knows.

    :param at: Unix time of its end
    :param model: empty when it names none
    :param ended: ``complete``, or why it is not
    :param input: tokens, as the next four
    :param cost: billionths of a dollar
    :param estimated: the tokens are not, or not all, the provider's word
    :param ms: milliseconds in all, and to the first byte
    """

    at: float
    key: str
    backend: str
    model: str
    status: int | None
    ended: str
    streamed: bool
    input: int | None
    cached: int | None
    written: int | None
    output: int | None
    reasoning: int | None
    cost: int | None
    estimated: bool
    ms: int
    first_ms: int | None

    @property
    def is_error(self) -> bool:
        """True for one that gave the client nothing."""
        return self.status is None or self.status >= 400

    @property
    def is_unknown(self) -> bool:
        """True for an answer that cost something, and nobody knows what."""
        return not self.is_error and self.input is None and self.output is None


TOTALS = (
    "requests", "errors", "input", "cached", "written", "output", "reasoning", "cost", "unpriced",
    "estimated", "unknown",
)  # fmt: skip
"""Columns of the daily totals that are summed."""

GROUPS = ("day", "key", "backend", "model")

_DAILY = {
    "daily": GROUPS,
    "daily_keys": ("day", "key"),
    "daily_models": ("day", "backend", "model"),
}
"""Tables of daily totals, and what each tells apart: the same figures, in fewer rows each."""

_SIZE = "sum(cost) DESC, sum(input) + sum(output) DESC, sum(requests) DESC"


class Hold(NamedTuple):
    """What is held for a request: tokens, and billionths of a dollar."""

    tokens: int
    cost: int


class Most(NamedTuple):
    """The most that a key may have of each at once; None for no limit.

    :param window: in which its requests are counted, None where that is done elsewhere
    :param day: the name of today
    :param period: the name of the period of the budget
    """

    key: str
    window: str | None
    requests: int | None
    parallel: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    day: str
    budget: int | None
    period: str


_ENTER_IF = """
INSERT INTO entries
WITH RECURSIVE each(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM each LIMIT :amount)
SELECT :window, :now FROM each
WHERE ifnull((SELECT windows.number FROM windows WHERE name = :window), 0) <= :most
"""
_HOLD_IF = """
INSERT INTO holds (process, key, tokens, cost, window, at)
SELECT :process, :key, json_extract(value, '$[0]'), json_extract(value, '$[1]'), :window, :now
FROM (SELECT count(*) + :number AS number, ifnull(sum(tokens), 0) + :tokens AS tokens,
             ifnull(sum(cost), 0) + :cost AS cost FROM holds WHERE key = :key) AS held,
     json_each(:rows)
WHERE (:requests IS NULL
    OR ifnull((SELECT number FROM windows WHERE name = :window), 0) + :number <= :requests)
AND (:parallel IS NULL OR held.number <= :parallel)
AND (:tokens_per_minute IS NULL OR held.tokens + ifnull((SELECT sum(tokens) FROM tokens
    WHERE key = :key AND at > :since), 0) <= :tokens_per_minute)
AND (:tokens_per_day IS NULL OR held.tokens + ifnull((SELECT tokens FROM spent
    WHERE key = :key AND period = :day), 0) <= :tokens_per_day)
AND (:budget IS NULL OR held.cost + ifnull((SELECT cost FROM spent
    WHERE key = :key AND period = :period), 0) <= :budget)
"""
_ADDING_TOKENS = "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"


def _each(columns: int) -> str:
    """Return what selects the rows of a JSON list of lists: all at once, in one statement."""
    values = ", ".join(f"json_extract(value, '$[{number}]')" for number in range(columns))
    return f"SELECT {values} FROM json_each(?) WHERE true"


class Held(NamedTuple):
    """What a key's running requests hold."""

    requests: int
    tokens: int
    cost: int


_inherited: list[sqlite3.Connection | None] = []
"""Connections of a parent process, which its child must neither use nor close (SQLite, "How To
Corrupt", 2.6)."""


class Database:
    """One connection, which threads may share; the child of a fork opens another one.

    :param path: of the file; None for one in memory
    :raises ConfigurationError: when it cannot be used, saying why
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        with explained(path):
            if path is not None:
                _create(path)
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise
        self._identity = self._file_identity()
        if path is not None and hasattr(os, "register_at_fork"):
            disown = weakref.WeakMethod(self._disown)
            os.register_at_fork(after_in_child=lambda: (method := disown()) and method())

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    @property
    def _connection(self) -> sqlite3.Connection:
        """The connection, under the lock."""
        if self._opened is None:
            # Not made anew: a file that is gone, or another one, is noticed elsewhere.
            where = f"{self.path.absolute().as_uri()}?mode=rw" if self.path else ":memory:"
            self._opened = sqlite3.connect(
                where,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=self.path is not None,
            )
            self._busy = 0  # milliseconds, set where they count
            self._opened.execute("PRAGMA synchronous = NORMAL")
            self._opened.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        return self._opened

    def _disown(self) -> None:
        _inherited.append(self._opened)
        self._opened, self._lock = None, threading.RLock()

    @property
    def is_replaced(self) -> bool:
        """True once the path is that of another file, or of none."""
        return self._file_identity() != self._identity

    def damage(self) -> str | None:
        """Say what is damaged in the file, None when nothing is; reads all of it."""
        try:
            found = self._one("PRAGMA quick_check(1)")[0]
        except sqlite3.DatabaseError as exc:
            return str(exc)
        return None if found == "ok" else str(found)

    @contextlib.contextmanager
    def transaction(self, busy: float = BUSY_SECONDS) -> Iterator[None]:
        """Do all of it or nothing, and nobody else in between.

        :param busy: seconds to wait for others, threads and processes alike, which hold the file
        """
        with self._waiting(busy):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _waiting(self, busy: float) -> Iterator[None]:
        """Hold the lock, and leave the rest of the time for others who hold the file.

        Of many who wait while the file is locked, none waits for all those before him.
        """
        until = time.monotonic() + busy
        if not self._lock.acquire(timeout=busy):
            raise sqlite3.OperationalError("database is locked")
        try:
            rest = math.ceil((until - time.monotonic()) * 10) * 100
            if self._busy != rest:
                self._connection.execute(f"PRAGMA busy_timeout = {max(rest, 0)}")
                self._busy = rest
            yield
        finally:
            self._lock.release()

    # Keys

    def revision(self) -> int:
        """Return a number that changes whenever a key does."""
        return int(self._one("SELECT revision FROM state")[0])

    def all_keys(self) -> list[KeyRow]:
        """Return all keys, those revoked as well."""
        rows = self._all(
            "SELECT name, created, expires, paused, revoked, last_used, terms FROM keys"
            " ORDER BY name"
        )
        return [KeyRow(*row) for row in rows]

    def key(self, name: str) -> KeyRow | None:
        """Return one key."""
        row = self._one(
            "SELECT name, created, expires, paused, revoked, last_used, terms FROM keys"
            " WHERE name = ?",
            name,
        )
        return KeyRow(*row) if row else None

    def all_secrets(self) -> list[SecretRow]:
        """Return what is kept of all secrets, the newest of a key last."""
        rows = self._all("SELECT digest, name, hint, created, ends FROM secrets ORDER BY created")
        return [SecretRow(*row) for row in rows]

    def add_key(self, row: KeyRow) -> None:
        """Add a key; a name that is taken raises sqlite3.IntegrityError."""
        self._do("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", *row)

    def change_key(self, row: KeyRow) -> None:
        """Write what may change of a key."""
        self._do(
            "UPDATE keys SET expires = ?, paused = ?, revoked = ?, terms = ? WHERE name = ?",
            row.expires, row.paused, row.revoked, row.terms, row.name,
        )  # fmt: skip

    def add_secret(self, row: SecretRow) -> None:
        """Add a key's secret, which ends those before it when they have no end yet."""
        self._do("INSERT INTO secrets VALUES (?, ?, ?, ?, ?)", *row)

    def end_secrets(self, name: str, at: float) -> None:
        """Have a key's secrets end at a time, unless they end before."""
        self._do(
            "UPDATE secrets SET ends = ? WHERE name = ? AND (ends IS NULL OR ends > ?)",
            at, name, at,
        )  # fmt: skip

    def note_used(self, used: Iterable[tuple[str, float]]) -> None:
        """Write when keys were used last."""
        self._connection.executemany(
            "UPDATE keys SET last_used = max(?, ifnull(last_used, 0)) WHERE name = ?",
            [(at, name) for name, at in used],
        )

    # Moving windows

    def enter(self, window: str, limit: int, seconds: float, now: float, amount: int = 1) -> bool:
        """Put entries into a window unless they are more than fit; within a transaction."""
        self.tidy_windows(now, seconds, window)
        if self._sum("SELECT sum(number) FROM windows WHERE name = ?", window) + amount > limit:
            return False
        self._connection.executemany("INSERT INTO entries VALUES (?, ?)", [(window, now)] * amount)
        return True

    def enter_if(self, window: str, limit: int, now: float, amount: int) -> bool:
        """Put entries into a window if they surely fit, in one statement.

        False where those that have left the window have yet to be looked for: see :meth:`enter`.
        """
        values = {"window": window, "now": now, "most": limit - amount, "amount": amount}
        with self._waiting(BUSY_SECONDS):
            return self._connection.execute(_ENTER_IF, values).rowcount == amount

    def tidy_windows(self, now: float, seconds: float, window: str | None = None) -> None:
        """Forget the entries that have left a window, or all windows."""
        # What is from the future, by a clock that was wrong, is from now: it prolongs nothing.
        of = "window IN (SELECT name FROM windows WHERE ? IS NULL OR name = ?)"
        self._do(
            f"UPDATE entries SET at = ? WHERE {of} AND at > ?", now, window, window, now
        )
        self._do(f"DELETE FROM entries WHERE {of} AND at <= ?", window, window, now - seconds)

    def window(self, window: str, since: float) -> tuple[float | None, int]:
        """Return the moment of a window's oldest entry since then, and how many there are."""
        row = self._one(
            "SELECT min(at), count(*) FROM entries WHERE window = ? AND at > ?", window, since
        )
        return row[0], row[1]

    # Tokens and dollars

    def held(self, key: str) -> Held:
        """Return what a key's running requests hold."""
        return Held(*self._one(
            "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(cost), 0) FROM holds"
            " WHERE key = ?", key,
        ))  # fmt: skip

    def running(self, key: str, now: float, silence: float) -> int:
        """Return how many requests of a key run, in processes that have been heard of."""
        return self._sum(
            "SELECT count(*) FROM holds JOIN processes ON processes.id = process"
            " WHERE key = ? AND abs(? - beat) <= ?", key, now, silence,
        )  # fmt: skip

    def hold(self, process: str, key: str, tokens: int, cost: int) -> int:
        """Hold tokens and dollars for a request; return the id of the hold."""
        cursor = self._connection.execute(
            "INSERT INTO holds (process, key, tokens, cost) VALUES (?, ?, ?, ?)",
            (process, key, tokens, cost),
        )
        return int(cursor.lastrowid or 0)

    def hold_if(
        self, process: str, holds: list[Hold], most: Most, now: float, seconds: float
    ) -> list[int] | None:
        """Hold tokens and dollars for requests of a key, in one statement; return their ids.

        None where they do not surely fit, and have to be looked at more closely.
        """
        values = most._asdict() | {
            "process": process,
            "rows": json.dumps([(hold.tokens, hold.cost) for hold in holds]),
            "number": len(holds),
            "tokens": sum(max(hold.tokens, 1) for hold in holds),
            "cost": sum(max(hold.cost, 1) for hold in holds),
            "now": now,
            "since": now - seconds,
        }
        with self._waiting(BUSY_SECONDS):
            cursor = self._connection.execute(_HOLD_IF, values)
        if cursor.rowcount != len(holds):
            return None
        last = cursor.lastrowid or 0  # ids of one statement follow one another
        return list(range(last - len(holds) + 1, last + 1))

    def release(self, holds: Iterable[int], process: str) -> None:
        """Give holds back."""
        self._do(
            "DELETE FROM holds WHERE id IN (SELECT value FROM json_each(?)) AND process = ?",
            json.dumps(list(holds)), process,
        )  # fmt: skip

    def add_tokens(self, used: Iterable[tuple[str, float, int]]) -> None:
        """Note how many tokens keys have used when, each in the second that ends next."""
        sums: Counter[tuple[str, int]] = Counter()
        for key, at, tokens in used:
            sums[key, math.ceil(at)] += tokens
        rows = [(*of, number) for of, number in sums.items()]
        self._do(f"INSERT INTO tokens {_each(3)} {_ADDING_TOKENS}", json.dumps(rows))

    def tidy_tokens(self, now: float, seconds: float) -> None:
        """Forget the tokens that were used before so many seconds."""
        # As for entries: what is from the future is from now.
        self._do(
            "INSERT INTO tokens SELECT key, ?, sum(tokens) FROM tokens WHERE at > ? GROUP BY key"
            f" {_ADDING_TOKENS}", math.ceil(now), math.ceil(now),
        )  # fmt: skip
        self._do("DELETE FROM tokens WHERE at > ? OR at <= ?", math.ceil(now), now - seconds)

    def recent_tokens(self, key: str, now: float, seconds: float) -> list[tuple[float, int]]:
        """Return when a key used how many tokens, the oldest first."""
        return self._all(
            "SELECT at, tokens FROM tokens WHERE key = ? AND at > ? ORDER BY at",
            key, now - seconds,
        )  # fmt: skip

    def spend(self, used: Iterable[tuple[str, str, int, int]]) -> None:
        """Add to what keys have used in periods: key, period, tokens, dollars."""
        tokens: Counter[tuple[str, str]] = Counter()
        cost: Counter[tuple[str, str]] = Counter()
        for key, period, number, dollars in used:
            tokens[key, period] += number
            cost[key, period] += dollars
        rows = [(*of, number, cost[of]) for of, number in tokens.items()]
        self._do(
            f"INSERT INTO spent {_each(4)} ON CONFLICT DO UPDATE"
            " SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost",
            json.dumps(rows),
        )

    def spent(self, key: str, period: str) -> tuple[int, int]:
        """Return the tokens and dollars that a key has used in a period."""
        row = self._one(
            "SELECT tokens, cost FROM spent WHERE key = ? AND period = ?", key, period
        )
        return (row[0], row[1]) if row else (0, 0)

    def all_used(
        self, minute: float, periods: Mapping[str, str]
    ) -> list[tuple[str, str, int, int]]:
        """Return what all keys use of their limits: the key, of what, tokens or a number, dollars.

        :param minute: when the last one began
        :param periods: the names of the calendar's current ones
        """
        marks = ", ".join("?" * len(periods))
        return self._report(
            "SELECT window, 'requests_per_minute', count(*), 0 FROM entries WHERE at > ?"  # noqa: S608
            " GROUP BY window UNION ALL "
            "SELECT key, 'tokens_per_minute', sum(tokens), 0 FROM tokens WHERE at > ?"
            " GROUP BY key UNION ALL "
            "SELECT key, 'parallel', count(*), 0 FROM holds GROUP BY key UNION ALL "
            f"SELECT key, period, tokens, cost FROM spent WHERE period IN ({marks})",
            minute, minute, *periods.values(),
        )  # fmt: skip

    def last_used(self) -> dict[str, float]:
        """Return when keys were used last, by their names."""
        return dict(self._report("SELECT name, last_used FROM keys WHERE last_used IS NOT NULL"))

    def all_spent(self) -> list[tuple[str, str, int, int]]:
        """Return what all keys have used in all periods."""
        return self._all("SELECT key, period, tokens, cost FROM spent")

    # What was used

    def add_requests(self, rows: Iterable[tuple[str, RequestRow]]) -> None:
        """Add requests that have ended, and to the totals of their days.

        :param rows: with the day of each
        """
        ended = [(day, row, _figures(row)) for day, row in rows]
        if not ended:
            return
        kept = json.dumps([row for _, row, _ in ended])
        self._do(f"INSERT INTO requests {_each(len(RequestRow._fields))}", kept)
        adding = ", ".join(f"{name} = {name} + excluded.{name}" for name in TOTALS)
        for table, groups in _DAILY.items():
            sums: dict[tuple[str, ...], list[int]] = {}
            for day, row, figures in ended:
                group = tuple(day if one == "day" else getattr(row, one) for one in groups)
                before = sums.get(group)
                sums[group] = [*map(add, before, figures)] if before else figures
            self._do(
                f"INSERT INTO {table} {_each(len(groups) + len(TOTALS))} ON CONFLICT DO UPDATE"
                f" SET {adding}",
                json.dumps([(*group, *figures) for group, figures in sums.items()]),
            )

    def totals(
        self,
        by: Iterable[str],
        since: str,
        until: str,
        key: str | None,
        *,
        largest: int = -1,
        names: Sequence[str] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Return the sums of the daily totals: what they are grouped by, then `TOTALS`.

        :param by: of `GROUPS`
        :param since: first day
        :param until: last day
        :param key: of this one only
        :param largest: only so many of the groups, the most expensive first
        :param names: only of these keys or models, by which they are grouped
        """
        groups = [name for name in GROUPS if name in by]
        columns = ", ".join([*groups, *(f"ifnull(sum({name}), 0)" for name in TOTALS)])
        where, values = "day BETWEEN ? AND ?", [since, until]
        if key is not None:
            where, values = f"{where} AND key = ? COLLATE NOCASE", [*values, key]
        if names is not None:
            marks = ", ".join("?" * len(names))
            collation = "COLLATE NOCASE" if groups[-1] == "key" else ""  # as the index has it
            where = f"{where} AND {groups[-1]} {collation} IN ({marks})"
            values += [*names]
        order = ", ".join([_SIZE, *groups] if largest >= 0 else groups)
        grouped = f"GROUP BY {', '.join(groups)} ORDER BY {order}" if groups else ""
        by_key = key is not None or (names is not None and "key" in groups)
        table = "daily" if by_key else _smallest(groups)
        return self._report(
            f"SELECT {columns} FROM {table} WHERE {where} {grouped} LIMIT {largest:d}",  # noqa: S608
            *values,
        )

    def models(self, number: int) -> list[str]:
        """Return the models that were used, those that were used first before the others."""
        found = self._report(
            "SELECT model FROM daily GROUP BY model ORDER BY min(day), model LIMIT ?", number
        )
        return [row[0] for row in found]

    def add_counters(self, counts: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """Add to counters, each known by its name and the values of its labels."""
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET value = value + excluded.value",
            [(name, json.dumps(labels), value) for (name, *labels), value in counts],
        )

    def counters(self) -> list[tuple[str, list[str], float]]:
        """Return all counters: name, values of the labels, and value."""
        rows = self._report("SELECT name, labels, value FROM counters ORDER BY name, labels")
        return [(name, json.loads(labels), value) for name, labels, value in rows]

    def requests(self, number: int, key: str | None = None) -> list[RequestRow]:
        """Return the requests that ended last, the newest first."""
        where, values = ("", ()) if key is None else ("WHERE key = ?", (key,))
        rows = self._report(
            f"SELECT * FROM requests {where} ORDER BY at DESC LIMIT ?",  # noqa: S608
            *values, number,
        )  # fmt: skip
        return [RequestRow(*row) for row in rows]

    def first_bytes(
        self, since: float, number: int, key: str | None = None
    ) -> list[tuple[str, int]]:
        """Return the models of the last so many requests, and milliseconds to the first byte."""
        where, values = ("", ()) if key is None else ("key = ? AND", (key,))
        return self._report(
            f"SELECT model, first_ms FROM requests WHERE {where} at > ?"  # noqa: S608
            " AND first_ms IS NOT NULL AND status < 400 ORDER BY at DESC LIMIT ?",
            *values, since, number,
        )  # fmt: skip

    def forget_requests(self, before: float, number: int) -> int:
        """Drop some of the requests that ended before a time; return how many."""
        return self._connection.execute(
            "DELETE FROM requests WHERE rowid IN"
            " (SELECT rowid FROM requests WHERE at < ? ORDER BY at LIMIT ?)",
            (before, number),
        ).rowcount

    # Addresses that are locked out

    def note_blocks(self, blocks: Iterable[tuple[str, float]]) -> None:
        """Write which addresses are blocked, and until when."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO lockouts VALUES (?, ?, NULL)", list(blocks)
        )

    def lockouts(self, now: float) -> list[tuple[str, float]]:
        """Return the addresses that are blocked, and until when."""
        return self._all(
            "SELECT address, until FROM lockouts WHERE until > ? AND cleared IS NULL"
            " ORDER BY until", now,
        )  # fmt: skip

    def clear_lockout(self, address: str, now: float) -> bool:
        """Have an address let in again by all servers; False when it is not blocked."""
        return self._connection.execute(
            "UPDATE lockouts SET cleared = ? WHERE address = ? AND until > ? AND cleared IS NULL",
            (now, address, now),
        ).rowcount > 0

    def cleared_lockouts(self, since: float) -> list[tuple[str, float]]:
        """Return the addresses that are to be let in again, and since when."""
        return self._all(
            "SELECT address, cleared FROM lockouts WHERE cleared > ? ORDER BY cleared", since
        )

    def forget_lockouts(self, now: float) -> None:
        """Drop those that are over, of the rest all but the latest."""
        self._do("DELETE FROM lockouts WHERE until < ?", now)
        self._do(
            "DELETE FROM lockouts WHERE address IN"
            " (SELECT address FROM lockouts ORDER BY until DESC LIMIT -1 OFFSET ?)",
            MAX_LOCKOUTS,
        )

    # Processes

    def beat(self, process: str, now: float) -> None:
        """Say that a process lives."""
        self._do("INSERT OR REPLACE INTO processes VALUES (?, ?)", process, now)

    def release_dead(self, now: float, silence: float) -> None:
        """Release what processes hold that have not been heard of for so many seconds."""
        self._do("DELETE FROM processes WHERE abs(? - beat) > ?", now, silence)
        self._do("DELETE FROM holds WHERE process NOT IN (SELECT id FROM processes)")

    def end_process(self, process: str) -> None:
        """Release what a process holds, which ends."""
        self._do("DELETE FROM holds WHERE process = ?", process)
        self._do("DELETE FROM processes WHERE id = ?", process)

    def _do(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:
        with self._lock:
            return self._connection.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _report(self, statement: str, *values: Any) -> list[Any]:
        """Read with a connection of its own: who looks at many rows holds up no request."""
        if self.path is None:
            return self._all(statement, *values)
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)
        ) as connection:
            return connection.execute(statement, values).fetchall()

    def _sum(self, statement: str, *values: Any) -> int:
        return int(self._one(statement, *values)[0] or 0)

    def _file_identity(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            stat = os.stat(self.path)
        except OSError:
            return (0, 0)
        return stat.st_dev, stat.st_ino

    def _prepare(self) -> None:
        execute = self._connection.execute
        # Two servers may begin with a new file at once.
        execute(f"PRAGMA busy_timeout = {_PREPARING * 1000}")
        mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal" and self.path is not None:
            raise ConfigurationError(
                f"{self._name} cannot be used by several processes at once (SQLite's WAL mode). "
                "Put it on a local disk."
            )
        if self._is_prepared():  # nothing is written to one that another program holds
            return
        with self.transaction(busy=_PREPARING):
            if self._is_prepared():
                return
            for statement in _SCHEMA.split(";\n"):
                execute(statement)
            self._make_daily()
            execute(f"PRAGMA application_id = {APPLICATION}")
            execute(f"PRAGMA user_version = {VERSION}")

    def _is_prepared(self) -> bool:
        """True for a database of ours, False for an empty one.

        :raises ConfigurationError: for any other
        """
        if not self._one("SELECT count(*) FROM sqlite_master")[0]:
            return False
        if self._one("PRAGMA application_id")[0] != APPLICATION:
            raise ConfigurationError(
                f"{self._name} is the database of another program. Name a file of its own."
            )
        version = self._one("PRAGMA user_version")[0]
        if version > VERSION:
            raise ConfigurationError(
                f"{self._name} was written by a newer llmauth (schema {version}, this one "
                f"knows {VERSION}). Update llmauth: pip install --upgrade llmauth."
            )
        return True

    def _make_daily(self) -> None:
        """Make the tables of daily totals."""
        figures = ", ".join(f"{name} INTEGER NOT NULL" for name in TOTALS)
        for table, groups in _DAILY.items():
            texts = ", ".join(f"{name} TEXT NOT NULL" for name in groups)
            key = f"PRIMARY KEY ({', '.join(groups)})"
            self._do(f"CREATE TABLE {table} ({texts}, {figures}, {key}) WITHOUT ROWID")
        self._do("CREATE INDEX daily_of ON daily (key COLLATE NOCASE, day)")

    @property
    def _name(self) -> str:
        return f"The database {self.path}"


def _figures(row: RequestRow) -> list[int]:
    """Return what a request adds to the totals, in the order of `TOTALS`."""
    is_error = row.is_error
    return [
        1, is_error, row.input or 0, row.cached or 0, row.written or 0, row.output or 0,
        row.reasoning or 0, row.cost or 0, row.cost is None and not is_error, row.estimated,
        row.is_unknown,
    ]  # fmt: skip


def _smallest(groups: Iterable[str]) -> str:
    """Return the table with the fewest rows that tells totals by these."""
    return next(name for name, has in reversed(_DAILY.items()) if set(groups) <= set(has))


_CHECK_MODE = "Check its owner and mode, and those of its folder"


def _create(path: Path) -> None:
    """Make the file, readable by its owner only; SQLite's own files beside it get the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Say what is wrong with a database in words."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigurationError(
            f"The database {path} cannot be made: there is no folder {path and path.parent}. "
            "Make it, or name another file with --database."
        ) from None
    except OSError as exc:
        raise ConfigurationError(
            f"The database {path} cannot be used: {exc.strerror or exc}."
        ) from exc
    except sqlite3.DatabaseError as exc:
        reasons = {
            "file is not a database": "it is no SQLite database, or damaged. Restore a backup",
            "database disk image is malformed": "it is damaged. Restore a backup",
            "attempt to write a readonly database": f"it may not be written. {_CHECK_MODE}",
            "unable to open database file": f"it cannot be opened. {_CHECK_MODE}",
            "database is locked": "another program holds it. End that, or copy the file away",
        }
        reason = reasons.get(str(exc), str(exc))
        raise ConfigurationError(f"The database {path} cannot be used: {reason}.") from exc
