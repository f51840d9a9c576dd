"""Stored keys in an existing Flask application: who a request's key is, and its limits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from embedding import BEARER, application
from flask import jsonify
from programs import wait_for
from servers import Upstream

from llmauth import LLMAuth, RequestRefused, current_key, proxy_blueprint
from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database
from llmauth.exceptions import ConfigurationError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def book(path: Path):
    database = Database(path)
    yield KeyBook(database)
    database.close()


@pytest.fixture
def guarded(path: Path):
    """Make applications with a view that says whose request it is; all are closed at the end."""
    made = []

    def make(**config):
        app = application(**{"DATABASE": str(path)} | config)
        auth = LLMAuth(app)

        @app.get("/who")
        def who():
            return jsonify(current_key())

        @app.get("/free")
        @auth.exempt
        def free():
            return jsonify(current_key())

        @app.errorhandler(RequestRefused)
        def refused(error):
            return {"key": current_key(), "said": error.description}, error.code

        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["llmauth"].close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_view_knows_whose_request_it_is(guarded, book):
    client, key = guarded().test_client(), book.add("alice", {})
    assert client.get("/who", headers=bearer(key)).json == "alice"
    assert client.get("/who", headers=BEARER).json == "default"
    assert client.get("/who", headers={"x-api-key": key}).json == "alice"


def test_where_no_key_counts_there_is_no_name(guarded, book):
    app, key = guarded(), book.add("alice", {})
    assert current_key() is None
    with app.app_context():
        assert current_key() is None
    assert app.test_client().get("/free", headers=bearer(key)).json is None
    assert app.test_client().get("/who").json["key"] is None
    open_app = guarded(DISABLE_AUTH=True)
    assert open_app.test_client().get("/who", headers=bearer(key)).json is None
    unguarded = application()
    unguarded.add_url_rule("/who", "who", lambda: jsonify(current_key()))
    assert unguarded.test_client().get("/who", headers=bearer(key)).json is None


@pytest.mark.parametrize(
    ("values", "change", "status", "said"),
    [
        ({}, {"paused": True}, 401, "was paused on"),
        ({}, None, 401, "was revoked on"),
        ({"from": ["203.0.113.0/24"]}, {}, 403, "may not be used from 127.0.0.1"),
    ],
    ids=["paused", "revoked", "from elsewhere"],
)
def test_a_key_that_may_not_come_in_reaches_no_view(
    guarded, book, values, change, status, said
):
    key = book.add("alice", values)
    if change is None:
        book.revoke("alice")
    else:
        book.change("alice", change)
    client = guarded(MAX_FAILED_ATTEMPTS=2).test_client()
    for _ in range(4):  # and is no guess
        reply = client.get("/who", headers=bearer(key))
        assert reply.status_code == status
        assert reply.json["key"] is None
        assert said in reply.json["said"]


def test_a_key_that_has_expired_reaches_no_view(guarded, book, monkeypatch):
    key = book.add("alice", {"expires": "90d"})
    client = guarded().test_client()
    assert client.get("/who", headers=bearer(key)).json == "alice"
    later = time.time() + 91 * 86_400
    monkeypatch.setattr("llmauth.accounts.accounts.time.time", lambda: later)
    reply = client.get("/who", headers=bearer(key))
    assert reply.status_code == 401
    assert "'alice' expired on" in reply.json["said"]


def test_limits_are_the_proxys_and_not_the_views(guarded, book):
    """Only what goes through the proxy's blueprint is counted."""
    upstream = Upstream()
    try:
        key = book.add("alice", {"requests_per_minute": 2})
        app = guarded(BACKENDS={"openai": {"base_url": upstream.url}})
        app.register_blueprint(proxy_blueprint, url_prefix="/llm")
        client = app.test_client()
        for _ in range(5):
            assert client.get("/who", headers=bearer(key)).json == "alice"
        statuses = [
            client.post("/llm/v1/chat/completions", headers=bearer(key), data=b"{}").status_code
            for _ in range(3)
        ]
        assert statuses == [200, 200, 429]
        refused = client.post("/llm/v1/chat/completions", headers=bearer(key), data=b"{}")
        assert "2 requests a minute" in refused.json["said"]
        assert client.get("/who", headers=bearer(key)).json == "alice"
    finally:
        upstream.stop()


def test_applications_of_one_process_share_a_file_or_have_their_own(guarded, book, tmp_path):
    key = book.add("alice", {})
    one, two = guarded(), guarded()
    other = guarded(DATABASE=str(tmp_path / "other.db"))
    for app, status in ((one, 200), (two, 200), (other, 401)):
        assert app.test_client().get("/who", headers=bearer(key)).status_code == status
    book.change("alice", {"paused": True})
    for app in (one, two):
        wait_for(
            lambda app=app: app.test_client().get("/who", headers=bearer(key)).status_code == 401,
            "it follows",
        )


def test_the_database_alone_is_enough_and_one_that_is_empty_is_not(path, monkeypatch):
    monkeypatch.delenv("LLM_INTERACTIVE_PROXY_API_KEY", raising=False)
    app = application(DATABASE=str(path), API_KEY=None)
    with pytest.raises(ConfigurationError, match="There is no key yet"):
        LLMAuth(app)
    database = Database(path)
    key = KeyBook(database).add("alice", {})
    database.close()
    LLMAuth(app)
    assert app.test_client().get("/own", headers=bearer(key)).data == b"own"
    app.extensions["llmauth"].close()


def test_refusals_of_the_proxy_have_the_body_that_sdks_read(book, path):
    key = book.add("alice", {"backends": ["anthropic"]})
    app = application(DATABASE=str(path))
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    reply = app.test_client().post("/llm/v1/chat/completions", headers=bearer(key), data=b"{}")
    assert json.loads(reply.data)["error"]["code"] == "backend_not_allowed"
    app.extensions["llmauth"].close()
