"""Where failures are counted: in memory that is bounded, or in any ``limits`` storage."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import limits.errors
from limits.storage import storage_from_string

from .exceptions import ConfigurationError
from .uris import masked_uri

MAX_FAILING = 80_000
"""Addresses whose failures are remembered; more than the 65,536 networks /64 of one IPv6 /48."""

MAX_STRUCK = 80_000
"""Addresses whose blocks and strikes are remembered. They have a table of their own, so that
addresses which fail once cannot push out one that is blocked."""

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


class Struck(NamedTuple):
    """An address that has been blocked; moments are Unix times.

    :param until: when its block ends
    :param strikes: blocks so far
    :param forgotten: when they no longer count
    """

    until: float
    strikes: int
    forgotten: float


class MemoryLedger:
    """Failures, blocks and strikes in memory that is bounded, without timers and threads.

    The storage that comes with ``limits`` keeps an entry for every key it ever saw. Here the
    address that was heard of least recently makes room: an attacker who is still at it is never it.

    :param limit: failures within the window that block an address
    :param window: seconds, and how long strikes outlive a block
    :param block_seconds: returns the length of the block after so many strikes
    """

    def __init__(self, limit: int, window: int, block_seconds: Callable[[int], int]) -> None:
        self._limit = limit
        self._window = window
        self._block_seconds = block_seconds
        self._lock = threading.Lock()
        self._failing: OrderedDict[str, tuple[float, ...]] = OrderedDict()
        self._struck: OrderedDict[str, Struck] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failing) + len(self._struck)

    def blocked_until(self, address: str) -> float | None:
        """Return the end of the address's block as a Unix time, None when it is not blocked."""
        with self._lock:
            struck = self._struck.get(address)
            if struck is None:
                return None
            self._struck.move_to_end(address)
            return struck.until if struck.until > time.time() else None

    def failed(self, address: str) -> tuple[bool, int | None]:
        """Count a failure: whether it came in time to be answered 401, and the block it set."""
        with self._lock:
            now = time.time()
            struck = self._struck.get(address)
            strikes = struck.strikes if struck and struck.forgotten > now else 0
            if struck and struck.until > now:
                return False, None
            if not strikes:
                failures = self._failing.pop(address, ())
                failures = (*(at for at in failures if at > now - self._window), now)
                if len(failures) < self._limit:
                    self._failing[address] = failures
                    _touch(self._failing, address, MAX_FAILING)
                    return True, None
            seconds = self._block_seconds(strikes)
            end = now + seconds
            self._struck[address] = Struck(end, strikes + 1, end + self._window)
            _touch(self._struck, address, MAX_STRUCK)
            return True, seconds

    def forget(self, address: str) -> None:
        """Drop all failures and strikes of an address that showed the right key."""
        with self._lock:
            self._failing.pop(address, None)
            struck = self._struck.pop(address, None)
            if struck and struck.until > time.time():
                # It was set by other failures while the key was being checked.
                self._struck[address] = Struck(struck.until, 0, 0.0)


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
    try:
        store = storage_from_string(uri, wrap_exceptions=True, **_options(scheme))
        try_out(store)
    # Each client library has errors of its own, for a bad URI and for a server that refuses.
    except Exception as exc:
        raise ConfigurationError(f"The store {masked_uri(uri)} {_trouble(exc, scheme)}.") from None
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
        return "wants a password: write :PASSWORD@ before the host"
    reason = (masked_uri(reason).splitlines() or [type(exc).__name__])[0]
    return f"cannot be {what}: {reason.rstrip('.')[:200]}"
