"""With authentication off: programs of this machine are served, web pages and strangers are not."""

from __future__ import annotations

import contextlib
import http.client
import socket

import pytest
from attack import request, send, statuses
from browser import FOREIGN_HOST, running_browser
from embedding import api_blueprint, application
from flask import Flask
from servers import Upstream, running_proxy, whole

from llmauth import LLMAuth, proxy_blueprint

PAGE = "https://chat.example.com"
LOCAL_PAGE = "http://localhost:3000"
NAMED = "http://llm.example.com:8000"
EXTENSION = "chrome-extension://abcdefghijklmnop"
ORIGINS = ",".join((PAGE, LOCAL_PAGE, NAMED, EXTENSION))


def running(**values):
    @pytest.fixture(scope="module")
    def fixture():
        upstream = Upstream()
        with running_proxy(upstream, disable_auth=True, cors_origins=ORIGINS, **values) as proxy:
            yield upstream, proxy
        upstream.stop()

    return fixture


local = running()
network = running(allow_unauthenticated_network=True)
behind = running(trusted_proxies="127.0.0.0/8")


def ask(server, *headers: str, method="POST", target="/v1/x", host: str | None = None):
    """Send a request of these headers; return its status and what is wrong with it."""
    upstream, proxy = server
    upstream.requests.clear()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port)) as connection:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if host is None or host:
            connection.putheader("Host", host or f"127.0.0.1:{proxy.port}")
        for header in headers:
            connection.putheader(*header.split(": ", 1))
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode()
    assert len(upstream.requests) == (response.status == 200 and target.startswith("/v1/"))
    return response.status, body


OWN_HOSTS = [
    "localhost", "localhost:8000", "LOCALHOST:1", "localhost.", "localhost.:80", "a.localhost:8000",
    "x.y.localhost", "127.0.0.1", "127.0.0.1:8000", "127.8.9.1:8000", "[::1]", "[::1]:8000",
    "[::ffff:127.0.0.1]:8000", "[0:0:0:0:0:0:0:1]", "0.0.0.0:8000", "[::]:8000",
    "host.docker.internal:8000", "host.containers.internal", socket.gethostname(),
    f"{socket.gethostname().upper()}:8000", "llm.example.com:8000", "LLM.example.com:8000",
]  # fmt: skip
PRIVATE_HOSTS = [
    "192.168.1.7:8000", "10.0.0.1", "172.17.0.1:8000", "[fd00::1]:8000", "[fe80::1]", "203.0.113.9",
    "llmauth", "llmauth:8000", "my_service:8000", "nas.local", "nas.local:8000", "box.lan",
    "llmauth.default.svc", "llmauth.default.svc.cluster.local", "llmauth.internal", "a.home.arpa",
]  # fmt: skip
FOREIGN_HOSTS = [
    "evil.example", "evil.example:8000", "EVIL.example", "evil.example.", "localhost.evil.example",
    "localhostevil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io:8000", "xlocalhost.com",
    "llm.example.com", "llm.example.com:8001", "localhost:8000:evil.example", "localhost@evil.com",
    "evil.example@localhost", "localhost, evil.example", "localhost evil.example", "localhost/x.c",
    "host.docker.internal.evil.example", "nas.local.evil.example", "evil.example#localhost",
    "[::1].evil.example", "evil.example:", ":8000", "[evil.example]", "a.internal.com", "::1.com",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_names_of_this_machine_are_fine(local, network, host):
    assert ask(local, host=host)[0] == 200
    assert ask(network, host=host)[0] == 200


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_names_that_no_page_can_have_are_fine_on_the_network(local, network, host):
    assert ask(local, host=host)[0] == 403
    assert ask(network, host=host)[0] == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_another_name_is_refused_for_a_page_could_let_it_point_here(local, network, host, method):
    """DNS rebinding: to the browser such a page is of the same origin, and it says no other."""
    for server in (local, network):
        status, body = ask(server, "Sec-Fetch-Site: same-origin", method=method, host=host)
        assert status == 403
        assert "CORS_ORIGINS" in body
        assert ask(server, f"Origin: http://{host}", method=method, host=host)[0] == 403


def test_a_client_that_names_no_host_is_no_browser(local):
    data = request(line="GET /v1/x HTTP/1.0", host=None, key=None)
    assert statuses(send(local[1].port, data)) == [200]


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://evil.example/v1/x", "localhost", 403),
        ("http://localhost/v1/x", "evil.example", 403),
        ("HTTP://EVIL.example:8000/v1/x", "localhost", 400),
        ("https://evil.example/v1/x", "localhost", 403),
        ("http://localhost@evil.example/v1/x", "localhost", 403),
        ("http://localhost:8000/v1/x", "127.0.0.1", 200),
        ("http://[::1]:8000/v1/x", "localhost", 200),
    ],
)
def test_the_host_of_a_whole_url_counts_as_well(local, target, host, status):
    upstream, proxy = local
    upstream.requests.clear()
    data = request(line=f"GET {target} HTTP/1.1", host=f"Host: {host}", key=None)
    assert statuses(send(proxy.port, data)) == [status]
    assert len(upstream.requests) == (status == 200)


