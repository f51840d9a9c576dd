"""Waiting for an upstream without losing sight of the client.

A thread that waits for a socket wakes up every :data:`TICK` and looks whether the client is still
there, whether the server is being stopped, and whether the upstream has had its time; also when
the upstream keeps sending, but never enough. That needs no further thread, no ``shutdown`` of a
socket that another thread reads (which does not wake it on Windows), and costs nothing while data
flows.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from urllib3.util.wait import wait_for_read, wait_for_write

from ..exceptions import ClientDisconnected
from ..http.grammar import MAX_HEAD_BYTES
from ..http.response import is_refusal

TICK = 0.25
"""Seconds. The upstream of a client that left is closed within this time."""

RECEIVE_SIZE = 16 * 1024
"""Bytes that are read from an upstream at a time; a record of TLS holds as many."""

NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket that does not block raises when it would have to."""

TOOK_TOO_LONG = "the upstream took too long"

_SEND_AT_ONCE = 256 * 1024


def unread(sock: Any, size: int = RECEIVE_SIZE) -> bytes | None:
    """Return what has come on a socket where nothing is waited for; None when nothing has.

    Over TLS, data may wait in the socket or, decrypted, before it; and what waits in the socket
    may be no data, such as a ticket for resuming the session.

    :param size: bytes at most
    :raises OSError: when the connection is broken
    """
    pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
    if not pending and not wait_for_read(sock, 0):
        return None
    try:
        return sock.recv(size)  # type: ignore[no-any-return]
    except NOT_YET:
        return None


class Watch:
    """What one exchange with an upstream looks out for.

    All sockets are ones that do not block.

    :param gone: true once nobody waits for the answer any more
    :param read_timeout: seconds between two reads, or two writes, where nothing else is said
    """

    def __init__(self, gone: Callable[[], bool], *, read_timeout: float) -> None:
        self._gone = gone
        self.read_timeout = read_timeout
        self._due: float | None = None
        self._paused_due: float | None = None
        self._late = TOOK_TOO_LONG
        self._next_look = time.monotonic() + TICK
        self._early = b""

    def allow(self, seconds: float | None, late: str = TOOK_TOO_LONG) -> None:
        """Say within which time everything that follows must be done.

        :param seconds: None for no such time, so that each read or write has one of its own
        :param late: what TimeoutError says after it
        """
        self._due = None if seconds is None else time.monotonic() + seconds
        self._late = late

    def receive(self, sock: Any) -> bytes:
        """Return the next bytes, as ``recv`` does.

        :raises ClientDisconnected: when nobody waits for them any more
        :raises TimeoutError: when the upstream took too long
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        due = self._due_now()
        while True:
            # First a look, then a read: mostly the answer is not there yet.
            self._wait(wait_for_read, sock, due)
            try:
                return sock.recv(RECEIVE_SIZE)  # type: ignore[no-any-return]
            except NOT_YET:  # part of a TLS record
                self._look(due)

    def receive_or_pause(self, sock: Any) -> bytes | None:
        """Return as :meth:`receive` does, or None when nothing has come for a :data:`TICK`.

        The time that the upstream has for a read goes on meanwhile.
        """
        if self._early:
            return self.receive(sock)
        due = self._paused_due = self._paused_due or self._due_now()
        if not wait_for_read(sock, max(0.0, min(TICK, due - time.monotonic()))):
            self._look(due)
            return None
        self._look(math.inf)
        try:
            data: bytes = sock.recv(RECEIVE_SIZE)
        except NOT_YET:  # part of a TLS record
            self._look(due)
            return None
        self._paused_due = None
        return data

    def until_readable(self, sock: Any) -> None:
        """Wait until there is something to read; raises as :meth:`receive` does."""
        self._wait(wait_for_read, sock, self._due_now())

    def send(self, sock: Any, data: Any) -> bool:
        """Send all the data; raises as :meth:`receive` does.

        :returns: False when the upstream takes no more, and has refused the request already
        """
        view = memoryview(data).cast("B")
        due = None
        while True:
            try:
                # One call for a large body would not return before all of it is sent over TLS.
                view = view[sock.send(view[:_SEND_AT_ONCE]) :]
                if not view:
                    return True
                due = None
                continue
            except ssl.SSLWantReadError:
                ready = wait_for_read(sock, TICK)
            except NOT_YET:
                ready = wait_for_write(sock, TICK)
            if not ready:
                self.receive_early(sock)
                if is_refusal(self._early):
                    return False
            due = due or self._due_now()
            self._look(due)

    def receive_early(self, sock: Any) -> None:
        """Take note of what the upstream says before it has all of the request."""
        if len(self._early) <= MAX_HEAD_BYTES:
            self._early += unread(sock) or b""

    @property
    def answered_early(self) -> bool:
        """Whether the upstream began to answer before it had all of the request."""
        return bool(self._early)

    @property
    def left(self) -> float:
        """Seconds that are left of those allowed."""
        return self._due_now() - time.monotonic()

    def connect(self, sock: socket.socket, address: Any, seconds: float) -> None:
        """Connect a socket, as its own ``connect`` does; raises as :meth:`receive` does.

        :param seconds: for this address
        """
        try:
            sock.connect(address)
        except BlockingIOError:
            self._wait(wait_for_write, sock, time.monotonic() + seconds)
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error)) from None

    def handshake(self, sock: ssl.SSLSocket) -> None:
        """Do the handshake of TLS; raises as :meth:`receive` does."""
        due = self._due_now()
        while True:
            try:
                sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._wait(wait_for_read, sock, due)
            except ssl.SSLWantWriteError:
                self._wait(wait_for_write, sock, due)

    def check(self) -> None:
        """Raise ClientDisconnected when nobody waits for the answer any more."""
        if self._gone():
            raise ClientDisconnected("the client left")

    def _due_now(self) -> float:
        return self._due or time.monotonic() + self.read_timeout

    def _wait(self, wait: Callable[..., bool], sock: Any, due: float) -> None:
        while not wait(sock, max(0.0, min(TICK, due - time.monotonic()))):
            self._look(due)
        # What is there is taken, however late, unless all must be there in time.
        self._look(math.inf if self._due is None else due)

    def _look(self, due: float) -> None:
        """Look after the client and the time; after the client not more often than needed."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            self.check()
        if now >= due:
            raise TimeoutError(self._late)
