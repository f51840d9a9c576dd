"""The program as people start it, in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from fronts import STARTING, ended_early
from servers import TIMEOUT

ROOT = Path(__file__).parent.parent
KEY = "key-of-the-command-line-0123456789"
SECRET = "sk-proj-provider-key-of-the-command-line"


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmauth", *arguments],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_each(
    commands: Iterable[list[str]], *prefix: str, **environ: str
) -> list[subprocess.CompletedProcess[bytes]]:
    """Run several commands in one process: see in_turn.py.

    :param prefix: a script that runs a module
    """
    commands = list(commands)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, *prefix, "-m", "in_turn"],
        input=json.dumps(commands).encode("ascii"),
        env=environment(**environ) | {"PYTHONPATH": path},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("latin-1")
    return [
        subprocess.CompletedProcess(command, code, out.encode("latin-1"), err.encode("latin-1"))
        for command, (code, out, err) in zip(commands, json.loads(done.stdout), strict=True)
    ]


@contextlib.contextmanager
def started(*command: str, port: int, **environ: str):
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until_healthy(process, port)
        if process.poll() is not None:
            ended_early(list(command), process.returncode, process.communicate()[0])
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_healthy(process: subprocess.Popen, port: int) -> None:
    """Wait until the server answers, or has ended."""
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            get(port, "/health")
            break
        time.sleep(0.05)


def get(port: int, path: str, key: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read()