FOREIGN_ORIGINS = [
    "https://evil.example", "null", "", "file://", "http://localhost", "http://localhost:3001",
    "https://localhost:3000", "http://127.0.0.1", "http://127.0.0.1.evil.example", "http://[::1]",
    "https://chat.example.com.evil.example", "http://chat.example.com", "http://llm.example.com",
    f"{PAGE}, https://evil.example", "chrome-extension://zzz", "*", "http://",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_another_origin_are_refused(local, network, origin, method):
    """As a page sends it without asking first, in text/plain."""
    for server in (local, network):
        headers = (f"Origin: {origin}", "Content-Type: text/plain;charset=UTF-8")
        status, body = ask(server, *headers, method=method)
        assert status == 403
        assert "CORS_ORIGINS" in body


@pytest.mark.parametrize("origin", [PAGE, LOCAL_PAGE, EXTENSION])
def test_pages_that_were_named_are_not_foreign(local, network, origin):
    for server in (local, network):
        assert ask(server, f"Origin: {origin}", "Sec-Fetch-Site: cross-site")[0] == 200
        preflight = (f"Origin: {origin}", "Access-Control-Request-Method: POST")
        assert ask(server, *preflight, method="OPTIONS")[0] == 204


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pages_of_this_server_are_not_foreign(local, host, scheme):
    """The page at /docs for one."""
    own = f"Origin: {scheme}://{host}"
    assert ask(local, own, "Sec-Fetch-Site: same-origin", host=host)[0] == 200
    assert ask(local, own, "Sec-Fetch-Site: cross-site", host=host)[0] == 403


@pytest.mark.parametrize(
    ("site", "status"),
    [
        ("none", 200),
        ("same-origin", 200),
        ("same-site", 403),
        ("cross-site", 403),
        ("Cross-Site", 403),
        ("none, cross-site", 403),
        ("new-word", 403),
    ],
)
@pytest.mark.parametrize("mode", ["navigate", "no-cors", "cors"])
def test_where_a_browser_says_that_a_request_comes_from(local, network, site, status, mode):
    for server in (local, network):
        assert ask(server, f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")[0] == status


FORWARDING = [
    "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: junk",
    "X-Forwarded-Proto: https", "X-Forwarded-Host: localhost", "X-Forwarded-Port: 443",
    "X-Forwarded-Server: a", "X-Forwarded: for=127.0.0.1", "Forwarded: for=::1", "Forwarded: x",
    "X-Original-Forwarded-For: 127.0.0.1", "X-Vercel-Forwarded-For: ::1", "X-Real-IP: 127.0.0.1",
    "X-Client-IP: ::1", "Client-IP: ::1", "True-Client-IP: ::1", "CF-Connecting-IP: ::1",
    "CF-Ray: 1", "Fastly-Client-IP: ::1", "Fly-Client-IP: ::1", "X-Cluster-Client-IP: ::1",
    "X-Azure-ClientIP: ::1", "X-Azure-SocketIP: ::1", "X-Envoy-External-Address: ::1",
    "X-Remote-Addr: ::1", "X-Original-Host: localhost", "Tailscale-User-Login: a@b",
    "CDN-Loop: a", "Via: 1.1 squid", "Via: 1.1 llmauth-0, 1.1 squid", "Via: ",
]  # fmt: skip


@pytest.mark.parametrize("header", FORWARDING)
def test_who_comes_through_a_proxy_is_not_on_this_machine(local, behind, header):
    """Whatever it says: it is not trusted. One that is has to say so in X-Forwarded-For."""
    for server in (local, behind):
        status, body = ask(server, header)
        if server is behind and header == "X-Forwarded-For: 127.0.0.1":
            assert status == 200
            continue
        assert status == 403
        assert "ALLOW_UNAUTHENTICATED_NETWORK" in body
        assert ("TRUSTED_PROXIES" in body) == (server is local)
        assert ask(server, header, method="GET", target="/health")[0] == 200


def test_on_the_network_it_does_not_matter(network):
    assert ask(network, "X-Forwarded-For: 203.0.113.9", "Via: 1.1 squid")[0] == 200
    assert ask(network, "X-Forwarded-Host: evil.example")[0] == 403


def test_a_server_like_this_one_has_looked_for_itself(local):
    """Two in a row, of which the first asks for the key."""
    assert ask(local, "Via: 1.1 llmauth-0123456789abcdef")[0] == 200
    assert ask(local, "Via: 1.1 squid, 1.1 llmauth-0123456789abcdef")[0] == 200


@pytest.mark.parametrize("path", ["/health", "/readyz", "/docs", "/openapi.json"])
def test_public_pages_are_there_for_everyone(local, path):
    """They hold no data, and probes ask by address."""
    for host in ("evil.example", "192.168.0.7:8000"):
        assert (
            ask(local, "Sec-Fetch-Site: cross-site", method="GET", target=path, host=host)[0] == 200
        )


def test_with_authentication_on_none_of_it_matters(upstream):
    with running_proxy(upstream) as proxy:
        headers = {"Host": "evil.example", "Origin": "null", "Sec-Fetch-Site": "cross-site"}
        assert proxy.request("POST", "/v1/x", headers | {"Via": "1.1 a"}).status == 200


def hosted(**config) -> Flask:
    app = application(DISABLE_AUTH=True, BACKENDS={"openai": "echo:"}, **config)
    app.register_blueprint(api_blueprint())
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    return app


def test_in_a_host_application_the_same_holds_for_what_is_guarded():
    app = hosted(CORS_ORIGINS=[PAGE], BYPASS_PATHS=["/own"])
    auth = LLMAuth(app)
    client = app.test_client()
    foreign = {"Origin": "https://evil.example"}
    for path in ("/api/x", "/llm/v1/models"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers=foreign).status_code == 403
        assert client.get(path, headers={"Origin": PAGE}).status_code == 200
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
        assert client.get(path, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403
        remote = {"REMOTE_ADDR": "203.0.113.9"}
        assert client.get(path, environ_base=remote).status_code == 403
    assert client.get("/own", headers=foreign).status_code == 200
    auth.exempt(app.view_functions["api.x"])
    assert client.get("/api/x", headers=foreign).status_code == 200


def test_a_configured_name_is_this_machines(upstream):
    values = {"disable_auth": True, "host": "localhost"}
    with running_proxy(upstream, **values) as proxy:
        assert proxy.request("GET", "/v1/x", {"Host": "localhost:1"}, key=None).status == 200
    app = hosted(HOST="llm.example.com", ALLOW_UNAUTHENTICATED_NETWORK=True)
    LLMAuth(app)
    for host, status in (("llm.example.com", 200), ("LLM.example.com:80", 200), ("x.com", 403)):
        assert app.test_client().get("/api/x", headers={"Host": host}).status_code == status


def test_no_page_in_a_real_browser_gets_anything_but_that_of_this_server(local):
    """From another origin it is sent without asking; under a name that points here, as its own."""
    upstream, proxy = local
    upstream.requests.clear()
    stranger = Upstream()
    stranger.answer = whole(b"<title>page</title>", headers=("Content-Type: text/html",))
    plain = """
        const body = JSON.stringify({model: "m", messages: []});
        const answer = await fetch(args[0], {method: "POST", mode: args[1], body});
        return answer.status;
    """
    with running_browser() as browser:
        browser.open(f"http://localhost:{stranger.port}/")
        for target in (proxy.url, f"http://localhost:{proxy.port}"):
            # A page does not learn the status of what it sent so.
            assert browser.run_async(plain, f"{target}/v1/x", "no-cors") == 0
            assert "TypeError" in browser.run_async(plain, f"{target}/v1/x", "cors")
            browser.open(f"http://localhost:{stranger.port}/")
            browser.run(f"location = '{target}/v1/models'")
        browser.open(f"http://{FOREIGN_HOST}:{proxy.port}/docs")
        assert browser.run_async(plain, "/v1/x", "cors") == 403
        asked = {request.target for request in upstream.requests}
        assert asked <= {"/favicon.ico"}  # which the browser asks for beside a page of this server
        browser.open(f"{proxy.url}/docs")
        assert browser.run_async(plain, "/v1/x", "cors") == 200
    stranger.stop()
    assert [r.method for r in upstream.requests if r.target != "/favicon.ico"] == ["POST"]
