"""The moving window of ``limits`` in the database's file, where processes count together."""

from __future__ import annotations

import sqlite3
import time

from limits.storage import MovingWindowSupport

from ..auth.stores import CountingStore, in_memory, open_store, store_errors
from .store import Database


def shared_windows(uri: str) -> tuple[CountingStore | None, tuple[type[Exception], ...]]:
    """Return the store that machines share, and what it raises when it fails.

    :param uri: of the store of failed attempts; one in memory is not shared
    :raises ConfigurationError: when it cannot be reached
    """
    return (None, ()) if in_memory(uri) else (open_store(uri), store_errors(uri))


class FileWindows(MovingWindowSupport):
    """The moving window of ``limits``, and none of its counters, which nothing here has a use for.

    :param database: where the entries are kept
    """

    base_exceptions, wrap_exceptions = (sqlite3.Error,), False
    """As ``limits`` wants to know of each storage: what it raises is raised as it is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Put entries into a window, unless more than ``limit`` were in it then."""
        with self._database.transaction():
            return self._database.enter(key, limit, expiry, time.time(), amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when a window's first entry was made, as a Unix time, and how many there are."""
        now = time.time()
        first, number = self._database.window(key, now - expiry)
        return first or now, number
