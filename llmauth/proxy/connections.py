"""Connections to one upstream, leased to one request at a time.

What an upstream sends on a connection that nobody has leased belongs to nobody: a second answer to
a request whose body it took for another request, or more than it had announced. Such a connection
is closed. The look comes last before the next request is sent; what arrives after that cannot be
told from its answer, so whoever returns a connection must know that nothing of the kind is due.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from .watch import Watch, unread


class Connections:
    """Keeps idle connections, and opens others.

    :param connect: opens a connection under watch; returns a socket that does not block
    :param kept: how many idle ones are kept
    :param idle_timeout: seconds; one that has been idle for so long is not used again, since what
        stands in between, such as a NAT, may have forgotten it without a word
    """

    def __init__(self, connect: Callable[[Watch], Any], *, kept: int, idle_timeout: float) -> None:
        self._connect = connect
        self._kept = kept
        self._idle_timeout = idle_timeout
        self._idle: deque[tuple[float, Any]] = deque()
        self._lock = threading.Lock()

    def lease(self, watch: Watch) -> Any:
        """Return a connection on which nothing but the next request is due; raises as ``connect``.

        The one that was used last is the first to be used again.
        """
        while sock := self._taken():
            with contextlib.suppress(OSError):
                if unread(sock) is None:
                    return sock
            sock.close()
        return self._connect(watch)

    def give_back(self, sock: Any) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            self._close_idle(self._kept - 1)
            if self._kept:
                self._idle.append((monotonic(), sock))
                return
        sock.close()

    def close(self) -> None:
        """Close those that are idle, and keep no more."""
        with self._lock:
            self._kept = 0
            self._close_idle(0)

    def _taken(self) -> Any:
        with self._lock:
            self._close_idle(self._kept)
            return self._idle.pop()[1] if self._idle else None

    def _close_idle(self, kept: int) -> None:
        """Close those that have been idle for too long, and the oldest that are too many."""
        idle, oldest = self._idle, monotonic() - self._idle_timeout
        while idle and (len(idle) > max(kept, 0) or idle[0][0] <= oldest):
            idle.popleft()[1].close()
