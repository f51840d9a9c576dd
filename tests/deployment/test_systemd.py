"""examples/llmauth.service, as systemd reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fronts import example, program

from llmauth.config.settings import DEFAULT_SHUTDOWN_TIMEOUT

MOST_EXPOSURE = 1.5
"""Of 10; what talks to the Internet does not get below 1.3 or so."""


@pytest.fixture
def unit(tmp_path) -> Path:
    file = tmp_path / "llmauth.service"
    installed = str(Path(sys.executable).parent / "llmauth")
    file.write_text(example("llmauth.service", {"/opt/llmauth/bin/llmauth": installed}))
    return file


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        [program("systemd-analyze"), "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_has_nothing_to_say_against_it(unit):
    assert analyze("verify", "--man=no", str(unit)) == ""


def test_a_misspelt_directive_would_be_noticed(unit):
    unit.write_text(unit.read_text().replace("ProtectSystem", "ProtectSistem"))
    assert "ProtectSistem" in analyze("verify", "--man=no", str(unit))


def test_it_is_exposed_to_hardly_anything(unit):
    report = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for llmauth\.service: ([\d.]+) OK", report)
    assert found, report
    assert float(found[1]) <= MOST_EXPOSURE


def test_streams_get_their_time_to_finish(unit):
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert timeout
    assert int(timeout[1]) > DEFAULT_SHUTDOWN_TIMEOUT + 5


def test_a_reload_ends_nothing(unit):
    """What SIGHUP does is tested in tests/cli/test_log_files.py."""
    reload = re.search(r"^ExecReload=(\S+) (.*)$", unit.read_text(), re.MULTILINE)
    assert reload
    assert Path(reload[1]).exists()
    assert reload[2] == "-HUP $MAINPID"


def test_systemd_has_nothing_to_say_against_the_socket(unit):
    """A service that leaves its sockets alone would lose them: llmauth takes what it is given."""
    sock = unit.with_name("llmauth.socket")
    sock.write_text(example("llmauth.socket", {}))
    assert analyze("verify", "--man=no", str(sock)) == ""
