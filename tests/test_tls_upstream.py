"""Providers speak HTTPS: certificates, streams, and the proxies that lead to them."""

from __future__ import annotations

import socket
import ssl

import pytest
import trustme
from servers import KEY, TIMEOUT, Upstream, read_all, request_bytes, running_proxy, whole
from test_streams import EVENT, HEAD, Held, chunk, read_until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def provider(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    upstream = Upstream(context)
    yield upstream
    upstream.stop()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """Name the authority's certificate as an operator does."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))


def test_requests_go_out_over_tls_and_connections_are_used_again(provider, trusted):
    with running_proxy(provider) as proxy:
        for _ in range(3):
            assert proxy.request("POST", "/v1/chat/completions", body=b"{}").status == 200
    assert [request.body for request in provider.requests] == [b"{}"] * 3
    assert provider.connections == 1


def test_a_certificate_that_is_not_trusted_is_a_502_and_nothing_is_sent(provider):
    with running_proxy(provider) as proxy:
        reply = proxy.request("GET", "/v1/models")
    assert reply.status == 502
    assert "certificate is not trusted" in reply.error["message"]
    assert provider.requests == []


def test_each_chunk_arrives_before_the_next_is_sent(provider, trusted):
    provider.answer = Held(HEAD + chunk(EVENT), chunk(b"two"), b"0\r\n\r\n")
    with running_proxy(provider) as proxy, proxy.open(request_bytes("/v1/x")) as sock:
        read_until(sock, EVENT)
        provider.answer.go_on.release()
        read_until(sock, b"two")
        provider.answer.go_on.release()
        provider.answer.go_on.release()
        assert read_all(sock).endswith(b"0\r\n\r\n")


def test_an_answer_of_many_tls_records_arrives_whole(provider, trusted):
    body = bytes(range(256)) * 40_000
    provider.answer = whole(body)
    with running_proxy(provider) as proxy:
        assert proxy.request("GET", "/v1/x").body == body


def test_when_the_client_leaves_a_silent_provider_is_closed(provider, trusted):
    provider.answer = Held(HEAD + chunk(EVENT))
    with running_proxy(provider) as proxy:
        with proxy.open(request_bytes("/v1/x")) as sock:
            read_until(sock, EVENT)
        connection = provider.requests[0].sock
        connection.settimeout(TIMEOUT)
        assert connection.recv(1) == b""
        provider.answer.go_on.release()
