"""WebSocket handshakes: refused with 426, by which agents that try them first fall back to HTTP."""

from __future__ import annotations

import pytest
from attack import WRONG, request, statuses
from embedding import BEARER, application
from servers import KEY, whole

from llmauth import LLMAuth, proxy_blueprint

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
PATHS = ["/v1/responses", "/openai/v1/realtime?model=x", "/gemini/ws/x", "/opnai/v1/x", "/", "//x"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", PATHS)
def test_a_handshake_is_refused_with_426_whatever_it_asks_for(proxy, upstream, method, path):
    reply = proxy.request(method, path, HANDSHAKE)
    assert (reply.status, reply.error["code"]) == (426, "upgrade_required")
    assert (reply.header("upgrade"), reply.header("connection")) == ("HTTP/1.1", "Upgrade")
    assert reply.header("x-should-retry") == "false"
    assert "WebSocket" in reply.error["message"]
    assert reply.json()["request_id"] == reply.header("x-request-id")
    assert upstream.requests == []


HANDSHAKES = {
    "in capitals": {"Upgrade": "WebSocket", "Connection": "keep-alive, Upgrade"},
    "among others": {"Upgrade": "h2c, websocket", "Connection": "Upgrade"},
    "without Connection": {"Upgrade": "websocket"},
    "after a reverse proxy took Upgrade away": {"Sec-WebSocket-Key": "x", "Connection": "close"},
}


@pytest.mark.parametrize("case", HANDSHAKES)
def test_so_is_what_is_left_of_one(proxy, upstream, case):
    assert proxy.request("GET", "/v1/responses", HANDSHAKES[case]).status == 426
    assert upstream.requests == []


def test_the_key_is_asked_for_first(proxy):
    assert proxy.request("GET", "/v1/responses", HANDSHAKE, key=None).status == 401
    wrong = [proxy.request("GET", "/v1/x", HANDSHAKE, key=WRONG).status for _ in range(5)]
    assert wrong == [401] * 5
    assert proxy.request("GET", "/v1/responses", HANDSHAKE).status == 429


def test_the_connection_goes_on_over_http_unless_the_client_ends_it(proxy):
    handshake = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    get = "GET /v1/responses HTTP/1.1"
    again = proxy.exchange(request(*handshake, line=get, close=False) + request())
    assert statuses(again) == [426, 200]
    last = request("Upgrade: websocket", "Connection: Upgrade, close", line=get, close=False)
    answer = proxy.exchange(last + request())
    assert statuses(answer) == [426]
    assert b"\r\nConnection: close, Upgrade\r\n" in answer


def test_another_protocol_is_not_taken_up(proxy):
    """A server may go on with HTTP/1.1 (RFC 9110 §7.8)."""
    other = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMA"}
    assert proxy.request("GET", "/v1/models", other).status == 200


def test_an_upstreams_426_is_its_own(proxy, upstream):
    upstream.answer = whole(b"{}", "426 Upgrade Required", ("Upgrade: h2", "Connection: Upgrade"))
    reply = proxy.request("GET", "/v1/models")
    assert (reply.status, reply.body, reply.header("upgrade")) == (426, b"{}", None)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/llm/v1/responses", "/llm/", "/llm/openai/v1/realtime"])
def test_in_a_host_application_too(method, path):
    app = application()
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    client = app.test_client()
    assert client.open(path, method=method, headers=HANDSHAKE).status_code == 401
    refused = client.open(path, method=method, headers=HANDSHAKE | BEARER)
    assert (refused.status_code, refused.json["error"]["code"]) == (426, "upgrade_required")


def test_a_public_page_is_not_forwarded_for_it(proxy, upstream):
    assert proxy.request("GET", "/health", HANDSHAKE, key=None).status == 426
    assert proxy.request("GET", "/health", key=KEY).status == 200
    assert upstream.requests == []
