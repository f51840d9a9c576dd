"""The wire capture: what it holds, and that it holds no secret.

The writer runs in this process here; test_process.py is about the one that it has.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import BODY, EVENTS, JSON

from llmauth.capture import payloads as capture_payloads
from llmauth.capture import rendering as capture_rendering
from llmauth.capture.pipe import packed, unpacked
from llmauth.capture.recorder import Event, Exchange
from llmauth.capture.writer import CaptureWriter

SECRET = 'Zk3vQ9Yw7Tt5Rq"é/'
NAMES = [
    "timestamp_iso", "timestamp_unix", "direction", "source", "destination", "request_id",
    "backend", "model", "key_name", "content_type", "content_length", "payload", "metadata",
]  # fmt: skip
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX modes and devices")


class Recording:
    """A writer of this process, and what it wrote."""

    def __init__(self, path: Path, *secrets: str, **options: int) -> None:
        self.path = path
        self.failures = 0
        options = {"max_bytes": 10**9, "max_files": 3, **options}
        self.writer = CaptureWriter(str(path), report=self._report, **options)
        self.writer.learn(secrets or (SECRET,), ())
        self._numbers = itertools.count()

    def _report(self, *, failures: int = 0, **said: Any) -> bool:
        self.failures += failures
        return False

    def _put(self, event: Event, **_: bool) -> bool:
        self.writer.write([unpacked(packed(event))])
        return True

    def exchange(self, **names: Any) -> Exchange:
        ids = {"request_id": "r1", "backend": "openai", "key_name": "alice", **names}
        return Exchange(self._put, next(self._numbers), (ids.pop("client", "127.0.0.1"), ids, ()))

    def events(self) -> list[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8")
        assert SECRET not in text
        assert json.dumps(SECRET)[1:-1] not in text
        return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(tmp_path / "capture.jsonl")
    yield recording
    recording.writer.end()


def test_an_exchange_is_four_events_with_the_names_of_the_interactive_proxy(
    recording: Recording,
) -> None:
    exchange = recording.exchange()
    exchange.inbound_request("POST", "/v1/chat/completions", JSON, BODY)
    exchange.outbound_request("POST", "https://api/v1/chat/completions", JSON, BODY)
    exchange.inbound_response(200, [("Content-Type", "application/json"), ("X", "1"), ("x", "2")])
    exchange.stream_chunk(b'{"id"')
    exchange.stream_chunk(b": 1}")
    exchange.finished()
    exchange.finished()
    events = recording.events()
    assert [event["direction"] for event in events] == [
        "inbound_request", "outbound_request", "inbound_response", "outbound_response",
    ]  # fmt: skip
    assert all(list(event) == NAMES for event in events)
    first, second, third, fourth = events
    assert (first["source"], first["destination"]) == ("127.0.0.1", "llmauth")
    assert (second["source"], second["destination"]) == ("llmauth", "openai")
    assert (third["source"], third["destination"]) == ("openai", "llmauth")
    assert (fourth["source"], fourth["destination"]) == ("llmauth", "127.0.0.1")
    assert {event["model"] for event in events} == {"gpt-4o"}
    assert {event["key_name"] for event in events} == {"alice"}
    assert first["payload"] == json.loads(BODY)
    assert first["content_length"] == len(BODY)
    assert first["metadata"]["method"] == "POST"
    assert third["payload"] == fourth["payload"] == {"id": 1}
    assert third["metadata"] == {
        "status": 200,
        "headers": {"content-type": "application/json", "x": "1, 2"},
    }
    times = [event["timestamp_unix"] for event in events]
    assert times == sorted(times)
    assert first["timestamp_iso"].endswith("+00:00")


def test_a_stream_is_written_chunk_by_chunk_when_it_has_ended(recording: Recording) -> None:
    exchange = recording.exchange()
    exchange.inbound_request("POST", "/v1/chat/completions", JSON, BODY)
    exchange.inbound_response(200, EVENTS)
    exchange.stream_chunk(b"data: one\n\n")
    exchange.stream_chunk(b"data: two\n\n")
    exchange.finished()
    events = recording.events()[1:]
    assert [event["direction"] for event in events] == [
        "stream_start", "stream_chunk", "stream_chunk", "stream_end",
    ]  # fmt: skip
    assert all(list(event) == NAMES for event in events)
    assert [event["payload"] for event in events] == [
        None, "data: one\n\n", "data: two\n\n", None,
    ]  # fmt: skip
    assert events[0]["metadata"]["status"] == 200
    assert events[3]["metadata"] == {"status": 200, "chunks": 2}
    assert events[3]["content_length"] == 22


@pytest.mark.parametrize(
    ("target", "body", "model"),
    [
        ("/v1/messages", b'{"model": "claude-x"}', "claude-x"),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", b"{}", "gemini-2.5-pro"),
        ("/v1/models", None, None),
        ("/v1/x", b"[1]", None),
        ("/v1/x", b'{"model": 5}', None),
    ],
    ids=["body", "gemini path", "none", "list", "not a name"],
)
def test_the_model_is_found(
    recording: Recording, target: str, body: bytes | None, model: str | None
) -> None:
    recording.exchange().inbound_request("POST", target, JSON, body)
    assert recording.events()[0]["model"] == model


PLACES: dict[str, Callable[[Exchange], None]] = {
    "header": lambda e: e.inbound_request("GET", "/", {"X-Api-Key": "unknown"}, None),
    "other header": lambda e: e.inbound_request("GET", "/", {"X-Other": f"<{SECRET}>"}, None),
    "url": lambda e: e.outbound_request("GET", f"https://u:{SECRET}@api/?key=unknown", {}, None),
    "json": lambda e: e.inbound_request("POST", "/", JSON, json.dumps({"a": [SECRET]}).encode()),
    "json key": lambda e: e.inbound_request("POST", "/", JSON, json.dumps({SECRET: 1}).encode()),
    "text": lambda e: e.inbound_request("POST", "/", {}, f"a {SECRET} b".encode()),
    "model": lambda e: e.inbound_request("POST", "/", {}, json.dumps({"model": SECRET}).encode()),
    "error": lambda e: e.finished(f"could not reach {SECRET}"),
    "content type": lambda e: e.inbound_request("POST", "/", {"Content-Type": SECRET}, b"x"),
    "gzip": lambda e: e.inbound_request(
        "POST", "/", {"Content-Encoding": "gzip"}, gzip.compress(SECRET.encode())
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_no_secret_is_written_wherever_it_came(
    recording: Recording, place: Callable[[Exchange], None]
) -> None:
    place(recording.exchange(key_name=SECRET, client=SECRET, backend=SECRET, request_id=SECRET))
    (event,) = recording.events()
    assert "unknown" not in json.dumps(event)
    assert event["request_id"] == "****"


@given(cuts=st.lists(st.integers(0, 120), max_size=12), coding=st.sampled_from(["", "gzip"]))
@settings(max_examples=40, deadline=None)
def test_a_secret_cut_by_chunks_is_masked(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], coding: str
) -> None:
    recording = Recording(tmp_path_factory.mktemp("cut") / "capture.jsonl")
    unknown = f"sk-proj-{'a1B2' * 8}"
    text = f"data: {SECRET}\n\ndata: {unknown}\n\ndata: {json.dumps(SECRET)}\n\n".encode()
    data = gzip.compress(text) if coding else text
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS | {"Content-Encoding": coding})
    edges = [0, *sorted(cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        exchange.stream_chunk(data[start:end])
    exchange.finished()
    payloads = [event["payload"] or "" for event in recording.events()]
    assert "".join(payloads) == 'data: ****\n\ndata: sk-proj-****\n\ndata: "****"\n\n'


@pytest.mark.parametrize("secret", ["n123456", "u00e9abc", "12345678", "payload", "direction"])
def test_masking_never_breaks_the_json(tmp_path: Path, secret: str) -> None:
    recording = Recording(tmp_path / "capture.jsonl", secret)
    exchange = recording.exchange(request_id="r", client="c", backend="b", key_name=None)
    body = json.dumps({"a": "\n123456 é\x00abc \\u00e9abc", "n": 12345678, secret: secret})
    exchange.inbound_request("POST", "/", JSON, body.encode())
    (event,) = recording.events()
    assert list(event) == NAMES
    assert secret not in json.dumps(event["payload"], ensure_ascii=False).replace("\\n123456", "")


def brotli(data: bytes) -> bytes:
    return bytes(pytest.importorskip("brotli").compress(data))


def zstd(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression.zstd import compress

        return compress(data)
    return bytes(pytest.importorskip("zstandard").compress(data))


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
    "two": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "identity": ("identity", bytes),
}


@pytest.mark.parametrize(("coding", "compress"), CODINGS.values(), ids=CODINGS)
def test_compressed_bodies_are_decoded(
    recording: Recording, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(b'{"hello": "world"}')
    exchange = recording.exchange()
    exchange.inbound_response(200, JSON | {"Content-Encoding": coding})
    for start in range(0, len(data), 5):
        exchange.stream_chunk(data[start : start + 5])
    exchange.finished()
    for event in recording.events():
        assert event["payload"] == {"hello": "world"}
        assert event["content_length"] == len(data)


@pytest.mark.parametrize(("coding", "compress"), CODINGS.values(), ids=CODINGS)
def test_a_decompression_bomb_is_cut(
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
    coding: str,
    compress: Callable[[bytes], bytes],
) -> None:
    """At eight megabytes, and, for all codings but one, where the bound has been set to one."""
    size = 8 * 1024**2
    if coding != "gzip":
        size = 1024**2
        monkeypatch.setattr(capture_rendering, "LIMIT", size)
    headers = {"Content-Encoding": coding}
    recording.exchange().inbound_request("POST", "/", headers, compress(b" " * (2 * size)))
    (event,) = recording.events()
    assert len(event["payload"]) == size
    assert f"cut after {size} bytes" in event["metadata"]["note"]


def test_bodies_that_wait_for_their_end_take_so_much_memory_together_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_payloads, "HELD", 1000)
    recording = Recording(tmp_path / "capture.jsonl")
    first, second, third = (recording.exchange(request_id=name) for name in "abc")
    for exchange in (first, second):
        exchange.inbound_response(200, {"Content-Type": "text/plain"})
        exchange.stream_chunk(b"0" * 300)
        exchange.stream_chunk(b"0" * 300)
        exchange.stream_chunk(b"0" * 10)
    first.finished()
    second.finished()
    third.inbound_response(200, {"Content-Type": "text/plain"})
    third.stream_chunk(b"0" * 1000)
    third.finished()
    events = {event["request_id"]: event for event in recording.events()}
    lengths = {name: len(event["payload"]) for name, event in events.items()}
    assert lengths == {"a": 610, "b": 390, "c": 1000}
    assert events["b"]["content_length"] == 610
    assert events["b"]["metadata"]["note"] == "cut after 390 bytes: too many at a time"


def test_a_stream_that_finds_no_memory_is_cut_as_a_body_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_payloads, "HELD", 1000)
    recording = Recording(tmp_path / "capture.jsonl")
    body, stream = recording.exchange(), recording.exchange(request_id="s")
    body.inbound_response(200, {"Content-Type": "text/plain"})
    body.stream_chunk(b"x" * 400)
    stream.inbound_response(200, EVENTS)
    for _ in range(20):
        stream.stream_chunk(b"x" * 100)
    stream.finished()
    again = recording.exchange(request_id="again")
    again.inbound_response(200, EVENTS)
    again.stream_chunk(b"x" * 300)
    again.finished()
    events = recording.events()
    assert sum(len(e["payload"] or "") for e in events if e["request_id"] == "s") < 400
    first, second = (event for event in events if event["direction"] == "stream_end")
    assert first["content_length"] == 2000
    assert "too many at a time" in first["metadata"]["note"]
    assert "note" not in second["metadata"]


def test_a_stream_of_tiny_chunks_takes_no_more_memory_than_one_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_payloads, "HELD", 100_000)
    recording = Recording(tmp_path / "capture.jsonl")
    stream = recording.exchange()
    stream.inbound_response(200, EVENTS)
    for _ in range(2000):
        stream.stream_chunk(b"x")
    stream.finished()
    chunks = [event for event in recording.events() if event["direction"] == "stream_chunk"]
    assert len(chunks) < 1000


def test_the_chunks_of_a_stream_have_their_own_times_and_texts_around_a_secret(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count(1_700_000_000)
    monkeypatch.setattr("llmauth.capture.recorder.time.time", lambda: float(next(times)))
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS)
    for piece in ("data: one ", SECRET[:4], SECRET[4:9], SECRET[9:] + " two\n\n", "data: é\n\n"):
        exchange.stream_chunk(piece.encode())
    exchange.finished()
    chunks = [event for event in recording.events() if event["direction"] == "stream_chunk"]
    assert [(event["timestamp_unix"] - 1_700_000_000, event["payload"]) for event in chunks] == [
        (1, "data: one "), (2, "****"), (4, " two\n\n"), (5, "data: é\n\n"),
    ]  # fmt: skip
    assert [event["metadata"]["chunk"] for event in chunks] == [1, 2, 4, 5]
    assert [event["content_length"] for event in chunks] == [10, 4, 15, 10]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b"])
def test_what_python_takes_for_a_line_break_and_json_for_text_ends_no_event(
    recording: Recording, separator: str
) -> None:
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS)
    for token in (separator, SECRET[:6], SECRET[6:]):
        event = json.dumps({"delta": {"text": token}}, ensure_ascii=False)
        event = event.replace("\\u000b", separator)
        exchange.stream_chunk(f"data: {event}\n\n".encode())
    exchange.finished()
    heard = "".join(event["payload"] or "" for event in recording.events())
    assert SECRET[:6] not in heard
    assert json.dumps(SECRET, ensure_ascii=False)[7:-1] not in heard


@pytest.mark.parametrize("count", [5, 3000])
def test_only_so_many_content_codings_are_undone(recording: Recording, count: int) -> None:
    headers = {"Content-Encoding": ", ".join(["gzip"] * count)}
    recording.exchange().inbound_request("POST", "/", headers, b"abc")
    (event,) = recording.events()
    assert event["payload"] is None
    assert event["metadata"]["note"] == "withheld: its content-encoding cannot be decoded here"


def test_a_stream_nested_too_deeply_is_still_written(recording: Recording) -> None:
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS)
    deep = f'data: {{"a": {"[" * 960}{"]" * 960}, "b": "{SECRET}"}}\n\n'
    exchange.stream_chunk(deep.encode())
    exchange.stream_chunk(b"data: next\n\n")
    exchange.finished()
    assert recording.failures == 0
    assert recording.events()[-2]["payload"] == "data: next\n\n"


@pytest.mark.parametrize(
    ("headers", "body", "note"),
    [
        ({"Content-Encoding": "compress"}, b"abc", "its content-encoding cannot be decoded"),
        ({"Content-Encoding": "gzip"}, b"not gzip", "cannot be decoded"),
        ({"Content-Type": "image/png"}, b"\x89PNG\xff\xfe" * 10, "not text: 60 bytes image/png"),
        ({}, b"\xff", "not text: 1 bytes of no stated type"),
        ({}, "UTF-16".encode("utf-16-le"), "not text: 12 bytes of no stated type"),
    ],
    ids=["unknown coding", "broken", "image", "binary", "utf-16"],
)
def test_a_body_that_cannot_be_shown_is_withheld_with_a_note(
    recording: Recording, headers: dict[str, str], body: bytes, note: str
) -> None:
    recording.exchange().inbound_request("POST", "/", headers, body)
    (event,) = recording.events()
    assert event["payload"] is None
    assert note in event["metadata"]["note"]
    assert event["content_length"] == len(body)


@pytest.mark.parametrize(
    "body",
    [b"{not json", b"[" * 100_000, b'{"a": NaN}', b'{"n": ' + b"1" * 5000 + b"}", b"\xc3\xa9"],
    ids=["broken", "deep", "NaN", "huge number", "text"],
)
def test_odd_json_is_still_one_valid_line(recording: Recording, body: bytes) -> None:
    recording.exchange().inbound_request("POST", "/", JSON, body)
    (event,) = recording.events()
    assert event["payload"]


def test_an_exchange_that_broke_off_says_so(recording: Recording) -> None:
    early, late = recording.exchange(), recording.exchange(request_id="r2")
    early.inbound_request("GET", "/", {}, None)
    early.finished("upstream unreachable")
    late.inbound_response(200, EVENTS)
    late.finished("client left")
    events = {(e["request_id"], e["direction"]): e["metadata"] for e in recording.events()}
    assert events["r1", "outbound_response"] == {"error": "upstream unreachable"}
    assert events["r2", "stream_end"] == {"error": "client left", "status": 200, "chunks": 0}


@posix
@pytest.mark.parametrize("existing", [False, True])
def test_only_the_owner_may_read_it(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "capture.jsonl"
    if existing:
        path.write_text("")
        path.chmod(0o644)
    recording = Recording(path, max_bytes=600)
    for _ in range(5):
        recording.exchange().inbound_request("POST", "/", JSON, BODY)
    recording.writer.end()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "capture.jsonl", "capture.jsonl.1", "capture.jsonl.2",
    ]  # fmt: skip
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_rotation_keeps_the_newest_files_and_whole_lines(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "capture.jsonl", max_bytes=2000, max_files=4)
    for number in range(60):
        recording.exchange(request_id=f"{number}").inbound_request("GET", "/", {}, None)
    recording.writer.end()
    names = [f"capture.jsonl.{n}" for n in (3, 2, 1)] + ["capture.jsonl"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    lines = [line for name in names for line in (tmp_path / name).read_text().splitlines()]
    ids = [int(json.loads(line)["request_id"]) for line in lines]
    assert ids == list(range(60))[-len(ids) :]
    assert all((tmp_path / name).stat().st_size <= 2000 for name in names)


STREAMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "openai": ("text/event-stream", lambda t: {"choices": [{"index": 0, "delta": {"content": t}}]}),
    "anthropic": ("text/event-stream", lambda t: {"type": "x", "delta": {"text": t}}),
    "responses": ("text/event-stream", lambda t: {"type": "output_text.delta", "delta": t}),
    "gemini": ("text/event-stream", lambda t: {"candidates": [{"parts": [{"text": t}]}]}),
    "ollama": ("application/x-ndjson", lambda t: {"message": {"content": t}}),
    "gemini, an array": ("application/json", lambda t: {"candidates": [{"parts": [{"text": t}]}]}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "event"), STREAMS.values(), ids=STREAMS)
@given(before=st.text(max_size=12), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9))
@settings(max_examples=25, deadline=None)
def test_a_secret_that_a_model_says_token_by_token_is_masked(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    event: Callable[[str], Any],
    before: str,
    sizes: list[int],
) -> None:
    text, tokens = f"{before.encode(errors='ignore').decode()}: {SECRET}, good?", []
    while text:
        size = sizes[len(tokens) % len(sizes)]
        tokens.append(text[:size])
        text = text[size:]
    said = [event(token) for token in tokens]
    recording = Recording(tmp_path_factory.mktemp("tokens") / "capture.jsonl")
    exchange = recording.exchange()
    exchange.inbound_response(200, {"Content-Type": kind})
    if kind == "application/json":
        exchange.stream_chunk(json.dumps(said).encode())
    for one in said if kind != "application/json" else []:
        lead, end = (b"data: ", b"\n\n") if "event" in kind else (b"", b"\n")
        exchange.stream_chunk(lead + json.dumps(one).encode() + end)
    exchange.finished()
    payloads = [e["payload"] for e in recording.events() if e["direction"] != "outbound_response"]
    whole = json.dumps(payloads[0]) if kind == "application/json" else None
    written = whole or "".join(filter(None, payloads))
    heard = "".join(re.findall(r'"(?:content|text|delta)": ?"((?:[^"\\]|\\.)*)"', written))
    assert SECRET not in json.loads(f'"{heard}"')
    assert json.loads(f'"{heard}"').endswith(": ****, good?")


def test_what_is_said_without_a_secret_is_written_as_it_came(recording: Recording) -> None:
    events = [{"choices": [{"delta": {"content": letter}}]} for letter in "sk-ok key=!"]
    said = [f"data: {json.dumps(event)}\r\n\r\n" for event in events]
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS)
    for one in said:
        exchange.stream_chunk(one.encode())
    exchange.finished()
    assert "".join(e["payload"] or "" for e in recording.events()) == "".join(said)


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (SECRET[:-2], "****"),
        (SECRET[:7], "****"),
        (json.dumps(SECRET)[1:-2], "****"),
        (SECRET[:4], SECRET[:4]),
        ("sk-proj-a1B", "****"),
        ("Bearer abcdefgh", "Bearer ****"),
        ("a bearer", "a bearer"),
        ("Hello, wor", "Hello, wor"),
    ],
    ids=["most of it", "some", "json", "too little to tell", "prefix", "scheme", "word", "text"],
)
def test_a_secret_that_is_cut_off_is_masked(
    recording: Recording, kind: str, said: str, shown: str
) -> None:
    exchange = recording.exchange()
    exchange.inbound_response(200, {"Content-Type": kind})
    exchange.stream_chunk(f"data: {said}".encode())
    exchange.finished("upstream_broke")
    text = recording.path.read_text()
    payloads = {event["payload"] for event in map(json.loads, text.splitlines())}
    assert payloads - {None} == {f"data: {shown}"}


def test_a_secret_that_a_model_was_saying_when_the_stream_broke_off_is_masked(
    recording: Recording,
) -> None:
    exchange = recording.exchange()
    exchange.inbound_response(200, EVENTS)
    for token in ("It is ", SECRET[:4], SECRET[4:8]):
        event = json.dumps({"delta": {"text": token}}, separators=(",", ":"))
        exchange.stream_chunk(f"data: {event}\n\n".encode())
    exchange.finished("upstream_broke")
    assert [e["payload"] for e in recording.events() if e["payload"]] == [
        'data: {"delta":{"text":"It is "}}\n\n',
        'data: {"delta":{"text":"****"}}\n\n',
        'data: {"delta":{"text":""}}\n\n',
    ]
