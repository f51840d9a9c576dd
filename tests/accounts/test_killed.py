"""What is in the file when the server ends, however it does; read by `llmauth usage`."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from commands import run
from programs import Program, wait_for
from servers import KEY, PROVIDER_KEY, Proxy, Reply, Upstream, read_all, request_bytes, whole
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.limits import SILENCE
from llmauth.accounts.store import Database

CHAT = "/v1/chat/completions"
ANSWER = {"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    opened = Upstream()
    opened.answer = whole(json.dumps(ANSWER).encode(), headers=("Content-Type: application/json",))
    yield opened
    opened.stop()


@pytest.fixture
def server(upstream: Upstream, path: Path) -> Iterator[Program]:
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY, "OPENAI_API_BASE_URL": upstream.url,
        "OPENAI_API_KEY": PROVIDER_KEY, "LLMAUTH_DATABASE": str(path),
        "APP_SHUTDOWN_TIMEOUT": "0",
    }  # fmt: skip
    started = Program([sys.executable, "-m", "llmauth", "serve", "--port", "{port}"], environ)
    yield started
    started.close()


def chat(server: Program, key: str = KEY) -> Reply:
    return Proxy(server).request("POST", CHAT, {}, b'{"model": "m"}', key=key)


def usage(path: Path) -> dict[str, str]:
    done = run("usage", "--by", "", "--format", "csv", LLMAUTH_DATABASE=str(path))
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    return row


def ended(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT ended FROM requests")]


def test_a_server_that_is_told_to_end_has_written_everything(server, upstream, path):
    for _ in range(40):
        assert chat(server).status == 200
    upstream.answer = Held(HEAD + chunk(EVENT), b"")
    with server.connect() as sock:
        sock.sendall(request_bytes(CHAT, body=b'{"model": "m", "stream": true}'))
        read_until(sock, EVENT)
        assert server.stop() == 0
        assert not read_all(sock).endswith(b"0\r\n\r\n")
    told = usage(path)
    assert (told["requests"], told["estimated_requests"]) == ("41", "1")
    assert (told["input_tokens"], told["output_tokens"]) == (str(40 * 7 + 7), "120")
    assert ended(path)[-1] == "cut: server_stopping"


def test_a_server_that_is_killed_loses_the_last_second_at_most(server, upstream, path):
    for _ in range(5):
        assert chat(server).status == 200
    time.sleep(1.0)  # the last second begins
    for _ in range(20):
        assert chat(server).status == 200
    server.stop(signal.SIGKILL)
    told = usage(path)
    assert 5 <= int(told["requests"]) <= 25
    assert int(told["input_tokens"]) == 7 * int(told["requests"]) == 7 * len(ended(path))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    server.start()
    assert chat(server).status == 200
    wait_for(lambda: len(ended(path)) == int(told["requests"]) + 1, "it goes on")


def test_what_a_killed_server_held_is_released(server, upstream, path, monkeypatch):
    database = Database(path)
    key = KeyBook(database).add("alice", {"tokens_per_day": 1_000_000})
    upstream.answer = Held(HEAD + chunk(EVENT), b"")
    wait_for(lambda: _streams(server, key), "the key is known")
    assert database.held("alice").tokens > 0
    server.stop(signal.SIGKILL)
    with database.transaction():
        database.release_dead(time.time() + SILENCE + 6, SILENCE)
    assert database.held("alice") == (0, 0, 0)
    database.close()


def _streams(server: Program, key: str) -> bool:
    with server.connect() as sock:
        data = request_bytes(CHAT, body=b'{"model": "m", "stream": true}')
        sock.sendall(data.replace(KEY.encode(), key.encode()))
        if not sock.recv(12).endswith(b"200"):
            return False
        server.stop(signal.SIGKILL)
        return True
