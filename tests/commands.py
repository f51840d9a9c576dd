"""The program as people start it, in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
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
    """Run a command: see in_turn.py."""
    (done,) = run_each([arguments], **environ)
    out, err = (io.TextIOWrapper(io.BytesIO(said)).read() for said in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def run_each(
    commands: Iterable[Sequence[str]], *prefix: str, **environ: str
) -> list[subprocess.CompletedProcess[bytes]]:
    """Run several commands, each in a copy of one process: see in_turn.py.

    :param prefix: a script that runs a module
    """
    settings = {name: value for name, value in environ.items() if name.startswith("PYTHON")}
    process = _copied(prefix, tuple(settings.items()))
    return [process.run(command, environment(**environ)) for command in commands]


class _Copied:
    """A process that runs commands one after the other.

    :param settings: of the interpreter, which reads them when it starts
    """

    def __init__(self, prefix: Iterable[str], settings: dict[str, str]) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, *prefix, "-m", "in_turn"],
            env=environment(**settings) | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        atexit.register(self._process.communicate)

    def run(
        self, command: Sequence[str], environ: dict[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        assert self._process.stdin
        assert self._process.stdout
        order = {"arguments": list(command), "environ": environ}
        self._process.stdin.write(json.dumps(order).encode("ascii") + b"\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            self._said.seek(0)
            raise AssertionError(self._said.read().decode("latin-1"))
        code, out, err = json.loads(line)
        return subprocess.CompletedProcess(
            command, code, out.encode("latin-1"), err.encode("latin-1")
        )


@functools.cache
def _copied(prefix: tuple[str, ...], settings: tuple[tuple[str, str], ...]) -> _Copied:
    return _Copied(prefix, dict(settings))


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
