"""A client that follows a provider's URL with the proxy's key must end up at the proxy."""

from __future__ import annotations

import contextlib
import gzip
import json
import posixpath
import re
import tracemalloc
from urllib.parse import urljoin

import anthropic
import httpx
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from servers import KEY, Upstream, raw, request_bytes, running_proxy, whole

from llmauth import LLMAuth, proxy_blueprint
from llmauth.auth.request import outer_mount
from llmauth.config.settings import BackendSettings
from llmauth.exceptions import RedirectRefused, UpstreamUnreachable
from llmauth.providers.backend import Backend
from llmauth.proxy.rewrite import URLRewriter, origin_of
from llmauth.proxy.whole import LARGEST_BODY

RESULTS = "https://api.anthropic.com/v1/messages/batches/b1/results"
JSON = ("Content-Type: application/json",)


def batch(url: object = RESULTS) -> bytes:
    return json.dumps({"id": "b1", "type": "message_batch", "results_url": url}).encode()


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
def test_the_anthropic_sdk_fetches_results_through_the_proxy(proxy, upstream, prefix):
    """Measured without the rewriting: the SDK sends the proxy key to api.anthropic.com."""
    line = {"custom_id": "one", "result": {"type": "canceled"}}

    def answer(request):
        found = request.target.endswith("/results")
        whole(json.dumps(line).encode() + b"\n" if found else batch(), headers=JSON)(request)

    upstream.answer = answer
    with anthropic.Anthropic(base_url=proxy.url + prefix, api_key=KEY, max_retries=0) as client:
        results = list(client.messages.batches.results("b1"))
    assert [result.custom_id for result in results] == ["one"]
    targets = [request.target for request in upstream.requests]
    assert targets == ["/v1/messages/batches/b1", "/v1/messages/batches/b1/results"]
    assert KEY not in str([request.headers for request in upstream.requests])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages/batches/b1"),
        ("GET", "/messages/batches/b1"),
        ("GET", "/v1/messages/batches?limit=2"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/batches/b1/cancel"),
        ("GET", "/v1/messages/b%61tches/b1"),
        ("GET", "/v1/messages/batches/b1?beta=true"),
    ],
)
def test_every_answer_about_batches_points_here(proxy, upstream, method, path):
    body = b'{ "data":[' + batch() + b', {"results_url" : null}] }\n'
    upstream.answer = whole(body, headers=(*JSON, 'ETag: "1"'))
    reply = proxy.request(method, path, {"Accept-Encoding": "gzip"}, b"{}")
    assert reply.body == body.replace(b"https://api.anthropic.com", proxy.url.encode())
    assert reply.header("content-length") == str(len(reply.body))
    assert reply.header("etag") is None
    assert upstream.requests[0].header("accept-encoding") == "identity"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (RESULTS, "/v1/messages/batches/b1/results"),
        (RESULTS.upper().replace("/V1", "/v1"), "/v1/MESSAGES/BATCHES/B1/RESULTS"),
        ("http://elsewhere.example:8443/v1/r?a=1", "/v1/r?a=1"),
        ("//elsewhere.example/v1/r", "/v1/r"),
        ("https://elsewhere.example//other.example/r", "/other.example/r"),
    ],
)
def test_results_url_points_here_wherever_it_pointed(proxy, upstream, given, path):
    upstream.answer = whole(batch(given), headers=JSON)
    reply = proxy.request("GET", "/anthropic/v1/messages/batches/b1")
    assert reply.json()["results_url"] == f"{proxy.url}/anthropic{path}"


@pytest.mark.parametrize("url", [None, "", "/v1/here", "relative", 5])
def test_what_is_no_absolute_url_stays(proxy, upstream, url):
    upstream.answer = whole(batch(url), headers=JSON)
    assert proxy.request("GET", "/v1/messages/batches/b1").body == batch(url)


def test_escapes_are_understood_and_text_that_looks_like_a_field_stays(proxy, upstream):
    text = json.dumps('say "results_url": "https://api.anthropic.com/v1/x"').encode()
    body = b'{"results_url": "https:\\/\\/api.anthropic.com\\/v1\\/r", "note": ' + text + b"}"
    upstream.answer = whole(body, headers=JSON)
    reply = proxy.request("GET", "/v1/messages/batches/b1")
    assert reply.json()["results_url"] == f"{proxy.url}/v1/r"
    assert reply.body.endswith(text + b"}")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batches/b1/results", "/v1/files"])
