"""The wire capture's own process: nothing is lost, no request waits for it, and it ends."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from messages import BODY, EVENTS, JSON
from programs import ROOT, llmauth, wait_for
from servers import KEY

from llmauth.capture import queue
from llmauth.capture import recording as capturing
from llmauth.capture.recording import Exchange, WireCapture
from llmauth.exceptions import ConfigurationError
from llmauth.redact.logging import Redactor

FULL = "/dev/full"
full_disk = pytest.mark.skipif(not os.path.exists(FULL), reason=f"needs {FULL}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or kills")


class Recording:
    """A capture in a temporary file, and what it wrote."""

    def __init__(self, path: Path, *secrets: str) -> None:
        self.path = path
        self.redactor = Redactor(secrets)
        self.capture = self.open()

    def open(self, **options: int) -> WireCapture:
        options = {"max_bytes": 10**9, "max_files": 3, **options}
        return WireCapture(str(self.path), self.redactor, **options)

    def exchange(self, request_id: str = "r1", credentials: tuple[str, ...] = ()) -> Exchange:
        names = {"client": "127.0.0.1", "backend": "openai", "key_name": "alice"}
        return self.capture.exchange(request_id=request_id, credentials=credentials, **names)

    def ask(self, request_id: str = "r1", body: bytes = b"") -> None:
        """Record a request that is not answered."""
        exchange = self.exchange(request_id)
        exchange.inbound_request("GET", "/", {}, body)
        exchange.finished()

    def lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def asked(self) -> list[str]:
        lines = self.lines()
        return [line["request_id"] for line in lines if line["direction"] == "inbound_request"]

    def events(self) -> list[dict[str, Any]]:
        self.capture.close(30)
        return self.lines()

    @property
    def pid(self) -> int:
        """Of the process that writes."""
        (pid,) = children(os.getpid())
        return pid


def children(parent: int) -> list[int]:
    """Return the processes that write for a process."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        pids = ""
        with contextlib.suppress(OSError):  # a thread that has ended by now
            pids = (task / "children").read_text()
        for pid in pids.split():
            with contextlib.suppress(OSError):
                if b"llmauth.capture.writer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(tmp_path / "capture.jsonl")
    yield recording
    recording.capture.close(30)


@pytest.fixture
def on_full_disk(tmp_path: Path) -> Iterator[Recording]:
    """One whose disk is full as long as its file is the link that it is."""
    path = tmp_path / "capture.jsonl"
    path.symlink_to(FULL)
    recording = Recording(path)
    yield recording
    recording.capture.close(0)


# What it writes


def test_it_is_complete_after_close_with_many_threads(recording: Recording) -> None:
    def work(number: int) -> None:
        for count in range(25):
            exchange = recording.exchange(f"{number}-{count}")
            exchange.inbound_request("POST", "/", JSON, BODY)
            exchange.inbound_response(200, EVENTS)
            for chunk in range(4):
                exchange.stream_chunk(f"data: {chunk}\n\n".encode())
            exchange.finished()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = recording.events()
    assert len(events) == 8 * 25 * 7
    texts: dict[str, str] = {}
    for event in events:
        name = event["request_id"]
        texts[name] = texts.get(name, "") + str(event["payload"] or "")
    whole = "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert all(text.endswith(whole) for text in texts.values())
    assert recording.capture.state == "ok"
    assert recording.capture.failures == 0


def test_after_close_nothing_is_taken_and_closing_again_is_harmless(recording: Recording) -> None:
    recording.capture.close(30)
    recording.ask()
    recording.capture.close(30)
    assert recording.events() == []


def test_large_bodies_arrive_whole(recording: Recording) -> None:
    exchange, piece = recording.exchange(), b"0123456789abcdef" * 8192
    exchange.inbound_request("POST", "/", {}, 8 * piece)
    exchange.inbound_response(200, {"Content-Type": "text/plain"})
    for _ in range(50):
        exchange.stream_chunk(piece)
    exchange.finished()
    asked, answered, _ = recording.events()
    assert asked["payload"] == (8 * piece).decode()
    assert answered["payload"] == (50 * piece).decode()


