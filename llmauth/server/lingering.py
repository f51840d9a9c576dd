"""The end of a connection on which a client was refused while it was sending more.

Closed at once, the connection would be reset, and the client might never see the answer: so our
side of it ends first, and what still comes is dropped for a while (RFC 9112 §9.6).
"""

from __future__ import annotations

import socket
import time
from typing import Any

from waitress import wasyncore

LINGER = 2.0
"""Seconds from a refusal to the end of the connection."""

DROPPED_BODY = 64 * 1024
"""Bytes of a refused request's body that are read, to keep the connection or to end it well."""

_READ_SIZE = 8192


class Lingering(wasyncore.dispatcher):
    """A connection whose answer has been sent, and that ends when the client has seen it.

    :param sock: its own from now on
    :param map: the table of sockets of the thread that reads, which calls
    """

    def __init__(self, sock: socket.socket, map: dict[int, Any]) -> None:
        self._left = DROPPED_BODY
        self._until = time.monotonic() + LINGER
        super().__init__(sock, map)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def readable(self) -> bool:
        return self._left > 0

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        try:
            self._left -= len(self.recv(_READ_SIZE))
        except OSError:
            self.handle_close()

    def handle_close(self) -> None:
        self.close()

    def close_if_over(self) -> None:
        """Close the connection of a client that does not close its side."""
        if time.monotonic() > self._until:
            self.close()
