"""The guard and the proxy in an existing Flask application."""

from __future__ import annotations

import logging
import threading
from http.client import HTTPConnection

import flask_cors
import httpx
import pytest
from embedding import BEARER, api_blueprint, application
from flask import Blueprint, Flask, jsonify, request
from servers import PROVIDER_KEY, whole
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server
from werkzeug.test import Client

from llmauth import ConfigurationError, LLMAuth, RequestRefused, proxy_blueprint


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
    assert client.get(f"{prefix}/opnai/v1/x", headers=BEARER).status_code == 404


def test_an_answer_that_the_application_replaces_gives_its_slot_back(upstream):
    app = application(BACKENDS={"openai": upstream.url})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint)

    @app.after_request
    def replace(response):
        return jsonify(replaced=True)

    assert app.test_client().get("/v1/x", headers=BEARER).json == {"replaced": True}
    assert app.extensions["llmauth"].slots.used == 0


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
    assert app.extensions["llmauth"].slots.used == 0


def test_a_blueprint_is_guarded_under_any_name():
    """Nested and renamed it goes by another name than its own."""
    app, api, parent = application(), api_blueprint(), Blueprint("parent", __name__)
    LLMAuth(app, blueprint=api)
    parent.register_blueprint(api, url_prefix="/nested")
    app.register_blueprint(parent)
    app.register_blueprint(api, name="again", url_prefix="/again")
    client = app.test_client()
    for path in ("/nested/x", "/again/x"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers=BEARER).data == b"x"


def test_the_proxy_is_never_open_whatever_is_guarded(upstream):
    app, api = application(BACKENDS={"openai": upstream.url}), api_blueprint()
    LLMAuth(app, blueprint=api)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm", name="models")
    client = app.test_client()
    assert client.get("/llm/v1/models").status_code == 401
    assert client.get("/own").data == b"own"
    assert upstream.requests == []
    assert client.get("/llm/v1/models", headers=BEARER).status_code == 200


def test_without_a_guard_the_proxy_does_not_forward():
    app = Flask(__name__)
    app.register_blueprint(proxy_blueprint)
    app.testing = True
    with pytest.raises(RuntimeError, match="init_app"):
        app.test_client().get("/v1/models")


def test_a_whole_blueprint_is_exempt():
    app, api = application(), api_blueprint()
    auth = LLMAuth(app)
    auth.exempt(api)
    app.register_blueprint(api)
    client = app.test_client()
    assert client.post("/api/x").data == b"x"
    assert client.get("/own").status_code == 401


def test_an_application_factory_makes_applications_with_settings_of_their_own(upstream):
    auth = LLMAuth(blueprint=proxy_blueprint)

    def factory(**config) -> Flask:
        app = application(BACKENDS={"openai": upstream.url}, **config)
        auth.init_app(app)
        app.register_blueprint(proxy_blueprint, url_prefix="/llm")
        return app

    one, two = factory(MAX_FAILED_ATTEMPTS=1), factory(MAX_FAILED_ATTEMPTS=3)
    wrong = {"Authorization": "Bearer wrong-key-of-nobody"}
    for app, statuses in ((one, [401, 429, 429, 429]), (two, [401, 401, 401, 429])):
        client = app.test_client()
        assert [client.get("/llm/v1/x", headers=wrong).status_code for _ in range(4)] == statuses
    both = DispatcherMiddleware(one, {"/two": factory()})
    reply = Client(both).get("/two/llm/v1/a%2Fb", headers=BEARER)
    assert reply.status_code == 200
    assert upstream.requests[-1].target == "/v1/a%2Fb"


def test_a_prefix_with_a_variable_is_refused():
    with pytest.raises(ConfigurationError, match="variable"):
        application().register_blueprint(proxy_blueprint, url_prefix="/<tenant>/llm")


@pytest.mark.parametrize(
    "prefix",
    ["/my llm", "/ü", "/a%20b", "/a%2fb", "/a?b", "/a#b", "/a/../b", "/./a", "/a//b", "/a\\b",
     '/a"b', "/a\tb", "/a\n", "/a<b", "/a|b", "/{a}", "//evil"],
)  # fmt: skip
def test_a_prefix_that_clients_write_in_several_ways_is_refused(prefix):
    """Every real client would get a 404."""
    with pytest.raises(ConfigurationError, match="such as /llm"):
        application().register_blueprint(proxy_blueprint, url_prefix=prefix)
    parent = Blueprint("parent", __name__, url_prefix=prefix)
    parent.register_blueprint(proxy_blueprint, url_prefix="/llm")
    with pytest.raises(ConfigurationError, match="such as /llm"):
        application().register_blueprint(parent)


