"""Waiting for an upstream without losing sight of the client.

A thread that waits for a socket wakes up every :data:`TICK` and looks whether the client is still
there, whether the server is being stopped, and whether the upstream has had its time. That needs
no further thread, no ``shutdown`` of a socket that another thread reads (which does not wake it
on Windows), and costs nothing while data flows.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from urllib3.util.wait import wait_for_read, wait_for_write

from .exceptions import ClientDisconnected

TICK = 0.25
"""Seconds. The upstream of a client that left is closed within this time."""

RECEIVE_SIZE = 16 * 1024
"""Bytes that are read from an upstream at a time; a record of TLS holds as many."""

NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket that does not block raises when it would have to."""

_SEND_AT_ONCE = 256 * 1024


class Watch:
    """What one exchange with an upstream looks out for.

    :param gone: true once nobody waits for the answer any more
    :param first_byte_timeout: seconds from the end of the request to the end of the headers
    :param read_timeout: seconds between two reads of the body
    """

    def __init__(
        self, gone: Callable[[], bool], *, first_byte_timeout: float, read_timeout: float
    ) -> None:
        self._gone = gone
        self._first_byte_timeout = first_byte_timeout
        self._read_timeout = read_timeout
        self._headers_due: float | None = None

    def request_sent(self) -> None:
        """The upstream's time to answer begins."""
        self._headers_due = time.monotonic() + self._first_byte_timeout

    def headers_received(self) -> None:
        """From now on the gap between two reads counts."""
        self._headers_due = None

    def receive(self, sock: socket.socket) -> bytes:
        """Return the next bytes, as ``recv`` does.

        :param sock: one that does not block, as for :meth:`send`
        :raises ClientDisconnected: when nobody waits for them any more
        :raises TimeoutError: when the upstream took too long
        """
        due = None
        while True:
            # First a look, then a read: mostly the answer is not there yet.
            if wait_for_read(sock, TICK):
                try:
                    return sock.recv(RECEIVE_SIZE)
                except NOT_YET:  # part of a TLS record
                    continue
            self.check()
            now = time.monotonic()
            due = due or self._headers_due or now - TICK + self._read_timeout
            if now >= due:
                raise TimeoutError("the upstream took too long")

    def send(self, sock: socket.socket, data: Any) -> None:
        """Send all the data, as ``sendall`` does; raises as :meth:`receive` does."""
        view = memoryview(data).cast("B")
        due = 0.0
        while view:
            try:
                # One call for a large body would not return before all of it is sent over TLS.
                view = view[sock.send(view[:_SEND_AT_ONCE]) :]
                due = 0.0
            except ssl.SSLWantReadError:
                wait_for_read(sock, TICK)
                self.check()
            except NOT_YET:
                if wait_for_write(sock, TICK):
                    continue
                self.check()
                now = time.monotonic()
                due = due or now + self._read_timeout
                if now >= due:
                    raise TimeoutError("the upstream took too long to read the request") from None

    def check(self) -> None:
        """Raise ClientDisconnected when nobody waits for the answer any more."""
        if self._gone():
            raise ClientDisconnected("the client left")
