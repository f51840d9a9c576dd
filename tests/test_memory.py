"""Memory that is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import re
from llmauth import memory

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
