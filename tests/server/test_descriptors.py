"""A server without descriptors: it waits, says so once a second, and nothing of it dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import struct
import sys
import time
from pathlib import Path

import pytest
from attack import WRONG
from programs import Program, wait_for
from servers import KEY, PROVIDER_KEY, TIMEOUT, read_all, request_bytes, whole
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.proxy.descriptors import Seldom, connections_within, is_exhausted
from llmauth.server.pump import Pump
from llmauth.server.server import Server
from llmauth.server.stream import Stream

FILES = 150
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prlimit and /proc are Linux's")


@pytest.fixture
def limited(upstream, tmp_path):
    """The proxy in a process that may have few files open, with capture, log and a file of keys."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    command = [sys.executable, "-m", "llmauth", "serve", "--port", "{port}"]
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(keys),
        "OPENAI_API_BASE_URL": upstream.url,
        "OPENAI_API_KEY": PROVIDER_KEY,
        "CAPTURE_FILE": str(tmp_path / "capture"),
        "LOG_FILE": str(tmp_path / "log"),
        "APP_SHUTDOWN_TIMEOUT": "1",
    }
    program = Program(["prlimit", f"--nofile={FILES}:{FILES}", *command], environ)
    with contextlib.closing(program):
        program.log = tmp_path / "log"
        program.keys = keys
        yield program


def seconds_of_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def ask(port: int, path: str = "/v1/x", method: str = "GET", body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        response.read()
        return response.status


@contextlib.contextmanager
def exhausted(pid: int):
    """Leave the process not one descriptor more than it has."""
    import resource

    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    held = open_files(pid)
    # The number of a descriptor counts, not how many there are: gaps below are filled first.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        yield highest + 1 - held
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@ON_LINUX
@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nX: "], ids=["idle", "half a head"])
def test_more_connections_than_descriptors_cost_neither_time_nor_log(limited, data):
    pid = limited.process.pid
    assert ask(limited.port) == 200
    with contextlib.ExitStack() as stack:
        for _ in range(2 * FILES):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", limited.port)))
            sock.sendall(data)
        wait_for(lambda: "no more are accepted" in limited.log.read_text(), "it says so")
        before, size = seconds_of_cpu(pid), limited.log.stat().st_size
        time.sleep(2)
        assert seconds_of_cpu(pid) - before < 1
        assert limited.log.stat().st_size - size < 2000
        # As many are left for upstreams, and as many for connections that are kept.
        assert open_files(pid) <= FILES - 2 * connections_within(FILES)
    wait_for(lambda: open_files(pid) < FILES // 2, "the connections end")
    assert ask(limited.port) == 200
    assert limited.stop() == 0
    assert "Traceback" not in limited.log.read_text()


@ON_LINUX
def test_without_a_descriptor_requests_get_503_and_afterwards_all_goes_on(limited, upstream):
    port, pid = limited.port, limited.process.pid
    held = Held(HEAD + chunk(EVENT), chunk(EVENT) + b"0\r\n\r\n")
    with contextlib.ExitStack() as stack:
        # Connections for each request, accepted while that was possible.
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            for _ in range(8)
        ]
        for sock in socks:  # all are there, with threads and pages that have been used
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            read_until(sock, b'"ok"')
        with exhausted(pid) as gaps:
            for _ in range(gaps + 5):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            wait_for(lambda: "no descriptor is left" in limited.log.read_text(), "it says so")
            before, size = seconds_of_cpu(pid), limited.log.stat().st_size
            time.sleep(2)
            assert seconds_of_cpu(pid) - before < 1
            assert limited.log.stat().st_size - size < 2000
            for data, status in {
                request_bytes("/v1/x"): b"503",
                request_bytes("/v1/x", body=b"x" * 2**20): b"503",
                b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n": b"200",
                request_bytes("/v1/x").replace(KEY.encode(), WRONG.encode()): b"401",
            }.items():
                sock = socks.pop()
                sock.sendall(data)
                answer = read_until(sock, b"}")
                assert answer.split(b" ")[1] == status
                assert status != b"503" or b"\r\nRetry-After: " in answer
                assert status != b"503" or json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}")
            limited.keys.write_text(f"{KEY}\ncolleague: {KEY}-of-his\n")
            os.utime(limited.keys, (1, 1))  # complete, as seen from now
            socks[0].sendall(request_bytes("/v1/x"))
            read_until(socks[0], b"}")
        upstream.answer = held
        socks[1].sendall(request_bytes("/v1/x"))
        read_until(socks[1], EVENT)
        held.go_on.release()
        held.go_on.release()
        assert read_all(socks[1]).endswith(b"0\r\n\r\n")
        upstream.answer = whole()
    assert ask(port) == 200
    wait_for(lambda: ask(port) == 200 and "colleague" in limited.log.read_text(), "keys are read")
    assert limited.stop() == 0
    assert "Traceback" not in limited.log.read_text()
    lines = Path(limited.log).read_text().splitlines()
    assert sum("unexpected" in line for line in lines) == 0
    assert sum("llmauth.access" in line for line in lines) > 8
    capture = (limited.log.parent / "capture").read_text().splitlines()
    assert json.loads(capture[-1])["direction"] == "outbound_response"


