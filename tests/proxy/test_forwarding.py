"""Method, path, query, headers and body out; status, headers and raw bytes back."""

from __future__ import annotations

import gzip
import json
import socket

import pytest
from attack import request, statuses
from embedding import BEARER, application
from servers import KEY, PROVIDER_KEY, raw, request_bytes, running_proxy, whole

from llmauth import LLMAuth, proxy_blueprint

BODY = b'{"model": "m", "messages": []}'


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_the_method_arrives(proxy, upstream, method):
    assert proxy.request(method, "/v1/things", body=b"").status == 200
    assert upstream.requests[0].method == method


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/models", "/v1/models"),
        ("/v1/a%2Fb/%2e%2E/c", "/v1/a%2Fb/%2e%2E/c"),
        ("/v1//a/./../b;p=1", "/v1//a/./../b;p=1"),
        ("/v1/models?a=1&a=%20x+y&b", "/v1/models?a=1&a=%20x+y&b"),
        ("/v1/models?", "/v1/models?"),
        ("/v1/files?key=other&x=1", "/v1/files?key=other&x=1"),
        (f"/v1/files?key={KEY}&x=1", "/v1/files?x=1"),
        ("http://elsewhere.example/v1/models?q", "/v1/models?q"),
        ("/v1/m%C3%BCller", "/v1/m%C3%BCller"),
    ],
)
def test_path_and_query_arrive_byte_for_byte(proxy, upstream, sent, received):
    answer = proxy.exchange(request_bytes(sent, "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert upstream.requests[0].target == received


def test_raw_bytes_in_a_path_are_refused_by_the_server(proxy, upstream):
    answer = proxy.exchange(request_bytes("/v1/m\xfcller", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.requests == []


def test_headers_of_the_client_and_the_servers_key_arrive(proxy, upstream):
    headers = {
        "OpenAI-Beta": "x=1",
        "User-Agent": "someone/1.0",
        "Accept-Encoding": "gzip, br",
        "Content-Type": "application/json",
        "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Weird": "1",
        "X-Real-IP": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "Cookie": "session=1",
        "Connection": "close, X-Drop",
        "X-Drop": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic eDp5",
    }
    assert proxy.request("POST", "/v1/x", headers, BODY).status == 200
    (request,) = upstream.requests
    received = {name.lower(): value for name, value in request.headers}
    via = received.pop("via")
    assert via.startswith("1.1 llmauth-")
    assert received == {
        "host": f"127.0.0.1:{upstream.port}",
        "authorization": f"Bearer {PROVIDER_KEY}",
        "openai-beta": "x=1",
        "user-agent": "someone/1.0",
        "accept-encoding": "gzip, br",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
    }
    assert request.body == BODY


@pytest.mark.parametrize(
    ("lines", "received"),
    [
        (["Content-Type: application/json"] * 2, "application/json"),
        (["Content-Type: application/json"] * 3, "application/json"),
        (["content-type:application/json ", "Content-Type:\tapplication/json"], "application/json"),
        (["User-Agent: a/1 (b, c)"] * 2, "a/1 (b, c)"),
        (["anthropic-version: 2023-06-01"] * 2, "2023-06-01"),
        (["OpenAI-Organization: org"] * 2, "org"),
        (["Idempotency-Key: a"] * 2, "a"),
        (["Accept: a/b", "Accept: c/d"], "a/b, c/d"),
        (["anthropic-beta: a", "anthropic-beta: b", "anthropic-beta: a"], "a, b, a"),
        (["Content-Encoding: gzip"] * 2, "gzip, gzip"),
        (["Content-Type: a/b", "Content-Type: c/d"], "a/b, c/d"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} lines",
)
def test_a_line_that_says_the_same_once_more_says_nothing(proxy, upstream, lines, received):
    """Joined, it would be no media type, version or name any more."""
    name = lines[0].partition(":")[0]
    assert proxy.exchange(request_bytes("/v1/x", "Connection: close", *lines))[9:12] == b"200"
    assert upstream.requests[0].header(name) == received


def test_so_does_a_providers_key_of_the_clients_own(proxy, upstream):
    lines = ["Authorization: Bearer sk-own-0123456789"] * 2
    data = request(f"X-Proxy-Api-Key: {KEY}", *lines, key=None)
    assert statuses(proxy.exchange(data)) == [200]
    assert upstream.requests[0].header("authorization") == "Bearer sk-own-0123456789"


def test_no_header_is_invented(proxy, upstream):
    proxy.exchange(request_bytes("/v1/x", "Connection: close"))
    names = {name.lower() for name, _ in upstream.requests[0].headers}
    assert names == {"host", "authorization", "accept-encoding", "content-length", "via"}
    assert upstream.requests[0].header("accept-encoding") == "identity"


def test_connection_cannot_name_the_providers_key_away(proxy, upstream):
    proxy.request("GET", "/v1/x", {"Connection": "close, authorization, x-api-key"})
    assert upstream.requests[0].header("authorization") == f"Bearer {PROVIDER_KEY}"


@pytest.mark.parametrize(
    ("path", "own", "name", "value"),
    [
        ("/v1/x", {"Authorization": "Bearer sk-own"}, "authorization", "Bearer sk-own"),
        ("/anthropic/v1/messages", {"x-api-key": "sk-own"}, "x-api-key", "sk-own"),
        ("/gemini/v1beta/models", {"x-goog-api-key": "own"}, "x-goog-api-key", "own"),
        ("/v1/x", {}, "authorization", f"Bearer {PROVIDER_KEY}"),
        ("/v1/x", {"Authorization": f"Bearer {KEY}"}, "authorization", f"Bearer {PROVIDER_KEY}"),
    ],
    ids=["bearer", "x-api-key", "x-goog-api-key", "none", "the proxy key twice"],
)
def test_users_with_provider_keys_of_their_own(proxy, upstream, path, own, name, value):
    headers = {"X-Proxy-Api-Key": KEY} | own
    assert proxy.request("POST", path, headers, BODY, key=None).status == 200
    (request,) = upstream.requests
    assert request.header(name) == value
    assert KEY not in str(request.headers)


def test_an_own_key_in_a_gemini_query_arrives(proxy, upstream):
    headers = {"X-Proxy-Api-Key": KEY}
    proxy.request("POST", "/v1beta/models/m:generateContent?key=own&alt=sse", headers, key=None)
    assert upstream.requests[0].target == "/v1beta/models/m:generateContent?key=own&alt=sse"


@pytest.mark.parametrize(
    ("style", "header", "value"),
    [
        ("bearer", "authorization", "Bearer provider-secret"),
        ("x-api-key", "x-api-key", "provider-secret"),
        ("x-goog-api-key", "x-goog-api-key", "provider-secret"),
        ("api-key", "api-key", "provider-secret"),
    ],
)
def test_each_backend_gets_its_key_as_it_wants_it(upstream, tmp_path, style, header, value):
    file = tmp_path / "llmauth.yaml"
    file.write_text(f"backends: {{mine: {{base_url: '{upstream.url}/api', auth: {style}}}}}")
    environ = {"LLMAUTH_CONFIG": str(file), "MINE_API_KEY": "provider-secret"}
    with running_proxy(upstream, environ) as proxy:
        assert proxy.request("GET", "/mine/v2/x").status == 200
    assert upstream.requests[0].target == "/api/v2/x"
    assert upstream.requests[0].header(header) == value


@pytest.mark.parametrize(
    "status", ["200 OK", "201 Created", "404 Nope", "429 Slow", "500 Oops", "599 Own", "301 Moved"]
)
def test_status_and_body_come_back(proxy, upstream, status):
    where = f"{upstream.url}/v1/y" if status == "301 Moved" else "http://elsewhere/"
    upstream.answer = whole(b"\x00\xffbody", status, (f"Location: {where}", "X-Odd: \xe9"))
    answer = proxy.exchange(request_bytes("/v1/x", "Connection: close"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 " + status.encode()
    assert b"X-Odd: \xe9" in head
    assert body == b"\x00\xffbody"


def test_headers_come_back_unrenamed_and_hop_by_hop_ones_do_not(proxy, upstream):
    sent = (
        "Retry-After: 7",
        "retry-after-ms: 7000",
        "x-ratelimit-remaining-requests: 9",
        "request-id: req_provider",
        "X-Twice: a",
        "X-Twice: b",
        "Connection: X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Trailer: X",
        "Set-Cookie: a=b",
        "Access-Control-Allow-Origin: *",
        "X-Folded: a\r\n b",
    )
    upstream.answer = whole(b"{}", "200 OK", sent)
    reply = proxy.request("GET", "/v1/x")
    names = {name.lower(): value for name, value in reply.headers}
    assert names["retry-after"] == "7"
    assert names["retry-after-ms"] == "7000"
    assert names["x-ratelimit-remaining-requests"] == "9"
    assert names["request-id"] == "req_provider"
    assert names["x-folded"] == "a b"
    assert reply.header("x-twice") == "a, b"
    gone = {"x-hop", "keep-alive", "trailer", "set-cookie", "access-control-allow-origin"}
    assert not gone & names.keys()
    assert "x-request-id" not in names


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize(
    "lines",
    ["Content-Length: 5, 5", "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 05"],
    ids=["a list", "two lines", "leading zero"],
)
def test_a_length_said_in_another_way_arrives_as_one(proxy, upstream, lines, method):
    body = b"abcde" if method == "POST" else b""
    upstream.answer = raw(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode() + body, close=False)
    answer = proxy.exchange(request_bytes("/v1/x", "Connection: close", method=method))
    head, _, received = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    assert lengths == [b"Content-Length: 5"]
    assert received == body


@pytest.mark.parametrize("length", ["5, 6", "5,", "+5", "", "abc"])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_length_that_is_not_one_number_is_a_502(proxy, upstream, caplog, length, method):
    upstream.answer = raw(
        f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + b"abcde"
    )
    assert proxy.request(method, "/v1/x", body=b"{}").status == 502
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /v1/y\r\n\r\n",
    ],
    ids=["length", "chunks", "204", "500", "compressed", "redirect"],
)
@pytest.mark.parametrize("hosted", [False, True], ids=["alone", "in an application"])
def test_no_content_type_is_invented(proxy, upstream, answer, hosted):
    upstream.answer = raw(answer, close=False)
    if hosted:
        app = application(BACKENDS={"openai": {"base_url": upstream.url}})
        LLMAuth(app)
        app.register_blueprint(proxy_blueprint, url_prefix="/llm")
        reply = app.test_client().post("/llm/v1/x", data=b"{}", headers=BEARER)
        assert "content-type" not in reply.headers
        return
    assert proxy.request("POST", "/v1/x", body=b"{}").header("content-type") is None
    upstream.answer = whole(b"x", "200 OK", ("Content-Type: a/b", "Content-Type: a/b"))
    assert proxy.request("POST", "/v1/x", body=b"{}").header("content-type") == "a/b"


def test_compressed_bodies_stay_compressed(proxy, upstream):
    packed = gzip.compress(b"hello" * 1000)
    upstream.answer = whole(packed, "200 OK", ("Content-Encoding: gzip",))
    reply = proxy.request("GET", "/v1/x", {"Accept-Encoding": "gzip"})
    assert (reply.body, reply.header("content-encoding")) == (packed, "gzip")


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n', "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD"),
    ],
    ids=["204", "304", "304 with a length", "HEAD", "HEAD, chunks", "HEAD, no length"],
)
def test_answers_without_a_body(proxy, upstream, caplog, answer, method):
    upstream.answer = raw(answer, close=False)
    back = proxy.exchange(request_bytes("/v1/x", "Connection: close", method=method))
    assert back.split(b"\r\n")[0] == answer.split(b"\r\n")[0]
    assert back.endswith(b"\r\n\r\n")
    assert back.count(b"\r\n\r\n") == 1
    assert "too few bytes" not in caplog.text


def test_interim_answers_are_read_past(proxy, upstream):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    upstream.answer = raw(early + final, close=False)
    reply = proxy.request("GET", "/v1/x")
    assert (reply.status, reply.body) == (200, b"ok")
    assert reply.header("link") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    ],
    ids=["nothing", "nonsense", "two lengths", "101", "1xx storm", "huge header", "many headers"],
)
def test_an_upstream_that_does_not_speak_http_is_a_502(proxy, upstream, answer):
    upstream.answer = raw(answer)
    reply = proxy.request("POST", "/v1/x", body=BODY)
    assert reply.status == 502
    assert "openai" in reply.error["message"]
    assert str(upstream.port) not in reply.body.decode()
    assert len(upstream.requests) == 1


def test_an_upstream_that_refuses_connections_is_a_502(upstream):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with running_proxy(upstream, {"OPENAI_API_BASE_URL": url}) as proxy:
            reply = proxy.request("GET", "/v1/x")
    assert reply.status == 502
    assert "refuses connections" in reply.error["message"]


def test_an_unknown_host_is_a_502(upstream):
    environ = {"OPENAI_API_BASE_URL": "http://nowhere.invalid"}
    with running_proxy(upstream, environ) as proxy:
        reply = proxy.request("GET", "/v1/x")
    assert reply.status == 502
    assert "nowhere" not in reply.body.decode()


def test_a_proxy_that_calls_itself_answers_508(upstream):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    environ = {"OPENAI_API_BASE_URL": f"http://127.0.0.1:{port}"}
    with running_proxy(upstream, environ, port=port, disable_auth=True) as proxy:
        reply = proxy.request("GET", "/v1/models")
    assert (reply.status, reply.header("x-should-retry")) == (508, "false")


def test_connections_to_the_upstream_are_used_again(proxy, upstream):
    for _ in range(5):
        proxy.request("POST", "/v1/x", body=BODY)
    assert (len(upstream.requests), upstream.connections) == (5, 1)


def test_a_large_body_arrives_whole(proxy, upstream):
    body = bytes(range(256)) * 20_000
    assert proxy.request("POST", "/v1/files", body=body).status == 200
    assert upstream.requests[0].body == body


def test_a_chunked_body_arrives_with_its_length(proxy, upstream):
    head = request_bytes("/v1/x", "Transfer-Encoding: chunked", "Connection: close", body=b"")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    proxy.exchange(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert upstream.requests[0].body == b"abcde"


@pytest.mark.parametrize("also", [(), ("Expect: 100-continue",)], ids=["sent", "asked first"])
def test_a_body_over_the_limit_is_a_413(upstream, also):
    with running_proxy(upstream, max_request_body="64K") as proxy:
        head = request_bytes("/v1/x", "Connection: close", *also).replace(
            b"Content-Length: 2", b"Content-Length: 99999"
        )
        assert proxy.exchange(head).startswith(b"HTTP/1.1 413 ")
    assert upstream.requests == []


def test_a_password_in_the_base_url_is_sent_as_basic_and_nowhere_else(upstream):
    url = upstream.url.replace("//", "//user:pa%24s@")
    environ = {"MINE_API_BASE_URL": url}
    with running_proxy(upstream, environ) as proxy:
        assert proxy.request("GET", "/mine/x").status == 200
    assert upstream.requests[0].header("authorization") == "Basic dXNlcjpwYSRz"
    assert upstream.requests[0].header("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/messages", {}),
        ("/v1/models", {"anthropic-version": "2023-06-01"}),
        ("/v1beta/models/m:generateContent", {}),
        ("/v1/models", {"x-goog-api-key": KEY}),
        (f"/v1/models?key={KEY}", {}),
    ],
)
def test_without_a_provider_of_its_own_a_request_goes_to_the_default_backend(
    upstream, path, headers
):
    """Many a gateway speaks more than one dialect; an unconfigured provider would refuse anyway."""
    unused = {"ANTHROPIC_API_BASE_URL": "", "GEMINI_API_BASE_URL": ""}
    with running_proxy(upstream, unused) as proxy:
        assert proxy.request("GET", path, headers).status == 200
        assert KEY not in f"{upstream.requests[0].target} {upstream.requests[0].headers}"


