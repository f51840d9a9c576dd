"""The description of the server for programs says what the server does."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from servers import KEY, running_proxy

from llmauth import __version__, exceptions
from llmauth.auth.guard import PUBLIC_PATHS


@pytest.fixture
def described(proxy):
    return proxy.request("GET", "/openapi.json", key=None).json()


def resolved(described, answer):
    *_, name = answer.get("$ref", "").rpartition("/")
    return described["components"]["responses"][name] if name else answer


def test_it_is_valid_and_names_every_public_page(described):
    validate(described)
    assert described["openapi"].startswith("3.1")
    assert {path for path in described["paths"] if path != "/{path}"} == PUBLIC_PATHS
    assert described["servers"] == [{"url": "./"}]
    assert described["info"]["version"] == __version__


def test_it_describes_every_refusal(described):
    codes = {
        str(one.code)
        for one in vars(exceptions).values()
        if isinstance(one, type) and issubclass(one, exceptions.RequestRefused) and one.code
    }
    codes -= {str(exceptions.Conflict.code)}  # of `/-/keys` alone
    assert codes == described["paths"]["/{path}"]["post"]["responses"].keys() - {"default"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/models", {"Authorization": "Bearer"}, 400),
        ("GET", "/v1/models", {}, 401),
        ("GET", "/v1/models", {"x-api-key": "wrong-key-0123456789"}, 401),
        ("OPTIONS", "/v1/x", {"Origin": "http://a", "Access-Control-Request-Method": "PUT"}, 403),
        ("GET", "/", {"x-api-key": KEY}, 404),
        ("TRACE", "/v1/models", {"x-api-key": KEY}, 405),
        ("GET", "/v1/models", {"x-api-key": KEY, "Upgrade": "websocket"}, 426),
        ("GET", "/ollama/api/tags", {"x-api-key": KEY}, 502),
        ("GET", "/health", {}, 200),
        ("GET", "/readyz", {}, 200),
    ],
)
def test_answers_are_as_described(upstream, described, method, path, headers, status):
    nobody = {"OLLAMA_API_BASE_URL": "http://127.0.0.1:1"}
    with running_proxy(upstream, nobody) as proxy:
        reply = proxy.request(method, path, headers, key=None)
    assert reply.status == status
    operations = described["paths"].get(path) or described["paths"]["/{path}"]
    answer = operations.get(method.lower(), operations["get"])["responses"][str(status)]
    answer = resolved(described, answer)
    schema = answer["content"]["application/json"]["schema"]
    Draft202012Validator(described | schema).validate(reply.json())
    assert all(reply.header(name) for name in answer["headers"])


def test_a_block_is_as_described(proxy, described):
    for _ in range(5):
        proxy.request("GET", "/v1/models", key="wrong-key-0123456789")
    reply = proxy.request("GET", "/v1/models")
    answer = resolved(described, described["paths"]["/{path}"]["get"]["responses"]["429"])
    assert reply.status == 429
    assert int(reply.header("retry-after")) >= 1
    assert all(reply.header(name) for name in answer["headers"])
