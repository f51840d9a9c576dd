"""Memory goes back to the system once it is free, where the C library is glibc."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_OPTIONS = {
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
    if glibc := _glibc():
        for variable, (option, value) in _OPTIONS.items():
            if variable not in os.environ:
                glibc.mallopt(option, value)


def return_free_pages() -> None:
    """Return what is free between other pieces, after a burst of small ones."""
    if glibc := _glibc():
        glibc.malloc_trim(0)


def _glibc() -> Any:
    """Return the C library of the process, None unless it is glibc."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # musl and macOS; no such library; Windows
        return None
