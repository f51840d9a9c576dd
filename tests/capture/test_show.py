"""Reading captures: in the terminal, followed, and as HAR."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from haralyzer import HarParser

from llmauth.capture.har import har
from llmauth.capture.recording import WireCapture
from llmauth.capture.show import follow, show
from llmauth.redact.logging import Redactor

JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream"}
CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello"}]}'


def sse(*events: Any, name: bool = False) -> list[bytes]:
    return [
        (f"event: {e['type']}\n" if name else "").encode() + f"data: {json.dumps(e)}\n\n".encode()
        for e in events
    ]


STREAMS: dict[str, list[bytes]] = {
    "openai chat": [
        *sse(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "Hello"}}]},
            {"choices": [{"delta": {"content": " wörld"}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"total_tokens": 3}},
        ),
        b"data: [DONE]\n\n",
    ],
    "openai responses": sse(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_text.delta", "delta": "Hello"},
        {"type": "response.output_text.delta", "delta": " wörld"},
        {"type": "response.output_text.done", "text": "Hello wörld"},
        name=True,
    ),
    "anthropic": sse(
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": " wörld"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
        name=True,
    ),
    "ollama": [
        b'{"message": {"role": "assistant", "content": "Hello"}}\n',
        '{"message": {"content": " wörld"}}\n'.encode(),
        b'{"message": {"content": ""}, "done": true}\n',
    ],
    "ollama generate": ['{"response": "Hello wörld"}\n'.encode(), b'{"done": true}\n'],
    "gemini": sse(
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": " wörld"}]}}]},
    ),
}


class Written:
    """Captures exchanges in a real file and returns its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.capture = WireCapture(str(path), Redactor(), max_bytes=0, max_files=2)

    def exchange(
        self, chunks: list[bytes], headers: dict[str, str], *, body: bytes = CHAT, **names: Any
    ) -> None:
        exchange = self.capture.exchange(
            request_id=names.get("request_id", "req-1"),
            client="127.0.0.1",
            backend="openai",
            key_name="alice",
        )
        exchange.inbound_request("POST", "/v1/chat/completions?a=1&b=", JSON, body)
        exchange.outbound_request("POST", "https://api.test/v1/chat?a=1&b=", JSON, body)
        exchange.inbound_response(200, headers)
        for chunk in chunks:
            exchange.stream_chunk(chunk)
        exchange.finished(names.get("error"))

    def lines(self) -> list[str]:
        self.capture.close(30)
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path / "capture.jsonl")
    yield written
    written.capture.close(30)


def shown(lines: list[str], *, color: bool = False) -> str:
    out = io.StringIO()
    show(lines, out, color=color)
    return out.getvalue()


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
def test_the_text_of_a_stream_is_joined(written: Written, chunks: list[bytes]) -> None:
    written.exchange(chunks, EVENTS)
    text = shown(written.lines())
    assert "POST /v1/chat/completions" in text
    assert "key alice, backend openai, model gpt-4o, req-1" in text
    assert "  user:\n    Say hello\n" in text
    assert "  answer:\n    Hello wörld\n" in text
    assert "status 200, first byte after " in text
    assert " ms to the end" in text


REQUESTS: dict[str, tuple[Any, str]] = {
    "anthropic": (
        {"system": "Be kind", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Look: "}, {"type": "image", "source": {}}]}]},
        "  system:\n    Be kind\n  user:\n    Look: [image]\n",
    ),
    "gemini": (
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        "  user:\n    Hi\n",
    ),
    "responses": ({"instructions": "Be brief", "input": "Hi"},
                  "  system:\n    Be brief\n  user:\n    Hi\n"),
    "tool call": (
        {"messages": [{"role": "assistant", "content": [
            {"type": "tool_use", "name": "f", "input": {"a": 1}}]}]},
        '  assistant:\n    {"a": 1}\n',
    ),
    "embedding": ({"input": ["one"], "model": "m"}, "  body:\n"),
    "a list": ([1, 2], "  body:\n    [1, 2]\n"),
}  # fmt: skip


@pytest.mark.parametrize(("request_body", "text"), REQUESTS.values(), ids=REQUESTS)
def test_requests_of_each_api_read_as_a_conversation(
    written: Written, request_body: Any, text: str
) -> None:
    written.exchange([], JSON, body=json.dumps(request_body).encode())
    assert text in shown(written.lines())


def test_a_whole_response_and_an_error_are_shown(written: Written) -> None:
    written.exchange([b'{"choices": [{"message": {"content": "Hello"}}]}'], JSON)
    written.exchange([b'{"error": {"message": "No such model"}}'], JSON, request_id="req-2")
    written.exchange([], EVENTS, request_id="req-3", error="client left")
    text = shown(written.lines())
    assert "    Hello\n" in text
    assert "    No such model\n" in text
    assert "broken off: client left\n" in text


def test_it_fits_80_columns_and_keeps_paragraphs(written: Written) -> None:
    content = "word " * 60 + "\n\n" + "x" * 300
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    written.exchange([b"y" * 500], {}, body=body.encode())
    text = shown(written.lines())
    assert max(map(len, text.splitlines())) <= 80
    assert "\n\n    xxx" in text


def test_colour_only_when_asked_and_no_escapes_from_what_was_captured(written: Written) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "\x1b[2Jx\r\u2028"}]})
    written.exchange([], JSON, body=body.encode())
    lines = written.lines()
    assert "\x1b" not in shown(lines)
    assert r"\x1b[2Jx\r\u2028" in shown(lines)
    assert "\x1b[1m" in shown(lines, color=True)
    assert "\x1b[2J" not in shown(lines, color=True)


