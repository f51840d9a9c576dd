"""Whether work grows in proportion to its input, told by this thread's processor time.

Whatever else the machine does adds to a measurement and takes nothing away: the least of several
counts, and one growth in proportion among several attempts is enough. Eight times the input takes
eight times as long, or 64 times where each part of it is looked at for each other part.

What is divided by is counted more often than what is divided: were it too long, growth that is out
of proportion would pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TIMES = 8
ALLOWED = 24.0
ATTEMPTS = 8


def seconds(action: Callable[[], object], runs: int) -> float:
    """Return the least time that an action takes."""
    least = float("inf")
    for _ in range(runs):
        began = time.thread_time()
        action()
        least = min(least, time.thread_time() - began)
    return least


def growth(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Return how many times as long the second action takes, in the best of some attempts."""
    best = float("inf")
    for attempt in range(ATTEMPTS):
        base = max(seconds(small, 2 + attempt), 20e-6)
        best = min(best, seconds(large, 1 + attempt) / base)
        if best <= ALLOWED:
            break
    return best
