"""What is listened on: Unix sockets, and what systemd gives."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from attack import statuses
from fronts import plain_nginx
from programs import ROOT, wait_for
from servers import KEY, TIMEOUT, read_all, request_bytes, running_proxy

from llmauth.config.loading import Given, load
from llmauth.exceptions import ConfigurationError
from llmauth.server.sockets import PortTakenError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "llmauth.sock")


def exchange(where: str | tuple[str, int], data: bytes, *, half_closed: bool = False) -> bytes:
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(where)
        sock.sendall(data)
        if half_closed:
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


CHAT = request_bytes(
    "/v1/chat/completions",
    "Connection: close",
    body=b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}',
)
HEALTH = b"GET /health HTTP/1.0\r\n\r\n"


def test_owner_and_group_may_connect_and_are_served(upstream, path):
    with running_proxy(upstream, host=f"unix:{path}", default_backend="echo"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert statuses(exchange(path, HEALTH)) == [200]
        assert statuses(exchange(path, b"GET /livez HTTP/1.0\r\n\r\n", half_closed=True)) == [200]
        assert b"data: [DONE]" in exchange(path, CHAT)
        with_key = request_bytes("/openai/v1/x", "Connection: close")
        assert statuses(exchange(path, with_key)) == [200]
        assert statuses(exchange(path, with_key.replace(KEY.encode(), b"wrong"))) == [401]
    assert not os.path.exists(path)


@pytest.mark.parametrize("said", ["unix:{}", "unix://{}"])
def test_the_path_is_read_as_in_a_url_too(said, path):
    assert load(Given({"host": said.format(path)}), {"DISABLE_AUTH": "1"}).host == f"unix:{path}"


@pytest.mark.parametrize("said", ["unix:", "unix://", "unix:/run/", "unix:///"])
def test_without_a_path_it_is_none(said):
    with pytest.raises(ConfigurationError, match="names no socket, as unix:/run"):
        load(Given({"host": said}), {"DISABLE_AUTH": "1"})


def test_a_socket_that_was_left_behind_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    with running_proxy(None, host=f"unix:{path}", default_backend="echo"):
        assert statuses(exchange(path, HEALTH)) == [200]


def test_the_socket_of_a_running_server_is_not_taken(path):
    with running_proxy(None, host=f"unix:{path}", default_backend="echo"):
        with pytest.raises(PortTakenError, match="another program listens there"):
            with running_proxy(None, host=f"unix:{path}", default_backend="echo"):
                pass
        assert statuses(exchange(path, HEALTH)) == [200]


def test_a_file_is_not_replaced(path):
    Path(path).write_text("precious")
    with pytest.raises(ConfigurationError, match="something else than a socket"):
        with running_proxy(None, host=f"unix:{path}", default_backend="echo"):
            pass
    assert Path(path).read_text() == "precious"


def test_the_socket_of_another_server_is_not_removed_at_the_end(path):
    with running_proxy(None, host=f"unix:{path}", default_backend="echo"):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as others:
            others.bind(path)
    assert os.path.exists(path)


@pytest.mark.parametrize("where", ["missing/x.sock", "x" * 200], ids=["no folder", "too long"])
def test_what_cannot_be_bound_is_one_clear_line(tmp_path, where):
    with pytest.raises(ConfigurationError, match="Cannot listen on unix:"):
        with running_proxy(None, host=f"unix:{tmp_path}/{where}", default_backend="echo"):
            pass


def test_authentication_may_be_off_where_only_this_machine_comes(path):
    with running_proxy(None, host=f"unix:{path}", default_backend="echo", disable_auth=True):
        asked = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert statuses(exchange(path, asked)) == [200]


def test_nginx_reaches_it_and_says_who_its_client_is(tmp_path, path):
    """Believed with ``TRUSTED_PROXIES=unix`` only: tests/deployment/test_unix_sockets.py."""
    more = {"host": f"unix:{path}", "default_backend": "echo", "trusted_proxies": "unix"}
    with running_proxy(None, **more), plain_nginx(tmp_path / "nginx", f"unix:{path}") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            for key, status in ((KEY, 200), ("wrong-key-0123456789", 401)):
                connection.request("GET", "/v1/models", headers={"x-api-key": key})
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (status, True)


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "llmauth", *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated(sock: socket.socket, *arguments: str, **environ: str):
    """Run the server with a socket as systemd gives it; yields what it prints."""
    given = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLM_BACKEND": "echo", **environ}
    process = subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, str(sock.fileno()), *arguments],
        pass_fds=[sock.fileno()],
        env=os.environ | given,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT)


def test_a_socket_of_systemd_is_used_in_place_of_the_address(path):
    with socket.create_server(("127.0.0.1", 0)) as sock, activated(sock, "--port=1") as process:
        port = sock.getsockname()[1]
        assert statuses(exchange(("127.0.0.1", port), HEALTH)) == [200]  # it waited for the start
        process.terminate()
        _, printed = process.communicate(timeout=TIMEOUT)
        assert f"http://127.0.0.1:{port}, by a socket of systemd" in printed
        assert process.returncode == 0


def test_a_unix_socket_of_systemd_stays_when_the_server_ends(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with activated(sock) as process:
            assert statuses(exchange(path, HEALTH)) == [200]
            process.terminate()
            wait_for(lambda: process.poll() is not None, "it ends")
        assert os.path.exists(path)


def test_without_authentication_a_socket_of_systemd_is_this_machines_only():
    with socket.create_server(("0.0.0.0", 0)) as sock:
        with activated(sock, "--disable-auth") as process:
            _, printed = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "others can reach the socket that systemd gives, 0.0.0.0" in printed


def test_what_is_no_listening_socket_is_refused():
    one, other = socket.socketpair()
    with one, other, activated(one) as process:
        _, printed = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "ListenStream=" in printed


def test_sockets_given_to_another_process_are_not_taken(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with running_proxy(None, default_backend="echo") as proxy:
        assert proxy.request("GET", "/health", key=None).status == 200
