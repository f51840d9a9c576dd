"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from llmauth.server import memory

PROGRAM = """
import re
from llmauth.server import memory

def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\\s+(\\d+)", file.read())[1]) / 1024

memory.return_large_pieces()
before = resident()
pieces = [b"x" * 30_000 for _ in range(2000)]
few = pieces[::100]
del pieces
full = resident()
memory.return_free_pages()
print(before, full, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_free_pages_between_small_pieces_that_stay_are_returned():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    before, full, after = map(float, done.stdout.split())
    assert full > before + 30
    assert after < before + 10


@pytest.mark.parametrize("error", [TypeError, OSError, AttributeError])
def test_without_glibc_nothing_happens(monkeypatch, error):
    """On Windows, where the process is no library; where it cannot be loaded; with musl."""

    class Other:
        def __init__(self, name: None) -> None:
            if error is not AttributeError:
                raise error

    monkeypatch.setattr(ctypes, "CDLL", Other)
    memory.return_large_pieces()
    memory.return_free_pages()
