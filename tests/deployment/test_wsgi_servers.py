"""``wsgi:application`` on the servers that people run in several processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from attack import WRONG
from files import write
from fronts import free_port
from programs import ROOT, Program, Redis, wait_for
from servers import KEY, PROVIDER_KEY, TIMEOUT, Upstream, read_all, request_bytes, whole
from streams import EVENT, HEAD, Held, chunk, read_until

COMMANDS = {
    "gunicorn": [
        *("-m", "gunicorn", "--worker-class", "gthread", "--workers", "2", "--threads", "16"),
        *("--no-control-socket", "--bind", "127.0.0.1:{port}", "wsgi:application"),
    ],
    "granian": [
        *("-m", "granian", "--interface", "wsgi", "--workers", "2", "--blocking-threads", "16"),
        *("--workers-kill-timeout", "2"),
        *("--host", "127.0.0.1", "--port", "{port}", "wsgi:application"),
    ],
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="they do not run on Windows")


class Hosted:
    def __init__(self, name: str, program: Program, keys, upstream: Upstream) -> None:
        self.upstream = upstream
        self.name = name
        self.program = program
        self.keys = keys

    def open(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.program.port), TIMEOUT)
        sock.sendall(data)
        return sock

    def ask(self, method: str, path: str, body=None, headers=None, *, key: str = KEY):
        connection = http.client.HTTPConnection("127.0.0.1", self.program.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            bearer = {"Authorization": f"Bearer {key}"}
            connection.request(method, path, body, bearer | (headers or {}))
            response = connection.getresponse()
            return response.status, response.read()


@pytest.fixture(scope="module", params=COMMANDS)
def hosted(request, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    write(keys, KEY)
    with contextlib.closing(Redis()) as redis:
        upstream = Upstream()
        environ = {
            "LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(keys),
            "OPENAI_API_BASE_URL": upstream.url,
            "OPENAI_API_KEY": PROVIDER_KEY,
            "BRUTE_FORCE_STORAGE_URI": redis.uri,
            "TRUSTED_PROXIES": "127.0.0.1",
            "APP_THREADS": "12",
            "APP_MAX_REQUEST_BODY": "1M",
            "HTTP_PROXY": "http://user:password-of-a-proxy@127.0.0.1:1",
        }
        command = [sys.executable, *COMMANDS[request.param]]
        with contextlib.closing(Program(command, environ)) as program:
            yield Hosted(request.param, program, keys, upstream)
            assert program.stop() == 0
        upstream.stop()


@pytest.fixture
def upstream(hosted):
    hosted.upstream.answer = whole()
    hosted.upstream.requests.clear()
    return hosted.upstream


def closed(request, seconds: float) -> bool:
    """Wait so long for the upstream's side of a connection to end."""
    request.sock.settimeout(seconds)
    try:
        return request.sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_request_is_forwarded_as_it_came(hosted, upstream):
    path = "/v1/a%2Fb/%C3%BC//c?x=%20y&z"
    status, body = hosted.ask("POST", path, b"{}", {"X-Forwarded-For": "203.0.113.7"})
    assert (status, body) == (200, b'{"ok": true}')
    (request,) = upstream.requests
    # granian has no raw path: an encoded slash becomes a slash.
    raw = path if hosted.name == "gunicorn" else path.replace("%2F", "/")
    assert (request.method, request.target, request.body) == ("POST", raw, b"{}")
    assert request.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert request.header("proxy") is None  # of granian's environ
    wait_for(lambda: '203.0.113.7 default "POST' in hosted.program.output(), "the log's line")
    assert re.search(r' 200 .* error=-$', hosted.program.output(), re.MULTILINE)
    assert not any(key in hosted.program.output() for key in (KEY, PROVIDER_KEY, "password-of"))


def test_bodies_of_requests(hosted, upstream):
    def pieces():
        yield from (b"one", b"two", b"x" * 70_000)

    assert hosted.ask("POST", "/v1/x", pieces())[0] == 200  # in chunks
    assert upstream.requests[-1].body == b"onetwo" + b"x" * 70_000
    assert hosted.ask("POST", "/v1/x", b"y" * 500_000)[0] == 200
    assert upstream.requests[-1].body == b"y" * 500_000
    assert hosted.ask("POST", "/v1/x", b"y" * 2_000_000)[0] == 413
    bad = request_bytes("/v1/x", "Transfer-Encoding: chunked", "Connection: close", body=b"zz\r\n")
    with hosted.open(bad.replace(b"Content-Length: 4\r\n", b"")) as sock:
        # granian takes a body that breaks off for one that ends.
        status = b"200" if hosted.name == "granian" else b"400"
        assert read_all(sock).startswith(b"HTTP/1.1 " + status)


