"""What is counted for good beside the daily totals, for whoever watches many requests at once."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from math import inf

from .store import RequestRow

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, inf)
"""Upper bounds of seconds: from a cached answer to a long reasoning."""

_BOUNDS = [str(bound) for bound in BUCKETS]

REFUSED = "refused: "
"""Begins how a request ended that we have refused, before the reason."""

Counter = tuple[str, ...]
"""The name of a counter, and the values of its labels."""


Counts = defaultdict[Counter, float]


def count(row: RequestRow, counts: Counts) -> None:
    """Add a request that has ended to counters."""
    counts["requests", row.key, row.backend, str(row.status or 0)] += 1
    if row.ended.startswith(REFUSED):
        counts["refused", row.ended.removeprefix(REFUSED)] += 1
        return
    _observe("duration", row.ms / 1000, counts)
    if row.first_ms is not None:
        _observe("first_byte", row.first_ms / 1000, counts)


def _observe(name: str, seconds: float, counts: Counts) -> None:
    counts[name, _BOUNDS[bisect_left(BUCKETS, seconds)]] += 1
    counts[name, "sum"] += seconds
