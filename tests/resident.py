"""By how much memory a process grows that runs a scenario."""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from servers import Upstream, request_bytes, running_proxy, whole


def grown(scenario: Callable[[str], None], argument: str) -> int:
    """Return by how many bytes a process grows that runs a scenario of this module."""
    command = [sys.executable, "-m", "resident", scenario.__name__, argument]
    tests = Path(__file__).parent
    environ = os.environ | {"PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        command, cwd=tests, env=environ, stdout=subprocess.PIPE, check=True, timeout=60
    )
    return int(done.stdout.split()[-1])


def resident() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024


def bomb(capture: str) -> None:
    """Print by how much memory grows while a body of 64 KB that unpacks to 64 MB is captured."""
    upstream = Upstream()
    packed = gzip.compress(bytes(64 * 2**20))
    headers = ("Content-Encoding: gzip", "Content-Type: application/json")
    with running_proxy(upstream, capture_file=capture) as proxy:
        proxy.request("POST", "/v1/x", body=b"{}")
        before = resident()
        upstream.answer = whole(packed, headers=headers)
        for _ in range(5):
            assert proxy.request("POST", "/v1/x", body=b"{}").body == packed
        proxy.server.state.capture.close(30.0)
        print(resident() - before)


def slow_readers(length: str) -> None:
    """Print by how much memory grows while 4 clients do not read what they asked for."""
    upstream = Upstream()

    def endless(request) -> None:
        head = f"HTTP/1.1 200 OK\r\n{length}Content-Type: text/event-stream\r\n\r\n"
        request.sock.sendall(head.encode())
        with contextlib.suppress(OSError):
            request.sock.settimeout(1.0)
            for _ in range(1024):
                request.sock.sendall(bytes(2**16))

    with running_proxy(upstream, threads=32) as proxy, contextlib.ExitStack() as stack:
        proxy.request("POST", "/v1/x", body=b"{}")
        before = resident()
        upstream.answer = endless
        for _ in range(4):
            stack.enter_context(proxy.open(request_bytes("/v1/large")))
        for _ in range(4):
            assert upstream.closed.acquire(timeout=50)  # nobody took more for a second
        print(resident() - before)


if __name__ == "__main__":
    {"bomb": bomb, "slow_readers": slow_readers}[sys.argv[1]](sys.argv[2])
