"""The guard and the proxy in an existing Flask application."""

from __future__ import annotations

import logging

import pytest
from flask import Blueprint, Flask, jsonify
from servers import PROVIDER_KEY

from llmauth import ConfigurationError, LLMAuth, RequestRefused, proxy_blueprint

KEY = "key-of-the-application-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


def application(**config) -> Flask:
    app = Flask(__name__)
    app.config["LLMAUTH_API_KEY"] = KEY
    app.config.update({f"LLMAUTH_{name}": value for name, value in config.items()})
    app.add_url_rule("/own", "own", lambda: "own")
    return app


def test_the_whole_application_is_guarded_404s_included():
    app = application()
    LLMAuth(app)
    client = app.test_client()
    assert client.get("/own").status_code == 401
    assert client.get("/nothing").status_code == 401
    assert client.get("/health").status_code == 401  # no page of ours here
    assert client.get("/own", headers=BEARER).data == b"own"
    assert client.get("/nothing", headers=BEARER).status_code == 404


def test_exempt_views_and_bypass_paths():
    app = application(BYPASS_PATHS=["/own"])
    auth = LLMAuth()
    auth.init_app(app)

    @app.get("/about/<name>")
    @auth.exempt
    def about(name):
        return name

    client = app.test_client()
    assert client.get("/about/x").data == b"x"
    assert client.get("/own").data == b"own"
    assert client.get("/%6fwn").status_code == 401


def test_one_blueprint_only():
    app = application()
    api = Blueprint("api", __name__, url_prefix="/api")
    api.add_url_rule("/x", "x", lambda: "x")
    LLMAuth(app, blueprint=api)
    app.register_blueprint(api)
    client = app.test_client()
    assert client.get("/own").data == b"own"
    assert client.get("/api/x").status_code == 401
    assert client.get("/api/x", headers=BEARER).data == b"x"


def test_applications_of_one_process_have_settings_of_their_own():
    one, two = application(), application(API_KEY="another-key-0123456789", PORT=9000)
    auth = LLMAuth()
    auth.init_app(one)
    auth.init_app(two)
    assert one.test_client().get("/own", headers=BEARER).status_code == 200
    assert two.test_client().get("/own", headers=BEARER).status_code == 401
    assert two.extensions["llmauth"].settings.port == 9000


def test_what_is_refused_at_the_start(monkeypatch):
    monkeypatch.delenv("LLM_INTERACTIVE_PROXY_API_KEY", raising=False)
    app = application()
    LLMAuth(app)
    with pytest.raises(RuntimeError, match="already"):
        LLMAuth(app)
    with pytest.raises(ConfigurationError, match="API key not configured"):
        LLMAuth(Flask(__name__))
    with pytest.raises(ConfigurationError, match="LLMAUTH_MAX_FAILED_ATTEMPTS"):
        LLMAuth(application(MAX_FAILED_ATEMPTS=3))


def test_errors_can_be_restyled():
    app = application()
    LLMAuth(app)

    @app.errorhandler(RequestRefused)
    def restyled(error):
        return jsonify(mine=error.code), error.code

    reply = app.test_client().get("/own")
    assert (reply.status_code, reply.json) == (401, {"mine": 401})


@pytest.mark.parametrize("prefix", ["/llm", "/deep/er"])
def test_the_proxy_is_mounted_below_a_prefix(upstream, prefix):
    backend = {"base_url": upstream.url, "api_key_env": "KEY_OF_THE_TEST"}
    app = application(BACKENDS={"openai": backend})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix=prefix)
    client = app.test_client()
    reply = client.post(f"{prefix}/v1/a%2Fb//c?x=%20y", headers=BEARER, data=b"{}")
    assert reply.data == b'{"ok": true}'
    assert upstream.requests[0].target == "/v1/a%2Fb//c?x=%20y"
    assert upstream.requests[0].body == b"{}"
    assert reply.headers["x-request-id"]
    assert client.post(f"{prefix}/v1/x", data=b"{}").status_code == 401
    assert client.get("/own", headers=BEARER).data == b"own"
    assert client.get(f"{prefix}/nosuch/x", headers=BEARER).status_code == 404


def test_an_answer_that_the_application_replaces_gives_its_slot_back(upstream):
    app = application(BACKENDS={"openai": upstream.url})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint)

    @app.after_request
    def replace(response):
        return jsonify(replaced=True)

    assert app.test_client().get("/v1/x", headers=BEARER).json == {"replaced": True}
    assert app.extensions["llmauth"].lifecycle.used == 0


def test_the_logging_of_the_application_stays_as_it_was():
    before = (logging.root.handlers[:], logging.root.level, logging.Handler.filter)
    LLMAuth(application())
    assert (logging.root.handlers[:], logging.root.level, logging.Handler.filter) == before
    assert PROVIDER_KEY not in repr(before)


@pytest.mark.parametrize(
    ("path", "value"), [("/v1/x", "a\rX-Injected: 1"), ("/v1/x\rX: 1", "a"), ("/v1/x y", "a")]
)
def test_a_request_cannot_become_two_whatever_the_server_lets_through(upstream, path, value):
    app = application(BACKENDS={"openai": upstream.url})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint)
    environ = {"REQUEST_URI": path, "RAW_URI": path, "HTTP_X_ODD": value}
    reply = app.test_client().post("/v1/x", headers=BEARER, environ_overrides=environ)
    assert reply.status_code == 400
    assert upstream.requests == []
    assert app.extensions["llmauth"].lifecycle.used == 0
