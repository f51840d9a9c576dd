"""A capture on a disk that is full: no request notices, and the operator is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sys
from pathlib import Path

import pytest
from programs import Program, wait_for
from servers import KEY

from llmauth.capture.file import RotatingFile

ROOM = 32 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_fails_no_request_and_shows_in_readyz(tmp_path):
    import resource  # which Windows does not have

    assert shutil.which("prlimit")
    capture = tmp_path / "capture.jsonl"
    serve = [sys.executable, "-m", "llmauth", "serve", "--port", "{port}"]
    proxy = Program(
        ["prlimit", f"--fsize={ROOM}:unlimited", *serve],
        {
            "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
            "LLM_BACKEND": "echo",
            "CAPTURE_FILE": str(capture),
        },
    )
    body = json.dumps({"model": "echo-1", "messages": [{"role": "user", "content": "x" * 3000}]})

    def ask(method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            assert response.status == 200
            return response.read()

    def state() -> str:
        return json.loads(ask("GET", "/readyz"))["checks"]["capture"]

    with contextlib.closing(proxy):
        assert state() == "ok"
        for _ in range(10):
            assert b"chat.completion" in ask("POST", "/v1/chat/completions", body)
        wait_for(lambda: "not written" in state(), "readyz tells")
        assert capture.stat().st_size <= ROOM
        (writer,) = children(proxy.process.pid)
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_for(lambda: state() == "ok", "the capture goes on")
        ask("POST", "/v1/chat/completions", body)
        assert proxy.stop() == 0
        assert "cannot be written" in proxy.output()
        events = [json.loads(line) for line in capture.read_text().splitlines()]
        assert len(events) == 4 * 11


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


@pytest.mark.parametrize("left", [b'{"half', b'{}\n{"half'])
def test_half_a_line_that_is_there_does_not_spoil_the_next(tmp_path, left):
    path = tmp_path / "capture.jsonl"
    path.write_bytes(left)
    file = RotatingFile(str(path), max_bytes=0, max_files=1)
    for line in (b"{}\n", b"[]\n"):
        file.write(line)
    file.close()
    assert path.read_bytes() == left + b"\n{}\n[]\n"
