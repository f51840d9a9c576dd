"""What pages of other origins may do: nothing unless they are named; and then errors included."""

from __future__ import annotations

import pytest
from flask import Flask
from servers import KEY, raw, running_proxy, whole

from llmauth import ConfigurationError, LLMAuth
from llmauth.config.loading import Given, load

PAGE = "https://chat.example.com"
WRONG = "wrong-key-0123456789abcdefghij"
ASK = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture
def open_proxy(upstream):
    with running_proxy(upstream, cors_origins=f"{PAGE}, http://localhost:3000") as running:
        yield running


def cors_of(reply) -> dict[str, str]:
    return {k.lower(): v for k, v in reply.headers if k.lower().startswith("access-control-")}


def readable(reply) -> bool:
    """Whether a browser lets the page see the answer."""
    allowed = {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}
    return cors_of(reply) == allowed and "Origin" in (reply.header("vary") or "")


def test_without_the_setting_no_page_may_do_anything(proxy, upstream):
    asked = proxy.request("OPTIONS", "/v1/chat/completions", ASK, key=None)
    assert (asked.status, asked.error["code"]) == (403, "origin_not_allowed")
    assert PAGE in asked.error["message"]
    assert "CORS_ORIGINS" in asked.error["message"]
    assert upstream.requests == []
    answered = proxy.request("GET", "/v1/models", {"Origin": PAGE})
    assert answered.status == 200
    assert cors_of(asked) == cors_of(answered) == {}
    assert answered.header("vary") is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/anthropic/v1/messages", "/health"])
def test_a_preflight_of_a_named_page_needs_no_key(open_proxy, upstream, path):
    reply = open_proxy.request("OPTIONS", path, ASK, key=None)
    assert (reply.status, reply.body) == (204, b"")
    assert cors_of(reply) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
        "access-control-expose-headers": "*",
        "access-control-max-age": "600",
    }
    assert reply.header("vary") == "Access-Control-Request-Headers, Origin"
    assert reply.header("x-request-id")
    assert upstream.requests == []


PRIVATE = "access-control-allow-private-network"


@pytest.mark.parametrize(
    ("cors", "asked", "allowed"),
    [(PAGE, "true", True), (PAGE, None, False), (PAGE, "false", False), ("*", "true", False)],
    ids=["named", "not asked", "asked otherwise", "any page"],
)
def test_a_page_of_the_internet_reaches_a_private_address_where_it_is_named(
    upstream, cors, asked, allowed
):
    """Private Network Access: who lets in any page has not thought of this network."""
    wanted = {"Access-Control-Request-Private-Network": asked} if asked else {}
    with running_proxy(upstream, cors_origins=cors) as proxy:
        reply = proxy.request("OPTIONS", "/v1/models", ASK | wanted, key=None)
        answered = proxy.request("GET", "/v1/models", ASK | wanted)
        stranger = {"Origin": "https://evil.example"}
        refused = proxy.request("OPTIONS", "/v1/models", ASK | wanted | stranger, key=None)
    assert reply.status == 204
    assert cors_of(reply).get(PRIVATE) == ("true" if allowed else None)
    varies = "Access-Control-Request-Private-Network" in reply.header("vary")
    assert varies == (asked == "true")
    assert PRIVATE not in cors_of(answered) | cors_of(refused)


