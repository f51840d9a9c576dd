"""Without what Windows does not have: see as_on_windows.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell
from commands import environment, get, run_each, started
from fronts import EXAMPLES, free_port
from programs import wait_for
from servers import KEY, TIMEOUT, Upstream, request_bytes
from streams import HEAD, Held, chunk, read_until

TESTS = Path(__file__).parents[1]
ON_WINDOWS = str(TESTS / "as_on_windows.py")
AS_ON_WINDOWS = {
    "PYTHONIOENCODING": "cp1252",
    "PYTHONWARNDEFAULTENCODING": "1",  # files are opened as UTF-8, whatever the code page
    "PYTHONWARNINGS": "error::EncodingWarning",
}
MODULES = (
    "auth/test_guard.py",
    "auth/test_key_files.py",
    "capture/test_process.py",
    "capture/test_recording.py",
    "config/test_loading.py",
    "proxy/test_forwarding.py",
    "proxy/test_streams.py",
    "server/test_pump.py",
)
NOT_THERE = (
    "capture/test_recording.py::test_only_the_owner_may_read_it",
    # These start programs of their own, from which nothing has been taken away.
    "capture/test_process.py::test_a_program_that_just_ends_leaves_a_complete_capture",
    "capture/test_process.py::test_on_a_full_disk_it_ends_with_the_proxy",
    "capture/test_process.py::test_the_server_shows_it_goes_on_and_ends_with_what_can_be_written",
    "capture/test_process.py::test_when_the_proxy_is_killed_its_process_writes_what_it_has_and_ends",
    "proxy/test_streams.py::test_a_large_upload_passes_without_being_held_in_memory",
    "proxy/test_streams.py::"
    "test_while_streams_finish_readyz_says_so_and_a_second_signal_ends_it_now",
)
THE_SAME_THERE = (
    # What is taken away is in no way of theirs: they read no files, and ask no system.
    "capture/test_recording.py::test_a_decompression_bomb_is_cut",
    "config/test_loading.py::test_a_number_out_of_range_is_refused_with_its_name_and_origin",
    "config/test_loading.py::test_a_value_that_cannot_be_used_is_refused_with_its_variable",
    "config/test_loading.py::test_keys_that_cannot_be_used",
    "config/test_loading.py::test_what_a_file_must_not_say",
    # The memory of the process that writes, which is as it always is.
    "capture/test_process.py::"
    "test_large_answers_and_those_that_unpack_to_large_ones_take_little_memory",
)
ONE_WAY_TO_BE_STUCK = "not (holds and lock)"
"""Which way it is matters to the process that writes alone, which is as it always is."""

STREAMS = 280
"""More than the pump takes where there is only ``select``."""


@pytest.fixture
def running(tmp_path, upstream: Upstream):
    """llmauth in a process of its own; its files have names that no code page has."""
    folder = tmp_path / "caf\u00e9 \u9375"
    folder.mkdir()
    keys, config = folder / "keys", folder / "llmauth.yaml"
    keys.write_text(f"# \u9375\nalice: {KEY}\n", encoding="utf-8-sig")
    text = f"# \u9375\nlogging: {{capture_file: '{folder}/capture.jsonl', file: '{folder}/log'}}\n"
    config.write_text(text, encoding="utf-8")
    port = free_port()
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(keys),
        "LLMAUTH_CONFIG": str(config),
        "OPENAI_API_BASE_URL": upstream.url,
        "APP_THREADS": "300",
        **AS_ON_WINDOWS,
    }
    command = [ON_WINDOWS, "-m", "llmauth", "--port", str(port)]
    with started(*command, port=port, **environ) as process:
        yield process, port, folder


def opened(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    sock.sendall(request_bytes("/v1/x"))
    return sock


def test_the_program_forwards_streams_notices_and_stops(running, upstream):
    process, port, folder = running
    with opened(port) as sock:
        assert b'{"ok": true}' in read_until(sock, b"}")
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two"), b"0\r\n\r\n")
    with opened(port) as sock:
        read_until(sock, b"one")
        upstream.answer.go_on.release()
        read_until(sock, b"two")
    request = upstream.requests[-1]  # and then the client has left
    request.sock.settimeout(TIMEOUT)
    with contextlib.suppress(ConnectionResetError):
        assert request.sock.recv(1) == b""
    for _ in upstream.answer.parts:
        upstream.answer.go_on.release()
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert output.isascii()
    events = (folder / "capture.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(event)["key_name"] for event in events} == {"alice"}


def test_more_streams_than_select_takes_are_all_complete(running, upstream):
    _, port, _ = running
    upstream.answer = Held(HEAD + chunk(b"one"), b"0\r\n\r\n")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(opened(port)) for _ in range(STREAMS)]
        for sock in socks:
            read_until(sock, b"one")
        for _ in range(2 * STREAMS):
            upstream.answer.go_on.release()
        for sock in socks:
            read_until(sock, b"0\r\n\r\n")


@pytest.mark.parametrize("code_page", ["cp1252", "cp437", "ascii"])
def test_every_command_prints_whatever_the_code_page(tmp_path, code_page):
    file = tmp_path / "capture.jsonl"
    message = {"role": "user", "content": "caf\u00e9 \u9375 \U0001f511"}
    event = {
        "timestamp_iso": "2026-11-24T20:00:00Z",
        "timestamp_unix": 1795550400.0,
        "direction": "inbound_request",
        "source": "127.0.0.1",
        "destination": "llmauth",
        "request_id": "req_1",
        "payload": {"messages": [message]},
        "metadata": {"method": "POST", "path": "/v1/chat/completions"},
    }
    file.write_text(json.dumps(event) + "\n", encoding="utf-8")
    commands = (
        ["--help"],
        ["serve", "--help"],
        ["check", "--backend", "caf\u00e9\u9375=x"],
        ["check", "--default-backend", "echo", "--log", "caf\u00e9 \u9375"],
        ["keygen"],
        ["capture", "show", str(file)],
        ["capture", "har", str(file)],
    )
    environ = AS_ON_WINDOWS | {
        "PYTHONIOENCODING": code_page,
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
    }
    for done in run_each(commands, ON_WINDOWS, **environ):
        output = done.stdout + done.stderr
        assert output, done.args
        assert b"Traceback" not in output, output.decode("latin-1")


def test_the_tests_of_streams_and_requests_pass():
    """In a process of their own, which has had everything taken away."""
    deselected = [f"--deselect=tests/{test}" for test in NOT_THERE + THE_SAME_THERE]
    command = [sys.executable, ON_WINDOWS, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    command += [*deselected, "-k", ONE_WAY_TO_BE_STUCK]
    done = subprocess.run(
        [*command, *(str(TESTS / module) for module in MODULES)],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.ps1")), ids=lambda file: file.name)
def test_the_scripts_are_powershell(script):
    """By PowerShell's grammar; ASCII, since PowerShell 5 takes anything else for a code page."""
    source = script.read_bytes()
    assert source.isascii()
    language = tree_sitter.Language(tree_sitter_powershell.language())
    tree = tree_sitter.Parser(language).parse(source)
    assert not tree.root_node.has_error, tree.root_node


def test_what_the_scheduled_task_runs_serves_and_says_what_is_wrong(tmp_path):
    (tmp_path / "log").mkdir()
    shutil.copy(EXAMPLES / "windows-start.py", tmp_path / "start.py")
    (tmp_path / "keys.txt").write_text(f"{KEY}\n", encoding="utf-8")
    (tmp_path / "openai.txt").write_text("sk-of-the-provider-0123456789\n", encoding="utf-8")
    settings, port = tmp_path / "llmauth.yaml", free_port()
    settings.write_text(f"server: {{port: {port}}}\ndefault_backend: echo\n", encoding="utf-8")
    start, log = str(tmp_path / "start.py"), tmp_path / "log" / "start.log"
    with started(start, port=port):
        assert get(port, "/v1/models", KEY)[0] == 200
        # It serves before it says so.
        wait_for(lambda: "openai" in log.read_text(encoding="utf-8"), "the banner is there")
    settings.write_text("server: {prot: 8000}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, start], env=environment(), timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert "prot" in log.read_text(encoding="utf-8")
