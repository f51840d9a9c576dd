"""Brings what waits in the queue to the process that writes, and starts another when that ends."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from typing import Any

from ..redact.redactor import Redactor
from .process import WriterProcess
from .queue import EventQueue

RESTART_INTERVAL = 1.0
"""Seconds between attempts to start the process that writes."""

PATIENCE = 30.0
"""Seconds for one message, which is `queue.MESSAGE_SIZE` or one event at most. A process that takes
longer for it ends itself, and another goes on with the next one."""

AT_EXIT = 5.0
"""Seconds for what is left, under a server that does not tell when it ends."""

logger = logging.getLogger(__name__)


class Delivery:
    """A thread of its own sends the messages of a queue, from `start` on.

    :param arguments: of `CaptureWriter`
    :param redactor: its secrets are sent to the process
    """

    def __init__(self, queue: EventQueue, arguments: dict[str, Any], redactor: Redactor) -> None:
        self.failures = 0
        """Failed writes, and events withheld or lost."""

        self.writes = True
        """Lines are being written, as far as is known."""

        self._queue = queue
        self._arguments = arguments
        self._redactor = redactor
        self._process: WriterProcess | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._next_start = 0.0
        self._missing = self._complete = False
        self._lost = 0

    def start(self) -> bool:
        """Start the thread unless it runs; False if that cannot be, or the end has come.

        Not before there is something to send: a server may fork after this was made.
        """
        if self._thread is not None or self._closing.is_set():
            return self._thread is not None
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="capture", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them
                    self.failures += 1
                    return False
                self._thread = thread
                atexit.register(self._close_at_exit)
        return True

    def count_failure(self) -> None:
        """Count an event that cannot be sent."""
        with self._lock:
            self.failures += 1

    def close(self, timeout: float) -> None:
        """Send all that is in the queue, and have it written, for at most `timeout` seconds."""
        with self._lock:
            first = not self._closing.is_set()
            if first:
                self._deadline = time.monotonic() + timeout
                self._closing.set()
            thread = self._thread
        self._queue.close()
        if thread is None:
            return
        atexit.unregister(self._close_at_exit)
        written = self._queue.written
        thread.join(timeout / 2)
        if thread.is_alive() and self._is_stuck_since(written):
            self._kill()  # another process may still write what comes after it
        thread.join(max(0.0, self._deadline - time.monotonic()))
        if thread.is_alive():
            self._kill()
            thread.join(timeout)
        if first and not self._complete:
            logger.error(
                "The wire capture is incomplete: not written in time, %d events are lost.",
                self._lost + self._queue.unwritten,
            )

    def _close_at_exit(self) -> None:
        self.close(AT_EXIT)

    def _is_stuck_since(self, written: int) -> bool:
        """True when nothing was written since so many messages were, and something else waits."""
        begun = self._process is not None and self._process.begun
        queue = self._queue
        return begun and self.writes and queue.written == written and queue.blocked

    def _kill(self) -> None:
        if process := self._process:
            process.kill()

    def _run(self) -> None:
        in_time = True
        while in_time and self._queue.gather():
            in_time = self._deliver()
        while in_time and (process := self._process):
            if process.finish(self._deadline - time.monotonic()):
                break
            # It has ended too early; what it had not begun is for another one.
            in_time = self._queue.unsent and self._deliver()
        if self._process:
            self._process.finish(0)
        self._complete = in_time and not self._lost

    def _deliver(self) -> bool:
        """Send what is ready to the process that writes; False when there is no time for that."""
        while time.monotonic() < self._deadline:
            if self._send():
                return True
            if self._closing.wait(RESTART_INTERVAL):
                time.sleep(min(0.05, max(0.0, self._deadline - time.monotonic())))
        return False

    def _send(self) -> bool:
        if (self._process is None or self._process.ended) and not self._start_process():
            return False
        process = self._process
        assert process
        try:
            while message := self._queue.next():
                process.send(message.events, message.dropped)
        except OSError:
            process.finish(0)
            lost = self._queue.take_back()
            with self._lock:
                self.failures += lost
            return False
        return True

    def _start_process(self) -> bool:
        if time.monotonic() < self._next_start:
            return False
        if self._process:
            self._process.finish(0)
        self._next_start = time.monotonic() + RESTART_INTERVAL
        try:
            self._process = WriterProcess(
                self._arguments,
                self._redactor,
                patience=PATIENCE,
                on_report=self._note_report,
                on_written=self._queue.confirm,
                on_end=self._note_end,
            )
        except (OSError, RuntimeError) as exc:  # no program, no memory, no thread
            self._note_end(f"cannot be started: {getattr(exc, 'strerror', None) or exc}")
            return False
        return True

    def _note_report(self, *, failures: int, writes: bool, warning: str, error: str) -> None:
        """Take note of what the process that writes reports."""
        with self._lock:
            self.failures += failures
            self.writes = writes
            self._queue.excused = not writes
            back, self._missing = self._missing, False
        if back:
            logger.warning("The process that writes the wire capture runs again.")
        if error:
            logger.error("%s", error)
        if warning:
            logger.warning("%s", warning)

    def _note_end(self, reason: str) -> None:
        """Take note that the process that writes has ended."""
        lost = self._queue.take_back()
        with self._lock:
            self.failures += lost
            if self._closing.is_set():
                self._lost += lost
                known = True
            else:
                self.failures += 1
                self.writes = False
                self._queue.excused = True
                known, self._missing = self._missing, True
        self._queue.wake()
        if lost:
            reason += f", {lost} events are lost"
        if not known:
            logger.error("The process that writes the wire capture %s. Trying again.", reason)