@pytest.mark.parametrize("cors", ["", PAGE, "*"], ids=["off", "named", "any"])
def test_what_a_browser_says_of_a_page_is_not_told_to_the_provider(upstream, cors):
    """Ollama answers 403 to an Origin, and Anthropic 401."""
    headers = {
        "Origin": PAGE,
        "Referer": f"{PAGE}/chat?id=1",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Dest": "empty",
        "Sec-CH-UA-Platform": "Linux",
        "HTTP-Referer": "https://app.example",
        "User-Agent": "Mozilla/5.0",
    }
    with running_proxy(upstream, cors_origins=cors) as proxy:
        reply = proxy.request("POST", "/v1/x", headers, b"{}")
    assert reply.status == 200
    assert readable(reply) == (cors == PAGE)
    (received,) = upstream.requests
    arrived = [name for name in headers if received.header(name)]
    assert arrived == ["HTTP-Referer", "User-Agent"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://chat.example.com.evil.example",
        "https://chat.example.co",
        "http://chat.example.com",
        "https://chat.example.com:8443",
        "https://CHAT.example.com",
        f"{PAGE}, https://evil.example",
        "null",
        "",
        "*",
    ],
)
def test_another_origin_gets_nothing(open_proxy, upstream, origin):
    asked = open_proxy.request("OPTIONS", "/v1/models", ASK | {"Origin": origin}, key=None)
    assert (asked.status, cors_of(asked)) == (403, {})
    answered = open_proxy.request("GET", "/v1/models", {"Origin": origin})
    assert (answered.status, cors_of(answered)) == (200, {})
    assert answered.header("vary") == "Origin"  # or a cache gives it to a page that is named
    assert len(upstream.requests) == 1


def test_preflights_never_count_even_with_a_guess_and_are_answered_during_a_block(open_proxy):
    for _ in range(9):
        guess = {"x-api-key": WRONG}
        assert open_proxy.request("OPTIONS", "/v1/x", ASK | guess, key=None).status == 204
    for _ in range(5):
        reply = open_proxy.request("POST", "/v1/x", {"Origin": PAGE}, b"{}", key=WRONG)
        assert reply.status == 401
        assert readable(reply)
    assert open_proxy.request("OPTIONS", "/v1/x", ASK, key=None).status == 204
    reply = open_proxy.request("POST", "/v1/x", {"Origin": PAGE}, b"{}")
    assert (reply.status, reply.error["code"]) == (429, "too_many_failed_attempts")
    assert reply.header("retry-after")
    assert readable(reply)


def test_a_page_reads_answers_streams_and_errors_of_the_provider(open_proxy, upstream):
    own = ("Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Vary: Y")
    upstream.answer = whole(b"{}", "429 Too Many Requests", (*own, "Retry-After: 7"))
    reply = open_proxy.request("POST", "/v1/x", {"Origin": PAGE}, b"{}")
    assert (reply.status, reply.header("retry-after")) == (429, "7")
    assert readable(reply)
    assert reply.header("vary") == "Y, Origin"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    upstream.answer = raw(head + b"data: 1\n\ndata: 2\n\n")
    reply = open_proxy.request("POST", "/v1/x", {"Origin": PAGE}, b"{}")
    assert reply.body == b"data: 1\n\ndata: 2\n\n"
    assert readable(reply)


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/v1/models", None, 401),
        ("GET", "/", KEY, 404),
        ("TRACE", "/v1/models", KEY, 405),
        ("BREW", "/v1/models", KEY, 405),
        ("GET", "/ollama/api/tags", KEY, 502),
        ("GET", "/health", None, 200),
        ("GET", "/docs", None, 200),
    ],
)
def test_a_page_reads_every_answer_of_ours(upstream, method, path, key, status):
    nobody = {"OLLAMA_API_BASE_URL": "http://127.0.0.1:1"}
    with running_proxy(upstream, nobody, cors_origins=PAGE) as proxy:
        reply = proxy.request(method, path, {"Origin": PAGE}, key=key)
    assert reply.status == status
    assert readable(reply)


def test_a_cookie_is_no_key_for_a_named_page_either(open_proxy, upstream):
    cookies = f"key={KEY}; Authorization=Bearer {KEY}; x-api-key={KEY}"
    reply = open_proxy.request("GET", "/v1/x", {"Origin": PAGE, "Cookie": cookies}, key=None)
    assert reply.status == 401
    assert "access-control-allow-credentials" not in cors_of(reply)
    assert upstream.requests == []


