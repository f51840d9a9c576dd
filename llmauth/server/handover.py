"""Taking a client's connection away from waitress, in the middle of a response.

PEP 3333 has no way for an application to answer later without holding its thread. What is used
here of waitress is small: the channel behind ``waitress.client_disconnected``, its socket, and
that an application which raises ``ClientDisconnected`` gets its side of the connection closed
without another byte.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import waitress.channel


class HandedOver(waitress.channel.ClientDisconnected):
    """Tells waitress that there is nothing left to do for it."""


class Nothing:
    """The answer for waitress once its connection has been taken."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> NoReturn:
        raise HandedOver


def take_connection(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the client's connection, when the server is waitress and has sent all it had.

    The socket is a duplicate: waitress closes its own.
    """
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    if not isinstance(channel, waitress.channel.HTTPChannel):
        return None
    # The lock without which waitress does not close the socket, whose number would be given to
    # the next connection.
    with channel.outbuf_lock:
        if not channel.connected or channel.total_outbufs_len or channel.socket is None:
            return None
        try:
            return channel.socket.dup()
        except OSError:  # no file descriptor is left
            return None
