"""Files that the program rereads when they have changed."""

from __future__ import annotations

import os
import time


def write(path, content: str | bytes) -> None:
    """Write the file as if that were a while ago: it need not be waited for."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settle(path)


def settle(path) -> None:
    at = time.time() - 100
    os.utime(path, (at, at))