@pytest.mark.parametrize("where", ["missing/capture.jsonl", "."])
def test_a_file_that_cannot_be_written_is_refused_at_start(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        WireCapture(str(tmp_path / where), Redactor(), max_bytes=0, max_files=1)


@linux
def test_the_file_is_there_before_the_process_is(recording: Recording) -> None:
    assert recording.lines() == []
    assert children(os.getpid()) == []


@linux
def test_large_answers_and_those_that_unpack_to_large_ones_take_little_memory(
    recording: Recording,
) -> None:
    """Three of 8 MB at a time, and three of 64 KB that unpack to 64 MB."""
    piece, bomb = b'{"Hello": "world"}, ' * 1000, gzip.compress(bytes(64 * 2**20))
    exchanges = [recording.exchange(f"r{number}") for number in range(3)]
    for exchange in exchanges:
        exchange.inbound_response(200, {"Content-Type": "text/plain"})
    for _ in range(2**23 // len(piece)):
        for exchange in exchanges:
            exchange.stream_chunk(piece)
    for number in range(3):
        exchange = recording.exchange(f"bomb{number}")
        exchange.inbound_response(200, {"Content-Encoding": "gzip"})
        exchange.stream_chunk(bomb)
        exchange.finished()
    wait_for(lambda: recording.path.stat().st_size > 0, "the bombs have gone off")
    exchanges.pop().finished()
    status = Path(f"/proc/{recording.pid}/status")
    wait_for(lambda: recording.path.stat().st_size > 2 * 8e6, "a large one is written")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 160 * 1024
    assert recording.capture.failures == 0
    recording.capture.close(0)  # the other ones would take seconds


# Secrets


@pytest.mark.parametrize("learn", ["add", "observe"])
def test_a_secret_is_masked_from_the_event_on_that_follows_it(
    recording: Recording, learn: str
) -> None:
    known, late = "Known5Kx2Wq7Zt4Lm", "Late9Kx2Wq7Zt4Lm"
    recording.redactor.add(known)
    for number in range(3):
        headers = {"X-Other": f"{known} {late}"}
        recording.exchange(f"r{number}").inbound_request("GET", "/", headers, None)
        wait_for(lambda n=number: recording.asked()[-1:] == [f"r{n}"], "it is written")
        getattr(recording.redactor, learn)(late)
    recording.events()
    assert known not in recording.path.read_text()
    assert recording.path.read_text().count(late) == 1


def test_the_credentials_of_an_exchange_are_masked_however_long_it_takes(
    recording: Recording,
) -> None:
    own = "Own9Kx2Wq7Zt4Lm"
    exchange = recording.exchange(credentials=(own,))
    exchange.inbound_request("GET", "/", {}, own.encode())
    for number in range(600):  # more than are remembered
        recording.redactor.observe(f"Other9Kx2Wq7-{number}")
    recording.ask("between")
    exchange.inbound_response(200, EVENTS)
    exchange.stream_chunk(f"data: {own}\n\n".encode())
    exchange.finished()
    assert [event["payload"] for event in recording.events()][-2] == "data: ****\n\n"
    assert own not in recording.path.read_text()


@linux
def test_a_new_process_knows_all_secrets(recording: Recording) -> None:
    added, observed = "Added5Kx2Wq7Zt4Lm", "Seen9Kx2Wq7Zt4Lm"
    recording.redactor.add(added)
    recording.redactor.observe(observed)
    recording.ask("first")
    wait_for(lambda: "first" in recording.asked(), "it is written")
    os.kill(recording.pid, signal.SIGKILL)
    wait_for(lambda: recording.capture.state != "ok", "its end is noticed")
    recording.ask("second", f"{added} {observed}".encode())
    assert recording.events()[-2]["payload"] == "**** ****"


# In trouble


@pytest.mark.skipif(sys.platform == "win32", reason="an open file stays where it is there")
@pytest.mark.parametrize("act", [os.remove, lambda path: os.rename(path, f"{path}.old")])
def test_a_file_that_is_moved_or_removed_is_followed_by_another(recording, act):
    recording.ask("before")
    wait_for(lambda: recording.asked() == ["before"], "the first exchange is written")
    act(recording.path)
    recording.ask("after")
    recording.capture.close(30)
    assert recording.asked() == ["after"]


@full_disk
def test_a_full_disk_fails_no_request_and_nothing_is_lost_when_it_has_room_again(
    on_full_disk: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    recording = on_full_disk
    for number in range(10):
        recording.ask(f"{number}")
    wait_for(lambda: recording.capture.failures > 0, "it is noticed")
    assert recording.capture.state != "ok"
    recording.path.unlink()
    wait_for(lambda: recording.capture.state == "ok", "it is written")
    recording.events()
    assert recording.asked() == [str(n) for n in range(10)]
    failed = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(failed) == 1


@full_disk
def test_a_full_queue_drops_and_counts_and_says_so_but_fails_no_request(
    on_full_disk: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    recording = on_full_disk
    recording.capture = recording.open(queue_size=20_000)
    while recording.capture.failures < 60:
        recording.ask("r", b"x" * 3000)
    assert recording.capture.state != "ok"
    recording.path.unlink()
    wait_for(recording.path.exists, "there is room")
    events = recording.events()
    assert sum(event["metadata"].get("dropped_events", 0) for event in events) > 40
    ends = [e for e in events if e["direction"] == "outbound_response"]
    assert len(recording.asked()) == len(ends)
    assert "events are being dropped" in caplog.text


@full_disk
def test_what_finds_no_room_is_dropped_from_the_middle_of_a_stream(
    on_full_disk: Recording,
) -> None:
    recording = on_full_disk
    recording.capture = recording.open(queue_size=5000)
    exchange = recording.exchange()
    exchange.inbound_request("GET", "/", {}, None)
    exchange.inbound_response(200, EVENTS)
    for _ in range(1000):
        exchange.stream_chunk(b"x" * 1000)
    recording.path.unlink()
    wait_for(recording.path.exists, "there is room")
    exchange.finished()
    assert recording.events()[-1]["metadata"]["chunks"] < 1000
    assert recording.capture.failures > 900


@full_disk
def test_closing_gives_up_on_a_full_disk_in_time_and_says_so(
    on_full_disk: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    on_full_disk.ask()
    on_full_disk.capture.close(0.2)
    assert "incomplete" in caplog.text
    assert children(os.getpid()) == []


@linux
def test_a_process_that_is_killed_is_started_again(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    open_exchange = recording.exchange("open")
    open_exchange.inbound_request("GET", "/", {}, None)
    recording.ask("first")
    wait_for(lambda: recording.capture._queue.written, "it is written, and that is known")
    os.kill(recording.pid, signal.SIGKILL)
    wait_for(lambda: "has ended (signal 9)" in caplog.text, "its end is noticed")
    wait_for(lambda: recording.capture.state == "ok", "it is started again, without an event")
    assert recording.capture.failures == 1
    open_exchange.finished()  # began in the one that is no more
    recording.ask("second")
    recording.events()
    assert recording.asked() == ["open", "first", "second"]
    assert recording.capture.failures == 2
    assert "incomplete" not in caplog.text


@pytest.mark.parametrize("python", ["", "/nonexistent/python", os.devnull])
def test_without_a_process_no_request_fails_and_it_is_said_once(
    recording: Recording,
    python: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(capturing, "RESTART_INTERVAL", 0.05)
    real = sys.executable
    monkeypatch.setattr(sys, "executable", python)
    recording.ask("early")
    wait_for(lambda: recording.capture.failures > 2, "it is tried again")
    assert recording.capture.state != "ok"
    assert len(caplog.records) == 1
    assert "cannot be started" in caplog.text
    monkeypatch.setattr(sys, "executable", real)
    wait_for(lambda: recording.capture.state == "ok", "it is there")
    recording.ask("late")
    recording.events()
    assert recording.asked() == ["early", "late"]


def test_what_a_process_says_that_cannot_start_is_in_the_log(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    recording.ask()
    wait_for(lambda: "ModuleNotFoundError: No module named" in caplog.text, "it is said")
    monkeypatch.undo()


class NoThread(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_without_a_thread_no_request_fails_and_the_next_one_has_all_written(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", NoThread)
        recording.ask("early")
    assert recording.capture.failures == 1
    recording.ask("late")
    recording.events()
    assert recording.asked() == ["early", "late"]


def test_at_the_end_it_is_said_what_no_thread_has_written(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "Thread", NoThread)
    recording.ask()
    recording.capture.close(30)
    assert "not written in time, 2 events are lost." in caplog.text


def test_what_cannot_be_sent_ends_nothing(recording: Recording) -> None:
    class Text(str):
        pass

    recording.exchange().inbound_request(Text("GET"), "/", {}, None)
    wait_for(lambda: recording.capture.failures == 1, "it is counted")
    recording.ask("next")
    recording.events()
    assert recording.asked() == ["next"]


# Its end

PROXY = """
import os, sys, time
from llmauth.capture.recording import WireCapture
from llmauth.redact.redactor import Redactor

capture = WireCapture(sys.argv[1], Redactor(), max_bytes=0, max_files=1)
exchange = capture.exchange(request_id="r", client="c", backend="b", key_name=None)
exchange.inbound_request("GET", "/", {}, None)
time.sleep(0.2)
print("ready", flush=True)
if sys.argv[2] == "ends":
    exchange.finished()
else:
    time.sleep(60)
"""


@contextlib.contextmanager
def proxy(file: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROXY, str(file), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def writer_of(process: subprocess.Popen[str]) -> int:
    """Return the one process that writes for this one, when it has been started."""
    wait_for(lambda: len(children(process.pid)) == 1, "a process that writes")
    (pid,) = children(process.pid)
    return pid


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


@linux
def test_its_memory_goes_back_to_the_system_as_soon_as_it_is_free(recording: Recording) -> None:
    recording.ask()
    wait_for(recording.asked, "it writes")
    environ = Path(f"/proc/{recording.pid}/environ").read_bytes().split(b"\0")
    assert b"MALLOC_TRIM_THRESHOLD_=4194304" in environ
    assert b"MALLOC_MMAP_THRESHOLD_=262144" in environ


@linux
def test_when_the_proxy_is_killed_its_process_writes_what_it_has_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "capture.jsonl"
    with proxy(file, "is killed") as process:
        pid = writer_of(process)
        wait_for(lambda: file.exists() and file.stat().st_size, "it has begun")
        for ignored in (signal.SIGINT, signal.SIGTERM, 1):  # a terminal that is closed
            os.kill(pid, ignored)
        process.kill()
        wait_for(lambda: gone(pid), "it ends")
    asked, ended = map(json.loads, file.read_text().splitlines())
    assert asked["direction"] == "inbound_request"
    assert ended["metadata"] == {"error": "the proxy ended"}


@linux
@full_disk
def test_on_a_full_disk_it_ends_with_the_proxy(tmp_path: Path) -> None:
    file = tmp_path / "capture.jsonl"
    file.symlink_to(FULL)
    with proxy(file, "is killed") as process:
        pid = writer_of(process)
        process.kill()
        wait_for(lambda: gone(pid), "it ends")


def test_a_program_that_just_ends_leaves_a_complete_capture(tmp_path: Path) -> None:
    """As under servers that do not tell an application when they stop."""
    file = tmp_path / "capture.jsonl"
    with proxy(file, "ends") as process:
        assert process.wait(20) == 0
    _, ended = map(json.loads, file.read_text().splitlines())
    assert ended["metadata"] == {}


# One event that takes for ever

# Found by the process that writes before the real one.
STUCK = {
    "sleeps": "import time\ndef work():\n    time.sleep(3600)",
    # As a regular expression that has no end, but without computing.
    "holds Python's lock": "import ctypes\ndef work():\n    ctypes.PyDLL(None).sleep(3600)",
}
BROTLI = """
error = ValueError

class Decompressor:
    def process(self, data):
        if data.startswith(b"stuck"):
            work()
        return data

    def is_finished(self):
        return False
"""
BR = {"Content-Encoding": "br"}


@pytest.fixture(params=STUCK)
def poison(request, tmp_path, monkeypatch):
    """Have bodies that begin with ``stuck`` decoded for ever."""
    monkeypatch.syspath_prepend(poisoned(tmp_path, request.param))


def poisoned(folder: Path, kind: str) -> Path:
    """Return a folder of modules for the process that writes."""
    modules = folder / "modules"
    modules.mkdir()
    (modules / "brotli.py").write_text(STUCK[kind] + BROTLI)
    return modules


def stick(recording: Recording) -> None:
    recording.ask("before")
    wait_for(lambda: recording.capture._queue.written, "it is written")
    recording.exchange("stuck").inbound_request("GET", "/", BR, b"stuck")
    wait_for(lambda: recording.capture._queue.taken, "it is sent")


@linux
def test_a_capture_that_lags_is_unhealthy_and_says_so(recording, poison, monkeypatch, caplog):
    stick(recording)
    assert recording.capture.state == "ok"
    monkeypatch.setattr(queue, "LAG", 0.1)
    wait_for(lambda: recording.capture.state != "ok", "it is noticed")
    assert recording.capture.state == "0 s behind, 0 events not written"
    recording.ask("after")
    assert "The wire capture is 0 seconds behind." in caplog.text
    os.kill(recording.pid, signal.SIGKILL)
    wait_for(lambda: recording.asked() == ["before", "after"], "another one goes on")
    # The state is told before the line is logged, by another thread.
    wait_for(lambda: "has caught up" in caplog.text, "it has caught up")
    assert recording.capture.state == "ok"
    assert [r.getMessage() for r in caplog.records] == [
        "The wire capture is 0 seconds behind.",
        "The process that writes the wire capture has ended (signal 9), 1 events are lost. "
        "Trying again.",
        "The process that writes the wire capture runs again.",
        "The wire capture has caught up.",
    ]
    assert recording.capture.failures == 2


def test_a_capture_that_is_always_behind_lags_though_it_goes_on(monkeypatch):
    """Each message is written soon after it was sent, but it was not sent soon."""
    clock = [0.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(queue, "GATHERING", 0)
    events = queue.EventQueue(10**6)
    assert events.put((1, None, "stream_chunk", 0.0, (b"",)), always=False)
    assert events.take(0)
    clock[0] = 0.5
    assert events.put((1, None, "stream_chunk", 0.0, (b"",)), always=False)
    assert events.seconds_behind() == 0
    clock[0] = queue.LAG + 1
    events.forget(written=True)
    assert events.take(0)
    assert events.seconds_behind() == queue.LAG + 0.5
    events.forget(written=True)
    assert events.seconds_behind() == 0


@linux
def test_an_event_that_takes_for_ever_is_given_up_and_the_others_are_written(
    recording, poison, monkeypatch, caplog
):
    monkeypatch.setattr(capturing, "PATIENCE", 1.0)
    stick(recording)
    for number in range(20):
        recording.ask(f"{number}", b"x" * 50_000)  # more than the pipe holds
    wait_for(lambda: len(recording.asked()) == 21, "they are written")
    assert "(status 1: it was stuck with an event), 1 events are lost" in caplog.text
    assert recording.capture.failures == 2
    recording.events()
    assert "incomplete" not in caplog.text


@linux
def test_at_the_end_what_can_be_written_is_and_the_rest_is_counted(recording, poison, caplog):
    stick(recording)
    for number in range(20):
        recording.ask(f"{number}", b"x" * 50_000)
    recording.capture.close(10)
    assert recording.asked() == ["before", *map(str, range(20))]
    assert "The wire capture is incomplete: " in caplog.text
    assert "1 events are lost." in caplog.text
    assert children(os.getpid()) == []


@linux
@pytest.mark.parametrize("asked", [0, 20])
def test_without_time_nothing_is_waited_for_and_all_is_counted(recording, poison, caplog, asked):
    stick(recording)
    for number in range(asked):
        recording.ask(f"{number}", b"x" * 50_000)
    recording.capture.close(0)
    assert f"in time, {1 + 2 * asked} events are lost." in caplog.text
    wait_for(lambda: children(os.getpid()) == [], "the process has ended")


@linux
def test_a_process_that_is_slow_but_goes_on_is_left_alone_at_the_end(recording, poison):
    """It writes what takes longer than half of the time, when nothing waits behind it."""
    stick(recording)
    pid = recording.pid
    ending = threading.Thread(target=recording.capture.close, args=(1.0,))
    ending.start()
    ending.join(0.7)
    assert children(os.getpid()) == [pid]
    ending.join()


@linux
def test_a_full_queue_behind_a_stuck_event_drops_counts_and_recovers(recording, poison, caplog):
    recording.capture.close(30)
    recording.capture = recording.open(queue_size=200_000)
    stick(recording)
    for number in range(20):
        recording.ask(f"{number}", b"x" * 50_000)
    assert recording.capture.state != "ok"
    assert "events are being dropped" in caplog.text
    os.kill(recording.pid, signal.SIGKILL)
    wait_for(lambda: recording.capture.state == "ok", "there is room again")
    recording.ask("after")
    events = recording.events()
    dropped = sum(event["metadata"].get("dropped_events", 0) for event in events)
    assert dropped == recording.capture.failures - 2
    assert recording.asked()[-1] == "after"
    assert "incomplete" not in caplog.text


@linux
def test_the_server_shows_it_goes_on_and_ends_with_what_can_be_written(tmp_path):
    """The whole way: ``/readyz``, the log, SIGTERM; for each kind of stuck event at a time."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda kind: the_whole_way(tmp_path / kind, kind), STUCK):
            pass


def the_whole_way(folder: Path, kind: str) -> None:
    folder.mkdir()
    file = folder / "capture.jsonl"
    proxy = llmauth(
        LLM_INTERACTIVE_PROXY_API_KEY=KEY,
        LLM_BACKEND="echo",
        CAPTURE_FILE=str(file),
        PYTHONPATH=f"{poisoned(folder, kind)}{os.pathsep}{ROOT}",
    )

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        with contextlib.closing(connection):
            headers |= {"Authorization": f"Bearer {KEY}"}
            connection.request(method, path, body, headers)
            return connection.getresponse().read()

    def state() -> str:
        return str(json.loads(ask("GET", "/readyz"))["checks"]["capture"])

    with contextlib.closing(proxy):
        ask("GET", "/v1/models?before")
        assert state() == "ok"
        ask("POST", "/v1/x", b"stuck", **BR)
        wait_for(lambda: "s behind" in state(), "it is noticed")
        for number in range(50):
            assert b'"object"' in ask("GET", f"/v1/models?after={number}")
        assert "The wire capture is 5 seconds behind." in proxy.output()
        assert proxy.stop() == 0
        lost = re.search(r"capture is incomplete: .*, (\d+) events are lost", proxy.output())
        assert lost
        assert int(lost[1]) < 50  # those of the stuck exchange only
    written = file.read_text()
    for number in range(50):
        assert f"after={number}" in written
