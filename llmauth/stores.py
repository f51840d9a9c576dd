"""Where failures are counted: a bounded store in memory, or any ``limits`` storage."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from importlib import import_module
from typing import Any, Protocol

import limits.errors
from limits.storage import MovingWindowSupport, Storage, storage_from_string

from .exceptions import ConfigurationError
from .uris import masked_uri

MAX_WINDOWS = 80_000
"""Addresses whose failures are remembered; more than the 65,536 networks /64 of one IPv6 /48."""

MAX_COUNTERS = 80_000
"""Blocks and strikes that are remembered. They have a table of their own, so that addresses which
fail once cannot push out one that is blocked."""

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 0.1, 0.15
"""Seconds; together the quarter of a second that a hanging store may cost a request."""


MAX_CONNECTIONS = 8192
"""Of a process to its store; above any number of threads that can be configured."""


class CountingStore(Protocol):
    """What the lockout needs of a ``limits`` storage."""

    def incr(self, key: str, expiry: int, amount: int = 1) -> int: ...
    def get(self, key: str) -> int: ...
    def get_expiry(self, key: str) -> float: ...
    def clear(self, key: str) -> None: ...
    def check(self) -> bool: ...
    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...


class BoundedMemoryStorage(Storage, MovingWindowSupport):
    """A ``limits`` storage whose memory is bounded, without timers and threads of its own.

    The storage that comes with ``limits`` keeps an entry for every key it ever saw. Here the key
    that was asked for least recently makes room: an attacker who is still at it is never it.
    """

    STORAGE_SCHEME: list[str] | None = []

    def __init__(self) -> None:
        super().__init__(None)
        self._lock = threading.Lock()
        self._counters: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._windows: OrderedDict[str, tuple[float, ...]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def __len__(self) -> int:
        return len(self._counters) + len(self._windows)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        with self._lock:
            now = time.time()
            value, end = self._counters.get(key, (0, 0.0))
            value, end = (value + amount, end) if end > now else (amount, now + expiry)
            self._counters[key] = (value, end)
            _touch(self._counters, key, MAX_COUNTERS)
            return value

    def get(self, key: str) -> int:
        with self._lock:
            value, end = self._counters.get(key, (0, 0.0))
            if not value:
                return 0
            if end <= time.time():
                del self._counters[key]
                return 0
            self._counters.move_to_end(key)
            return value

    def get_expiry(self, key: str) -> float:
        with self._lock:
            return self._counters.get(key, (0, time.time()))[1]

    def clear(self, key: str) -> None:
        with self._lock:
            self._counters.pop(key, None)
            self._windows.pop(key, None)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        with self._lock:
            now = time.time()
            alive = tuple(at for at in self._windows.get(key, ()) if at > now - expiry)
            acquired = len(alive) + amount <= limit
            self._windows[key] = alive + (now,) * amount if acquired else alive
            _touch(self._windows, key, MAX_WINDOWS)
            return acquired

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        with self._lock:
            now = time.time()
            alive = [at for at in self._windows.get(key, ()) if at > now - expiry]
            return (alive[0], len(alive)) if alive else (now, 0)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        with self._lock:
            count = len(self)
            self._counters.clear()
            self._windows.clear()
            return count


class Recent:
    """The moments that were put in most recently, by address; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._moments: OrderedDict[str, float] = OrderedDict()

    def get(self, address: str) -> float:
        """Return the address's moment as a Unix time, 0 for none."""
        return self._moments.get(address, 0.0)

    def put(self, address: str, moment: float) -> None:
        with self._lock:
            self._moments[address] = moment
            _touch(self._moments, address, self._limit)

    def drop(self, address: str) -> None:
        with self._lock:
            self._moments.pop(address, None)


def _touch(table: OrderedDict[str, Any], key: str, limit: int) -> None:
    table.move_to_end(key)
    if len(table) > limit:
        table.popitem(last=False)


def open_store(uri: str) -> CountingStore:
    """Open the store of a URI, and make sure that it answers.

    :raises ConfigurationError: saying what to install, or that the store cannot be reached
    """
    scheme = uri.partition("://")[0]
    if scheme == "memory":
        return BoundedMemoryStorage()
    try:
        store = storage_from_string(uri, wrap_exceptions=True, **_options(scheme))
        try_out(store)
    # Each client library has errors of its own, for a bad URI and for a server that refuses.
    except Exception as exc:
        raise ConfigurationError(f"The store {masked_uri(uri)} {_trouble(exc, scheme)}.") from exc
    return store  # type: ignore[return-value]


def try_out(store: Any) -> None:
    """Write to a store: one that only lets read, or is full, is of no use.

    :raises StorageError: when it does not take it
    """
    store.incr("llmauth/reachable", 1)


def store_errors(uri: str) -> tuple[type[Exception], ...]:
    """Return what a store raises when it does not answer; ``limits`` misses a cluster's own."""
    scheme = uri.partition("://")[0]
    if not scheme.endswith("+cluster"):
        return (limits.errors.StorageError,)
    module = import_module(f"{_package(scheme)}.exceptions")
    own = getattr(module, f"{_package(scheme).title()}ClusterException")
    return limits.errors.StorageError, own


def _options(scheme: str) -> dict[str, Any]:
    """Return the client library's options that keep a hanging store from holding requests."""
    if scheme.startswith("mongodb"):
        milliseconds = math.ceil((CONNECT_TIMEOUT + ANSWER_TIMEOUT) * 1000)
        names = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
        return dict.fromkeys(names, milliseconds)
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
        # As many as there may be threads; a pool that is exhausted would look like a dead store.
        "max_connections": MAX_CONNECTIONS,
    }
    package = _package(scheme)
    backoff, retry = import_module(f"{package}.backoff"), import_module(f"{package}.retry")
    # The libraries try again three times by themselves, with pauses.
    options["retry"] = retry.Retry(backoff.NoBackoff(), 0)
    if scheme.endswith("+sentinel"):
        # A replica may not know yet of a failure that the master has counted.
        return options | {"use_replicas": False, "sentinel_kwargs": dict(options)}
    return options


def _package(scheme: str) -> str:
    """Return the package that speaks to the stores of a scheme."""
    return {"r": "redis", "v": "valkey", "m": "pymongo"}[scheme[0]]


def _trouble(exc: Exception, scheme: str) -> str:
    """Say what is wrong with a store, as the end of a sentence that begins with its URI."""
    if isinstance(exc, ImportError) or "prerequisite" in str(exc):
        return f"needs the package '{_package(scheme)}': pip install {_package(scheme)}"
    what = "used"
    if isinstance(exc, limits.errors.StorageError):
        what, exc = "reached", exc.storage_error
    reason = str(exc)
    if "NOAUTH" in reason or "already authenticated" in reason:
        return f"wants a password: {scheme}://:PASSWORD@HOST:PORT"
    reason = (masked_uri(reason).splitlines() or [type(exc).__name__])[0]
    return f"cannot be {what}: {reason.rstrip('.')[:200]}"
