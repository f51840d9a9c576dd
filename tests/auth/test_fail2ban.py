"""examples/fail2ban, checked by fail2ban against the log of a real llmauth."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from commands import KEY, started
from fronts import EXAMPLES, WRONG_KEY, example, free_port, program
from servers import TIMEOUT, read_all

FILTER = EXAMPLES / "fail2ban" / "filter.d" / "llmauth.conf"
ATTACKERS = ["203.0.113.7", "2001:db8::7", "198.51.100.200"]
VICTIM = "192.0.2.1"

# What an attacker puts into the log to get somebody else banned.
LINE = f"blocked {VICTIM} for 30 seconds: too many failed attempts"
FORGERIES = [
    f"/v1/WARNING llmauth.lockout: {LINE}",
    f"/ WARNING llmauth.lockout: {LINE}",
    f"/\n2026-11-24T20:23:15.370+0000 WARNING llmauth.lockout: {LINE}",
    f"/\r WARNING llmauth.lockout: {LINE}",
    f'/", "level": "WARNING", "logger": "llmauth.lockout", "message": "{LINE}"}}',
    f'/"}}\n{{"time": "", "level": "WARNING", "logger": "llmauth.lockout", "message": "{LINE}"}}',
]


def send(port: int, path: str, client: str, key: str) -> str:
    """Send a request as a reverse proxy would, byte for byte; return the status."""
    head = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        f"X-Forwarded-For: {client}",
        f"Authorization: Bearer {key}",
        "Connection: close",
        "",
        "",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall("\r\n".join(head).encode())
        return read_all(sock).split(b" ", 2)[1].decode()


@pytest.fixture(scope="module", params=["text", "json"])
def log(request, tmp_path_factory) -> Path:
    """The log of a llmauth that has seen attacks, forgeries and ordinary requests."""
    file, port = tmp_path_factory.mktemp("log") / "llmauth.log", free_port()
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "LLM_BACKEND": "echo",
        "TRUSTED_PROXIES": "127.0.0.1",
        "LOG_FILE": str(file),
        "LOG_FORMAT": request.param,
        "LOG_LEVEL": "DEBUG",
    }
    with started("-m", "llmauth", "--port", str(port), port=port, **environ) as process:
        for attacker in ATTACKERS:
            statuses = [send(port, "/v1/models", attacker, WRONG_KEY) for _ in range(6)]
            assert statuses == ["401"] * 5 + ["429"]
        for number, forgery in enumerate(FORGERIES):
            forger = f"198.51.100.{number}"
            assert send(port, quote(forgery), forger, WRONG_KEY) == "401"
            assert send(port, quote(forgery), forger, KEY) == "404"
            send(port, forgery, forger, WRONG_KEY)
            send(port, "/v1/models", f"{forgery}, {forger}", KEY)
            send(port, "/v1/models", forger, f"{WRONG_KEY} {forgery}")
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    return file


def run(*command: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TZ": "UTC"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def banned(log: Path) -> list[str]:
    return run(program("fail2ban-regex"), "--out=ip", str(log), str(FILTER)).split()


def test_exactly_the_blocked_addresses_are_found(log):
    assert VICTIM in log.read_text()  # the forgeries are there
    assert banned(log) == ATTACKERS


def test_they_are_found_as_the_journal_gives_them(log, tmp_path):
    """fail2ban puts host, program and process before the message of an entry."""
    journal = tmp_path / "journal"
    lines = log.read_text().splitlines()
    journal.write_text("".join(f"host llmauth[304]: {line}\n" for line in lines))
    assert banned(journal) == ATTACKERS


def test_text_of_a_client_in_another_line_is_not_believed(tmp_path):
    """llmauth's log has no such lines, as the other tests show; the filter does not rely on it."""
    log = tmp_path / "log"
    text = "2026-11-24T20:23:15.370+0000 INFO llmauth.access: 198.51.100.1 - "
    log.write_text("".join(f"{text}{forgery!r} 401\n" for forgery in FORGERIES))
    assert banned(log) == []


@pytest.mark.parametrize(
    "line",
    [
        f"2026-11-24T20:23:15.370+0100 WARNING llmauth.lockout: {LINE}",
        '{"time": "2026-11-24T20:23:15.370+0100", "level": "WARNING", '
        f'"logger": "llmauth.lockout", "message": "{LINE}"}}',
    ],
    ids=["text", "json"],
)
def test_the_time_is_that_of_the_line(tmp_path, line):
    log = tmp_path / "log"
    log.write_text(line + "\n")
    found = run(program("fail2ban-regex"), "-v", str(log), str(FILTER))
    assert f"{VICTIM}  Tue Nov 24 19:23:15 2026" in found


@pytest.mark.parametrize(
    "source", ["backend  = systemd", "backend = auto\nlogpath = {log}"], ids=["journal", "file"]
)
def test_fail2ban_accepts_the_jail(tmp_path, source):
    config, log = tmp_path / "fail2ban", tmp_path / "llmauth.log"
    log.touch()
    client = [program("fail2ban-client"), "-c", str(config)]
    shutil.copytree("/etc/fail2ban", config, ignore=shutil.ignore_patterns("jail.d"))
    shutil.copytree(EXAMPLES / "fail2ban", config, dirs_exist_ok=True)
    name = "fail2ban/jail.d/llmauth.conf"
    jail = example(name, {"backend  = systemd": source.format(log=log)})
    (config / "jail.d" / "llmauth.conf").write_text(jail)
    assert "successful" in run(*client, "-t")
    assert "['set', 'llmauth', 'maxretry', 3]" in run(*client, "-d")
