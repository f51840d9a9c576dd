"""People guess: at the base URL, the scheme, the key. The answer says what is wrong."""

from __future__ import annotations

import socket
import ssl

import anthropic
import openai
import pytest
from growth import ALLOWED, TIMES, growth
from hypothesis import given
from hypothesis import strategies as st
from servers import KEY, Upstream, request_bytes, running_proxy, whole

from llmauth.auth.advice import about_key
from llmauth.server import parser as intake

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f'"{KEY}"', "quotes"),
        (f"'{KEY}", "quotes"),
        (f"“{KEY}”", "quotes"),
        (f"{KEY}\\n", "line break"),
        (f"{KEY}%0D%0A", "line break"),
        ("$PROXY_KEY", "name of a variable"),
        ("${PROXY_KEY}", "name of a variable"),
        ("$env:PROXY_KEY", "name of a variable"),
        ("%PROXY_KEY%", "name of a variable"),
        ("<your key>", "placeholder"),
        ("YOUR_API_KEY", "placeholder"),
        ("sk-...", "placeholder"),
        ("DUMMY_KEY", "placeholder"),
        ("undefined", "placeholder"),
        (f"Bearer {KEY}", "stands alone"),
        (f"Bearer:{KEY}", "stands alone"),
        ("bearer", "stands alone"),
        ("LLM_INTERACTIVE_PROXY_API_KEY", "name of a variable"),
        ("${PROXY_KEY:-}", "name of a variable"),
        (f"LLM_INTERACTIVE_PROXY_API_KEY={KEY}", "name of a variable stands before"),
        ("your-key-here", "placeholder"),
        ("paste-your-key-here", "placeholder"),
        ("sk-xxxxxxxx", "placeholder"),
        ("changeme", "placeholder"),
        ("sk-ant-api03-0123456789", "Anthropic's"),
        ("sk-proj-0123456789", "OpenAI's"),
        ("AIzaSy0123456789", "Google's"),
        ("something-else-0123456789", "not this server's"),
    ],
)
def test_a_wrong_key_is_told_what_is_wrong_with_it(proxy, upstream, key, said):
    reply = proxy.request("GET", "/v1/models", {"x-api-key": key.encode()}, key=None)
    assert reply.status == 401
    assert said in reply.error["message"]
    assert KEY not in reply.error["message"]
    assert upstream.requests == []


@given(st.binary(max_size=200))
def test_no_part_of_a_key_is_repeated(token):
    said = about_key(token)
    assert said.isascii()
    if len(token) > 5:
        assert token.decode("latin-1") not in said


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        ("Basic dXNlcjpwYXNz", 401, "not with Basic"),
        ("Digest x", 401, "not with another scheme"),
        (KEY, 401, "one word"),
        ("Bearer", 400, "without a key"),
        (f"Bearer Bearer {KEY}", 400, "more than one token"),
        (f"Bearer Bearer {KEY}", 400, "because your client adds one by itself"),
        (f"Bearer bearer: {KEY}", 400, "because your client adds one by itself"),
        (f"Bearer {KEY} {KEY}", 400, "more than one token; send one."),
    ],
)
def test_another_scheme_is_told_the_right_one(proxy, value, status, said):
    reply = proxy.request("GET", "/v1/models", {"Authorization": value}, key=None)
    assert (reply.status, said in reply.error["message"]) == (status, True), reply.body


