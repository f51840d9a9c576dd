"""The moving window of ``limits`` in the database's file, where processes count together."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from limits.storage import MovingWindowSupport, Storage

from ..auth.stores import CountingStore, in_memory, open_store, store_errors
from .store import Database


def shared_windows(uri: str) -> tuple[CountingStore | None, tuple[type[Exception], ...]]:
    """Return the store that machines share, and what it raises when it fails.

    :param uri: of the store of failed attempts; one in memory is not shared
    :raises ConfigurationError: when it cannot be reached
    """
    return (None, ()) if in_memory(uri) else (open_store(uri), store_errors(uri))


class FileWindows(Storage, MovingWindowSupport):
    """A storage of ``limits`` for moving windows.

    :param database: where the entries are kept
    """

    STORAGE_SCHEME = ["llmauth-file"]

    def __init__(self, database: Database) -> None:
        super().__init__(None, wrap_exceptions=False)
        self._database = database

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What the file may raise."""
        return (sqlite3.Error,)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Put entries into a window, unless more than ``limit`` were in it then."""
        with self._database.transaction():
            return self._database.enter(key, limit, expiry, time.time(), amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when a window's first entry was made, as a Unix time, and how many there are."""
        now = time.time()
        first, number = self._database.window(key, now - expiry)
        return first or now, number

    def clear(self, key: str) -> None:
        """Empty a window."""
        self._database.clear_window(key)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not supported: a moving window has no counters."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not supported, as :meth:`incr`."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not supported, as :meth:`incr`."""
        raise NotImplementedError

    def check(self) -> bool:
        """Say whether the file can be read."""
        self._database.revision()
        return True

    def reset(self) -> Any:
        """Not supported: windows end by themselves."""
        raise NotImplementedError
