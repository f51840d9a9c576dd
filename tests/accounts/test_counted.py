"""What a real server counts: rows equal what the upstream said, whoever carried the bytes."""

from __future__ import annotations

import gzip
import io
import json
import random
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from answers import (
    ANSWERS,
    CHAT,
    CHAT_CHUNKS,
    CODINGS,
    MESSAGE_START,
    MESSAGES,
    RESPONSE,
    RESPONSES,
    SAID,
    events,
)
from programs import wait_for
from servers import (
    KEY,
    Answer,
    Proxy,
    Received,
    raw,
    read_all,
    request_bytes,
    running_proxy,
    whole,
)
from streams import EVENT, HEAD, Held, chunk, read_until
from werkzeug.test import EnvironBuilder, run_wsgi_app

from llmauth import create_app
from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database, RequestRow
from llmauth.accounts.usage import NOTHING, Usage
from llmauth.config.loading import Given, load

EVENT_STREAM = "Content-Type: text/event-stream"
STREAM_HEAD = f"HTTP/1.1 200 OK\r\n{EVENT_STREAM}\r\nConnection: close\r\n\r\n".encode()


def rows(path: Path) -> list[RequestRow]:
    """Return what is in the file, the oldest first."""
    with closing(sqlite3.connect(path)) as connection:
        return [RequestRow(*one) for one in connection.execute("SELECT * FROM requests")]


def the_row(path: Path) -> RequestRow:
    (row,) = rows(path)
    return row


def figures(row: RequestRow) -> tuple[int | None, ...]:
    return row.input, row.cached, row.written, row.output, row.reasoning


def pieces(body: bytes, framing: str, luck: random.Random) -> list[bytes]:
    """Return a body as it is sent: whole, or in chunks that are cut anywhere."""
    if framing == "length":
        return [f"Content-Length: {len(body)}\r\n\r\n".encode() + body]
    framed, at = [b"Transfer-Encoding: chunked\r\n\r\n"], 0
    while at < len(body):
        size = 1 if framing == "bytes" and len(body) < 2000 else luck.randint(1, 300)
        framed.append(chunk(body[at : at + size]))
        at += size
    data = b"".join(framed) + b"0\r\n\r\n"
    cut = luck.randrange(len(data))
    return [data[:cut], data[cut:]]


def in_pieces(sent: list[bytes]) -> Answer:
    def answer(request: Received) -> None:
        request.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in sent:
            request.sock.sendall(piece)

    return answer


FRAMINGS = ("length", "chunks", "bytes")


@pytest.mark.parametrize("coding", ["", *CODINGS])
def test_of_every_api_the_row_says_what_the_upstream_said(upstream, path, coding):
    luck = random.Random(coding)
    told: dict[str, Usage] = {}
    with running_proxy(upstream, database=str(path)) as proxy:
        for framing in FRAMINGS if not coding else FRAMINGS[1:2]:
            for name, answer in ANSWERS.items():
                model = f"{name}-{framing}"
                body = CODINGS[coding](answer.body) if coding else answer.body
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {answer.content_type}\r\n"
                head += f"Content-Encoding: {coding}\r\n" if coding else ""
                sent = [head.encode(), *pieces(body, framing, luck)]
                upstream.answer = in_pieces(sent)
                target = f"{answer.path}?model={model}".replace("gemini-2.5-flash", model)
                reply = proxy.request("POST", target, {}, b"{}")
                assert (reply.status, reply.body) == (200, body), name
                told[model] = answer.usage
                if answer.path.endswith("count_tokens"):
                    told[model] = NOTHING
    found = {row.model: row for row in rows(path)}
    assert found.keys() == told.keys()
    for model, usage in told.items():
        assert figures(found[model]) == usage[:5], model
        if usage.cost_usd is not None:  # the provider's own word
            assert found[model].cost == round(usage.cost_usd * 1e9)
        assert found[model].ended == "complete"
        assert not found[model].estimated


PLAIN_CHUNKS = [CHAT_CHUNKS[1] | {"usage": None}, CHAT_CHUNKS[-1]]
"""What a stream is that nobody asks for its usage."""