def test_no_other_body_is_touched(proxy, upstream, path):
    upstream.answer = whole(batch(), headers=JSON)
    reply = proxy.request("GET", path, {"Accept-Encoding": "gzip", "anthropic-version": "1"})
    assert reply.body == batch()
    assert upstream.requests[0].header("accept-encoding") == "gzip"


def test_errors_about_batches_come_as_they_are(proxy, upstream):
    upstream.answer = whole(batch(), "404 No", headers=JSON)
    assert proxy.request("GET", "/v1/messages/batches/b1").body == batch()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (whole(gzip.compress(batch()), headers=("Content-Encoding: gzip",)), "compressed"),
        (whole(b" " * (LARGEST_BODY + 1)), "limit"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "broke off"),
    ],
    ids=["compressed", "too large", "broken"],
)
def test_what_cannot_be_looked_through_is_not_handed_on(proxy, upstream, answer, message):
    upstream.answer = answer
    reply = proxy.request("GET", "/v1/messages/batches/b1")
    assert reply.status == 502
    assert message in reply.error["message"]
    assert proxy.server.state.slots.drain(5.0) == 0


FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("trusted", "headers", "origin"),
    [
        (False, {}, "http://chat.example"),
        (True, FORWARDED, "https://chat.example"),
        (True, FORWARDED | {"X-Forwarded-Host": "outer.example:8443"}, "https://outer.example:8443"),
        (False, FORWARDED, None),
        (True, {"X-Forwarded-For": "203.0.113.9"}, None),
        (True, {"X-Forwarded-Proto": "gopher"}, None),
        (True, FORWARDED | {"X-Forwarded-Host": "a.example/path"}, None),
        (False, {"Forwarded": "proto=https"}, None),
        (False, {"Host": "user@chat.example"}, None),
        (False, {"Host": 'chat.example"'}, None),
        (False, {"Host": "[::1]:8000"}, "http://[::1]:8000"),
    ],
)
def test_the_origin_is_the_clients_own_or_unknown(trusted, headers, origin):
    """Unknown rather than http:// for an address that the client reached by https://."""
    sent = {name.lower(): value for name, value in ({"Host": "chat.example"} | headers).items()}
    assert origin_of(sent.get, "http", trusted=trusted) == origin


def test_behind_an_unknown_reverse_proxy_results_url_is_a_path_that_the_sdk_appends(
    proxy, upstream
):
    upstream.answer = whole(batch(), headers=JSON)
    path = "/anthropic/v1/messages/batches/b1"
    assert proxy.request("GET", path, FORWARDED).json()["results_url"] == RESULTS[25:]


def test_behind_a_trusted_reverse_proxy_it_is_the_outer_url(upstream):
    upstream.answer = whole(batch(), headers=JSON)
    with running_proxy(upstream, trusted_proxies="127.0.0.0/8") as proxy:
        headers = FORWARDED | {"Host": "chat.example"}
        reply = proxy.request("GET", "/v1/messages/batches/b1", headers)
    assert reply.json()["results_url"] == f"https://chat.example{RESULTS[25:]}"


@pytest.mark.parametrize(
    ("base_url", "location", "expected"),
    [
        ("https://api.x.example/v1", "https://api.x.example/v1/a?b=1#c", "/x/v1/a?b=1#c"),
        ("https://api.x.example/v1", "https://API.x.example:443/v1/a", "/x/v1/a"),
        ("https://api.x.example/v1", "http://api.x.example/v1/a", "/x/v1/a"),
        ("https://api.x.example/v1", "/v1/a/", "/x/v1/a/"),
        ("https://api.x.example", "https://api.x.example", "/x/"),
        ("https://api.x.example/api/v1", "https://api.x.example/api/v1/a", "/x/v1/a"),
        ("https://api.x.example/api/v1", "https://api.x.example/apis/a", "/x/apis/a"),
        ("https://api.x.example", "https://api.x.example//evil.example/a", "/x/evil.example/a"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/a", "/x/v1/a"),
        ("http://127.0.0.1:8080", "http://127.0.0.1/v1/a", None),
        ("https://api.x.example/v1", "https://storage.example/blob?sig=1", None),
        ("https://api.x.example/v1", "//storage.example/blob", None),
        ("https://api.x.example/v1", "next", None),
        ("https://api.x.example/v1", "https://[broken", None),
        ("https://api.x.example/v1", "", None),
    ],
)
@pytest.mark.parametrize("name", ["Location", "content-location", "Operation-Location"])
def test_a_redirect_inside_the_provider_stays_inside_the_proxy(name, base_url, location, expected):
    here = URLRewriter(Backend(BackendSettings("x", base_url, "bearer", "X")), None, "/x")
    assert here.location(name, location) == (location if expected is None else expected)


def test_a_redirect_that_a_client_follows_asks_the_proxy_again(proxy, upstream):
    """A server of the FastAPI kind redirects to the path with or without its slash."""
    location = f"Location: {upstream.url}/v1/models"
    upstream.answer = whole(b"", "307 Temporary Redirect", headers=(location,))
    assert proxy.request("GET", "/openai/v1/models/").header("location") == "/openai/v1/models"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/openai//v1/models/", "/openai/v1/models"),
        ("/v1//models/", "/v1/models"),
        ("/v1/v1/models/", "/v1/models"),
    ],
)
def test_a_slash_or_version_too_many_is_not_in_the_redirect(proxy, upstream, path, location):
    url = f"Location: {upstream.url}/v1/models"
    upstream.answer = whole(b"", "307 Temporary Redirect", headers=(url,))
    assert proxy.request("GET", path).header("location") == location


