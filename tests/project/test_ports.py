"""The ports that tests give to programs, and what happens where one cannot be had."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import sys
from pathlib import Path

import fronts
import programs
import pytest
from fronts import caddy, free_port, ports

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux gives ports")
def test_a_port_that_a_program_is_to_listen_on_is_given_to_nobody_else():
    kept = {free_port() for _ in range(300)}
    assert len(kept) == 300
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(socket.create_server(("", 0))) for _ in range(600)]
        assert not kept & {other.getsockname()[1] for other in others}
    for port in kept:
        socket.create_server(("127.0.0.1", port)).close()
    first, _ = map(int, RANGE.read_text().split())
    assert max(kept) < first or first < 32_000  # as it is unless an administrator has changed it


def test_two_processes_of_a_run_never_give_the_same_port():
    of = [set(itertools.islice(ports(f"gw{number}", 3), 4000)) for number in range(3)]
    assert [len(one) for one in of] == [4000] * 3
    assert len(set().union(*of)) == 12_000


def test_a_port_on_which_somebody_listens_or_has_just_listened_is_passed_over(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        just_given = free_port()
        others = ports("gw0", 1)  # of which another run may have had some a moment ago
        monkeypatch.setattr(fronts, "_PORTS", itertools.chain([number, just_given], others))
        assert free_port() not in (number, just_given)


@pytest.fixture
def first_port_is_taken(monkeypatch):
    """As if somebody else had got a port between its choice and the program's start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        numbers = itertools.chain([taken.getsockname()[1]], iter(free_port, None))
        for module in (fronts, programs):
            monkeypatch.setattr(module, "free_port", lambda: next(numbers))
        yield taken.getsockname()[1]


def test_a_program_whose_port_was_taken_is_started_on_another(first_port_is_taken):
    with contextlib.closing(programs.Program([sys.executable, "-c", LISTEN, "{port}"])) as program:
        assert program.port != first_port_is_taken
        assert program.process.poll() is None


def test_a_program_that_does_not_start_is_told_on_one_screen():
    noise = "import sys; sys.exit('\\n'.join(f'{n} ' + 'x' * 500 for n in range(100)))"
    with pytest.raises(pytest.fail.Exception) as failed:
        programs.Program([sys.executable, "-c", noise])
    lines = str(failed.value).splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 250
    assert re.match(r"99 x+$", lines[-1])
    assert not failed.value.pytrace


def test_a_front_whose_port_was_taken_is_started_on_another(first_port_is_taken, tmp_path, cert):
    with caddy(tmp_path / "caddy", free_port(), cert) as front:
        assert front.port != first_port_is_taken


def test_packages_that_cannot_be_installed_are_told_on_one_screen(tmp_path):
    fronts.program("npm")
    with pytest.raises(pytest.fail.Exception) as failed:
        programs.npm_install(tmp_path, "file:./nothing-is-here")
    assert len(str(failed.value).splitlines()) < 24
    assert not failed.value.pytrace
