"""A line of the log is one line, whatever a client puts into it; in text and in JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import re

import pytest
from attack import WRONG, request, send
from programs import wait_for
from servers import KEY, Upstream, request_bytes, running_proxy

from llmauth.cli.logs import configure
from llmauth.config.loading import Given, load
from llmauth.exceptions import ConfigurationError
from llmauth.redact.logging import Redactor

FORGED = "2030-01-01T00:00:00.000+0000 WARNING llmauth.lockout: blocked 192.0.2.66"
ENCODED = FORGED.replace(" ", "%20")
HOSTILE = {
    "an encoded line break": request(line=f"GET /v1/x%0d%0a{ENCODED} HTTP/1.1"),
    "an encoded LF": request(line=f"GET /v1/x%0a{ENCODED} HTTP/1.1", key=WRONG),
    "an unknown backend": request(line=f"GET /nosuch%0a{ENCODED}/x HTTP/1.1"),
    "escape sequences": request(line="GET /v1/%1b[2J%1b]0;owned%07 HTTP/1.1"),
    "NEL and separators": request(line="GET /v1/x%c2%85%e2%80%a8%e2%80%a9 HTTP/1.1"),
    "a line break in the query": request(line=f"GET /v1/x?a=%0a{ENCODED} HTTP/1.1"),
    "a user agent": request(f"User-Agent: x\x85{FORGED}\xa0"),
    "a raw line break": request(f"User-Agent: x\n{FORGED}"),
    "a raw escape": request("User-Agent: \x1b[2J"),
    "quotes": request(line='GET /v1/x"%22 HTTP/1.1'),
    "a key": request(f"x-api-key: x\x85{FORGED}", key=None),
    "a basic user": request(f"Authorization: Basic {FORGED}", key=None),
    "an address": request(f"X-Forwarded-For: 192.0.2.1%0a{FORGED}, x\x85{FORGED}"),
    "a zone": request("X-Forwarded-For: fe80::1%\x85eth0"),
    "a method": request(line="BREW%0a /v1/x HTTP/1.1"),
    "a model": request_bytes(
        "/v1/x", "Connection: close", body=json.dumps({"model": f"m\n{FORGED}"}).encode()
    ),
}
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} [A-Z]+ [\w.]+: [^\x00-\x1f\x7f-\x9f]*"
)


@pytest.fixture(params=["text", "json"])
def log(request, tmp_path):
    """Have everything logged, waitress's own messages too; returns how to read it."""
    file = tmp_path / "llmauth.log"
    values = {"log_file": str(file), "log_format": request.param, "log_level": "DEBUG"}
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}
    undo = configure(load(Given(values), environ), Redactor([KEY]))

    def lines() -> list[str]:
        for handler in logging.getLogger().handlers:
            handler.flush()
        return file.read_bytes().decode("utf-8").split("\n")[:-1]

    yield request.param, lines
    undo()


def is_one(line: str, kind: str) -> bool:
    if kind == "text":
        return LINE.fullmatch(line) is not None and not line.startswith("2030")
    return isinstance(json.loads(line), dict) and "2030" not in json.loads(line)["time"]


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_that_a_client_sends_makes_a_line_of_its_own(upstream, log, case):
    kind, lines = log
    with running_proxy(upstream, trusted_proxies="127.0.0.1") as proxy:
        send(proxy.port, HOSTILE[case])
        with contextlib.closing(proxy.open(HOSTILE[case])):
            pass  # gone before the answer, which waitress logs with the decoded path
        assert proxy.request("GET", "/v1/last").status == 200
        proxy.server.state.access_log.flush()
        wait_for(lambda: any("/v1/last" in line for line in lines()), "nothing was logged")
    assert [line for line in lines() if not is_one(line, kind)] == []


def test_tracebacks_are_indented_and_so_no_lines_of_their_own(log):
    kind, lines = log
    try:
        raise ValueError(f"a\n{FORGED}\x1b[2J")
    except ValueError:
        logging.getLogger("llmauth").exception("failed for %s", f"b\n{FORGED}")
    found = lines()
    if kind == "json":
        assert len(found) == 1
    else:
        assert is_one(found[0], kind)
        assert all(line.startswith("  ") for line in found[1:])
    assert not set("".join(found)) & set("\x1b\x07\x85")


@pytest.mark.parametrize("name", ["a\tb", "a b", "a\x1b[2J", "a\x85b", "é", "x" * 65, '"'])
def test_a_keys_name_has_no_characters_that_a_log_could_take_for_others(tmp_path, name):
    file = tmp_path / "keys"
    file.write_text(f"{name}: key-0123456789abcdef\n", encoding="utf-8")
    with pytest.raises(ConfigurationError):
        load(environ={"LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(file)})


def test_upstreams_make_no_lines_either(log):
    kind, lines = log
    upstream = Upstream()
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX: \x85{FORGED}\r\n\r\nabc\n{FORGED}"

    def broken(received) -> None:
        received.sock.sendall(answer.encode("latin-1")[:-60])
        received.sock.close()

    upstream.answer = broken
    with running_proxy(upstream) as proxy, contextlib.suppress(Exception):
        proxy.request("GET", "/v1/x")
    upstream.stop()
    assert [line for line in lines() if not is_one(line, kind)] == []
