"""Who is let in is decided once, when the head is there; who is not costs nothing further."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

import flask
import pytest
import requests
from attack import WRONG, request, statuses
from programs import Redis, wait_for
from servers import KEY, TIMEOUT, raw, read_all, request_bytes, running_proxy, whole
from streams import read_until
from waitress import wasyncore
from werkzeug.test import Client

from llmauth.server.channel import LOOKAHEAD, UNSENT
from llmauth.server.dispatcher import REFUSALS_SECONDS, Dispatcher

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = {
    "no key": ((), None, {401}),
    "wrong key": ((), WRONG, {401}),
    "another scheme": (("Authorization: Basic eDp5",), None, {401}),
    "two keys": (("x-api-key: another-0123456789",), WRONG, {400, 401}),
    "no token": (("Authorization: Bearer",), None, {400}),
    "too long": ((f"x-api-key: {'x' * 5000}",), None, {400}),
}


@pytest.fixture
def work(proxy, monkeypatch):
    """What requests cost: tasks for threads, requests in Flask, decisions, bytes read."""
    found = {"tasks": 0, "flask": 0, "checks": 0, "read": 0}
    state, dispatcher = proxy.server.state, proxy.server.dispatcher
    check, add_task, recv = state.guard.check, dispatcher.add_task, wasyncore.dispatcher.recv

    def counted(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            found[name] += len(result) if name == "read" else 1
            return result

        return call

    def checked(*args, **kwargs):
        found["checks"] += 1
        check(*args, **kwargs)

    def entered(*args, **kwargs):
        found["flask"] += 1

    monkeypatch.setattr(state.guard, "check", checked)
    monkeypatch.setattr(dispatcher, "add_task", counted("tasks", add_task))
    monkeypatch.setattr(wasyncore.dispatcher, "recv", counted("read", recv))
    with flask.request_started.connected_to(entered):
        yield found


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("case", REFUSED)
def test_who_is_not_let_in_takes_neither_a_thread_nor_flask(proxy, work, case, method):
    headers, key, wanted = REFUSED[case]
    data = request(*headers, line=f"{method} /v1/x HTTP/1.1", key=key)
    answer = proxy.exchange(data)
    (status,) = statuses(answer)
    assert status in wanted
    assert answer.endswith(b"\r\n\r\n" if method == "HEAD" else b"}")
    assert work["tasks"] == work["flask"] == 0
    assert work["checks"] == 1


def test_a_locked_out_address_takes_no_thread_either(proxy, work):
    for _ in range(7):
        answer = proxy.exchange(request(key=WRONG))
    assert statuses(answer) == [429]
    assert statuses(proxy.exchange(request())) == [429]
    assert work["tasks"] == work["flask"] == 0


def test_what_cannot_be_understood_takes_no_thread_either(proxy, work):
    assert statuses(proxy.exchange(b"nonsense\r\n\r\n")) == [400]
    assert work["tasks"] == 0


def test_the_right_key_is_looked_at_once(proxy, work):
    assert statuses(proxy.exchange(request())) == [200]
    assert (work["tasks"], work["flask"], work["checks"]) == (1, 1, 1)


@pytest.mark.parametrize("origins", [(), ("https://chat.example",)], ids=["plain", "cors"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("case", REFUSED)
def test_the_answer_is_that_of_the_hook_in_flask(upstream, case, method, origins):
    headers, key, _ = REFUSED[case]
    own = ["Origin: https://chat.example", *headers, *([f"x-api-key: {key}"] if key else [])]
    with running_proxy(upstream, cors_origins=origins) as proxy:
        entry = proxy.server._listeners[0].application._application
        head, _, body = proxy.exchange(
            request(*own, line=f"{method} /v1/x HTTP/1.1", key=None)
        ).partition(b"\r\n\r\n")
        environ: dict[str, str] = {}
        for line in own:
            name, _, value = line.partition(":")
            name = "HTTP_" + name.upper().replace("-", "_")
            value = f"{environ[name]}, {value.strip()}" if name in environ else value.strip()
            environ[name] = value
        hook = Client(entry._application).open("/v1/x", method=method, environ_base=environ)
    status, *lines = head.decode("latin-1").split("\r\n")
    assert int(status.split(" ")[1]) == hook.status_code
    changing = ("date", "x-request-id", "connection", "content-length")
    ours = sorted((n.lower(), v) for n, v in (line.split(": ", 1) for line in lines))
    theirs = sorted((n.lower(), v) for n, v in hook.headers.items())
    assert [one for one in ours if one[0] not in changing] == [
        one for one in theirs if one[0] not in changing
    ]
    assert "x-request-id" in dict(ours)
    assert len(body) == len(hook.data)
    assert body[:40] == hook.data[:40]


@pytest.mark.parametrize("framing", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
def test_the_body_of_who_is_not_let_in_is_not_read(proxy, work, upstream, framing):
    head = request(framing, key=WRONG, close=False)
    with proxy.open(head) as sock:
        answer = read_until(sock, b"}")  # before any of it was sent
        assert statuses(answer) == [401]
        assert b"Connection: close" in answer
        with contextlib.suppress(OSError):
            sock.settimeout(0.5)
            for _ in range(50):
                sock.sendall(bytes(1_000_000))
    assert work["read"] < len(head) + 64 * 1024 + 2 * 8192
    assert work["tasks"] == 0
    wait_for(lambda: not proxy.server._channels(), "the connection ends")


@pytest.mark.parametrize("size", [1, 8192, 64 * 1024], ids=str)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_after_a_short_body_the_connection_goes_on(proxy, upstream, size, apart):
    body = request(close=False)[: min(size, 50)].ljust(size, b"x")
    head = request(f"Content-Length: {size}", key=WRONG, close=False)
    with proxy.open(head if apart else head + body + request()) as sock:
        if apart:
            assert statuses(read_until(sock, b"}")) == [401]
            sock.sendall(body)
            sock.sendall(request())
        assert statuses(read_all(sock))[-1] == 200
    assert [one.body for one in upstream.requests] == [b""]


@pytest.mark.parametrize("line", ["POST /v1/x HTTP/1.1", "POST /v1/x HTTP/1.0"], ids=["1.1", "1.0"])
def test_a_short_body_does_not_reset_a_connection_that_ends_with_the_answer(proxy, line):
    """As nginx speaks to its upstreams by default; reset, it would answer 502 in our place."""
    with proxy.open(request("Content-Length: 60000", line=line, key=None)) as sock:
        assert statuses(read_until(sock, b"}")) == [401]
        for _ in range(3):
            sock.sendall(bytes(20_000))
        assert sock.recv(1) == b""
    wait_for(lambda: not proxy.server._channels(), "the connection ends")


@pytest.mark.parametrize("options", ["close, TE", "TE, close", "Upgrade,close", "close\t, x"])
@pytest.mark.parametrize("key", [KEY, WRONG], ids=["right", "wrong"])
def test_a_connection_ends_for_who_asks_for_it_beside_other_things(proxy, options, key):
    data = request(f"Connection: {options}", key=key, close=False)
    answer = proxy.exchange(data + request())
    assert len(statuses(answer)) == 1
    assert b"Connection: close\r\n" in answer


ENDING = {
    "two lines": (["Connection: TE", "Connection: close"], "POST /v1/x HTTP/1.1"),
    "the same line twice": (["Connection: close"] * 2, "POST /v1/x HTTP/1.1"),
    "a public page": (["Connection: TE, Close"], "GET /health HTTP/1.1"),
    "an unknown path": (["Connection: TE, close"], "GET /opnai/v1/models HTTP/1.1"),
    "a stream": (["Connection: TE, close"], "GET /v1/stream HTTP/1.1"),
    "HTTP/1.0": (["Connection: TE"], "POST /v1/x HTTP/1.0"),
}


@pytest.mark.parametrize("case", ENDING)
def test_it_ends_whatever_was_asked_for(proxy, upstream, case):
    headers, line = ENDING[case]
    if case == "a stream":
        body = b"2\r\nok\r\n0\r\n\r\n"
        upstream.answer = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    answer = proxy.exchange(request(*headers, line=line, close=False) + request())
    assert len(statuses(answer)) == 1


@pytest.mark.parametrize("key", [KEY, WRONG], ids=["right", "wrong"])
def test_the_system_asks_whether_a_client_is_still_there(proxy, key):
    with proxy.open(request(key=key, close=False)) as sock:
        read_until(sock, b"}")
        (channel,) = proxy.server._channels()
        assert channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest.mark.parametrize("client", ["requests", "http.client"])
def test_a_client_that_sends_all_before_it_reads_sees_the_answer(proxy, client):
    body = bytes(300_000)
    if client == "requests":
        headers = {"Authorization": f"Bearer {WRONG}"}
        for _ in range(3):
            reply = requests.post(f"{proxy.url}/v1/x", body, headers=headers, timeout=TIMEOUT)
            assert reply.status_code == 401
    else:
        for _ in range(3):
            assert proxy.request("POST", "/v1/x", body=body, key=WRONG).status == 401


@pytest.mark.parametrize("key", [None, WRONG], ids=["none", "wrong"])
def test_expect_gets_no_100_before_the_key_was_right(proxy, upstream, key):
    expect = ("Content-Length: 2", "Expect: 100-continue")
    with proxy.open(request(*expect, key=key, close=False)) as sock:
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer
    with proxy.open(request(*expect)) as sock:
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert statuses(read_all(sock)) == [200]
    assert [one.body for one in upstream.requests] == [b"{}"]


def test_pipelined_requests_are_answered_in_their_order(proxy, upstream):
    keys = [KEY, WRONG, KEY, None, KEY, KEY]
    data = b"".join(request(key=key, close=False) for key in keys[:-1]) + request()
    assert statuses(proxy.exchange(data)) == [200, 401, 200, 401, 200, 200]
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/health", "/v1/x"])
def test_who_reads_nothing_is_not_answered_further(proxy, path):
    """200 short requests in one packet would leave six megabytes of pages for each connection."""
    data = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", proxy.port))
        wait_for(proxy.server._channels, "the connection is accepted")
        (channel,) = proxy.server._channels()
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.sendall(data * 200 + request(key=None))
        most = [0, 0]

        def is_still() -> bool:
            before = list(most)
            most[:] = max(most[0], channel.total_outbufs_len), max(most[1], len(channel.requests))
            return before == most and not proxy.server.dispatcher.busy

        for _ in range(20):
            wait_for(is_still, "it goes on no more")
        assert most[0] < UNSENT + 3 * 40_000
        assert most[1] <= LOOKAHEAD + 1
        answer = read_all(sock)
    assert len(statuses(answer)) == 201
    assert statuses(answer)[-1] == 401


def test_a_pipelined_request_is_not_counted_as_the_client_of_the_one_before_it(upstream):
    """A reverse proxy says whose request it is, and may leave it out where it does not know."""
    answers, client = threading.Event(), "X-Forwarded-For: 192.0.2.1"

    def late(received):
        answers.wait(TIMEOUT)
        whole()(received)

    upstream.answer = late
    wrong = [request(key=WRONG, close=False) for _ in range(5)]
    with running_proxy(upstream, {"TRUSTED_PROXIES": "127.0.0.1"}) as proxy:
        with proxy.open(request(client, close=False) + b"".join(wrong) + request()) as sock:
            wait_for(lambda: upstream.requests, "the first request arrives")
            answers.set()
            assert statuses(read_all(sock)) == [200, *[401] * 5, 429]
        assert statuses(proxy.exchange(request(client))) == [200]


@pytest.fixture
def waiting(proxy, monkeypatch):
    """Have every key wait for a store; the store answers once the event is set."""
    guard, answers = proxy.server.state.guard, threading.Event()
    check = guard.check
    readers = []

    def slow(*args):
        readers.append(threading.current_thread().name)
        assert answers.wait(TIMEOUT)
        check(*args)

    monkeypatch.setattr(guard, "may_wait", lambda info: True)
    monkeypatch.setattr(guard, "check", slow)
    yield answers
    answers.set()
    assert "llmauth-sockets" not in readers


@pytest.mark.parametrize("key", [KEY, WRONG], ids=["right", "wrong"])
def test_while_one_waits_for_the_store_others_are_served(proxy, waiting, key):
    data = request("Content-Length: 2", "Expect: 100-continue", key=key)
    with proxy.open(data) as sock:
        assert proxy.request("GET", "/health").status == 200
        assert proxy.exchange(b"nonsense\r\n\r\n")
        assert not select.select([sock], [], [], 0)[0]  # no 100 either
        waiting.set()
        if key == KEY:
            assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"{}")
        assert statuses(read_all(sock)) == [200 if key == KEY else 401]


@pytest.mark.parametrize("key", [KEY, WRONG], ids=["right", "wrong"])
def test_the_thread_that_waited_for_the_store_goes_on_with_the_request(
    proxy, upstream, work, waiting, key
):
    waiting.set()
    assert statuses(proxy.exchange(request(key=key))) == [200 if key == KEY else 401]
    assert work["tasks"] == 1


def test_an_earlier_answer_brings_no_100_for_a_request_that_waits(proxy, waiting):
    with proxy.open(HEALTH + request("Content-Length: 2", "Expect: 100-continue")) as sock:
        head = read_until(sock, b'"ok"}\n')
        proxy.request("GET", "/health")
        assert not select.select([sock], [], [], 0)[0]
        waiting.set()
        assert b"HTTP/1.1 100 Continue" in head + read_until(sock, b"\r\n\r\n")
        sock.sendall(b"{}")
        assert statuses(read_all(sock)) == [200]


def test_what_follows_a_request_that_waits_is_not_lost(proxy, upstream, waiting):
    with proxy.open(b"".join(request_bytes(f"/v1/{n}") for n in range(3)) + request()) as sock:
        proxy.request("GET", "/health")
        waiting.set()
        assert statuses(read_all(sock)) == [200] * 4
    assert [one.target for one in upstream.requests] == ["/v1/0", "/v1/1", "/v1/2", "/v1/x"]


def test_a_client_may_leave_while_its_request_waits(proxy, waiting):
    with proxy.open(request()):
        proxy.request("GET", "/health")
    waiting.set()
    wait_for(lambda: not proxy.server._channels(), "the connection ends")
    wait_for(lambda: proxy.server.dispatcher.busy == 0, "its thread is free")


def test_a_store_that_hangs_does_not_hold_up_the_thread_that_reads(upstream):
    with contextlib.closing(Redis()) as redis:
        environ = {"BRUTE_FORCE_STORAGE_URI": redis.uri}
        with (
            running_proxy(upstream, environ) as proxy,
            redis.frozen(),
            contextlib.ExitStack() as stack,
        ):
            socks = [stack.enter_context(proxy.open(request(key=WRONG))) for _ in range(4)]
            assert proxy.request("GET", "/health").status == 200
            assert [statuses(read_all(one)) for one in socks] == [[401]] * 4
            assert proxy.request("GET", "/v1/x").status == 200


def test_a_verdict_that_cannot_be_had_lets_nobody_in(proxy, upstream, monkeypatch, caplog):
    def fails(*args):
        raise RuntimeError("a defect")

    monkeypatch.setattr(proxy.server.state.guard, "check", fails)
    for may_wait in (False, True):
        monkeypatch.setattr(proxy.server.state.guard, "may_wait", lambda info, it=may_wait: it)
        assert statuses(proxy.exchange(request())) == [500]
    assert not upstream.requests
    assert proxy.request("GET", "/health").status == 200


class Refused:
    """A connection with some requests that are refused."""

    def __init__(self, dispatcher: Dispatcher, left: int, answered: list[object]) -> None:
        self.dispatcher, self.left, self.answered = dispatcher, left, answered

    def service(self) -> None:
        self.answered.append(self)
        self.left -= 1
        if self.left:
            self.dispatcher.add_refusal(self)


def test_refusals_take_turns_and_the_thread_reads_in_between(monkeypatch):
    now = [0.0]

    def passes() -> float:
        now[0] += REFUSALS_SECONDS / 4
        return now[0]

    dispatcher, answered = Dispatcher(0), []
    first, second = (Refused(dispatcher, 5, answered) for _ in range(2))
    dispatcher.add_refusal(first)
    dispatcher.add_refusal(second)
    monkeypatch.setattr(time, "monotonic", passes)
    assert dispatcher.answer_refusals(REFUSALS_SECONDS)
    assert 0 < len(answered) < 10
    while dispatcher.answer_refusals(REFUSALS_SECONDS):
        pass
    assert answered == [first, second] * 5


def test_the_verdict_stays_whoever_asks(proxy):
    state = proxy.server.state
    environ = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/v1/x",
        "PATH_INFO": "/v1/x",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_AUTHORIZATION": f"Bearer {WRONG}",
    }
    first = state.admit_raw(environ)
    environ["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    state.guard.admit(first, environ, open=True, forwards=True, observe=print)
    second = state.admit_raw(environ)
    assert second is first is state.guard.info(environ)
    assert second.refusal is not None
    assert not second.admitted
