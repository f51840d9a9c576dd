"""Files of keys, read again when they change: keys come and go without a restart.

One of the threads that answer requests checks them, at most once a second: there is no thread of
its own that a fork would lose, and the other requests do not wait.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..config.keys import KeySource, read_keys, read_provider_key, warn_of_weak
from ..config.settings import Settings
from ..exceptions import ConfigurationError
from ..redact.redactor import Redactor
from .guard import Guard

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0
"""Seconds between two checks of the files."""

SETTLED = 1.0
"""Seconds since a file was last written to, before which it may not be complete."""

AT_THE_LATEST = 2.0
"""Seconds since a change was first seen, after which files are read though they go on changing: no
writer may keep a key that was withdrawn alive."""

Keys = tuple[tuple[str, str], ...]
"""Pairs of a name and a key."""


class KeyFiles:
    """All files of keys of an application.

    :param settings: as they were loaded
    :param guard: gets the new proxy keys
    :param redactor: gets every new key before anything else does, and keeps those withdrawn
    :param use_provider_key: is told a backend's name and its new key
    """

    def __init__(
        self,
        settings: Settings,
        guard: Guard,
        redactor: Redactor,
        use_provider_key: Callable[[str, str], None],
    ) -> None:
        self._guard = guard
        self._redactor = redactor
        self._use_provider_key = use_provider_key
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
        """True when :meth:`reload_if_changed` would ask the disk."""
        return time.monotonic() >= self._next

    def reload_if_changed(self) -> None:
        """Read what has changed; for every request, nearly always without effect."""
        if not self.due or not self._lock.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + CHECK_INTERVAL
            for group in self._groups:
                group.reload_if_changed()
        finally:
            self._lock.release()

    def _use_proxy_keys(self, keys: Keys) -> None:
        self._redactor.add(*(key for _, key in keys))
        self._guard.use_keys(keys)
        warn_of_weak(keys)

    def _use_provider_keys(self, keys: Keys) -> None:
        self._redactor.add(*(key for _, key in keys))
        for name, key in keys:
            self._use_provider_key(name, key)


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
        self._state: list[tuple[int, ...] | None] | None = None
        self._read_by = math.inf
        self._error = ""

    def reload_if_changed(self) -> None:
        state = [_state_of(path) for path in self._paths]
        if state == self._state:
            self._read_by = math.inf
            return
        self._read_by = min(self._read_by, time.monotonic() + AT_THE_LATEST)
        fresh = any(one is not None and _is_fresh(one[0]) for one in state)
        if fresh and time.monotonic() < self._read_by:
            return
        self._state, self._read_by = state, math.inf
        try:
            keys = self._read()
        except ConfigurationError as exc:
            self._state = None  # try again: the fault may be this process's, without descriptors
            self._complain(str(exc))
            return
        self._error = ""
        if keys != self._keys:
            before, self._keys = self._keys, keys
            self._use(keys)
            logger.info("%s keys were read again: %s", self._kind, _difference(before, keys))

    def _complain(self, error: str) -> None:
        if error != self._error:
            self._error = error
            files = ", ".join(map(str, self._paths))
            logger.error("the %s keys stay as they are: %s (in %s)", self._kind, error, files)


def _read_one(name: str, source: KeySource) -> Keys:
    return ((name, read_provider_key(source)),)


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another, symbolic links followed."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    # The time of change notices what keeps the time of modification: a rename, a new mode.
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev


def _is_fresh(modified: int) -> bool:
    """True for a file that may be being written; not for one from the future, by a wrong clock."""
    return 0 <= time.time_ns() - modified < SETTLED * 1e9


def _difference(before: Keys, after: Keys) -> str:
    old, new = dict(before), dict(after)
    names = {
        "added": [name for name in new if name not in old],
        "withdrawn": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return "; ".join(f"{what} {', '.join(which)}" for what, which in names.items() if which)
