"""What people see: at 80 columns, with and without colour, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

import pytest
from commands import KEY, SECRET, environment, run, run_each
from servers import Upstream

pty = pytest.importorskip("pty", reason="a terminal of POSIX")

STYLE = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def on_terminal(*arguments: str, **environ: str):
    """Run the program on a terminal of 80 columns; yield what reads what it says."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "llmauth", *arguments],
        env=environment(TERM="xterm", **environ),
        stdout=slave,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)

    def read(until: str | None = None) -> str:
        data = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while (until is None or until.encode() not in data) and (
                chunk := os.read(master, 65536)
            ):
                data += chunk
        return data.decode("ascii").replace("\r\n", "\n")

    try:
        yield read
    finally:
        process.kill()
        process.wait()
        os.close(master)


def shown(*arguments: str, **environ: str) -> str:
    with on_terminal(*arguments, **environ) as read:
        return read()


def fits(text: str) -> bool:
    lines = STYLE.sub("", text).splitlines()
    return all(len(line) <= 80 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_banner_and_warnings_fit_and_have_colour_unless_it_is_not_wanted(no_color):
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": "short", "NO_COLOR": no_color}
    with on_terminal("--port", "0", **environ) as read:
        output = read(until="keygen")
    assert bool(STYLE.search(output)) == (not no_color)
    plain = STYLE.sub("", output)
    assert "  listening on:   http://127.0.0.1:" in plain
    assert re.search(r"^\d\d:\d\d:\d\d WARNING the key 'default' is weak", plain, re.MULTILINE)
    assert fits(plain)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_check_is_a_table_that_fits(tmp_path, terminal):
    file = tmp_path / "a-file-of-settings-with-a-name-that-is-not-short.yaml"
    file.write_text("auth: {trusted_ips: [10.0.0.0/8, 192.168.0.0/16, 172.16.0.0/12, 1.2.3.4]}")
    upstream = Upstream()
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "LLM_INTERACTIVE_PROXY_API_KEY_ALICE": KEY + "-of-alice",
        "OPENAI_API_KEY": SECRET,
        "OPENAI_API_BASE_URL": upstream.url,
        "OLLAMA_API_BASE_URL": "http://127.0.0.1:1",
        "LLMAUTH_CONFIG": str(file),
    }
    arguments = ["check", "--all", "--auth-max-failed-attempts", "7"]
    output = shown(*arguments, **environ) if terminal else run(*arguments, **environ).stdout
    upstream.stop()
    assert bool(STYLE.search(output)) == terminal
    plain = STYLE.sub("", output)
    assert plain.isascii()
    # A path is not broken, so that it can be copied.
    assert fits("\n".join(line for line in plain.splitlines() if str(tmp_path) not in line))
    assert "\nauth.brute_force_protection\n  enabled " in plain
    assert re.search(r"^  max_failed_attempts +7  \[flag --auth-max-failed-", plain, re.MULTILINE)
    assert re.search(r"^  ttl_seconds +900$", plain, re.MULTILINE)
    rows = plain.partition("\nserver\n")[2].splitlines()
    found = [re.match(r"  \w+ +(?=\S)", row) for row in rows]
    assert {match.end() for match in found if match} == {33}
    assert KEY not in plain
    assert SECRET not in plain


HELPED = ([], ["serve"], ["check"], ["demo"], ["capture", "show"])


@pytest.fixture(scope="module")
def piped():
    """What a command says in a pipe."""
    commands = [[], *([*command, "--help"] for command in HELPED)]
    return {" ".join(done.args): done for done in run_each(commands)}


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_refusal_breaks_between_words_on_a_terminal(piped, no_color):
    output = shown(NO_COLOR=no_color)
    assert bool(STYLE.search(output)) == (not no_color)
    assert fits(output)
    in_pipe = piped[""].stderr.decode("ascii").replace(os.linesep, "\n")
    assert STYLE.sub("", output).replace("\n", " ") == in_pipe.replace("\n", " ")
    assert len(in_pipe.splitlines()) == 1


@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_help_fits_and_is_ascii(piped, command):
    output = piped[" ".join([*command, "--help"])].stdout.decode("ascii")
    assert fits(output)
    assert "..." not in output.partition("Commands:")[2]  # no summary is cut short
    assert not STYLE.search(shown(*command, "--help"))
