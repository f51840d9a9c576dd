"""Settings made by hand, and by ``load`` of a mapping, are those of the environment in all else."""

from __future__ import annotations

import dataclasses
import pydoc
from ipaddress import ip_network

import pytest
from flask import Flask
from servers import KEY, PROVIDER_KEY, Proxy, whole

from llmauth import BackendSettings, ConfigurationError, LLMAuth, Settings, create_app, load
from llmauth.config.loading import Given
from llmauth.config.settings import TABLE
from llmauth.server.server import Server

KEYS = (("anna", KEY),)


def refused(make) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    return str(caught.value)


def test_settings_made_by_hand_are_like_loaded_ones():
    by_hand, loaded = Settings(keys=KEYS), load({"keys": dict(KEYS)}, {})
    for field in dataclasses.fields(Settings):
        if field.name not in ("origins", "key_sources"):
            assert getattr(by_hand, field.name) == getattr(loaded, field.name), field.name
    assert by_hand.secrets == loaded.secrets
    assert repr(by_hand) == repr(loaded)
    assert by_hand.origins.keys() >= {setting.attribute for setting in TABLE}


def test_an_application_is_guarded_with_settings_made_by_hand():
    app = Flask(__name__)
    LLMAuth(app, settings=Settings(keys=KEYS, max_failed_attempts=2))
    client = app.test_client()
    statuses = [client.get("/", headers={"x-api-key": f"wrong-{n}"}).status_code for n in range(3)]
    assert statuses == [401, 401, 429]


def test_the_proxy_runs_with_settings_made_by_hand(upstream):
    upstream.answer = whole()
    openai = BackendSettings("openai", f"{upstream.url}/", api_key=PROVIDER_KEY)
    local = BackendSettings("local", upstream.url, auth="none")
    backends = {"openai": openai, "local": local}
    settings = Settings(keys={"anna": KEY}, backends=backends, port=0, shutdown_timeout=0)
    assert set(settings.secrets) == {KEY, PROVIDER_KEY}
    assert settings.uses(local)
    assert not settings.uses(settings.backends["gemini"])
    server = Server(create_app(settings))
    try:
        assert Proxy(server).request("GET", "/v1/models").status == 200
        assert Proxy(server).request("GET", "/local/v1/models").status == 200
    finally:
        server.stop()
    one, two = upstream.requests
    assert one.header("Authorization") == f"Bearer {PROVIDER_KEY}"
    assert two.header("Authorization") is None


def test_settings_are_frozen_in_depth():
    settings = Settings(keys=list(KEYS), trusted_ips=["10.0.0.0/8"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 9000
    with pytest.raises(TypeError):
        settings.backends["x"] = settings.backends["echo"]
    with pytest.raises(TypeError):
        settings.origins["port"] = "x"
    assert settings.keys == KEYS
    assert settings.trusted_ips == (ip_network("10.0.0.0/8"),)


def test_a_value_may_be_text_as_in_the_environment_and_is_read_once():
    settings = Settings(keys=KEYS, max_request_body="1M", log_level="debug", bypass_paths="/a,/b")
    changed = dataclasses.replace(settings, port="9000")
    assert changed.max_request_body == 1024**2
    assert (changed.log_level, changed.bypass_paths) == ("DEBUG", ("/a", "/b"))
    assert (changed.port, changed.keys) == (9000, KEYS)
    assert changed.origins["port"] == "Settings.port"
    assert changed.backends == settings.backends
    assert "is no BackendSettings" in refused(
        lambda: dataclasses.replace(settings, backends={"x": "http://127.0.0.1"})
    )


WRONG = {
    "port": 70000,
    "threads": "many",
    "ttl_seconds": "15m",
    "disable_auth": "maybe",
    "trusted_ips": ("10.0.0.0/8", "nonsense"),
    "trusted_proxies": 5,
    "bypass_paths": ["relative"],
    "cors_origins": "null",
    "log_level": "loud",
    "storage_uri": "memcached://x",
    "max_request_body": True,
    "log_file": 5,
    "host": "",
}


@pytest.mark.parametrize("attribute", WRONG)
def test_a_wrong_value_is_refused_with_the_same_words(attribute):
    value = {attribute: WRONG[attribute]}
    by_hand = refused(lambda: Settings(keys=KEYS, **value))
    of_mapping = refused(lambda: load({"keys": KEYS, **value}, {}))
    (setting,) = [s for s in TABLE if s.attribute == attribute]
    of_flag = refused(lambda: load(Given(value, keys=KEYS), {}))
    origins = (f"Settings.{attribute}", f"argument {attribute}", f"flag {setting.flag}")
    said = {
        text.replace(f"({origin})", "(ORIGIN)")
        for text, origin in zip((by_hand, of_mapping, of_flag), origins, strict=True)
    }
    assert len(said) == 1, said
    assert by_hand.startswith(f"{setting.name} (Settings.{attribute}):")


def test_every_wrong_value_is_told():
    said = refused(lambda: Settings(keys=(("a", "x y"),), **WRONG)).splitlines()
    assert len(said) == len(WRONG) + 1
    assert KEY not in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"default_backend": "nothing"}, "there is no backend 'nothing'"),
        ({"max_block_seconds": 5}, "shorter than initial_block_seconds"),
        ({"disable_auth": True, "host": "::"}, "allow_unauthenticated_network=True"),
        ({"disable_auth": True, "cors_origins": "*"}, "Name the origins."),
        ({"keys": ("abc",)}, "a key is a pair of texts"),
        ({"keys": (("a", 5),)}, "a key is a pair of texts"),
        ({"keys": KEY}, "Settings.keys: a key is a pair of texts, its name and itself."),
        ({"keys": 5}, "a key is a pair of texts"),
        ({"backends": ["http://x"]}, "is no BackendSettings of that name"),
        ({"keys": (("a", KEY),), "log_level": KEY}, "logging.level (Settings.log_level): '****'"),
        ({"keys": {"a": "'quoted-0123456789'"}}, "Settings.keys: a: the key has quotes"),
        ({"keys": (("a", KEY), ("b", KEY))}, "name the same key"),
        ({"keys": (("a", KEY), ("a", f"{KEY}2"))}, "two keys named 'a'"),
        ({"backends": {"mine": "http://x"}}, "'mine' is no BackendSettings of that name"),
    ],
    ids=lambda one: ",".join(one) if isinstance(one, dict) else "",
)
def test_what_contradicts_itself_is_refused(values, said):
    assert said in refused(lambda: Settings(**{"keys": KEYS, **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "V1", "base_url": "http://x"}, "'V1' cannot name a backend"),
        ({"name": "x", "base_url": "x.example"}, "backends.x: base_url is not an http://"),
        ({"name": "x", "base_url": "http://x", "auth": "basic"}, "auth 'basic' is none of"),
        ({"name": "x", "base_url": "http://x", "read_timeout": "1m"}, "read_timeout '1m' is not"),
        ({"name": "x", "base_url": "http://x", "api_key": "a b"}, "backends.x.api_key: the key"),
        ({"name": "x", "base_url": "http://x", "proxy": "http://p:1"}, "for an https:// base_url"),
    ],
    ids=lambda one: next(reversed(one)) if isinstance(one, dict) else "",
)
def test_a_backend_made_by_hand_is_checked(values, said):
    assert said in refused(lambda: BackendSettings(**values))


