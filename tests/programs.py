"""Real programs for tests, each on a free port of 127.0.0.1 and stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fronts import PORTS_TRIED, STARTING, PortTaken, ended_early, free_port, program

TIMEOUT = 20.0
ROOT = Path(__file__).parent.parent
SDKS = ROOT / "tests" / "sdks"


def wait_for(condition, what: str, timeout: float = TIMEOUT) -> None:
    """Wait until the condition holds; fail when it does not come to hold."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {timeout} seconds"
        time.sleep(0.02)


def npm_install(folder: Path, *packages: str) -> None:
    """Install packages of npm; one at a time, since all installations share a cache."""
    with _npm_to_oneself():
        _npm_install(folder, *packages)


def node_modules() -> Path:
    """Return the folder of what tests/sdks/package.json names; install what is not there yet."""
    wanted = json.loads((SDKS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    folder = SDKS / "node_modules"
    with _npm_to_oneself():
        if not all((folder / name).is_dir() for name in wanted):
            _npm_install(SDKS)
    return folder


@contextlib.contextmanager
def _npm_to_oneself() -> Iterator[None]:
    with open(Path(tempfile.gettempdir()) / "llmauth-tests-npm.lock", "w") as lock:
        with contextlib.suppress(ImportError):  # on Windows
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _npm_install(folder: Path, *packages: str) -> None:
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    command += packages
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        shell=os.name == "nt",
    )
    if done.returncode:
        ended_early(command, done.returncode, done.stdout)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


class Program:
    """A process that listens on a port; what it prints goes to a file.

    :param command: with ``{port}`` where the port belongs
    """

    def __init__(self, command: list[str], environ: dict[str, str] | None = None) -> None:
        self._environ = environ
        self._output = tempfile.NamedTemporaryFile(suffix=".log", delete=False)  # noqa: SIM115
        for attempt in range(PORTS_TRIED):
            self.port = free_port()
            self.url = f"http://127.0.0.1:{self.port}"
            self._command = [part.replace("{port}", str(self.port)) for part in command]
            with contextlib.suppress(PortTaken):
                self.start(elsewhere=attempt + 1 < PORTS_TRIED)
                break

    def start(self, *, elsewhere: bool = False) -> None:
        """Start it, also when it has been stopped.

        :raises PortTaken: when it can be tried elsewhere
        """
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=inherited | (self._environ or {}),
            cwd=ROOT,
        )
        wait_for(
            lambda: self.is_up() or self.process.poll() is not None, self._command[0], STARTING
        )
        if self.process.poll() is not None:
            code, output = self.process.returncode, self.output()
            ended_early(self._command, code, output, elsewhere=elsewhere)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT)

    def is_up(self) -> bool:
        return listens(self.port)

    def output(self) -> str:
        return Path(self._output.name).read_text(encoding="utf-8", errors="replace")

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def close(self) -> None:
        # Asked first: a server that is killed leaves its worker processes behind.
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        self._output.close()
        Path(self._output.name).unlink(missing_ok=True)


class Redis(Program):
    """A store. It can be killed, started again on its port, frozen and thawed.

    :param options: of the command line
    """

    def __init__(self, *options: str) -> None:
        where = [] if "--tls-port" in options else ["--port", "{port}"]
        command = [program("redis-server"), *where, "--bind", "127.0.0.1", "--save", "", *options]
        super().__init__(command)
        self.uri = f"redis://127.0.0.1:{self.port}"

    def stop(self, how: int = signal.SIGKILL) -> int:
        return super().stop(how)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it take connections and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def commands(self) -> dict[str, int]:
        """Return how often each command has been called, those of this question left out."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.sendall(b"INFO commandstats\r\nQUIT\r\n")
            text = sock.makefile("rb").read().decode()
        calls = {name: int(n) for name, n in re.findall(r"cmdstat_([\w|]+):calls=(\d+)", text)}
        return {name: n for name, n in calls.items() if name not in ("info", "quit")}


def llmauth(**environ: str) -> Program:
    """Start ``python -m llmauth serve``."""
    command = [sys.executable, "-m", "llmauth", "serve", "--port", "{port}"]
    return Program(command, {"LOG_LEVEL": "INFO", **environ})
