"""The database: all of its SQL, and nothing but SQL, so that another one could take its place.

SQLite in WAL mode, for any number of processes on one machine (the file must be on a local disk).
Moments are Unix times in UTC, money is in billionths of a dollar.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
CREATE TABLE tokens (key TEXT NOT NULL, at REAL NOT NULL, tokens INTEGER NOT NULL);
CREATE INDEX tokens_of ON tokens (key, at);
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


class Held(NamedTuple):
    """What a key's running requests hold."""

    requests: int
    tokens: int
    cost: int


class Database:
    """One connection, which threads may share.

    :param path: of the file; None for one in memory
    :raises ConfigurationError: when it cannot be used, saying why
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        with explained(path):
            if path is not None:
                _create(path)
            self._connection = sqlite3.connect(
                path or ":memory:",
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        self._identity = self._file_identity()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @property
    def is_replaced(self) -> bool:
        """True once the path is that of another file, or of none."""
        return self._file_identity() != self._identity

    @contextlib.contextmanager
    def transaction(self, busy: float = BUSY_SECONDS) -> Iterator[None]:
        """Do all of it or nothing, and nobody else in between.

        :param busy: seconds to wait for others, which hold the file
        """
        with self._lock:
            self._connection.execute(f"PRAGMA busy_timeout = {int(busy * 1000)}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

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
        # What is from the future, by a clock that was wrong, is from now: it prolongs nothing.
        self._do("UPDATE entries SET at = ? WHERE window = ? AND at > ?", now, window, now)
        self._do("DELETE FROM entries WHERE window = ? AND at <= ?", window, now - seconds)
        if self._sum("SELECT count(*) FROM entries WHERE window = ?", window) + amount > limit:
            return False
        self._connection.executemany("INSERT INTO entries VALUES (?, ?)", [(window, now)] * amount)
        return True

    def window(self, window: str, since: float) -> tuple[float | None, int]:
        """Return the moment of a window's oldest entry since then, and how many there are."""
        row = self._one(
            "SELECT min(at), count(*) FROM entries WHERE window = ? AND at > ?", window, since
        )
        return row[0], row[1]

    def clear_window(self, window: str) -> None:
        """Empty a window."""
        self._do("DELETE FROM entries WHERE window = ?", window)

    # Tokens and dollars

    def held(self, key: str) -> Held:
        """Return what a key's running requests hold."""
        return Held(*self._one(
            "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(cost), 0) FROM holds"
            " WHERE key = ?", key,
        ))  # fmt: skip

    def hold(self, process: str, key: str, tokens: int, cost: int) -> int:
        """Hold tokens and dollars for a request; return the id of the hold."""
        cursor = self._connection.execute(
            "INSERT INTO holds (process, key, tokens, cost) VALUES (?, ?, ?, ?)",
            (process, key, tokens, cost),
        )
        return int(cursor.lastrowid or 0)

    def release(self, hold: int, process: str) -> None:
        """Give a hold back."""
        self._do("DELETE FROM holds WHERE id = ? AND process = ?", hold, process)

    def add_tokens(self, key: str, at: float, tokens: int, seconds: float) -> None:
        """Note tokens for a limit within so many seconds, and forget older ones."""
        self._do("DELETE FROM tokens WHERE key = ? AND at <= ?", key, at - seconds)
        self._do("INSERT INTO tokens VALUES (?, ?, ?)", key, at, tokens)

    def recent_tokens(self, key: str, now: float, seconds: float) -> list[tuple[float, int]]:
        """Return when a key used how many tokens, the oldest first."""
        self._do("UPDATE tokens SET at = ? WHERE key = ? AND at > ?", now, key, now)
        return self._all(
            "SELECT at, tokens FROM tokens WHERE key = ? AND at > ? ORDER BY at",
            key, now - seconds,
        )  # fmt: skip

    def spend(self, key: str, period: str, tokens: int, cost: int) -> None:
        """Add to what a key has used in a period."""
        self._do(
            "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost",
            key, period, tokens, cost,
        )  # fmt: skip

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
            "SELECT window, 'requests_per_minute', count(*), 0 FROM entries WHERE at > ?"  # noqa: S608 # nosec B608
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
        rows = list(rows)
        marks = ", ".join("?" * len(RequestRow._fields))
        self._connection.executemany(
            f"INSERT INTO requests VALUES ({marks})",  # noqa: S608 # nosec B608: marks only
            [row for _, row in rows],
        )
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in TOTALS)
        for table, groups in _DAILY.items():
            marks = ", ".join("?" * (len(groups) + len(TOTALS)))
            self._connection.executemany(
                f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO UPDATE SET {sums}",  # noqa: S608 # nosec B608
                _summed(groups, rows),
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
            f"SELECT {columns} FROM {table} WHERE {where} {grouped} LIMIT {largest:d}",  # noqa: S608 # nosec B608
            *values,
        )

    def requests(self, number: int, key: str | None = None) -> list[RequestRow]:
        """Return the requests that ended last, the newest first."""
        where, values = ("", ()) if key is None else ("WHERE key = ?", (key,))
        rows = self._report(
            f"SELECT * FROM requests {where} ORDER BY at DESC LIMIT ?",  # noqa: S608 # nosec B608
            *values, number,
        )  # fmt: skip
        return [RequestRow(*row) for row in rows]

    def first_bytes(
        self, since: float, number: int, key: str | None = None
    ) -> list[tuple[str, int]]:
        """Return the models of the last so many requests, and milliseconds to the first byte."""
        where, values = ("", ()) if key is None else ("key = ? AND", (key,))
        return self._report(
            f"SELECT model, first_ms FROM requests WHERE {where} at > ?"  # noqa: S608 # nosec B608
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
        execute("PRAGMA busy_timeout = 10000")  # two servers may begin with a new file at once
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        with self.transaction(busy=10.0):
            version = execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ConfigurationError(
                    f"{self._name} was written by a newer llmauth (schema {version}, this one "
                    f"knows {VERSION}). Update llmauth: pip install --upgrade llmauth."
                )
            if version == VERSION:
                self._make_daily()
                return
            if execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ConfigurationError(
                    f"{self._name} is the database of another program. Name a file of its own."
                )
            for statement in _SCHEMA.split(";\n"):
                execute(statement)
            self._make_daily()
            execute(f"PRAGMA application_id = {APPLICATION}")
            execute(f"PRAGMA user_version = {VERSION}")

    def _make_daily(self) -> None:
        """Make those tables of daily totals that are not there yet, of the one that tells most."""
        execute = self._connection.execute
        there = {row[0] for row in execute("SELECT name FROM sqlite_master")}
        figures = ", ".join(f"{name} INTEGER NOT NULL" for name in TOTALS)
        sums = ", ".join(f"sum({name})" for name in TOTALS)
        for table in _DAILY.keys() - there:
            names = ", ".join(_DAILY[table])
            texts = ", ".join(f"{name} TEXT NOT NULL" for name in _DAILY[table])
            execute(
                f"CREATE TABLE {table} ({texts}, {figures}, PRIMARY KEY ({names})) WITHOUT ROWID"
            )
            if "daily" in there:
                execute(f"INSERT INTO {table} SELECT {names}, {sums} FROM daily GROUP BY {names}")  # noqa: S608 # nosec B608
        execute("CREATE INDEX IF NOT EXISTS daily_of ON daily (key COLLATE NOCASE, day)")

    @property
    def _name(self) -> str:
        return f"The database {self.path}"


def _smallest(groups: Iterable[str]) -> str:
    """Return the table with the fewest rows that tells totals by these."""
    return next(name for name, has in reversed(_DAILY.items()) if set(groups) <= set(has))


def _summed(
    groups: Sequence[str], rows: Iterable[tuple[str, RequestRow]]
) -> list[tuple[Any, ...]]:
    """Return the totals of requests, each with its day."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for day, row in rows:
        group = tuple(day if name == "day" else getattr(row, name) for name in groups)
        figures = (row.input, row.cached, row.written, row.output, row.reasoning, row.cost)
        is_unpriced = row.cost is None and not row.is_error
        new = (1, row.is_error, *(one or 0 for one in figures), is_unpriced, row.estimated,
               row.is_unknown)
        before = sums.get(group)
        sums[group] = [*new] if before is None else [a + b for a, b in zip(before, new)]  # noqa: B905
    return [(*group, *figures) for group, figures in sums.items()]


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
            "attempt to write a readonly database": f"it may not be written. {_CHECK_MODE}",
            "unable to open database file": f"it cannot be opened. {_CHECK_MODE}",
            "database is locked": "another program holds it. End that, or copy the file away",
        }
        reason = reasons.get(str(exc), str(exc))
        raise ConfigurationError(f"The database {path} cannot be used: {reason}.") from exc
