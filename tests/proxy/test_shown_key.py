"""The key that let a request in never reaches an upstream, wherever in the head it stands."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from attack import request, statuses
from servers import KEY, PROVIDER_KEY, request_bytes, running_proxy

GEMINI = "/v1beta/models/m:generateContent"
ESCAPED = "".join(f"%{ord(c):02x}" for c in KEY)
BASIC = base64.b64encode(f"me:{KEY}".encode()).decode()

CARRIERS = {
    "Authorization": ({"Authorization": f"Bearer {KEY}"}, ""),
    "x-api-key": ({"x-api-key": KEY}, ""),
    "x-goog-api-key": ({"x-goog-api-key": KEY}, ""),
    "api-key": ({"api-key": KEY}, ""),
    "?key=": ({}, f"key={KEY}"),
    "X-Proxy-Api-Key": ({"X-Proxy-Api-Key": KEY}, ""),
    "beside Basic": ({"Authorization": "Basic d2ViOnB3", "x-api-key": KEY}, ""),
}
HEADERS = {
    "X-Auth-Token": KEY,
    "X-Litellm-Api-Key": f"Bearer {KEY}",
    "Ocp-Apim-Subscription-Key": KEY,
    "apikey": KEY,
    "X-Subscription-Token": f"token={KEY}; v=1",
    "User-Agent": f"curl/8 (key {KEY})",
    "From": f"{KEY}@example.com",
    "Accept-Language": f"de, {KEY}",
    "X-Link": f"http://localhost/?key={ESCAPED}",
    "X-Twice": quote(ESCAPED),
    "X-Json": '{"key": "\\u0070' + KEY[1:] + '"}',
    "X-Basic": f"Basic {BASIC}",
    KEY: "1",
    "Via": f"1.1 {KEY}",
    "Accept-Encoding": KEY,
    "Content-Type": f"application/json; key={KEY}",
}
QUERIES = {
    f"api_key={KEY}": "",
    f"token={ESCAPED}&a=1": "a=1",
    f"a=%20x&access_token={quote(quote(ESCAPED))}&b": "a=%20x&b",
    f"subscription-key={KEY}&subscription-key={KEY}": "",
    f"a=1;auth={KEY};b=2": "a=1;b=2",
    f"{KEY}": "",
    f"{KEY}=1&x[]={KEY}": "",
    f"%6bey={KEY}&a": "a",
    f"auth=Basic%20{quote(BASIC)}": "",
}


def sent(upstream) -> str:
    (received,) = upstream.requests
    return f"{received.method} {received.target} {received.headers}"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_no_other_header_takes_it_along(proxy, upstream, carrier):
    headers, query = CARRIERS[carrier]
    reply = proxy.request("POST", f"{GEMINI}?{query}", HEADERS | headers, b"{}", key=None)
    assert reply.status == 200
    assert KEY.lower() not in sent(upstream).lower().replace("\\u0070", "p")
    assert ESCAPED not in sent(upstream)
    assert BASIC not in sent(upstream)
    (received,) = upstream.requests
    names = {name.lower() for name, _ in received.headers}
    assert names & {name.lower() for name in HEADERS} == {"via", "accept-encoding"}
    assert received.header("accept-encoding") == "identity"
    assert received.header("via").startswith("1.1 llmauth-")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("query", QUERIES)
def test_no_parameter_of_the_query_does(proxy, upstream, carrier, query):
    headers, own = CARRIERS[carrier]
    both = "&".join(filter(None, [own, query]))
    reply = proxy.request("POST", f"{GEMINI}?{both}", headers, b"{}", key=None)
    assert reply.status == 200
    (received,) = upstream.requests
    assert received.target.partition("?")[2] == QUERIES[query]


@pytest.mark.parametrize("path", [f"/v1/{KEY}", f"/v1/x;key={ESCAPED}", f"/{KEY}/v1/models"])
def test_a_path_that_holds_it_is_not_forwarded(proxy, upstream, path):
    (status,) = statuses(proxy.exchange(request(line=f"GET {path} HTTP/1.1")))
    assert status == 400
    assert upstream.requests == []


def test_what_only_resembles_it_stays(proxy, upstream):
    headers = {"X-Auth-Token": KEY[:-1], "X-Other": f"%41{KEY[1:]}", "User-Agent": "a/1 (%zz)"}
    query = f"api_key={KEY[1:]}&token=other&a=%70&b=x;y"
    assert proxy.request("GET", f"/v1/models?{query}", headers).status == 200
    (received,) = upstream.requests
    assert received.target == f"/v1/models?{query}"
    assert {name: received.header(name) for name in headers} == headers


def test_the_body_is_not_touched(proxy, upstream):
    body = f'{{"key": "{KEY}"}}'.encode()
    assert proxy.request("POST", "/v1/x", body=body).status == 200
    assert upstream.requests[0].body == body


def test_credentials_of_the_client_own_stay_beside_the_proxys_carrier(proxy, upstream):
    own = {
        "Authorization": "Bearer sk-own-0123456789",
        "x-goog-api-key": "own-google-0123456789",
        "api-key": "own-azure-0123456789",
        "Ocp-Apim-Subscription-Key": "own-subscription",
        "X-Amz-Security-Token": "own-session",
        "Cookie": "a=b",
    }
    headers = own | {"X-Proxy-Api-Key": KEY, "x-api-key": KEY, "X-Auth-Token": KEY}
    query = f"key=own-key&api_key=own&token={KEY}"
    assert proxy.request("POST", f"{GEMINI}?{query}", headers, key=None).status == 200
    (received,) = upstream.requests
    del own["Cookie"]
    assert {name: received.header(name) for name in own} == own
    assert received.target == f"{GEMINI}?key=own-key&api_key=own"
    assert received.header("x-api-key") is None
    assert KEY not in sent(upstream)
    assert PROVIDER_KEY not in sent(upstream)


def test_where_nothing_of_the_clients_own_is_left_the_servers_key_is_used(proxy, upstream):
    own = {"X-Proxy-Api-Key": KEY, "Authorization": f"Basic {BASIC}", "x-api-key": KEY}
    assert proxy.request("GET", "/v1/models", own, key=None).status == 200
    (received,) = upstream.requests
    assert received.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert received.header("x-api-key") is None


def test_with_authentication_off_what_the_proxys_own_carrier_holds_stays_here(upstream):
    with running_proxy(upstream, disable_auth=True) as proxy:
        headers = {"X-Proxy-Api-Key": KEY, "X-Auth-Token": KEY, "Authorization": f"Bearer {KEY}"}
        assert proxy.request("GET", f"/v1/models?a={KEY}", headers, key=None).status == 200
    assert KEY not in sent(upstream)
    assert upstream.requests[0].header("authorization") == f"Bearer {PROVIDER_KEY}"


@pytest.mark.parametrize("key", ["secret", "abc", "completions", "a" * 15])
def test_a_weak_key_leaves_paths_alone(upstream, key):
    with running_proxy(upstream, {"LLM_INTERACTIVE_PROXY_API_KEY": key}) as proxy:
        assert proxy.request("GET", f"/v1/{key}", {"X-Auth-Token": key}, key=key).status == 200
    assert upstream.requests[0].target == f"/v1/{key}"
    assert upstream.requests[0].header("x-auth-token") is None


def test_of_two_lines_of_a_header_one_is_enough(proxy, upstream):
    data = request_bytes("/v1/x", "Connection: close", "X-A: b", f"X-A: {KEY}", f"X-A: {ESCAPED}")
    assert proxy.exchange(data).startswith(b"HTTP/1.1 200 ")
    assert upstream.requests[0].header("x-a") is None


def test_a_stray_carrier_opens_no_backend_that_nobody_set_up(proxy, upstream):
    """With the proxy's own carrier, a request may bring the key that such a backend lacks."""
    headers = {"X-Proxy-Api-Key": "stray", "Authorization": f"Bearer {KEY}"}
    reply = proxy.request("POST", "/groq/v1/chat/completions", headers, b"{}", key=None)
    assert reply.status == 404
    assert "GROQ_API_KEY" in reply.error["message"]
