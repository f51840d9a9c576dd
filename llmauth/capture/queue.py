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
    until it is `confirmed` or `abandoned`. All methods may be called from any thread.

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

        self.taken: Message | None = None
        """The message that is being written."""

        self.closed = threading.Event()
        """No more events are added."""

        self._size = size
        self._held = self._dropped = self._lost = 0
        self._lagging = False
        self._waiting: deque[Message] = deque()
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
        if not self._waiting or self._waiting[-1].size >= MESSAGE_SIZE:
            self._waiting.append(Message(now))
            self._arrived.notify()
        self._waiting[-1].events.append(data)
        self._waiting[-1].size += size
        self._held += size

    def take(self, timeout: float) -> Message | None:
        """Wait for events, so many seconds at most, and return some; None if there are none."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._pending() or self.closed.is_set(), timeout)
            if not self._pending():
                return None
            self._arrived.wait_for(self._full, GATHERING)
            self.taken = self._waiting.popleft() if self._waiting else Message(time.monotonic())
            self.taken.dropped, self._dropped = self._dropped, 0
            return self.taken

    def confirmed(self) -> None:
        """Forget the message that was taken: it is written."""
        with self._arrived:
            self.written += 1
            self._release()
            news = self._lag_news(time.monotonic())
        _tell(news)

    def abandoned(self) -> int:
        """Forget the message that was taken, and return how many events are lost with it."""
        with self._arrived:
            lost = len(self._release().events)
            self.failures += lost
            self._lost += lost if self.closed.is_set() else 0
            return lost

    def _release(self) -> Message:
        message, self.taken = self.taken, None
        assert message
        self._held -= message.size
        self.dropping = self.dropping and self._held > self._size // 2
        return message

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
        """Whether it is closed, and all messages were taken."""
        return self.closed.is_set() and not self._pending()

    def _pending(self) -> bool:
        return bool(self._waiting or self._dropped)

    def _full(self) -> bool:
        return len(self._waiting) > 1 or self.closed.is_set()

    @property
    def blocked(self) -> bool:
        """Whether anything waits behind the message that is being written."""
        return bool(self._waiting)

    @property
    def unwritten(self) -> int:
        """Events that have not been written, and those lost since `close`."""
        with self._arrived:
            messages = [*self._waiting, *filter(None, [self.taken])]
            return self._lost + sum(len(message.events) for message in messages)

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
        if oldest := self.taken or (self._waiting[0] if self._waiting else None):
            return now - oldest.since
        return 0.0

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