def test_in_a_host_application_the_url_holds_the_mount_point(upstream):
    app = Flask(__name__)
    app.config.update(
        LLMAUTH_API_KEY=KEY,
        LLMAUTH_BACKENDS={"anthropic": {"base_url": upstream.url}},
    )
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    upstream.answer = whole(batch(), headers=JSON)
    reply = app.test_client().get(
        "/llm/anthropic/v1/messages/batches/b1",
        headers={"x-api-key": KEY},
        environ_overrides={"SCRIPT_NAME": "/mounted"},
    )
    expected = "http://localhost/mounted/llm/anthropic/v1/messages/batches/b1/results"
    assert reply.json["results_url"] == expected


PREFIXED = FORWARDED | {"Host": "chat.example", "X-Forwarded-Prefix": "/llm"}


@pytest.fixture
def behind(upstream):
    with running_proxy(upstream, trusted_proxies="127.0.0.0/8") as proxy:
        yield proxy


def test_the_prefix_of_a_trusted_reverse_proxy_is_in_results_url(behind, upstream):
    upstream.answer = whole(batch(), headers=JSON)
    for backend in ("", "/anthropic"):
        reply = behind.request("GET", f"{backend}/v1/messages/batches/b1", PREFIXED)
        assert reply.json()["results_url"] == f"https://chat.example/llm{backend}{RESULTS[25:]}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Location: {}/v1/models", "/llm/openai/v1/models"),
        ("Location: /v1/models", "/llm/openai/v1/models"),
        ("Location: models", "models"),
        ("Content-Location: {}/v1/models", "/llm/openai/v1/models"),
        ("Operation-Location: {}/v1/x", "https://chat.example/llm/openai/v1/x"),
        ("Azure-AsyncOperation: {}/v1/x", "https://chat.example/llm/openai/v1/x"),
        ("Link: <{}/v1/x?p=2>; rel=next", "<https://chat.example/llm/openai/v1/x?p=2>; rel=next"),
        ("x-goog-upload-url: {}/upload/v1/x", "https://chat.example/llm/openai/upload/v1/x"),
    ],
    ids=lambda value: value.partition(":")[0],
)
def test_it_is_in_every_url_that_points_here(behind, upstream, header, expected):
    upstream.answer = whole(b"", "302 Found", headers=(header.format(upstream.url),))
    uploads = {"x-goog-api-client": "google-genai-sdk/1.0 gl-node/v22"}
    reply = behind.request("GET", "/openai/v1/models/", PREFIXED | uploads)
    assert reply.status == 302
    assert reply.header(header.partition(":")[0]) == expected


PREFIXES = {
    "/llm": "/llm",
    "/llm/": "/llm",
    "/": "",
    "": "",
    " /a/b-c.d_e~1/ ": "/a/b-c.d_e~1",
    "/m%C3%BCller": "/m%C3%BCller",
    "/a, /b": "/a/b",
    "/a/,/b/": "/a/b",
    "/llm, /llm": "/llm",
    "/a, ": "/a",
    # Junk
    "//evil.example": "",
    "/llm//x": "",
    "///": "",
    "llm": "",
    "https://evil.example/llm": "",
    "/llm?x=": "",
    "/llm#x": "",
    "/llm/../x": "",
    "/./llm": "",
    "/..": "",
    "/%2e%2E/x": "",
    "/a%2F%2fb": "",
    "/a%5Cb": "",
    "/a%0d%0aX: y": "",
    "/a%00": "",
    "/a%252e": "",
    "/a%zz": "",
    "/\\evil.example": "",
    "/a b": "",
    "/a\tb": "",
    '/a"b': "",
    "/<script>": "",
    "/\xfc": "",
    "/a, //evil.example": "",
    "/" + "a" * 300: "",
}


