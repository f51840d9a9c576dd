"""Paths against the bypass list and the router: what the guard decides on is what is forwarded."""

from __future__ import annotations

import re

import pytest
from attack import request, send, statuses
from hypothesis import example, given
from hypothesis import strategies as st
from servers import Upstream, running_proxy

from llmauth.auth.guard import PUBLIC_PATHS

BYPASS = "/v1/models"
BACKENDS = ("openai", "anthropic", "gemini")


@pytest.fixture(scope="module")
def server():
    upstream = Upstream()
    environ = {
        "OPENAI_API_BASE_URL": f"{upstream.url}/o",
        "ANTHROPIC_API_BASE_URL": f"{upstream.url}/a",
        "GEMINI_API_BASE_URL": f"{upstream.url}/g",
    }
    with running_proxy(upstream, environ, bypass_paths=BYPASS) as proxy:
        yield upstream, proxy
    upstream.stop()


RESEMBLING = [
    "/v1/models/", "/v1/models//", "//v1/models", "/v1//models", "/V1/models", "/v1/MODELS",
    "/v1/./models", "/./v1/models", "/v1/models/.", "/v1/models/..", "/v1/models/../files",
    "/v1/models/../../v1/files", "/v1/x/../models", "/v1/x/%2e%2e/models", "/v1/%2e/models",
    "/v1/models/%2e%2e/files", "/v1/models%2f..%2ffiles", "/v1/models%2F", "/v1%2fmodels",
    "/v1/models%252f..%252ffiles", "/v1/models/%252e%252e/files", "/v1/%6dodels", "/v1/model%73",
    "/v1/models\\..\\files", "/v1\\models", "/v1/models%5c..%5cfiles", "/v1/models;x=1",
    "/v1/models;/../files", "/v1/models%3b", "/v1/models%3f", "/v1/models%3fx", "/v1/models%23",
    "/v1/models%00", "/v1/models%00/files", "/v1/models%0a", "/v1/models%0d%0aX:%20y",
    "/v1/models%20", "/v1/models%09", "/v1/models.json", "/v1/models.", "/v1/models~",
    "/v1/models'",
    "/v1/%c0%ae%c0%ae/models", "/v1/models%c0%afx", "/v1/models/%uff0e%uff0e/files", "/v1/models&a",
    "/openai/v1/models", "/openai/models", "/models", "/anthropic/v1/models", "/gemini/v1/models",
    "/v1/models/gpt-4", "/v1/models:generateContent", "/v1/modelsx", "/xv1/models", "/v2/models",
    "/health/../v1/files", "/health%2f..%2fv1%2ffiles", "/health/..;/v1/files", "/docs/v1/models",
    "/healthz/v1/files", "/health?/v1/files/..", "/health;/../v1/files", "/HEALTH", "/health/",
    "/%68ealth", "//health", "/./health", "/openapi.json/", "/readyz%00", "/openai/health",
]  # fmt: skip


@pytest.mark.parametrize("path", RESEMBLING)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_only_resembles_a_public_one_needs_the_key(door, path, method):
    port, received, _ = door
    found = statuses(send(port, request(line=f"{method} {path} HTTP/1.1", key=None)))
    if path.startswith("/health?") and method == "GET":
        assert found == [200]  # the page itself, with a query
    else:
        assert len(found) == 1
        assert found[0] in (400, 401)
    assert received == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models",
        "/v1/models?a=/../files",
        "http://evil.example/v1/models",
        "http://a:1/v1/models",
    ],
)
def test_the_public_path_itself_goes_to_its_own_upstream_without_the_key(door, target):
    port, received, _ = door
    assert statuses(send(port, request(line=f"GET {target} HTTP/1.1", key=None))) == [200]
    (one,) = received
    assert one.target.partition("?")[0] == "/o/v1/models"
    assert (one.header("host") or "").startswith("127.0.0.1:")


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/v1/x", "http://a@b/v1/x", "https://a/v1/x", "http://[::1]:1/v1/x"],
)
def test_the_client_never_chooses_the_upstreams_host(server, target):
    upstream, proxy = server
    upstream.requests.clear()
    line = f"GET {target} HTTP/1.1"
    headers = (
        "X-Forwarded-Host: evil.example",
        "X-Original-URL: /v1/models",
        "X-Rewrite-URL: /health",
    )
    assert statuses(send(proxy.port, request(*headers, line=line, host="Host: evil.example"))) == [
        200
    ]
    (one,) = upstream.requests
    assert (one.target, one.header("host")) == ("/o/v1/x", f"127.0.0.1:{upstream.port}")


