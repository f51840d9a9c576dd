"""llmauth and ``wsgi:application`` on a Unix socket, whose peers have no address."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys

import pytest
from attack import WRONG
from programs import Program, wait_for
from servers import KEY, TIMEOUT

COMMANDS = {
    "llmauth": ["-m", "llmauth", "--host=unix:{path}"],
    "waitress": ["-m", "waitress", "--unix-socket={path}", "wsgi:application"],
    "gunicorn": [
        *("-m", "gunicorn", "--worker-class", "gthread", "--threads", "4", "--no-control-socket"),
        *("--bind", "unix:{path}", "wsgi:application"),
    ],
    "granian": ["-m", "granian", "--interface", "wsgi", "--uds", "{path}", "wsgi:application"],
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="they do not run on Windows")


class OnSocket(Program):
    """A server, and its clients."""

    def __init__(self, name: str, folder, **environ: str) -> None:
        self.path = str(folder / "llmauth.sock")
        command = [part.replace("{path}", self.path) for part in COMMANDS[name]]
        environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLM_BACKEND": "echo", **environ}
        super().__init__([sys.executable, *command], environ)

    def is_up(self) -> bool:
        if not os.path.exists(self.path):
            return False
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            return True
        return False

    def status(self, key: str | None = KEY, **headers: str) -> int:
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(self.path)
            connection.sock = sock
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            bearer = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request("GET", "/v1/models", headers=bearer | given)
            return connection.getresponse().status


@pytest.fixture(params=COMMANDS)
def serve(request, tmp_path):
    """A function that starts the server with some settings."""
    with contextlib.ExitStack() as stack:

        def start(**environ: str) -> OnSocket:
            server = OnSocket(request.param, tmp_path, **environ)
            return stack.enter_context(contextlib.closing(server))

        yield start


def test_a_trusted_socket_tells_its_clients_apart(serve):
    server = serve(TRUSTED_PROXIES="unix", BRUTE_FORCE_MAX_FAILED_ATTEMPTS="2")
    stranger = "198.51.100.9, 203.0.113.7"
    statuses = [server.status(f"{WRONG}{n}", X_Forwarded_For=stranger) for n in range(3)]
    assert statuses == [401, 401, 429]
    assert server.status(X_Forwarded_For="203.0.113.7") == 429
    assert server.status(X_Forwarded_For="203.0.113.8") == 200
    assert server.status(X_Forwarded_For="203.0.113.7, unix:") == 429
    assert server.status() == 200
    assert "count as one" not in server.output()


def test_without_trust_all_count_as_one_and_that_is_told_once(serve):
    server = serve(BRUTE_FORCE_MAX_FAILED_ATTEMPTS="2")
    clients = [f"203.0.113.{n}" for n in range(3)]
    statuses = [server.status(f"{WRONG}{one}", X_Forwarded_For=one) for one in clients]
    assert statuses == [401, 401, 429]
    assert server.status() == 429
    wait_for(lambda: "TRUSTED_PROXIES=unix" in server.output(), "it is told")
    assert server.output().count("TRUSTED_PROXIES=unix") == 1


def test_with_authentication_off_a_client_of_a_proxy_is_not_on_this_machine(serve):
    server = serve(DISABLE_AUTH="1", CORS_ORIGINS="http://localhost:3000")
    assert server.status(None) == 200
    assert server.status(None, Host="127.0.0.1:8000") == 200
    for forwarded in ("203.0.113.7", "127.0.0.1", "unknown", "unix:", ""):
        assert server.status(None, X_Forwarded_For=forwarded) == 403
    assert server.status(None, Forwarded="for=127.0.0.1") == 403
    assert server.status(None, X_Real_IP="127.0.0.1") == 403
    assert server.status(None, Via="1.1 squid") == 403
    assert server.status(None, X_Forwarded_Host="localhost") == 403
    assert server.status(None, Host="evil.example") == 403
    assert server.status(None, Origin="https://evil.example") == 403
    assert server.status(None, Origin="http://localhost:3000") == 200
    assert server.status(None, Sec_Fetch_Site="cross-site") == 403


def test_with_authentication_off_a_trusted_proxy_says_who_is_on_this_machine(serve):
    server = serve(DISABLE_AUTH="1", TRUSTED_PROXIES="unix,127.0.0.1")
    assert server.status(None, X_Forwarded_For="127.0.0.1") == 200
    assert server.status(None, X_Forwarded_For="unix:") == 200
    assert server.status(None, X_Forwarded_For="127.0.0.1", X_Forwarded_Host="evil.example") == 403
    for forwarded in ("203.0.113.7", "127.0.0.1, 203.0.113.7", "junk", "203.0.113.7, 127.0.0.1"):
        assert server.status(None, X_Forwarded_For=forwarded) == 403
    assert server.status(None, X_Real_IP="127.0.0.1") == 403  # nobody says it who is believed
