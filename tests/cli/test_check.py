"""``llmauth check`` says in plain words what is wrong with a backend."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl

import pytest
import trustme
from servers import PROVIDER_KEY, Plain, Upstream, raw, whole

from llmauth.cli import check
from llmauth.config.loading import load
from llmauth.providers.base_url import fault_of

JSON = ("Content-Type: application/json",)


def verdict(variables: dict[str, str], name: str = "openai") -> str:
    """Return what is said of one backend; no secret is ever in it."""
    lines: list[str] = []
    check.run_checks(load(environ=variables), lines.append)
    assert PROVIDER_KEY not in "".join(lines)
    (line,) = [line for line in lines if line.startswith(f"backend {name}: ")]
    return line.partition(": ")[2]


def of(url: str, key: str | None = PROVIDER_KEY) -> str:
    return verdict({"OPENAI_API_BASE_URL": url} | ({"OPENAI_API_KEY": key} if key else {}))


@pytest.mark.parametrize(
    ("answer", "key", "said"),
    [
        (whole(b"{}", headers=JSON), PROVIDER_KEY, "ok"),
        (whole(b"{}", headers=JSON), None, "ok, without a key"),
        (whole(b"{}", "401 No"), None, "wants a key: set OPENAI_API_KEY"),
        (whole(b"{}", "401 No"), PROVIDER_KEY, "refuses the key in OPENAI_API_KEY (401)"),
        (whole(b"{}", "403 No"), PROVIDER_KEY, "refuses the key in OPENAI_API_KEY (403)"),
        (whole(b'{"m": "API key not valid"}', "400 No"), PROVIDER_KEY, "refuses the key"),
        (whole(b"{}", "404 No"), PROVIDER_KEY, "answers (404"),
        (whole(b"{}", "500 No"), PROVIDER_KEY, "an error of its own (500)"),
        (whole(b"{}", "429 No"), PROVIDER_KEY, "429"),
        (whole(b"", "301 Moved", ("Location: https://x/",)), PROVIDER_KEY, "redirects (301)"),
        (whole(b"<html>"), PROVIDER_KEY, "not with JSON"),
        (whole(b"sent to HTTPS port", "400 No"), PROVIDER_KEY, "must begin with https://"),
        (raw(b"SSH-2.0-OpenSSH\r\n\r\n"), PROVIDER_KEY, "did not answer with valid HTTP"),
        (raw(b""), PROVIDER_KEY, "closed the connection without an answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), PROVIDER_KEY, "broke off"),
    ],
)
def test_what_a_backend_answers(upstream, answer, key, said):
    upstream.answer = answer
    assert said in of(upstream.url, key)


@pytest.mark.parametrize(
    ("path", "said", "instead"),
    [
        ("/v1/chat/completions", "ends in '/chat/completions'", "/v1"),
        ("/v1/chat/completions/", "ends in '/chat/completions'", "/v1"),
        ("/v1/completions", "ends in '/completions'", "/v1"),
        ("/v1/responses", "ends in '/responses'", "/v1"),
        ("/v1/messages", "ends in '/messages'", "/v1"),
        ("/v1/models", "ends in '/models'", "/v1"),
        ("/v1/embeddings", "ends in '/embeddings'", "/v1"),
        ("/v1/images/generations", "ends in '/images/generations'", "/v1"),
        ("/v1/audio/transcriptions", "ends in '/audio/transcriptions'", "/v1"),
        ("/v1/chat", "ends in '/chat'", "/v1"),
        ("/v1/files", "ends in '/files'", "/v1"),
        ("/chat/completions", "ends in '/chat/completions'", ""),
        ("/api/paas/v4/chat/completions", "ends in '/chat/completions'", "/api/paas/v4"),
        ("/api/chat", "ends in '/api/chat'", ""),
        ("/v1beta/models/m:generateContent", "ends in '/models/m:generateContent'", "/v1beta"),
        ("/vi", "'/vi' in the base URL is no version", "/v1"),
        ("/vl", "'/vl' in the base URL is no version", "/v1"),
        ("/V1", "'/V1' in the base URL is no version", "/v1"),
        ("/v-1", "'/v-1' in the base URL is no version", "/v1"),
        ("/vv1", "'/vv1' in the base URL is no version", "/v1"),
        ("/v1.", "'/v1.' in the base URL is no version", "/v1"),
        ("/v", "'/v' in the base URL is no version", "/v1"),
        ("/1", "'/1' in the base URL is no version", "/v1"),
        ("/api/V4", "'/V4' in the base URL is no version", "/api/v4"),
        ("/vl/openai", "'/vl' in the base URL is no version", "/v1/openai"),
        ("/vlbeta", "'/vlbeta' in the base URL is no version", "/v1beta"),
        ("/V1Beta", "'/V1Beta' in the base URL is no version", "/v1beta"),
        ("/v1/v1", "two versions, '/v1/v1'", "/v1"),
    ],
)
def test_a_base_url_that_answers_and_cannot_be_meant(upstream, path, said, instead):
    upstream.answer = whole(b"{}", headers=JSON)
    found = of(upstream.url + path)
    assert said in found
    assert found.endswith(f"is it {upstream.url}{instead}?")
    assert not check.run_checks(load(environ={"OPENAI_API_BASE_URL": upstream.url + path}), print)
    assert upstream.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1", "/v1/", "/v2", "/v1beta", "/v1alpha1", "/v1beta/openai", "/v1/openai",
        "/api/paas/v4", "/inference", "/api", "/openai", "/v1.0", "/v1-openai", "/vol", "/video",
        "/serving-endpoints", "/v1/projects/p/locations/l/endpoints/openapi", "/gpt/v1", "/v8s",
        "/chat", "/team/1", "/models/llama", "/files", "/api/chats",
    ],
)  # fmt: skip
def test_a_base_url_that_can_be_meant_is_asked(upstream, path):
    upstream.answer = whole(b"{}", headers=JSON)
    assert of(upstream.url + path) == "ok"


def test_the_root_that_azure_calls_models_can_be_meant():
    assert fault_of("https://mine.services.ai.azure.com/models") is None
    assert fault_of("https://mine.example/models") is not None


def test_a_password_in_a_wrong_base_url_is_not_shown():
    assert "secret" not in (fault_of("https://user:secret@mine.example/vi") or "secret")


def test_a_port_where_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    said = of(f"http://127.0.0.1:{port}")
    assert "it refuses connections. Does it run, and at this port?" in said


def test_a_name_that_nobody_knows():
    assert "its name cannot be resolved. Check the base URL" in of("https://nobody.invalid")


def test_a_backend_that_takes_too_long(upstream, monkeypatch):
    monkeypatch.setattr(check, "CHECK_SECONDS", 0.3)
    upstream.answer = lambda request: None
    assert "did not answer in time" in of(upstream.url)


def test_a_connection_that_does_not_come_about(monkeypatch):
    """A listener whose queue is full lets further connections wait."""
    monkeypatch.setattr(check, "CHECK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(sock.getsockname())
        assert "did not answer in time" in of(f"http://127.0.0.1:{sock.getsockname()[1]}")


@contextlib.contextmanager
def tls_server(certificate: trustme.LeafCert):
    """Yield the URL of a server that offers a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    upstream = Upstream(context)
    upstream.answer = whole(b"{}")
    yield upstream.url
    upstream.stop()


