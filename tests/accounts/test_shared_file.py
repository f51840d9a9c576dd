"""Processes that share one file: forked, killed, started together; each has its own connection."""

from __future__ import annotations

import http.client
import json
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import environment
from programs import Program, llmauth, wait_for
from servers import KEY
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database

CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")


def made(path: Path, **values) -> str:
    database = Database(path)
    key = KeyBook(database).add("alice", values)
    database.close()
    return key


def is_whole(path: Path) -> bool:
    with sqlite3.connect(path) as check:
        found = check.execute("PRAGMA integrity_check").fetchone()
    check.close()
    return found == ("ok",)


FORKED = """
import os, sys
from pathlib import Path
from llmauth.accounts.accounts import Accounts
from llmauth.accounts.asked import Asked
from llmauth.accounts.grant import Sent
from llmauth.exceptions import LimitReached
key, used_before = sys.argv[2].encode(), sys.argv[3] == "used"
accounts = Accounts(Path(sys.argv[1]))

def sent():
    return Sent(key="alice", secret=accounts.admit(key, "127.0.0.1"), backend="openai",
                base_url="http://127.0.0.1", method="POST", path="/v1/chat/completions",
                model="m", asked=Asked(), is_ours=True)

def passed(times):
    number = 0
    for _ in range(times):
        accounts.name_of(key)
        try:
            accounts.enter(sent()).end(None, 200)
            number += 1
        except LimitReached:
            pass
    return number

before = passed(2) if used_before else 0
connections = [accounts._database._opened]
pipes = []
for _ in range(4):
    out, into = os.pipe()
    if not os.fork():
        assert accounts._database._opened is None, "inherited"
        number = passed(10)
        assert accounts._database._opened not in (None, *connections)
        accounts.close()
        os.write(into, b"%d" % number)
        os._exit(0)
    os.close(into)
    pipes.append(out)
after = passed(10)
numbers = [int(os.read(out, 10) or 99) for out in pipes]
for _ in pipes:
    os.wait()
accounts.close()
print(before + after + sum(numbers))
"""


@pytest.mark.parametrize("when", ["unused", "used"])
def test_children_of_a_fork_count_together_over_connections_of_their_own(path, when):
    """Also when the parent has used the file before it forks, with its thread at work."""
    key = made(path, requests_per_minute=12)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, str(path), key, when],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
    assert is_whole(path)
    database = Database(path)
    (totals,) = database.totals((), "2000-01-01", "2999-01-01", "alice")
    assert totals[0] == (52 if when == "used" else 50)  # nothing is lost, twice or left over
    assert database.held("alice").requests == 0
    database.close()


def test_under_gunicorn_with_preload_ten_of_forty_pass(path, upstream):
    """The application is made before the workers are forked, and each of them counts."""
    key = made(path, requests_per_minute=10)
    served = Program(
        [
            *(sys.executable, "-m", "gunicorn", "--no-control-socket", "--preload"),
            *("--workers", "3", "--threads", "4", "--bind", "127.0.0.1:{port}"),
            # A worker that is being started when the signal comes does not get it.
            *("--graceful-timeout", "5", "wsgi:application"),
        ],
        environment(
            LLMAUTH_DATABASE=str(path), OPENAI_API_BASE_URL=upstream.url, PYTHONWARNINGS="ignore"
        ),
    )
    try:
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(lambda _: post(served.port, key), range(40)))
        assert (statuses.count(200), statuses.count(429)) == (10, 30)
        served.stop(signal.SIGTERM)
    finally:
        served.close()
    assert is_whole(path)
    database = Database(path)
    (totals,) = database.totals((), "2000-01-01", "2999-01-01", "alice")
    assert totals[0] == 40  # what ended in the last moment is written as well
    database.close()


def post(port: int, key: str, body: bytes = b"{}") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", CHAT, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_a_server_that_is_killed_in_mid_stream_leaves_a_whole_file_and_nothing_held(
    path, upstream, tmp_path
):
    key = made(path, parallel=2, tokens_per_day=10**6)
    held = Held(HEAD + chunk(EVENT), b"", b"")
    served = llmauth(LLMAUTH_DATABASE=str(path), OPENAI_API_BASE_URL=upstream.url)
    try:
        assert post(served.port, key) == 200
        database = Database(path)
        wait_for(lambda: database.held("alice").requests == 0, "it is written")
        database.close()
        upstream.answer = held
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        with served.connect() as sock:
            sock.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
            read_until(sock, EVENT)
            database = Database(path)
            wait_for(lambda: database.held("alice").requests == 1, "what it holds is written")
            served.stop(signal.SIGKILL)
    finally:
        served.close()
    held.go_on.release()
    assert is_whole(path)
    assert database.held("alice").requests == 1
    database.release_dead(time.time() + 16, 15)
    assert database.held("alice") == (0, 0, 0)
    database.close()
    assert key.encode() not in b"".join(file.read_bytes() for file in tmp_path.glob("keys.db*"))


def test_strings_finds_no_key_whatever_is_done_with_it(path, upstream, tmp_path):
    """Neither in the file nor beside it, used, refused, rotated or guessed."""
    key = made(path, requests_per_minute=2, note="of Alice")
    served = llmauth(LLMAUTH_DATABASE=str(path), OPENAI_API_BASE_URL=upstream.url)
    try:
        statuses = [post(served.port, key, json.dumps({"x": key}).encode()) for _ in range(3)]
        assert statuses == [200, 200, 429]
        guess = "llmauth_" + "g" * 49
        assert post(served.port, guess) == 401
        database = Database(path)
        new = KeyBook(database).rotate("alice", 60)
        wait_for(lambda: post(served.port, new) == 429, "the new one is known")
        database.close()
        content = b"".join(file.read_bytes() for file in tmp_path.glob("keys.db*"))
        served.stop(signal.SIGTERM)
    finally:
        served.close()
    content += path.read_bytes()
    assert b"of Alice" in content
    for one in (key, new, guess, KEY):
        for part in (one[8:], one[:30]):
            assert part.encode() not in content
