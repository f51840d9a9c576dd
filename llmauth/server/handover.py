"""Streams leave their thread: the pump carries them on, where the server is waitress.

PEP 3333 has no way for an application to answer later without holding its thread. What is used
here of waitress is small: the channel behind ``waitress.client_disconnected``, its socket, and
that an application which raises ``ClientDisconnected`` gets its side of the connection closed
without another byte, and without a traceback in the log.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from waitress.channel import ClientDisconnected, HTTPChannel

from .pump import Pump
from .stream import Source, Stream

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handover:
    """Offers the application what PEP 3333 has no words for.

    ``environ["llmauth.broken_off"]`` is what to raise so that an answer does not look complete.

    ``environ["llmauth.carry"]`` takes a stream off its thread. It is called with the environ, the
    stream's source, what is to be called with all that is sent on, and what is to be called at
    the end; see :class:`~llmauth.server.stream.Stream`. It returns the answer that the application
    is to give the server, or None when the stream has to stay.

    :param application: the WSGI application behind it
    :param pump: carries the streams
    """

    def __init__(self, application: Application, pump: Pump) -> None:
        self._application = application
        self._pump = pump

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "waitress.client_disconnected" in environ:
            environ["llmauth.carry"] = self._carry
            environ["llmauth.broken_off"] = ClientDisconnected
        return self._application(environ, start_response)

    def _carry(
        self,
        environ: Mapping[str, Any],
        source: Source,
        passed: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> Iterable[bytes] | None:
        client = _connection(environ)
        if client is None:
            return None
        chunked = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        stream = Stream(
            source,
            client,
            chunked=chunked,
            passed=passed,
            ended=ended,
            keep_alive=source.keep_alive,
        )
        if not self._pump.carry(stream):
            client.close()
            return None
        return _NOTHING


class _Nothing:
    """The answer for waitress once its connection has been taken."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> NoReturn:
        raise ClientDisconnected


_NOTHING = _Nothing()


def _connection(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the client's connection, when waitress has sent all it had.

    The socket is a duplicate: waitress closes its own.
    """
    channel = getattr(environ["waitress.client_disconnected"], "__self__", None)
    if not isinstance(channel, HTTPChannel):
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