@pytest.mark.parametrize("said", PREFIXES)
def test_only_a_plain_path_is_believed(behind, upstream, said):
    upstream.answer = whole(b"", "302 Found", headers=("Location: /v1/models",))
    reply = behind.request("GET", "/v1/models/", {"X-Forwarded-Prefix": said})
    assert reply.header("location") == f"{PREFIXES[said]}/v1/models"


def test_each_of_two_reverse_proxies_adds_its_own(behind, upstream):
    upstream.answer = whole(b"", "302 Found", headers=("Location: /v1/models",))
    lines = ("Connection: close", "X-Forwarded-Prefix: /outer", "X-Forwarded-Prefix: /inner")
    answer = behind.exchange(request_bytes("/v1/models/", *lines))
    assert b"\r\nLocation: /outer/inner/v1/models\r\n" in answer


def test_nobody_else_says_where_this_server_is(proxy, upstream):
    upstream.answer = whole(b"", "302 Found", headers=("Location: /v1/models",))
    assert proxy.request("GET", "/v1/models/", PREFIXED).header("location") == "/v1/models"
    upstream.answer = whole(batch(), headers=JSON)
    reply = proxy.request("GET", "/v1/messages/batches/b1", PREFIXED)
    assert reply.json()["results_url"] == RESULTS[25:]
    assert upstream.requests[0].header("x-forwarded-prefix") is None


def test_it_stands_before_the_mount_point_and_counts_once_beside_proxy_fix():
    environ = {"SCRIPT_NAME": "/mounted", "HTTP_X_FORWARDED_PREFIX": "/llm"}
    assert outer_mount(environ, trusted=True) == "/llm/mounted"
    assert outer_mount(environ, trusted=False) == "/mounted"
    fixed = {"SCRIPT_NAME": "/llm", "HTTP_X_FORWARDED_PREFIX": "/llm"}
    fixed["werkzeug.proxy_fix.orig"] = {"SCRIPT_NAME": ""}
    assert outer_mount(fixed, trusted=True) == "/llm"


REDIRECTS = ["300 Choices", "301 Moved", "302 Found", "303 See Other", "307 Again", "308 For Good"]
ELSEWHERE = "https://evil.example/v1/models"


@pytest.mark.parametrize("status", [*REDIRECTS, "304 Same", "202 Later"])
def test_a_redirect_to_another_host_is_refused_and_the_host_named(proxy, upstream, status):
    """Measured without that: google-genai, curl and fetch carry the proxy's key there."""
    upstream.answer = whole(b"", status, headers=(f"Location: {ELSEWHERE}?secret=abc",))
    reply = proxy.request("POST", "/openai/v1/models", body=b"{}")
    assert (reply.status, reply.error["code"]) == (502, "redirect_refused")
    assert reply.header("x-should-retry") == "false"
    assert "'openai' redirects to evil.example, " in reply.error["message"]
    assert not {"abc", "secret", "/v1/models"} & set(reply.body.decode().split())
    assert "secret" not in reply.body.decode()
    assert reply.header("location") is None
    assert proxy.server.state.slots.drain(5.0) == 0


@pytest.mark.parametrize("status", ["200 OK", "201 Created"])
def test_a_success_stands_without_the_name_of_what_was_made_elsewhere(proxy, upstream, status):
    """Azure's clients would ask there whether it is ready."""
    headers = (f"Location: {ELSEWHERE}", f"Location: {upstream.url}/v1/y", "X-A: b")
    upstream.answer = whole(b"{}", status, headers=headers)
    reply = proxy.request("POST", "/openai/v1/x", body=b"{}")
    assert (str(reply.status), reply.body, reply.header("x-a")) == (status[:3], b"{}", "b")
    assert reply.header("location") == "/openai/v1/y"


