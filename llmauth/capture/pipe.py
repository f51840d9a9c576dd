"""Messages between the proxy and the process that writes the wire capture."""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any, BinaryIO

WRITTEN = b"written\n"
"""The answer to each message, once all of it is in the file."""

_LENGTH = 8  # bytes before a message, which tell its length


def packed(value: Any) -> bytes:
    """Return a value as it is sent.

    :raises ValueError: it is, or holds, something of a type that `marshal` does not know
    """
    return marshal.dumps(value)


def unpacked(data: bytes) -> Any:
    """Return the value that was packed."""
    # Nobody else can write into this pipe, and JSON, which knows no bytes, would take longer.
    return marshal.loads(data)  # nosec B302


def framed(message: Any) -> bytes:
    """Return a message with its length."""
    data = packed(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def messages(stream: BinaryIO) -> Iterator[Any]:
    """Yield what was sent, until the end; of a message that is cut off, nothing."""
    while len(length := stream.read(_LENGTH)) == _LENGTH:
        size = int.from_bytes(length, "big")
        if len(data := stream.read(size)) < size:
            break
        yield unpacked(data)
