"""The wire capture: every exchange as JSON Lines, written by a process of its own.

A request thread only takes the time and queues what it has. One thread has what has gathered for a
moment written; decompression, redaction and writing are the other process's. A failing disk or a
full queue is counted and never fails a request.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import time

from ..exceptions import ConfigurationError
from ..redact.redactor import Redactor
from .file import RotatingFile
from .process import WriterProcess
from .queue import EventQueue, Message
from .recorder import Exchange

logger = logging.getLogger(__name__)

QUEUE_SIZE = 64 * 1024**2
"""Bytes of requests and responses that may wait in memory to be written."""

RESTART_INTERVAL = 1.0
"""Seconds between attempts to start the process that writes, and after which its end is noticed
when there is nothing to write."""

PATIENCE = 30.0
"""Seconds for one message, which is `queue.MESSAGE_SIZE` or one event at most. A process that takes
longer for it ends itself, and another goes on with the next one."""

AT_EXIT = 5.0
"""Seconds for what is left, under a server that does not tell when it ends."""

logger = logging.getLogger(__name__)

__all__ = ["Exchange", "WireCapture"]


class WireCapture:
    """Writes what crosses the proxy to a file. All methods may be called from any thread.

    What ends the process that writes may be the message that it was at, and part of that may be in
    the file. So it is not sent again; what was not sent as a whole is, to another process.

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
        _try(self._path)
        self._options = {"path": self._path, "max_bytes": max_bytes, "max_files": max_files}
        self._redactor = redactor
        self._numbers = itertools.count(1)
        self._queue = EventQueue(queue_size)
        self._process: WriterProcess | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._deadline = float("inf")
        self._next_start = 0.0
        self._missing = False
        self._complete = True

    @property
    def failures(self) -> int:
        """Failed writes, and events dropped, withheld or lost."""
        return self._queue.failures

    @property
    def state(self) -> str:
        """``ok``, or how many events were not written, and how far the capture is behind."""
        lag = self._queue.seconds_behind()
        if self._queue.writes and not self._queue.dropping and not lag:
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
        self._start()
        return Exchange(self._queue.put, next(self._numbers), (client, ids, credentials))

    def reopen(self) -> None:
        """Make the file anew if it was moved or removed; what is captured next goes into it."""
        try:
            _try(self._path)
        except ConfigurationError as exc:
            logger.error("%s", exc)

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds, and take no more."""
        with self._lock:
            first, thread = not self._queue.closed.is_set(), self._thread
            if first:
                self._deadline = time.monotonic() + timeout
            self._queue.close()
        if thread is not None:
            atexit.unregister(self.close)
            self._join(thread, timeout)
        if first and (self._queue.unwritten or not self._complete):
            logger.error(
                "The wire capture is incomplete: not written in time, %d events are lost.",
                self._queue.unwritten,
            )

    def _join(self, thread: threading.Thread, timeout: float) -> None:
        """Wait for the thread, and end the process that it waits for when it takes too long."""
        written = self._queue.written
        thread.join(timeout / 2)
        if thread.is_alive() and self._is_stuck_since(written):
            self._kill()  # another process may still write what comes after it
        thread.join(max(0.0, self._deadline - time.monotonic()))
        if thread.is_alive():
            self._kill()
            thread.join(timeout)

    def _start(self) -> None:
        """Start the thread unless it runs, or the end has come.

        Not before there is something to write: a server may fork after this was made.
        """
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._queue.closed.is_set():
                thread = threading.Thread(target=self._run, name="capture", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them; the next exchange tries it
                    self._queue.count_failures(1)
                    return
                self._thread = thread
                atexit.register(self.close, AT_EXIT)

    def _is_stuck_since(self, written: int) -> bool:
        """True when nothing was written since so many messages were, and something else waits."""
        begun = self._process is not None and self._process.begun
        queue = self._queue
        return begun and queue.writes and queue.written == written and queue.waiting > 0

    def _kill(self) -> None:
        if process := self._process:
            process.kill()

    def _run(self) -> None:
        self._complete, in_time = False, True
        while in_time and not self._queue.ended:
            if message := self._queue.take(RESTART_INTERVAL):
                in_time = self._deliver(message)
            elif not (self._process and self._process.running):
                self._restart()  # noticed now rather than by the next event
        if not in_time:
            self._kill()
        self._complete = in_time and (self._process is None or self._process.finish())

    def _deliver(self, message: Message) -> bool:
        """Have a message written; False when there is no time for that."""
        while time.monotonic() < self._deadline:
            if self._write(message):
                return True
            if self._queue.closed.wait(RESTART_INTERVAL):
                time.sleep(min(0.05, max(0.0, self._deadline - time.monotonic())))
        return False

    def _write(self, message: Message) -> bool:
        """Send a message, and wait for it to be written; False to try again later."""
        if not (process := self._process or self._restart()):
            return False
        try:
            written = process.write(message.events, message.dropped)
        except OSError:
            self._note_end(process.end())
            return False
        lost = self._queue.forget(written=written)
        if not written:
            self._note_end(process.end(), lost)
        return True

    def _restart(self) -> WriterProcess | None:
        """Start the process that writes, in place of one that has ended; None if that must wait."""
        if self._process:
            self._note_end(self._process.end())
        if time.monotonic() < self._next_start:
            return None
        self._next_start = time.monotonic() + RESTART_INTERVAL
        try:
            self._process = WriterProcess(self._redactor, self._note_report)
        except OSError as exc:  # no program, no memory
            self._note_end(f"cannot be started: {exc.strerror or exc}")
            return None
        if self._process.begin(self._options, PATIENCE):
            return self._process
        self._note_end(self._process.end())
        return None

    def _note_report(self, *, failures: int, writes: bool, warning: str, error: str) -> None:
        """Take note of what the process that writes reports."""
        self._queue.count_failures(failures)
        self._queue.writes = writes
        if self._missing:
            self._missing = False
            logger.warning("The process that writes the wire capture runs again.")
        if error:
            logger.error("%s", error)
        if warning:
            logger.warning("%s", warning)

    def _note_end(self, reason: str, lost: int = 0) -> None:
        """Take note that the process that writes has ended, or could not be started."""
        self._process = None
        if self._queue.closed.is_set():
            return  # what is lost is told in the end
        self._queue.count_failures(1)
        self._queue.writes = False
        if lost:
            reason += f", {lost} events are lost"
        if not self._missing:
            logger.error("The process that writes the wire capture %s. Trying again.", reason)
        self._missing = True


def _try(path: str) -> None:
    file = RotatingFile(path, max_bytes=0, max_files=1)
    try:
        file.open()
    except OSError as exc:
        raise ConfigurationError(
            f"The capture file {path} cannot be written: {exc.strerror or exc}."
        ) from exc
    file.close()
