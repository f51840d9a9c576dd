"""Providers speak HTTPS: certificates, streams, and the proxies that lead to them."""

from __future__ import annotations

import base64
import contextlib
import datetime
import socket
import ssl
import threading

import pytest
import trustme
from programs import wait_for
from servers import (
    KEY,
    PROVIDER_KEY,
    TIMEOUT,
    Listener,
    Plain,
    Upstream,
    raw,
    read_all,
    request_bytes,
    running_proxy,
    whole,
)
from streams import EVENT, HEAD, Held, chunk, read_until
from urllib3.util.wait import wait_for_read

from llmauth.providers.backend import Backend
from llmauth.proxy.connector import Connector
from llmauth.proxy.upstream import Outgoing, UpstreamBroke, open_upstream
from llmauth.proxy.watch import Watch, unread

PROXY_PASSWORD = "password-of-the-company"


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


CERTIFICATES = {
    "expired": "expired",
    "of another name": "another name",
    "of nobody known": "unknown authority",
}
"""What is said of each."""


def certificate(authority: trustme.CA, kind: str) -> trustme.LeafCert:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    if kind == "expired":
        return authority.issue_cert("127.0.0.1", not_before=past, not_after=past.replace(month=2))
    if kind == "of another name":
        return authority.issue_cert("api.openai.com")
    return (trustme.CA() if kind == "of nobody known" else authority).issue_cert("127.0.0.1")


@pytest.mark.parametrize("kind", CERTIFICATES)
def test_a_bad_certificate_is_a_502_and_nothing_is_sent(authority, trusted, kind):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(authority, kind).configure_cert(context)
    provider = Upstream(context)
    with running_proxy(provider) as proxy:
        reply = proxy.request("POST", "/v1/x", body=b"{}")
        assert reply.status == 502
        assert CERTIFICATES[kind] in reply.error["message"]
        assert provider.requests == []
        wait_for(lambda: proxy.server.state.slots.used == 0, "the slot is still taken")
    provider.stop()


def test_an_upstream_that_speaks_no_tls():
    plain = Plain()
    environ = {"OPENAI_API_BASE_URL": f"https://127.0.0.1:{plain.port}"}
    with running_proxy(None, environ) as proxy:
        reply = proxy.request("POST", "/v1/x", body=b"{}")
    plain.stop()
    assert reply.status == 502
    assert "TLS" in reply.error["message"]


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


class ConnectProxy(Listener):
    """An HTTP proxy as companies have them: tunnels for those who know its password."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            head = read_until(sock, b"\r\n\r\n")
            self.heads.append(head)
            if PROXY_PASSWORD.encode() not in base64.b64decode(head.rpartition(b"Basic ")[2]):
                sock.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = head.split()[1].decode().partition(":")
            with socket.create_connection((host, int(port))) as upstream:
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(upstream, sock), daemon=True)
                back.start()
                _copy(sock, upstream)
                back.join(TIMEOUT)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def company():
    proxy = ConnectProxy()
    yield proxy
    proxy.stop()


def test_a_provider_is_reached_through_a_proxy_that_sees_no_key(provider, trusted, company):
    url = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{company.port}"
    provider.answer = Held(HEAD + chunk(EVENT), b"0\r\n\r\n")
    with running_proxy(provider, {"OPENAI_PROXY": url}) as proxy:
        assert PROXY_PASSWORD in str(proxy.server.state.settings.secrets)
        with proxy.open(request_bytes("/v1/x")) as sock:
            read_until(sock, EVENT)
            provider.answer.go_on.release()
            provider.answer.go_on.release()
            assert read_all(sock).endswith(b"0\r\n\r\n")
        provider.answer = whole()
        assert proxy.request("GET", "/v1/models").status == 200
    (head,) = company.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{provider.port} HTTP/1.".encode())
    assert PROVIDER_KEY.encode() not in head
    assert KEY.encode() not in head
    assert provider.requests[0].header("Proxy-Authorization") is None


@pytest.mark.parametrize("there", [True, False], ids=["wrong password", "not there"])
def test_a_proxy_that_does_not_let_through_is_a_502(provider, company, caplog, there):
    if not there:
        company.stop()
    url = f"http://u:w-secret@127.0.0.1:{company.port}"
    with running_proxy(provider, {"OPENAI_PROXY": url}) as proxy:
        reply = proxy.request("GET", "/v1/models")
    assert reply.status == 502
    assert "proxy" in reply.error["message"]
    assert "w-secret" not in caplog.text
    assert provider.requests == []


# How a connection ends (RFC 9112 §9.8)

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it"


def told(data: bytes):
    """Answer with these bytes, and say that they are all."""

    def answer(request) -> None:
        request.sock.sendall(data)
        request.sock.unwrap()

    return answer


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def ending(request, authority, trusted, company):
    """A provider that speaks one version of TLS, and the ways to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = request.param
    authority.issue_cert("127.0.0.1").configure_cert(context)
    provider = Upstream(context)
    url = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{company.port}"
    yield provider, {"direct": {}, "through a proxy": {"OPENAI_PROXY": url}}
    provider.stop()


