"""A line for each request: what it says, and that no request waits for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

import pytest
from commands import environment
from fronts import free_port
from programs import ROOT, TIMEOUT, listens, wait_for
from servers import KEY, Proxy, configure_log, read_all, request_bytes, running_proxy, whole
from streams import HEAD, Held, chunk

from llmauth.auth.request import RequestInfo
from llmauth.config.loading import Given, load
from llmauth.proxy.failures import detail
from llmauth.redact.logging import Redactor
from llmauth.web import access_log as journal


@pytest.fixture
def logged(caplog):
    """Return the fields of the lines that have been logged."""
    caplog.set_level(logging.INFO, "llmauth.access")

    def fields() -> list[dict[str, Any]]:
        return [json.loads(r.access) for r in caplog.records if r.name == "llmauth.access"]

    return fields


def line(proxy: Proxy, logged) -> dict[str, Any]:
    """Return the fields of the one line."""
    wait_for(logged, "a line")
    proxy.server.state.access_log.flush()
    (fields,) = logged()
    return fields


# A client that leaves


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_that_leaves_before_the_first_byte_is_no_failure_of_the_server(
    upstream, logged, tmp_path, leave
):
    upstream.answer = Held(b"")
    capture = tmp_path / "capture.jsonl"
    with running_proxy(upstream, capture_file=str(capture)) as proxy:
        sock = proxy.open(request_bytes("/v1/x"))
        upstream.answer.wait()
        leave(sock)
        fields = line(proxy, logged)
    upstream.answer.go_on.release()
    assert (fields["status"], fields["error"]) == (499, "client_disconnected")
    end = json.loads(capture.read_text().splitlines()[-1])
    assert (end["direction"], end["metadata"]) == (
        "outbound_response", {"error": "client_disconnected"},
    )  # fmt: skip


def test_a_request_that_the_servers_end_cuts_is_the_servers_doing(upstream, logged):
    upstream.answer = Held(b"")
    with running_proxy(upstream) as proxy, contextlib.closing(
        proxy.open(request_bytes("/v1/x", "Connection: close"))
    ) as sock:
        upstream.answer.wait()
        proxy.server.stop()
        assert read_all(sock).startswith(b"HTTP/1.1 503 ")
        fields = line(proxy, logged)
    upstream.answer.go_on.release()
    assert (fields["status"], fields["error"]) == (503, "overloaded")


@pytest.mark.parametrize("framing", ["a length", "chunks"])
def test_a_client_that_leaves_in_the_middle_of_an_answer_is_in_its_line(upstream, logged, framing):
    data = b"x" * 2**20
    lengths = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    over = threading.Event()

    def endless(received) -> None:
        with contextlib.suppress(OSError):
            received.sock.sendall(HEAD if framing == "chunks" else lengths)
            while True:
                received.sock.sendall(chunk(data) if framing == "chunks" else data)
        over.set()

    upstream.answer = endless
    with running_proxy(upstream) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            assert sock.recv(1)
        fields = line(proxy, logged)
        assert over.wait(20)
    assert (fields["status"], fields["error"]) == (200, "client_disconnected")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("answer", [
    whole(), whole(b""), whole(b"x" * 2**20), Held(HEAD + chunk(b"one") + b"0\r\n\r\n"),
], ids=["short", "empty", "long", "stream"])  # fmt: skip
def test_an_answer_that_arrives_whole_has_no_error(upstream, logged, method, answer):
    upstream.answer = answer
    with running_proxy(upstream) as proxy:
        if isinstance(answer, Held):
            answer.go_on.release()
        assert proxy.request(method, "/v1/x", {"Connection": "close"}).status == 200
        fields = line(proxy, logged)
    assert (fields["status"], fields["error"]) == (200, None)


# A log that cannot keep up


class Stuck(logging.Handler):
    """Takes no further line until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.reached = threading.Event()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reached.set()
        assert self.go_on.wait(60)
        self.said.append(record.getMessage())


@pytest.fixture
def stuck():
    handler, access = Stuck(), logging.getLogger("llmauth.access")
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    yield handler
    handler.go_on.set()
    access.removeHandler(handler)
    access.setLevel(logging.NOTSET)


