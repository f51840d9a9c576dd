"""What is counted for good beside the daily totals, for whoever watches many requests at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from math import inf

from .store import RequestRow

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, inf)
"""Upper bounds of seconds: from a cached answer to a long reasoning."""

REFUSED = "refused: "
"""Begins how a request ended that we have refused, before the reason."""

Counter = tuple[str, ...]
"""The name of a counter, and the values of its labels."""


def counted(row: RequestRow) -> Iterator[tuple[Counter, float]]:
    """Yield what a request that has ended adds to which counters."""
    yield ("requests", row.key, row.backend, str(row.status or 0)), 1
    if row.ended.startswith(REFUSED):
        yield ("refused", row.ended.removeprefix(REFUSED)), 1
        return
    yield from _observed("duration", row.ms)
    if row.first_ms is not None:
        yield from _observed("first_byte", row.first_ms)


def _observed(name: str, milliseconds: int) -> Iterator[tuple[Counter, float]]:
    seconds = milliseconds / 1000
    yield (name, str(BUCKETS[bisect_left(BUCKETS, seconds)])), 1
    yield (name, "sum"), seconds
