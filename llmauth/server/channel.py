"""A client's connection: its requests are read strictly, and decided on when their head is there.

Who is not admitted is answered at once, and his body is not received: a short one is dropped as
it arrives, after any other the connection is closed. waitress reads a body to its end first.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import weakref
from typing import Any

from waitress.channel import HTTPChannel

from ..auth.request import RequestInfo
from ..exceptions import RequestRefused, Unavailable
from ..proxy.slots import server_stopping
from .dispatcher import Dispatcher
from .lingering import DROPPED_BODY, Lingering
from .parser import RETRY_AFTER, Parser, Refusal
from .task import RefusalTask, Task, connection_environment

logger = logging.getLogger(__name__)

SEND_SIZE = 128 * 1024
"""Bytes that are sent to a client at a time."""

UNSENT = 64 * 1024
"""Bytes of answers that wait for a client to read them while further requests of his that have
arrived are looked at: a few bytes ask for a page, and hundreds of them fit into one packet."""

LOOKAHEAD = 1
"""Requests that may wait behind the one that is being answered."""

_UNDECIDED = "unexpected error while a request was decided on"


class _Server:
    """The server as one connection sees it: its reading thread is woken only if there is a reason.

    waitress wakes it after every answer, to look at all connections, though it waits for the next
    request of this one anyway.
    """

    def __init__(self, server: Any, channel: Channel) -> None:
        self.adj = server.adj
        self.application = server.application
        self.active_channels = server.active_channels
        self.dispatcher: Dispatcher = server.task_dispatcher
        self._wake = server.pull_trigger
        # Weakly: a connection with its buffers is not to wait for the collector of cycles.
        self._channel = weakref.proxy(channel)

    def add_task(self, channel: Channel) -> None:
        """Have the connection's first request answered; called by waitress."""
        request: Any = channel.requests[0]
        refused = request.is_refused or request.error is not None
        if refused and channel.reader == threading.get_ident():
            self.dispatcher.add_refusal(channel)
        else:
            self.dispatcher.add_task(channel)

    def pull_trigger(self) -> None:
        channel = self._channel
        if channel.total_outbufs_len or channel.is_over or channel.requests or channel.has_more:
            self._wake()


class _Admission:
    """Has a thread decide on a request, where that may have to wait for a store.

    If all of the request is there, the same thread goes on with it.
    """

    def __init__(self, channel: Channel, environ: dict[str, Any]) -> None:
        self._channel = channel
        self._environ = environ

    def service(self) -> None:
        channel = self._channel
        refused = False
        try:
            refused = channel.state.admit_raw(self._environ).refusal is not None
        except Exception:
            logger.exception(_UNDECIDED)  # the application asks again, and fails
        is_due = channel.resume(refused)
        channel.wake()
        if is_due:
            channel.service()

    def cancel(self) -> None:
        self._channel.cancel()


