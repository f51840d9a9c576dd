"""What docs/architecture.md says of a request's way is so."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from programs import wait_for
from servers import Received, Upstream, running_proxy

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "llmauth").is_dir())
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WAYS = {
    title: re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)
    for title, _, section in (part.partition("\n") for part in TEXT.split("\n### ")[1:])
}
WRONG = "wrong-key-0123456789abcdefghij"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def code_of(name: str) -> CodeType:
    """Return the code of a function that is named from the package on."""
    parts = name.split(".")
    length = 2 if (ROOT / "llmauth" / parts[0]).is_dir() else 1
    function: Any = importlib.import_module(".".join(["llmauth", *parts[:length]]))
    for part in parts[length:]:
        function = inspect.getattr_static(function, part)
    code = inspect.unwrap(getattr(function, "__func__", function)).__code__
    assert isinstance(code, CodeType)
    return code


@pytest.fixture
def called() -> Iterator[list[CodeType]]:
    """What is called in threads that start from now on, in its order."""
    known = {code_of(name) for way in WAYS.values() for name in way}
    calls: list[CodeType] = []

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code in known:
            calls.append(frame.f_code)

    threading.setprofile(note)
    yield calls
    threading.setprofile(None)


def passes(way: list[str], calls: list[CodeType]) -> str | None:
    """Return the first function on the way that was not called after those before it."""
    rest = iter(list(calls))
    return next((name for name in way if code_of(name) not in rest), None)


def stream_to(calls: list[CodeType]) -> Callable[[Received], None]:
    """Return an upstream's answer that does not end before the pump carries it."""

    def answer(request: Received) -> None:
        request.sock.sendall(HEAD + b"9\r\ndata: 1\n\n\r\n")
        carry = code_of("server.pump.Pump.carry")
        wait_for(lambda: carry in calls, "the pump was not asked")
        request.sock.sendall(b"0\r\n\r\n")

    return answer


@pytest.mark.parametrize("title", WAYS)
def test_a_request_goes_the_way_that_is_described(title, called, tmp_path, caplog):
    caplog.set_level(logging.INFO, "llmauth.access")
    upstream = Upstream()
    if title == "Streamed":
        upstream.answer = stream_to(called)
    changes = {"capture_file": str(tmp_path / "capture")} if title == "Captured" else {}
    try:
        with running_proxy(upstream, **changes) as proxy:
            key = {"key": WRONG} if title in ("Wrong key", "Locked out") else {}
            for number in range(6 if title == "Locked out" else 0):
                proxy.request("POST", "/v1/x", body=b"{}", key=f"{WRONG}{number}")
            called.clear()
            proxy.request("POST", "/v1/x", body=b"{}", **key)
            with contextlib.suppress(AssertionError):  # the one below says which is missing
                wait_for(lambda: passes(WAYS[title], called) is None, "the way is gone")
            assert passes(WAYS[title], called) is None
    finally:
        upstream.stop()


def test_every_way_is_there():
    assert list(WAYS) == ["Plain", "Streamed", "Wrong key", "Locked out", "Captured"]
    assert all(WAYS.values())


def test_the_picture_shows_every_room():
    shown = set(re.findall(r'^    (\w+)\["\1/<br>', TEXT, re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "llmauth").glob("*/__init__.py")}
