"""What the tests of hostile input share: raw requests, several answers, a real nginx."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import KEY, TIMEOUT, read_all

WRONG = "wrong-key-0123456789abcdefghij"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_CONF = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; merge_slashes off; {temporary}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.contextmanager
def running_nginx(upstream: int, folder: Path) -> Iterator[int]:
    """Run nginx in front of a port, passing on as much as it does unchanged; yields its port."""
    if NGINX is None:
        assert "CI" not in os.environ, "nginx is not installed"
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    conf = folder / "nginx.conf"
    conf.write_text(_CONF.format(folder=folder, port=port, upstream=upstream, temporary=temporary))
    error_log = str(folder / "error.log")
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(conf), "-e", error_log])
    try:
        wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def wait_for_port(port: int) -> None:
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


def send(port: int, data: bytes) -> bytes:
    """Send raw bytes, return all that comes back; a server may answer before it has read all."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(data)
        return read_all(sock)


def statuses(answer: bytes) -> list[int]:
    """Return the status of every final answer on a connection."""
    found = re.findall(rb"(?:^|(?<=[\n}]))HTTP/1\.[01] (\d\d\d)", answer)
    return [int(status) for status in found if not status.startswith(b"1")]


def request(
    *headers: str | bytes,
    line: str | bytes = "POST /v1/x HTTP/1.1",
    host: str | None = "Host: proxy",
    key: str | None = KEY,
    close: bool = True,
    body: bytes = b"",
) -> bytes:
    """Return a request of exactly these lines."""
    lines: list[str | bytes | None] = [line, host, f"Authorization: Bearer {key}" if key else None]
    lines += ["Connection: close" if close else None, *headers, b"", b""]
    encoded = [
        one.encode("latin-1") if isinstance(one, str) else one for one in lines if one is not None
    ]
    return b"\r\n".join(encoded) + body


def wait_until(condition, what: str) -> None:
    """Wait for a condition that another thread brings about."""
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)