@pytest.mark.parametrize(
    "header",
    [
        f"Operation-Location: {ELSEWHERE}",
        f"Azure-AsyncOperation: {ELSEWHERE}",
        f'Link: <{ELSEWHERE}>; rel="next"',
        f"Link: </style.css>; rel=preload, <{ELSEWHERE}>; title=more; REL=Next",
        f"Link: {ELSEWHERE}; rel=next",
        f'Link: <{ELSEWHERE}>; title="<"; rel="next"',
        f'Link: <{ELSEWHERE}>; title="a, <b>"; rel="next"',
        f'Link: </a>; title=", <{ELSEWHERE}>; rel=next"',
        f'Link: <{ELSEWHERE}>; rel="x a=b \\" next"',
        f"Link: <{ELSEWHERE}>; 'rel'=next",
        f"LOCATION: {ELSEWHERE}",
    ],
)
def test_so_is_whatever_else_clients_ask_with_their_key(proxy, upstream, header):
    upstream.answer = whole(b"{}", "202 Accepted", headers=(header,))
    reply = proxy.request("POST", "/openai/v1/x", body=b"{}")
    assert (reply.status, reply.error["code"]) == (502, "redirect_refused")
    assert "evil.example" in reply.error["message"]


@pytest.mark.parametrize(
    ("status", "header"),
    [
        ("404 No", f"Location: {ELSEWHERE}"),
        ("429 Wait", f'Link: <{ELSEWHERE}>; rel="next"'),
        ("200 OK", f"Content-Location: {ELSEWHERE}"),
        ("200 OK", f"X-Goog-Upload-URL: {ELSEWHERE}"),
        ("200 OK", f'Link: <{ELSEWHERE}>; rel="preload"'),
        ("200 OK", f'Link: <{ELSEWHERE}>; rel="sunset"; title="What comes next"'),
    ],
)
def test_what_nobody_asks_with_a_key_arrives_as_it_came(proxy, upstream, status, header):
    upstream.answer = whole(b"{}", status, headers=(header,))
    reply = proxy.request("GET", "/openai/v1/x")
    name, _, value = header.partition(": ")
    assert (str(reply.status), reply.header(name)) == (status[:3], value)


@pytest.mark.parametrize("header", ["x-goog-api-client", "user-agent"])
def test_a_client_that_sends_a_file_with_its_key_sends_it_here(proxy, upstream, header):
    """Google's for JavaScript, up to 1.x: the others send it without a key, or here anyway."""
    sdk = {header: "google-genai-sdk/1.9.0 gl-node/v22.1.0"}
    upload = "/upload/v1beta/files?upload_id=1"
    upstream.answer = whole(b"", headers=(f"X-Goog-Upload-URL: {upstream.url}{upload}",))
    reply = proxy.request("POST", "/upload/v1beta/files", sdk | {"x-goog-api-key": KEY}, b"{}")
    assert reply.header("x-goog-upload-url") == f"{proxy.url}/gemini{upload}"
    reply = proxy.request("POST", f"/gemini{upload}", {"x-goog-api-key": KEY}, b"file", key=None)
    assert (reply.status, upstream.requests[-1].target) == (200, upload)
    upstream.answer = whole(b"", headers=(f"X-Goog-Upload-URL: {ELSEWHERE}",))
    assert proxy.request("POST", "/gemini/upload/v1beta/files", sdk, b"{}").status == 502


FOREIGN = {
    "scheme-relative": "//evil.example/x",
    "three slashes": "///evil.example/x",
    "many slashes": "https:////evil.example",
    "one slash": "https:/evil.example",
    "no slash": "http:evil.example",
    "a backslash": "https:/\\evil.example",
    "two backslashes": "\\\\evil.example/x",
    "slash, backslash": "/\\evil.example/x",
    "a backslash after the host": "{own}\\@evil.example/",
    "userinfo": "https://127.0.0.1@evil.example/",
    "userinfo with the host": "http://{host}@evil.example/",
    "userinfo with a password": "http://a:b@{host}/",
    "another scheme": "ftp://{host}/x",
    "capitals": "HTTPS://EVIL.EXAMPLE/",
    "a trailing dot": "http://127.0.0.1.:{port}/x",
    "another port": "http://127.0.0.1:1/x",
    "no port": "http://127.0.0.1/x",
    "an empty port": "http://127.0.0.1:/x",
    "a long port": "http://127.0.0.1:00000000{port}/x",
    "a port too large": "http://127.0.0.1:99999/x",
    "a suffix": "{own}.evil.example/x",
    "a prefix": "http://evil-{host}/x",
    "an octal address": "http://0177.0.0.1:{port}/x",
    "a decimal address": "http://2130706433:{port}/x",
    "a tab at the start of the path": "/\t/evil.example/x",
    "a tab in the scheme": "ht\ttps://evil.example/x",
    "a tab in the host": "http://127.0.0.1\t.evil.example/x",
    "a space in the host": "http://127.0.0.1 .evil.example/x",
    "a space in the path": "/v1/a b",
    "non-ASCII in the host": "http://127.0.0.1\xad:{port}/x",
    "a full-width dot": "http://127\xef\xbd\xa10.0.1/x",
    "non-ASCII in the path": "/v1/\xfc",
    "a percent-encoded host": "http://%31%32%37.0.0.1:{port}/",
    "javascript": "javascript:alert(1)",
    "data": "data:text/html,x",
    "a path like a scheme": "v1:/x",
    "brackets": "http://[::1/x",
    "IPv6": "http://[::ffff:127.0.0.1]:{port}/x",
    "two in one": "/v1/x, https://evil.example/",
}


