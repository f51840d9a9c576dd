"""The results as markdown, and their place in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import goals
import system
from results import Results
from servers import FORWARDED, SERVERS

BEGIN = "<!-- benchmark: begin, written by benchmarks/run.py -->"
END = "<!-- benchmark: end -->"
WORKLOAD_NAMES = (*FORWARDED, "wrong-key", "locked-out")
BUSY = 0.9  # a load generator this busy is the limit itself


def write(results: Results, output: Path) -> None:
    put(markdown(results), output, BEGIN, END)


def put(tables: str, output: Path, begin: str, end: str) -> None:
    """Put the tables between the markers; a file without markers is written anew."""
    block = f"{begin}\n\n{tables}\n\n{end}"
    old = output.read_text(encoding="utf-8") if output.exists() else ""
    if begin in old and end in old:
        before, rest = old.split(begin, 1)
        text = before + block + rest.split(end, 1)[1]
    else:
        text = f"# Benchmark results\n\n{block}\n"
    output.write_text(text, encoding="utf-8")


def markdown(results: Results) -> str:
    parts = [
        f"{results.machine}; {results.began}; median of {results.rounds} interleaved round(s). "
        "Made by `python benchmarks/run.py`; what the columns mean: `benchmarks/README.md`.",
        "### Goals\n\n" + "\n".join(goals.table(results)),
        *(_requests(results, count) for count in (1, 8, 32)),
        *(_streams(results, count) for count in (50, 200)),
        _refusals(results),
        _start(results),
        *(f"Not measured: {name}: {reason}" for name, reason in results.skipped.items()),
        *_faults(results),
        "" if system.LINUX else "CPU time and memory are measured on Linux only.",
    ]
    return "\n\n".join(part for part in parts if part)


def _faults(results: Results) -> Iterator[str]:
    """Whatever makes a figure doubtful: an answer other than the expected one."""
    for name, _, workload in _measured(results, *WORKLOAD_NAMES):
        for metric in ("unexpected", "wrong_bodies"):
            if count := sum(results.values(name, workload, metric)):
                text = metric.replace("_", " ")
                yield f"**Doubtful:** {name}, {workload}: {count:.0f} {text} answers."


def _table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measured(results: Results, *workloads: str) -> list[tuple[str, str, str]]:
    """Name, title and workload of each server that has figures for one of these."""
    return [
        (server.name, server.title, workload)
        for server in SERVERS
        for workload in workloads
        if results.figures.get(server.name, {}).get(workload)
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _requests(results: Results, count: int) -> str:
    workload = f"requests-{count}"
    columns = ["server", "requests/s", "× naive", "× bare", "p50 ms", "p99 ms"]
    columns += ["CPU ms/request", "× bare", "RSS MB"]
    rows = []
    for name, title, _ in _measured(results, workload):
        rate = _number(results.median(name, workload, "requests_per_second"), 0)
        busy = results.median(name, workload, "generator_busy") or 0
        rows.append(
            [
                title,
                rate + (" (generator's limit)" if busy > BUSY else ""),
                _ratio(results, name, workload, "naive", "requests_per_second"),
                _ratio(results, name, workload, "bare", "requests_per_second"),
                _number(results.median(name, workload, "p50_ms")),
                _number(results.median(name, workload, "p99_ms")),
                _number(results.median(name, workload, "cpu_ms_per_request"), 3),
                _ratio(results, name, workload, "bare", "cpu_ms_per_request"),
                _number(results.median(name, workload, "resident_mb"), 0),
            ]
        )
    return _table(f"Requests, {count} kept-alive connection(s)", columns, rows)


def _streams(results: Results, count: int) -> str:
    workload = f"streams-{count}"
    columns = ["server", "complete", "first byte p50 ms", "p99 ms", "chunk delay p50 ms", "p99 ms"]
    columns += ["CPU ms/1,000 chunks", "× naive", "× bare", "RSS MB"]
    rows = []
    for name, title, _ in _measured(results, workload):
        complete = results.values(name, workload, "completed")
        cells = [title, f"{min(complete):.0f} of {count}"]
        times = ("first_byte_p50_ms", "first_byte_p99_ms", "delay_p50_ms", "delay_p99_ms")
        cells += [_number(results.median(name, workload, metric)) for metric in times]
        cells += [
            _number(results.median(name, workload, "cpu_ms_per_1000_chunks"), 0),
            _ratio(results, name, workload, "naive", "cpu_ms_per_1000_chunks"),
            _ratio(results, name, workload, "bare", "cpu_ms_per_1000_chunks"),
            _number(results.median(name, workload, "resident_mb"), 0),
        ]
        rows.append(cells)
    return _table(f"{count} streams of 50 chunks, 20 ms apart", columns, rows)


def _refusals(results: Results) -> str:
    rows = []
    for name, title, workload in _measured(results, "wrong-key", "locked-out"):
        status = "401" if workload == "wrong-key" else "429"
        busy = results.median(name, workload, "generator_busy") or 0
        rate = _number(results.median(name, workload, "requests_per_second"), 0)
        forwarded = ("llmauth" if name in ("wrong", "locked") else name, "requests-32")
        ratio = results.ratio("requests_per_second", (name, workload), forwarded)
        cells = [title, status, rate + (" (generator's limit)" if busy > BUSY else "")]
        cells += [_number(ratio), _number(results.median(name, workload, "p50_ms"))]
        cells += [_number(results.median(name, workload, "p99_ms"))]
        cells += [_number(results.median(name, workload, "cpu_ms_per_request"), 3)]
        rows.append(cells)
    columns = ["server", "status", "answers/s", "× forwarded", "p50 ms", "p99 ms", "CPU ms/answer"]
    return _table("Refusals, 32 kept-alive connections", columns, rows)


def _start(results: Results) -> str:
    rows = [
        [
            title,
            _number(results.median(name, "start", "health_seconds")),
            _number(results.median(name, "start", "forwarded_seconds")),
            _number(results.median(name, "start", "idle_resident_mb"), 0),
        ]
        for name, title, _ in _measured(results, "start")
        if name not in ("wrong", "locked")
    ]
    columns = ["server", "/health after s", "forwarded after s", "idle RSS MB"]
    return _table("Start", columns, rows)


def _ratio(results: Results, name: str, workload: str, to: str, metric: str) -> str:
    return _number(results.ratio(metric, (name, workload), (to, workload)))
