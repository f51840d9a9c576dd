"""The description of the server for programs says what the server does."""

from __future__ import annotations

import json
import re

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from servers import KEY, running_proxy

from llmauth import __version__, create_app, exceptions
from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database
from llmauth.auth.guard import PUBLIC_PATHS
from llmauth.config.keys import KEY_VARIABLE
from llmauth.config.loading import load
from llmauth.web.extension import ADMIN_PATHS, METRICS_PATH


@pytest.fixture
def described(proxy):
    return proxy.request("GET", "/openapi.json", key=None).json()


def resolved(described, answer):
    *_, name = answer.get("$ref", "").rpartition("/")
    return described["components"]["responses"][name] if name else answer


def test_it_is_valid_and_names_every_public_page(described):
    validate(described)
    assert described["openapi"].startswith("3.1")
    others = {path for path in described["paths"] if path.startswith(ADMIN_PATHS)}
    others |= {METRICS_PATH, "/{path}"}
    assert described["paths"].keys() - others == PUBLIC_PATHS
    assert described["servers"] == [{"url": "./"}]
    assert described["info"]["version"] == __version__


def test_it_describes_every_refusal(described):
    codes = {
        str(one.code)
        for one in vars(exceptions).values()
        if isinstance(one, type) and issubclass(one, exceptions.RequestRefused) and one.code
    }
    answers = {"default"}.union(*(one["responses"] for _, _, one in operations(described)))
    assert codes == answers - {"default", "200", "201"}


def operations(described):
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield path, method, operation


def test_it_describes_every_path_by_which_keys_are_managed(described):
    served = {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in create_app(load(environ={KEY_VARIABLE: KEY})).url_map.iter_rules()
        if rule.rule.startswith(ADMIN_PATHS) and not rule.endpoint.endswith(".unknown")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    told = {(path, method) for path, method, _ in operations(described)}
    assert {one for one in told if one[0].startswith(ADMIN_PATHS)} == served


ASKED = [
    ("GET", "/-/overview", None, 200),
    ("GET", "/-/overview?by=colour", None, 400),
    ("GET", "/-/usage?by=day,key", None, 200),
    ("GET", "/-/keys?limit=2", None, 200),
    ("POST", "/-/keys", {"name": "carol", "budget": "20/month", "models": ["gpt-4o*"]}, 201),
    ("POST", "/-/keys", {"name": "alice"}, 409),
    ("POST", "/-/keys", {"name": "dave", "parallel": 0}, 400),
    ("PATCH", "/-/keys/alice", {"paused": True}, 200),
    ("PATCH", "/-/keys/nobody", {"paused": True}, 404),
    ("POST", "/-/keys/alice/rotate", {"overlap": "1h"}, 200),
    ("DELETE", "/-/keys/alice", None, 200),
    ("GET", "/-/lockouts", None, 200),
    ("DELETE", "/-/lockouts/203.0.113.9", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_answers_about_keys_are_as_described(described, tmp_path, method, path, body, status):
    file = tmp_path / "keys.db"
    database = Database(file)
    book = KeyBook(database)
    root = book.add("root", {"admin": True})
    book.add("alice", {"tokens_per_day": 1000, "expires": "3d"})
    database.close()
    with running_proxy(None, default_backend="echo", database=str(file)) as proxy:
        reply = proxy.request(method, path, {}, body and json.dumps(body).encode(), key=root)
    assert reply.status == status
    own = re.sub(r"(keys|lockouts)/[^/]+", r"\1/{name}", path.partition("?")[0])
    methods = described["paths"].get(own) or described["paths"][own.replace("name", "address")]
    answer = resolved(described, methods[method.lower()]["responses"][str(status)])
    schema = answer["content"]["application/json"]["schema"]
    Draft202012Validator(described | schema).validate(reply.json())
    assert all(reply.header(name) for name in answer["headers"])


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
