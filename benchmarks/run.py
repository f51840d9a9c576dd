"""Measure llmauth beside a naive proxy, nginx and the bare limit of its own stack.

    python benchmarks/run.py [--quick] [--only direct,bare,…] [--rounds 3] [--output FILE]

All servers of a round are up at once and idle but for the one that is measured; every workload
goes over all of them before the next begins, so that a slow minute of the machine hits all.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import report
import system
from results import Figures, Results
from servers import HERE, SERVERS, WRONG_KEY, NotStartedError, Running, Server, Setting, launch

DEFAULT = ("direct", "bare", "naive", "nginx", "llmauth", "capture", "accounts")
CHUNKS, GAP = 50, 0.02


@dataclass(frozen=True)
class Workload:
    name: str
    connections: int
    status: str = "200"
    stream: bool = False


WORKLOADS = (
    Workload("requests-1", 1),
    Workload("requests-8", 8),
    Workload("requests-32", 32),
    # Beside the forwarded requests, to which their ratio is a goal. The warm-up locks out.
    Workload("locked-out", 32, status="429"),
    Workload("wrong-key", 32, status="401"),
    Workload("streams-50", 50, stream=True),
    Workload("streams-200", 200, stream=True),
)


@dataclass(frozen=True)
class Length:
    rounds: int
    seconds: float
    warm_up: float
    waves: int  # of streams in a round: how 200 threads share one lock varies from wave to wave


FULL = Length(rounds=3, seconds=2.5, warm_up=0.5, waves=3)
QUICK = Length(rounds=1, seconds=1.0, warm_up=0.3, waves=1)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    length = QUICK if options.quick else FULL
    rounds = options.rounds or length.rounds
    servers = _choose(options.only)
    began = time.strftime("%Y-%m-%d")
    results = Results(system.description(), began, rounds)
    with tempfile.TemporaryDirectory(prefix="llmauth-benchmark-") as directory, upstream() as up:
        setting = Setting(Path(directory), up.port, secrets.token_urlsafe(32))
        for number in range(rounds):
            _say(f"round {number + 1} of {rounds}")
            # Another order each round: being measured after a certain other one is no merit.
            turned = servers[number % len(servers) :] + servers[: number % len(servers)]
            _round(turned, setting, up, length, results)
    report.write(results, options.output)
    if options.json:
        options.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    print(report.markdown(results))
    _say(f"written to {options.output}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, under 90 seconds")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument(
        "--only",
        default=",".join(DEFAULT),
        help="comma-separated (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "performance.md")
    parser.add_argument("--json", type=Path, help="file for every round's figures")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - {*DEFAULT}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(DEFAULT)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _choose(only: str) -> list[Server]:
    names = set(only.split(","))
    if "llmauth" in names:
        names |= {"wrong", "locked"}  # llmauth again, with settings of its own for refusals
    return [server for server in SERVERS if server.name in names]


@contextmanager
def upstream() -> Iterator[Running]:
    """The upstream, which ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "upstream.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        yield Running(SERVERS[0], int(process.stdout.readline()), [process.pid])
    finally:
        process.stdin.close()
        process.wait(5)


def _round(
    servers: list[Server], setting: Setting, up: Running, length: Length, results: Results
) -> None:
    with ExitStack() as stack:
        running = []
        for server in servers:
            if server.command is None:
                running.append(up)
            elif started := _start(server, setting, results):
                stack.callback(started.stop)
                running.append(started)
        for workload in WORKLOADS:
            able = [one for one in running if workload.name in one.server.workloads]
            for one in able * (length.waves if workload.stream else 1):
                _add(one, workload, setting, length, results)


def _start(server: Server, setting: Setting, results: Results) -> Running | None:
    try:
        started = launch(server, setting)
    except NotStartedError as error:
        results.skipped[server.name] = str(error)
        _say(f"  {server.name} did not start: {error}")
        return None
    results.add(server.name, "start", started.start)
    _say(f"  start        {server.name:8} {_brief(started.start)}")
    return started


def _add(
    one: Running, workload: Workload, setting: Setting, length: Length, results: Results
) -> None:
    name = one.server.name
    try:
        figures = _measure(one, workload, setting, length)
    except subprocess.SubprocessError as error:
        results.skipped[f"{name}, {workload.name}"] = f"the load generator failed: {error}"
        _say(f"  {workload.name:12} {name:8} failed: {error}")
        return
    results.add(name, workload.name, figures)
    _say(f"  {workload.name:12} {name:8} {_brief(figures)}")


def _measure(one: Running, workload: Workload, setting: Setting, length: Length) -> Figures:
    spec: dict[str, object] = {
        "port": one.port,
        "key": setting.key if workload.status == "200" else WRONG_KEY,
        "pids": one.pids,
        "connections": workload.connections,
        "status": workload.status,
        "seconds": length.seconds,
        "warm_up": length.warm_up,
    }
    if workload.stream:
        spec |= {"chunks": CHUNKS, "gap": GAP}
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py"), json.dumps(spec)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=180,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def _brief(figures: Figures) -> str:
    shown = (f"{name}={value:.3g}" for name, value in figures.items() if value is not None)
    return " ".join(shown)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