def answers_both_ways(request: Received) -> None:
    """Stream with the usage when it is asked for, and without when it is not."""
    body = request.body
    if (request.header("Content-Encoding") or "") == "gzip":
        body = gzip.decompress(body)
    asked = json.loads(body)
    if not asked.get("stream"):
        whole(ANSWERS["chat"].body, headers=("Content-Type: application/json",))(request)
        return
    is_asked = (asked.get("stream_options") or {}).get("include_usage")
    said = [*PLAIN_CHUNKS[:-1], CHAT_CHUNKS[2], PLAIN_CHUNKS[-1]] if is_asked else PLAIN_CHUNKS
    stream = events(*said)
    how = request.header("X-How")
    head = f"HTTP/1.1 200 OK\r\n{EVENT_STREAM}\r\n"
    if how == "length":
        request.sock.sendall(f"{head}Content-Length: {len(stream)}\r\n\r\n".encode() + stream)
        return
    if how == "closed":
        request.sock.sendall(f"{head}Connection: close\r\n\r\n".encode() + stream)
        raise OSError  # the end
    sent = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    if how == "at once":
        request.sock.sendall(sent + chunk(stream) + b"0\r\n\r\n")
        return
    request.sock.sendall(sent)
    for at in range(0, len(stream), 41):
        request.sock.sendall(chunk(stream[at : at + 41]))
    request.sock.sendall(b"0\r\n\r\n")


LONG = "x" * 200_000
BODIES: dict[str, tuple[Any, str]] = {
    "open": ({"stream": True}, "exact"),
    "null": ({"stream": True, "stream_options": None}, "exact"),
    "other options": ({"stream": True, "stream_options": {"a": 1}}, "exact"),
    "true": ({"stream": True, "stream_options": {"include_usage": True}}, "exact"),
    "false": ({"stream": True, "stream_options": {"include_usage": False}}, "unknown"),
    "no stream": ({"stream": False}, "exact"),
    "large": ({"stream": True, "messages": [{"content": LONG}]}, "exact"),
    "packed": ({"stream": True, "messages": []}, "unknown"),
}


@pytest.mark.parametrize("how", ["pieces", "at once", "length", "closed"])
def test_the_client_sees_what_it_would_have_seen_without_being_asked_for(upstream, path, how):
    """Carried by the pump (pieces, closed) or by a thread (at once, length); HTTP/1.0 and 1.1."""
    upstream.answer = answers_both_ways
    with running_proxy(upstream, database=str(path)) as proxy, running_proxy(upstream) as without:
        for name, (value, _) in BODIES.items():
            body = json.dumps(value | {"model": name}).encode()
            headers = ["X-How: " + how, "Connection: close"]
            if name == "packed":
                body = gzip.compress(body)
                headers.append("Content-Encoding: gzip")
            for version in (b"HTTP/1.1", b"HTTP/1.0"):
                data = request_bytes(f"{CHAT}?model={name.replace(' ', '%20')}", *headers,
                                     body=body).replace(b"HTTP/1.1", version, 1)  # fmt: skip
                assert _content(proxy, data) == _content(without, data), (name, version)
    counted = {(row.model, row.input) for row in rows(path)}
    assert counted == {
        (name, 1117 if usage == "exact" else None) for name, (_, usage) in BODIES.items()
    }
    assert len(rows(path)) == 2 * len(BODIES)


def _content(proxy: Proxy, data: bytes) -> tuple[bytes, bytes]:
    """Return an answer's status line and its content, without the framing."""
    head, _, body = proxy.exchange(data).partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        content, rest = b"", body
        while not rest.startswith(b"0\r\n\r\n"):
            size, _, rest = rest.partition(b"\r\n")
            content, rest = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        body = content
    return head.partition(b"\r\n")[0], body


def test_where_it_is_to_be_left_nothing_is_added(upstream, path, tmp_path):
    upstream.answer = answers_both_ways
    config = tmp_path / "llmauth.yaml"
    config.write_text("backends:\n  openai:\n    stream_usage: leave\n")
    environ = {"LLMAUTH_CONFIG": str(config)}
    body = b'{"model": "gpt", "stream": true}'
    with running_proxy(upstream, environ, database=str(path)) as proxy:
        proxy.request("POST", CHAT, {}, body)
    assert upstream.requests[0].body == body
    assert the_row(path).is_unknown