NAMELESS = ("a suffix", "two in one", "a backslash after the host")
"""Where no client would find the host that is meant."""


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("name", ["Location", "Operation-Location"])
def test_what_is_not_certainly_the_provider_is_another_host(proxy, upstream, case, name):
    host = f"127.0.0.1:{upstream.port}"
    url = FOREIGN[case].format(own=upstream.url, host=host, port=upstream.port)
    upstream.answer = whole(b"", "307 T", headers=(f"{name}: {url}",))
    reply = proxy.request("GET", "/openai/v1/x")
    assert (reply.status, reply.error["code"]) == (502, "redirect_refused")
    assert "@" not in reply.error["message"]
    if case in NAMELESS:
        assert "evil" not in reply.error["message"]
    elif "evil" in url.lower():
        assert "evil" in reply.error["message"]


def test_each_of_several_locations_counts(proxy, upstream):
    both = (f"Location: {upstream.url}/v1/y", f"Location: {ELSEWHERE}")
    for headers in (both, both[::-1]):
        upstream.answer = whole(b"", "307 T", headers=headers)
        assert proxy.request("GET", "/openai/v1/x").status == 502
    upstream.answer = whole(b"", "307 T", headers=("Location:", f"Location: {upstream.url}/v1/y"))
    assert proxy.request("GET", "/openai/v1/x").header("location") == ", /openai/v1/y"


@pytest.mark.parametrize(
    ("path", "location", "expected"),
    [
        ("/openai/v1/models/", "{own}/v1/models", "/openai/v1/models"),
        ("/openai/v1/models/", "//{host}/v1/models", "/openai/v1/models"),
        ("/openai/v1/models/", "{own}", "/openai/"),
        ("/openai/v1/models/", "{own}?page=2", "/openai/?page=2"),
        ("/openai/v1/models/", "https://{host}/v1/x", "/openai/v1/x"),
        ("/openai/v1/models/", "../x", "/openai/v1/x"),
        ("/openai/v1/models/", "../../../../anthropic/v1/x", "/openai/anthropic/v1/x"),
        ("/openai/v1/models/", "/../../anthropic/v1/x", "/openai/anthropic/v1/x"),
        ("/openai/v1/models/", "/%2e%2E/anthropic/v1/x", "/openai/anthropic/v1/x"),
        ("/openai/v1/models/", "/v1/a/..;b", "/openai/v1/"),
        ("/openai/v1/models/", "/..;/..;a/anthropic/v1;b", "/openai/anthropic/v1;b"),
        ("/openai/v1/models/", "{own}/./v1/.%2e/v1/y/..", "/openai/v1/"),
        ("/openai/v1/models/", "/..//evil.example", "/openai/evil.example"),
        ("/openai/v1/models/", "?page=2", "?page=2"),
        ("/openai/v1/models/", "next?a=http://b", "next?a=http://b"),
        ("/openai/v1/models/", "#top", "#top"),
        ("/openai/v1/models/", "", ""),
        ("/v1/models/", "/v1/models", "/v1/models"),
        ("/v1/models/", "/anthropic/v1/x", "/openai/anthropic/v1/x"),
        ("/v1/models/", "/health", "/openai/health"),
        ("/v1/models/", "/-/keys/alice", "/openai/-/keys/alice"),
        ("/openai/v1/x", "/v1/a?b=[1]|{{c}}", "/openai/v1/a?b=[1]|{c}"),
    ],
)
def test_a_redirect_inside_the_provider_never_leads_out_of_it(
    proxy, upstream, path, location, expected
):
    """Neither to another host, nor to another backend or a page of ours."""
    url = location.format(own=upstream.url, host=f"127.0.0.1:{upstream.port}")
    upstream.answer = whole(b"", "308 T", headers=(f"Location: {url}",))
    reply = proxy.request("GET", path)
    assert (reply.status, reply.header("location")) == (308, expected)


