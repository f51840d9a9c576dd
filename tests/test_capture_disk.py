"""A capture on a disk that is full: no request notices, and the operator is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sys

import pytest
from programs import Program, wait_for
from servers import KEY

ROOM = 32 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_fails_no_request_and_shows_in_readyz(tmp_path):
    assert shutil.which("prlimit")
    capture = tmp_path / "capture.jsonl"
    serve = [sys.executable, "-m", "llmauth", "serve", "--port", "{port}"]
    proxy = Program(
        ["prlimit", f"--fsize={ROOM}", *serve],
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
        # Somebody makes room, again and again, until what had waited is written.
        wait_for(lambda: capture.unlink(missing_ok=True) or state() == "ok", "the capture goes on")
        ask("POST", "/v1/chat/completions", body)
        assert proxy.stop() == 0
        assert "cannot be written" in proxy.output()
        assert all(json.loads(line) for line in capture.read_text().splitlines())
