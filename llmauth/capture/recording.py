"""The wire capture: every exchange as JSON Lines, written by a process of its own.

A request thread only takes the time and queues what it has. One thread sends on what has gathered
for a moment; decompression, redaction and writing are the other process's. A failing disk or a
full queue is counted and never fails a request.
"""

from __future__ import annotations

import itertools
import logging
import os

from ..exceptions import ConfigurationError
from ..redact.redactor import Redactor
from .delivery import Delivery
from .file import RotatingFile
from .pipe import packed
from .queue import EventQueue
from .recorder import Event, Exchange

logger = logging.getLogger(__name__)

QUEUE_SIZE = 64 * 1024**2
"""Bytes of requests and responses that may wait in memory to be written."""

__all__ = ["Exchange", "WireCapture"]


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
        self._path = os.path.abspath(path)
        _try(path)
        arguments = {"path": self._path, "max_bytes": max_bytes, "max_files": max_files}
        self._numbers = itertools.count(1)
        self._queue = EventQueue(queue_size)
        self._delivery = Delivery(self._queue, arguments, redactor)

    @property
    def failures(self) -> int:
        """Failed writes, and events dropped, withheld or lost."""
        return self._queue.dropped + self._delivery.failures

    @property
    def healthy(self) -> bool:
        """Whether everything is being written at the moment, soon after it happens."""
        return self.state == "ok"

    @property
    def state(self) -> str:
        """``ok``, or how many events were not written, and how far the capture is behind."""
        lag = self._queue.seconds_behind()
        if self._delivery.writes and not self._queue.dropping and not lag:
            return "ok"
        return f"{f'{lag:.0f} s behind, ' if lag else ''}{self.failures} events not written"

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
        return Exchange(self._put, next(self._numbers), (client, ids, credentials))

    def reopen(self) -> None:
        """Make the file anew if it was moved or removed; what is captured next goes into it."""
        try:
            _try(self._path)
        except ConfigurationError as exc:
            logger.error("%s", exc)

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds, and take no more."""
        self._delivery.close(timeout)

    def _put(self, event: Event, *, always: bool) -> bool:
        """Queue an event; False when there is no room for it.

        :param always: needed to complete an exchange that is in the capture already
        """
        # As bytes: thousands of tuples that live for a moment keep the garbage collector busy,
        # which costs a tenth of the requests.
        try:
            data = packed(event)
        except ValueError:  # a server gave us something else than it should have
            self._delivery.count_failure()
            return False
        return self._delivery.start() and self._queue.put(data, always=always)


def _try(path: str) -> None:
    file = RotatingFile(path, max_bytes=0, max_files=1)
    try:
        file.open()
    except OSError as exc:
        raise ConfigurationError(
            f"The capture file {path} cannot be written: {exc.strerror or exc}."
        ) from exc
    file.close()
