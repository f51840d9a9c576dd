"""What further processes bring: `wsgi:application` on gunicorn and granian beside `llmauth`.

    python benchmarks/workers.py [--seconds 4] [--workers 1,2,4]

Prints a table for docs/deploy.md. Needs gunicorn and granian (`pip install -e '.[test]'`). The
upstream and the load generator take their share of the cores: read it as a comparison.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import system
from servers import HERE, Command, NotStartedError, Running, Server, Setting, launch

THREADS = 64
KEY = "sk-benchmark-0123456789abcdef0123456789ab"


def _environ(setting: Setting) -> dict[str, str]:
    return {
        "LLM_INTERACTIVE_PROXY_API_KEY": setting.key,
        "OPENAI_API_BASE_URL": f"http://127.0.0.1:{setting.upstream}/v1",
        "OPENAI_API_KEY": "sk-provider",
        "LOG_FILE": str(setting.directory / "llmauth.log"),
    }


def _module(*words: str) -> Command:
    def command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
        filled = [word.replace("{port}", str(port)) for word in words]
        return [sys.executable, "-m", *filled], _environ(setting)

    return command


def rows(counts: list[int]) -> list[tuple[int, Server]]:
    """Return each server with its number of workers."""
    llmauth = _module("llmauth", "serve", "--port", "{port}")
    found = [(1, Server("llmauth", "llmauth", llmauth, ()))]
    for count in counts:
        workers = ("--workers", str(count))
        gunicorn = _module(
            *("gunicorn", "--worker-class", "gthread", "--threads", str(THREADS), *workers),
            *("--no-control-socket", "--bind", "127.0.0.1:{port}", "wsgi:application"),
        )
        granian = _module(
            *("granian", "--interface", "wsgi", "--blocking-threads", str(THREADS), *workers),
            *("--host", "127.0.0.1", "--port", "{port}", "wsgi:application"),
        )
        found.append((count, Server("gunicorn", "gunicorn", gunicorn, ())))
        found.append((count, Server("granian", "granian", granian, ())))
    return found


def measure(one: Running, **spec: object) -> dict[str, float]:
    """Put one load on a server and return its figures."""
    asked = {"port": one.port, "key": KEY, "pids": one.pids, **spec}
    command = [sys.executable, str(HERE / "load.py"), json.dumps(asked)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=180)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", default="1,2,4")
    given = parser.parse_args()
    upstream = subprocess.Popen(
        [sys.executable, str(HERE / "upstream.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert upstream.stdin
    assert upstream.stdout
    print(f"{system.description()}\n")
    print("| server | workers | requests/s | CPU ms a request | 50 streams, delay p50 / p99 | MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        setting = Setting(Path(directory), int(upstream.stdout.readline()), KEY)
        for count, server in rows([int(number) for number in given.workers.split(",")]):
            try:
                one = launch(server, setting)
            except NotStartedError as error:
                print(f"| {server.title} | {count} | did not start: {error} |")
                continue
            try:
                requests = measure(one, connections=32, seconds=given.seconds)
                streams = measure(one, connections=50, chunks=50)
            finally:
                one.stop()
            print(
                f"| {server.title} | {count} | {requests['requests_per_second']:.0f} "
                f"| {requests['cpu_ms_per_request']:.2f} | {streams['completed']:.0f} complete, "
                f"{streams['delay_p50_ms']:.1f} / {streams['delay_p99_ms']:.1f} ms "
                f"| {streams['resident_mb']:.0f} |",
                flush=True,
            )
    upstream.stdin.close()
    upstream.wait(5)


if __name__ == "__main__":
    main()
