"""Carries streams from upstreams to clients: hundreds of them in one thread.

A thread for each stream spends most of its time handing on Python's one lock. Once its headers are
there, a stream needs no thread of its own: what is left is to read from one socket and to write to
another. So the thread that began a stream leaves both sockets to the pump, and is free for the
next request.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..proxy.watch import TICK
from .stream import Stream

logger = logging.getLogger(__name__)

SELECT_LIMIT = 240
"""Streams where there is neither ``epoll`` nor ``kqueue`` nor ``poll``: ``select`` on Windows takes
512 sockets, and a stream has two."""


class Pump:
    """The thread that carries all streams of a server; it starts with the first one."""

    def __init__(self) -> None:
        self._arrived: deque[Stream] = deque()
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False

    def carry(self, stream: Stream) -> bool:
        """Take a stream over; False when it needs a thread of its own."""
        with self._lock:
            if self._closing:
                return False
            if self._thread is None and not self._start():
                return False
            carried = len(self._streams) + len(self._arrived)
            if isinstance(self._selector, selectors.SelectSelector) and carried >= SELECT_LIMIT:
                return False
            self._arrived.append(stream)
            self._wake()
            return True

    def close(self) -> None:
        """Cut what is left, and end the thread."""
        with self._lock:
            if self._closing or self._thread is None:
                self._closing = True
                return
            self._closing = True
            self._wake()
        self._thread.join(2.0)

    def _start(self) -> bool:
        # Late: a server may fork after the application was made.
        thread = threading.Thread(target=self._run, name="llmauth-pump", daemon=True)
        with contextlib.ExitStack() as opened:
            try:
                self._selector = opened.enter_context(selectors.DefaultSelector())
                self._woken, self._waker = map(opened.enter_context, socket.socketpair())
                self._woken.setblocking(False)
                self._waker.setblocking(False)
                self._selector.register(self._woken, selectors.EVENT_READ)
                thread.start()
            except (OSError, RuntimeError):  # no descriptor or no thread is left: the next one may
                return False
            opened.pop_all()
        self._thread = thread
        return True

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # awake already
            self._waker.send(b".")

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            logger.exception("streams keep their threads from now on: unexpected error")
        finally:
            with self._lock:
                self._closing = True
            self._add_arrived(time.monotonic())
            for stream in list(self._streams):
                self._step(stream, stream.close)
            for closable in (self._selector, self._woken, self._waker):
                closable.close()

    def _serve(self) -> None:
        next_check = 0.0
        while not self._closing:
            ready = self._selector.select(TICK if self._streams else None)
            now = time.monotonic()
            for key, events in ready:
                stream: Stream | None = key.data
                if stream is None:
                    self._add_arrived(now)
                elif not stream.closed:
                    self._step(stream, stream.on_ready, key.fileobj, events, now)
            if now >= next_check:
                next_check = now + TICK
                for stream in list(self._streams):
                    self._step(stream, stream.check, now)

    def _add_arrived(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._arrived:
            stream = self._arrived.popleft()
            self._streams.add(stream)
            self._step(stream, stream.begin, self._selector, now)

    def _step(self, stream: Stream, step: Callable[..., None], *args: Any) -> None:
        """Take a step; what goes wrong with one stream must not end the others."""
        try:
            step(*args)
        except Exception:
            logger.exception("a stream is cut after an unexpected error")
            with contextlib.suppress(Exception):
                stream.close()
        if stream.closed:
            self._streams.discard(stream)
