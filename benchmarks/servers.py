"""What is measured: how each server is started, when it answers, how it is stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import system
import wire

HERE = Path(__file__).resolve().parent
START_LIMIT = 20.0  # seconds until a server that does not answer has failed
STOP_LIMIT = 5.0


class NotStartedError(Exception):
    """A server that is missing here, ended early, or does not answer."""


@dataclass(frozen=True)
class Setting:
    """What all servers of one run share."""

    directory: Path
    upstream: int
    key: str


Command = Callable[[Setting, int], tuple[list[str], dict[str, str]]]


@dataclass(frozen=True)
class Server:
    """One row of the tables."""

    name: str
    title: str
    command: Command | None  # None: the upstream itself
    workloads: tuple[str, ...]
    health: str = ""


@dataclass
class Running:
    """A server that answers, and what its start cost."""

    server: Server
    port: int
    pids: list[int]
    process: subprocess.Popen[bytes] | None = None
    start: dict[str, float | None] = field(default_factory=dict)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def launch(server: Server, setting: Setting) -> Running:
    """Start one server and wait for its first answers, timed from the start of its process."""
    if server.command is None:
        raise NotStartedError("the upstream is started by run.py")
    port = _free_port()
    argv, extra = server.command(setting, port)
    # A clean environment: proxy settings and the shell's own variables are nobody's cost.
    kept = ("PATH", "HOME", "SYSTEMROOT")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    log_path = setting.directory / f"{server.name}.log"
    with log_path.open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, cwd=HERE.parent, env=environ | extra, stdout=log, stderr=subprocess.STDOUT
        )
    running = Running(server, port, [process.pid], process)
    try:
        if server.health:
            get = f"GET {server.health} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
            running.start["health_seconds"] = _first_answer(process, port, get, log_path) - began
        forwarded = _first_answer(process, port, wire.request(port, setting.key), log_path)
    except BaseException:
        running.stop()
        raise
    running.start["forwarded_seconds"] = forwarded - began
    time.sleep(0.3)
    running.pids = system.family(process.pid)
    running.start["idle_resident_mb"] = system.resident_mb(running.pids)
    return running


def _first_answer(process: subprocess.Popen[bytes], port: int, request: bytes, log: Path) -> float:
    """The time of the first 200."""
    deadline = time.perf_counter() + START_LIMIT
    answer = b""
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise NotStartedError(f"ended with status {process.returncode}: {_tail(log)}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(request)
                answer = sock.recv(65536)
        except OSError:
            time.sleep(0.002)
            continue
        if answer.startswith(b"HTTP/1.1 200"):
            return time.perf_counter()
        time.sleep(0.01)
    raise NotStartedError(f"no 200 within {START_LIMIT:.0f} s, last {answer[:60]!r}: {_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _bare(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    upstream = f"http://127.0.0.1:{setting.upstream}"
    return [sys.executable, str(HERE / "bare.py"), str(port), upstream], {}


def _naive(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    upstream = f"http://127.0.0.1:{setting.upstream}"
    return [sys.executable, str(HERE / "naive.py"), str(port), upstream, setting.key], {}


def _nginx(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not program:
        raise NotStartedError("nginx is not installed")
    text = (HERE / "nginx.conf.in").read_text()
    values = {
        "DIRECTORY": str(setting.directory),
        "UPSTREAM": str(setting.upstream),
        "PORT": str(port),
        "KEY": setting.key,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    conf = setting.directory / "nginx.conf"
    conf.write_text(text)
    return [program, "-c", str(conf), "-p", str(setting.directory)], {}


def _llmauth(*flags: str) -> Command:
    def command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
        argv = [sys.executable, "-m", "llmauth", "serve", "--host", "127.0.0.1"]
        argv += ["--port", str(port)]
        argv += [flag.replace("@DIRECTORY@", str(setting.directory)) for flag in flags]
        environ = {
            "LLM_INTERACTIVE_PROXY_API_KEY": setting.key,
            "OPENAI_API_BASE_URL": f"http://127.0.0.1:{setting.upstream}/v1",
            "OPENAI_API_KEY": "sk-provider",
            "LOG_FILE": str(setting.directory / f"llmauth-{port}.log"),
        }
        return argv, environ

    return command


FORWARDED = ("requests-1", "requests-8", "requests-32", "streams-50", "streams-200")
WRONG_KEY = "sk-wrong-0123456789abcdef0123456789abcdef"

SERVERS = (
    Server("direct", "direct", None, FORWARDED),
    Server("bare", "bare: waitress + HTTPAdapter", _bare, FORWARDED),
    Server("naive", "naive: Flask + requests", _naive, (*FORWARDED, "wrong-key")),
    Server("nginx", "nginx", _nginx, (*FORWARDED, "wrong-key")),
    Server("llmauth", "llmauth", _llmauth(), FORWARDED, "/health"),
    Server(
        "capture",
        "llmauth with --capture-file",
        _llmauth("--capture-file", "@DIRECTORY@/capture.jsonl"),
        FORWARDED,
        "/health",
    ),
    Server(
        "accounts",
        "llmauth with --database",
        _llmauth(
            "--database", "@DIRECTORY@/accounts.db", "--prices", '{"benchmark": {"input": 1}}'
        ),
        FORWARDED,
        "/health",
    ),
    # A wrong key at full speed needs a window that never fills. The right key has been seen from
    # this address, so that repeats of a wrong one count once: one locks it out, for long.
    Server(
        "wrong",
        "llmauth",
        _llmauth("--auth-max-failed-attempts", "1000000"),
        ("wrong-key",),
        "/health",
    ),
    Server(
        "locked",
        "llmauth, address locked out",
        _llmauth("--auth-max-failed-attempts", "1", "--auth-brute-force-initial-block", "3600"),
        ("locked-out",),
        "/health",
    ),
)
