"""A log file that is moved or removed, and SIGHUP: nothing ends, and no line is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from commands import environment
from files import write
from programs import ROOT, llmauth, wait_for
from servers import KEY, PROVIDER_KEY, TIMEOUT, configure_log, read_all, request_bytes
from streams import HEAD, Held, chunk, read_until

from llmauth.cli.logs import reopen
from llmauth.config.loading import Given, load

posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved")


@pytest.fixture
def log(tmp_path):
    """The path of a log that is written to by this process."""
    file = tmp_path / "folder" / "llmauth.log"
    file.parent.mkdir()
    settings = load(Given({"log_file": str(file)}), {"LLM_INTERACTIVE_PROXY_API_KEY": KEY})
    _, undo = configure_log(settings)
    yield file
    undo()


def say(word: str) -> None:
    logging.getLogger("llmauth").error("%s", word)
    for handler in logging.getLogger().handlers:
        handler.flush()


def words(file) -> list[str]:
    return [line.rpartition(" ")[2] for line in file.read_text().splitlines()]


def rename(file) -> None:
    file.rename(file.with_suffix(".1"))


def remove(file) -> None:
    file.unlink()


def create(file) -> None:
    """As logrotate does with ``create``."""
    rename(file)
    file.touch(0o640)


def replace(file) -> None:
    other = file.with_suffix(".new")
    other.write_text("from another program\n")
    os.replace(other, file)


@not_windows
@pytest.mark.parametrize("act", [rename, remove, create, replace])
def test_what_takes_the_place_of_the_log_gets_the_next_line(log, act):
    for number in range(3):
        say(f"before-{number}")
        act(log)
        say(f"after-{number}")
        assert words(log)[-1:] == [f"after-{number}"]
        assert f"before-{number}" not in words(log)
        if act in (rename, create):
            assert words(log.with_suffix(".1"))[-1:] == [f"before-{number}"]
        assert sum(os.path.samestat(os.stat(log), os.fstat(number)) for number in opened()) == 1


def opened() -> list[int]:
    numbers = []
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            os.fstat(number)
            numbers.append(number)
    return numbers


@not_windows
def test_copytruncate_leaves_no_hole(log):
    say("before")
    os.truncate(log, 0)
    say("after")
    assert words(log) == ["after"]


@not_windows
def test_a_log_without_a_folder_goes_on_once_it_is_there_again(log):
    say("before")
    log.parent.rename(log.parent.with_suffix(".old"))
    say("meanwhile")
    assert words(log.parent.with_suffix(".old") / log.name) == ["before", "meanwhile"]
    log.parent.mkdir()
    say("after")
    assert words(log) == ["after"]


@not_windows
def test_it_is_made_anew_without_a_line_when_somebody_says_so(log):
    say("before")
    rename(log)
    reopen()
    wait_for(log.exists, "the file")
    say("after")
    assert words(log) == ["after"]


def test_a_path_is_followed_from_where_the_program_was_started(log, monkeypatch, tmp_path):
    say("before")
    monkeypatch.chdir(tmp_path)
    say("after")
    assert words(log) == ["before", "after"]


# SIGHUP


@pytest.fixture
def served(upstream, tmp_path):
    """A server in a process of its own, and where its files are."""
    keys = tmp_path / "keys"
    write(keys, KEY)
    program = llmauth(
        LLM_INTERACTIVE_PROXY_API_KEY_FILE=str(keys),
        OPENAI_API_BASE_URL=upstream.url,
        OPENAI_API_KEY=PROVIDER_KEY,
        LOG_FILE=str(tmp_path / "log"),
        CAPTURE_FILE=str(tmp_path / "capture"),
    )
    with contextlib.closing(program):
        yield program, tmp_path


@posix
def test_files_are_opened_again_and_keys_read_and_no_stream_ends(served, upstream):
    program, folder = served
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as sock:
        sock.sendall(request_bytes("/v1/x", "Connection: close"))
        read_until(sock, b"one")
        for name in ("log", "capture"):
            os.rename(folder / name, folder / f"{name}.1")
        program.process.send_signal(signal.SIGHUP)
        log, capture = folder / "log", folder / "capture"
        wait_for(
            lambda: log.exists() and "read again: as they were" in log.read_text(), "the log"
        )
        wait_for(capture.exists, "the capture")
        program.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            upstream.answer.go_on.release()
        assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")
    assert program.stop() == 0
    assert stat.S_IMODE(capture.stat().st_mode) == 0o600
    events = [json.loads(line)["direction"] for line in capture.read_text().splitlines()]
    assert events[-1] == "stream_end"
    assert '"POST /v1/x" openai 200' in log.read_text()


@posix
@pytest.mark.parametrize("ignored", [True, False], ids=["nohup", "plain"])
def test_a_closed_terminal_ends_the_server_unless_it_was_to_stay(tmp_path, ignored):
    """And nothing else that sends SIGHUP does."""
    start = "signal.signal(signal.SIGHUP, signal.SIG_IGN);" if ignored else ""
    script = (
        "import fcntl, os, signal, sys, termios;"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        f"{start}"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    log = tmp_path / "log"
    master, slave = os.openpty()
    command = [sys.executable, "-c", script, "-m", "llmauth", "serve", "--port", "0"]
    variables = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LOG_FILE": str(log)}
    process = subprocess.Popen(
        command,
        env=environment(**variables),
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        banner = b""
        while b"public:" not in banner:
            banner += os.read(master, 4096)
        process.send_signal(signal.SIGHUP)
        told = "SIGHUP"
        wait_for(lambda: log.read_text().count(told) == 1, "the line in the log")
        assert process.poll() is None
        os.close(master)
        if ignored:
            wait_for(lambda: log.read_text().count(told) == 2, "another one")
            process.terminate()
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
