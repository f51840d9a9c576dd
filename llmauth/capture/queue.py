"""What waits to be written to the wire capture, in bounded memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import NamedTuple

OVERHEAD = 128
"""Bytes that a queued event takes beside its own."""

GATHERING = 0.03
"""Seconds in which events gather that are sent together: the thread that sends them takes Python's
lock from the requests each time it wakes."""

MESSAGE_SIZE = 256 * 1024
"""Bytes of events that are sent at once, without waiting for more."""

LAG = 5.0
"""Seconds after which what happened should be written; a capture that takes longer is unhealthy."""

logger = logging.getLogger(__name__)


class Message(NamedTuple):
    """Events that are sent together.

    :param dropped: events that are missing before these
    :param size: bytes that they take of the queue
    :param since: monotonic time of the first of them
    """

    events: list[bytes]
    dropped: int
    size: int
    since: float


class EventQueue:
    """Events, from when they happen until they are written.

    `put` adds one, which never waits; `gather` makes messages of them, and the messages stay until
    `confirm` says that the first one is written. All methods may be called from any thread.

    :param size: bytes that may wait
    """

    def __init__(self, size: int) -> None:
        self.dropped = 0
        """Events for which there was no room."""

        self.dropping = False
        """There is no room at the moment."""

        self.written = 0
        """Messages that were written."""

        self.sent = 0
        """How many of the messages, the first ones, were sent and are not written yet."""

        self.excused = False
        """Why nothing is written has been said; that it lags need not be."""

        self._size = size
        self._events: deque[bytes] = deque()  # that are in no message yet
        self._times: deque[float] = deque()  # of these
        self._messages: deque[Message] = deque()
        self._held = self._unsent = self._told = 0
        self._resting = self._woken = self._closed = self._lagging = self._sending = False
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)

    def put(self, event: bytes, *, always: bool) -> bool:
        """Add an event; False when there is no room for it, or the end has come.

        :param always: it has no need of room
        """
        with self._lock:
            before = self.dropping
            added = self._put(event, always=always)
            news = ["cannot keep up: events are being dropped"] * (self.dropping and not before)
            news += self._lag_news()
        _tell(news)
        return added

    def _put(self, event: bytes, *, always: bool) -> bool:
        size = len(event) + OVERHEAD
        if not always and (self._closed or not self._has_room(size)):
            return False
        self._held += size
        self._unsent += size
        self._events.append(event)
        self._times.append(time.monotonic())
        if self._resting or self._unsent >= MESSAGE_SIZE:
            self._arrived.notify()
        return True

    def _has_room(self, size: int) -> bool:
        # What is larger than the whole queue passes alone.
        self.dropping = self._held > 0 and self._held + size > self._size
        self.dropped += self.dropping
        return not self.dropping

    def close(self) -> None:
        """Add no more events, and have the rest gathered at once."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()

    def wake(self) -> None:
        """Have a message gathered, though there may be nothing to send."""
        with self._lock:
            self._woken = True
            self._arrived.notify()

    def gather(self) -> bool:
        """Wait for events, and make a message of some of them; False when no more will come."""
        with self._lock:
            self._resting = True
            self._arrived.wait_for(
                lambda: self._events or self._told < self.dropped or self._closed or self._woken
            )
            self._resting = self._woken = False
            self._arrived.wait_for(lambda: self._unsent >= MESSAGE_SIZE or self._closed, GATHERING)
            if self._closed and not (self._events or self._told < self.dropped):
                return False
            events, total = [], 0
            since = self._times[0] if self._times else time.monotonic()
            while self._events and total < MESSAGE_SIZE:
                events.append(self._events.popleft())
                self._times.popleft()
                total += len(events[-1]) + OVERHEAD
            self._unsent -= total
            dropped, self._told = self.dropped - self._told, self.dropped
            self._messages.append(Message(events, dropped, total, since))
            return True

    def next(self) -> Message | None:
        """Return the next message to send, if there is one; the one before it has been sent."""
        with self._lock:
            self._sending = len(self._messages) > self.sent
            if not self._sending:
                return None
            self.sent += 1
            return self._messages[self.sent - 1]

    def confirm(self) -> None:
        """Forget the first message, which has been written."""
        with self._lock:
            if not self.sent:
                return
            self.written += 1
            self._forget_first()
            news = self._lag_news()
        _tell(news)

    def take_back(self) -> int:
        """Have all messages sent again; return how many events are lost.

        Lost is the message that the process was at which was to write them: part of it may be
        written, and it may be what ended the process.
        """
        with self._lock:
            lost = 0
            if self.sent > self._sending:  # what was not sent as a whole was not begun
                lost = len(self._forget_first().events)
            self.sent = 0
            self._sending = False
            return lost

    def _forget_first(self) -> Message:
        message = self._messages.popleft()
        self.sent -= 1
        self._held -= message.size
        self.dropping = self.dropping and self._held > self._size // 2
        return message

    @property
    def unsent(self) -> bool:
        """Whether there are messages to send."""
        return len(self._messages) > self.sent

    @property
    def blocked(self) -> bool:
        """Whether anything waits behind the message that is being written."""
        with self._lock:
            return bool(self._events) or len(self._messages) > min(self.sent, 1)

    @property
    def unwritten(self) -> int:
        """Events that have not been written."""
        with self._lock:
            return len(self._events) + sum(len(message.events) for message in self._messages)

    def seconds_behind(self) -> float:
        """Return how far the writing lags, 0 when it does not."""
        with self._lock:
            news = self._lag_news()
            lag = self._lag() if self._lagging else 0.0
        _tell(news)
        return lag

    def _lag(self) -> float:
        """Return for how many seconds the oldest event has waited to be written."""
        if self._messages:
            return time.monotonic() - self._messages[0].since
        return time.monotonic() - self._times[0] if self._times else 0.0

    def _lag_news(self) -> list[str]:
        """Return what is to be said when the writing has just fallen behind, or caught up."""
        lag = self._lag()
        if (lag > (LAG / 2 if self._lagging else LAG)) == self._lagging:
            return []
        self._lagging = not self._lagging
        if self.excused:
            return []
        return [f"is {lag:.0f} seconds behind" if self._lagging else "has caught up"]


def _tell(news: list[str]) -> None:
    for what in news:
        logger.warning("The wire capture %s.", what)