@pytest.mark.parametrize(
    ("path", "headers", "backend"),
    [
        ("/v1/messages", {}, "/a/v1/messages"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "/a/v1/models"),
        ("/v1beta/models", {}, "/g/v1beta/models"),
        ("/v1/models/m:generateContent", {}, "/g/v1/models/m:generateContent"),
        ("/models/m:streamGenerateContent", {}, "/g/v1beta/models/m:streamGenerateContent"),
        ("/v1/models", {"x-goog-api-key": KEY}, "/g/v1/models"),
        ("/v1/models", {}, "/o/v1/models"),
        ("/anthropic/v1/x", {}, "/a/v1/x"),
        ("/gemini/models", {}, "/g/v1beta/models"),
    ],
)
def test_routing(upstream, path, headers, backend):
    environ = {
        "OPENAI_API_BASE_URL": f"{upstream.url}/o",
        "ANTHROPIC_API_BASE_URL": f"{upstream.url}/a",
        "GEMINI_API_BASE_URL": f"{upstream.url}/g",
    }
    with running_proxy(upstream, environ) as proxy:
        assert proxy.request("GET", path, headers).status == 200
    assert upstream.requests[0].target == backend


@pytest.mark.parametrize("size", [100_000, 700_000, 3_000_000], ids=["memory", "file", "cut"])
def test_a_large_body_is_captured_and_arrives_whole(tmp_path, upstream, size):
    text = "é" * (size // 2)
    body = json.dumps({"model": "big-1", "text": text}, ensure_ascii=False).encode()
    with running_proxy(upstream, capture_file=str(tmp_path / "capture")) as proxy:
        assert proxy.request("POST", "/v1/chat/completions", body=body).status == 200
    assert upstream.requests[0].body == body
    events = [json.loads(line) for line in (tmp_path / "capture").read_text().splitlines()]
    for event in events[:2]:
        assert event["content_length"] == len(body)
        assert event["model"] == "big-1"
        if size < 1024 * 1024:
            assert event["payload"] == json.loads(body)
        else:
            assert event["payload"].encode() == body[: len(event["payload"].encode())]
            assert event["metadata"]["note"] == "cut after 1048576 bytes"
