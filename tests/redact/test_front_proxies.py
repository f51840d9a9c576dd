"""What reverse proxies add about a client ends here; what clients send to providers does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers import running_proxy, whole

from llmauth.redact.front_proxies import Kind, kind_of
from llmauth.redact.logging import Redactor
from llmauth.redact.redactor import is_credential, is_private

FOLDER = Path(__file__).parent


def names_in(file: str) -> list[str]:
    lines = (FOLDER / file).read_text(encoding="ascii").splitlines()
    return " ".join(line for line in lines if not line.startswith("#")).split()


TO_PROVIDERS = names_in("headers_to_providers.txt")
FROM_FRONTS = names_in("headers_from_fronts.txt")
ROUTING = {name for name in FROM_FRONTS if kind_of(name) is Kind.ROUTING}


def named(names: list[str], what: str = "of-the-client") -> dict[str, str]:
    return {name.title(): f"{number}-{what}" for number, name in enumerate(names)}


def test_what_clients_send_to_providers_arrives(proxy, upstream):
    names = [one for one in TO_PROVIDERS if one not in ("via", "range", "max-forwards")]
    for some in (names[at : at + 50] for at in range(0, len(names), 50)):
        upstream.requests.clear()
        sent = named(some)
        assert proxy.request("POST", "/openai/v1/x", sent, b"{}").status == 200
        (received,) = upstream.requests
        assert {name: received.header(name) for name in sent} == sent


def test_what_fronts_add_does_not(proxy, upstream):
    for some in (FROM_FRONTS[at : at + 50] for at in range(0, len(FROM_FRONTS), 50)):
        upstream.requests.clear()
        assert proxy.request("POST", "/openai/v1/x", named(some), b"{}").status == 200
        (received,) = upstream.requests
        assert "of-the-client" not in str(received.headers)


@pytest.mark.parametrize("name", TO_PROVIDERS)
def test_no_family_takes_in_what_is_for_providers(name):
    assert kind_of(name) is None


@pytest.mark.parametrize("name", FROM_FRONTS)
def test_what_fronts_add_is_known(name):
    assert kind_of(name) is not None
    assert is_private(name) == (name not in ROUTING)
    assert is_credential(name) or kind_of(name) is not Kind.CREDENTIAL


def test_what_is_shown_of_it_is_how_a_request_came_here():
    assert {name.rpartition("-")[2] for name in ROUTING} == {
        "host", "method", "port", "prefix", "proto", "uri", "url",
    }  # fmt: skip


def test_it_is_masked_in_the_capture(upstream, tmp_path):
    path = tmp_path / "capture"
    with running_proxy(upstream, capture_file=str(path)) as proxy:
        for some in (FROM_FRONTS[at : at + 50] for at in range(0, len(FROM_FRONTS), 50)):
            private = [name for name in some if name not in ROUTING]
            headers = named(private) | {"X-Forwarded-Proto": "https", "X-Stainless-Os": "Linux"}
            assert proxy.request("POST", "/openai/v1/x", headers, b"{}").status == 200
    text = path.read_text()
    assert "of-the-client" not in text
    shown = [json.loads(line)["metadata"].get("headers", {}) for line in text.splitlines()]
    inbound = next(one for one in shown if "x-forwarded-proto" in one)
    assert inbound["x-forwarded-proto"] == "https"
    assert inbound["x-stainless-os"] == "Linux"
    assert inbound["cf-connecting-ip"] == "****"


def test_what_an_answer_says_of_its_own_way_is_shown(upstream, tmp_path):
    path = tmp_path / "capture"
    own = ("CF-Cache-Status: DYNAMIC", "x-envoy-upstream-service-time: 9")
    upstream.answer = whole(headers=own)
    with running_proxy(upstream, capture_file=str(path)) as proxy:
        assert proxy.request("GET", "/v1/models").status == 200
    lines = map(json.loads, path.read_text().splitlines())
    shown = next(one for one in lines if one["direction"] == "inbound_response")
    headers = shown["metadata"]["headers"]
    assert headers["cf-cache-status"] == "DYNAMIC"
    assert headers["x-envoy-upstream-service-time"] == "9"


CREDENTIALS = [name for name in FROM_FRONTS if kind_of(name) is Kind.CREDENTIAL]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_that_a_front_added_is_masked_in_the_log_from_then_on(proxy, name):
    value = "eyJhbGciOiJub25l.0123456789"
    headers = {name: value}
    assert proxy.request("GET", "/v1/models", headers, key="wrong-key-0123456789").status == 401
    redactor = proxy.server.state.redactor
    assert value not in redactor.text(f"what the provider said of {value}")


@pytest.mark.parametrize(
    "name", ["X-Goog-IAP-JWT-Assertion", "HTTP_CF_ACCESS_JWT_ASSERTION", "x-amzn-oidc-data"]
)
def test_by_its_name_it_is_masked_in_what_is_logged(name):
    assert Redactor().mapping({name: "a.b.c"}) == {name: "****"}


def test_contents_that_are_named_alike_are_not():
    contents = {"assertion": "1 == 1", "test_assertion": "a", "userinfo": "b", "client_ip": "::1"}
    assert Redactor().mapping(contents) == contents


def test_names_that_are_long_are_nobodys():
    assert kind_of("cf-" + "x" * 62) is None
