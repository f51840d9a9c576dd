"""What a request gets before it is forwarded, over real sockets."""

from __future__ import annotations

import threading

import pytest
from servers import KEY, running_proxy

from llmauth.exceptions import AddressLockedOut

WRONG = "wrong-key-0123456789abcdefghij"


PAGES = ["/health", "/healthz", "/livez", "/readyz", "/docs", "/dashboard", "/openapi.json"]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_public_pages_need_no_key(proxy, method, path):
    reply = proxy.request(method, path, key=None)
    assert reply.status == 200
    assert reply.header("x-request-id")
    assert bool(reply.body) == (method == "GET")


@pytest.mark.parametrize(
    "path",
    [
        "/health/",
        "/health/x",
        "/Health",
        "//health",
        "/./health",
        "/x/../health",
        "/%68ealth",
        "/health%00",
        "/health;x",
        "/v1/..%2fhealth",
        "/health%2f..%2fv1/models",
        "/docs/../v1/models",
    ],
)
def test_paths_that_only_resemble_a_public_page_need_a_key(proxy, upstream, path):
    assert proxy.request("GET", path, key=None).status == 401
    assert upstream.requests == []


def test_a_public_page_takes_no_other_method(proxy, upstream):
    assert proxy.request("POST", "/health", key=None).status == 401
    assert upstream.requests == []


def test_no_credentials(proxy):
    reply = proxy.request("POST", "/v1/chat/completions", key=None, body=b"{}")
    assert reply.status == 401
    assert reply.header("www-authenticate") == 'Bearer realm="llmauth"'
    assert reply.header("x-should-retry") == "false"
    body = reply.json()
    assert body["type"] == "error"
    assert body["request_id"] == reply.header("x-request-id")
    assert body["error"]["type"] == "authentication_error"
    assert body["error"]["status"] == "UNAUTHENTICATED"
    assert "Authorization: Bearer" in body["error"]["message"]


CARRIERS = [
    ({"Authorization": f"Bearer {KEY}"}, "/v1/models"),
    ({"authorization": f"bEaReR   {KEY} "}, "/v1/models"),
    ({"x-api-key": KEY}, "/v1/models"),
    ({"x-goog-api-key": KEY}, "/v1/models"),
    ({"api-key": KEY}, "/v1/models"),
    ({"X-Proxy-Api-Key": KEY}, "/v1/models"),
    ({}, f"/v1/models?key={KEY}&a=b"),
]


@pytest.mark.parametrize(("headers", "path"), CARRIERS, ids=lambda value: str(value)[:24])
def test_every_carrier_lets_in_and_never_reaches_the_upstream(proxy, upstream, headers, path):
    assert proxy.request("GET", path, headers, key=None).status == 200
    (request,) = upstream.requests
    assert KEY not in f"{request.target} {request.headers}"


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Authorization": "Bearer"}, 400, "invalid_request"),
        ({"Authorization": "Bearer a b"}, 400, "invalid_request"),
        ({"Authorization": f"Bearer {'x' * 5000}"}, 400, "invalid_request"),
        ({"Authorization": f"Bearer {KEY}x", "x-api-key": WRONG}, 401, "invalid_api_key"),
        ({"Authorization": f"Basic {KEY}"}, 401, "invalid_api_key"),
        ({"Authorization": f"Bearer {WRONG}"}, 401, "invalid_api_key"),
        ({"Cookie": f"key={KEY}"}, 401, "invalid_api_key"),
    ],
    ids=["empty", "two", "long", "different", "basic", "wrong", "cookie"],
)
def test_credentials_that_are_refused(proxy, upstream, headers, status, error):
    """And no client that obeys it asks again: agents would for minutes, and lock themselves out."""
    reply = proxy.request("GET", "/v1/models", headers, key=None)
    assert (reply.status, reply.error["code"]) == (status, error)
    assert reply.header("x-should-retry") == ("false" if status == 401 else None)
    assert KEY not in reply.body.decode()
    assert WRONG not in reply.body.decode()
    assert upstream.requests == []


def test_the_same_key_in_two_carriers_is_fine(proxy):
    assert proxy.request("GET", "/v1/models", {"x-api-key": KEY}).status == 200


