"""Stored keys on a real server: who is let in, who is refused and how, and what ends."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
import sys
import threading
from typing import Any

import pytest
from click.testing import CliRunner
from programs import Program, Redis, wait_for
from servers import KEY, PROVIDER_KEY, Proxy, raw, request_bytes, running_proxy, whole
from streams import EVENT, HEAD, Held, chunk, read_until

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database
from llmauth.cli import main
from llmauth.redact.stored_key import new_key

CHAT = "/v1/chat/completions"


def chat(proxy: Proxy, key: str, model: str = "gpt-4o", **more: Any):
    body = json.dumps({"model": model, "messages": [], **more}).encode()
    return proxy.request("POST", CHAT, {"Content-Type": "application/json"}, body, key=key)


def code(reply) -> str:
    return reply.json()["error"]["code"]


def message(reply) -> str:
    return reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "carrier",
    ["Authorization", "x-api-key", "x-goog-api-key", "api-key", "X-Proxy-Api-Key"],
)
def test_a_stored_key_lets_in_like_any_other_and_stays_here(upstream, path, book, carrier):
    key = book.add("alice", {})
    value = f"Bearer {key}" if carrier == "Authorization" else key
    with running_proxy(upstream, database=str(path)) as proxy:
        headers = {carrier: value, "X-Note": key, "User-Agent": f"me/{key}"}
        reply = proxy.request("POST", f"{CHAT}?token={key}", headers, b"{}", key=None)
    assert reply.status == 200
    sent = upstream.requests[-1]
    assert key not in str(sent.headers) + sent.target


def test_without_a_key_in_the_environment_the_database_is_enough(upstream, path, book):
    key = book.add("alice", {})
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": ""}
    with running_proxy(upstream, environ, database=str(path)) as proxy:
        assert chat(proxy, key).status == 200
        assert chat(proxy, KEY).status == 401


def test_both_kinds_of_keys_side_by_side(upstream, path, book):
    key = book.add("alice", {"requests_per_minute": 1})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert [chat(proxy, key).status for _ in range(2)] == [200, 429]
        assert [chat(proxy, KEY).status for _ in range(3)] == [200, 200, 200]


def test_a_key_that_never_was_is_a_guess(upstream, path, book):
    book.add("alice", {})
    with running_proxy(upstream, database=str(path), max_failed_attempts=3) as proxy:
        statuses = [chat(proxy, new_key()).status for _ in range(4)]
    assert statuses == [401, 401, 401, 429]


WITHDRAWN = {
    "paused": (lambda book: book.change("alice", {"paused": True}), "was paused on"),
    "revoked": (lambda book: book.revoke("alice"), "was revoked on"),
    "replaced": (lambda book: book.rotate("alice"), "was replaced on"),
}


@pytest.mark.parametrize(("withdraw", "said"), WITHDRAWN.values(), ids=WITHDRAWN)
def test_a_key_that_was_withdrawn_is_told_so_and_is_no_guess(upstream, path, book, withdraw, said):
    key = book.add("alice", {})
    with running_proxy(upstream, database=str(path), max_failed_attempts=2) as proxy:
        assert chat(proxy, key).status == 200
        withdraw(book)
        wait_for(lambda: chat(proxy, key).status == 401, "it is withdrawn")
        for _ in range(5):
            reply = chat(proxy, key)
            assert reply.status == 401
            assert said in message(reply)
            assert code(reply) == "invalid_api_key"
            assert 'error="invalid_token"' in reply.header("WWW-Authenticate")
        assert chat(proxy, KEY).status == 200
    assert key[8:] not in message(reply)


def test_from_another_address_it_is_of_no_use(upstream, path, book):
    key = book.add("alice", {"from": ["127.0.0.7/32"]})
    with running_proxy(upstream, database=str(path)) as proxy:
        headers = {"Content-Type": "application/json"}
        away = proxy.request("POST", CHAT, headers, b"{}", key=key)
        here = proxy.request("POST", CHAT, headers, b"{}", key=key, address="127.0.0.7")
    assert (away.status, code(away)) == (403, "address_not_allowed")
    assert here.status == 200


def test_another_backend_is_refused_by_name(upstream, path, book):
    key = book.add("alice", {"backends": ["anthropic"]})
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = chat(proxy, key)
        assert (reply.status, code(reply)) == (403, "backend_not_allowed")
        assert "may not use the backend 'openai', only anthropic" in message(reply)
        reply = proxy.request("POST", "/anthropic/v1/messages", {}, b"{}", key=key)
        assert reply.status == 200


def test_another_model_is_refused_by_name_before_it_is_sent(upstream, path, book):
    key = book.add("alice", {"models": ["gpt-4o-mini", "text-*"]})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, key, "gpt-4o-mini").status == 200
        assert len(upstream.requests) == 1
        reply = chat(proxy, key, "gpt-4o")
        assert (reply.status, code(reply)) == (403, "model_not_allowed")
        assert "may use gpt-4o-mini, text-* only, not 'gpt-4o'" in message(reply)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "headers", "body"),
    [
        (CHAT, {}, b"{}"),
        (CHAT, {}, b'{"model":"gpt-4o-mini","model":"gpt-4o"}'),
        (f"{CHAT}?model=gpt-4o", {}, b'{"model":"gpt-4o-mini"}'),
        ("/v1/batches", {}, b'{"input_file_id":"f","endpoint":"/v1/chat/completions"}'),
        (CHAT, {"Content-Encoding": "br"}, b'{"model":"gpt-4o-mini"}'),
    ],
    ids=["none", "two", "query", "batch", "packed"],
)
def test_where_no_one_model_can_be_told_a_restricted_key_is_refused(
    upstream, path, book, target, headers, body
):
    key = book.add("alice", {"models": ["gpt-4o-mini"]})
    free = book.add("bob", {})
    headers = {"Content-Type": "application/json"} | headers
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = proxy.request("POST", target, headers, body, key=key)
        assert (reply.status, code(reply)) == (403, "model_not_allowed")
        assert proxy.request("POST", target, headers, body, key=free).status == 200
    assert [request.body for request in upstream.requests] == [body]


def test_packed_and_large_bodies_arrive_as_they_were_sent(upstream, path, book):
    key = book.add("alice", {"models": ["gpt-4o"], "tokens_per_day": 10**9})
    large = json.dumps({"messages": [{"content": "x" * 300_000}], "model": "gpt-4o"}).encode()
    packed = gzip.compress(large)
    with running_proxy(upstream, database=str(path)) as proxy:
        kind = {"Content-Type": "application/json"}
        assert proxy.request("POST", CHAT, kind, large, key=key).status == 200
        kind["Content-Encoding"] = "gzip"
        assert proxy.request("POST", CHAT, kind, packed, key=key).status == 200
    assert [request.body for request in upstream.requests] == [large, packed]


def test_a_list_of_models_shows_those_that_may_be_used(upstream, path, book):
    models = [{"id": name, "object": "model"} for name in ("gpt-4o", "gpt-4o-mini", "o3")]
    upstream.answer = json_answer({"object": "list", "data": models})
    key = book.add("alice", {"models": ["gpt-4o*"]})
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = proxy.request("GET", "/v1/models", {"Accept-Encoding": "gzip"}, key=key)
        assert [one["id"] for one in reply.json()["data"]] == ["gpt-4o", "gpt-4o-mini"]
        assert reply.header("Content-Length") == str(len(reply.body))
        assert proxy.request("GET", "/v1/models/o3", key=key).status == 403
        everything = proxy.request("GET", "/v1/models", key=KEY)
        assert len(everything.json()["data"]) == 3


def json_answer(value: Any, status: str = "200 OK"):
    return whole(json.dumps(value).encode(), status, ("Content-Type: application/json",))


def test_forty_at_once_against_ten_a_minute(upstream, path, book):
    key = book.add("alice", {"requests_per_minute": 10})
    with running_proxy(upstream, database=str(path)) as proxy:
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(chat(proxy, key).status))
            for _ in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (replies.count(200), replies.count(429)) == (10, 30)
    assert len(upstream.requests) == 10


def streaming(proxy: Proxy, key: str):
    data = request_bytes(CHAT).replace(f"Bearer {KEY}".encode(), f"Bearer {key}".encode())
    return proxy.open(data)


def test_parallel_streams_are_counted_until_they_end(upstream, path, book):
    key = book.add("alice", {"parallel": 1})
    held = Held(HEAD + chunk(EVENT), b"0\r\n\r\n", b"")
    with running_proxy(upstream, database=str(path)) as proxy:
        upstream.answer = held
        with streaming(proxy, key) as sock:
            read_until(sock, EVENT)
            reply = chat(proxy, key)
            assert (reply.status, code(reply)) == (429, "too_many_parallel_requests")
            assert reply.header("Retry-After") == "1"
            held.go_on.release()
            held.go_on.release()
            held.go_on.release()
            read_until(sock, b"0\r\n\r\n")
        upstream.answer = json_answer({})
        wait_for(lambda: chat(proxy, key).status == 200, "it is given back")


@pytest.mark.parametrize("head", [HEAD + chunk(EVENT), b""], ids=["streaming", "silent"])
def test_a_running_request_ends_when_its_key_is_withdrawn(upstream, path, book, head):
    key = book.add("alice", {})
    held = Held(head, b"")
    upstream.answer = held
    with running_proxy(upstream, database=str(path)) as proxy:
        assert proxy.request("GET", "/health", key=None).status == 200
        with streaming(proxy, key) as sock:
            wait_for(lambda: upstream.requests, "it is sent")
            if head:
                read_until(sock, EVENT)
            book.revoke("alice")
            received = b""
            while not received.endswith(b"}") and (data := sock.recv(65536)):
                received += data
        assert b"withdrawn while its request was running" in received
        if head:
            assert b'data: {"error": {"message"' in received
            assert not received.endswith(b"0\r\n\r\n")  # it does not look complete
        else:
            assert received.startswith(b"HTTP/1.1 401 ")
        wait_for(lambda: not proxy.server.state.slots.used, "all is given back")
        held.go_on.release()
        held.go_on.release()


def test_tokens_of_the_day_run_out(upstream, path, book):
    upstream.answer = json_answer({"choices": [], "text": "x" * 400})
    key = book.add("alice", {"tokens_per_day": 150})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, key, max_tokens=1).status == 200

        def refused() -> bool:
            reply = chat(proxy, key, max_tokens=1)
            return reply.status == 429 and code(reply) == "insufficient_quota"

        wait_for(refused, "they are used up")
        reply = chat(proxy, key, max_tokens=1)
    assert reply.header("x-should-retry") == "false"
    assert int(reply.header("Retry-After")) <= 86_400
    assert "of 150 tokens this day" in message(reply)


def test_what_asks_no_model_uses_no_tokens(upstream, path, book):
    key = book.add("alice", {"tokens_per_day": 10, "requests_per_minute": 3})
    with running_proxy(upstream, database=str(path)) as proxy:
        statuses = [
            proxy.request(method, "/v1/files/file-1", key=key).status
            for method in ("GET", "DELETE", "GET", "GET")
        ]
    assert statuses == [200, 200, 200, 429]


def test_ones_own_provider_key_counts_as_a_request_only(upstream, path, book):
    key = book.add("alice", {"tokens_per_day": 1, "requests_per_minute": 2})
    with running_proxy(upstream, database=str(path)) as proxy:
        headers = {"X-Proxy-Api-Key": key, "Authorization": "Bearer sk-own-0123456789abcdef"}
        statuses = [
            proxy.request("POST", CHAT, headers, b'{"model":"m"}', key=None).status
            for _ in range(3)
        ]
    assert statuses == [200, 200, 429]
    sent = dict(upstream.requests[0].headers)
    assert sent["Authorization"] == "Bearer sk-own-0123456789abcdef"


def test_readiness_tells_of_the_database_and_no_request_fails(upstream, path, book):
    key = book.add("alice", {"tokens_per_day": 10**6, "requests_per_minute": 100})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert proxy.request("GET", "/readyz", key=None).json()["checks"]["database"] == "ok"
        assert chat(proxy, key).status == 200
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert [chat(proxy, key).status for _ in range(3)] == [200, 200, 200]

        def said() -> str:
            return str(proxy.request("GET", "/readyz", key=None).json()["checks"]["database"])

        wait_for(lambda: said().startswith("the database fails"), "it is noticed")
        other.execute("ROLLBACK")
        other.close()

        def is_well() -> bool:
            checks = proxy.request("GET", "/readyz", key=None).json()["checks"]
            return checks["database"] == "ok"

        wait_for(is_well, "it works again")
    database = Database(path)
    assert database.held("alice").requests == 0
    assert database.spent("alice", "total")[0] > 0
    database.close()


def test_on_a_full_disk_requests_go_on(upstream, path, book, caplog):
    key = book.add("alice", {"tokens_per_day": 10**9})
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, key).status == 200
        connection = proxy.server.state.accounts._database._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        wait_for(
            lambda: chat(proxy, key, text="x").status == 200 and "full" in caplog.text,
            "it is full",
            60,
        )
        assert chat(proxy, key).status == 200
        connection.execute("PRAGMA max_page_count = 100000")
        wait_for(lambda: "the database works again" in caplog.text, "there is room again")


FORMS = {
    "plain": lambda key: key,
    "in a query": lambda key: f"/v1/models?x={key}&y",
    "escaped": lambda key: key.replace("_", "%5F"),
    "in JSON": lambda key: json.dumps({"it": f"is {key}."}),
    "in Basic": lambda key: "Basic " + base64.b64encode(f"alice:{key}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_key_that_nobody_has_shown_yet_is_masked_by_its_shape(form):
    from llmauth.redact.redactor import Redactor

    key = new_key()
    masked = Redactor([]).text(f"it was {form(key)} then")
    assert key[8:] not in masked
    assert "****" in masked


def test_nothing_tells_a_stored_key(upstream, path, book, caplog, tmp_path):
    key = book.add("alice", {"requests_per_minute": 1})
    capture = tmp_path / "capture.jsonl"
    with running_proxy(upstream, database=str(path), capture_file=str(capture)) as proxy:
        for _ in range(2):
            proxy.request("POST", f"{CHAT}?a={key}", {"X-Note": key}, key.encode(), key=key)
        book.revoke("alice")
        wait_for(lambda: chat(proxy, key).status == 401, "it is withdrawn")
        proxy.server.state.access_log.flush()
    written = capture.read_text() + caplog.text
    assert "alice" in written
    assert key[8:] not in written
    assert PROVIDER_KEY not in written


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "minute": ({"requests_per_minute": 1}, 429, "rate_limit_exceeded"),
    "day": ({"tokens_per_day": 1}, 429, "insufficient_quota"),
    "budget": ({"budget": "0/total"}, 429, "insufficient_quota"),
    "backend": ({"backends": ["anthropic"]}, 403, "backend_not_allowed"),
    "model": ({"models": ["o3"]}, 403, "model_not_allowed"),
    "address": ({"from": ["203.0.113.9"]}, 403, "address_not_allowed"),
    "paused": ({"paused": True}, 401, "invalid_api_key"),
}


@pytest.mark.parametrize(("terms", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_has_the_shape_of_all_sdks_and_a_head_only_for_head(
    upstream, path, book, terms, status, said
):
    paused = {"paused": True} if terms.pop("paused", None) else {}
    key = book.add("alice", terms)
    book.change("alice", paused)
    with running_proxy(upstream, database=str(path)) as proxy:
        if "requests_per_minute" in terms:
            assert chat(proxy, key).status == 200
        reply = chat(proxy, key, max_tokens=100)
        assert reply.status == status
        body = reply.json()
        assert body["type"] == "error"
        assert body["request_id"] == reply.header("x-request-id")
        assert body["error"]["code"] == said
        assert set(body["error"]) == {"message", "type", "param", "code", "status"}
        head = proxy.request("HEAD", "/v1/models/gpt-4o", key=key)
        if said != "insufficient_quota":  # what only reads uses no tokens and no dollars
            assert head.status == status
            names = ("Retry-After", "x-should-retry", "WWW-Authenticate")
            assert [bool(head.header(n)) for n in names] == [bool(reply.header(n)) for n in names]
        assert head.body == b""


def test_what_a_provider_says_of_its_own_limits_arrives_as_it_is(upstream, path, book):
    said = {
        "x-ratelimit-limit-requests": "9", "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "1s", "Retry-After": "7", "retry-after-ms": "7000",
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    head = f"HTTP/1.1 429 No\r\nContent-Type: application/json\r\n{lines}Content-Length: 2\r\n\r\n"
    upstream.answer = raw(head.encode() + b"{}")
    key = book.add(
        "alice", {"requests_per_minute": 5, "tokens_per_minute": 10**6, "tokens_per_day": 10**6}
    )
    with running_proxy(upstream, database=str(path)) as proxy:
        reply = chat(proxy, key)
    assert (reply.status, reply.body) == (429, b"{}")
    assert {name: reply.header(name) for name in said} == said
    assert reply.header("x-should-retry") is None


def test_machines_with_a_store_count_requests_a_minute_together(upstream, path, book, tmp_path):
    """Each has a file of its own, in which the key has the same name."""
    other = Database(tmp_path / "other.db")
    keys = [one.add("alice", {"requests_per_minute": 4}) for one in (book, KeyBook(other))]
    other.close()
    redis = Redis()
    settings = {"storage_uri": redis.uri}
    try:
        with (
            running_proxy(upstream, database=str(path), **settings) as one,
            running_proxy(upstream, database=str(tmp_path / "other.db"), **settings) as two,
        ):
            asked = [(one, keys[0]), (two, keys[1])] * 3
            statuses = [chat(proxy, key).status for proxy, key in asked]
            assert statuses == [200, 200, 200, 200, 429, 429]
            reply = chat(one, keys[0])
            assert 0 < int(reply.header("Retry-After")) <= 60
            assert reply.header("x-ratelimit-limit-requests") == "4"
            redis.stop()  # and while it is away each counts by itself
            statuses = [chat(one, keys[0]).status for _ in range(5)]
            assert statuses == [200, 200, 200, 200, 429]
    finally:
        redis.close()


def test_every_change_is_in_the_log_of_the_running_server_without_a_key(
    upstream, path, book, caplog
):
    caplog.set_level("INFO", "llmauth.accounts")
    keys = []
    changes = {
        "alice added": lambda: keys.append(book.add("alice", {"parallel": 2})),
        "alice parallel lifted, budget 20/month": lambda: book.change(
            "alice", {"budget": "20/month", "parallel": None}
        ),
        "alice paused": lambda: book.change("alice", {"paused": True}),
        "alice resumed": lambda: book.change("alice", {"paused": False}),
        "alice rotated": lambda: keys.append(book.rotate("alice", 60)),
        "alice revoked": lambda: book.revoke("alice"),
    }
    with running_proxy(upstream, database=str(path)) as proxy:
        assert chat(proxy, KEY).status == 200
        for said, change in changes.items():
            change()
            wait_for(lambda said=said: f"keys changed: {said}" in caplog.text, said)
    assert not any(key[8:] in caplog.text for key in keys)


STARTS = {
    "damaged": (lambda path: path.write_bytes(b"no database" * 500), "damaged. Restore a backup"),
    "a folder": (lambda path: path.mkdir(), "cannot be used"),
    "of another program": (
        lambda path: sqlite3.connect(path).executescript("CREATE TABLE notes (text)").close(),
        "of another program",
    ),
    "without keys": (lambda path: None, "There is no key yet in"),
    "in no folder": (lambda path: path.parent.rmdir(), "there is no folder"),
}


@pytest.mark.parametrize(("prepare", "said"), STARTS.values(), ids=STARTS)
def test_a_database_that_cannot_be_used_ends_the_start_in_one_line(tmp_path, prepare, said):
    path = tmp_path / "folder" / "keys.db"
    path.parent.mkdir()
    prepare(path)
    for command in (["serve", "--port", "0"], ["check", "--default-backend", "echo"]):
        result = CliRunner().invoke(main, [*command, "--database", str(path)], env=NO_KEY)
        if command[0] == "serve":
            assert result.exit_code == 2
            assert said in result.stderr
            assert len(result.stderr.strip().splitlines()) == 1
        else:
            assert result.exit_code != 0
            assert result.stdout.startswith("not ok")
            assert "\ndatabase:" in result.stdout


def test_a_database_with_a_damaged_page_is_found_by_check(tmp_path):
    path = tmp_path / "keys.db"
    database = Database(path)
    for number in range(300):
        KeyBook(database).add(f"key-{number}", {"note": "x" * 200})
    database.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\x55" * 4096
    path.write_bytes(content)
    result = CliRunner().invoke(
        main, ["check", "--default-backend", "echo", "--database", str(path)], env=NO_KEY
    )
    assert result.exit_code == 1
    assert "damaged" in result.stdout.replace("\n  ", " ")


def test_check_and_the_banner_say_how_many_keys_there_are(path, book):
    for name in ("alice", "bob", "carol"):
        book.add(name, {})
    book.change("bob", {"paused": True})
    book.revoke("carol")
    result = CliRunner().invoke(
        main, ["check", "--default-backend", "echo", "--database", str(path)], env=NO_KEY
    )
    assert result.exit_code == 0
    text = result.stdout.replace("\n  ", " ")
    assert f"database {path}: ok, 3 stored keys, 1 paused, 1 revoked" in text
    served = Program(
        [sys.executable, "-m", "llmauth", "serve", "--port", "{port}"],
        {"LLMAUTH_DATABASE": str(path), "LLM_BACKEND": "echo"},
    )
    try:
        wait_for(lambda: "public:" in served.output(), "the banner")
        said = served.output().replace("\n                  ", " ")
    finally:
        served.close()
    assert "3 stored keys, 1 paused, 1 revoked" in said
    assert "authentication: on\n" in said


NO_KEY = {"LLM_INTERACTIVE_PROXY_API_KEY": None, "LLMAUTH_DATABASE": None}
