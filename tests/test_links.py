"""A client that follows a provider's URL with the proxy's key must end up at the proxy."""

from __future__ import annotations

import gzip
import json

import anthropic
import pytest
from flask import Flask
from servers import KEY, raw, running_proxy, whole

from llmauth import LLMAuth, proxy_blueprint
from llmauth.links import LARGEST_BODY, Here, origin_of
from llmauth.providers.backend import Backend
from llmauth.settings import BackendSettings

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
    assert proxy.server.state.lifecycle.drain(5.0) == 0


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
    here = Here(Backend(BackendSettings("x", base_url, "bearer", "X")), None, "/x")
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