def test_load_takes_a_mapping_before_the_environment(tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text("server: {threads: 7}\n")
    environ = {"APP_PORT": "1", "APP_HOST": "127.0.0.2", "LLM_INTERACTIVE_PROXY_API_KEY": "x" * 20}
    given = {
        "port": 9000,
        "keys": {"anna": KEY},
        "backends": {"local": "http://127.0.0.1:8080", "openai": {"read_timeout": 5}},
        "config_file": file,
        "log_file": None,
    }
    settings = load(given, environ)
    assert (settings.port, settings.host, settings.threads) == (9000, "127.0.0.2", 7)
    assert settings.keys == KEYS
    assert settings.backends["local"].base_url == "http://127.0.0.1:8080"
    assert settings.backends["openai"].read_timeout == 5
    assert settings.origins["port"] == "argument port"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prot": 1}, "argument 'prot' is no setting. Did you mean 'port'?"),
        ({"key": KEY}, "Did you mean 'keys'?"),
        ({"backends": {"x": "y"}}, "argument backends x: base_url is not"),
        ({"backends": ["http://x"]}, "argument backends is not a mapping"),
        ({"config_file": "/nonexistent"}, "/nonexistent"),
        ({"keys": {"a": 5}}, "argument keys: a key is a pair of texts"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_a_mapping_that_cannot_be_used_is_refused(given, said):
    assert said in refused(lambda: load(given, {}))


def test_help_gives_each_setting_s_meaning_and_unit_from_the_table():
    text = pydoc.plain(pydoc.render_doc(Settings))
    for setting in TABLE:
        assert f":param {setting.attribute}: {setting.help}" in text
        if setting.attribute.endswith(("_seconds", "_timeout")):
            assert "second" in setting.help.lower()
        if setting.attribute.endswith(("_bytes", "_body")):
            assert "bytes" in setting.help.lower()
    for attribute in ("keys", "backends", "key_sources", "origins", "notices"):
        assert f":param {attribute}: " in text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LLMAuth(Flask("x")), "LLMAUTH_API_KEY in the configuration of the Flask"),
        (lambda: LLMAuth(Flask("x"), settings=Settings()), "give Settings keys"),
        (lambda: create_app(load({}, {})), "give load() keys"),
        (lambda: create_app(load(None, {})), "DISABLE_AUTH=true"),
    ],
    ids=["Flask", "by hand", "a mapping", "the environment"],
)
def test_without_a_key_it_is_said_what_helps_there(make, said, monkeypatch):
    monkeypatch.delenv("LLM_INTERACTIVE_PROXY_API_KEY", raising=False)
    message = refused(make)
    assert message.startswith("API key not configured: ")
    assert said in message
    assert "--" not in message


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda v: load(Given(v), {}), "add --allow-unauthenticated-network if"),
        (lambda v: load(environ={"DISABLE_AUTH": "1", "APP_HOST": v["host"]}),
         "add ALLOW_UNAUTHENTICATED_NETWORK=true if"),
        (lambda v: load(Given(v, kind="Flask configuration"), {}),
         "add LLMAUTH_ALLOW_UNAUTHENTICATED_NETWORK if"),
        (lambda v: Settings(**v), "add allow_unauthenticated_network=True if"),
    ],
    ids=["flag", "environment", "Flask", "by hand"],
)  # fmt: skip
def test_an_open_network_is_refused_with_what_allows_it_there(make, said):
    assert said in refused(lambda: make({"disable_auth": True, "host": "0.0.0.0"}))


@pytest.mark.parametrize(
    ("said", "meant"),
    [("[::1]", "::1"), ("[::]", "::"), ("[fe80::1%eth0]", "fe80::1%eth0"), ("::1", "::1")],
)
def test_an_address_to_listen_on_may_have_the_brackets_of_a_url(said, meant):
    assert Settings(keys=KEYS, host=said).host == meant
