"""Where the lockout's ledger is kept: in memory that is bounded, or in any ``limits`` storage."""

from __future__ import annotations

import math
import threading
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from importlib import import_module
from typing import Any, Protocol

import limits.errors
from limits.storage import MovingWindowSupport, Storage, storage_from_string

from ..exceptions import ConfigurationError
from ..redact.uris import masked_uri

MAX_ADDRESSES = 66_000
"""Whose failures, blocks and strikes are remembered, each in a table of its own, so that addresses
which fail once cannot push out one that is blocked. More than the 65,536 networks /64 of one IPv6
/48: all of them can be blocked at a time."""

MAX_FORGIVEN = 10_000
"""Entries of a table that lets addresses off, as for repeats. Who is pushed out of it is treated as
strictly as a stranger."""

_STRICT = frozenset({"failure", "block", "strike"})
"""Kinds of which `MAX_ADDRESSES` are remembered, of any other `MAX_FORGIVEN`."""

_LONG = 1024
"""Numbers above which an entry is not copied for each one that is added."""

_Table = OrderedDict[str, "bytes | array[float]"]

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 0.1, 0.15
"""Seconds; together the quarter of a second that a hanging store may cost a request."""

CONNECTIONS = 16
"""On which a process talks to its store at a time."""


class CountingStore(Protocol):
    """What the ledger needs of a ``limits`` storage. Each call is atomic.

    A window is kept for the ``expiry`` of its latest entry. ``limits`` promises that for entries
    that count; Redis, Valkey and MongoDB also keep the older ones for as long, up to the limit.
    """

    def incr(self, key: str, expiry: int, amount: int = 1) -> int: ...
    def get(self, key: str) -> int: ...
    def get_expiry(self, key: str) -> float: ...
    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...
    def clear(self, key: str) -> None: ...


class BoundedMemory(Storage, MovingWindowSupport):
    """A storage of ``limits`` in memory that is bounded, without timers and threads.

    The one that comes with ``limits`` keeps an entry for every key it ever saw. Here the keys of a
    kind, which is their first part, have a table, in which the key that was heard of least
    recently makes room: an attacker who is still at it is never it.

    An entry is an array of numbers: the moment of its end, and then a counter's value, or the
    moments in a window. Moments are monotonic: clocks are set. Short ones are kept as bytes, which
    take half of the memory.
    """

    STORAGE_SCHEME = ["llmauth-memory"]

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: Any) -> None:
        super().__init__(uri, wrap_exceptions)
        self._lock = threading.Lock()
        self._tables: defaultdict[str, _Table] = defaultdict(OrderedDict)

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Nothing can go wrong in it."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter, which ends ``expiry`` seconds after it began; return its value."""
        with self._lock:
            counter = self._find(key) or array("d", (time.monotonic() + expiry, 0))
            counter[1] += amount
            self._put(key, counter)
            return int(counter[1])

    def get(self, key: str) -> int:
        """Return a counter's value, 0 for none."""
        with self._lock:
            counter = self._find(key)
            return int(counter[1]) if counter else 0

    def get_expiry(self, key: str) -> float:
        """Return when a counter ends, as a Unix time."""
        with self._lock:
            counter = self._find(key)
            return time.time() + (counter[0] - time.monotonic() if counter else 0)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Put entries into a window, unless more than ``limit`` were in it then."""
        with self._lock:
            now, window = time.monotonic(), self._find(key) or array("d", (0,))
            first = bisect_left(window, now - expiry, 1)
            if len(window) - first + amount > limit:
                return False
            if len(window) <= _LONG:
                del window[1 : max(1, len(window) + amount - limit)]
            elif first > len(window) // 2:
                del window[1:first]
            window[0] = now + expiry
            window.extend([now] * amount)
            self._put(key, window)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when a window's first entry was made, as a Unix time, and how many there are."""
        with self._lock:
            now, window = time.monotonic(), self._find(key)
            if not window:
                return time.time(), 0
            first = max(bisect_left(window, now - expiry, 1), len(window) - limit)
            age = now - window[first] if first < len(window) else 0
            return time.time() - age, len(window) - first

    def clear(self, key: str) -> None:
        """Drop a counter or a window."""
        kind, name = _split(key)
        with self._lock:
            self._tables[kind].pop(name, None)

    def check(self) -> bool:
        """Say that it works."""
        return True

    def reset(self) -> None:
        """Drop everything."""
        with self._lock:
            self._tables.clear()

    def _find(self, key: str) -> array[float] | None:
        kind, name = _split(key)
        table = self._tables[kind]
        kept = table.get(name)
        if kept is None:
            return None
        entry = array("d", kept) if isinstance(kept, bytes) else kept
        if entry[0] <= time.monotonic():
            del table[name]
            return None
        table.move_to_end(name)
        return entry

    def _put(self, key: str, entry: array[float]) -> None:
        kind, name = _split(key)
        table = self._tables[kind]
        table[name] = entry if len(entry) > _LONG else entry.tobytes()
        if len(table) > (MAX_ADDRESSES if kind in _STRICT else MAX_FORGIVEN):
            table.popitem(last=False)


def _split(key: str) -> tuple[str, str]:
    """Return a key's kind and the rest."""
    parts = key.split("/", 2)
    return (parts[1], parts[2]) if len(parts) == 3 else ("", key)


def open_store(uri: str) -> CountingStore:
    """Open the store of a URI, and make sure that it answers.

    :param uri: ``memory://`` is ours, which is bounded, and not that of ``limits``
    :raises ConfigurationError: saying what to install, or that the store cannot be reached
    """
    if in_memory(uri):
        return BoundedMemory()
    scheme = uri.partition("://")[0]
    try:
        store: Any = storage_from_string(uri, wrap_exceptions=True, **_options(scheme))
        try_out(store)
    # Each client library has errors of its own, for a bad URI and for a server that refuses.
    except Exception as exc:
        raise ConfigurationError(f"The store {masked_uri(uri)} {_trouble(exc, scheme)}.") from None
    return store  # type: ignore[no-any-return]


def shared_store(uri: str) -> tuple[CountingStore | None, tuple[type[Exception], ...]]:
    """Return the store that machines share, and what it raises when it fails.

    :param uri: of a store; one in memory is not shared
    :raises ConfigurationError: when it cannot be reached
    """
    return (None, ()) if in_memory(uri) else (open_store(uri), store_errors(uri))


def in_memory(uri: str) -> bool:
    """True for the store that no other process shares."""
    return uri.startswith("memory:")


def try_out(store: CountingStore) -> None:
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
        # And one to find out whether a store is back: an exhausted pool would look like a dead one.
        "max_connections": CONNECTIONS + 1,
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
