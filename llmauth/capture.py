"""The wire capture: every exchange as JSON Lines, written by a thread of its own.

A request thread only takes the time and queues what it has; decompression, redaction and writing
happen on the writer thread. A failing disk or a full queue is counted and never fails a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from .capture_events import ExchangeLog
from .capture_file import RotatingFile
from .capture_json import SafeJSON
from .capture_recorder import Exchange, Item
from .redactor import Redactor

QUEUE_SIZE = 64 * 1024**2
"""Bytes of requests and responses that may wait in memory to be written."""

FULL_QUEUE_WAIT = 0.1
"""Seconds that the start of an exchange waits for room in a full queue; after that, until there is
room, none does. A chunk never waits: one thread may be carrying all streams."""

RETRY_INTERVAL = 1.0
"""Seconds between attempts to write to a failing disk."""

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

        self._json = SafeJSON(redactor)
        self._file = RotatingFile(path, max_bytes=max_bytes, max_files=max_files)
        self._queue_size = queue_size
        self._items: deque[Item] = deque()
        self._held = self._dropped = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._closing = self._write_fails = self._dropping = self._incomplete = False
        self._deadline = float("inf")

    @property
    def healthy(self) -> bool:
        """Whether everything is being written at the moment."""
        return not (self._write_fails or self._dropping)

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
        return Exchange(self.put, ExchangeLog(self._json, client, ids, credentials))

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
            self._file.close()
            return
        thread.join(timeout + 0.1)
        if first and (self._incomplete or thread.is_alive()):
            logger.error("The wire capture is incomplete: it could not be written in time.")

    def put(self, item: Item, *, always: bool, patient: bool) -> bool:
        """Queue an event; False when there is no room for it.

        :param always: needed to complete an exchange that is in the capture already
        :param patient: wait a moment for room
        """
        with self._lock:
            if self._closing and not always:
                return False
            if not always and not self._make_room(item.size, patient):
                return False
            self._held += item.size
            self._items.append(item)
            if self._thread is None:
                # Not before it is needed: a server may fork after this was made.
                self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
                self._thread.start()
            self._arrived.notify()
            return True

    def _make_room(self, size: int, patient: bool) -> bool:
        def has_room() -> bool:
            # What is larger than the whole queue passes alone.
            return self._held + size <= self._queue_size or not self._held

        if patient and not has_room() and not self._dropping:
            self._room.wait_for(has_room, FULL_QUEUE_WAIT)
        if has_room():
            self._dropping = False
            return True
        self.failures += 1
        self._dropped += 1
        if not self._dropping:
            self._dropping = True
            logger.warning("The wire capture cannot keep up: events are being dropped.")
        return False

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._items or self._dropped or self._closing):
                    self._arrived.wait()
                batch, self._items = self._items, deque()
                dropped, self._dropped = self._dropped, 0
            if not batch and not dropped:
                break
            if dropped:
                nobody = ExchangeLog(self._json)
                self._write(nobody.remark("stream_end", time.time(), dropped_events=dropped))
            for item in batch:
                held = item.log.held
                for line in self._rendered(item):
                    self._write(line)
                with self._lock:
                    self._held += item.log.held - held - item.size
                    self._dropping = self._dropping and self._held > self._queue_size // 2
                    self._room.notify()
        self._file.close()

    def _rendered(self, item: Item) -> list[str]:
        try:
            item.log.remember()
            return item.render()
        except Exception:
            # Whatever could not be shown is not written, and the rest goes on.
            self._count_failure()
            logger.error("An event of the wire capture is withheld: it could not be redacted.")
            note = "withheld: it could not be redacted"
            return [item.log.remark(item.direction, item.at, note=note)]

    def _write(self, line: str) -> None:
        """Write a line, again and again until it succeeds or time is up."""
        data = line.encode("utf-8", "replace") + b"\n"
        while True:
            try:
                self._file.write(data)
            except OSError as exc:
                self._count_failure()
                if not self._write_fails:
                    self._write_fails = True
                    reason = exc.strerror or type(exc).__name__
                    logger.error("The wire capture cannot be written: %s. Trying again.", reason)
            else:
                if self._write_fails:
                    self._write_fails = False
                    logger.warning("The wire capture is being written again.")
                return
            if not self._pause():
                self._incomplete = True
                return

    def _pause(self) -> bool:
        """Wait before the next attempt, less when closing; False when time is up."""
        with self._lock:
            self._arrived.wait_for(lambda: self._closing, RETRY_INTERVAL)
        if self._closing:
            time.sleep(min(0.05, max(0.0, self._deadline - time.monotonic())))
        return time.monotonic() < self._deadline

    def _count_failure(self) -> None:
        with self._lock:
            self.failures += 1