@pytest.mark.parametrize("method", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_the_method_is_that_of_the_request_line(server, method):
    upstream, proxy = server
    upstream.requests.clear()
    data = request(f"{method}: GET", line="POST /health HTTP/1.1", key=None)
    assert statuses(send(proxy.port, data)) == [401]


SEGMENTS = st.sampled_from(
    ["", ".", "..", "v1", "models", "health", "docs", "openai", "gemini", "anthropic", "files"]
    + ["%2e", "%2e%2e", "%2f", "%2F..%2f", "%252e", "\\", "%5c", ";x", "%00", "models%20", "a b"]
    + ["Models", "m:generateContent", "messages", "%6dodels", "%c3%a9", "*", "~", "@", "v1beta"]
)
PATHS = st.one_of(
    st.lists(SEGMENTS, max_size=6).map(lambda segments: "/" + "/".join(segments)),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map("/".__add__),
)
PREFIXES = st.sampled_from(["", "", "", "http://evil.example", "https://[::1]:8", "//x"])
QUERIES = st.sampled_from(["", "", "?", "?a=1", "?key=other", "?/../models", "?key=a&key=b"])
METHODS = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS"])


AMBIGUOUS = re.compile(r"(?i)/\.{1,2}(?:/|$)|%2e|%2f|%5c|%00|\\")
"""What two servers may read in two ways; without it, slashes that a client doubled are one."""


def own_path(target: str) -> str:
    """Return the path of a request target, as RFC 9112 §3.2 has it."""
    return re.sub(r"^https?://[^/?]*", "", target).partition("?")[0] or "/"


@given(METHODS, PREFIXES, PATHS, QUERIES)
def test_without_the_key_nothing_but_the_public_paths_is_served(
    server, method, prefix, path, query
):
    upstream, proxy = server
    upstream.requests.clear()
    target = f"{prefix}{path}{query}"
    (status,) = statuses(send(proxy.port, request(line=f"{method} {target} HTTP/1.1", key=None)))
    assert status < 500
    if upstream.requests:
        assert own_path(target) == BYPASS
        assert upstream.requests[0].target.partition("?")[0] == f"/o{BYPASS}"
    elif status < 400:
        assert own_path(target) in PUBLIC_PATHS or (method, own_path(target)) == ("OPTIONS", "/")


@example("GET", "", "/v1/v1/", "")
@example("GET", "/anthropic", "/v1/v1beta/v1/x", "")
@given(METHODS, PREFIXES, PATHS, QUERIES)
def test_the_upstream_receives_the_path_that_was_decided_on(server, method, prefix, path, query):
    upstream, proxy = server
    upstream.requests.clear()
    target = f"{prefix}{path}{query}"
    found = statuses(send(proxy.port, request(line=f"{method} {target} HTTP/1.1")))
    assert found[0] < 500
    if not upstream.requests:
        return
    (one,) = upstream.requests
    sent = own_path(target)
    name = next((name for name in BACKENDS if sent.startswith((f"/{name}/", f"/{name}?"))), None)
    if sent.removeprefix("/") in BACKENDS:
        name = sent.removeprefix("/")
    below = sent.removeprefix(f"/{name}") or "/" if name else sent
    below = re.sub(r"^(/v\d+(?:alpha|beta)?\d*)+(?=/v\d+(?:alpha|beta)?\d*(?:/|$))", "", below)
    received = one.target.partition("?")[0]
    root, rest = received[:2], received[2:]
    assert root in ("/o", "/a", "/g")
    assert name is None or root == f"/{name[0]}"
    if not AMBIGUOUS.search(sent):
        below, rest = (re.sub("/+", "/", path) for path in (below, rest))
    assert rest == below or re.fullmatch(r"/v1(?:beta)?", rest.removesuffix(below))
    assert one.method == method
