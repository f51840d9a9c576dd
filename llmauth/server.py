"""waitress with defaults for streams, and a shutdown that lets them finish."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server
from waitress.trigger import trigger

from .dispatcher import Channel, Dispatcher
from .exceptions import ConfigurationError
from .extension import EXTENSION, State
from .memory import return_free_pages, return_large_pieces
from .streams import STALLED

logger = logging.getLogger(__name__)

RESERVED_THREADS = 8
"""Beyond ``threads``: they find no slot for a stream, so that health checks, refusals and public
pages are answered while every slot is taken."""

BACKLOG = 1024
"""Connections that wait to be accepted, as far as the system allows."""

SELECT_LIMIT = 480
"""Connections where there is no ``poll``: ``select`` on Windows takes 512 sockets."""

OPEN_FILES = 16_384
"""A stream takes two descriptors; the soft limit of 1,024 on most systems is too low."""

_POLL_SECONDS = 0.2
_POLLS_BETWEEN_TRIMS = 150  # half a minute
_FLUSH_SECONDS = 2.0


class PortTakenError(ConfigurationError):
    """Another program listens on the port."""


class Server:
    """Serves an application made by :func:`llmauth.create_app` until it is stopped.

    :param app: the application
    :raises ConfigurationError: when the address cannot be listened on
    """

    def __init__(self, app: Flask) -> None:
        self.state: State = app.extensions[EXTENSION]
        settings = self.state.settings
        self._stopping = False
        self._map: dict[int, Any] = {}
        self._closed = False
        self._use_poll = hasattr(select, "poll")
        _raise_file_limit()
        return_large_pieces()
        self.sockets = _listen(settings.host, settings.port)
        self.port: int = self.sockets[0].getsockname()[1]
        self.dispatcher = Dispatcher(self.state.guard, settings.threads + RESERVED_THREADS)
        dispatcher: Any = self.dispatcher
        create_server(
            app.wsgi_app,
            map=self._map,
            sockets=self.sockets,
            _dispatcher=dispatcher,
            connection_limit=max(2048, 4 * settings.threads) if self._use_poll else SELECT_LIMIT,
            asyncore_use_poll=self._use_poll,
            channel_request_lookahead=1,
            clear_untrusted_proxy_headers=False,
            max_request_body_size=settings.max_request_body,
            backlog=BACKLOG,
            ident=None,
        )
        for one in self._map.values():
            if isinstance(one, BaseWSGIServer):
                one.channel_class = Channel
        self._trigger = next(o for o in self._map.values() if isinstance(o, trigger))
        self._thread = threading.Thread(target=self._loop, name="llmauth-sockets", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop accepting, let requests finish, cut the rest after ``shutdown_timeout``.

        :returns: how many requests had to be cut
        """
        if self._closed:
            return 0
        self._close_listeners()
        left = self.state.lifecycle.drain(self.state.settings.shutdown_timeout)
        if left:
            logger.warning("cut %d requests that were still running", left)
        self._flush()
        self._closed = True
        self._trigger.pull_trigger()
        self._thread.join(_FLUSH_SECONDS)
        if self.dispatcher.shutdown(timeout=_FLUSH_SECONDS):
            wasyncore.close_all(self._map, ignore_all=True)
        self.state.close()
        return left

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or Ctrl-C; a second one ends the process at once."""
        previous = {number: signal.signal(number, self._on_signal) for number in _signals()}
        try:
            # Not a wait for an event: on Windows, Ctrl-C does not interrupt one, and setting an
            # event from a signal handler may find its lock taken by the same thread.
            polls = 0
            while not self._stopping:
                time.sleep(_POLL_SECONDS)
                polls += 1
                if polls % _POLLS_BETWEEN_TRIMS == 0:
                    return_free_pages()
            self.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stopping:
            os._exit(1)
        self._stopping = self.state.lifecycle.draining = True

    def _loop(self) -> None:
        next_look = 0.0
        while not self._closed:
            wasyncore.loop(timeout=0.5, use_poll=self._use_poll, map=self._map, count=1)
            if (now := time.time()) >= next_look:
                next_look = now + 1.0
                self._cut_stalled(now)

    def _cut_stalled(self, now: float) -> None:
        """Free the threads whose clients do not read, for which waitress would wait for ever."""
        for channel in self._channels():
            waits = channel.requests and channel.total_outbufs_len  # waitress ends the others
            if waits and now - channel.last_activity > STALLED:
                channel.handle_close()

    def _close_listeners(self) -> None:
        """Close the listening sockets, from the thread that owns the table of sockets."""
        done = threading.Event()

        def close(_: object = None) -> None:
            for one in list(self._map.values()):
                if isinstance(one, BaseWSGIServer):
                    one.del_channel(self._map)
                    if one.socket is not None:
                        one.socket.close()
            done.set()

        self._trigger.pull_trigger(close)
        done.wait(_FLUSH_SECONDS)

    def _flush(self) -> None:
        """Wait until what has been answered is sent, and close the connections."""
        until = time.monotonic() + _FLUSH_SECONDS
        while (channels := self._channels()) and time.monotonic() < until:
            for channel in channels:
                if not channel.requests:
                    channel.close_when_flushed = True
            self._trigger.pull_trigger()
            time.sleep(0.01)

    def _channels(self) -> list[HTTPChannel]:
        return [one for one in list(self._map.values()) if isinstance(one, HTTPChannel)]


def _signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for every address that the host name stands for."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as exc:
        raise ConfigurationError(
            f"Cannot listen on {host}: no such address. Choose one of this machine with --host."
        ) from exc
    sockets: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(found):
            # localhost is two addresses; a port that the system picked is for both.
            where = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            sockets.append(_bound(family, where))
    except OSError as exc:
        for sock in sockets:
            sock.close()
        reason = exc.strerror or "it cannot be used"
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(
                f"Cannot listen on {host}: {reason}. Choose an address of this machine with --host."
            ) from exc
        raise PortTakenError(
            f"Cannot listen on {host}, port {port}: {reason}. "
            "Choose another with --port, or stop the program that has it."
        ) from exc
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # SO_REUSEADDR on Windows would let another program take the port as well.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _raise_file_limit() -> None:
    try:
        import resource
    except ImportError:
        return
    if sys.platform == "win32":  # has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
