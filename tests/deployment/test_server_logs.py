"""The servers that people run have logs of their own, which go on and hold no key."""

from __future__ import annotations

import contextlib
import re
import sys

import pytest
from attack import WRONG
from programs import Program, wait_for
from servers import KEY, request_bytes

COMMANDS = {
    "gunicorn": [
        *("gunicorn", "--threads", "4", "--no-control-socket", "--access-logfile", "-"),
        *("--access-logformat", '%(r)s %(s)s %({authorization}i)s', "--bind", "127.0.0.1:{port}"),
        "wsgi:application",
    ],
    "granian": [
        *("granian", "--interface", "wsgi", "--blocking-threads", "4", "--access-log"),
        *("--host", "127.0.0.1", "--port", "{port}", "wsgi:application"),
    ],
    "uvicorn": [
        *("uvicorn", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}"),
        "wsgi:application",
    ],
    "uvicorn, in colour": [
        *("uvicorn", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}"),
        *("--use-colors", "wsgi:application"),
    ],
}
SIGNS = re.compile(r"\x1b\[[0-9;]*m")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="they do not run on Windows")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_request_has_its_line_in_both_logs_and_no_traceback(name):
    pytest.importorskip(name.partition(",")[0])
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLM_BACKEND": "echo"}
    with contextlib.closing(Program([sys.executable, "-m", *COMMANDS[name]], environ)) as program:
        for key in (KEY, WRONG):
            data = request_bytes(f"/v1/models?key={key}", "Connection: close", method="GET")
            with contextlib.closing(program.connect()) as sock:
                sock.sendall(data.replace(KEY.encode(), key.encode()))
                assert sock.recv(100)

        def lines(path: str) -> list[str]:
            shown = SIGNS.sub("", program.output()).splitlines()
            return [line for line in shown if path in line]

        wait_for(lambda: len(lines("/v1/models")) == 4, "two lines in each log")
        own = [line for line in lines("/v1/models") if "llmauth.access" in line]
        theirs = [line for line in lines("/v1/models") if line not in own]
        for logged in (own, theirs):
            assert sorted(re.findall(r" (200|401)\b", " ".join(logged))) == ["200", "401"]
        # granian's has no query.
        assert all("?key=****" in line for line in theirs) == (name != "granian")
        output = program.output()
        assert bool(SIGNS.search(output)) == (name == "uvicorn, in colour")
        assert r"\x1b" not in output
        assert "Traceback" not in output
        assert KEY not in output
        assert WRONG not in output