def test_the_capture_shows_what_came_and_what_was_sent(upstream, path, tmp_path):
    upstream.answer = answers_both_ways
    capture = tmp_path / "capture.jsonl"
    came = b'{"model": "gpt", "stream": true}'
    settings = {"database": str(path), "capture_file": str(capture)}
    with running_proxy(upstream, **settings) as proxy:
        proxy.request("POST", CHAT, {}, came)
    records = [json.loads(line) for line in capture.read_text().splitlines()]
    by_direction = {one["direction"]: one for one in records}
    assert by_direction["inbound_request"]["payload"] == json.loads(came)
    assert by_direction["outbound_request"]["payload"] == json.loads(upstream.requests[0].body)
    assert "include_usage" in str(by_direction["outbound_request"]["payload"])
    assert "include_usage" not in str(by_direction["inbound_request"]["payload"])


OFFERED = {
    "what can be": ("gzip, deflate, br;q=0.5, zstd", "gzip, deflate, br;q=0.5, zstd"),
    "none": (None, "identity"),
    "dictionaries": ("gzip, dcb, dcz, br", "gzip, br"),
    "anything": ("gzip;q=1.0, *;q=0.5", "gzip;q=1.0"),
    "only what cannot be": ("compress, *", "identity"),
    "exclusions": ("compress;q=0, *;q=0.000, identity", "compress;q=0, *;q=0.000, identity"),
    "capitals": ("GZip, COMPRESS", "GZip"),
}


@pytest.mark.parametrize(("offered", "sent"), OFFERED.values(), ids=OFFERED)
def test_no_encoding_is_offered_that_cannot_be_read_here(upstream, path, offered, sent):
    headers = {"Accept-Encoding": offered} if offered else {}
    with running_proxy(upstream, database=str(path)) as proxy:
        with proxy.open(
            request_bytes("/v1/embeddings", "Connection: close",
                          *(f"{name}: {value}" for name, value in headers.items()))
        ) as sock:  # fmt: skip
            read_all(sock)
        assert upstream.requests[-1].header("Accept-Encoding") == sent
        if offered:
            proxy.request("GET", "/v1/models", headers)
            assert upstream.requests[-1].header("Accept-Encoding") == offered
    with running_proxy(upstream) as proxy:
        proxy.request("POST", "/v1/embeddings", {"Accept-Encoding": offered or "identity"}, b"{}")
    assert upstream.requests[-1].header("Accept-Encoding") == (offered or "identity")


VERTEX = "projects/p-1/locations/europe-west4/publishers/google/models"

FREE = {
    "models": ("GET", "/v1/models"),
    "a record": ("DELETE", "/v1/responses/resp_1"),
    "a count": ("POST", "/v1/messages/count_tokens"),
    "Gemini's count": ("POST", "/v1beta/models/gemini-2.5-flash:countTokens"),
    "Vertex's count": ("POST", f"/v1/{VERTEX}/gemini-2.5-flash:countTokens"),
    "OpenAI's count": ("POST", "/v1/responses/input_tokens"),
    "a file": ("POST", "/v1/files"),
    "its own": ("POST", "/tokenize"),
}


@pytest.mark.parametrize(("method", "target"), FREE.values(), ids=FREE)
def test_what_asks_no_model_is_known_to_be_free(upstream, path, method, target):
    with running_proxy(upstream, database=str(path)) as proxy:
        proxy.request(method, target, {}, b"{}" if method == "POST" else None)
    row = the_row(path)
    assert (row.input, row.output, row.cost) == (0, 0, 0)
    assert not row.is_unknown
    assert not row.estimated


@pytest.mark.parametrize(
    "target",
    [
        "/v1/files/../chat/completions", "/v1/files/%2e%2e/chat/completions", "/v1/x",
        "/openai/deployments/files/chat/completions", "/v1/files//../chat/completions",
        f"/v1/{VERTEX}/gemini-2.5-flash:generateContent", "/v1/x/../models/m:countTokens",
    ],
)  # fmt: skip
def test_what_may_ask_one_is_not(upstream, path, target):
    with running_proxy(upstream, database=str(path)) as proxy:
        with proxy.open(request_bytes(target, "Connection: close")) as sock:
            read_all(sock)
    assert the_row(path).is_unknown


@pytest.mark.parametrize("status", ["204 No Content", "303 See Other", "307 Temporary Redirect"])
def test_an_answer_without_content_used_nothing(upstream, path, status):
    upstream.answer = raw(f"HTTP/1.1 {status}\r\nLocation: /v1/x\r\n\r\n".encode())
    with running_proxy(upstream, database=str(path)) as proxy:
        assert proxy.request("POST", CHAT, {}, b"{}").status == int(status[:3])
    assert (the_row(path).input, the_row(path).is_unknown) == (0, False)


