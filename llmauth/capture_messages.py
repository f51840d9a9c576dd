"""Messages between the proxy and the process that writes the wire capture."""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any, BinaryIO

_LENGTH = 8  # bytes before a message, which tell its length


def packed(message: Any) -> bytes:
    """Return a message of types that `marshal` knows as it is sent."""
    data = marshal.dumps(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def messages(stream: BinaryIO) -> Iterator[Any]:
    """Yield what was sent, until the end; of a message that is cut off, nothing."""
    while len(length := stream.read(_LENGTH)) == _LENGTH:
        size = int.from_bytes(length, "big")
        if len(data := stream.read(size)) < size:
            break
        # Nobody else can write into this pipe, and JSON, which knows no bytes, would take longer.
        yield marshal.loads(data)  # nosec B302
