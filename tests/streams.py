"""What the tests of streams share: an upstream's stream, piece by piece as the test says."""

from __future__ import annotations

import socket
import threading

from servers import TIMEOUT

from llmauth.http.chunks import encode as chunk

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: {}\n\n"

__all__ = ["EVENT", "HEAD", "Held", "chunk", "read_until"]


def read_until(sock: socket.socket, marker: bytes) -> bytes:
    data = b""
    while marker not in data:
        received = sock.recv(65536)
        assert received, data
        data += received
    return data


class Held:
    """An upstream's answer that goes on when the test says so."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.go_on = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)

    def __call__(self, request) -> None:
        for part in self.parts:
            if part:
                request.sock.sendall(part)
            self.reached.release()
            if not self.go_on.acquire(timeout=TIMEOUT):
                return  # the test has ended without it

    def wait(self) -> None:
        assert self.reached.acquire(timeout=TIMEOUT)