class Channel(HTTPChannel):
    """One connection. All but what waitress has threads call runs in the thread that reads."""

    task_class = Task
    error_task_class = RefusalTask
    parser_class = Parser
    server: Any
    request: Any
    requests: Any
    requests_lock: Any
    socket: Any
    addr: Any
    _map: dict[int, Any]
    is_let_in = False  # as its last request was, with a key
    holds_head = False
    lingers = False
    _asker_is_done = False  # it has closed its side of the connection

    def __init__(self, server: Any, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self.state = server.state
        self.wake = server.trigger.pull_trigger
        self.reader = threading.get_ident()
        self._ends = False  # what follows the last request is no further one
        self._to_drop = 0  # bytes of a refused body
        self._undecided: bytes | None = None  # what came after a head while it is decided on
        self._later = b""  # what came while there was no room for further requests
        self._head = b""
        quieter: Any = _Server(server, self)
        super().__init__(quieter, sock, *args, **kwargs)
        self.environment = connection_environment(server, self.addr)
        # waitress copies this much for each call to send, which may take far less of it.
        self.sendbuf_len = min(self.sendbuf_len, SEND_SIZE)

    @property
    def is_receiving(self) -> bool:
        """True while a request whose head was there before its body is being received."""
        request = self.request
        return request is not None and request.headers_finished and not self._ends

    @property
    def is_busy(self) -> bool:
        """True while there is something to wait for before the server may end."""
        if self.close_when_flushed or self.will_close:
            return False
        return bool(self.requests) or self.has_more or self.is_receiving or self._has_unread()

    @property
    def has_more(self) -> bool:
        """True while something has arrived that is not looked at yet."""
        return bool(self._later)

    @property
    def is_over(self) -> bool:
        """True when nothing more will be asked."""
        return self._asker_is_done or bool(self.close_when_flushed or self.will_close)

    @property
    def is_at_last_request(self) -> bool:
        """True when there is no request behind the one that is being answered, nor will be."""
        draining: bool = self.state.slots.draining
        only = len(self.requests) == 1 and not self.has_more
        return draining and only and self.request is None

    def check_client_disconnected(self) -> bool:  # type: ignore[override]
        """Tell the application whether the client is gone, or will say nothing more."""
        return self._asker_is_done or not self.connected

    def readable(self) -> bool:
        waits = self._ends or self._undecided is not None or self.has_more
        waits = waits or (self._asker_is_done and bool(self.requests))
        return not waits and bool(super().readable())

    def handle_read(self) -> None:
        """Read, but keep the connection of a probe that closes its side once it has asked.

        Whether its client has left, too, shows when it is written to. What is forwarded is not
        waited for, as the application asks; see :meth:`check_client_disconnected`.
        """
        if self.requests and self._is_at_end():
            self._asker_is_done = True
        else:
            super().handle_read()

    def writable(self) -> bool:
        return bool(super().writable()) or self._may_parse_more()

    def handle_write(self) -> None:
        # waitress takes no lock as long as there is no request, but the thread that has decided on
        # the next one may be sending its 100.
        with self.outbuf_lock:
            super().handle_write()
        if self._may_parse_more():
            self._parse_more()

    def handle_close(self) -> None:
        sock, lingers = self.socket, self.lingers and not self.total_outbufs_len
        if lingers:
            self.socket = None  # or it would be closed here
        super().handle_close()
        self._later = b""
        if lingers and sock is not None:
            Lingering(sock, self._map)
        if self.request is not None and self._undecided is None:
            # Its environment leads back here, and a body is not to wait for the collector either.
            self.request.environ = None
            with contextlib.suppress(Exception):
                self.request.close()

    def close_if_stalled(self, now: float, stalled: float) -> None:
        """Close the connection of a client that takes nothing of its answer.

        :param now: Unix time
        :param stalled: seconds without any progress
        """
        # waitress ends connections that have no request, but waits for ever for the others.
        if self.requests and self.total_outbufs_len and now - self.last_activity > stalled:
            self.handle_close()

    def close_if_idle(self) -> None:
        """Close a connection without a request, because the server is being stopped."""
        busy = self.requests or self.request is not None or self.total_outbufs_len or self.has_more
        if not busy and not self._has_unread():
            self.handle_close()

    def refuse_incomplete(self) -> None:
        """Answer 503 to a request that is not there yet, because the server is being stopped."""
        with self.requests_lock:
            request = self.request
            if request is None or self._ends or self.will_close or self.close_when_flushed:
                return
            if request.environ:
                self._refuse(request, server_stopping())
            else:
                request.fail(Refusal(server_stopping().description or "", 503))
            self._ends = True
            if self._queue(request):
                self.server.add_task(self)

    def received(self, data: bytes) -> bool:
        """Take what was read; the requests in it are decided on and handed on."""
        with self.requests_lock:
            if not data or self.will_close or self.close_when_flushed:
                return False
            self._parse(data)
        return True

    def resume(self, refused: bool) -> bool:
        """Go on with a request on which this thread has decided; True when it is to answer it."""
        with self.requests_lock:
            request, data = self.request, self._undecided or b""
            self._undecided = None
            if request is None or not self.connected or self.will_close or self.close_when_flushed:
                return False
            self._apply_verdict(request, refused)
            is_due = self._queue(request)
            self._parse(data)
        return is_due

    def write_soon(self, data: bytes) -> int:
        if self.holds_head:
            self.holds_head, self._head = False, data
            return len(data)
        if self._head:
            data, self._head = self._head + data, b""
        return int(super().write_soon(data))

    def _parse(self, data: bytes) -> None:
        while data:
            if not self._has_room():
                self._later = data
                return
            if self._to_drop:
                dropped = min(self._to_drop, len(data))
                self._to_drop -= dropped
                data = data[dropped:]
                continue
            if self._ends:
                return
            if self.request is None:
                self.request = self.parser_class(self.adj)
            request = self.request
            in_head = not request.headers_finished
            data = data[self._feed(request, data) :]
            if request.error:
                self._ends = True
            is_new = in_head and request.headers_finished and not (request.error or request.empty)
            if is_new and not self._decide(request):
                self._undecided = data
                return
            if self._queue(request):
                self.server.add_task(self)

    def _has_room(self) -> bool:
        return len(self.requests) <= LOOKAHEAD and self.total_outbufs_len <= UNSENT

    def _may_parse_more(self) -> bool:
        return self.has_more and self._undecided is None and self._has_room()

    def _parse_more(self) -> None:
        """Go on with what arrived while there was no room for it."""
        with self.requests_lock:
            if self.connected and not (self.will_close or self.close_when_flushed):
                data, self._later = self._later, b""
                self._parse(data)

    def _feed(self, request: Any, data: bytes) -> int:
        """Have the request take the next bytes; return how many of them belong to it."""
        try:
            return int(request.received(data))
        except OSError as exc:  # no descriptor or no disk is left for a large body
            logger.error("a request's body cannot be stored: %s", exc.strerror or exc)
            message = "This server cannot store the request's body at the moment. Try again."
            self._refuse(request, Unavailable(message, retry_after=RETRY_AFTER))
            self._ends = request.closes = True
            return len(data)

    def _decide(self, request: Any) -> bool:
        """Decide on a request whose head is there; False when another thread has to."""
        environ = request.environ = self.task_class(self, request).early_environment()
        try:
            info: RequestInfo = self.state.admit_raw(environ, at_once=True)
        except Exception:
            logger.exception(_UNDECIDED)
            return True  # as above
        if info.decided:
            self._apply_verdict(request, info.refusal is not None)
            return True
        # No 100 before the verdict, which `service` would send after an earlier request.
        request.awaits_continue, request.expect_continue = request.expect_continue, False
        self.server.dispatcher.add_task(_Admission(self, environ))
        return False

    def _apply_verdict(self, request: Any, refused: bool) -> None:
        request.expect_continue = request.expect_continue or request.awaits_continue
        self.is_let_in = not (refused or self.state.guard.info(request.environ).public)
        if refused:
            self._give_up_body(request)

    def _refuse(self, request: Any, refusal: RequestRefused) -> None:
        """Refuse a request that may have been let in."""
        self.state.guard.info(request.environ).refuse(refusal)
        self._give_up_body(request)

    def _give_up_body(self, request: Any) -> None:
        """Have a refused request answered without its body."""
        asked, request.expect_continue = request.expect_continue, False
        request.is_refused = request.completed = True
        if request.body_rcv is None:
            return
        left = request.content_length - request.body_bytes_received
        # Who asked before sending it may not send it, and then the next request would be dropped.
        stays = not (asked or request.chunked or self.state.slots.draining)
        if stays and left <= DROPPED_BODY:
            self._to_drop = left
        else:
            self._ends = request.closes = True

    def _queue(self, request: Any) -> bool:
        """Go on with a request that was decided on; True when it can be answered now.

        Where another one is being answered, `service` hands this one on after it.
        """
        if request.expect_continue and not self.requests and not self.sent_continue:
            self.send_continue()
        if not request.completed:
            return False
        self.sent_continue = False
        self.request = None
        if request.empty:
            return False
        self.requests.append(request)
        return len(self.requests) == 1

    def _is_at_end(self) -> bool:
        """True when the client has closed its side."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return False

    def _has_unread(self) -> bool:
        """True when the client has sent something that has not been read yet."""
        sock: Any = self.socket
        try:
            return sock is not None and bool(sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
