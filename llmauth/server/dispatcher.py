"""Which thread answers a request: one that is free, or for refusals the one that reads.

Who is not admitted is answered where his request was read. Waking a thread for it costs several
times as much as the answer, and an attacker would pay for neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

REFUSALS_SECONDS = 0.0002
"""The reading thread answers refusals for so long at a time, then it reads what others sent: a
request that is let in waits for one or two refusals, not for those of all attackers."""


class _Worker:
    """A thread that answers requests.

    :param next: returns what to do next, None to end; waits for it
    """

    def __init__(self, number: int, next: Callable[[_Worker], Any]) -> None:
        self.task: Any = None
        self.woken = threading.Lock()
        self.woken.acquire()
        self._next = next
        self.thread = threading.Thread(target=self._run, name=f"waitress-{number}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (task := self._next(self)) is not None:
            try:
                task.service()
            except BaseException:
                logger.exception("unexpected error while a request was answered")
            del task  # or an idle thread would hold a connection


class Dispatcher:
    """Hands requests to threads, but leaves refusals to the thread that reads.

    In place of waitress's own, which wakes the thread that has been idle for longest, through a
    condition: here it is the one that was busy last, whose memory is still at hand.

    :param threads: how many there are
    """

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._waiting: deque[Any] = deque()
        self.refused: deque[Any] = deque()
        """Connections whose first request is to be answered by the thread that reads."""

        self._stopping = False
        self._workers = [_Worker(number, self._next) for number in range(threads)]

    @property
    def busy(self) -> int:
        """How many threads have something to do."""
        return len(self._workers) - len(self._idle)

    def add_task(self, task: Any) -> None:
        """Have something done by a thread: a connection's first request, as waitress calls it."""
        with self._lock:
            if not self._idle:
                self._waiting.append(task)
                return
            worker = self._idle.pop()
        worker.task = task
        worker.woken.release()

    def add_refusal(self, channel: Any) -> None:
        """Have a connection's first request answered by the thread that reads, which calls."""
        self.refused.append(channel)

    def answer_refusals(self, seconds: float) -> bool:
        """Answer some of the refused requests, one of each connection in turn.

        Called by the thread that reads once it has read what there was: whoever is admitted has
        been handed to a thread before.

        :param seconds: after which it is time to read again
        :returns: whether there are more
        """
        until = time.monotonic() + seconds
        while self.refused:
            if time.monotonic() > until:
                return True
            channel = self.refused.popleft()
            try:
                channel.service()
            except Exception:
                logger.exception("unexpected error while a request was refused")
                channel.cancel()
            if self.busy:
                # An attacker who keeps this thread busy would leave Python's lock to the others
                # every 5 ms only (`benchmarks/flood.py`).
                time.sleep(0)
        return False

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads as they become idle; return whether all have ended in time.

        :param timeout: seconds
        """
        with self._lock:
            self._stopping = True
            idle, self._idle = self._idle, []
            while cancel_pending and self._waiting:
                self._waiting.popleft().cancel()
        for worker in idle:
            worker.woken.release()
        until = time.monotonic() + timeout
        for worker in self._workers:
            worker.thread.join(max(0.0, until - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in self._workers)

    def _next(self, worker: _Worker) -> Any:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._stopping:
                return None
            self._idle.append(worker)
        worker.woken.acquire()
        task, worker.task = worker.task, None
        return task
