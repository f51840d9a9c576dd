"""TCP keep-alive on both sides: connections are silent for minutes while a model thinks."""

from __future__ import annotations

import socket
import sys

KEEP_ALIVE = 60
"""Seconds without data after which TCP asks whether the other side is still there, so that what
stands between keeps the connection in mind, and one that is lost is noticed."""

_PROBE_INTERVAL = 1
"""Seconds, which Windows wants with them; this is what it has by itself."""

_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
"""The option's name: on macOS it is the latter, and Windows before 10.0.16299 has neither."""


def keep_alive(sock: socket.socket) -> None:
    """Have the system watch over a TCP connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if _IDLE is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _IDLE, KEEP_ALIVE)
    elif sys.platform == "win32":
        milliseconds = (1, KEEP_ALIVE * 1000, _PROBE_INTERVAL * 1000)
        sock.ioctl(socket.SIO_KEEPALIVE_VALS, milliseconds)
