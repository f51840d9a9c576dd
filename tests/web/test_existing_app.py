"""The example of an application that has gained the proxy, on Flask's development server."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from urllib.parse import urlencode

import pytest
from programs import ROOT, Program
from servers import KEY, PROVIDER_KEY
from streams import HEAD, Held, chunk, read_until

EXAMPLE = ROOT / "examples" / "existing_app.py"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def app(upstream):
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "OPENAI_API_BASE_URL": upstream.url,
        "OPENAI_API_KEY": PROVIDER_KEY,
        "NOTES_PASSWORD": "password-of-the-notes",
        "FLASK_LLMAUTH_MAX_FAILED_ATTEMPTS": "2",
    }
    command = [sys.executable, "-m", "flask", "--app", str(EXAMPLE), "run", "--port", "{port}"]
    with contextlib.closing(Program(command, environ)) as running:
        yield running


def ask(app, method: str, path: str, body: str | None = None, headers: dict | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=15)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def test_the_proxy_is_there_and_the_rest_is_as_it_was(app, upstream):
    # Pages, login and API: no key of ours, the application's own rules
    status, _, page = ask(app, "GET", "/")
    assert (status, b"<form" in page) == (200, True)
    assert ask(app, "GET", "/api/notes", headers=BEARER)[0] == 401
    assert ask(app, "POST", "/login", "user=ann&password=wrong", FORM)[0] == 403
    login = urlencode({"user": "ann", "password": "password-of-the-notes"})
    status, headers, _ = ask(app, "POST", "/login", login, FORM)
    assert (status, headers["Location"]) == (302, "/")
    session = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
    note = json.dumps({"text": "buy milk"})
    written = ask(app, "POST", "/api/notes", note, session | {"Content-Type": "application/json"})
    assert json.loads(written[2]) == ["buy milk"]
    assert b"buy milk" in ask(app, "GET", "/", headers=session)[2]
    assert ask(app, "GET", "/nothing")[0] == 404

    # The proxy: the key, and not the session
    assert ask(app, "POST", "/llm/v1/chat/completions", "{}", session)[0] == 401
    assert upstream.requests == []
    status, headers, body = ask(app, "POST", "/llm/v1/chat/completions", "{}", BEARER | session)
    assert (status, body) == (200, b'{"ok": true}')
    (request,) = upstream.requests
    assert request.target == "/v1/chat/completions"
    assert request.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert request.header("cookie") is None
    wrong = [{"Authorization": f"Bearer wrong-key-0123456789-{number}"} for number in range(3)]
    assert [ask(app, "GET", "/llm/v1/x", headers=one)[0] for one in wrong] == [401, 401, 429]
    assert ask(app, "GET", "/")[0] == 200

    # The log: the development server's, and no key
    assert '"POST /llm/v1/chat/completions HTTP/1.1" 200' in app.output()
    assert not any(secret in app.output() for secret in (KEY, PROVIDER_KEY, "wrong-key-01234"))


def test_streams_pass_and_end_upstream_when_the_client_leaves(app, upstream):
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two"))
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=15)
    with contextlib.closing(connection):
        connection.request("POST", "/llm/v1/x", b"{}", BEARER)
        connection.sock.settimeout(15)
        read_until(connection.sock, b"one")
        upstream.answer.go_on.release()
        read_until(connection.sock, b"two")
    (request,) = upstream.requests
    request.sock.settimeout(15)
    with contextlib.suppress(ConnectionResetError):
        assert request.sock.recv(1) == b""
    upstream.answer.go_on.release()


def test_it_took_five_lines():
    inside = EXAMPLE.read_text().partition("# llmauth: settings")[2].partition("# llmauth: end")[0]
    code = [line for line in inside.splitlines()[1:] if line.strip()]
    assert len(code) + 1 == 5  # and the import