def test_each_chunk_arrives_before_the_next_is_sent(hosted, upstream):
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    with hosted.open(request_bytes("/v1/x", "Connection: close")) as sock:
        head = read_until(sock, b"one")
        assert b"x-accel-buffering: no" in head.lower()
        upstream.answer.go_on.release()
        assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")
    upstream.answer.go_on.release()


@pytest.mark.parametrize("ending", [b"", b"zz\r\n"], ids=["no end", "bad chunking"])
def test_a_stream_that_breaks_upstream_never_looks_complete(hosted, upstream, ending):
    def broken(request) -> None:
        request.sock.sendall(HEAD + chunk(EVENT) + ending)
        request.sock.shutdown(socket.SHUT_RDWR)

    upstream.answer = broken
    with hosted.open(request_bytes("/v1/x", "Connection: close")) as sock:
        received = read_all(sock)
    assert b'"error": {' in received
    # An application cannot make granian break a response off.
    assert received.endswith(b"0\r\n\r\n") == (hosted.name == "granian")
    # It logs whatever is raised, too; others take this for a client that left.
    assert ("Traceback" in hosted.program.output()) == (hosted.name == "granian")


@pytest.mark.parametrize("phase", ["no headers yet", "no body yet", "silent in mid-stream"])
def test_when_the_client_leaves_a_silent_upstream_is_closed(hosted, upstream, phase):
    parts = {"no headers yet": b"", "no body yet": HEAD}
    upstream.answer = Held(parts.get(phase, HEAD + chunk(EVENT)))
    with hosted.open(request_bytes("/v1/x")):
        upstream.answer.wait()
        time.sleep(0.05)
    noticed = hosted.name == "gunicorn"  # granian gives no sign before the next chunk
    gone = closed(upstream.requests[0], 5 if noticed else 1)
    upstream.answer.go_on.release()
    assert gone == noticed
    if noticed and phase == "no headers yet":
        logged = re.compile(r'"POST /v1/x" openai 499 .* error=client_disconnected')
        wait_for(lambda: logged.search(hosted.program.output()), "the log's line")


def test_when_the_client_leaves_a_streaming_upstream_is_closed(hosted, upstream):
    ended = []

    def endless(request) -> None:
        try:
            request.sock.sendall(HEAD)
            for _ in range(1000):
                request.sock.sendall(chunk(EVENT))
                time.sleep(0.01)
        except OSError:
            ended.append(True)

    upstream.answer = endless
    with hosted.open(request_bytes("/v1/x")) as sock:
        read_until(sock, EVENT)
    wait_for(lambda: ended, "the end of the upstream's connection", 5)


def test_all_workers_have_one_count_and_the_same_keys(hosted, upstream):
    client = {"X-Forwarded-For": "198.51.100.1"}
    statuses = [hosted.ask("GET", "/v1/x", None, client, key=WRONG)[0] for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert [hosted.ask("GET", "/v1/x", None, client)[0] for _ in range(8)] == [429] * 8
    write(hosted.keys, f"{KEY}\nbob: {WRONG}\n")
    time.sleep(2)
    assert [hosted.ask("GET", "/v1/x", key=WRONG)[0] for _ in range(8)] == [200] * 8


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_key_it_does_not_start(name):
    command = [part.replace("{port}", str(free_port())) for part in COMMANDS[name]]
    environ = {**os.environ, "LLM_INTERACTIVE_PROXY_API_KEY": ""}
    ended = subprocess.run(
        [sys.executable, *command], env=environ, cwd=ROOT, capture_output=True, timeout=60
    )
    assert ended.returncode != 0
    said = (ended.stdout + ended.stderr).decode()
    assert "API key not configured" in said
    assert "hosting.py" not in said  # gunicorn may show a traceback of its own, with two workers


def test_no_content_type_is_invented(hosted, upstream):
    for answer in (whole(), whole(b"", "204 No Content"), whole(b"no", "500 Oops")):
        upstream.answer = answer
        with hosted.open(request_bytes("/v1/x", "Connection: close")) as sock:
            assert b"content-type" not in read_all(sock).partition(b"\r\n\r\n")[0].lower()
