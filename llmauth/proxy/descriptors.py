"""How many files and sockets this process may have open, and what to do when none is left."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter

OPEN_FILES = 16_384
"""A stream takes two descriptors; the soft limit of 1,024 on most systems is too low."""

RESERVED_FILES = 32
"""Beside connections: standard streams, log, listening sockets, triggers, the store, the pipes and
the log of the wire capture, files of keys, temporary files of large bodies."""

_EXHAUSTED = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
    getattr(errno, "WSAEMFILE", errno.EMFILE),  # of sockets, on Windows
})  # fmt: skip


def raise_file_limit() -> None:
    """Let this process open as many files as it may need."""
    try:
        import resource
    except ImportError:
        return
    if sys.platform == "win32":  # has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:
        return OPEN_FILES
    if sys.platform == "win32":
        return OPEN_FILES
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def connections_within(files: int) -> int:
    """Return how many clients fit in so many open files.

    Each may need an upstream of its own, and as many connections to others may be kept for later.
    """
    return max(4, (files - RESERVED_FILES) // 3)


def is_exhausted(exc: BaseException | None) -> bool:
    """True for an error, or the cause of one, that says that no descriptor or memory is left."""
    looked_up = False
    while exc is not None:
        if isinstance(exc, socket.gaierror):
            looked_up = True
        elif isinstance(exc, OSError) and exc.errno in _EXHAUSTED:
            return True
        exc = exc.__cause__ or exc.__context__
    return looked_up and not _can_open()  # a resolver says no more than that it did not work


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


class Seldom(logging.Filter):
    """Lets each place in the code log one warning or error a second, and counts the others.

    What clients can cause as often as they like must fill neither the disk nor the time of the
    thread that serves all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._next: dict[tuple[str, int], float] = {}
        self._left_out: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        with self._lock:
            if now < self._next.get(place, 0.0):
                self._left_out[place] += 1
                return False
            self._next[place] = now + 1.0
            left_out = self._left_out.pop(place, 0)
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} more of these)"
            record.args = None
        return True
