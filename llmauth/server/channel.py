"""A client's connection: its requests are read strictly, and decided on when their head is there.

Who is not admitted is answered at once, and his body is not received: a short one is dropped as
it arrives, after any other the connection is closed. waitress reads a body to its end first.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import weakref
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask

from ..auth.guard import RequestInfo
from ..exceptions import RequestRefused, Unavailable
from ..proxy.slots import server_stopping
from .dispatcher import Dispatcher
from .parser import RETRY_AFTER, Parser, Refusal

logger = logging.getLogger(__name__)

SEND_SIZE = 128 * 1024
"""Bytes that are sent to a client at a time."""

DROPPED_BODY = 64 * 1024
"""Bytes of a refused request's body that are read, to keep the connection or to end it well."""

UNSENT = 64 * 1024
"""Bytes of answers that wait for a client to read them while further requests of his that have
arrived are looked at: a few bytes ask for a page, and hundreds of them fit into one packet."""

LOOKAHEAD = 1
"""Requests that may wait behind the one that is being answered."""

LINGER = 2.0
"""Seconds from a refusal to the end of a connection on which more was being sent. Closed at once,
it would be reset, and the client might never see the answer (RFC 9112 §9.6)."""

_UNDECIDED = "unexpected error while a request was decided on"


class _Task(WSGITask):
    channel: Channel
    request: Any

    def get_environment(self) -> dict[str, Any]:
        """Return the environment that was made when the head was there, with the body."""
        request = self.request
        environ: dict[str, Any] = request.environ
        environ["wsgi.input"] = request.get_body_stream()
        if request.chunked and not request.is_refused:
            environ["CONTENT_LENGTH"] = request.headers["CONTENT_LENGTH"]
        return environ

    def early_environment(self) -> dict[str, Any]:
        """Return the environment of a request whose body is not there yet."""
        if self.request.raw_path is not None:
            self.request.path = self.request.raw_path  # the application has it as it was sent
        environ: dict[str, Any] = super().get_environment()
        return environ

    def build_response_header(self) -> bytes:
        # waitress knows it alone, and some clients name others beside it (RFC 9112 §9.6).
        asked = self.request.connection_close
        if asked or self.request.closes or self.channel.is_at_last_request:
            self.request.headers["CONNECTION"] = "close"
        # Of a body that is not received, bytes may still come, and would reset the connection.
        is_unread = self.request.is_refused and self.request.body_rcv is not None
        self.channel.lingers = self.request.closes or is_unread
        return bytes(super().build_response_header())

    def write(self, data: bytes) -> None:
        """Send the head together with the first bytes, if there are any; nothing else on HEAD."""
        if is_head := self.request.command == "HEAD":
            data = b""
        self.channel.holds_head = bool(data) and not self.wrote_header and self.has_body
        super().write(data)
        if is_head:
            self.chunked_response = False  # there is no end to mark (RFC 9112 §6.3)


class _ErrorTask(ErrorTask):
    channel: Channel

    def build_response_header(self) -> bytes:
        self.channel.lingers = True
        return bytes(super().build_response_header())