WAYS = ["direct", "through a proxy"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [told, raw], ids=["told", "cut"])
def test_a_body_that_ends_with_the_connection_is_whole_only_if_the_end_is_told(ending, end, way):
    """An attacker on the line can cut a connection, but cannot say that it has ended."""
    provider, ways = ending
    provider.answer = end(UNFRAMED)
    with running_proxy(provider, ways[way]) as proxy:
        received = proxy.exchange(request_bytes("/v1/x"))
    assert b"all of it" in received
    assert received.endswith(b"0\r\n\r\n") == (end is told)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [told, raw], ids=["told", "cut"])
def test_the_same_where_a_thread_carries_the_answer(ending, end, way):
    provider, ways = ending
    provider.answer = end(UNFRAMED)
    with running_proxy(provider, ways[way]) as proxy:
        state = proxy.server.state
        backend = Backend(state.settings.backends["openai"])
        with contextlib.closing(open_upstream(backend, 1)) as upstream:
            incoming = upstream.send(Outgoing("GET", "/v1/x", {}), lambda: False)
            expected = contextlib.nullcontext() if end is told else pytest.raises(UpstreamBroke)
            with contextlib.closing(incoming), expected:
                assert b"".join(incoming.chunks()) == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        HEAD + chunk(EVENT) + b"0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["length", "chunks", "none"],
)
def test_an_answer_whose_length_is_known_is_whole_however_the_connection_ends(ending, answer):
    provider, _ = ending
    provider.answer = raw(answer)
    with running_proxy(provider) as proxy:
        reply = proxy.request("POST", "/v1/x", body=b"{}")
        assert (reply.status, reply.body) in [(200, b"abc"), (200, EVENT), (204, b"")]


def test_a_connection_that_ends_without_an_answer_is_a_502_that_says_so(ending):
    provider, _ = ending
    provider.answer = raw(b"")
    with running_proxy(provider) as proxy:
        reply = proxy.request("POST", "/v1/x", body=b"{}")
    assert reply.status == 502
    assert "it closed the connection without an answer" in reply.error["message"]


# What else comes on a connection


def kept(proxy) -> list:
    """Return the connections to the upstream that are kept for further requests."""
    upstream = proxy.server.state.forwarder._upstreams["openai"]
    return [sock for _, sock in upstream._connections._idle]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_what_comes_after_an_answer_over_tls_is_nobodys(ending, late, way):
    provider, ways = ending
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    # As long as a record of TLS, so that what comes after it is read by nobody.
    size = 16 * 1024 - len(b"HTTP/1.1 200 OK\r\nContent-Length: 16336\r\n\r\n")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size))
    # By the thread that reads, since TLS is not for two at a time.
    held = Held(answer, forged)
    provider.answer = held if late else raw(answer + forged, close=False)
    with running_proxy(provider, ways[way]) as proxy:
        assert len(proxy.request("POST", "/v1/first", body=b"{}").body) == size
        wait_for(lambda: proxy.server.state.slots.used == 0, "the slot was not given back")
        held.go_on.release()
        for sock in kept(proxy):
            # What is still on its way when the next request leaves nobody can know.
            wait_for(lambda sock=sock: wait_for_read(sock, 0), "nothing came")
        provider.answer = whole(b"own")
        assert proxy.request("POST", "/v1/second", body=b"{}").body == b"own"
        held.go_on.release()
    assert provider.connections == 2


def test_what_is_decrypted_already_is_seen_though_the_socket_does_not_show_it(provider, trusted):
    provider.answer = raw(b"two", close=False)
    watch = Watch(lambda: False, read_timeout=TIMEOUT)
    with Connector(provider.url, proxy=None, timeout=TIMEOUT).connect(watch) as sock:
        watch.send(sock, b"GET / HTTP/1.1\r\n\r\n")
        watch.until_readable(sock)
        while (first := unread(sock, 1)) is None:  # a ticket
            watch.until_readable(sock)
        assert (first, unread(sock), unread(sock)) == (b"t", b"wo", None)


def test_a_ticket_for_another_session_is_no_answer(ending):
    """A server may send some whenever it likes; the connection is used again."""
    provider, _ = ending
    with running_proxy(provider) as proxy:
        for _ in range(3):
            assert proxy.request("POST", "/v1/x", body=b"{}").status == 200
    assert provider.connections == 1


def test_a_large_body_goes_out_on_a_fresh_connection_though_tickets_wait_to_be_read(ending):
    provider, _ = ending
    body = bytes(range(256)) * 40_000
    with running_proxy(provider) as proxy:
        for _ in range(2):
            assert proxy.request("POST", "/v1/files", body=body).status == 200
    assert [request.body for request in provider.requests] == [body] * 2
    assert provider.connections == 1


def test_the_authorities_are_read_once(provider, trusted, monkeypatch):
    """Reading them for each connection, as urllib3 does, costs more than all the rest of it."""
    read = []
    load = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda *args: read.append(1) or load(*args)
    )
    with running_proxy(provider) as proxy:
        for _ in range(3):
            assert proxy.request("HEAD", "/v1/x").status == 200
    assert (provider.connections, len(read)) == (3, 1)