@pytest.mark.parametrize(
    ("path", "location", "expected"),
    [
        ("/openai", "anthropic/v1/x", "/openai/v1/anthropic/v1/x"),
        ("/models", "anthropic/v1/x", "/v1/anthropic/v1/x"),
        ("/models", "health", "/v1/health"),
        ("/models", "?page=2", "?page=2"),
        ("/openai/", "anthropic/v1/x", "anthropic/v1/x"),
    ],
)
def test_nor_does_one_that_is_relative_to_a_path_without_a_folder(
    proxy, upstream, path, location, expected
):
    upstream.answer = whole(b"", "307 T", headers=(f"Location: {location}",))
    assert proxy.request("DELETE", path).header("location") == expected


def test_what_clients_want_whole_is_a_whole_url_here(proxy, upstream):
    headers = (
        f"Azure-AsyncOperation: {upstream.url}/openai/operations/1",
        f'Link: </docs>; rel="help", <{upstream.url}/v1/x?page=2>; rel="next"',
    )
    upstream.answer = whole(b"", headers=headers)
    reply = proxy.request("POST", "/gemini/v1beta/x", body=b"")
    here = f"{proxy.url}/gemini"
    assert reply.header("azure-asyncoperation") == f"{here}/openai/operations/1"
    assert reply.header("link") == f'</docs>; rel="help", <{here}/v1/x?page=2>; rel="next"'


@pytest.mark.parametrize("environ", [{}, {"OPENAI_REDIRECTS": "hand-on"}])
def test_redirects_are_handed_on_for_who_needs_it(upstream, environ, tmp_path):
    given = {}
    if not environ:
        file = tmp_path / "config.yaml"
        file.write_text("backends:\n  openai: {redirects: hand-on}\n")
        given["LLMAUTH_CONFIG"] = str(file)
    with running_proxy(upstream, environ | given) as proxy:
        upstream.answer = whole(b"", "302 Found", headers=(f"Location: {ELSEWHERE}",))
        reply = proxy.request("GET", "/openai/v1/x")
        assert (reply.status, reply.header("location")) == (302, ELSEWHERE)
        upstream.answer = whole(b"", "302 Found", headers=(f"Location: {upstream.url}/v1/y",))
        assert proxy.request("GET", "/openai/v1/x").header("location") == "/openai/v1/y"


def test_a_client_that_follows_redirects_brings_its_key_to_nobody_else(proxy, upstream):
    other = Upstream()
    try:
        upstream.answer = whole(b"", "307 T", headers=(f"Location: {other.url}/v1/x",))
        with httpx.Client(follow_redirects=True) as client:
            reply = client.get(f"{proxy.url}/v1/x", headers={"x-goog-api-key": KEY})
        assert reply.status_code == 502
        assert other.requests == []
    finally:
        other.stop()


def test_a_path_with_batches_redirects_to_nothing_whose_answer_is_not_looked_through(
    proxy, upstream
):
    upstream.answer = whole(b"", "307 T", headers=("Location: /v1/files",))
    reply = proxy.request("GET", "/anthropic/v1/messages/batches/b1")
    assert reply.status == 502
    upstream.answer = whole(b"", "307 T", headers=("Location: /v1/messages/batches/",))
    reply = proxy.request("GET", "/anthropic/v1/messages/batches")
    assert reply.header("location") == "/anthropic/v1/messages/batches/"


@pytest.mark.parametrize("header", ["Refresh: 0; url=https://evil.example", "X-Accel-Redirect: /x"])
def test_what_browsers_and_reverse_proxies_would_obey_is_dropped(proxy, upstream, header):
    upstream.answer = whole(b"{}", headers=(header,))
    reply = proxy.request("GET", "/openai/v1/x")
    assert (reply.status, reply.header(header.partition(":")[0])) == (200, None)


@pytest.mark.parametrize(
    "url",
    [
        "https:/\\evil.example",
        "https:evil.example",
        " https://evil.example",
        "ht\ttps://evil.example",
        "\\\\evil.example",
        "https://a@evil.example",
        "javascript:x",
    ],
)
def test_a_results_url_that_clients_may_read_in_two_ways_is_taken_out(proxy, upstream, url):
    upstream.answer = whole(batch(url), headers=JSON)
    assert proxy.request("GET", "/v1/messages/batches/b1").json()["results_url"] is None


