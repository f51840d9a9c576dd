"""In which order connections are read, where the system has ``poll``.

Whoever has been let in before is read first, and everybody else for a short time only: then it is
looked again who is ready. So a request with a key waits for one or two heads of those without, and
not for those of all attackers.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from waitress import wasyncore

_SELECT: Any = select  # on Windows without `poll`, where none of this is used

READING_SECONDS = 0.0003
"""For which those are read who have not been let in; one of them in any case."""


class Poller:
    """Has the sockets that are ready read and written.

    :param connections: by descriptor, as ``wasyncore`` has them; one is let in while it is
        ``is_let_in``
    :param is_busy: true while other threads have something to do
    """

    def __init__(self, connections: dict[int, Any], is_busy: Callable[[], bool]) -> None:
        self._connections = connections
        self._is_busy = is_busy
        self._last = -1  # descriptor of the one that was read last of those without a key

    def poll(self, timeout: float) -> None:
        """Wait until a socket is ready, for so many seconds, and have them handled."""
        let_in: list[tuple[int, int]] = []
        others: list[tuple[int, int]] = []
        for descriptor, events in self._ready(timeout):
            connection = self._connections.get(descriptor)
            first = getattr(connection, "is_let_in", False)
            (let_in if first else others).append((descriptor, events))
        for descriptor, events in let_in:
            self._handle(descriptor, events)
        # In turn, or the lowest descriptors would be read each time.
        others.sort(key=lambda ready: (ready[0] <= self._last, ready[0]))
        until = time.monotonic() + READING_SECONDS
        for descriptor, events in others:
            self._last = descriptor
            self._handle(descriptor, events)
            if self._is_busy():
                time.sleep(0)  # leaves Python's lock to them
            if time.monotonic() > until:
                break

    def _ready(self, timeout: float) -> list[tuple[int, int]]:
        poller = _SELECT.poll()
        for descriptor, connection in list(self._connections.items()):
            events = _SELECT.POLLIN | _SELECT.POLLPRI if connection.readable() else 0
            if connection.writable() and not connection.accepting:
                events |= _SELECT.POLLOUT
            if events:
                poller.register(descriptor, events)
        ready: list[tuple[int, int]] = poller.poll(timeout * 1000)
        return ready

    def _handle(self, descriptor: int, events: int) -> None:
        connection = self._connections.get(descriptor)
        if connection is not None:  # another one may have closed it
            wasyncore.readwrite(connection, events)