@pytest.mark.parametrize(
    "prefix", [None, "", "/", "/llm", "/llm/", "/v1.0/..a", "/~x_-y", "/a+b", "/a:b@c,d;e=f", "/A&"]
)
@pytest.mark.parametrize("client", ["http.client", "httpx"])
def test_any_other_prefix_is_served_to_real_clients(upstream, prefix, client):
    app = application(BACKENDS={"openai": upstream.url})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix=prefix)
    path = f"{(prefix or '').rstrip('/')}/v1/a%20b"
    with make_server("127.0.0.1", 0, app) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        if client == "httpx":
            status = httpx.get(f"http://127.0.0.1:{server.port}{path}", headers=BEARER).status_code
        else:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", path, headers=BEARER)
            status = connection.getresponse().status
            connection.close()
        thread.join()
    app.extensions["llmauth"].close()
    assert status == 200
    assert upstream.requests[0].target == "/v1/a%20b"


def test_a_mount_point_stands_in_urls_as_clients_write_it(upstream):
    app = application(BACKENDS={"openai": upstream.url})
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    location = f"Location: {upstream.url}/v1/y"
    upstream.answer = whole(b"", "302 Found", headers=(location,))
    mounted = DispatcherMiddleware(app, {"/my ü".encode().decode("latin-1"): app})
    reply = Client(mounted).get("/my%20%C3%BC/llm/v1/x", headers=BEARER)
    assert reply.headers["Location"] == "/my%20%C3%BC/llm/v1/y"


PREFIXED = {
    "FLASK_LLMAUTH_API_KEYS__alice": "key-of-alice-0123456789",
    "FLASK_LLMAUTH_MAX_FAILED_ATTEMPTS": "7",
    "FLASK_LLMAUTH_BLOCK_MULTIPLIER": "1.5",
    "FLASK_LLMAUTH_BRUTE_FORCE_ENABLED": "false",
    "FLASK_LLMAUTH_TRUSTED_IPS": '["192.0.2.0/24", "2001:db8::1"]',
    "FLASK_LLMAUTH_TRUSTED_PROXIES": "10.0.0.0/8, 172.16.0.1",
    "FLASK_LLMAUTH_BYPASS_PATHS": "/own",
    "FLASK_LLMAUTH_MAX_REQUEST_BODY": "1M",
    "FLASK_LLMAUTH_CAPTURE_FILE": "null",
    "FLASK_LLMAUTH_BACKENDS__LOCAL__BASE_URL": "http://127.0.0.1:1/v1",
    "FLASK_LLMAUTH_BACKENDS__LOCAL__READ_TIMEOUT": "7",
    "FLASK_LLMAUTH_DEFAULT_BACKEND": "local",
}


@pytest.mark.parametrize("as_text", [False, True], ids=["JSON", "text"])
def test_settings_from_a_prefixed_environment(monkeypatch, as_text):
    for name, value in PREFIXED.items():
        monkeypatch.setenv(name, value)
    app = Flask(__name__)
    app.config.from_prefixed_env(**({"loads": str} if as_text else {}))
    if as_text:  # a text is what it says
        app.config["LLMAUTH_TRUSTED_IPS"] = "192.0.2.0/24,2001:db8::1"
        app.config["LLMAUTH_CAPTURE_FILE"] = ""
    LLMAuth(app)
    settings = app.extensions["llmauth"].settings
    assert dict(settings.keys) == {"alice": "key-of-alice-0123456789"}
    assert settings.max_failed_attempts == 7
    assert settings.block_multiplier == 1.5
    assert settings.brute_force_enabled is False
    assert [str(n) for n in settings.trusted_ips] == ["192.0.2.0/24", "2001:db8::1/128"]
    assert [str(n) for n in settings.trusted_proxies] == ["10.0.0.0/8", "172.16.0.1/32"]
    assert settings.bypass_paths == ("/own",)
    assert settings.max_request_body == 1024**2
    assert settings.capture_file is None
    assert settings.backends["local"].base_url == "http://127.0.0.1:1/v1"
    assert settings.backends["local"].read_timeout == 7
    assert settings.default_backend == "local"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("API_KEY", "123456789012345678", "not a text.*quotes"),
        ("API_KEY", "[1]", "not a text"),
        ("API_KEYS", "key", "mapping"),
        ("MAX_FAILED_ATTEMPTS", "many", "FLASK_|LLMAUTH_MAX_FAILED_ATTEMPTS"),
        ("MAX_FAILED_ATEMPTS", "3", "Did you mean 'LLMAUTH_MAX_FAILED_ATTEMPTS'"),
        ("BACKENDS__local__base_url", "7", "base_url is not a text"),
    ],
)
def test_what_a_prefixed_environment_gets_wrong(monkeypatch, name, value, says):
    monkeypatch.setenv(f"FLASK_LLMAUTH_{name}", value)
    app = Flask(__name__)
    app.config.from_prefixed_env()
    with pytest.raises(ConfigurationError, match=says) as caught:
        LLMAuth(app)
    assert "123456789012345678" not in str(caught.value)


