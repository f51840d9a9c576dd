"""The wire capture: every exchange as JSON Lines, written by a process of its own.

A request thread only takes the time and queues what it has. One thread sends on what has gathered
for a moment; decompression, redaction and writing are the other process's. A failing disk or a
full queue is counted and never fails a request.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import time
from collections import deque

from .capture_file import RotatingFile
from .capture_messages import packed
from .capture_process import WriterProcess
from .capture_recorder import Event, Exchange
from .exceptions import ConfigurationError
from .redactor import Redactor

OVERHEAD = 128
"""Bytes that a queued event takes beside its own."""

QUEUE_SIZE = 64 * 1024**2
"""Bytes of requests and responses that may wait in memory to be written."""

FULL_QUEUE_WAIT = 0.1
"""Seconds that the start of an exchange waits for room in a full queue; after that, until there is
room, none does. A chunk never waits: one thread may be carrying all streams."""

GATHERING = 0.03
"""Seconds in which events gather that are sent together: the thread that sends them takes Python's
lock from the requests each time it wakes."""

MESSAGE_SIZE = 256 * 1024
"""Bytes of events that are sent at once, without waiting for more."""

RESTART_INTERVAL = 1.0
"""Seconds between attempts to start the process that writes."""

__all__ = ["Exchange", "WireCapture"]

logger = logging.getLogger(__name__)


class WireCapture:
    """Writes what crosses the proxy to a file. All methods may be called from any thread.

    :param path: opened at once, mode 0600
    :param max_bytes: size at which a file is rotated
    :param max_files: files in all
    :param queue_size: bytes that may wait in memory
    :raises ConfigurationError: the file cannot be written
    """

    def __init__(
        self,
        path: str,
        redactor: Redactor,
        *,
        max_bytes: int,
        max_files: int,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self.failures = 0
        """Failed writes, and events dropped or withheld."""

        self._redactor = redactor
        self._arguments = {
            "path": os.path.abspath(path),
            "max_bytes": max_bytes,
            "max_files": max_files,
        }
        _try(RotatingFile(path, max_bytes=max_bytes, max_files=max_files))
        self._numbers = itertools.count(1)
        self._queue_size = queue_size
        self._events: deque[bytes] = deque()
        self._held = self._unsent = self._dropped = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._process: WriterProcess | None = None
        self._thread: threading.Thread | None = None
        self._closing = self._resting = self._dropping = self._missing = self._complete = False
        self._writes = True
        self._next_start = 0.0
        self._deadline = float("inf")

    @property
    def healthy(self) -> bool:
        """Whether everything is being written at the moment."""
        return self._writes and not self._dropping

    def exchange(
        self,
        *,
        request_id: str,
        client: str,
        backend: str,
        key_name: str | None,
        credentials: tuple[str, ...] = (),
    ) -> Exchange:
        """Return the recorder for one request and its response.

        :param credentials: of the request; masked however long the exchange takes
        """
        ids = {"request_id": request_id, "backend": backend, "key_name": key_name}
        return Exchange(self.put, next(self._numbers), (client, ids, credentials))

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds, and take no more."""
        with self._lock:
            first, self._closing = not self._closing, True
            if first:
                self._deadline = time.monotonic() + timeout
            self._arrived.notify_all()
            self._room.notify_all()
            thread = self._thread
        if thread is None:
            return
        atexit.unregister(self._close_at_exit)
        thread.join(timeout)
        if process := self._process if thread.is_alive() else None:
            process.kill()
            thread.join(timeout)
        if first and not self._complete:
            logger.error("The wire capture is incomplete: it could not be written in time.")

    def put(self, event: Event, *, always: bool, patient: bool) -> bool:
        """Queue an event; False when there is no room for it.

        :param always: needed to complete an exchange that is in the capture already
        :param patient: wait a moment for room
        """
        # As bytes: thousands of tuples that live for a moment keep the garbage collector busy,
        # which costs a tenth of the requests.
        try:
            data = packed(event)
        except ValueError:  # a server gave us something else than it should have
            with self._lock:
                self.failures += 1
            return False
        size = len(data) + OVERHEAD
        with self._lock:
            if self._closing and not always:
                return False
            if not always and not self._make_room(size, patient):
                return False
            if self._thread is None and not self._start():
                return False
            self._held += size
            self._unsent += size
            self._events.append(data)
            if self._resting or self._unsent >= MESSAGE_SIZE:
                self._arrived.notify()
            return True

    def _start(self) -> bool:
        # Not before it is needed: a server may fork after this was made.
        thread = threading.Thread(target=self._run, name="capture", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more of them
            self.failures += 1
            return False
        self._thread = thread
        atexit.register(self._close_at_exit)
        return True

    def _close_at_exit(self) -> None:
        self.close(5.0)  # under a server that does not tell when it ends

    def _has_room(self, size: int) -> bool:
        # What is larger than the whole queue passes alone.
        return self._held + size <= self._queue_size or not self._held

    def _make_room(self, size: int, patient: bool) -> bool:
        if patient and not self._dropping:
            self._room.wait_for(lambda: self._has_room(size), FULL_QUEUE_WAIT)
        if self._has_room(size):
            self._dropping = False
            return True
        self.failures += 1
        self._dropped += 1
        if not self._dropping:
            self._dropping = True
            logger.warning("The wire capture cannot keep up: events are being dropped.")
        return False

    def _run(self) -> None:
        sent = True
        while sent and (found := self._gather()):
            events, size, dropped = found
            sent = self._deliver(events, dropped)
            with self._lock:
                self._held -= size
                self._dropping = self._dropping and self._held > self._queue_size // 2
                self._room.notify_all()
        process = self._process
        in_time = process is None or process.finish(self._deadline - time.monotonic())
        self._complete = sent and in_time

    def _gather(self) -> tuple[list[bytes], int, int] | None:
        """Wait for events; return some of them, their size, and how many were dropped.

        Returns None when there will be no more.
        """
        with self._lock:
            self._resting = True
            self._arrived.wait_for(
                lambda: self._events or self._dropped or self._closing or self._missing
            )
            self._resting = False
            self._arrived.wait_for(lambda: self._unsent >= MESSAGE_SIZE or self._closing, GATHERING)
            if self._closing and not (self._events or self._dropped):
                return None
            events, total = [], 0
            while self._events and total < MESSAGE_SIZE:
                events.append(self._events.popleft())
                total += len(events[-1]) + OVERHEAD
            self._unsent -= total
            dropped, self._dropped = self._dropped, 0
            return events, total, dropped

    def _deliver(self, events: list[bytes], dropped: int) -> bool:
        """Send events to the process that writes; False when that was not possible in time."""
        while not self._send(events, dropped):
            with self._lock:
                self._arrived.wait_for(lambda: self._closing, RESTART_INTERVAL)
            if self._closing:
                time.sleep(min(0.05, max(0.0, self._deadline - time.monotonic())))
            if time.monotonic() >= self._deadline:
                return False
        return True

    def _send(self, events: list[bytes], dropped: int) -> bool:
        if self._process is None or self._process.ended:
            if time.monotonic() < self._next_start:
                return False
            if self._process:
                self._process.finish(0)
            self._next_start = time.monotonic() + RESTART_INTERVAL
            try:
                self._process = WriterProcess(
                    self._arguments, self._redactor, heard=self._hear, missing=self._miss
                )
            except (OSError, RuntimeError) as exc:  # no program, no memory, no thread
                self._miss(f"cannot be started: {getattr(exc, 'strerror', None) or exc}")
                return False
        try:
            self._process.send(events, dropped)
        except OSError:
            self._process.finish(0)
            return False
        return True

    def _hear(self, *, failures: int, writes: bool, warning: str, error: str) -> None:
        """Take note of what the process that writes has to say."""
        with self._lock:
            self.failures += failures
            self._writes = writes
            back, self._missing = self._missing, False
        if back:
            logger.warning("The process that writes the wire capture runs again.")
        if error:
            logger.error("%s", error)
        if warning:
            logger.warning("%s", warning)

    def _miss(self, reason: str) -> None:
        """Take note that the process that writes has ended."""
        with self._lock:
            self._arrived.notify()
            if self._closing:
                return
            self.failures += 1
            self._writes = False
            known, self._missing = self._missing, True
        if not known:
            logger.error("The process that writes the wire capture %s. Trying again.", reason)


def _try(file: RotatingFile) -> None:
    try:
        file.open()
    except OSError as exc:
        raise ConfigurationError(
            f"The capture file {file.path} cannot be written: {exc.strerror or exc}."
        ) from exc
    file.close()
