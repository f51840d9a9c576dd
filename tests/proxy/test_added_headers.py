"""Headers that a backend wants: added to what goes there, and shown nowhere."""

from __future__ import annotations

import json

import pytest
from programs import wait_for
from servers import KEY, PROVIDER_KEY, raw, running_proxy, whole

SECRET = "gateway-pA4sW0rdOf2ndUser7xQz9"
OWN = "own-provider-key-0123456789"


@pytest.fixture
def gateway(upstream, tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text(f"""
backends:
  corp:
    base_url: {upstream.url}
    auth: Ocp-Apim-Subscription-Key
    headers:
      Helicone-Auth: Bearer env:GATE
      X-Team: research
""")
    environ = {"LLMAUTH_CONFIG": str(file), "GATE": SECRET, "CORP_API_KEY": PROVIDER_KEY}
    values = {"default_backend": "corp", "capture_file": str(tmp_path / "capture.jsonl")}
    with running_proxy(upstream, environ, bypass_paths=("/status",), **values) as proxy:
        yield proxy


def sent(upstream, name: str) -> str | None:
    return upstream.requests[-1].header(name)


def test_they_are_added_to_every_request(gateway, upstream):
    for method, path, key in (
        ("POST", "/v1/chat/completions", KEY), ("GET", "/corp/x", KEY), ("HEAD", "/status", None),
    ):  # fmt: skip
        assert gateway.request(method, path, key=key).status == 200
        assert sent(upstream, "helicone-auth") == f"Bearer {SECRET}"
        assert sent(upstream, "x-team") == "research"
        assert sent(upstream, "ocp-apim-subscription-key") == PROVIDER_KEY
        assert sent(upstream, "authorization") is None


def test_a_client_does_not_choose_them(gateway, upstream):
    headers = {"Helicone-Auth": "mine", "X-TEAM": "other", "ocp-apim-subscription-key": "mine"}
    assert gateway.request("POST", "/v1/x", headers, b"{}").status == 200
    assert sent(upstream, "helicone-auth") == f"Bearer {SECRET}"
    assert sent(upstream, "x-team") == "research"
    assert sent(upstream, "ocp-apim-subscription-key") == PROVIDER_KEY


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "Ocp-Apim-Subscription-Key"])
def test_who_brings_a_key_of_his_own_gets_the_headers_and_not_the_servers_key(
    gateway, upstream, name
):
    value = f"Bearer {OWN}" if name == "Authorization" else OWN
    headers = {"X-Proxy-Api-Key": KEY, name: value}
    assert gateway.request("POST", "/v1/x", headers, b"{}", key=None).status == 200
    assert sent(upstream, name) == value
    assert sent(upstream, "helicone-auth") == f"Bearer {SECRET}"
    sent_headers = dict(upstream.requests[-1].headers).values()
    assert PROVIDER_KEY not in sent_headers


def test_what_they_hold_is_shown_nowhere(gateway, upstream, tmp_path, caplog):
    caplog.set_level("DEBUG")
    said = json.dumps({"error": f"bad header Bearer {SECRET}"}).encode()
    upstream.answer = whole(said, "401 Unauthorized", (f"X-Saw: {SECRET}", "X-Team: research"))
    reply = gateway.request("POST", "/v1/x", body=b"{}")
    assert len(reply.body) == len(said)
    assert SECRET not in reply.body.decode() + str(reply.headers)
    assert reply.header("x-team") == "research"
    upstream.answer = raw(f"HTTP/1.1 {SECRET}\r\n\r\n".encode())
    assert SECRET not in gateway.request("POST", "/v1/x", body=b"{}").body.decode()
    capture = tmp_path / "capture.jsonl"
    wait_for(lambda: capture.read_text().count('"outbound_request"') == 2, "it is captured")
    assert SECRET not in capture.read_text() + caplog.text
    assert "research" in capture.read_text()


def test_one_header_by_environment(upstream):
    environ = {"OPENAI_HEADER": f"cf-aig-authorization: Bearer {SECRET}"}
    with running_proxy(upstream, environ) as proxy:
        assert proxy.request("POST", "/v1/x", body=b"{}").status == 200
    assert sent(upstream, "cf-aig-authorization") == f"Bearer {SECRET}"
    assert sent(upstream, "authorization") == f"Bearer {PROVIDER_KEY}"


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("", "/ollama/", "/"), ("", "/ollama", "/"), ("/v1", "/ollama/", "/"),
        ("/below", "/ollama/", "/below/"), ("", "/ollama/?x=1", "/?x=1"),
        ("", "/ollama/api/version", "/api/version"), ("", "/ollama/v1/models", "/v1/models"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ollama_tells_at_its_root_that_it_is_running(upstream, method, base, path, target):
    with running_proxy(upstream, {"OLLAMA_API_BASE_URL": f"{upstream.url}{base}"}) as proxy:
        assert proxy.request(method, path).status == 200
    assert upstream.requests[-1].target == target
