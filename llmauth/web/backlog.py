"""Work that a thread of its own does later, so that no request waits for it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

TELLING = 1.0
"""Seconds between two times that dropped items are told of."""

_BATCH = 256
_Item = TypeVar("_Item")


class Backlog(Generic[_Item]):
    """Items that wait for their thread, which starts with the first one.

    :param name: of the thread
    :param limit: items that may wait; those on top of them are dropped
    :param work: takes items in their order; when it raises, they are dropped
    :param tell: is called by the thread with the number of items that were dropped since the last
        time, as soon as it works again
    :param gathering: seconds between two times that the thread takes what has gathered: each time
        that it wakes, it takes Python's lock from the requests
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int,
        work: Callable[[list[_Item]], None],
        tell: Callable[[int], None],
        gathering: float,
    ) -> None:
        self._name = name
        self._limit = limit
        self._work = work
        self._tell = tell
        self._gathering = gathering
        self._begin()
        if hasattr(os, "register_at_fork"):
            begin = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (method := begin()) and method())

    def _begin(self) -> None:
        """Begin anew; in the child of a fork: thread, and what waits for it, are the parent's."""
        self._waiting: deque[_Item | threading.Event] = deque()
        self._arrived = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._dropped = self._busy_with = 0
        self._next_telling = 0.0

    def put(self, item: _Item) -> None:
        """Leave an item to the thread, without ever waiting."""
        if len(self._waiting) < self._limit and not self._closed:
            self._waiting.append(item)
        else:
            self._drop(1)
        if self._thread is None:
            self._start()
        if not self._arrived.is_set():
            self._arrived.set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put is done, for so many seconds; True when it is."""
        if self._closed:
            return True
        if self._thread is None:
            self._work_off()  # there was never anything, or no thread to be had
            return True
        done = threading.Event()
        self._waiting.append(done)
        self._arrived.set()
        return done.wait(timeout)

    def close(self, timeout: float) -> int:
        """Wait as `flush` does, and take no more; return how many items were not done in time."""
        done = self.flush(timeout)
        self._closed = True
        left = [one for one in self._taken(None) if not isinstance(one, threading.Event)]
        self._arrived.set()
        return len(left) + self._dropped + (0 if done else self._busy_with)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                # Started late: a server may fork after the application was made.
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them, or the program is ending
                    return
                self._thread = thread

    def _run(self) -> None:
        while not self._closed:
            self._arrived.wait(TELLING if self._dropped else None)
            self._arrived.clear()
            self._work_off()
            time.sleep(self._gathering)

    def _work_off(self) -> None:
        while batch := self._taken(_BATCH):
            items = [one for one in batch if not isinstance(one, threading.Event)]
            self._busy_with = len(items)
            try:
                self._work(items)
            except Exception:  # whatever is wrong with an item, or with where it goes
                self._drop(len(items))
            else:
                self._tell_of_dropped()
            self._busy_with = 0
            for one in batch:
                if isinstance(one, threading.Event):
                    one.set()
        self._tell_of_dropped()

    def _taken(self, limit: int | None) -> list[_Item | threading.Event]:
        taken: list[_Item | threading.Event] = []
        with contextlib.suppress(IndexError):  # that was all
            while limit is None or len(taken) < limit:
                taken.append(self._waiting.popleft())
        return taken

    def _drop(self, number: int) -> None:
        with self._lock:
            self._dropped += number

    def _tell_of_dropped(self) -> None:
        now = time.monotonic()
        if not self._dropped or now < self._next_telling:
            return
        self._next_telling = now + TELLING
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        try:
            self._tell(dropped)
        except Exception:  # it still does not work
            self._drop(dropped)