class _Server:
    """The server as one connection sees it: its reading thread is woken only if there is a reason.

    waitress wakes it after every answer, to look at all connections, though it waits for the next
    request of this one anyway.
    """

    def __init__(self, server: Any, channel: Channel) -> None:
        self._server = server
        # Weakly: a connection with its buffers is not to wait for the collector of cycles.
        self._channel = weakref.proxy(channel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def add_task(self, channel: Channel) -> None:
        """Have the connection's first request answered; called by waitress."""
        dispatcher: Dispatcher = self._server.task_dispatcher
        request: Any = channel.requests[0]
        refused = request.is_refused or request.error is not None
        if refused and channel.reader == threading.get_ident():
            dispatcher.add_refusal(channel)
        else:
            dispatcher.add_task(channel)

    def pull_trigger(self) -> None:
        channel = self._channel
        unsent, closing = channel.total_outbufs_len, channel.close_when_flushed
        if unsent or closing or channel.will_close or channel.requests or channel.has_more:
            self._server.pull_trigger()


class _Admission:
    """Has a thread decide on a request, where that may have to wait for a store or a disk.

    If all of the request is there, the same thread goes on with it.
    """

    def __init__(self, channel: Channel, environ: dict[str, Any]) -> None:
        self._channel = channel
        self._environ = environ

    def service(self) -> None:
        channel = self._channel
        try:
            channel.state.admit_raw(self._environ)
        except Exception:
            logger.exception(_UNDECIDED)  # the application asks again, and fails
        is_due = channel.go_on()
        channel.wake()
        if is_due:
            channel.service()

    def cancel(self) -> None:
        self._channel.cancel()


class Channel(HTTPChannel):
    """One connection. All but what waitress has threads call runs in the thread that reads."""

    task_class = _Task
    error_task_class = _ErrorTask
    parser_class = Parser
    server: Any
    request: Any
    requests: Any
    requests_lock: Any
    socket: Any
    holds_head = False
    lingers = False
    lingering_since = 0.0
    outbufs: list[OverflowableBuffer]

    def __init__(self, server: Any, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self.state = server.state
        self.wake = server.trigger.pull_trigger
        self.reader = threading.get_ident()
        self._ends = False  # what follows the last request is no further one
        self._to_drop = self._dropped = 0
        self._is_deciding = False
        self._later = b""
        quieter: Any = _Server(server, self)
        super().__init__(quieter, sock, *args, **kwargs)
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
        if self.lingering_since or self.close_when_flushed or self.will_close:
            return False
        return bool(self.requests) or self.has_more or self.is_receiving or self._has_news()

    @property
    def has_more(self) -> bool:
        """True while something has arrived that is not looked at yet."""
        return bool(self._later)

    @property
    def is_at_last_request(self) -> bool:
        """True when there is no request behind the one that is being answered, nor will be."""
        draining: bool = self.state.lifecycle.draining
        only = len(self.requests) == 1 and not self.has_more
        return draining and only and self.request is None

    def readable(self) -> bool:
        if self.lingering_since:
            return self._dropped < DROPPED_BODY
        waits = self._is_deciding or self._ends or self.has_more
        return not waits and bool(super().readable())

    def writable(self) -> bool:
        return not self.lingering_since and bool(super().writable() or self._may_take_more())

    def handle_read(self) -> None:
        if not self.lingering_since:
            super().handle_read()
            return
        try:
            self._dropped += len(self.recv(self.adj.recv_bytes))
        except OSError:
            self.handle_close()

    def handle_write(self) -> None:
        if not (self.lingers and self.close_when_flushed):
            super().handle_write()
            if self._may_take_more():
                self._take_more()
            return
        self.close_when_flushed = False
        super().handle_write()
        if self.total_outbufs_len:
            self.close_when_flushed = True
        elif self.connected and not self.will_close:
            self._linger()

    def handle_close(self) -> None:
        super().handle_close()
        self._later = b""
        if self.request is not None and not self._is_deciding:
            # Its environment leads back here, and a body is not to wait for the collector either.
            self.request.environ = None
            with contextlib.suppress(Exception):
                self.request.close()

    def look_after(self, now: float, stalled: float) -> None:
        """Close the connection of a client that reads nothing, or does not close its side.

        :param now: Unix time
        :param stalled: seconds without any progress
        """
        # waitress ends connections that have no request, but waits for ever for the others.
        waits = self.requests and self.total_outbufs_len
        is_stalled = waits and now - self.last_activity > stalled
        is_over = self.lingering_since and not 0 <= now - self.lingering_since <= LINGER
        if is_stalled or is_over:
            self.handle_close()

    def end_if_idle(self) -> None:
        """Close a connection without a request, because the server is being stopped."""
        busy = self.requests or self.request is not None or self.total_outbufs_len or self.has_more
        if not busy and not self.lingering_since and not self._has_news():
            self.handle_close()

    def refuse_rest(self) -> None:
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
            self._take(data)
        return True

    def go_on(self) -> bool:
        """Go on with a request on which this thread has decided; True when it is to answer it."""
        with self.requests_lock:
            request, data = self.request, self._later
            self._is_deciding, self._later = False, b""
            if request is None or not self.connected or self.will_close or self.close_when_flushed:
                return False
            self._admitted(request)
            is_due = self._queue(request)
            self._take(data)
        return is_due

    def write_soon(self, data: bytes) -> int:
        if not self.holds_head:
            return int(super().write_soon(data))
        self.holds_head = False
        with self.outbuf_lock:
            if self.current_outbuf_count >= self.adj.outbuf_high_watermark:
                # As waitress does: a buffer of its own for each answer.
                self.outbufs.append(OverflowableBuffer(self.adj.outbuf_overflow))
                self.current_outbuf_count = 0
            self.outbufs[-1].append(data)
            self.current_outbuf_count += len(data)
            self.total_outbufs_len += len(data)
        return len(data)

    def _take(self, data: bytes) -> None:
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
            data = data[self._parsed(request, data) :]
            if request.error:
                self._ends = True
            is_new = in_head and request.headers_finished and not (request.error or request.empty)
            if is_new and not self._decide(request):
                self._later = data
                return
            if self._queue(request):
                self.server.add_task(self)

    def _has_room(self) -> bool:
        return len(self.requests) <= LOOKAHEAD and self.total_outbufs_len <= UNSENT

    def _may_take_more(self) -> bool:
        return self.has_more and not self._is_deciding and self._has_room()

    def _take_more(self) -> None:
        """Go on with what arrived while there was no room for it."""
        with self.requests_lock:
            if self.connected and not (self.will_close or self.close_when_flushed):
                data, self._later = self._later, b""
                self._take(data)

    def _parsed(self, request: Any, data: bytes) -> int:
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
            self._admitted(request)
            return True
        self._is_deciding = True
        # No 100 before the verdict, which `service` would send after an earlier request.
        request.awaits_continue, request.expect_continue = request.expect_continue, False
        self.server.task_dispatcher.add_task(_Admission(self, environ))
        return False

    def _admitted(self, request: Any) -> None:
        request.expect_continue = request.expect_continue or request.awaits_continue
        info: RequestInfo = self.state.guard.info(request.environ)
        if info.refusal is not None:
            self._refuse(request, info.refusal)

    def _refuse(self, request: Any, refusal: RequestRefused) -> None:
        """Have the request answered without its body."""
        self.state.guard.info(request.environ).refuse(refusal)
        asked, request.expect_continue = request.expect_continue, False
        request.is_refused = request.completed = True
        if request.body_rcv is None:
            return
        left = request.content_length - request.body_bytes_received
        # Who asked before sending it may not send it, and then the next request would be dropped.
        stays = not (asked or request.chunked or self.state.lifecycle.draining)
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

    def _linger(self) -> None:
        """End this side of the connection, and let the client read the answer before the rest."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()
        else:
            self.lingering_since = time.time()

    def _has_news(self) -> bool:
        """True when the client has sent something that has not been read yet."""
        sock: Any = self.socket
        try:
            return sock is not None and bool(sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
