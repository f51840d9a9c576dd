"""Accepts connections, as many as there are descriptors for."""

from __future__ import annotations

import errno
import logging
import socket
import time
from typing import Any

from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from ..proxy.descriptors import is_exhausted
from ..proxy.keep_alive import keep_alive
from .channel import Channel
from .sockets import is_unix

logger = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds without accepting after it failed: a socket that is not accepted stays readable, and
the thread that reads would turn in circles."""

_NO_ADDRESS = ("localhost", None)
"""Of a peer of a Unix socket, as waitress has it."""

_GONE = frozenset({
    errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EINTR, errno.EPERM,
})  # fmt: skip
"""The client left before it was accepted, or a firewall let nobody in (accept(2))."""


class Listener(TcpWSGIServer):
    """Listens on one socket.

    :param state: of the application, whose connections look there for who is let in
    :param connections: how many there may be on all sockets
    """

    channel_class = Channel
    socket: Any
    next_channel_cleanup: Any
    trigger: Any
    _map: dict[int, Any]

    def __init__(
        self,
        application: Any,
        state: Any,
        sock: socket.socket,
        *,
        map: dict[int, Any],
        dispatcher: Any,
        adjustments: Adjustments,
        connections: int,
    ) -> None:
        self.state = state
        self._connections = connections
        self._paused_until = 0.0
        where = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(
            application,
            map=map,
            _sock=sock,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=where,
            bind_socket=False,
        )

    def getsockname(self) -> Any:
        """Return host and port, as waitress tells the application."""
        if is_unix(self.socket):
            return "unix", self.socket.getsockname()
        return super().getsockname()

    def readable(self) -> bool:
        now = time.monotonic()
        if now >= self.next_channel_cleanup:
            self.next_channel_cleanup = now + self.adj.cleanup_interval
            self.maintenance(int(time.time()))
        return bool(self.accepting) and now >= self._paused_until and self._has_room()

    def handle_accept(self) -> None:
        self.accept_one()

    def accept_one(self) -> bool:
        """Accept a connection; False when none waits, or none can be had."""
        try:
            sock, address = self.socket.accept()
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno not in _GONE:
                self._pause(exc)
            return exc.errno in _GONE
        try:
            if is_unix(self.socket):
                address = _NO_ADDRESS
            else:
                self.set_socket_options(sock)
                keep_alive(sock)
            Channel(self, sock, address, self.adj, map=self._map)
        except OSError:  # reset by the client before it was looked at
            sock.close()
        return True

    def accept_waiting(self) -> None:
        """Accept the connections that the system has taken already."""
        left = self.adj.backlog
        while left and self.accepting and self._has_room() and self.accept_one():
            left -= 1

    def handle_error(self) -> None:
        logger.exception("unexpected error while connections were accepted")
        self._paused_until = time.monotonic() + PAUSE

    def handle_close(self) -> None:
        """Go on: an error of this socket is not the end of the server."""
        self._paused_until = time.monotonic() + PAUSE

    def _has_room(self) -> bool:
        # Streams that the pump carries have left the map, at most one for each thread.
        if len(self._map) + self.state.settings.threads < self._connections:
            return True
        connections = len(self._map) + self.state.slots.used
        if connections < self._connections:
            return True
        logger.warning(
            "%d connections are open, and no more are accepted until some end: raise the limit "
            "of open files if this machine can take more",
            connections,
        )
        return False

    def _pause(self, exc: OSError) -> None:
        self._paused_until = time.monotonic() + PAUSE
        what = "no descriptor is left for another connection" if is_exhausted(exc) else "pausing"
        logger.error("cannot accept connections (%s): %s", exc.strerror or exc, what)
