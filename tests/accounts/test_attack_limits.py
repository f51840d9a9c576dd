"""Ways around a key's limits, each of which is closed."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from programs import wait_for
from servers import PROVIDER_KEY, Proxy, raw, running_proxy
from streams import Held

from llmauth import create_app
from llmauth.accounts.store import Database
from llmauth.accounts.terms import NANO
from llmauth.config.loading import Given, load

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def chat(proxy: Proxy, headers: dict[str, str], target: str = CHAT, **fields: Any):
    body = json.dumps({"model": "gpt-4o", "messages": [], **fields}).encode()
    return proxy.request("POST", target, JSON | headers, body, key=None)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def answer(value: Any):
    body = json.dumps(value).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def stream(*events: Any):
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return raw(head + data + b"data: [DONE]\n\n", close=True)


def spent(path: Path, key: str = "alice") -> tuple[int, int]:
    database = Database(path)
    try:
        return database.spent(key, "total")
    finally:
        database.close()


OURS = {
    "in the header for one's own provider key, without one": {},
    "beside the same in another": {"x-api-key": "{key}"},
    "beside one in another's scheme that goes nowhere": {"X-Proxy-Api-Key-2": "sk-own"},
}


@pytest.mark.parametrize("headers", OURS.values(), ids=OURS)
def test_what_is_sent_with_our_provider_key_counts_whatever_carried_the_proxy_key(
    upstream, path, book, headers
):
    key = book.add("alice", {"tokens_per_day": 100})
    upstream.answer = answer({"usage": {"prompt_tokens": 90, "completion_tokens": 9}})
    headers = {name: value.format(key=key) for name, value in headers.items()}
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, {"X-Proxy-Api-Key": key, **headers}, max_tokens=1).status == 200
        assert PROVIDER_KEY in str(upstream.requests[0].headers)
        wait_for(lambda: spent(path)[0] == 99, "it is counted")
        assert chat(proxy, {"X-Proxy-Api-Key": key, **headers}, max_tokens=2).status == 429


PRICES = {"gpt-4o": {"input": 1_000_000, "output": 1_000_000}}  # a dollar a token

CHUNK = {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
SILENT = {
    "a stream whose usage the client has declined": (
        stream(CHUNK), {"stream": True, "stream_options": {"include_usage": False}}
    ),
    "an answer": (answer({"choices": [{"message": {"content": "x" * 40}}]}), {}),
}  # fmt: skip


@pytest.mark.parametrize(("answered", "fields"), SILENT.values(), ids=SILENT)
def test_an_answer_that_does_not_tell_its_usage_costs_what_it_is_guessed_at(
    upstream, path, book, answered, fields
):
    key = book.add("alice", {"budget": "50/total"})
    upstream.answer = answered
    with running_proxy(upstream, database=str(path), prices=PRICES) as proxy:
        assert chat(proxy, bearer(key), max_tokens=1, **fields).status == 200
        wait_for(lambda: spent(path)[0] > 0, "it is counted")
        tokens, cost = spent(path)
        assert cost == tokens * NANO
        wait_for(
            lambda: chat(proxy, bearer(key), max_tokens=1, **fields).status == 429, "it is used up"
        )
    database = Database(path)
    (row,) = [one for one in database.requests(100) if one.status == 200][:1]
    database.close()
    assert row.cost is None  # what nobody knows is not shown as known


class Broken(io.RawIOBase):
    """A request's body of which not all comes, from a server that reads it from the socket."""

    def __init__(self, *, raises: bool) -> None:
        self._left, self._raises = b'{"model":"gpt-4o",', raises

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left, self._left = self._left, b""
        if not left and self._raises:
            raise OSError("the client is gone")
        return left


@pytest.mark.parametrize("raises", [False, True], ids=["short", "failing"])
def test_a_body_that_breaks_off_gives_back_what_its_request_holds(upstream, path, book, raises):
    key = book.add("alice", {"parallel": 1})
    settings = load(
        Given({"database": str(path)}),
        {"OPENAI_API_BASE_URL": upstream.url, "OPENAI_API_KEY": PROVIDER_KEY},
    )
    app = create_app(settings)
    client = app.test_client()
    try:
        given = {"wsgi.input": Broken(raises=raises), "CONTENT_LENGTH": "100000"}
        broken = client.post(CHAT, headers=JSON | bearer(key), environ_overrides=given)
        assert broken.status_code == 400
        upstream.answer = answer({})
        whole = client.post(CHAT, headers=JSON | bearer(key), data=b"{}")
        assert whole.status_code == 200
    finally:
        app.extensions["llmauth"].close()


def test_dollars_are_held_for_a_request_whose_model_cannot_be_told(upstream, path, book):
    """Or as many of them at once as one likes would pass, by a field that nobody reads."""
    key = book.add("alice", {"budget": "50/total"})
    held = Held(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    upstream.answer = held
    fields = {"model_hint": "x", "max_tokens": 30}
    with running_proxy(upstream, database=str(path), prices=PRICES) as proxy:
        first = threading.Thread(target=chat, args=(proxy, bearer(key)), kwargs=fields)
        first.start()
        wait_for(lambda: upstream.requests, "the first is sent")
        assert chat(proxy, bearer(key), **fields).status == 429
        held.go_on.release()
        held.go_on.release()
        first.join()


def test_what_only_reads_is_not_paid_for(upstream, path, book):
    key = book.add("alice", {"tokens_per_minute": 10, "budget": "0/total"})
    upstream.answer = answer({"id": "file-1", "object": "file"})
    with running_proxy(upstream, database=str(path), prices=PRICES) as proxy:
        for _ in range(2):
            assert proxy.request("GET", "/v1/files/file-1", key=key).status == 200


def test_an_answer_in_a_coding_that_is_not_read_here_costs_what_was_held(upstream, path, book):
    key = book.add("alice", {"tokens_per_day": 1000})
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: compress\r\nContent-Length: 3\r\n\r\nabc"
    upstream.answer = raw(packed)
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, bearer(key), max_tokens=700).status == 200
        wait_for(lambda: spent(path)[0] > 700, "it is counted")
        assert chat(proxy, bearer(key), max_tokens=700).status == 429


ACCEPTED = {
    "none": (None, None),
    "all that are read": ("gzip, deflate", "gzip, deflate"),
    "one that is not": ("compress, gzip;q=0.5,dcb", "gzip;q=0.5"),
    "only such": ("dcz", "identity"),
    "any": ("*", "identity"),
    "another's": ("GZIP ; q=1", "GZIP ; q=1"),
}


@pytest.mark.parametrize(("sent", "arrives"), ACCEPTED.values(), ids=ACCEPTED)
def test_who_pays_by_the_token_gets_answers_whose_usage_can_be_read(
    upstream, path, book, sent, arrives
):
    limited, free = book.add("alice", {"tokens_per_day": 10**6}), book.add("bob", {})
    headers = {"Accept-Encoding": sent} if sent else {}
    with running_proxy(upstream, database=str(path)) as proxy:
        for key in (limited, free):
            assert chat(proxy, bearer(key) | headers).status == 200
    offered = [dict(request.headers).get("Accept-Encoding") for request in upstream.requests]
    assert offered[0] == offered[1]
    assert arrives is None or offered[0] == arrives
