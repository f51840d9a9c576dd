"""The database: all of its SQL, and nothing but SQL, so that another one could take its place.

SQLite in WAL mode, for any number of processes on one machine (the file must be on a local disk).
Moments are Unix times in UTC, money is in billionths of a dollar.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from ..exceptions import ConfigurationError

VERSION = 2
"""Of the schema, in ``PRAGMA user_version``."""

APPLICATION = 0x6C6C6D61
"""``PRAGMA application_id``: what tells our files from those of other programs."""

MAX_LOCKOUTS = 10_000
"""Addresses that are kept to be shown."""

BUSY_SECONDS = 1.0
"""For which a request may wait for another writer; batches are written in milliseconds."""

LEASE_SECONDS = 2.0
"""For which a process may count alone: as long another one waits when that has been killed."""

_PREPARING = 10  # seconds
_VALUES = 999  # of a statement: SQLite may have been built for no more
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
CREATE TABLE holds (
    id INTEGER PRIMARY KEY, process TEXT NOT NULL, key TEXT NOT NULL, tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL);
CREATE INDEX holds_of ON holds (key);
CREATE TABLE lease (process TEXT NOT NULL, until REAL NOT NULL, wanted INTEGER NOT NULL);
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

_MIGRATIONS = {
    1: """
DROP TABLE windows;
DROP TRIGGER entry_added;
DROP TRIGGER entry_left;
DROP TABLE holds;
CREATE TABLE holds (
    id INTEGER PRIMARY KEY, process TEXT NOT NULL, key TEXT NOT NULL, tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL);