def test_white_space_around_a_key_does_no_harm(proxy):
    answer = proxy.exchange(
        request_bytes("/v1/models", "Connection: close").replace(
            KEY.encode(), b"  " + KEY.encode() + b"\t "
        )
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/openai", "/openai/v1/", "/v1/v1"])
def test_the_openai_sdk_with_any_base_url(proxy, upstream, suffix):
    upstream.answer = whole(b'{"object": "list", "data": []}')
    with openai.OpenAI(base_url=proxy.url + suffix, api_key=KEY, max_retries=0) as client:
        assert list(client.models.list()) == []
    assert [request.target for request in upstream.requests] == ["/v1/models"]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/anthropic", "/anthropic/v1"])
def test_the_anthropic_sdk_with_any_base_url(proxy, upstream, suffix):
    upstream.answer = whole(b'{"data": [], "has_more": false}')
    url = proxy.url + suffix
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        assert list(client.models.list()) == []
    assert [r.target.partition("?")[0] for r in upstream.requests] == ["/v1/models"]


@pytest.mark.parametrize(
    ("listening", "asked"),
    [("localhost", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")],
)
def test_localhost_and_ipv6(listening, asked):
    with running_proxy(None, default_backend="echo", host=listening) as proxy:
        url = f"http://{asked}:{proxy.port}/v1"
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            reply = client.chat.completions.create(model="echo-1", messages=HELLO)
    assert reply.choices[0].message.content == "echo: Hello"


def test_azures_client_finds_its_deployment(upstream):
    variables = {"AZURE_OPENAI_API_BASE_URL": upstream.url, "AZURE_OPENAI_API_KEY": "azure-key"}
    upstream.answer = whole(b'{"choices": []}', headers=("Content-Type: application/json",))
    with running_proxy(upstream, variables) as proxy:
        with openai.AzureOpenAI(
            azure_endpoint=f"{proxy.url}/azure-openai", api_key=KEY, api_version="2024-10-21"
        ) as client:
            client.chat.completions.create(model="mine", messages=HELLO)
    (request,) = upstream.requests
    path = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert request.target == path
    assert request.header("api-key") == "azure-key"
    assert request.header("authorization") is None


@pytest.fixture
def other():
    """The upstream of a backend that must not be asked."""
    server = Upstream()
    yield server
    server.stop()


def test_azures_client_at_the_root_goes_to_azure_when_that_is_the_default(upstream, other):
    """Measured before: the prompt went to the backend that is named openai."""
    variables = {"AZURE_OPENAI_API_BASE_URL": upstream.url, "AZURE_OPENAI_API_KEY": "azure-key"}
    upstream.answer = whole(b'{"choices": []}', headers=("Content-Type: application/json",))
    with running_proxy(other, variables, default_backend="azure-openai") as proxy:
        with openai.AzureOpenAI(
            azure_endpoint=proxy.url, api_key=KEY, api_version="2024-10-21"
        ) as client:
            client.chat.completions.create(model="mine", messages=HELLO)
            client.get("/models", cast_to=object)
    path = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert [r.target for r in upstream.requests] == [path, "/openai/models?api-version=2024-10-21"]
    assert upstream.requests[0].header("api-key") == "azure-key"
    assert other.requests == []


@pytest.mark.parametrize("base", ["", "/openai/v1"])
def test_groqs_client_at_the_root_goes_to_groq_when_that_is_the_default(upstream, other, base):
    variables = {"GROQ_API_BASE_URL": upstream.url + base, "GROQ_API_KEY": "groq-key-0123456789"}
    with running_proxy(other, variables, default_backend="groq") as proxy:
        reply = proxy.request("POST", "/openai/v1/chat/completions", body=b"{}")
    assert reply.status == 200
    (request,) = upstream.requests
    assert request.target == "/openai/v1/chat/completions"
    assert request.header("authorization") == "Bearer groq-key-0123456789"
    assert other.requests == []


def test_a_backend_that_nobody_configured_gets_no_prompt_without_a_key_of_its_own(upstream):
    nobody = {"ANTHROPIC_API_BASE_URL": "", "OPENAI_API_BASE_URL": "", "OPENAI_API_KEY": ""}
    variables = nobody | {"MINE_API_BASE_URL": upstream.url}
    with running_proxy(upstream, variables, default_backend="mine") as proxy:
        for name in ("anthropic", "openai", "groq"):
            reply = proxy.request("POST", f"/{name}/v1/messages", body=b"{}")
            assert reply.status == 404
            assert f"Set {name.upper()}_API_KEY there" in reply.error["message"]
            assert "X-Proxy-Api-Key" in reply.error["message"]
    assert upstream.requests == []


@pytest.mark.parametrize("suffix", ["", "/v1beta/openai", "/v1beta"])
@pytest.mark.parametrize("path", ["/v1beta/openai", "/openai", "/openai/v1"])
def test_googles_surface_for_openais_clients(upstream, suffix, path):
    variables = {"GEMINI_API_BASE_URL": upstream.url + suffix, "GEMINI_API_KEY": "google-key-01234"}
    upstream.answer = whole(b'{"object": "list", "data": []}')
    with running_proxy(upstream, variables) as proxy:
        url = f"{proxy.url}/gemini{path}"
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            assert list(client.models.list()) == []
    (request,) = upstream.requests
    assert request.target == "/v1beta/openai/models"
    assert request.header("authorization") == "Bearer google-key-01234"
    assert request.header("x-goog-api-key") is None


@pytest.mark.parametrize("prefix", ["/zai", "/zai/v1", "/zai/", "/zai/v1/"])
def test_a_backend_of_ones_own_is_the_root_that_its_base_url_says(upstream, prefix):
    upstream.answer = whole(b'{"object": "list", "data": []}')
    variables = {"ZAI_API_BASE_URL": f"{upstream.url}/api/paas/v4"}
    with running_proxy(upstream, variables) as proxy:
        with openai.OpenAI(base_url=proxy.url + prefix, api_key=KEY, max_retries=0) as client:
            assert list(client.models.list()) == []
    assert [request.target for request in upstream.requests] == ["/api/paas/v4/models"]


@pytest.mark.parametrize(
    "path", ["/v1//chat/completions", "/openai//v1/chat/completions", "/openai/chat//completions"]
)
def test_a_doubled_slash_is_as_one(proxy, upstream, path):
    assert proxy.request("POST", path, body=b"{}").status == 200
    assert [request.target for request in upstream.requests] == ["/v1/chat/completions"]


def test_https_to_the_port_that_speaks_http_ends_at_once_and_is_logged(proxy, caplog):
    intake._tell_of_tls.cache_clear()
    context = ssl._create_unverified_context()
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=15) as sock:
            with pytest.raises(ssl.SSLError, match="(?i)wrong.version.number"):
                context.wrap_socket(sock)
    warnings = [r.getMessage() for r in caplog.records if "speaks TLS" in r.getMessage()]
    assert len(warnings) == 1
    assert "http://" in warnings[0]


def test_a_handshake_that_comes_in_pieces_is_answered_in_plain_words(proxy):
    answer = proxy.exchange(b"\x16\x03\x01\x02\x00")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"use http:// in place of https://" in answer


@pytest.mark.parametrize("unit", [b"\\r", b"%0a", b"{{", b"$a", b"[", b"<", b"your-", b"sk-."])
def test_a_wrong_key_costs_in_proportion_to_its_length(unit):
    """The thread that reads for all clients says what is wrong with it."""
    small, large = unit * 200 + b"!", unit * 200 * TIMES + b"!"
    assert growth(lambda: about_key(small), lambda: about_key(large)) <= ALLOWED