EXPIRED = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("host", "not_after", "trusted", "said"),
    [
        ("127.0.0.1", None, True, "ok"),
        ("127.0.0.1", None, False, "its TLS certificate is"),
        ("127.0.0.1", EXPIRED, True, "its TLS certificate has expired"),
        ("other.example", None, True, "its TLS certificate is for another name"),
    ],
    ids=["trusted", "unknown authority", "expired", "other name"],
)
def test_certificates(tmp_path, monkeypatch, host, not_after, trusted, said):
    authority = trustme.CA()
    if trusted:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert(host, not_after=not_after)
    with tls_server(certificate) as url:
        found = of(url)
    assert said in found
    if not trusted:
        assert "REQUESTS_CA_BUNDLE" in found


def test_https_to_a_port_that_speaks_http():
    plain = Plain()
    said = of(f"https://127.0.0.1:{plain.port}")
    plain.stop()
    assert "it does not speak TLS. Does the base URL mean http://" in said


def test_http_to_a_port_that_speaks_tls():
    certificate = trustme.CA().issue_cert("127.0.0.1")
    with tls_server(certificate) as url:
        said = of(url.replace("https:", "http:"))
    assert "Does the base URL mean https://" in said


def test_built_in_backends_that_nobody_configured_take_one_line(upstream):
    upstream.answer = whole(b"{}", headers=JSON)
    lines: list[str] = []
    assert check.run_checks(load(environ={"OPENAI_API_BASE_URL": upstream.url}), lines.append)
    assert [line for line in lines if line.startswith("backend ")] == [
        "backend openai: ok, without a key",
        "backend echo: ok",
    ]
    (others,) = [line for line in lines if line.startswith("not configured: ")]
    assert "groq" in others


def test_where_models_are_public_the_key_itself_is_asked_about(upstream):
    upstream.answer = whole(b"{}", "401 No")
    url = {"OPENROUTER_API_BASE_URL": f"{upstream.url}/api/v1", "OPENROUTER_API_KEY": PROVIDER_KEY}
    said = verdict(url | {"LLM_BACKEND": "openrouter"}, "openrouter")
    assert "refuses the key in OPENROUTER_API_KEY" in said
    assert [request.target for request in upstream.requests] == ["/api/v1/key"]
