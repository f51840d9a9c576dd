"""Messages between the proxy and the process that writes the wire capture."""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any, BinaryIO

DONE = b"done\n"
"""The answer to each message, once all of it is in the file."""


def packed(value: Any) -> bytes:
    """Return a value as it is sent.

    :raises ValueError: it is, or holds, something of a type that `marshal` does not know
    """
    return marshal.dumps(value)


def unpacked(data: bytes) -> Any:
    """Return the value that was packed."""
    # Nobody else can write into this pipe, and JSON, which knows no bytes, would take longer.
    return marshal.loads(data)  # nosec B302


def messages(stream: BinaryIO) -> Iterator[Any]:
    """Yield what was sent, until the end; of a message that is cut off, nothing."""
    while True:
        try:
            message = marshal.load(stream)  # nosec B302
        except EOFError:
            return
        yield message