def test_a_terminal_without_the_characters_still_shows_the_rest(written: Written) -> None:
    written.exchange(STREAMS["openai chat"], EVENTS)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    show(written.lines(), out, color=False)
    assert b"Hello w?rld" in raw.getvalue()


def test_interleaved_unfinished_and_damaged_events_are_sorted_out(written: Written) -> None:
    written.exchange(STREAMS["openai chat"], EVENTS, request_id="req-1")
    written.exchange(STREAMS["anthropic"], EVENTS, request_id="req-2")
    lines = written.lines()
    half = len(lines) // 2
    mixed = [line for pair in zip(lines[:half], lines[half:], strict=False) for line in pair]
    text = shown(["{broken\n", "[1]\n", *mixed, '{"direction":'])
    assert text.count("Hello wörld") == 2
    unfinished = shown(lines[:2])
    assert "no response" in unfinished


def test_missing_events_are_told() -> None:
    event = {"direction": "stream_end", "request_id": None, "metadata": {"dropped_events": 7}}
    assert "7 events are missing" in shown([json.dumps(event)])


def test_following_survives_rotation_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    lines = follow(str(path))
    first: list[str] = []
    reader = threading.Thread(target=lambda: first.append(next(lines)))
    reader.start()
    path.write_bytes("one é".encode()[:-1])
    with path.open("ab") as file:
        file.write("é".encode()[1:] + b"\ntwo\n")
    reader.join(30)
    assert first == ["one é\n"]
    assert next(lines) == "two\n"
    with path.open("ab") as file:
        file.write(b"three\n")
        os.replace(path, tmp_path / "capture.jsonl.1")
        path.write_bytes(b"four\n")
    assert [next(lines), next(lines)] == ["three\n", "four\n"]


def test_the_har_has_what_developer_tools_need(written: Written) -> None:
    written.exchange(STREAMS["openai chat"], EVENTS)
    written.exchange([b'{"id": 1}'], JSON, request_id="req-2")
    document = json.loads(json.dumps(har(written.lines())))
    log = document["log"]
    assert log["version"] == "1.2"
    assert set(log["creator"]) >= {"name", "version"}
    stream, whole = log["entries"]
    for entry in (stream, whole):
        assert {"startedDateTime", "time", "request", "response", "cache", "timings"} <= set(entry)
        assert datetime.fromisoformat(entry["startedDateTime"]).tzinfo is not None
        parts = [entry["timings"][name] for name in ("send", "wait", "receive")]
        assert min(parts) >= 0
        assert entry["time"] == pytest.approx(sum(parts))
        request, response = entry["request"], entry["response"]
        assert {
            "method", "url", "httpVersion", "cookies", "headers", "queryString", "headersSize",
            "bodySize",
        } <= set(request)  # fmt: skip
        assert {
            "status", "statusText", "httpVersion", "cookies", "headers", "content",
            "redirectURL", "headersSize", "bodySize",
        } <= set(response)  # fmt: skip
        assert request["url"] == "https://api.test/v1/chat?a=1&b="
        assert request["queryString"] == [
            {"name": "a", "value": "1"}, {"name": "b", "value": ""},
        ]  # fmt: skip
        assert json.loads(request["postData"]["text"]) == json.loads(CHAT)
        assert (response["status"], response["statusText"]) == (200, "OK")
    assert stream["response"]["content"]["mimeType"] == "text/event-stream"
    assert stream["response"]["content"]["text"].encode() == b"".join(STREAMS["openai chat"])
    assert json.loads(whole["response"]["content"]["text"]) == {"id": 1}


def test_a_reader_of_hars_finds_everything(written: Written, tmp_path: Path) -> None:
    written.exchange(STREAMS["openai chat"], EVENTS)
    written.exchange([b'{"id": 1}'], JSON, request_id="req-2")
    (page,) = HarParser(json.loads(json.dumps(har(written.lines())))).pages
    stream, whole = page.entries
    assert (stream.request.method, stream.request.url, stream.status) == (
        "POST", "https://api.test/v1/chat?a=1&b=", 200,
    )  # fmt: skip
    assert stream.request.mimeType == JSON["Content-Type"]
    assert stream.response.mimeType == EVENTS["Content-Type"]
    assert stream.time >= 0
    assert stream.startTime <= whole.startTime
    assert json.loads(whole.response.text) == {"id": 1}


def test_the_echo_backend_has_a_url_in_a_har_too() -> None:
    event = {
        "direction": "outbound_request",
        "destination": "echo",
        "metadata": {"method": "POST", "url": "echo:///v1/chat?a=1"},
    }
    lines = [json.dumps({"request_id": "r", **event, **more}) for more in (
        {"direction": "inbound_request", "metadata": {"url": "/v1/chat?a=1"}}, {},
    )]  # fmt: skip
    (entry,) = har(lines)["log"]["entries"]
    assert entry["request"]["url"] == "http://echo/v1/chat?a=1"


def test_a_har_of_requests_that_got_no_answer_is_still_valid(written: Written) -> None:
    exchange = written.capture.exchange(request_id="r", client="c", backend="b", key_name=None)
    exchange.inbound_request("GET", "/v1/models", {}, None)
    exchange.finished("upstream unreachable")
    (entry,) = har(written.lines())["log"]["entries"]
    assert entry["response"]["status"] == 0
    assert entry["response"]["_error"] == "upstream unreachable"
    assert entry["request"]["url"] == "http://llmauth/v1/models"
    assert "postData" not in entry["request"]
    assert har([]) == {
        "log": {
            "version": "1.2",
            "creator": {"name": "llmauth", "version": "1"},
            "pages": [],
            "entries": [],
        }
    }