def test_the_wildcard_lets_every_page_in_that_has_the_key(upstream):
    with running_proxy(upstream, cors_origins="*") as proxy:
        asked = proxy.request("OPTIONS", "/v1/x", ASK | {"Origin": "null"}, key=None)
        assert (asked.status, cors_of(asked)["access-control-allow-origin"]) == (204, "*")
        refused = proxy.request("GET", "/v1/x", {"Origin": PAGE}, key=None)
        assert refused.status == 401
        assert cors_of(refused)["access-control-allow-origin"] == "*"


def test_headers_that_are_no_names_are_not_sent_back(open_proxy):
    ask = ASK | {"Access-Control-Request-Headers": 'x"><script>'}
    assert "access-control-allow-headers" not in cors_of(
        open_proxy.request("OPTIONS", "/v1/x", ask, key=None)
    )


def test_an_application_of_ones_own_answers_preflights_of_what_is_guarded():
    app = Flask(__name__)
    app.config.update(LLMAUTH_API_KEY=KEY, LLMAUTH_CORS_ORIGINS=[PAGE])
    app.add_url_rule("/own", "own", lambda: "own")
    LLMAuth(app)
    client = app.test_client()
    assert client.options("/own", headers=ASK).status_code == 204
    for headers, status in (({}, 401), ({"x-api-key": KEY}, 200)):
        answer = client.get("/own", headers={"Origin": PAGE} | headers)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert client.options("/own", headers=ASK | {"Origin": "https://x.example"}).status_code == 403


def test_an_application_without_the_setting_answers_preflights_of_exempt_views_itself():
    app = Flask(__name__)
    app.config["LLMAUTH_API_KEY"] = KEY
    auth = LLMAuth(app)
    app.add_url_rule("/free", "free", auth.exempt(lambda: "free"))
    answer = app.test_client().options("/free", headers=ASK)
    assert answer.status_code == 200
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "origins",
    [
        "https://chat.example.com",
        "http://localhost:3000",
        "http://[::1]:3000",
        "chrome-extension://abcdefghijklmnop",
        "tauri://localhost",
        "*",
        "https://xn--bcher-kva.example, http://127.0.0.1:5173",
    ],
)
def test_origins_that_are_taken(origins):
    settings = load(Given({"cors_origins": origins}), {"LLM_INTERACTIVE_PROXY_API_KEY": KEY})
    assert settings.cors_origins == tuple(origins.split(", "))


@pytest.mark.parametrize(
    ("origins", "said"),
    [
        ("https://a.example/", "browser sends as 'https://a.example'"),
        ("https://a.example:443", "browser sends as 'https://a.example'"),
        ("HTTPS://A.example", "browser sends as 'https://a.example'"),
        ("https://a.example/chat", "no path"),
        ("https://*.example.com", "no patterns"),
        ("a.example", "no origin"),
        ("https://b\u00fccher.example", "names in ASCII"),
        ("https://me:pass-secret@a.example", "no origin"),
        ("null", "any page can be"),
        ("*, https://a.example", "beside others"),
        (["https://a.example", 5], "is not a text"),
    ],
)
def test_origins_that_are_refused(origins, said):
    with pytest.raises(ConfigurationError) as caught:
        load(Given({"cors_origins": origins}), {"LLM_INTERACTIVE_PROXY_API_KEY": KEY})
    assert said in str(caught.value)
    assert str(caught.value).startswith("server.cors_origins (flag --cors-origin): ")
    assert "pass-secret" not in str(caught.value)


def test_the_wildcard_and_no_authentication_contradict_each_other():
    with pytest.raises(ConfigurationError, match="authentication is off"):
        load(environ={"DISABLE_AUTH": "1", "CORS_ORIGINS": "*"})
    assert load(environ={"DISABLE_AUTH": "1", "CORS_ORIGINS": PAGE}).cors_origins == (PAGE,)
