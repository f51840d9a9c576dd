"""Which thread answers a request: waitress hands each to one that is free, but for one kind.

An address that is locked out is answered where its request was read. Waking a thread for it costs
several times as much as the answer, and an attacker would pay for neither.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.task import WSGITask

from .guard import Guard
from .intake import Parser

logger = logging.getLogger(__name__)

SEND_SIZE = 128 * 1024
"""Bytes that are sent to a client at a time."""

AT_ONCE = "llmauth.at_once"
"""In a WSGI environ: the answer must not wait for anything, for it holds up all connections."""


class _Task(WSGITask):
    channel: Channel

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[AT_ONCE] = self.channel.answers_at_once
        return environ

    def write(self, data: bytes) -> None:
        """Send the head together with the first bytes, if there are any; nothing else on HEAD."""
        request: Any = self.request
        if is_head := request.command == "HEAD":
            data = b""
        self.channel.holds_head = bool(data) and not self.wrote_header and self.has_body
        super().write(data)
        if is_head:
            self.chunked_response = False  # there is no end to mark (RFC 9112 §6.3)


class _Server:
    """The server as one connection sees it: its reading thread is woken only if there is a reason.

    waitress wakes it after every answer, to look at all connections, though it waits for the next
    request of this one anyway.
    """

    def __init__(self, server: Any, channel: Channel) -> None:
        self._server = server
        # Weakly: a connection with its buffers is not to wait for the collector of cycles.
        self._channel = weakref.proxy(channel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def pull_trigger(self) -> None:
        channel = self._channel
        unsent, closing = channel.total_outbufs_len, channel.close_when_flushed
        if unsent or closing or channel.will_close or channel.requests:
            self._server.pull_trigger()


class Channel(HTTPChannel):
    """A client's connection: its requests are read strictly, and some are answered at once."""

    parser_class = Parser
    task_class = _Task
    answers_at_once = False
    holds_head = False
    outbufs: list[OverflowableBuffer]

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        quieter: Any = _Server(server, self)
        super().__init__(quieter, *args, **kwargs)
        self._dispatcher: Dispatcher = server.task_dispatcher
        # waitress copies this much for each call to send, which may take far less of it.
        self.sendbuf_len = min(self.sendbuf_len, SEND_SIZE)
        self.reader = threading.get_ident()
        self.is_due = False

    def received(self, data: bytes) -> bool:
        taken = super().received(data)
        # Not before: it holds the lock that answering needs.
        while self.is_due:
            self.is_due = False
            self.answers_at_once = True
            self.service()
            self.answers_at_once = False
            if self._dispatcher.busy:
                # An attacker who keeps this thread busy would leave Python's lock to the others
                # every 5 ms only (`benchmarks/flood.py`).
                time.sleep(0)
        return bool(taken)

    def write_soon(self, data: bytes) -> int:
        if not self.holds_head:
            return int(super().write_soon(data))
        self.holds_head = False
        with self.outbuf_lock:
            if self.current_outbuf_count >= self.adj.outbuf_high_watermark:
                # As waitress does: a buffer of its own for each answer.
                self.outbufs.append(OverflowableBuffer(self.adj.outbuf_overflow))
                self.current_outbuf_count = 0
            self.outbufs[-1].append(data)
            self.current_outbuf_count += len(data)
            self.total_outbufs_len += len(data)
        return len(data)


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
    """Hands requests to threads, but leaves addresses that are locked out to the reader.

    In place of waitress's own, which wakes the thread that has been idle for longest, through a
    condition: here it is the one that was busy last, whose memory is still at hand.

    :param guard: knows who is locked out
    :param threads: how many there are
    """

    def __init__(self, guard: Guard, threads: int) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._waiting: deque[Any] = deque()
        self._stopping = False
        self._workers = [_Worker(number, self._next) for number in range(threads)]

    @property
    def busy(self) -> int:
        """How many threads have something to do."""
        return len(self._workers) - len(self._idle)

    def add_task(self, task: Any) -> None:
        """Have a connection's first request answered; called by waitress."""
        if task.reader == threading.get_ident() and self._is_refused(task):
            task.is_due = True
            return
        with self._lock:
            if not self._idle:
                self._waiting.append(task)
                return
            worker = self._idle.pop()
        worker.task = task
        worker.woken.release()

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

    def _is_refused(self, channel: Channel) -> bool:
        request: Any = channel.requests[0]
        method, path = request.command, request.path
        if request.error or method == "OPTIONS" or self._guard.may_be_public(method, path):
            return False
        forwarded = request.headers.get("X_FORWARDED_FOR")
        return self._guard.is_locked_out(channel.addr[0], forwarded)