def test_a_log_that_cannot_keep_up_stops_no_request_and_tells_how_many_lines_are_missing(
    upstream, stuck, monkeypatch
):
    monkeypatch.setattr(journal, "MAX_WAITING", 20)
    with running_proxy(upstream) as proxy:
        proxy.request("GET", "/v1/first")
        assert stuck.reached.wait(20)
        for _ in range(50):
            assert proxy.request("GET", "/v1/x").status == 200
            refused = proxy.request("GET", "/v1/x", key="wrong", address="127.0.0.9")
            assert refused.status in (401, 429)
        # An answer arrives before its line is left.
        wait_for(lambda: proxy.server.state.access_log._backlog._dropped == 80, "all are left")
        stuck.go_on.set()
        proxy.server.state.access_log.flush()
    lines = [one for one in stuck.said if "/v1/" in one]
    (told,) = [one for one in stuck.said if one not in lines]
    assert told == "80 lines of the access log were dropped: they came too fast."
    assert len(lines) == 1 + 20


def test_a_server_whose_log_is_stuck_still_ends_and_says_what_is_missing(upstream, stuck, caplog):
    with running_proxy(upstream) as proxy:
        for _ in range(5):
            assert proxy.request("GET", "/v1/x").status == 200
        assert stuck.reached.wait(20)
        logging.getLogger("llmauth.access").removeHandler(stuck)
        proxy.server.state.access_log.close(0.05)
        proxy.server.stop()
    assert re.search(r"access log is incomplete: \d lines were not written in time", caplog.text)


