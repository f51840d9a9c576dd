"""Memory goes back to the system once it is free, where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

OPTIONS = {
    "MALLOC_ARENA_MAX": (-8, 2),
    "MALLOC_MMAP_THRESHOLD_": (-3, 256 * 1024),
    "MALLOC_TRIM_THRESHOLD_": (-1, 4 * 1024**2),
}
"""Of mallopt(3), and their values, by the variable of the environment that sets them.

glibc gives threads a pool of memory each, up to eight for a core, and once a large piece was freed
it keeps such pieces, and with them the holes between small ones: a server of many threads grows to
three times its size. Under Python's one lock two pools are as fast, and large pieces are rare.
"""


def return_large_pieces() -> None:
    """Have large pieces returned as soon as they are free; for the rest of the process's life."""
    with _glibc() as glibc:
        for variable, (option, value) in OPTIONS.items():
            if variable not in os.environ:
                glibc.mallopt(option, value)


def return_free_pages() -> None:
    """Return what is free between other pieces, after a burst of small ones."""
    with _glibc() as glibc:
        glibc.malloc_trim(0)


@contextlib.contextmanager
def _glibc() -> Iterator[Any]:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not on this system
        yield ctypes.CDLL(None)
