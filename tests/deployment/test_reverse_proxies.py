"""nginx and Caddy with the files of examples/, in front of a real llmauth."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import logging
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import started
from fronts import ATTEMPTS, Front, caddy, free_port, nginx
from servers import KEY, TIMEOUT, Listener, Upstream, request_bytes, running_proxy, whole
from streams import EVENT, HEAD, Held, chunk, read_until

MEGABYTE = 2**20


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def kind(request):
    """Which server: the function that runs it."""
    return request.param


@pytest.fixture(scope="module")
def around(kind, tmp_path_factory, cert):
    """An upstream, llmauth and a reverse proxy for all tests of this module."""
    upstream = Upstream()
    values = {"trusted_proxies": "127.0.0.1", "max_failed_attempts": ATTEMPTS}
    folder = tmp_path_factory.mktemp("front") / "front"
    with running_proxy(upstream, **values) as proxy, kind(folder, proxy.port, cert) as front:
        yield upstream, front
    upstream.stop()


@pytest.fixture
def upstream(around) -> Upstream:
    upstream, _ = around
    upstream.answer = whole()
    upstream.requests.clear()
    return upstream


@pytest.fixture
def front(around, upstream) -> Front:
    return around[1]


@pytest.fixture
def client(_numbers=itertools.count(2)) -> str:  # noqa: B008
    """An address that no other test has used."""
    return f"127.0.1.{next(_numbers)}"


def test_requests_pass_and_the_key_does_not(front, upstream):
    reply = front.request("POST", "/v1/chat/completions?x=%2F", body=b"{}")
    assert (reply.status, reply.body) == (200, b'{"ok": true}')
    (request,) = upstream.requests
    assert request.target == "/v1/chat/completions?x=%2F"
    assert request.body == b"{}"
    assert KEY not in str(request.headers)


@pytest.mark.parametrize(
    "path", ["/v1/a%2Fb//c/./d", "/v1/%E2%82%AC?q=%00&q=+", "/v1/a%20b;c=d"]
)
def test_paths_arrive_as_they_were_sent(front, upstream, path):
    assert front.request("GET", path).status == 200
    assert upstream.requests[0].target == path


def test_the_lockout_hits_the_client_and_nobody_else(front, client):
    assert front.wrong_keys(client) == [401] * ATTEMPTS + [429]
    assert front.request("GET", "/v1/models", address=client).status == 429
    assert front.request("GET", "/v1/models", address="127.0.0.1").status == 200
    assert front.request("GET", "/v1/models", address="127.0.2.1").status == 200


def test_a_client_on_ipv6_is_locked_out_as_such(front):
    assert front.wrong_keys("::1") == [401] * ATTEMPTS + [429]
    assert front.request("GET", "/v1/models", address="::1").status == 429
    assert front.request("GET", "/v1/models").status == 200


@pytest.mark.parametrize(
    "forged",
    ["203.0.113.9", "127.0.0.1", "::1", "203.0.113.9, 127.0.0.1", "unknown", "", "a" * 900],
    ids=["address", "proxy", "ipv6", "chain", "word", "empty", "long"],
)
def test_a_forged_forwarded_for_changes_nothing(front, client, forged):
    forgery = {"X-Forwarded-For": forged, "X-Real-IP": forged, "Forwarded": f'for="{forged}"'}
    assert front.wrong_keys(client, ATTEMPTS, **forgery) == [401] * ATTEMPTS
    assert front.wrong_keys(client, 1) == [429]
    assert front.wrong_keys(client, 1, **forgery) == [429]
    assert front.request("GET", "/v1/models", address="127.0.2.1").status == 200


def test_a_forger_gets_nobody_else_locked_out(front, client):
    victim = "127.0.3.3"
    front.wrong_keys(client, **{"X-Forwarded-For": victim})
    assert front.request("GET", "/v1/models", address=victim).status == 200


def test_chunks_arrive_through_tls_one_by_one(front, upstream):
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two"), b"0\r\n\r\n")
    with front.open(request_bytes("/v1/x", "Accept-Encoding: gzip")) as sock:
        head = read_until(sock, b"one")
        assert b"content-encoding" not in head.lower()
        upstream.answer.go_on.release()
        read_until(sock, b"two")
        upstream.answer.go_on.release()
        upstream.answer.go_on.release()
        read_until(sock, b"0\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [Held(b""), Held(HEAD), Held(HEAD + chunk(EVENT))],
    ids=["no headers yet", "no body yet", "silent in mid-stream"],
)
def test_when_the_client_leaves_the_upstream_is_closed(front, upstream, answer):
    upstream.answer = answer
    with front.open(request_bytes("/v1/x")) as sock:
        answer.wait()
        if EVENT in answer.parts[0]:
            read_until(sock, EVENT)
    left = time.monotonic()
    (request,) = upstream.requests
    request.sock.settimeout(TIMEOUT)
    with contextlib.suppress(ConnectionResetError):
        assert request.sock.recv(1) == b""
    assert time.monotonic() - left < 5 * 1.0  # the aim is 1 s; machines are noisy
    answer.go_on.release()


class Hashing(Listener):
    """An upstream that reads requests without keeping them: only the length and digest of each."""

    def __init__(self) -> None:
        self.bodies: list[tuple[int, str]] = []
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as file:
            while file.readline():
                headers = http.client.parse_headers(file)
                left = length = int(headers["content-length"])
                digest = hashlib.sha256()
                while left and (data := file.read(min(left, MEGABYTE))):
                    digest.update(data)
                    left -= len(data)
                self.bodies.append((length - left, digest.hexdigest()))
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def peak_memory(pid: int) -> int:
    """Return the most that a process and its children have had in memory, in bytes."""
    task = Path(f"/proc/{pid}")
    peak = re.search(r"VmHWM:\s+(\d+) kB", (task / "status").read_text())
    assert peak
    children = (task / "task" / str(pid) / "children").read_text().split()
    return int(peak[1]) * 1024 + sum(peak_memory(int(child)) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_100_megabytes_go_up_and_do_not_stay_in_memory(kind, tmp_path, cert):
    blocks = [os.urandom(MEGABYTE) for _ in range(4)] * 25
    sent = (len(blocks) * MEGABYTE, hashlib.sha256(b"".join(blocks)).hexdigest())
    length = {"Content-Length": str(sent[0])}
    upstream = Hashing()
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "OPENAI_API_BASE_URL": f"http://127.0.0.1:{upstream.port}",
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    port = free_port()
    with (
        started("-m", "llmauth", "--port", str(port), port=port, **environ) as llmauth,
        kind(tmp_path / "front", port, cert) as front,
    ):
        assert front.request("POST", "/v1/files", body=b"{}").status == 200
        before = peak_memory(llmauth.pid), peak_memory(front.pid)
        for headers in (length, {}):  # without a length, the body goes up in chunks
            assert front.request("POST", "/v1/files", headers, iter(blocks)).status == 200
        after = peak_memory(llmauth.pid), peak_memory(front.pid)
    upstream.stop()
    assert upstream.bodies[1:] == [sent, sent]
    grown = [new - old for old, new in zip(before, after, strict=True)]
    assert max(grown) < 32 * MEGABYTE, grown


@pytest.mark.parametrize("carrier", ["query", "x-api-key", "Authorization"])
@pytest.mark.parametrize("failure", ["down", "breaks off"])
def test_no_key_is_in_the_logs(kind, tmp_path, cert, carrier, failure):
    """Not even of requests that failed, which both write down whole unless told not to."""

    def breaks_off() -> None:
        with contextlib.suppress(OSError):  # nobody came: the test has ended
            sock, _ = llmauth.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(HEAD + chunk(b"data: {"))

    headers = {} if carrier == "query" else {carrier: f"Bearer {KEY}"}
    query = f"?key={KEY}" if carrier == "query" else ""
    with socket.create_server(("127.0.0.1", 0)) as llmauth:
        threading.Thread(target=breaks_off, daemon=True).start()
        port = free_port() if failure == "down" else llmauth.getsockname()[1]
        with (
            kind(tmp_path / "front", port, cert) as front,
            contextlib.suppress(http.client.IncompleteRead),
        ):
            front.request("POST", f"/v1beta/models{query}", headers, b"{}", key=None)
    files = [file for file in front.folder.iterdir() if file.is_file()]
    assert files
    assert not [file for file in files if KEY in file.read_text(encoding="utf-8")]


def test_without_trusted_proxies_llmauth_warns_once_and_names_the_setting(
    kind, tmp_path, cert, caplog
):
    with (
        running_proxy(None, default_backend="echo") as proxy,
        kind(tmp_path / "front", proxy.port, cert) as front,
        caplog.at_level(logging.WARNING, "llmauth"),
    ):
        for client in ("127.0.0.1", "127.0.0.2"):
            assert front.request("GET", "/v1/models", address=client).status == 200
    messages = [record.getMessage() for record in caplog.records]
    (warning,) = [message for message in messages if "TRUSTED_PROXIES" in message]
    assert "TRUSTED_PROXIES=127.0.0.1" in warning
