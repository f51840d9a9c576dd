"""What a request gets on a path that was configured to need no key: no more than was meant."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from flask import Flask, request
from servers import KEY, PROVIDER_KEY, Upstream, running_proxy

from llmauth import LLMAuth, proxy_blueprint
from llmauth.config.loading import load, warn

WRONG = KEY[::-1]
"""As long as the right one, so that neither the bytes nor their number may tell them apart."""


@pytest.fixture(scope="module")
def server():
    upstream = Upstream()
    environ = {
        "OPENAI_API_BASE_URL": f"{upstream.url}/o",
        "ANTHROPIC_API_BASE_URL": f"{upstream.url}/a",
        "ANTHROPIC_API_KEY": "sk-ant-provider-0123456789",
        "GEMINI_API_BASE_URL": f"{upstream.url}/g",
        "GEMINI_API_KEY": "AIzaprovider-0123456789",
    }
    paths = "/v1/models,/v1/messages,/v1beta/models,/openai/v1/models,/anthropic/v1/models"
    with running_proxy(upstream, environ, bypass_paths=paths) as proxy:
        upstream.answer = echoed
        yield upstream, proxy
    upstream.stop()


@pytest.fixture
def upstream(server):
    server[0].requests.clear()
    return server[0]


@pytest.fixture
def proxy(server, upstream):
    return server[1]


def echoed(received) -> None:
    """Answer with what came, as many upstreams do in their errors."""
    said = [f"{received.method} {received.target}", *map(str, sorted(received.headers))]
    body = "\n".join(said).encode() + received.body
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Request-Id: 1\r\n\r\n".encode()
    received.sock.sendall(head + (b"" if received.method == "HEAD" else body))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_need_a_key_like_every_path(proxy, upstream, method):
    for path in ("/v1/models", "/v1/messages", "/openai/v1/models"):
        reply = proxy.request(method, path, {"X-HTTP-Method-Override": "GET"}, key=None)
        assert reply.status == 401
    assert upstream.requests == []


def test_other_methods_are_forwarded_with_a_key(proxy, upstream):
    assert proxy.request("POST", "/v1/models", body=b"{}").status == 200
    assert [(r.method, r.body) for r in upstream.requests] == [("POST", b"{}")]


CHOOSING = {
    "Anthropic's version": {"anthropic-version": "2023-06-01"},
    "Google's key": {"x-goog-api-key": WRONG},
    "a provider's key": {"X-Proxy-Api-Key": WRONG, "Authorization": f"Bearer {WRONG}"},
    "all": {"anthropic-version": "1", "x-goog-api-key": WRONG, "X-Proxy-Api-Key": KEY},
}


@pytest.mark.parametrize("headers", CHOOSING.values(), ids=CHOOSING)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models", "/o/v1/models"),
        ("/v1/models?key=AIzaOther-0123456789", "/o/v1/models"),
        ("/v1/messages", "/o/v1/messages"),
        ("/v1beta/models", "/o/v1beta/models"),
        ("/openai/v1/models", "/o/v1/models"),
    ],
)
def test_neither_header_nor_path_nor_query_chooses_another_backend(
    proxy, upstream, method, path, target, headers
):
    assert proxy.request(method, path, headers, key=None).status == 200
    (one,) = upstream.requests
    assert (one.method, one.target) == (method, target)
    assert one.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert one.header("x-goog-api-key") is None


def test_a_path_that_names_another_backend_needs_a_key(proxy, upstream):
    assert proxy.request("GET", "/anthropic/v1/models", key=None).status == 401
    assert upstream.requests == []
    assert proxy.request("GET", "/anthropic/v1/models").status == 200
    assert upstream.requests[0].target == "/a/v1/models"


def test_that_a_path_names_another_backend_is_told_at_the_start(caplog):
    environ = {"BYPASS_PATHS": "/openai/v1/models,/anthropic/v1/models"}
    warn(load(environ=environ))
    (warning,) = [r.getMessage() for r in caplog.records if "bypass_paths" in r.getMessage()]
    assert "/anthropic/v1/models" in warning


def escaped(key: str) -> str:
    return "".join(f"%{ord(c):02x}" for c in key)


CARRIERS = {
    "bearer": ("", {"Authorization": "Bearer {}"}),
    "basic": ("", {"Authorization": "Basic {base64}"}),
    "x-api-key": ("", {"x-api-key": "{}"}),
    "x-goog-api-key": ("", {"x-goog-api-key": "{}"}),
    "api-key": ("", {"api-key": "{}"}),
    "own": ("", {"X-Proxy-Api-Key": "{}"}),
    "own, and another": ("", {"X-Proxy-Api-Key": "x", "Authorization": "Bearer {}"}),
    "two that may differ": ("", {"x-api-key": "{}", "Authorization": f"Bearer {KEY}"}),
    "auth token": ("", {"X-Auth-Token": "{}"}),
    "unknown header": ("", {"X-Whatever": "{}"}),
    "user agent": ("", {"User-Agent": "{}"}),
    "cookie": ("", {"Cookie": "key={}"}),
    "referer": ("", {"Referer": "http://x/?key={}"}),
    "key": ("?key={}", {}),
    "key between others": ("?a=b&key={}&c=d", {}),
    "key twice": (f"?key={KEY}&key={{}}", {}),
    "escaped value": ("?key={escaped}", {}),
    "escaped name": ("?%6b%65y={}", {}),
    "capitals": ("?KEY={}", {}),
    "api_key": ("?api_key={}", {}),
    "Google's apiKey": ("?$apiKey={}", {}),
    "access_token": ("?access_token={}", {}),
    "list": ("?key[]={}", {}),
    "semicolon": ("?a=b;key={}", {}),
    "header in the query": ("?$httpHeaders=x-goog-api-key:{}", {}),
    "with a key of one's own": ("?key={}", {"X-Proxy-Api-Key": KEY}),
}


@pytest.mark.parametrize(("query", "headers"), CARRIERS.values(), ids=CARRIERS)
@pytest.mark.parametrize("path", ["/v1/models", "/v1beta/models", "/openai/v1/models"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_answer_tells_whether_a_value_is_a_key(
    proxy, upstream, method, path, query, headers, caplog
):
    """The upstream answers with all that it received, which must not depend on it either."""

    def ask(key: str):
        forms = {
            "base64": base64.b64encode(f"user:{key}".encode()).decode(),
            "escaped": escaped(key),
        }
        filled = {name: value.format(key, **forms) for name, value in headers.items()}
        reply = proxy.request(method, path + query.format(key, **forms), filled, key=None)
        assert KEY not in f"{upstream.requests[-1]}"
        assert quote(KEY) not in f"{upstream.requests[-1]}"
        stable = [(name, value) for name, value in reply.headers if name != "Date"]
        return reply.status, stable, reply.body, upstream.requests[-1].target

    assert ask(KEY) == ask(WRONG)


def test_the_rest_of_the_query_arrives_as_it_was_sent(proxy, upstream):
    query = "limit=20&pageToken=a%2Fb+c&after_id=x&&flag&api_key=x&q=key"
    proxy.request("GET", f"/v1/models?{query}", key=None)
    assert upstream.requests[0].target == f"/o/v1/models?{query.replace('&api_key=x', '')}"


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Original-URL", "X-Rewrite-URL"]
)
def test_no_header_makes_the_upstream_serve_something_else(proxy, upstream, name):
    query = "a=b&$httpMethod=DELETE&_method=DELETE"
    headers = {name: "DELETE", "Accept": "a/b"}
    proxy.request("GET", f"/v1/models?{query}", headers, b"body", key=None)
    (one,) = upstream.requests
    assert (one.method, one.target) == ("GET", "/o/v1/models?a=b")
    assert (one.header(name), one.body, one.header("accept")) == (None, b"", "a/b")


def test_guesses_on_a_bypass_path_are_not_counted_and_a_right_key_clears_nothing(upstream):
    with running_proxy(upstream, bypass_paths="/v1/models") as proxy:
        for _ in range(9):
            assert proxy.request("GET", "/v1/models", key=WRONG).status == 200
        statuses = [proxy.request("GET", "/v1/x", key=f"{WRONG}{n}").status for n in range(4)]
        assert proxy.request("GET", "/v1/models").status == 200
        statuses += [proxy.request("GET", "/v1/x", key=f"{WRONG}{n}").status for n in range(4, 6)]
        assert statuses == [401] * 5 + [429]
        assert proxy.request("GET", "/v1/models", key=None).status == 200
        assert proxy.request("POST", "/v1/models", key=None).status == 429


def host(upstream, *paths: str) -> Flask:
    """An application that has the proxy below a prefix, and views of its own."""
    app = Flask(__name__)
    app.config |= {"LLMAUTH_API_KEY": KEY, "LLMAUTH_BYPASS_PATHS": list(paths)}
    app.config["LLMAUTH_BACKENDS"] = {"openai": upstream.url, "anthropic": upstream.url}
    methods = ["GET", "POST", "DELETE"]
    app.add_url_rule("/own", "own", lambda: request.method, methods=methods)
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    return app


def test_a_view_of_the_host_keeps_its_methods_and_the_proxy_does_not(upstream):
    client = host(upstream, "/own", "/llm/v1/models", "/llm/anthropic/v1/x").test_client()
    for method in ("GET", "POST", "DELETE"):
        assert client.open("/own", method=method).data == method.encode()
    statuses = {m: client.open("/llm/v1/models", method=m).status_code for m in ("GET", "HEAD")}
    assert statuses == {"GET": 200, "HEAD": 200}
    for method in ("POST", "DELETE", "OPTIONS"):
        assert client.open("/llm/v1/models", method=method).status_code == 401
    assert client.get("/llm/anthropic/v1/x").status_code == 401
    assert [r.method for r in upstream.requests] == ["GET", "HEAD"]
