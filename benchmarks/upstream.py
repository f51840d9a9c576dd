"""The upstream of the benchmark: a provider that costs next to nothing.

One thread, non-blocking sockets, a heap of due chunks. Answers every request with the same
completion, and a request whose body says `"stream": true` with timed events.
Prints its port when it listens; ends with its parent's pipe.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
import os
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import wire

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ANSWER = wire.answer()
_STREAM_HEAD = wire.stream_head()


class Loop:
    """A selector and a heap: whatever is readable, whatever is due."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), action))

    def run(self) -> None:
        while True:
            timeout = max(self._due[0][0] - time.monotonic(), 0) if self._due else None
            for key, _ in self.selector.select(timeout):
                key.data()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()


class Connection:
    """One kept-alive connection; what is sent always fits the socket's buffer."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.received = b""
        self.open = True
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.selector.register(sock, selectors.EVENT_READ, self.on_readable)

    def on_readable(self) -> None:
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.received += data
        head, separator, body = self.received.partition(wire.HEADERS_END)
        if not separator:
            return
        length = _LENGTH.search(head)
        if length and len(body) < int(length[1]):
            return
        self.received = b""
        if b'"stream": true' in body:
            asked = json.loads(body)
            Stream(self, asked).start()
        else:
            self.send(_ANSWER)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self.loop.selector.unregister(self.sock)
            self.sock.close()


class Stream:
    """Events at a steady pace, the first together with the head, then the digest of all; before
    it the usage, when that is asked for."""

    def __init__(self, connection: Connection, asked: dict[str, Any]) -> None:
        self.connection = connection
        self.chunks: int = asked["chunks"]
        self.gap: float = asked["gap"]
        # What nobody but a proxy asks for, which takes it out again: it is not in the digest.
        self.usage = wire.USAGE if "stream_options" in asked else b""
        self.sent: list[bytes] = []
        self.began = time.monotonic()

    def start(self) -> None:
        self.connection.send(_STREAM_HEAD)
        self.send_next()

    def send_next(self) -> None:
        number = len(self.sent)
        if not self.connection.open:
            return
        if number == self.chunks:
            end = wire.last_event(b"".join(self.sent))
            usage = wire.chunk(self.usage) if self.usage else b""
            self.connection.send(usage + wire.chunk(end) + wire.END_OF_CHUNKS)
            return
        event = wire.event(number, time.monotonic())
        self.connection.send(wire.chunk(event))
        self.sent.append(event)
        self.connection.loop.call_at(self.began + (number + 1) * self.gap, self.send_next)


def end_with_parent() -> None:
    """The parent holds our standard input open: its end is the end of the benchmark."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    loop = Loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)

    def accept() -> None:
        Connection(loop, listener.accept()[0])

    loop.selector.register(listener, selectors.EVENT_READ, accept)
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    gc.disable()  # a collection in the middle of a run would show as somebody else's delay
    loop.run()


if __name__ == "__main__":
    main()
