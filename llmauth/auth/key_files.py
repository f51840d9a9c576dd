"""Files of keys, read again when they change: keys come and go without a restart.

Looked at while requests are answered, by one of their threads and at most once a second: there is
no thread of its own that a fork would lose, and the other requests do not wait.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..config.keys import KeySource, read_keys, read_provider_key, warn_of_weak
from ..config.settings import Settings
from ..exceptions import ConfigurationError
from ..providers.backend import Backend
from ..proxy.descriptors import is_exhausted
from ..redact.redactor import Redactor
from .credentials import KeyRing
from .guard import Guard

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the files."""

SETTLED = 1.0
"""Seconds since a file was last written to, before which it may not be complete."""

AT_THE_LATEST = 2.0
"""Seconds since a change was first seen, after which files are read though they go on changing: no
writer may keep a key that was withdrawn alive."""

Keys = tuple[tuple[str, str], ...]
"""Pairs of a name and a key."""


class KeyFiles:
    """Looks after all files of keys of an application.

    :param settings: as they were loaded
    :param guard: gets the new proxy keys
    :param backends: get their new provider keys
    :param redactor: gets every new key before anything else does, and keeps those withdrawn
    """

    def __init__(
        self,
        settings: Settings,
        guard: Guard,
        backends: Mapping[str, Backend],
        redactor: Redactor,
    ) -> None:
        self._guard = guard
        self._backends = backends
        self._redactor = redactor
        self._groups = []
        sources = settings.key_sources
        paths = [Path(source.value) for source in sources if source.in_file]
        if paths:
            read = partial(read_keys, sources)
            self._groups.append(_Group("proxy", paths, read, settings.keys, self._use_proxy_keys))
        for name, backend in settings.backends.items():
            source = backend.key_source
            if source and source.in_file:
                read = partial(_read_one, name, source)
                keys = ((name, backend.api_key or ""),)
                self._groups.append(
                    _Group("provider", [Path(source.value)], read, keys, self._use_provider_keys)
                )
        self._lock = threading.Lock()
        self._next = 0.0 if self._groups else math.inf

    @property
    def due(self) -> bool:
        """True when :meth:`look` would look at the files."""
        return time.monotonic() >= self._next

    def look(self) -> None:
        """Read what has changed; for every request, nearly always without effect."""
        if time.monotonic() < self._next or not self._lock.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + LOOK_INTERVAL
            for group in self._groups:
                group.look()
        finally:
            self._lock.release()

    def _use_proxy_keys(self, keys: Keys) -> None:
        self._redactor.add(*(key for _, key in keys))
        self._guard.keys = KeyRing(keys)
        warn_of_weak(keys)

    def _use_provider_keys(self, keys: Keys) -> None:
        self._redactor.add(*(key for _, key in keys))
        for name, key in keys:
            self._backends[name].key = key


class _Group:
    """Files whose keys are used together.

    :param kind: for the log
    :param read: returns the keys; raises ConfigurationError
    :param keys: those in use
    :param use: is given other ones
    """

    def __init__(
        self,
        kind: str,
        paths: list[Path],
        read: Callable[[], Keys],
        keys: Keys,
        use: Callable[[Keys], None],
    ) -> None:
        self._paths = paths
        self._kind = kind
        self._read = read
        self._keys = keys
        self._use = use
        # Not what the files are like now: they may have changed since they were read.
        self._seen: list[tuple[int, ...] | None] | None = None
        self._read_by = math.inf

    def look(self) -> None:
        seen = [_appearance(path) for path in self._paths]
        if seen == self._seen:
            self._read_by = math.inf
            return
        self._read_by = min(self._read_by, time.monotonic() + AT_THE_LATEST)
        fresh = any(found is not None and _is_fresh(found[0]) for found in seen)
        if fresh and time.monotonic() < self._read_by:
            return
        self._seen, self._read_by = seen, math.inf
        try:
            keys = self._read()
        except ConfigurationError as exc:
            if is_exhausted(exc):
                self._seen = None  # the files are as they should be: look again
            files = ", ".join(map(str, self._paths))
            logger.error("the %s keys stay as they are: %s (in %s)", self._kind, exc, files)
            return
        if keys != self._keys:
            before, self._keys = self._keys, keys
            self._use(keys)
            logger.info("%s keys were read again: %s", self._kind, _difference(before, keys))


def _read_one(name: str, source: KeySource) -> Keys:
    return ((name, read_provider_key(source)),)


def _appearance(path: Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another, symbolic links followed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The time of change notices what keeps the time of modification: a rename, a new mode.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _is_fresh(modified: int) -> bool:
    """True for a file that may be being written; not for one from the future, by a wrong clock."""
    return 0 <= time.time_ns() - modified < SETTLED * 1e9


def _difference(before: Keys, after: Keys) -> str:
    old, new = dict(before), dict(after)
    said = {
        "added": [name for name in new if name not in old],
        "withdrawn": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return "; ".join(f"{word} {', '.join(names)}" for word, names in said.items() if names)
