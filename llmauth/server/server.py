"""waitress with defaults for streams, and a shutdown that lets them finish."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from waitress import wasyncore
from waitress.adjustments import Adjustments

from ..proxy.descriptors import Seldom, connections_within, file_limit, raise_file_limit
from ..web.extension import EXTENSION, State
from .channel import LOOKAHEAD, Channel
from .dispatcher import REFUSALS_SECONDS, Dispatcher
from .handover import Handover
from .lingering import Lingering
from .listener import Listener
from .memory import return_free_pages, return_large_pieces
from .polling import Poller
from .pump import Pump
from .sockets import BACKLOG, Sockets
from .stream import STALLED

logger = logging.getLogger(__name__)

RESERVED_THREADS = 8
"""Beyond ``threads``: they find no slot for a stream, so that health checks, refusals and public
pages are answered while every slot is taken."""

RECEIVE_SIZE = 16 * 1024
"""Bytes that are received from a client at a time: a whole head, which is searched for its end with
each piece."""

SELECT_LIMIT = 480
"""Connections where there is no ``poll``: ``select`` on Windows takes 512 sockets."""

IDLE_GRACE = 1.0
"""Seconds that a connection without a request stays while the server is being stopped: what its
client may just be sending is answered rather than reset."""

_POLL_SECONDS = 0.2
_POLLS_BETWEEN_TRIMS = 150  # half a minute
_LOGGERS = (
    *(logging.getLogger(f"{__package__}.{module}") for module in (
        "server", "channel", "dispatcher", "listener",
    )),
    wasyncore.dispatcher.logger,
)  # fmt: skip
"""Of the warnings that clients can cause as often as they like, one a second is enough."""

_FLUSH_SECONDS = 2.0
_LOOP_SECONDS = 0.5
_REFUSING_SECONDS = 0.05


class Application(Protocol):
    """What is served: a WSGI application, and what it has of llmauth."""

    extensions: dict[str, Any]

    @property
    def wsgi_app(self) -> Callable[..., Any]:
        """The outermost layer of the application."""


class Server:
    """Serves an application made by :func:`llmauth.create_app` until it is stopped.

    :param app: the application
    :raises ConfigurationError: when the address cannot be listened on
    """

    def __init__(self, app: Application) -> None:
        self.state: State = app.extensions[EXTENSION]
        settings = self.state.settings
        self._stopping = self._hung_up = self._in_terminal = False
        self._map: dict[int, Any] = {}
        self._closed = False
        self._use_poll = hasattr(select, "poll")
        self._idle_until = math.inf
        raise_file_limit()
        return_large_pieces()
        local = settings.disable_auth and not settings.allow_unauthenticated_network
        self.sockets = Sockets(settings.host, settings.port, local=local)
        self.port = self.sockets.port
        self.dispatcher = Dispatcher(settings.threads + RESERVED_THREADS)
        self._pump = Pump()
        wanted = max(2048, 4 * settings.threads) if self._use_poll else SELECT_LIMIT
        adjustments = Adjustments(
            sockets=self.sockets[:1],
            asyncore_use_poll=self._use_poll,
            channel_request_lookahead=LOOKAHEAD,
            recv_bytes=RECEIVE_SIZE,
            clear_untrusted_proxy_headers=False,
            max_request_body_size=settings.max_request_body,
            backlog=BACKLOG,
            ident=None,
        )
        self._listeners = [
            Listener(
                Handover(app.wsgi_app, self._pump),
                self.state,
                sock,
                map=self._map,
                dispatcher=self.dispatcher,
                adjustments=adjustments,
                connections=min(wanted, connections_within(file_limit())),
            )
            for sock in self.sockets
        ]
        self._seldom = Seldom()
        for emitter in _LOGGERS:
            emitter.addFilter(self._seldom)
        self._wake: Callable[..., None] = self._listeners[0].trigger.pull_trigger
        self._poller = Poller(self._map, lambda: self.dispatcher.busy > 0)
        self._thread = threading.Thread(target=self._loop, name="llmauth-sockets", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop accepting, let requests finish, cut the rest after ``shutdown_timeout``.

        Requests whose head was there before are received, forwarded and answered; later ones get
        503, as does what has not arrived in time.

        :returns: how many requests had to be cut
        """
        if self._closed:
            return 0
        slots = self.state.slots
        self._idle_until = time.time() + IDLE_GRACE
        self._in_loop(self._close_listeners)
        left = slots.drain(self.state.settings.shutdown_timeout, self._is_busy)
        late = [channel for channel in self._channels() if channel.is_receiving]
        self._in_loop(self._refuse_incomplete)
        if left := left + len(late):
            logger.warning("cut %d requests that were still running", left)
        self._flush()
        self._closed = True
        self._wake()
        self._thread.join(_FLUSH_SECONDS)
        if self.dispatcher.shutdown(timeout=_FLUSH_SECONDS):
            wasyncore.close_all(self._map, ignore_all=True)
        for emitter in _LOGGERS:
            emitter.removeFilter(self._seldom)
        self._pump.close()
        self.state.close()
        return left

    def run(
        self,
        on_ready: Callable[[], None] = lambda: None,
        reopen_log: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until SIGTERM, SIGINT or Ctrl-C; a second one ends the process at once.

        SIGHUP ends nothing: files are opened again, and keys read again. It is also what comes
        when the terminal is closed that the server was started from, without ``nohup``; that does.

        :param on_ready: is called once signals are obeyed
        :param reopen_log: is called at SIGHUP
        """
        previous = {number: signal.signal(number, self._on_signal) for number in _signals()}
        if hasattr(signal, "SIGHUP"):
            previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)
            ignored = previous[signal.SIGHUP] is signal.SIG_IGN
            self._in_terminal = not ignored and _has_terminal()
        try:
            on_ready()
            # Not a wait for an event: on Windows, Ctrl-C does not interrupt one, and setting an
            # event from a signal handler may find its lock taken by the same thread.
            polls = 0
            while not self._stopping:
                time.sleep(_POLL_SECONDS)
                if self._hung_up:
                    self._hung_up = False
                    self._reload(reopen_log)
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
        self._stopping = self.state.slots.draining = True

    def _on_hangup(self, number: int, frame: Any) -> None:
        if self._in_terminal and not _has_terminal():
            self._stopping = self.state.slots.draining = True
        self._hung_up = True

    def _reload(self, reopen_log: Callable[[], None]) -> None:
        reopen_log()
        logger.info("SIGHUP: log and capture are opened again, and files of keys are read again")
        if self.state.capture:
            self.state.capture.reopen()
        self.state.key_files.reload()

    def _poll(self, timeout: float) -> None:
        if self._use_poll:
            self._poller.poll(timeout)
        else:
            wasyncore.loop(timeout, map=self._map, count=1)

    def _loop(self) -> None:
        next_check = 0.0
        while not self._closed:
            try:
                timeout = 0.0 if self.dispatcher.refused else _LOOP_SECONDS
                self._poll(timeout)
                if self.dispatcher.refused:
                    # While the server is being stopped, the refused are not the attackers.
                    is_draining = self.state.slots.draining
                    seconds = _REFUSING_SECONDS if is_draining else REFUSALS_SECONDS
                    self.dispatcher.answer_refusals(seconds)
                if (now := time.monotonic()) >= next_check:
                    next_check = now + 1.0
                    self._close_stalled(time.time())
            except Exception:
                # Without this thread nobody is served, and whoever is to notice would have to ask.
                logger.exception("unexpected error while connections were read")
                time.sleep(0.05)

    def _close_stalled(self, now: float) -> None:
        for channel in self._channels():
            channel.close_if_stalled(now, STALLED)
            if now > self._idle_until:
                channel.close_if_idle()
        for connection in self._lingering():
            connection.close_if_over()

    def _in_loop(self, action: Callable[[], None]) -> None:
        """Have the thread that owns the table of sockets do something, and wait for it."""
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._wake(act)
        done.wait(_FLUSH_SECONDS)

    def _close_listeners(self) -> None:
        """Close the listening sockets; who is connected already, as clients see it, is heard."""
        for listener in self._listeners:
            listener.accept_waiting()
            listener.del_channel(self._map)
            listener.accepting = False
            listener.socket.close()
        self.sockets.remove_path()
        self.state.slots.draining = True

    def _is_busy(self) -> bool:
        return any(channel.is_busy for channel in self._channels())

    def _refuse_incomplete(self) -> None:
        for channel in self._channels():
            channel.refuse_incomplete()

    def _flush(self) -> None:
        """Wait until what has been answered is sent, and close the connections."""
        until = time.monotonic() + _FLUSH_SECONDS
        while (self._channels() or self._lingering()) and time.monotonic() < until:
            self._in_loop(self._close_idle)
            time.sleep(0.01)

    def _close_idle(self) -> None:
        for channel in self._channels():
            channel.close_if_idle()

    def _channels(self) -> list[Channel]:
        return [one for one in list(self._map.values()) if isinstance(one, Channel)]

    def _lingering(self) -> list[Lingering]:
        return [one for one in list(self._map.values()) if isinstance(one, Lingering)]


def _signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _has_terminal() -> bool:
    """True while the process has a terminal that controls it; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
