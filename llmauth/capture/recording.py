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
from typing import NamedTuple

from ..exceptions import ConfigurationError
from ..redact.redactor import Redactor
from .file import RotatingFile
from .messages import packed
from .process import WriterProcess
from .recorder import Event, Exchange

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

LAG = 5.0
"""Seconds after which what happened should be written; a capture that takes longer is unhealthy."""

PATIENCE = 30.0
"""Seconds for one message, which is MESSAGE_SIZE or one event at most. A process that takes longer
for it ends itself, and another goes on with the next one."""

__all__ = ["Exchange", "WireCapture"]

logger = logging.getLogger(__name__)


class _Message(NamedTuple):
    """Events that are sent together.

    :param dropped: events that are missing before these
    :param size: bytes that they take of the queue
    :param since: monotonic time of the first of them
    """

    events: list[bytes]
    dropped: int
    size: int
    since: float


class WireCapture:
    """Writes what crosses the proxy to a file. All methods may be called from any thread.

    Events wait in a queue, then in messages that are ready to be sent, then in those that were
    sent, until the process that writes says that they are written.

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
        """Failed writes, and events dropped, withheld or lost."""

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
        self._times: deque[float] = deque()  # of the events
        self._ready: deque[_Message] = deque()
        self._sent: deque[_Message] = deque()
        self._sending: _Message | None = None  # the last of these, maybe not all of it
        self._held = self._unsent = self._dropped = self._taken = self._lost = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._process: WriterProcess | None = None
        self._thread: threading.Thread | None = None
        self._closing = self._resting = self._dropping = self._missing = self._complete = False
        self._lagging = False
        self._writes = True
        self._next_start = 0.0
        self._deadline = float("inf")

    @property
    def healthy(self) -> bool:
        """Whether everything is being written at the moment, soon after it happens."""
        return self.state == "ok"

    @property
    def state(self) -> str:
        """``ok``, or how many events were not written, and how far the capture is behind."""
        with self._lock:
            news, lag = self._notice_lag(), self._lag()
            well = self._writes and not self._dropping and not self._lagging
            behind = f"{lag:.0f} s behind, " if self._lagging else ""
        self._tell_of_lag(news)
        return "ok" if well else f"{behind}{self.failures} events not written"

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
            thread, taken = self._thread, self._taken
        if thread is None:
            return
        atexit.unregister(self._close_at_exit)
        thread.join(timeout / 2)
        if thread.is_alive() and self._is_stuck_since(taken):
            self._kill()  # another process may still write what comes after it
        thread.join(max(0.0, self._deadline - time.monotonic()))
        if thread.is_alive():
            self._kill()
            thread.join(timeout)
        if first and not self._complete:
            logger.error(
                "The wire capture is incomplete: not written in time, %d events are lost.",
                self._lost + self._left(),
            )

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
        with self._lock:
            dropping = self._dropping
            queued = self._put(data, always=always, patient=patient)
            drops, news = self._dropping and not dropping, self._notice_lag()
        if drops:
            logger.warning("The wire capture cannot keep up: events are being dropped.")
        self._tell_of_lag(news)
        return queued

    def _put(self, data: bytes, *, always: bool, patient: bool) -> bool:
        size = len(data) + OVERHEAD
        if self._closing and not always:
            return False
        if not always and not self._make_room(size, patient):
            return False
        if self._thread is None and not self._start():
            return False
        self._held += size
        self._unsent += size
        self._events.append(data)
        self._times.append(time.monotonic())
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
        self._dropping = True
        return False

    def _lag(self) -> float:
        """Return for how many seconds the oldest event has waited to be written."""
        messages = self._sent or self._ready
        since = messages[0].since if messages else self._times[0] if self._times else None
        return 0.0 if since is None else time.monotonic() - since

    def _notice_lag(self) -> str:
        """Return what is to be said when the capture has just fallen behind, or caught up."""
        lag = self._lag()
        if (lag > (LAG / 2 if self._lagging else LAG)) == self._lagging:
            return ""
        self._lagging = not self._lagging
        if not self._writes:
            return ""  # why has been said
        return f"is {lag:.0f} seconds behind" if self._lagging else "has caught up"

    def _tell_of_lag(self, news: str) -> None:
        if news:
            logger.warning("The wire capture %s.", news)

    def _run(self) -> None:
        in_time = True
        while in_time and self._gather():
            in_time = self._deliver()
        while in_time and (process := self._process):
            if process.finish(self._deadline - time.monotonic()):
                break
            # It has ended too early; what it had not begun is for another one.
            in_time = bool(self._ready) and self._deliver()
        if self._process:
            self._process.finish(0)
        self._complete = in_time and not self._lost

    def _gather(self) -> bool:
        """Wait for events, and make a message of some of them; False when no more will come."""
        with self._lock:
            self._resting = True
            self._arrived.wait_for(
                lambda: self._events or self._dropped or self._closing or self._missing
            )
            self._resting = False
            self._arrived.wait_for(lambda: self._unsent >= MESSAGE_SIZE or self._closing, GATHERING)
            if self._closing and not (self._events or self._dropped):
                return False
            events, total = [], 0
            since = self._times[0] if self._times else time.monotonic()
            while self._events and total < MESSAGE_SIZE:
                events.append(self._events.popleft())
                self._times.popleft()
                total += len(events[-1]) + OVERHEAD
            self._unsent -= total
            dropped, self._dropped = self._dropped, 0
            self._ready.append(_Message(events, dropped, total, since))
            return True

    def _deliver(self) -> bool:
        """Send what is ready to the process that writes; False when there is no time for that."""
        while time.monotonic() < self._deadline:
            if self._send():
                return True
            with self._lock:
                self._arrived.wait_for(lambda: self._closing, RESTART_INTERVAL)
            if self._closing:
                time.sleep(min(0.05, max(0.0, self._deadline - time.monotonic())))
        return False

    def _send(self) -> bool:
        if (self._process is None or self._process.ended) and not self._start_process():
            return False
        process = self._process
        assert process
        try:
            while self._ready:
                with self._lock:
                    message = self._sending = self._ready.popleft()
                    self._sent.append(message)
                process.send(message.events, message.dropped)
                with self._lock:
                    self._sending = None
        except OSError:
            process.finish(0)
            with self._lock:
                self.failures += self._take_back()
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
                heard=self._hear,
                taken=self._acknowledge,
                missing=self._miss,
            )
        except (OSError, RuntimeError) as exc:  # no program, no memory, no thread
            self._miss(f"cannot be started: {getattr(exc, 'strerror', None) or exc}")
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

    def _acknowledge(self) -> None:
        """Take note that the oldest message has been written."""
        with self._lock:
            if not self._sent:
                return
            self._taken += 1
            self._free(self._sent.popleft())
            news = self._notice_lag()
        self._tell_of_lag(news)

    def _free(self, message: _Message) -> None:
        self._held -= message.size
        self._dropping = self._dropping and self._held > self._queue_size // 2
        self._room.notify_all()

    def _miss(self, reason: str) -> None:
        """Take note that the process that writes has ended."""
        with self._lock:
            self._arrived.notify()
            lost = self._take_back()
            self.failures += lost
            if self._closing:
                self._lost += lost
                return
            self.failures += 1
            self._writes = False
            known, self._missing = self._missing, True
        if lost:
            reason += f", {lost} events are lost"
        if not known:
            logger.error("The process that writes the wire capture %s. Trying again.", reason)

    def _take_back(self) -> int:
        """Have what a process left behind sent to the next one; return how many events are lost.

        Lost is the message that it was at: part of it may be written, and it may be what ended it.
        """
        lost = 0
        if self._sent and self._sent[0] is not self._sending:
            message = self._sent.popleft()
            lost = len(message.events)
            self._free(message)
        self._sending = None
        self._ready.extendleft(reversed(self._sent))
        self._sent.clear()
        return lost

    def _is_stuck_since(self, taken: int) -> bool:
        """True when nothing was written since so many messages were, and something else waits."""
        with self._lock:
            others = self._events or self._ready or len(self._sent) > 1
            process = self._process
            begun = process is not None and process.begun
            return bool(others) and begun and self._writes and self._taken == taken

    def _kill(self) -> None:
        if process := self._process:
            process.kill()

    def _left(self) -> int:
        """Return how many events have not been written."""
        with self._lock:
            messages = [*self._ready, *self._sent]
            return len(self._events) + sum(len(message.events) for message in messages)


def _try(file: RotatingFile) -> None:
    try:
        file.open()
    except OSError as exc:
        raise ConfigurationError(
            f"The capture file {file.path} cannot be written: {exc.strerror or exc}."
        ) from exc
    file.close()
