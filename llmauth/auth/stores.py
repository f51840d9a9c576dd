"""Where the lockout's ledger is kept: in memory that is bounded, or in any ``limits`` storage."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from importlib import import_module
from struct import pack, unpack, unpack_from
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

_LONG = 1024
"""Entries from which on a window grows in place, and its old ones are dropped when they are half of
it: the next entry costs the same, however many there are."""

Packed = bytes | bytearray

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


class BoundedMemory(Storage, MovingWindowSupport):
    """A storage of ``limits`` in memory that is bounded, without timers and threads.

    The one that comes with ``limits`` keeps an entry for every key it ever saw. Here the keys of a
    kind, which is their first part, have a table, in which the key that was heard of least recently
    makes room: an attacker who is still at it is never it.

    An entry is packed numbers, a quarter of the size of a tuple: the moment of its end, and then a
    counter's value or the moments in a window. Moments are monotonic: clocks are set.
    """

    STORAGE_SCHEME = ["llmauth-memory"]

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: Any) -> None:
        super().__init__(uri, wrap_exceptions)
        self._lock = threading.Lock()
        self._tables: defaultdict[str, OrderedDict[str, Packed]] = defaultdict(OrderedDict)

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Nothing can go wrong in it."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter, which ends ``expiry`` seconds after it began; return its value."""
        with self._lock:
            found = self._find(key)
            end, value = unpack("2d", found) if found else (time.monotonic() + expiry, 0)
            self._put(key, pack("2d", end, value + amount))
            return int(value + amount)

    def get(self, key: str) -> int:
        """Return a counter's value, 0 for none."""
        with self._lock:
            found = self._find(key)
            return int(unpack("2d", found)[1]) if found else 0

    def get_expiry(self, key: str) -> float:
        """Return when a counter ends, as a Unix time."""
        with self._lock:
            found = self._find(key)
            return time.time() + (unpack("2d", found)[0] - time.monotonic() if found else 0)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Put entries into a window, unless more than ``limit`` were in it then."""
        with self._lock:
            now, found = time.monotonic(), self._find(key) or _NONE
            count = len(found) // 8 - 1
            begin = max(count - limit + amount, 0)  # of those that stay; the one before must be old
            if amount > limit or (begin and unpack_from("d", found, 8 * begin)[0] >= now - expiry):
                return False
            end, new = pack("d", now + expiry), pack(f"{amount}d", *[now] * amount)
            if count > _LONG:
                begin = max(begin, _since(found, now - expiry))
                if begin <= count // 2 and isinstance(found, bytearray):
                    found[:8] = end
                    found += new
                    return True
            packed = end + found[8 + 8 * begin :] + new
            self._put(key, bytearray(packed) if len(packed) // 8 - 1 > _LONG else packed)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when a window's first entry was made, as a Unix time, and how many there are."""
        with self._lock:
            now, found = time.monotonic(), self._find(key)
            if found is None:
                return time.time(), 0
            count = len(found) // 8 - 1
            begin = max(_since(found, now - expiry), count - limit)
            age = now - unpack_from("d", found, 8 + 8 * begin)[0] if begin < count else 0
            return time.time() - age, count - begin

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

    def _find(self, key: str) -> Packed | None:
        kind, name = _split(key)
        table = self._tables[kind]
        found = table.get(name)
        if found is None:
            return None
        if unpack_from("d", found)[0] <= time.monotonic():
            del table[name]
            return None
        table.move_to_end(name)
        return found

    def _put(self, key: str, packed: Packed) -> None:
        kind, name = _split(key)
        table = self._tables[kind]
        table[name] = packed
        if len(table) > (MAX_ADDRESSES if kind in _STRICT else MAX_FORGIVEN):
            table.popitem(last=False)


def _split(key: str) -> tuple[str, str]:
    """Return a key's kind and the rest."""
    kind, _, name = key.removeprefix("llmauth/").partition("/")
    return kind, name


_STRICT = frozenset({"failure", "block", "strike"})
_NONE = pack("d", 0.0)


def _since(window: Packed, moment: float) -> int:
    """Return the place of the window's first entry at that moment or later."""
    return bisect_left(memoryview(window).cast("d"), moment, 1) - 1


class Recent:
    """The moments that were put in most recently, by address; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._moments: OrderedDict[str, float] = OrderedDict()

    def get(self, address: str) -> float:
        """Return the address's moment, one that is long past for none."""
        return self._moments.get(address, -math.inf)

    def put(self, address: str, moment: float) -> None:
        with self._lock:
            self._moments[address] = moment
            self._moments.move_to_end(address)
            if len(self._moments) > self._limit:
                self._moments.popitem(last=False)

    def drop(self, address: str) -> None:
        with self._lock:
            self._moments.pop(address, None)


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