def test_a_refused_request_is_a_row_with_its_reason(upstream, path):
    book = KeyBook(Database(path))
    key = book.add("alice", {"requests_per_minute": 1, "backends": ["openai"]})
    with running_proxy(upstream, database=str(path)) as proxy:
        for target in (CHAT, CHAT, "/anthropic/v1/messages"):
            proxy.request("POST", target, {}, b'{"model": "m"}', key=key)
    found = [(row.status, row.ended) for row in rows(path)]
    assert found == [
        (200, "complete"),
        (429, "refused: rate_limit_exceeded"),
        (403, "refused: backend_not_allowed"),
    ]


def test_a_limit_of_the_provider_is_no_refusal_of_ours(upstream, path):
    upstream.answer = whole(b"{}", "429 Too Many Requests")
    with running_proxy(upstream, database=str(path)) as proxy:
        assert proxy.request("POST", CHAT, {}, b"{}").status == 429
    row = the_row(path)
    assert (row.status, row.ended, row.is_unknown) == (429, "complete", False)


@pytest.mark.parametrize(
    ("answer", "status", "ended"),
    [
        (raw(b""), 502, "failed: upstream_unreachable"),
        (lambda request: request.sock.settimeout(5) or request.sock.recv(1), 504,
         "failed: upstream_timeout"),
    ],
    ids=["closed", "silent"],
)  # fmt: skip
def test_an_upstream_that_does_not_answer(upstream, path, answer, status, ended):
    upstream.answer = answer
    environ = {"OPENAI_TIMEOUT": "0.2"}
    with running_proxy(upstream, environ, database=str(path)) as proxy:
        assert proxy.request("POST", CHAT, {}, b"{}").status == status
    row = the_row(path)
    assert (row.status, row.ended, row.is_error) == (status, ended, True)


def test_a_body_that_does_not_come_whole_gives_back_what_was_held(upstream, path):
    """Under other servers a body may break off while it is read to ask for the usage."""
    key = KeyBook(Database(path)).add("alice", {"parallel": 1})
    variables = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "OPENAI_API_BASE_URL": upstream.url}
    app = create_app(load(Given({"database": str(path)}), variables))
    body = EnvironBuilder(method="POST", path=CHAT, headers={"Authorization": f"Bearer {key}"})
    environ = body.get_environ() | {"CONTENT_LENGTH": "100000", "wsgi.input": io.BytesIO(b"{")}
    for _ in range(3):
        assert run_wsgi_app(app, dict(environ))[1].startswith("400 ")
    app.extensions["llmauth"].close()
    assert [row.ended for row in rows(path)] == ["refused: invalid_request"] * 3