@pytest.mark.parametrize("name", [rb"results\u005furl", rb"\u0072\u0065sults\u005Furl"])
def test_a_results_url_whose_name_is_written_in_escapes_points_here_as_well(proxy, upstream, name):
    upstream.answer = whole(b'{"%b" :\r\n "%b"}' % (name, RESULTS.encode()), headers=JSON)
    url = proxy.request("GET", "/v1/messages/batches/b1").json()["results_url"]
    assert url == f"{proxy.url}/v1/messages/batches/b1/results"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_json_that_clients_read_in_another_encoding_is_not_handed_on(proxy, upstream, encoding):
    upstream.answer = whole(batch().decode().encode(encoding), headers=JSON)
    assert proxy.request("GET", "/v1/messages/batches/b1").status == 502


def test_nor_is_json_of_an_announced_other_encoding(proxy, upstream):
    for charset, status in (("utf-7", 502), ('"UTF-16"', 502), ("UTF-8", 200), ('"utf-8"', 200)):
        headers = (f"Content-Type: application/json; charset={charset}",)
        upstream.answer = whole(batch(), headers=headers)
        assert proxy.request("GET", "/v1/messages/batches/b1").status == status


HERE = URLRewriter(
    Backend(BackendSettings("anthropic", "https://api.anthropic.com/v1", "x-api-key", "X")),
    "http://127.0.0.1:8000",
    "",
)
HOSTILE_BODIES = {
    "one long URL": b'{"results_url": "' + b"a" * 8_000_000 + b'"}',
    "one long URL of escapes": b'{"results_url": "' + b"\\/" * 4_000_000 + b'"}',
    "no end": b'{"results_url": "' + b"a" * 8_000_000,
    "backslashes without an end": b'{"results_url": "' + b"\\" * 8_000_000,
    "blanks": b'{"results_url"' + b" " * 8_000_000 + b'"}',
    "blanks after the colon": b'{"results_url":' + b" " * 8_000_000,
    "many names": b'"results_url"' * 600_000,
    "many short URLs": b'{"results_url":"//a/"},' * 340_000,
    "many that are none": b'{"results_url":""},' * 400_000,
    "escapes": rb"\u0072" * 1_300_000,
}


@pytest.mark.parametrize("case", HOSTILE_BODIES)
def test_a_body_of_the_largest_size_is_looked_through_in_a_few_times_its_memory(case):
    """Measured with one expression for a whole string: 1.3 GB for 8 MB."""
    body = HOSTILE_BODIES[case]
    tracemalloc.start()
    try:
        with contextlib.suppress(UpstreamUnreachable):
            HERE._with_results_here(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * LARGEST_BODY


@pytest.mark.parametrize("case", ["one long URL", "no end", "backslashes without an end"])
def test_a_results_url_without_a_sane_end_is_not_handed_on(proxy, upstream, case):
    upstream.answer = whole(HOSTILE_BODIES[case], headers=JSON)
    reply = proxy.request("GET", "/v1/messages/batches/b1")
    assert reply.status == 502
    assert "results_url" in reply.error["message"]


PIECES = st.sampled_from(
    ["/", "//", "\\", ".", "..", "%2e", "%2E.", "http:", "https://", "HTTP://", "evil.example", "@",
     "127.0.0.1", ":8080", ":", "?", "#", "a", "v1", "anthropic", " ", "\t", "\n", "[", "]", ";"]
)  # fmt: skip
OURS = URLRewriter(
    Backend(BackendSettings("openai", "http://127.0.0.1:8080/above/v1", "bearer", "X")),
    "http://proxy.example",
    "/mount/openai",
)


@given(
    st.lists(PIECES, max_size=8).map("".join),
    st.sampled_from(["Location", "Operation-Location"]),
)
def test_wherever_a_redirect_leads_it_is_refused_or_leads_here(value, name):
    """As two libraries read it, one of them by the rules of browsers for dots."""

    class Redirect:
        status = 307
        headers = [(name, value)]
        close = staticmethod(lambda: None)

    incoming = Redirect()
    try:
        OURS.pointed(incoming, "GET", "/v1/models/")
    except RedirectRefused as refusal:
        assert "@" not in refusal.description
        return
    here = "http://proxy.example/mount/openai/v1/models/"
    shown = incoming.headers[0][1]
    for url in (urljoin(here, shown), str(httpx.URL(here).join(shown))):
        assert url.startswith("http://proxy.example/"), shown
        path = re.sub("%2e", ".", re.split("[?#]", url[20:])[0], flags=re.IGNORECASE)
        assert posixpath.normpath(path).startswith("/mount/openai"), shown