def test_a_client_that_resets_before_it_is_accepted_ends_nothing(proxy, caplog):
    listener = proxy.server._listeners[0]
    for _ in range(20):
        with contextlib.closing(socket.create_connection(("127.0.0.1", proxy.port))) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert proxy.request("GET", "/v1/x").status == 200
    assert listener.accepting
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("number", [22, 57, 107, 104], ids=["EINVAL", "57", "ENOTCONN", "RESET"])
def test_an_option_that_a_gone_client_s_socket_does_not_take_ends_nothing(
    proxy, monkeypatch, number
):
    listener, options = proxy.server._listeners[0], []

    def fails_once(sock: socket.socket) -> None:
        options.append(sock)
        if len(options) == 1:
            raise OSError(number, "the client has gone")

    monkeypatch.setattr(listener, "set_socket_options", fails_once)
    with proxy.open(b"") as sock:
        assert read_all(sock) == b""
    assert proxy.request("GET", "/v1/x").status == 200


def test_errors_of_the_thread_that_reads_leave_it_alive_and_fill_no_log(proxy, monkeypatch, caplog):
    poll, calls = Server._poll, []

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) < 10:
            raise OSError(12, "no memory")
        return poll(*args, **kwargs)

    monkeypatch.setattr(Server, "_poll", fails)
    assert proxy.request("GET", "/v1/x").status == 200
    assert caplog.text.count("Traceback") == 1


def test_a_stream_keeps_its_thread_while_the_pump_cannot_start(monkeypatch):
    def fails() -> None:
        raise OSError(24, "too many open files")

    pump = Pump()
    stream = Stream.__new__(Stream)
    with monkeypatch.context() as patch:
        patch.setattr("selectors.DefaultSelector", fails)
        assert not pump.carry(stream)
    assert pump._start()
    pump.close()


@pytest.mark.parametrize(
    ("exc", "verdict"),
    [
        (OSError(24, "EMFILE"), True),
        (OSError(111, "refused"), False),
        (ValueError(), False),
        (socket.gaierror(-3, "try again"), False),
    ],
    ids=lambda one: getattr(one, "strerror", None) or str(one),
)
def test_what_is_told_from_other_errors(exc, verdict):
    assert is_exhausted(exc) is verdict
    try:
        try:
            raise exc
        except Exception:
            raise RuntimeError("above") from None
    except RuntimeError as above:
        assert is_exhausted(above) is verdict


def test_each_place_logs_once_a_second_and_tells_what_it_left_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seldom = Seldom()

    def passes(line: int, level: int = logging.WARNING) -> str:
        record = logging.LogRecord("x", level, "file", line, "text %d", (line,), None)
        return record.getMessage() if seldom.filter(record) else ""

    assert [passes(1), passes(1), passes(2), passes(1)] == ["text 1", "", "text 2", ""]
    assert passes(1, logging.INFO) == "text 1"
    now[0] += 1
    assert passes(1) == "text 1 (and 2 more of these)"
    assert passes(2) == "text 2"


@pytest.mark.parametrize("files", [40, 64, 150, 1024, 16_384])
def test_clients_leave_twice_as_many_descriptors_for_upstreams(files):
    connections = connections_within(files)
    assert connections >= 4
    assert 3 * connections <= files


@pytest.mark.parametrize("number", [24, 28], ids=["no descriptor", "no disk"])
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_that_cannot_be_stored_is_told_to_its_client(
    proxy, upstream, monkeypatch, number, chunked
):
    def fails(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("waitress.buffers.TempfileBasedBuffer.newfile", fails)
    body = b"x" * 2**20
    data = request_bytes("/v1/x", body=body)
    if chunked:
        head = request_bytes("/v1/x", body=b"")
        data = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        data += chunk(body) + b"0\r\n\r\n"
    with proxy.open(b"") as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 5\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert not upstream.requests
    assert proxy.request("GET", "/v1/x").status == 200