def test_a_hundred_clients_that_leave_are_a_hundred_rows(upstream, path):
    """At every moment: before the answer, within its head, within the stream, at its end."""
    luck = random.Random(5)
    stream = events(*CHAT_CHUNKS[:2] * 3)
    upstream.answer = Held(HEAD + chunk(stream), b"")
    with running_proxy(upstream, database=str(path), threads=120) as proxy:
        socks = [
            proxy.open(request_bytes(CHAT, body=b'{"model": "m", "stream": true}'))
            for _ in range(100)
        ]
        wait_for(lambda: len(upstream.requests) == 100, "all are sent")
        for sock in socks:
            if luck.random() < 0.7:
                read_until(sock, b"data:")
            sock.close()
        wait_for(lambda: not proxy.server.state.slots.used, "all have ended")
    found = rows(path)
    assert len(found) == 100
    assert {row.ended for row in found} == {"client_left"}
    assert all(row.estimated for row in found)
    assert {row.input for row in found} == {len(b'{"model": "m", "stream": true}') // 4}
    assert all(row.output is not None for row in found)


def test_a_stream_that_breaks_off_is_estimated_and_marked(upstream, path):
    upstream.answer = raw(HEAD + chunk(events(CHAT_CHUNKS[1])))
    with running_proxy(upstream, database=str(path)) as proxy:
        with proxy.open(request_bytes(CHAT, body=b'{"model": "m", "stream": true}')) as sock:
            read_all(sock)
    row = the_row(path)
    assert (row.ended, row.estimated, row.streamed) == ("broke_off", True, True)
    assert row.output


def test_a_provider_that_gives_up_in_a_stream_and_ends_it_well(upstream, path):
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": SAID}}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    stream = chunk(events(MESSAGE_START, text, error, named=True)) + b"0\r\n\r\n"
    upstream.answer = raw(HEAD + stream)
    with running_proxy(upstream, database=str(path)) as proxy:
        proxy.request("POST", MESSAGES, {}, b'{"model": "claude", "stream": true}')
    row = the_row(path)
    assert (row.ended, row.estimated, row.input) == ("complete", True, 12_314)
    assert row.output == -(-len(SAID.encode()) // 4)


def test_what_asks_no_model_holds_no_tokens(upstream, path):
    """So a key that has used up its tokens may still fetch what it has asked for."""
    database = Database(path)
    key = KeyBook(database).add("alice", {"tokens_per_day": 1})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert proxy.request("GET", f"{RESPONSES}/resp_1", key=key).status == 200
        assert proxy.request("POST", CHAT, {}, b'{"model": "m"}', key=key).status == 429
    database.close()


def test_a_server_that_stops_writes_what_it_cuts(upstream, path):
    held = Held(HEAD + chunk(EVENT), b"")
    upstream.answer = held
    with running_proxy(upstream, database=str(path)) as proxy:
        sock = proxy.open(request_bytes(CHAT, body=b'{"model": "m", "stream": true}'))
        read_until(sock, EVENT)
    with sock:
        assert not read_all(sock).endswith(b"0\r\n\r\n")
    row = the_row(path)
    assert (row.ended, row.estimated) == ("cut: server_stopping", True)


def test_ones_own_provider_key_is_in_the_figures_and_in_no_limit(upstream, path):
    answer = ANSWERS["chat"]
    upstream.answer = whole(answer.body, headers=("Content-Type: application/json",))
    database = Database(path)
    key = KeyBook(database).add("alice", {"tokens_per_day": 10})
    headers = {"X-Proxy-Api-Key": key, "Authorization": "Bearer sk-own-0123456789abcdef"}
    with running_proxy(upstream, database=str(path)) as proxy:
        for _ in range(2):
            assert proxy.request("POST", CHAT, headers, b'{"model": "m"}', key=None).status == 200
    assert [row.input for row in rows(path)] == [1117, 1117]
    assert database.spent("alice", "total") == (0, 0)
    database.close()


def test_a_response_in_the_background_is_counted_when_it_is_asked_for_the_first_time(
    upstream, path
):
    queued = RESPONSE | {"status": "queued", "usage": None}
    key = KeyBook(Database(path)).add("alice", {"tokens_per_day": 1000})
    with running_proxy(upstream, database=str(path)) as proxy:

        def ask(method: str, target: str, answer: dict[str, Any], key: str = key) -> None:
            upstream.answer = whole(json.dumps(answer).encode())
            body = b'{"model": "gpt-5-mini", "background": true}' if method == "POST" else None
            assert proxy.request(method, target, {}, body, key=key).status == 200

        ask("POST", RESPONSES, queued)
        ask("GET", f"{RESPONSES}/resp_1", queued)
        ask("GET", f"{RESPONSES}/resp_1", RESPONSE)
        ask("GET", f"{RESPONSES}/resp_1", RESPONSE)
        ask("GET", f"{RESPONSES}/resp_of_yesterday", RESPONSE)
        ask("GET", f"{RESPONSES}/resp_1/input_items", {"data": []})
    found = [(row.input, row.output, row.is_unknown) for row in rows(path)]
    free = (0, 0, False)
    assert found == [(None, None, True), free, (328, 52, False), free, free, free]
    assert rows(path)[2].model == "gpt-5-mini"


def test_of_a_response_that_was_left_the_rest_is_counted_when_it_is_asked_for(upstream, path):
    begun = RESPONSE | {"status": "in_progress", "usage": None}
    created = {"type": "response.created", "response": begun}
    text = {"type": "response.output_text.delta", "delta": "word " * 8}
    upstream.answer = raw(HEAD + chunk(events(created, text, named=True)))
    key = KeyBook(Database(path)).add("alice", {"tokens_per_day": 1000})
    with running_proxy(upstream, database=str(path)) as proxy:
        body = b'{"model": "gpt-5-mini", "background": true, "stream": true}'
        with proxy.open(request_bytes(RESPONSES, body=body, key=key)) as sock:
            read_all(sock)
        for status in ("in_progress", "completed", "completed"):
            upstream.answer = whole(json.dumps(RESPONSE | {"status": status}).encode())
            proxy.request("GET", f"{RESPONSES}/resp_1", key=key)
    found = rows(path)
    assert [row.output for row in found] == [10, 0, 52 - 10, 0]
    assert [row.estimated for row in found] == [True, False, False, False]
    assert sum(row.input or 0 for row in found) == 328


def test_what_was_said_before_an_answer_broke_off_is_not_estimated(upstream, path):
    line = json.dumps({"done": True, "response": SAID, "eval_count": 99}).encode()
    vectors = b'{"usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [{"embedding": [0.1'
    head = HEAD.replace(b"text/event-stream", b"application/json")
    with running_proxy(upstream, database=str(path)) as proxy:
        for target, content in (("/api/generate", line + b"\n"), ("/v1/embeddings", vectors)):
            upstream.answer = raw(head + chunk(content))
            with proxy.open(request_bytes(target, body=b'{"model": "m"}')) as sock:
                read_all(sock)
    lines, embedding = rows(path)
    assert (lines.output, lines.estimated) == (99, True)  # its prompt is
    assert (embedding.input, embedding.output, embedding.estimated) == (7, None, False)


def test_a_client_that_asks_for_one_thing_after_another_is_not_refused(upstream, path):
    """Though the end of an answer comes by itself, and after the client has all of its content."""
    key = KeyBook(Database(path)).add("alice", {"parallel": 1})
    upstream.answer = in_pieces([HEAD + chunk(events("[DONE]")), b"0\r\n\r\n"])
    with running_proxy(upstream, database=str(path)) as proxy:
        for _ in range(300):
            body = b'{"model": "m", "stream": true}'
            with proxy.open(request_bytes(CHAT, body=body, key=key)) as sock:
                assert read_until(sock, b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", ["text/plain", "", "text/event-stream; charset=utf-8"])
@pytest.mark.parametrize("coding", ["", "identity"])
def test_the_chunk_that_nobody_asked_for_is_taken_out_whatever_the_stream_says_it_is(
    upstream, path, kind, coding
):
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
    head += f"Content-Type: {kind}\r\n" if kind else ""
    head += f"Content-Encoding: {coding}\r\n" if coding else ""
    upstream.answer = raw(f"{head}\r\n".encode() + events(*CHAT_CHUNKS))
    with running_proxy(upstream, database=str(path)) as proxy:
        body = b'{"model": "m", "stream": true}'
        reply = proxy.request("POST", CHAT, {}, body)
    assert b'"prompt_tokens"' not in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert the_row(path).input == 1117


@pytest.mark.parametrize("asks", [True, False])
def test_no_event_is_put_into_the_middle_of_one_that_broke_off(upstream, path, asks):
    half = b'data: {"id": "c", "ob'
    upstream.answer = raw(HEAD + chunk(events(CHAT_CHUNKS[0])) + chunk(half))
    options = {} if asks else {"stream_options": {"include_usage": False}}
    with running_proxy(upstream, database=str(path)) as proxy:
        body = json.dumps({"model": "m", "stream": True} | options).encode()
        with proxy.open(request_bytes(CHAT, body=body)) as sock:
            content = read_all(sock)
    assert b'"error"' not in content
    assert content.rstrip().endswith(half)


NAMES = {
    "half a character": (b'"a\\ud83d"', "a\\ud83d"),
    "what a terminal obeys": (b'"a\\u001b]0;x\\u0007"', "a\\x1b]0;x\\x07"),
    "a line": (b'"a\\nb"', "a\\nb"),
    "our key": (f'"m-{KEY}"'.encode(), "m-****"),
    "a provider's key": (b'"sk-proj-Abcdefghij0123456789Abcdefghij0123"', "sk-proj-****"),
    "longest": (b'"' + b"x" * 200 + b'"', "x" * 200),
    "a character": ('"\N{SNOWMAN}"'.encode(), "\N{SNOWMAN}"),
}


@pytest.mark.parametrize("by", ["the request", "the answer"])
def test_a_model_may_have_any_name_and_stops_nothing(upstream, path, by):
    """Half a character is no text to SQLite: one such name had nothing written any more."""
    usage = {"prompt_tokens": 2**62, "completion_tokens": 10**11, "cost": 1e300}
    with running_proxy(upstream, database=str(path)) as proxy:
        for name, _ in NAMES.values():
            body = b'{"model": ' + name + b"}"
            if by == "the answer":
                answered = body[:-1] + b', "usage": ' + json.dumps(usage).encode() + b"}"
                upstream.answer = whole(answered)
                body = b"{}"
            assert proxy.request("POST", CHAT, {}, body).status == 200
    found = rows(path)
    assert [row.model for row in found] == [shown for _, shown in NAMES.values()]
    if by == "the answer":
        assert {(row.input, row.output) for row in found} == {(None, 10**11)}


def test_what_a_provider_says_of_its_price_has_a_bound(upstream, path):
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 9e11}
    upstream.answer = whole(json.dumps({"model": "m", "usage": usage}).encode())
    with running_proxy(upstream, database=str(path)) as proxy:
        for _ in range(3):
            assert proxy.request("POST", CHAT, {}, b"{}").status == 200
    assert {row.cost for row in rows(path)} == {10**15}


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT, {"stream": True, "stream_options": {"include_usage": False}}),
        (RESPONSES, {"background": True}),
    ],
    ids=["explicit false", "background"],
)
def test_what_is_not_told_counts_for_the_budget_all_the_same(upstream, path, target, body):
    """Or a client would only have to say that it does not want to know."""
    upstream.answer = answers_both_ways
    if target == RESPONSES:
        upstream.answer = whole(json.dumps(RESPONSE | {"status": "queued", "usage": None}).encode())
    database = Database(path)
    key = KeyBook(database).add("alice", {"budget": "1/total", "tokens_per_day": 10**6})
    environ = {"LLMAUTH_PRICES": '{"gpt": {"input": 1000, "output": 1000}}'}
    sent = json.dumps(body | {"model": "gpt", "input": "x" * 400}).encode()
    with running_proxy(upstream, environ, database=str(path)) as proxy:
        assert proxy.request("POST", target, {}, sent, key=key).status == 200
    row = the_row(path)
    assert (row.is_unknown, row.cost) == (True, None)
    tokens, cost = database.spent("alice", "total")
    assert tokens >= len(sent) // 4
    assert cost == tokens * 10**6
    database.close()


