"""Real reverse proxies: the files of examples/ as they are, but for paths and ports."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import itertools
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import trustme
from servers import KEY, TIMEOUT, Reply

EXAMPLES = Path(__file__).parent.parent / "examples"
HOST = "localhost"
WRONG_KEY = "wrong-key-0123456789"
STARTING = 60.0
"""Seconds within which a program listens, also on a machine that does much else."""
PORTS_TRIED = 3
ATTEMPTS = 3
"""Wrong keys that lock an address out of the llmauth behind a front."""

# What an administrator may have set for other sites, and the example has to stand up to.
_NGINX_AROUND_IT = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/main.error.log;
user {user};
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log off;
    gzip on;
    gzip_types *;
    gzip_min_length 1;
    proxy_read_timeout 1s;
    proxy_buffering on;
    {site}
}}
"""


@dataclass
class Certificate:
    """A certificate for localhost, 127.0.0.1 and ::1, and who trusts it."""

    chain: Path
    key: Path
    client: ssl.SSLContext


def certificate(folder: Path) -> Certificate:
    """Make a certificate for this run of the tests."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "127.0.0.1", "::1")
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    issued.private_key_pem.write_to_path(str(key))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificate(chain, key, client)


@dataclass
class Front:
    """A reverse proxy with TLS on the loopback network."""

    port: int
    folder: Path
    context: ssl.SSLContext
    pid: int = 0

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: object = None,
        *,
        key: str | None = KEY,
        address: str = "127.0.0.1",
    ) -> Reply:
        """Send one request.

        :param address: of the client; ::1 goes over IPv6
        """
        host = "::1" if ":" in address else "127.0.0.1"
        connection = http.client.HTTPSConnection(
            host, self.port, timeout=TIMEOUT, context=self.context, source_address=(address, 0)
        )
        with contextlib.closing(connection):
            bearer = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request(method, path, body, bearer | (headers or {}))  # type: ignore[arg-type]
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())

    def wrong_keys(self, address: str, count: int = ATTEMPTS + 1, **headers: str) -> list[int]:
        """Send wrong keys from an address; return the statuses of the answers."""
        return [
            self.request("GET", "/v1/models", headers, key=WRONG_KEY, address=address).status
            for _ in range(count)
        ]

    def open(self, data: bytes) -> ssl.SSLSocket:
        """Send raw bytes; the caller reads and closes."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        secure = self.context.wrap_socket(sock, server_hostname=HOST)
        secure.sendall(data)
        return secure

    def log(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


def example(name: str, replaced: dict[str, str]) -> str:
    """Return a file of examples/ with some of its text replaced.

    Each piece must be there: what the file no longer says would go untested.
    """
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def free_port() -> int:
    """Return a port of 127.0.0.1 and ::1 that stays free for a program to listen on.

    It is none that a system gives to who asks for any, is given once in a run of the tests,
    whatever number of processes that has, and cannot be had by another run for the next minute.
    """
    for port in _PORTS:
        with contextlib.suppress(OSError):  # somebody listens there
            _reserve("127.0.0.1", port)
            with contextlib.suppress(OSError):
                _reserve("::1", port)  # without IPv6 there is none
            return port
    raise AssertionError


def ports(worker: str, workers: int) -> Iterator[int]:
    """Yield the ports of one process of the tests, again and again, from anywhere on.

    Linux gives out those from 32,768 on by itself, others those from 49,152 on (RFC 6335 §6).
    """
    own = range(20_000 + int(worker.removeprefix("gw")), 32_000, workers)
    start = secrets.randbelow(len(own))
    return itertools.cycle([*own[start:], *own[:start]])


_PORTS = ports(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0"),
    int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
)


def _reserve(host: str, port: int) -> None:
    """Let a connection end on a port, which keeps it for a minute (RFC 9293 §3.6.1, TIME-WAIT).

    Whoever asks for it as a server does gets it, whoever asks as we do does not.

    :raises OSError: somebody has it
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as careful:
        careful.bind((host, port))
    with socket.create_server((host, port), family=family) as server:
        with socket.create_connection((host, port), TIMEOUT) as client:
            accepted, _ = server.accept()
            accepted.close()  # the first to close is who waits
            client.recv(1)


class PortTaken(Exception):
    """Somebody else has the port that a program was to listen on."""


# Passes on as much as it does unchanged.
_PLAIN_SITE = """
server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    merge_slashes off;
    gzip off;
    location / {{
        proxy_pass http://{upstream};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout 60s;
    }}
}}
"""


@contextlib.contextmanager
def plain_nginx(folder: Path, upstream: int | str) -> Iterator[int]:
    """Run nginx without TLS; yields its port.

    :param upstream: its port, or ``unix:`` and a path
    """
    where = f"127.0.0.1:{upstream}" if isinstance(upstream, int) else f"{upstream}:"

    def start(port: int) -> AbstractContextManager[int]:
        return _running_nginx(folder, port, _PLAIN_SITE.format(port=port, upstream=where))

    with _on_a_free_port(start) as (port, _):
        yield port


@contextlib.contextmanager
def _on_a_free_port(
    start: Callable[[int], AbstractContextManager[int]]
) -> Iterator[tuple[int, int]]:
    """Run a program on a free port, on another if that is taken in between; yields it and a pid."""
    with contextlib.ExitStack() as stack:
        for attempt in range(PORTS_TRIED):
            port = free_port()
            try:
                pid = stack.enter_context(start(port))
                break
            except PortTaken as taken:
                if attempt == PORTS_TRIED - 1:
                    pytest.fail(str(taken), pytrace=False)
        yield port, pid


@contextlib.contextmanager
def nginx(
    folder: Path, upstream_port: int, cert: Certificate, more: dict[str, str] | None = None
) -> Iterator[Front]:
    """Run nginx with examples/nginx.conf.

    :param folder: for its files; created
    :param more: further text to replace in the example
    """
    letsencrypt = "/etc/letsencrypt/live/llm.example.com"

    def start(port: int) -> AbstractContextManager[int]:
        site = example(
            "nginx.conf",
            {
                "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream_port};",
                "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
                "listen [::]:443 ssl;": f"listen [::1]:{port} ssl;",
                f"{letsencrypt}/fullchain.pem": str(cert.chain),
                f"{letsencrypt}/privkey.pem": str(cert.key),
                "/var/log/nginx": str(folder),
            }
            | (more or {}),
        )
        return _running_nginx(folder, port, site)

    with _on_a_free_port(start) as (port, pid):
        yield Front(port, folder, cert.client, pid)


@contextlib.contextmanager
def _running_nginx(folder: Path, port: int, site: str) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(_NGINX_AROUND_IT.format(folder=folder, user=getpass.getuser(), site=site))
    with _running([program("nginx"), "-c", str(config), "-p", str(folder)], port, folder) as pid:
        yield pid


@contextlib.contextmanager
def caddy(folder: Path, upstream_port: int, cert: Certificate) -> Iterator[Front]:
    """Run Caddy with examples/Caddyfile."""
    folder.mkdir()
    config = folder / "Caddyfile"
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}

    def start(port: int) -> AbstractContextManager[int]:
        site = example(
            "Caddyfile",
            {
                "reverse_proxy 127.0.0.1:8000": f"reverse_proxy 127.0.0.1:{upstream_port}",
                # On these addresses alone: on another of this machine the port may be somebody's.
                "llm.example.com {": (
                    f"https://:{port} {{\n\tbind 127.0.0.1 ::1\n\ttls {cert.chain} {cert.key}"
                ),
                "\tlog {\n": "\tadmin off\n\tauto_https disable_redirects\n\tlog {\n",
            },
        )
        config.write_text(site)
        return _running(command, port, folder, **home)

    with _on_a_free_port(start) as (port, pid):
        yield Front(port, folder, cert.client, pid)


def program(name: str) -> str:
    """Return the path of an installed program; without it, CI fails and other runs skip."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        # A developer may do without; in CI, what is not there would be a test that never runs.
        assert not os.environ.get("CI"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return found


def ended_early(
    command: list[str], code: int, output: str, *, elsewhere: bool = False
) -> NoReturn:
    """Fail for a program that did not start, on one screen: no test is to blame for it.

    :param elsewhere: it can be tried on another port
    :raises PortTaken: then, when its port was taken
    """
    last = "\n".join(line[:200] for line in output.splitlines()[-15:])
    said = f"{' '.join(command)[:200]} ended with {code}:\n{last}"
    if elsewhere and "in use" in output:
        raise PortTaken(said)
    pytest.fail(said, pytrace=False)


@contextlib.contextmanager
def _running(command: list[str], port: int, folder: Path, **environ: str) -> Iterator[int]:
    said = folder / "stderr"
    with said.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | environ
        )
    try:
        until = time.monotonic() + STARTING
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        if process.poll() is not None:
            output = said.read_text(encoding="utf-8")
            ended_early(command, process.returncode, output, elsewhere=True)
        yield process.pid
    finally:
        process.terminate()
        process.wait(TIMEOUT)
