"""What the tests of hostile input share: raw requests, several answers."""

from __future__ import annotations

import contextlib
import re
import socket

from servers import KEY, TIMEOUT, read_all

WRONG = "wrong-key-0123456789abcdefghij"


def send(port: int, data: bytes) -> bytes:
    """Send raw bytes, return all that comes back; a server may answer before it has read all."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(data)
        return read_all(sock)


def statuses(answer: bytes) -> list[int]:
    """Return the status of every final answer on a connection."""
    found = re.findall(rb"(?:^|(?<=[\n}]))HTTP/1\.[01] (\d\d\d)", answer)
    return [int(status) for status in found if not status.startswith(b"1")]


def request(
    *headers: str | bytes,
    line: str | bytes = "POST /v1/x HTTP/1.1",
    host: str | None = "Host: proxy",
    key: str | None = KEY,
    close: bool = True,
    body: bytes = b"",
) -> bytes:
    """Return a request of exactly these lines."""
    lines: list[str | bytes | None] = [line, host, f"Authorization: Bearer {key}" if key else None]
    lines += ["Connection: close" if close else None, *headers, b"", b""]
    encoded = [
        one.encode("latin-1") if isinstance(one, str) else one for one in lines if one is not None
    ]
    return b"\r\n".join(encoded) + body