def test_single_requests_are_forgotten_after_a_while_and_totals_stay(upstream, path):
    database = Database(path)
    now = time.time()
    ages = [0.5] * 3 + [1.5] * 1500
    old = [
        ("2026-01-01", RequestRow(now - days * 86_400, "alice", "openai", "m", 200, "complete",
                                  False, 7, 0, 0, 3, 0, 5, False, 10, 1))
        for days in ages
    ]  # fmt: skip
    with database.transaction():
        database.add_requests(old)
    with running_proxy(upstream, database=str(path), keep_days=1) as proxy:
        assert proxy.request("POST", CHAT, {}, b"{}").status == 200
        wait_for(lambda: len(rows(path)) == 4, "those of yesterday are forgotten")
    ((requests, _, tokens, *_),) = database.totals([], "2000-01-01", "2100-01-01", None)
    assert (requests, tokens) == (1504, 7 * 1503)
    database.close()


def test_sums_are_those_of_the_rows(upstream, path):
    upstream.answer = answers_both_ways
    with running_proxy(upstream, database=str(path)) as proxy:
        for model in ("a", "b", "a"):
            proxy.request("POST", CHAT, {}, json.dumps({"model": model, "stream": True}).encode())
    database = Database(path)
    found = rows(path)
    totals = database.totals(["model"], "2000-01-01", "2100-01-01", None)
    assert [(one[0], one[1], one[3]) for one in totals] == [
        (model, number, number * 1117) for model, number in (("a", 2), ("b", 1))
    ]
    assert sum(row.output or 0 for row in found) == sum(one[6] for one in totals)
    database.close()
    assert KEY not in path.read_bytes().decode("latin-1")


def test_a_model_without_a_price_is_named_once_where_dollars_are_limited(upstream, path, caplog):
    book = KeyBook(Database(path))
    key, other = book.add("alice", {"budget": "1/day"}), book.add("bob", {})
    upstream.answer = whole(ANSWERS["chat"].body)
    with running_proxy(upstream, database=str(path)) as proxy:
        for each in (other, key, key):
            proxy.request("POST", CHAT, {}, b'{"model": "gpt-none"}', key=each)
    said = [one.getMessage() for one in caplog.records if "no price is known" in one.getMessage()]
    assert said == [
        "no price is known of the model 'gpt-none': it counts for no budget. Set one in "
        "accounts.prices"
    ]