def serve(environ: dict[str, str], **options: Any) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server; return its process and port."""
    command = [sys.executable, "-m", "llmauth", "serve", "--port", str(port := free_port())]
    variables = environment(LLM_INTERACTIVE_PROXY_API_KEY=KEY, LLM_BACKEND="echo", **environ)
    process = subprocess.Popen(command, env=variables, cwd=ROOT, **options)
    wait_for(lambda: listens(port), "the server")
    return process, port


def statuses(port: int, key: str, times: int, path: str = "/v1/models") -> set[int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    found = set()
    with contextlib.closing(connection):
        for _ in range(times):
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            with connection.getresponse() as response:
                response.read()
            found.add(response.status)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="sets the size of a pipe")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("read", [True, False], ids=["read again", "never read again"])
def test_a_full_pipe_stops_neither_requests_nor_the_end_of_the_server(read, unbuffered):
    """As of `llmauth 2>&1 | less`, or of a log driver that is stuck."""
    import fcntl

    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    limits = {"BRUTE_FORCE_MAX_FAILED_ATTEMPTS": "1", "PYTHONUNBUFFERED": unbuffered}
    process, port = serve(limits | {"LOG_LEVEL": "DEBUG"}, stderr=writing)
    os.close(writing)
    with contextlib.closing(open(reading, "rb")) as pipe:
        assert statuses(port, KEY, 200) == {200}
        assert statuses(port, "wrong", 100) == {401, 429}  # a warning from the request's own thread
        assert statuses(port, KEY, 1, "/health") == {200}
        process.send_signal(signal.SIGTERM)
        log = pipe.read() if read else b""
        assert process.wait(TIMEOUT) == 0
    assert log.count(b'"GET /v1/models"') == (300 if read else 0)
    assert log.count(b"blocked 127.0.0.1") == (1 if read else 0)
    assert log == b"" or log.endswith(b"\n")


def test_at_the_end_all_that_waits_is_written(tmp_path):
    file = tmp_path / "log"
    process, port = serve({"LOG_FILE": str(file)}, stderr=subprocess.DEVNULL)
    statuses(port, KEY, 300)
    process.terminate()
    process.wait(TIMEOUT)
    assert file.read_text().count('"GET /v1/models"') == 300


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_lines_that_a_full_disk_does_not_take_are_counted_and_told(tmp_path):
    file = tmp_path / "log"
    settings = load(Given({"log_file": str(file)}), {"LLM_INTERACTIVE_PROXY_API_KEY": KEY})
    handler, undo = configure_log(settings)
    good = os.open(file, os.O_WRONLY | os.O_APPEND)
    number = handler._file.fileno()
    with open("/dev/full", "ab", buffering=0) as full:
        os.dup2(full.fileno(), number)
    for count in range(3):
        logging.getLogger("llmauth").error("lost %d", count)
    handler.flush()
    os.dup2(good, number)
    os.close(good)
    wait_for(lambda: "were dropped" in file.read_text(), "it is told")
    logging.getLogger("llmauth").error("next")
    undo()
    lines = file.read_text().splitlines()
    assert [one.partition(": ")[2] for one in lines] == [
        "3 lines of the log were dropped: they could not be written in time.", "next",
    ]  # fmt: skip


# What a line holds


@pytest.mark.parametrize("length", [100, 1024, 1025, 50_000])
def test_a_long_path_is_cut_and_marked(upstream, logged, length):
    path = "/v1/" + "basic+" * (length // 6 + 1)
    with running_proxy(upstream) as proxy:
        proxy.request("GET", path[:length], {"Connection": "close"})
        fields = line(proxy, logged)
    if length <= journal.MAX_PATH:
        assert fields["path"] == path[:length]
    else:
        assert fields["path"].endswith(journal.CUT)
        assert len(fields["path"]) <= journal.MAX_PATH + len(journal.CUT)


def test_a_line_has_numbers_and_nothing_for_what_is_not_known(upstream, logged, caplog):
    with running_proxy(upstream) as proxy:
        proxy.request("GET", "/v1/x", {"Connection": "close"}, key=None)
        fields = line(proxy, logged)
    kinds = {name: type(value) for name, value in fields.items()}
    assert kinds == {
        "client": str, "key": type(None), "method": str, "path": str, "backend": type(None),
        "model": type(None), "status": int, "bytes": int, "first_byte_ms": float,
        "total_ms": float, "request_id": str, "error": str,
    }  # fmt: skip
    (text,) = [r.getMessage() for r in caplog.records if r.name == "llmauth.access"]
    assert re.fullmatch(
        r'127\.0\.0\.1 - "GET /v1/x" - 401 \d+B first=[\d.]+ms total=[\d.]+ms '
        r"req_\w+ model=- error=invalid_api_key",
        text,
    )


def test_the_lines_in_the_documentation_are_what_is_written(logged):
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    (said,) = [json.loads(one) for one in re.findall(r"^\{.*\}$", text, re.MULTILINE)]
    info = RequestInfo(said["request_id"], said["path"], "?x", said["client"])
    info.key_name, info.backend, info.model = said["key"], said["backend"], said["model"]
    figures = said["bytes"], said["first_byte_ms"], said["total_ms"]
    lines = journal.AccessLog(Redactor([KEY]))
    lines.put(journal.Line.of(info, said["method"], str(said["status"]), *figures))
    lines.close(20)
    (fields,) = logged()
    assert [*fields.items()] == [*said.items()][3:]
    documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)))
    assert set(said) - {"level", "logger"} <= {*documented}


def test_the_text_in_the_documentation_is_what_is_written(caplog):
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    said = re.search(r"llmauth\.access: (203.*)", text)
    fields = re.search(r"^\{.*\}$", text, re.MULTILINE)
    assert journal._FORMAT % json.loads(fields[0]) == said[1].replace("error=-", "error=None")


def member(model: str, **more: Any) -> bytes:
    return json.dumps(more | {"model": model}).encode()


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x\r\n'
    b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
)
TOOL = {"tools": [{"name": "x", "input": {"model": "of-a-tool"}}]}
NAMED = {
    "JSON": ("/v1/x", member("gpt-4o"), "gpt-4o"),
    "after the messages": ("/v1/x", member("gpt-4o", messages=["x" * 60_000]), "gpt-4o"),
    "spaces": ("/v1/x", b'{ "model" :\n "gpt-4o" }', "gpt-4o"),
    "beside a tool's": ("/v1/x", member("gpt-4o", **TOOL), "gpt-4o"),
    "spelt out": ("/v1/x", b'{"model": "gpt\\u002d4o"}', "gpt-4o"),
    "in what somebody says": ("/v1/x", member("a", messages=['{"model": "b"}']), "a"),
    "a role": ("/v1/x", b'{"role": "model", "parts": []}', None),
    "of another type": ("/v1/x", b'{"model": 7}', None),
    "a form": ("/v1/audio/transcriptions", FORM % b"RIFF", "whisper-1"),
    "a large form": ("/v1/audio/transcriptions", FORM % (b"\0\xff" * 200_000), "whisper-1"),
    "large, at its beginning": ("/v1/x", b'{"model":"a","x":"%b"}' % (b"x" * 200_000), "a"),
    "large, at its end": ("/v1/x", member("gpt-4o", messages=["x" * 200_000]), "gpt-4o"),
    "large, in its middle": ("/v1/x", b'"%b","model":"a","%b"' % ((b"x" * 99_999,) * 2), None),
    "Gemini": ("/gemini/v1beta/models/gemini-2:generateContent", b"{}", "gemini-2"),
    "Azure": ("/v1/deployments/my%20gpt/chat/completions?api-version=1", b"{}", "my gpt"),
    "a query": ("/v1/realtime?x=1&model=gpt-realtime", b"{}", "gpt-realtime"),
    "none": ("/v1/x", b"{}", None),
    "no JSON": ("/v1/x", b'\xff"model": "', None),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "model"), NAMED.values(), ids=NAMED)
def test_the_model_that_a_request_names_is_in_its_line(upstream, logged, path, body, model, caplog):
    with running_proxy(upstream) as proxy:
        proxy.request("POST", path, {"Connection": "close"}, body)
        fields = line(proxy, logged)
    assert fields["model"] == model
    assert upstream.requests[0].body == body  # looked at, not taken
    text = caplog.records[-1].getMessage()
    assert f" model={model.replace(' ', '%20') if model else '-'} error=-" in text


def test_a_models_name_is_masked_and_whole_and_one_word(upstream, logged, caplog):
    with running_proxy(upstream) as proxy:
        for model in (KEY, "a\u2028b\x1b", "x" * 201):
            proxy.request("POST", "/v1/x", {"Connection": "close"}, member(model))
        wait_for(lambda: len(logged()) == 3, "the lines")
    assert KEY not in caplog.text
    assert [fields["model"] for fields in logged()] == ["****", r"a\u2028b\x1b", None]


# Why a backend did not answer


def test_why_a_backend_did_not_answer_stands_with_the_requests_id(upstream, logged, caplog):
    upstream.stop()
    with running_proxy(upstream) as proxy:
        proxy.request("GET", "/v1/x", {"Connection": "close"})
        fields = line(proxy, logged)
    assert fields["status"] == 502
    (reason,) = [r for r in caplog.records if r.name == "llmauth.web.blueprint"]
    assert reason.getMessage() == (
        f"{fields['request_id']}: The backend 'openai' could not be reached: "
        "it refuses connections (Connection refused)"
    )
    assert reason.request_id == fields["request_id"]


def test_an_answer_that_breaks_off_is_told_with_the_requests_id(upstream, logged, caplog):
    upstream.answer = lambda request: (
        request.sock.sendall(HEAD + chunk(b"one")), request.sock.shutdown(socket.SHUT_RDWR)
    )  # fmt: skip
    with running_proxy(upstream) as proxy:
        proxy.exchange(request_bytes("/v1/x", "Connection: close"))
        fields = line(proxy, logged)
    (reason,) = [r for r in caplog.records if "broke off" in r.getMessage()]
    assert reason.getMessage().startswith(f"{fields['request_id']}: the backend 'openai' ")
    assert reason.request_id == fields["request_id"]


POOL = "HTTPSConnectionPool(host='api.example.com', port=443)"
SAID = {
    ConnectionRefusedError(111, "Connection refused"): "Connection refused",
    OSError(f"{POOL}: Read timed out. (read timeout=1)"): "Read timed out. (read timeout=1)",
    OSError("<urllib3.connection.HTTPSConnection object at 0x7f00ff>: Failed to connect"):
        "Failed to connect",
    OSError("HTTPSConnection(host='x', port=1): Failed to resolve 'x'"): "Failed to resolve 'x'",
    OSError("[SSL: X] wrong version (_ssl.c:1006)"): "[SSL: X] wrong version",
    OSError(): "OSError",
    OSError(POOL): "OSError",
}  # fmt: skip


@pytest.mark.parametrize(("error", "said"), SAID.items(), ids=map(repr, SAID))
def test_what_libraries_add_for_themselves_is_left_out(error, said):
    assert detail(error) == said


def test_the_json_of_a_reason_has_the_requests_id(tmp_path):
    file = tmp_path / "log"
    given = Given({"log_file": str(file), "log_format": "json"})
    _, undo = configure_log(load(given, {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}))
    logging.getLogger("llmauth").error("%s: why", "req_1", extra={"request_id": "req_1"})
    logging.getLogger("llmauth").error("of none")
    undo()
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["message"], first["request_id"]) == ("req_1: why", "req_1")
    assert second.keys() == {"time", "level", "logger", "message"}


def quoted(key: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in key)


@pytest.mark.parametrize("shown", range(0, 40, 3))
@pytest.mark.parametrize("form", [str, quoted])
def test_where_a_path_is_cut_no_half_of_a_key_is_left(logged, shown, form):
    key = form(KEY)
    path = "/" + "x" * (journal.MAX_PATH - shown - 2) + "/" + key + "/" + "y" * 100
    info = RequestInfo("req_1", path, "", "127.0.0.1")
    lines = journal.AccessLog(Redactor([KEY]))
    lines.put(journal.Line.of(info, "GET", "200", 0, 0.0, 0.0))
    lines.close(20)
    (fields,) = logged()
    assert key[:24 if form is quoted else 8] not in fields["path"]
    assert fields["path"].endswith(journal.CUT)
