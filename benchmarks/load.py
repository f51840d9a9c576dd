"""The load generator: closed loops over kept-alive connections, or many streams at once.

`python load.py '{"port": …, …}'` prints its results as JSON. One thread over raw sockets, with as
little parsing as can tell a right answer from a wrong one, so that the proxy is the slower part.
"""

from __future__ import annotations

import gc
import json
import re
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import system
import wire

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
STREAM_LIMIT = 60.0  # seconds until streams that have not ended count as incomplete


@dataclass
class Spec:
    """One measurement, as run.py asks for it."""

    port: int
    key: str
    pids: list[int]
    connections: int
    seconds: float = 2.0
    warm_up: float = 0.5
    status: str = "200"
    chunks: int = 0  # more than 0: streams of so many chunks
    gap: float = 0.02  # seconds between chunks
    spread: float = 0.2  # seconds over which the streams start


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@dataclass
class Tally:
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0  # answers with another body than the upstream's
    reconnects: int = 0


class Client:
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, spec: Spec, selector: selectors.BaseSelector) -> None:
        self.spec = spec
        self.selector = selector
        self.request = wire.request(spec.port, spec.key)
        self.body = wire.answer_body() if spec.status == "200" else None
        self.tally = Tally()
        self.open()

    def open(self) -> None:
        self.sock = connect(self.spec.port)
        self.selector.register(self.sock, selectors.EVENT_READ, self.on_readable)
        self.ask()

    def ask(self) -> None:
        self.received = b""
        self.asked = time.perf_counter()
        self.sock.send(self.request)

    def on_readable(self) -> None:
        data = self._receive()
        self.received = self.received + data if self.received else data
        head, separator, body = self.received.partition(wire.HEADERS_END)
        length = _LENGTH.search(head) if separator else None
        if length:
            if len(body) < int(length[1]):
                return
        elif data and not body.endswith(wire.END_OF_CHUNKS):
            return
        if self.received:
            self._count(head, body if length else b"")
        if not data or _CLOSE.search(head):
            self.tally.reconnects += 1
            self.selector.unregister(self.sock)
            self.sock.close()
            self.open()
        else:
            self.ask()

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""

    def _count(self, head: bytes, body: bytes) -> None:
        tally = self.tally
        tally.latencies.append(time.perf_counter() - self.asked)
        tally.statuses[head[9:12].decode("latin-1")] += 1
        if self.body is not None and body != self.body:
            tally.wrong += 1


def run_requests(spec: Spec) -> dict[str, object]:
    selector = selectors.DefaultSelector()
    clients = [Client(spec, selector) for _ in range(spec.connections)]
    _turn(selector, spec.warm_up)
    for client in clients:
        client.tally = Tally()

    cpu, own, began = system.cpu_seconds(spec.pids), time.process_time(), time.perf_counter()
    _turn(selector, spec.seconds)
    elapsed = time.perf_counter() - began
    busy = (time.process_time() - own) / elapsed
    spent = _difference(cpu, system.cpu_seconds(spec.pids))

    latencies = sorted(value for client in clients for value in client.tally.latencies)
    statuses = sum((client.tally.statuses for client in clients), Counter())
    count = max(len(latencies), 1)
    return {
        "requests_per_second": len(latencies) / elapsed,
        "p50_ms": percentile(latencies, 0.50) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "cpu_ms_per_request": None if spent is None else spent * 1e3 / count,
        "cores_used": None if spent is None else spent / elapsed,
        "unexpected": len(latencies) - statuses[spec.status],
        "wrong_bodies": sum(client.tally.wrong for client in clients),
        "reconnects": sum(client.tally.reconnects for client in clients),
        "generator_busy": busy,
        "resident_mb": system.resident_mb(spec.pids),
    }


def _turn(selector: selectors.BaseSelector, seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for key, _ in selector.select(0.1):
            key.data()


@dataclass
class Stream:
    """One stream: its reads are only collected, the checking comes after the last has ended."""

    sock: socket.socket
    began: float
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    tail: bytes = b""

    def read(self) -> bool:
        """Whether this was the last read."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.parts.append((time.monotonic(), data))
        self.tail = (self.tail + data)[-5:]
        return not data or self.tail == wire.END_OF_CHUNKS


def run_streams(spec: Spec) -> dict[str, object]:
    cpu, own, began = system.cpu_seconds(spec.pids), time.process_time(), time.monotonic()
    streams = _collect(spec)
    elapsed = time.monotonic() - began
    busy = (time.process_time() - own) / elapsed
    resident = system.resident_mb(spec.pids)
    time.sleep(0.2)  # what the proxy does after the last byte belongs to the price
    spent = _difference(cpu, system.cpu_seconds(spec.pids))

    arrivals = [wire.check_stream(stream.parts, spec.chunks) for stream in streams]
    delays = sorted(delay for arrival in arrivals for delay in arrival.delays)
    first = sorted(stream.parts[0][0] - stream.began for stream in streams if stream.parts)
    per_thousand = 1e6 / max(len(delays), 1)
    return {
        "completed": sum(arrival.complete for arrival in arrivals),
        "streams": spec.connections,
        "seconds": elapsed,
        "first_byte_p50_ms": percentile(first, 0.50) * 1e3,
        "first_byte_p99_ms": percentile(first, 0.99) * 1e3,
        "delay_p50_ms": percentile(delays, 0.50) * 1e3,
        "delay_p99_ms": percentile(delays, 0.99) * 1e3,
        "cpu_ms_per_1000_chunks": None if spent is None else spent * per_thousand,
        "cores_used": None if spent is None else spent / elapsed,
        "generator_busy": busy,
        "resident_mb": resident,
    }


def _collect(spec: Spec) -> list[Stream]:
    """Start the streams one after the other, and read until all have ended."""
    request = wire.request(spec.port, spec.key, (spec.chunks, spec.gap))
    selector = selectors.DefaultSelector()
    streams: list[Stream] = []
    ended = 0
    began = time.monotonic()
    while ended < spec.connections and (now := time.monotonic()) < began + STREAM_LIMIT:
        while len(streams) < spec.connections:
            if now < began + len(streams) * spec.spread / spec.connections:
                break
            stream = Stream(connect(spec.port), time.monotonic())
            selector.register(stream.sock, selectors.EVENT_READ, stream)
            stream.sock.send(request)
            streams.append(stream)
        for key, _ in selector.select(0.0005 if len(streams) < spec.connections else 0.1):
            if key.data.read():
                ended += 1
                selector.unregister(key.data.sock)
                key.data.sock.close()
    return streams


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    gc.disable()  # a collection in the middle of a run would show as the proxy's delay
    asked = Spec(**json.loads(sys.argv[1]))
    print(json.dumps(run_streams(asked) if asked.chunks else run_requests(asked)))