def test_wrong_keys_lock_the_address_out_and_even_the_right_key_then(proxy):
    statuses = [proxy.request("GET", "/v1/models", key=WRONG).status for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    reply = proxy.request("GET", "/v1/models")
    assert reply.status == 429
    assert 1 <= int(reply.header("retry-after")) <= 30
    assert reply.header("x-should-retry") == "false"
    assert reply.error["type"] == "rate_limit_error"
    assert proxy.request("GET", "/health", key=None).status == 200
    assert proxy.request("GET", "/v1/models", address="127.0.0.2").status == 200


def test_missing_credentials_are_no_attempt_and_the_right_key_forgets_repeats(proxy):
    for _ in range(3):
        assert [proxy.request("GET", "/v1/x", key=WRONG).status for _ in range(4)] == [401] * 4
        assert [proxy.request("GET", "/v1/x", key=None).status for _ in range(3)] == [401] * 3
        assert proxy.request("GET", "/v1/models").status == 200


def test_a_right_key_between_guesses_does_not_help(proxy):
    statuses = []
    for number in range(10):
        statuses.append(proxy.request("GET", "/v1/models", key=f"{WRONG}-{number}").status)
        statuses.append(proxy.request("GET", "/v1/models").status)
    # The fifth guess has filled the window: the right key after it is refused, too.
    assert statuses == [401, 200] * 4 + [401] + [429] * 11


@pytest.mark.parametrize(
    "carried",
    [
        lambda n: {"x-api-key": f"a-{n}", "api-key": f"b-{n}"},
        lambda n: {"Authorization": f"Basic {n}"},
        lambda n: {"Authorization": f"Bearer {n} {n}"},
        lambda n: {"Authorization": f"Bearer {n}" + 5000 * "x"},
        lambda n: {"X-Proxy-Api-Key": f"{n}"},
    ],
    ids=["two", "other scheme", "two tokens", "long", "own header"],
)
def test_whatever_carries_a_guess_counts(proxy, carried):
    """Two different ones in a request are two."""
    proxy.request("GET", "/v1/models")
    guesses = [carried(number) for number in range(9)]
    statuses = [proxy.request("GET", "/v1/models", one, key=None).status for one in guesses]
    answered = 3 if len(guesses[0]) > 1 else 5
    assert 429 not in statuses[:answered]
    assert statuses[answered:] == [429] * (9 - answered)


def test_a_guess_is_counted_before_anything_else_is_done_for_it(proxy):
    guard = proxy.server.state.guard
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_API_KEY": WRONG}
    environ["REMOTE_ADDR"] = "203.0.113.7"

    def fails(*_: str) -> None:
        raise RuntimeError("what comes after")

    for _ in range(5):
        with pytest.raises(RuntimeError):
            guard.check(guard.info(environ), environ, fails)
    with pytest.raises(AddressLockedOut):
        guard.check(guard.info(environ), environ, fails)


def test_of_200_simultaneous_wrong_keys_exactly_five_get_401(upstream):
    statuses: list[int] = []
    with running_proxy(upstream, threads=256) as proxy:
        start = threading.Barrier(200)

        def attempt() -> None:
            start.wait()
            statuses.append(proxy.request("GET", "/v1/models", key=WRONG).status)

        threads = [threading.Thread(target=attempt) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [401] * 5 + [429] * 195


def test_a_trusted_address_is_never_locked_out_and_still_needs_a_key(upstream):
    with running_proxy(upstream, trusted_ips="127.0.0.0/8") as proxy:
        statuses = [proxy.request("GET", "/v1/models", key=WRONG).status for _ in range(9)]
        assert statuses == [401] * 9


def test_the_lockout_can_be_switched_off(upstream):
    with running_proxy(upstream, brute_force_enabled=False) as proxy:
        statuses = [proxy.request("GET", "/v1/models", key=WRONG).status for _ in range(9)]
        assert statuses == [401] * 9


def test_behind_a_trusted_proxy_the_client_is_locked_out(upstream):
    with running_proxy(upstream, trusted_proxies="127.0.0.1") as proxy:
        for number in range(5):
            forwarded = {"X-Forwarded-For": f"8.8.8.{number}, 203.0.113.7"}
            assert proxy.request("GET", "/v1/models", forwarded, key=WRONG).status == 401
        assert proxy.request("GET", "/v1/models", {"X-Forwarded-For": "203.0.113.7"}).status == 429
        assert proxy.request("GET", "/v1/models", {"X-Forwarded-For": "203.0.113.8"}).status == 200


def test_a_forgotten_trusted_proxy_is_warned_about_once(proxy, caplog):
    for _ in range(3):
        proxy.request("GET", "/v1/models", {"X-Forwarded-For": "203.0.113.7"})
    warnings = [r for r in caplog.records if "TRUSTED_PROXIES" in r.getMessage()]
    assert len(warnings) == 1


def test_a_bypass_path_needs_no_key_and_never_counts(upstream):
    with running_proxy(upstream, bypass_paths="/v1/models") as proxy:
        for _ in range(9):
            assert proxy.request("GET", "/v1/models?a=b", key=WRONG).status == 200
        assert proxy.request("GET", "/v1/models/x", key=None).status == 401
        assert proxy.request("GET", "/v1/../v1/models", key=None).status == 401
    assert all("wrong" not in str(r.headers) for r in upstream.requests)


def test_with_authentication_off_a_network_is_served_only_when_that_is_wanted(upstream):
    values = {"disable_auth": True, "trusted_proxies": "127.0.0.0/8"}
    other = {"X-Forwarded-For": "203.0.113.9"}
    with running_proxy(upstream, **values) as proxy:
        assert proxy.request("GET", "/v1/models", key=None).status == 200
        refused = proxy.request("GET", "/v1/models", other, key=None)
        assert (refused.status, refused.error["type"]) == (403, "permission_error")
        assert "ALLOW_UNAUTHENTICATED_NETWORK" in refused.error["message"]
        assert proxy.request("GET", "/health", other, key=None).status == 200
    with running_proxy(upstream, **values, allow_unauthenticated_network=True) as proxy:
        assert proxy.request("GET", "/v1/models", other, key=None).status == 200


def test_with_authentication_off_everyone_is_let_in(upstream):
    with running_proxy(upstream, disable_auth=True) as proxy:
        assert proxy.request("GET", "/v1/models", key=None).status == 200
        assert proxy.request("GET", "/v1/models", key=WRONG).status == 200
    assert all("wrong" not in str(r.headers) for r in upstream.requests)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("TRACE", {}, 405),
        ("CONNECT", {}, 405),
        ("GET", {"Upgrade": "websocket", "Connection": "Upgrade"}, 426),
        ("BREW", {}, 405),
    ],
)
def test_what_is_never_forwarded_says_why_in_json(proxy, upstream, method, headers, status):
    reply = proxy.request(method, "/v1/models", headers)
    assert reply.status == status
    assert reply.error["message"]
    assert reply.json()["request_id"] == reply.header("x-request-id")
    assert proxy.request(method, "/v1/models", headers, key=None).status == 401
    assert (reply.header("Allow") is not None) == (status == 405)
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/opnai/v1/models", "/"])
def test_an_unknown_backend_is_a_404_that_names_those_there_are(proxy, path):
    reply = proxy.request("GET", path)
    assert reply.status == 404
    assert "/openai/" in reply.error["message"]
    assert "/gemini/" in reply.error["message"]
    assert reply.body.isascii()
    assert b"\\u" not in reply.body


def test_named_keys_are_told_apart(upstream, caplog):
    caplog.set_level("INFO", "llmauth.access")
    other = {"LLM_INTERACTIVE_PROXY_API_KEY_ALICE": "key-of-alice-0123456789"}
    with running_proxy(upstream, other) as proxy:
        assert proxy.request("GET", "/v1/a", key="key-of-alice-0123456789").status == 200
        assert proxy.request("GET", "/v1/b").status == 200
    # Of requests that threads serve, neither waits for the line of the other.
    lines = [r.getMessage() for r in caplog.records if r.name == "llmauth.access"]
    of_alice, of_default = sorted(lines, key=lambda line: "/v1/b" in line)
    assert ' alice "GET /v1/a"' in of_alice
    assert ' default "GET /v1/b"' in of_default