ERRORS = [RequestRefused, HTTPException, 401, Exception]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("on_blueprint", [False, True], ids=["app", "blueprint"])
def test_errors_are_restyled_by_any_handler(error, on_blueprint):
    app, api = application(), api_blueprint()
    LLMAuth(app)

    def restyled(refusal):
        return jsonify(mine=str(refusal.description)), refusal.code, refusal.get_headers()

    (api if on_blueprint else app).register_error_handler(error, restyled)
    app.register_blueprint(api)
    reply = app.test_client().get("/api/x")
    assert reply.status_code == 401
    assert "proxy key" in reply.json["mine"]
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="llmauth"'


PAGE = "https://chat.example.com"
ASK = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("how", ["app", "blueprint", "decorator"])
def test_the_preflights_of_an_application_with_cors_of_its_own(upstream, how):
    """A preflight carries no key; nothing is forwarded and no view runs for it."""
    app, api, ran = application(BACKENDS={"openai": upstream.url}), api_blueprint(), []

    def view():
        ran.append(request.method)
        return "decorated"

    if how == "decorator":
        view = flask_cors.cross_origin(origins=PAGE)(view)
    api.add_url_rule("/view", "view", view, methods=["POST"])
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    if how == "blueprint":
        flask_cors.CORS(api, origins=PAGE)
    elif how == "app":
        flask_cors.CORS(app, origins=PAGE)
    app.register_blueprint(api)
    client = app.test_client()
    paths = ["/api/view", "/llm/v1/chat/completions"] if how == "app" else ["/api/view"]
    for path in paths:
        reply = client.options(path, headers=ASK)
        assert reply.status_code < 300
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        refused = client.post(path, headers={"Origin": PAGE})
        assert refused.status_code == 401
        if how != "decorator":  # without running the view there is nobody to add it
            assert refused.headers["Access-Control-Allow-Origin"] == PAGE
        answer = client.post(path, headers=BEARER | {"Origin": PAGE})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert ran == ["POST"]
    assert [r.method for r in upstream.requests] == ["POST"] * (len(paths) - 1)


def test_a_preflight_opens_nothing(upstream):
    app, ran = application(BACKENDS={"openai": upstream.url}), []
    app.add_url_rule("/options", "options", lambda: ran.append(1) or "", methods=["OPTIONS"])
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    client = app.test_client()
    for path in ("/options", "/own", "/llm/v1/x", "/nothing"):
        reply = client.options(path, headers=ASK)
        assert (reply.status_code, reply.data) == (204, b"")
        assert not [h for h, _ in reply.headers if h.startswith("Access-Control")]
        assert client.options(path).status_code == 401
        assert client.options(path, headers={"Origin": PAGE}).status_code == 401
    assert (ran, upstream.requests) == ([], [])


@pytest.mark.parametrize("size", [20, 100_000], ids=["small", "large"])
def test_a_body_that_the_application_has_read_is_not_forwarded_in_part(upstream, size):
    app = application(BACKENDS={"openai": upstream.url})

    @app.before_request
    def nosy():
        if request.args:
            request.stream.read()
        else:
            request.get_data()

    LLMAuth(app)
    app.register_blueprint(proxy_blueprint)
    client = app.test_client()
    lost = client.post("/v1/x?lost=1", headers=BEARER, data=b"x" * size)
    assert lost.status_code == 400
    assert "has read it already" in lost.json["error"]["message"]
    kept = client.post("/v1/x", headers=BEARER, data=b"x" * size)
    kept.close()
    if size == 20:
        assert kept.status_code == 200
        assert upstream.requests[-1].body == b"x" * size
    assert app.extensions["llmauth"].slots.used == 0


def test_with_authentication_off_an_application_is_told(caplog):
    LLMAuth(application(DISABLE_AUTH=True))
    assert "authentication is off" in caplog.text
