"""One stream between two sockets, carried without ever waiting.

While the client does not read, the upstream is not read either, so that a stream holds at most
:data:`~llmauth.proxy.watch.RECEIVE_SIZE` bytes.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Protocol

from ..http import chunks
from ..proxy.watch import NOT_YET, RECEIVE_SIZE

STALLED = 300.0
"""Seconds for which a client may take nothing of what waits for it, before its stream is cut."""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Two ints, on Windows two shorts: closing resets the connection.
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Source(Protocol):
    """The upstream's side of a stream: what is read is fed to it, what it returns is sent on."""

    @property
    def sock(self) -> Any:
        """The upstream's socket."""

    @property
    def received(self) -> bytes:
        """What came before the stream was handed over; fed first."""

    @property
    def read_timeout(self) -> float:
        """Seconds between two reads."""

    @property
    def is_cut(self) -> bool:
        """True once it is to be ended, because the server is, or the client's right to it."""

    @property
    def complete(self) -> bool:
        """True once all of it has been fed."""

    broken: bool
    """It ended too early, and must not look complete."""

    def feed(self, data: bytes) -> bytes:
        """Return the content in what was read; reading nothing is the connection's end."""

    def break_off(self, reason: Exception) -> bytes:
        """End it too early; return what is left to say to the client."""

    def cut(self) -> bytes:
        """End it early, because it is cut; return what is left to say to the client."""

    def client_left(self) -> None:
        """Take note that nobody reads any more, or is to."""

    def keep_alive(self, now: float) -> bytes:
        """Return what to tell a client that has heard nothing for long, if there is something."""


class Stream:
    """One stream between two sockets; both of them are its own.

    :param client: the connection on which the response's head has been sent
    :param chunked: that head announced chunks; else the end is told by closing
    :param passed: called with all content that is sent on
    :param ended: called once, however the stream ended
    :param keep_alive: called with the time now and then while nothing comes; returns what to tell
        the client in between, which is none of the content
    """

    def __init__(
        self,
        source: Source,
        client: socket.socket,
        *,
        chunked: bool,
        passed: Callable[[bytes], None],
        ended: Callable[[], None],
        keep_alive: Callable[[float], bytes] = lambda now: b"",
    ) -> None:
        self._keep_alive = keep_alive
        self.closed = False
        self._source = source
        self._upstream = source.sock
        self._client = client
        self._chunked = chunked
        self._passed = passed
        self._ended = ended
        self._unsent = b""
        self._paused = False
        self._active = 0.0

    def begin(self, selector: selectors.BaseSelector, now: float) -> None:
        """Have the selector report both sockets, with the stream as their data."""
        self._selector = selector
        self._active = now
        for sock in (self._client, self._upstream):
            sock.setblocking(False)
            selector.register(sock, _READ, self)
        if self._source.received:
            self._pass_on(self._source.feed(self._source.received))

    def on_ready(self, ready: object, events: int, now: float) -> None:
        """Do what can be done now that a socket is ready."""
        if ready is self._upstream:
            self._receive(now)
            return
        if events & _READ:
            self._read_client()
        if events & _WRITE and self._unsent and not self.closed:
            self._active = now
            self._send()

    def check(self, now: float) -> None:
        """End the stream if it is to be cut, or if one side has been silent for too long."""
        idle = now - self._active
        if self._source.is_cut and not self._unsent:
            self._pass_on(self._source.cut())
        elif self._source.is_cut:
            self._give_up()
        elif self._unsent:
            if idle > STALLED:
                self._give_up()
        elif idle > self._source.read_timeout:
            self._pass_on(self._source.break_off(TimeoutError("the upstream took too long")))
        elif comment := self._keep_alive(now):
            self._unsent = self._framed(comment)
            self._send()

    def close(self) -> None:
        """Give everything back; a stream that is not complete does not look so."""
        if self.closed:
            return
        self.closed = True
        for sock in (self._client, self._upstream):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
        try:
            self._ended()
        finally:
            with contextlib.suppress(OSError), self._client as client:
                if self._source.complete:
                    # Told at once, though waitress may still have its side of the connection.
                    client.shutdown(socket.SHUT_WR)
                elif not self._chunked:
                    # Where closing is the end, an end that comes too early must differ.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _receive(self, now: float) -> None:
        try:
            data = self._upstream.recv(RECEIVE_SIZE)
        except NOT_YET:
            return
        except OSError as exc:
            self._pass_on(self._source.break_off(exc))
            return
        self._active = now
        self._pass_on(self._source.feed(data))

    def _pass_on(self, content: bytes) -> None:
        if content:
            self._passed(content)
        self._unsent = self._framed(content)
        self._send()

    def _framed(self, content: bytes) -> bytes:
        """Return the content as it goes out (RFC 9112 §7.1), with the end if it is the last."""
        if not self._chunked:
            return content
        data = chunks.encode(content)
        return data + chunks.END if self._source.complete else data

    def _send(self) -> None:
        if self._unsent:
            try:
                self._unsent = self._unsent[self._client.send(self._unsent) :]
            except BlockingIOError:
                pass
            except OSError:
                self._give_up()
                return
        if self._unsent:
            self._pause()
        elif self._source.complete or self._source.broken:
            self.close()
        elif self._paused:
            self._paused = False
            self._selector.modify(self._client, _READ, self)
            self._selector.register(self._upstream, _READ, self)

    def _pause(self) -> None:
        """Read no more until the client has taken what waits for it."""
        if not self._paused:
            self._paused = True
            self._selector.modify(self._client, _READ | _WRITE, self)
            self._selector.unregister(self._upstream)

    def _read_client(self) -> None:
        """Notice that the client left; what else it sends comes too late on this connection."""
        try:
            received = self._client.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._give_up()

    def _give_up(self) -> None:
        self._source.client_left()
        self.close()
