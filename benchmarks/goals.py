"""The project's performance goals, and whether a run met them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from results import Results


@dataclass(frozen=True)
class Goal:
    text: str
    bound: str  # as in "≥ 2.0"
    value: Callable[[Results], float | None]
    shown: str = "{:.2f}"

    def met(self, value: float) -> bool:
        sign, limit = self.bound.split()
        compare = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}[sign]
        return bool(compare(value, float(limit)))


def _ratio(
    metric: str, of: tuple[str, str], to: tuple[str, str]
) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(metric, of, to)


def _median(server: str, workload: str, metric: str) -> Callable[[Results], float | None]:
    return lambda results: results.median(server, workload, metric)


def _fewest_completed(results: Results) -> float | None:
    values = results.values("llmauth", "streams-200", "completed")
    return min(values) if values else None


def _more_memory(results: Results) -> float | None:
    """The last workload of each round, the one with most streams, is measured after all others."""
    with_, without = (
        results.values(server, "streams-200", "resident_mb") for server in ("database", "llmauth")
    )
    pairs = list(zip(with_, without, strict=False))
    return median(more - less for more, less in pairs) if pairs else None


GOALS = (
    Goal(
        "requests/s at 32 connections, of the naive proxy's",
        "≥ 2.0",
        _ratio("requests_per_second", ("llmauth", "requests-32"), ("naive", "requests-32")),
    ),
    Goal(
        "requests/s at 32 connections, of the bare limit",
        "≥ 0.8",
        _ratio("requests_per_second", ("llmauth", "requests-32"), ("bare", "requests-32")),
    ),
    Goal(
        "requests/s at 32 connections with a wire capture, of those without",
        "≥ 0.8",
        _ratio("requests_per_second", ("capture", "requests-32"), ("llmauth", "requests-32")),
    ),
    Goal(
        "requests/s at 32 connections with a database, of those without",
        "≥ 0.9",
        _ratio("requests_per_second", ("database", "requests-32"), ("llmauth", "requests-32")),
    ),
    Goal(
        "CPU per 1,000 chunks with 200 streams and a database, of that without",
        "≤ 1.2",
        _ratio("cpu_ms_per_1000_chunks", ("database", "streams-200"), ("llmauth", "streams-200")),
    ),
    Goal(
        "MB resident after all of it with a database, more than without",
        "≤ 10",
        _more_memory,
        "{:.0f}",
    ),
    Goal(
        "requests/s at 32 connections with every limit on the key, of those without a database",
        "≥ 0.85",
        _ratio("requests_per_second", ("limits", "requests-32"), ("llmauth", "requests-32")),
    ),
    Goal(
        "CPU per 1,000 chunks with 200 streams, of the naive proxy's",
        "≤ 0.6",
        _ratio("cpu_ms_per_1000_chunks", ("llmauth", "streams-200"), ("naive", "streams-200")),
    ),
    Goal(
        "CPU per 1,000 chunks with 200 streams, of the bare limit",
        "≤ 1.1",
        _ratio("cpu_ms_per_1000_chunks", ("llmauth", "streams-200"), ("bare", "streams-200")),
    ),
    Goal(
        "delay per chunk with 50 streams, p50, ms over direct",
        "< 1",
        lambda results: added_delay(results, "llmauth", "streams-50", "delay_p50_ms"),
    ),
    Goal(
        "delay per chunk with 50 streams, p99, ms over direct",
        "< 15",
        lambda results: added_delay(results, "llmauth", "streams-50", "delay_p99_ms"),
    ),
    Goal("of 200 streams complete, every byte equal", "≥ 200", _fewest_completed, "{:.0f}"),
    Goal(
        "answers/s to a wrong key, of forwarded requests/s",
        "≥ 3",
        _ratio("requests_per_second", ("wrong", "wrong-key"), ("llmauth", "requests-32")),
    ),
    Goal(
        "answers/s to a locked-out address, of forwarded requests/s",
        "≥ 3",
        _ratio("requests_per_second", ("locked", "locked-out"), ("llmauth", "requests-32")),
    ),
    Goal(
        "seconds from process start to the first forwarded answer",
        "< 0.7",
        _median("llmauth", "start", "forwarded_seconds"),
    ),
    Goal(
        "MB resident when idle", "< 60", _median("llmauth", "start", "idle_resident_mb"), "{:.0f}"
    ),
)


def added_delay(results: Results, server: str, workload: str, metric: str) -> float | None:
    """A percentile of the chunks' delays, less the same percentile without a proxy."""
    own = results.values(server, workload, metric)
    floor = results.values("direct", workload, metric)
    pairs = list(zip(own, floor, strict=False)) or [(value, 0.0) for value in own]
    return median(value - least for value, least in pairs) if pairs else None


def table(results: Results) -> list[str]:
    lines = ["| goal | bound | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        value = goal.value(results)
        shown = "not measured" if value is None else goal.shown.format(value)
        verdict = "" if value is None else "met" if goal.met(value) else "**not met**"
        lines.append(f"| {goal.text} | {goal.bound} | {shown} | {verdict} |")
    return lines