CREATE INDEX holds_of ON holds (key);
CREATE TABLE lease (process TEXT NOT NULL, until REAL NOT NULL, wanted INTEGER NOT NULL);
"""
}
"""What makes each older schema the next one. What was held is held by nobody any more: the servers
that made it have ended."""


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


def new_hold_id() -> int:
    """Return an id that no process gives anything else, wherever it counts.

    From no system call, which would hand Python's lock on while others wait for that of the counts;
    the child of a fork has other numbers.
    """
    return random.getrandbits(62)  # noqa: S311 # nosec B311: no secret


class HoldRow(NamedTuple):
    """What is held for a request that runs: tokens, and billionths of a dollar."""

    id: int
    key: str
    tokens: int
    cost: int


class Lease(NamedTuple):
    """Says that one process has the counts of limits to itself.

    :param until: by the clock that all processes of the machine share, `time.monotonic`
    :param wanted: another one asks for them
    """

    process: str
    until: float
    wanted: bool

    def is_valid(self, clock: float) -> bool:
        """True until its end; False after the machine was started anew, when clocks begin anew."""
        return 0 < self.until - clock <= LEASE_SECONDS


_ADDING_TOKENS = "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"


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

    :param path: of the file
    :raises ConfigurationError: when it cannot be used, saying why
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        with explained(path):
            _create(path)
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise
        self._identity = self._file_identity()
        if hasattr(os, "register_at_fork"):
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
            self._opened = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
            self._busy = round(BUSY_SECONDS * 1000)  # milliseconds
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
    def snapshot(self) -> Iterator[None]:
        """Read what the file says at one moment."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

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
            connection = self._connection
            if self._busy != rest:
                connection.execute(f"PRAGMA busy_timeout = {max(rest, 0)}")
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

    def add_entries(self, entries: Iterable[tuple[str, float]]) -> None:
        """Put entries into windows, with the moment of each."""
        self._insert("entries", [*entries])

    def all_entries(self, since: float) -> list[tuple[str, float]]:
        """Return the entries of all windows since then, the oldest first."""
        return self._all("SELECT window, at FROM entries WHERE at > ? ORDER BY at", since)

    def window(self, window: str, now: float, seconds: float) -> tuple[float | None, int]:
        """Return the moment of a window's oldest entry, and how many there are."""
        row = self._one(
            "SELECT min(at), count(*) FROM entries WHERE window = ? AND at > ?",
            window, now - seconds,
        )  # fmt: skip
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
        number = new_hold_id()
        self._do("INSERT INTO holds VALUES (?, ?, ?, ?, ?)", number, process, key, tokens, cost)
        return number

    def add_holds(self, process: str, rows: Iterable[HoldRow]) -> None:
        """Write what is held elsewhere."""
        self._insert(
            "holds",
            [(row.id, process, row.key, row.tokens, row.cost) for row in rows],
            "ON CONFLICT DO NOTHING",
        )

    def all_holds(self, process: str) -> list[HoldRow]:
        """Return all that a process holds."""
        rows = self._all("SELECT id, key, tokens, cost FROM holds WHERE process = ?", process)
        return [HoldRow(*row) for row in rows]

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
        self._insert("tokens", [(*of, number) for of, number in sums.items()], _ADDING_TOKENS)

    def tidy(self, now: float, seconds: float) -> None:
        """Forget what has left all windows."""
        # What is from the future, by a clock that was wrong, is from now: it prolongs nothing.
        self._do("UPDATE entries SET at = ? WHERE at > ?", now, now)
        self._do("DELETE FROM entries WHERE at <= ?", now - seconds)
        self._do(
            "INSERT INTO tokens SELECT key, ?, sum(tokens) FROM tokens WHERE at > ? GROUP BY key"
            f" {_ADDING_TOKENS}", math.ceil(now), math.ceil(now),
        )  # fmt: skip
        self._do("DELETE FROM tokens WHERE at > ? OR at <= ?", math.ceil(now), now - seconds)

    def all_tokens(self, since: float) -> list[tuple[str, float, int]]:
        """Return which keys used how many tokens when, the oldest first."""
        return self._all("SELECT key, at, tokens FROM tokens WHERE at > ? ORDER BY at", since)

    def recent_sum(self, key: str, now: float, seconds: float) -> int:
        """Return how many tokens a key used within the last seconds."""
        return self._sum(
            "SELECT sum(tokens) FROM tokens WHERE key = ? AND at > ?", key, now - seconds
        )

    def recent_tokens(self, key: str, now: float, seconds: float) -> list[tuple[float, int]]:
        """Return when a key used how many tokens, the oldest first."""
        return self._all(
            "SELECT at, tokens FROM tokens WHERE key = ? AND at > ? ORDER BY at",
            key, now - seconds,
        )  # fmt: skip

    def spend(self, used: Iterable[tuple[str, str, int, int]]) -> None:
        """Add to what keys have used in periods: key, period, tokens, dollars."""
        self._insert(
            "spent",
            [*used],
            "ON CONFLICT DO UPDATE"
            " SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost",
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

    def all_spent(self, periods: Collection[str]) -> list[tuple[str, str, int, int]]:
        """Return what all keys have used in some periods."""
        marks = ", ".join("?" * len(periods))
        return self._all(
            f"SELECT key, period, tokens, cost FROM spent WHERE period IN ({marks})",  # noqa: S608
            *periods,
        )

    # What was used

    def add_requests(self, rows: Iterable[tuple[str, RequestRow]]) -> None:
        """Add requests that have ended, and to the totals of their days.

        :param rows: with the day of each
        """
        ended = [*rows]
        self._insert("requests", [row for _, row in ended])
        totals = _summed(
            ((day, row.key, row.backend, row.model), _figures(row)) for day, row in ended
        )
        adding = ", ".join(f"{name} = {name} + excluded.{name}" for name in TOTALS)
        for table, groups in _DAILY.items():
            places = [GROUPS.index(name) for name in groups]
            sums = _summed(
                (tuple(group[at] for at in places), figures) for group, figures in totals.items()
            )
            self._insert(
                table,
                [(*group, *figures) for group, figures in sums.items()],
                f"ON CONFLICT DO UPDATE SET {adding}",
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

    def others(self, process: str, now: float, silence: float) -> int:
        """Return how many other processes have been heard of within so many seconds."""
        return self._sum(
            "SELECT count(*) FROM processes WHERE id != ? AND abs(? - beat) <= ?",
            process, now, silence,
        )  # fmt: skip

    def end_process(self, process: str) -> None:
        """Release what a process holds, which ends."""
        self._do("DELETE FROM holds WHERE process = ?", process)
        self._do("DELETE FROM processes WHERE id = ?", process)
        self.end_lease(process)

    def lease(self) -> Lease | None:
        """Return who has the counts to itself, or had."""
        row = self._one("SELECT process, until, wanted FROM lease")
        return row and Lease(row[0], row[1], bool(row[2]))

    def take_lease(self, process: str, until: float) -> None:
        """Have a process have them."""
        self._do("DELETE FROM lease")
        self._do("INSERT INTO lease VALUES (?, ?, 0)", process, until)

    def want_lease(self) -> None:
        """Ask whoever has them to write them here."""
        self._do("UPDATE lease SET wanted = 1 WHERE wanted = 0")

    def end_lease(self, process: str) -> None:
        """Have no process have them any more."""
        self._do("DELETE FROM lease WHERE process = ?", process)

    def _insert(self, table: str, rows: Sequence[Sequence[Any]], then: str = "") -> None:
        """Put rows into a table, many in a statement: for each, threads hand Python's lock on."""
        number = _VALUES // len(rows[0]) if rows else 1
        for start in range(0, len(rows), number):
            some = rows[start : start + number]
            marks = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
            self._do(f"INSERT INTO {table} VALUES {marks} {then}", *chain(*some))  # noqa: S608

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
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)
        ) as connection:
            return connection.execute(statement, values).fetchall()

    def _sum(self, statement: str, *values: Any) -> int:
        return int(self._one(statement, *values)[0] or 0)

    def _file_identity(self) -> tuple[int, int]:
        try:
            stat = os.stat(self.path)
        except OSError:
            return (0, 0)
        return stat.st_dev, stat.st_ino

    def _prepare(self) -> None:
        execute = self._connection.execute
        # Two servers may begin with a new file at once.
        execute(f"PRAGMA busy_timeout = {_PREPARING * 1000}")
        if self._wal_mode() != "wal":
            raise ConfigurationError(
                f"{self._name} cannot be used by several processes at once (SQLite's WAL mode). "
                "Put it on a local disk."
            )
        if self._is_prepared():  # nothing is written to one that another program holds
            return
        with self.transaction(busy=_PREPARING):
            if self._is_prepared():
                return
            if version := self._one("PRAGMA user_version")[0]:
                for number in range(version, VERSION):
                    self._execute_each(_MIGRATIONS[number])
            else:
                self._execute_each(_SCHEMA)
                self._make_daily()
                execute(f"PRAGMA application_id = {APPLICATION}")
            execute(f"PRAGMA user_version = {VERSION}")

    def _wal_mode(self) -> str:
        """Have the log written ahead; return the mode that the file has then."""
        until = time.monotonic() + _PREPARING
        while True:
            try:
                return str(self._one("PRAGMA journal_mode = WAL")[0])
            except sqlite3.OperationalError:  # SQLite waits for nobody here
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _execute_each(self, statements: str) -> None:
        for statement in statements.split(";\n"):
            self._do(statement)

    def _is_prepared(self) -> bool:
        """True for a database of ours, False for an empty one, or one of an older release.

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
        return bool(version == VERSION)

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


def _summed(
    rows: Iterable[tuple[tuple[str, ...], Sequence[int]]],
) -> dict[tuple[str, ...], Sequence[int]]:
    """Return the sums of figures, place by place, of each group."""
    sums: dict[tuple[str, ...], Sequence[int]] = {}
    for group, figures in rows:
        before = sums.get(group)
        sums[group] = [*map(add, before, figures)] if before else figures
    return sums


def _smallest(groups: Iterable[str]) -> str:
    """Return the table with the fewest rows that tells totals by these."""
    return next(name for name, has in reversed(_DAILY.items()) if set(groups) <= set(has))


_CHECK_MODE = "Check its owner and mode, and those of its folder"


def _create(path: Path) -> None:
    """Make the file, readable by its owner only; SQLite's own files beside it get the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what is wrong with a database in words."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigurationError(
            f"The database {path} cannot be made: there is no folder {path.parent}. "
            "Make it, or name another file with --database."
        ) from None
    except OSError as exc:
        advice = f" {_CHECK_MODE}." if isinstance(exc, PermissionError) else ""
        raise ConfigurationError(
            f"The database {path} cannot be used: {exc.strerror or exc}.{advice}"
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
