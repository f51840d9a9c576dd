"""What waits to be written to the wire capture, in bounded memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from .pipe import packed
from .recorder import Event

OVERHEAD = 128
"""Bytes that a queued event takes beside its own."""

GATHERING = 0.03
"""Seconds in which events gather that are sent together: the thread that sends them takes Python's
lock from the requests each time it wakes."""

MESSAGE_SIZE = 512 * 1024
"""Bytes of events that are sent at once, without waiting for more. Where Python's lock is short,
each message costs two waits for it."""

LAG = 5.0
"""Seconds after which what happened should be written; a capture that takes longer is unhealthy."""

logger = logging.getLogger(__name__)


@dataclass
class Message:
    """Events that are sent together.

    :param since: monotonic time of the first of them
    :param size: bytes that they take of the queue
    :param dropped: events that are missing before these
    """

    since: float
    events: list[bytes] = field(default_factory=list)
    size: int = 0
    dropped: int = 0


class EventQueue:
    """Events, from when they happen until they are written, and how that goes.

    `put` adds one, which never waits. One thread takes one message after the other; each stays
    until `forget`. All methods may be called from any thread.

    :param size: bytes that may wait
    """

    def __init__(self, size: int) -> None:
        self.failures = 0
        """Failed writes, and events dropped, withheld or lost."""

        self.writes = True
        """Lines are being written, as far as is known; if not, that has been said."""

        self.dropping = False
        """There is no room at the moment."""

        self.written = 0
        """Messages that were written."""

        self.taken = False
        """The first message is being written."""

        self.closed = threading.Event()
        """No more events are added."""

        self._size = size
        self._held = self._dropped = self._lost = 0
        self._lagging = False
        self._messages: deque[Message] = deque()
        self._arrived = threading.Condition()

    def put(self, event: Event, *, always: bool) -> bool:
        """Add an event; False when there is no room for it, or the end has come.

        :param always: needed to complete an exchange that is in the capture already
        """
        # As bytes: thousands of tuples that live for a moment keep the garbage collector busy,
        # which costs a tenth of the requests.
        try:
            data = packed(event)
        except ValueError:  # a server gave us something else than it should have
            self.count_failures(1)
            return False
        size, now = len(data) + OVERHEAD, time.monotonic()
        with self._arrived:
            before = self.dropping
            added = always or (not self.closed.is_set() and self._has_room(size))
            if added:
                self._add(data, size, now)
            news = self._lag_news(now)
            if self.dropping and not before:
                news.append("cannot keep up: events are being dropped")
        _tell(news)
        return added

    def _has_room(self, size: int) -> bool:
        # What is larger than the whole queue passes alone.
        self.dropping = self._held > 0 and self._held + size > self._size
        self._dropped += self.dropping
        self.failures += self.dropping
        return not self.dropping

    def _add(self, data: bytes, size: int, now: float) -> None:
        if not self.waiting or self._messages[-1].size >= MESSAGE_SIZE:
            self._messages.append(Message(now))
            self._arrived.notify()
        self._messages[-1].events.append(data)
        self._messages[-1].size += size
        self._held += size

    @property
    def waiting(self) -> int:
        """Messages that wait, but for the one that was taken."""
        return len(self._messages) - self.taken

    def take(self, timeout: float) -> Message | None:
        """Wait for events, so many seconds at most, and return some; None if there are none."""
        closed = self.closed.is_set
        with self._arrived:
            self._arrived.wait_for(lambda: self.waiting or self._dropped or closed(), timeout)
            if not (self.waiting or self._dropped):
                return None
            self._arrived.wait_for(lambda: self.waiting > 1 or closed(), GATHERING)
            if not self.waiting:
                self._messages.append(Message(time.monotonic()))  # to tell what is missing
            self.taken = True
            self._messages[0].dropped, self._dropped = self._dropped, 0
            return self._messages[0]

    def forget(self, *, written: bool) -> int:
        """Forget the message that was taken; return how many events are lost with it."""
        with self._arrived:
            self.taken, message = False, self._messages.popleft()
            self._held -= message.size
            self.dropping = self.dropping and self._held > self._size // 2
            self.written += written
            lost = 0 if written else len(message.events)
            self.failures += lost
            self._lost += lost if self.closed.is_set() else 0
            news = self._lag_news(time.monotonic()) if written else []
        _tell(news)
        return lost

    def count_failures(self, number: int) -> None:
        """Count events that could not be sent or shown, and attempts to write that failed."""
        with self._arrived:
            self.failures += number

    def close(self) -> None:
        """Add no more events, and have the rest taken at once."""
        with self._arrived:
            self.closed.set()
            self._arrived.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it is closed, and nothing waits."""
        return self.closed.is_set() and not (self.waiting or self._dropped)

    @property
    def unwritten(self) -> int:
        """Events that have not been written, and those lost since `close`."""
        with self._arrived:
            return self._lost + sum(len(message.events) for message in self._messages)

    def seconds_behind(self) -> float:
        """Return how far the writing lags, 0 when it does not."""
        now = time.monotonic()
        with self._arrived:
            news = self._lag_news(now)
            lag = self._lag(now) if self._lagging else 0.0
        _tell(news)
        return lag

    def _lag(self, now: float) -> float:
        """Return for how many seconds the oldest event has waited to be written."""
        return now - self._messages[0].since if self._messages else 0.0

    def _lag_news(self, now: float) -> list[str]:
        """Return what is to be said when the writing has just fallen behind, or caught up."""
        lag = self._lag(now)
        if (lag > (LAG / 2 if self._lagging else LAG)) == self._lagging:
            return []
        self._lagging = not self._lagging
        if not self.writes:
            return []
        return [f"is {lag:.0f} seconds behind" if self._lagging else "has caught up"]


def _tell(news: list[str]) -> None:
    for what in news:
        logger.warning("The wire capture %s.", what)
