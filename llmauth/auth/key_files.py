"""Files of keys, read again when they change: keys come and go without a restart.

A thread of its own checks them, so that no request waits for a disk, and a key that was withdrawn
is gone though nobody asks. It ends with the application that it is there for.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..config.keys import KeySource, read_keys, read_provider_key, warn_of_weak
from ..config.settings import Settings
from ..exceptions import ConfigurationError
from ..redact.redactor import Redactor
from .guard import Guard

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 0.25
"""Seconds between two checks of the files."""

SETTLED = 1.0
"""Seconds since a file was last written to, before which it may not be complete."""

AT_THE_LATEST = 1.5
"""Seconds since a change was first seen, after which files are read though they go on changing: no
writer may keep a key that was withdrawn alive. With the checks' interval it is within two seconds.
"""

_CLOSING = 1.0
"""Seconds that the end of an application waits for a disk that does not answer."""

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
        self._begin()
        if self._groups:
            _survive_forks(weakref.ref(self))

    def reload(self) -> None:
        """Have all files read now, changed or not; does not wait for it."""
        self._all = True
        self._wake.set()

    def close(self) -> None:
        """End the thread; the files are not read again."""
        self._closed = True
        self._wake.set()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(_CLOSING)

    def _begin(self) -> None:
        """Start the thread; again in the child of a fork, which has none of its parent's."""
        self.lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = self._all = False
        self._thread: threading.Thread | None = None
        if self._groups:
            self._thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._wake),
                name="llmauth-key-files",
                daemon=True,
            )
            self._thread.start()

    def check(self) -> bool:
        """Read what has changed; False once there is nothing to do any more."""
        if self._closed:
            return False
        with self.lock:
            everything, self._all = self._all, False
            for group in self._groups:
                try:
                    group.check(anew=everything)
                except Exception as exc:  # whatever it is: the thread goes on
                    group.fail(exc)
        return True

    def _use_proxy_keys(self, keys: Keys) -> None:
        self._redactor.add(*(key for _, key in keys))
        self._guard.keys = self._guard.keys.replaced_by(keys)
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
        self._asked = False

    def check(self, *, anew: bool) -> None:
        """Read the files if they have changed.

        :param anew: read them in any case, and say so
        """
        if anew:
            self._state, self._asked = None, True
        state = self._states()
        if state == self._state:
            self._read_by = math.inf
            return
        now = time.monotonic()
        self._read_by = min(self._read_by, now + AT_THE_LATEST)
        may_wait = now < self._read_by
        if may_wait and any(one is not None and _is_fresh(*one) for one in state):
            return
        error, keys = "", self._keys
        try:
            keys = self._read()
        except ConfigurationError as exc:
            error = str(exc)
        if may_wait and self._states() != state:
            return  # it was written to meanwhile: this may be half of it
        # After an error it is tried again: the fault may be this process's, without descriptors.
        self._state, self._read_by = None if error else state, math.inf
        if error:
            self._complain(error)
        else:
            self._take(keys)

    def fail(self, exc: Exception) -> None:
        """Go on after what nobody thought of; it is tried again."""
        self._state = None
        self._complain(f"unexpected {type(exc).__name__}")

    def _take(self, keys: Keys) -> None:
        before = self._keys
        if keys != before:
            self._use(keys)
            self._keys = keys
        if keys != before or self._error or self._asked:
            self._error, self._asked = "", False
            what = _difference(before, keys) or "as they were"
            logger.info("%s keys were read again: %s", self._kind, what)

    def _states(self) -> list[tuple[int, ...] | None]:
        return [_state_of(path) for path in self._paths]

    def _complain(self, error: str) -> None:
        if error != self._error:
            self._error = error
            files = ", ".join(map(str, self._paths))
            logger.error("the %s keys stay as they are: %s (in %s)", self._kind, error, files)


def _watch(files: weakref.ref[KeyFiles], wake: threading.Event) -> None:
    """Check the files until they are closed, or nobody has their application any more."""
    while True:
        wake.wait(CHECK_INTERVAL)
        wake.clear()
        here = files()
        if here is None or not here.check():
            return
        del here


def _survive_forks(files: weakref.ref[KeyFiles]) -> None:
    """Have the thread in each child of a fork as well, which is not made in the middle of a check.

    gunicorn with ``--preload`` forks its workers from a process that has the application.
    """
    held: list[KeyFiles] = []

    def before() -> None:
        if here := files():
            here.lock.acquire()
            held.append(here)

    def in_parent() -> None:
        while held:
            held.pop().lock.release()

    def in_child() -> None:
        while held:
            held.pop()._begin()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


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


def _is_fresh(modified: int, _changed: int, size: int, *_: int) -> bool:
    """True for a file that may be being written; not for one from the future, by a wrong clock.

    An empty one counts: while a file is emptied, it has its old time for some milliseconds.
    """
    return size == 0 or 0 <= time.time_ns() - modified < SETTLED * 1e9


def _difference(before: Keys, after: Keys) -> str:
    old, new = dict(before), dict(after)
    names = {
        "added": [name for name in new if name not in old],
        "withdrawn": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return "; ".join(f"{what} {', '.join(which)}" for what, which in names.items() if which)
