"""Flag, then environment, then config file, then default; and what is refused."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from llmauth.auth.stores import open_store
from llmauth.config.flask import from_flask
from llmauth.config.keys import KEY_VARIABLE
from llmauth.config.loading import Given, load, require_keys
from llmauth.config.settings import TABLE
from llmauth.exceptions import ConfigurationError

KEY = "key-of-the-configuration-0123456789"
SECRET = "value-that-must-never-be-shown"
SHARED = "key-of-both-sides-0123456789"
OTHER = "key-of-another-user-0123456789"

# Three different, valid texts for each setting: of the flag, the environment and the file.
EXAMPLES = {
    "prices": ('{"a": {"input": 1}}', '{"b": {"input": 2}}', '{"c": {"input": 3}}'),
    "trusted_ips": ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
    "trusted_proxies": ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
    "bypass_paths": ("/a", "/b", "/c"),
    "cors_origins": ("http://a", "http://b", "http://c"),
    "storage_uri": ("redis://a", "redis://b", "redis://c"),
    "default_backend": ("gemini", "ollama", "echo"),
    "log_level": ("DEBUG", "ERROR", "WARNING"),
    "log_format": ("json", "text", "json"),
    "max_block_seconds": ("4001", "4002", "4003"),
    "initial_block_seconds": ("11", "12", "13"),
    "max_request_body": ("1M", "2M", "3M"),
    "capture_max_bytes": ("1M", "2M", "3M"),
    "ipv6_prefix": ("48", "56", "60"),
}


def examples(setting):
    if isinstance(setting.default, bool):
        return ("true", "false", "true")
    if isinstance(setting.default, (int, float)):
        return EXAMPLES.get(setting.attribute, ("21", "22", "23"))
    return EXAMPLES.get(setting.attribute, ("one", "two", "three"))


def yaml_of(name: str, value: str) -> str:
    *parents, last = name.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parents)]
    return "\n".join([*lines, f"{'  ' * len(parents)}{last}: {value}", ""])


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.attribute)
def test_precedence(setting, tmp_path):
    flag, variable, text = examples(setting)
    file = tmp_path / "llmauth.yaml"
    file.write_text(yaml_of(setting.name, text))
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}

    def value(given=None, **more):
        settings = load(Given(given or {}), environ | more)
        return getattr(settings, setting.attribute), settings.origins[setting.attribute]

    in_file = {"LLMAUTH_CONFIG": str(file)}
    in_environ = in_file | {setting.env: variable}
    assert value() == (setting.default, "default")
    assert value(**{setting.env: " "}) == (setting.default, "default")
    assert value(**in_file) == (setting.parse(text), f"{file}: {setting.name}")
    assert value(**in_environ) == (setting.parse(variable), f"environment {setting.env}")
    given = {setting.attribute: flag}
    assert value(given, **in_environ) == (setting.parse(flag), f"flag {setting.flag}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {prot: 1}", "'server.prot' is no setting. Did you mean 'server.port'?"),
        ("auth: {max_failed_attempts: 3}", "brute_force_protection.max_failed_attempts"),
        ("auth: {api_key: SECRET}", "LLM_INTERACTIVE_PROXY_API_KEY"),
        ("backends: {openai: {api_key: SECRET}}", "OPENAI_API_KEY"),
        ("backends: {openai: {base_url: 'https://u:SECRET@x'}}", "OPENAI_API_BASE_URL"),
        (
            "auth: {brute_force_protection: {storage_uri: 'redis://:SECRET@x'}}",
            "BRUTE_FORCE_STORAGE_URI",
        ),
        ("backends: {openai: {bse_url: x}}", "base_url"),
        ("backends: {openai: {base_url: 'ftp://x'}}", "http:// or https://"),
        ("backends: {openai: {base_url: 'https://x?q=1'}}", "query"),
        ("backends: {'v1': {base_url: 'https://x'}}", "cannot name a backend"),
        ("backends: {'metrics': {base_url: 'https://x'}}", "cannot name a backend"),
        ("backends: {'dashboard': 'https://x'}", "cannot name a backend"),
        ("backends: {'livez': 'https://x'}", "cannot name a backend"),
        ("backends: {'-': 'https://x'}", "cannot name a backend"),
        ("backends: {mine: {auth: bearer}}", "has no base_url"),
        ("server: {port: true}", "server.port"),
        ("server: {port: 70000}", "0 and 65535"),
        ("auth: {bypass_paths: ['/']}", "bypass_paths"),
        ("auth: {bypass_paths: ['/a/../b']}", "dots"),
        ("auth: {trusted_ips: ['x']}", "no address"),
        ("server: {port: 1, port: 2}", "repeated"),
        ("server: &a {x: *a}", "holds itself"),
        ("sever: {}", "'sever' is no setting"),
        ("- a list", "not settings"),
        ("a: [", "line"),
        ("\tx", "line"),
        ("auth: {disable_ath: true}", "Did you mean 'auth.disable_auth'?"),
        ("backend: {}", "Did you mean 'backends'?"),
        ("server: {prot: }", "'server.prot' is no setting"),
        ("auth:\n  api_key: !SECRET\n", "line 2"),
        ("auth:\n  api_key: *SECRET\n", "line 2"),
        ("api_keys: {alice: SECRET}", "api_keys"),
        ("backends: {openai: {token: SECRET}}", "OPENAI_API_KEY"),
        ("backends: {openai: {api_key_env: SECRET}}", "environment variable"),
        ("backends: {mine: }", "has no base_url"),
        ("backends: {openai: {proxy: 'http://u:SECRET@x:1'}}", "OPENAI_PROXY"),
        ("backends: {openai: {proxy: 'https://x:1'}}", "not the URL of a proxy"),
        ("backends: {openai: {proxy: 'http://x:1/path'}}", "not the URL of a proxy"),
        ("backends: {ollama: {proxy: 'http://x:1'}}", "proxy is for an https:// base_url"),
        ("auth: {keys: {alice: SECRET}}", "do not belong in the config file"),
        ("OPENROUTER_API_KEY: SECRET", "Set OPENROUTER_API_KEY,"),
        ("a: " + "[" * 5000, "too deep"),
        ("auth: {bearer: SECRET}", "'auth.bearer' is no setting."),
        ("backends: {openai: {base_url: 'http://[bad'}}", "base_url"),
        ("auth: {brute_force_protection: {storage_uri: 'redis://[bad'}}", "storage_uri"),
        (
            "auth: {brute_force_protection: {storage_uri: 'redis://x?password=SECRET'}}",
            "BRUTE_FORCE_STORAGE_URI",
        ),
        ("auth: {brute_force_protection: {storage_uri: 'memcached://x'}}", "moving window"),
        ("auth: {brute_force_protection: {storage_uri: 'async+memory://'}}", "moving window"),
    ],
)
def test_what_a_file_must_not_say(tmp_path, text, said):
    file = tmp_path / "llmauth.yaml"
    file.write_text(text.replace("SECRET", SECRET))
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        load(environ={"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLMAUTH_CONFIG": str(file)})
    assert SECRET not in str(caught.value)
    assert str(file) in str(caught.value) or "mine" in text


@pytest.mark.parametrize(
    "uri",
    [
        "redis://:SECRET@127.0.0.1:1",
        "redis://user:a@SECRET@127.0.0.1:1",
        "redis://127.0.0.1:1?password=SECRET",
    ],
    ids=["plain", "at-sign", "in-the-query"],
)
def test_a_password_in_the_store_is_never_shown(uri):
    uri = uri.replace("SECRET", SECRET)
    settings = load(environ={"BRUTE_FORCE_STORAGE_URI": uri})
    assert SECRET not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        open_store(uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("mark", "/?#")
def test_a_password_that_parsers_would_take_for_a_host_is_refused(mark):
    uri = f"redis://:a@{SECRET}{mark}b@127.0.0.1:1"
    with pytest.raises(ConfigurationError, match="%2F") as caught:
        load(environ={"BRUTE_FORCE_STORAGE_URI": uri})
    assert SECRET not in str(caught.value)


BOUNDED = [setting for setting in TABLE if not isinstance(setting.default, (bool, str, tuple))]
BOUNDED = [setting for setting in BOUNDED if setting.default is not None]


@pytest.mark.parametrize("text", ["-1", "1e30", "nan", "x", "1 2", "9" * 30, "١٢"])
@pytest.mark.parametrize("setting", BOUNDED, ids=lambda setting: setting.attribute)
def test_a_number_out_of_range_is_refused_with_its_name_and_origin(setting, text):
    with pytest.raises(ConfigurationError) as caught:
        load(environ={setting.env: text})
    assert f"{setting.name} (environment {setting.env}): '{text}' " in str(caught.value)
    with pytest.raises(ConfigurationError, match=f"flag {setting.flag}"):
        load(Given({setting.attribute: text}))


@pytest.mark.parametrize("text", ["unix", " UNIX ,", "10.0.0.0/8,unix"])
def test_a_unix_socket_is_a_trusted_proxy(text, tmp_path):
    wanted = ("unix",) if "10" not in text else (ip_network("10.0.0.0/8"), "unix")
    assert load(environ={"TRUSTED_PROXIES": text}).trusted_proxies == wanted
    file = tmp_path / "llmauth.yaml"
    file.write_text(f"server: {{trusted_proxies: [{text.strip(' ,')}]}}\n")
    assert load(Given(config_file=str(file))).trusted_proxies == wanted
    assert load(Given({"trusted_proxies": text.split(",")})).trusted_proxies == wanted


@pytest.mark.parametrize("text", ["unix:/run/x.sock", "/run/x.sock", "localhost"])
def test_what_is_no_proxy_is_refused_with_what_there_is(text):
    with pytest.raises(ConfigurationError, match="no address, network or 'unix'"):
        load(environ={"TRUSTED_PROXIES": text})
    with pytest.raises(ConfigurationError, match="TRUSTED_IPS"):
        load(environ={"TRUSTED_IPS": "unix"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DISABLE_AUTH", "maybe"),
        ("TRUSTED_IPS", "10.0.0.0/8, nonsense"),
        ("TRUSTED_PROXIES", "10.0.0.0/99"),
        ("BYPASS_PATHS", "relative"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("BRUTE_FORCE_STORAGE_URI", "nonsense"),
        ("OPENAI_API_BASE_URL", "nonsense"),
        ("OPENAI_TIMEOUT", "0"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_variable(variable, value):
    with pytest.raises(ConfigurationError, match=f"environment {variable}"):
        load(environ={variable: value})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_block_seconds": 5}, "shorter than initial_block_seconds"),
        ({"default_backend": "nothing"}, "there is no backend 'nothing'"),
        ({"default_backend": "vllm"}, "VLLM_API_BASE_URL makes one of that name."),
        ({"default_backend": "opnai"}, "Did you mean 'openai'?"),
        ({"default_backend": "azure_openai"}, "Did you mean 'azure-openai'?"),
        (
            {"default_backend": "azure-openai"},
            "the backend 'azure-openai' has no base URL. Set AZURE_OPENAI_API_BASE_URL.",
        ),
        ({"disable_auth": True, "host": "::"}, "--allow-unauthenticated-network"),
    ],
)
def test_contradictions(values, said):
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load(Given(values), {"LLM_INTERACTIVE_PROXY_API_KEY": KEY})


def test_an_open_network_without_keys_has_to_be_wanted():
    values = {"disable_auth": True, "host": "0.0.0.0", "allow_unauthenticated_network": True}
    require_keys(load(Given(values), {}))


def test_keys_of_the_environment_and_of_files(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# comment\nalice: alice-key-0123456789\n\nbob: bob-key-0123456789\n")
    one = tmp_path / "one"
    one.write_text("key-in-a-file-0123456789\r\n")
    providers = tmp_path / "providers"
    providers.write_text("providers-key-in-a-file-0123456789\r\n")
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(file),
        "LLM_INTERACTIVE_PROXY_API_KEY_CAROL_FILE": str(one),
        "LLM_INTERACTIVE_PROXY_API_KEY_DAVE": " dave-key-0123456789\n",
        "LLM_INTERACTIVE_PROXY_API_KEYS": "not one of ours",
        "OPENAI_API_KEY_FILE": str(providers),
    }
    settings = load(environ=environ)
    assert dict(settings.keys) == {
        "default": KEY,
        "alice": "alice-key-0123456789",
        "bob": "bob-key-0123456789",
        "carol": "key-in-a-file-0123456789",
        "dave": "dave-key-0123456789",
    }
    assert settings.backends["openai"].api_key == "providers-key-in-a-file-0123456789"
    for secret in settings.secrets:
        assert secret not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LLM_INTERACTIVE_PROXY_API_KEY": f'"{SECRET}"'}, "quotes"),
        ({"LLM_INTERACTIVE_PROXY_API_KEY": f"{SECRET} {SECRET}"}, "space"),
        ({"LLM_INTERACTIVE_PROXY_API_KEY": f"{SECRET}\xfc"}, "ASCII"),
        ({"LLM_INTERACTIVE_PROXY_API_KEY": SECRET * 300}, "4096"),
        ({"LLM_INTERACTIVE_PROXY_API_KEY_FILE": "/nonexistent"}, "/nonexistent"),
        (
            {"LLM_INTERACTIVE_PROXY_API_KEY": SECRET, "LLM_INTERACTIVE_PROXY_API_KEY_A": SECRET},
            "name the same key",
        ),
        (
            {
                "LLM_INTERACTIVE_PROXY_API_KEY_A": SECRET,
                "LLM_INTERACTIVE_PROXY_API_KEY_a": f"{SECRET}2",
            },
            "two keys named 'a'",
        ),
        ({"OPENAI_API_KEY": f"'{SECRET}'"}, "OPENAI_API_KEY: the key has quotes"),
    ],
)
def test_keys_that_cannot_be_used(environ, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(environ=environ)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"OPENAI_API_KEY": SHARED}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": f" {SHARED} "}, "OPENAI_API_KEY"),
        ({"GROQ_API_KEY": SHARED}, "GROQ_API_KEY"),
        ({"MINE_API_BASE_URL": "http://127.0.0.1:1", "MINE_API_KEY": SHARED}, "MINE_API_KEY"),
        ({"MINE_API_BASE_URL": f"http://user:{SHARED}@127.0.0.1:1"}, "mine's base_url"),
        ({"ANTHROPIC_API_KEY_FILE": "{file}"}, "ANTHROPIC_API_KEY_FILE"),
        ({"OPENAI_API_KEY": OTHER, f"{KEY_VARIABLE}_ALICE": OTHER}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": OTHER, f"{KEY_VARIABLE}_X_FILE": "{keys}"}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": SHARED, "DISABLE_AUTH": "true"}, "OPENAI_API_KEY"),
    ],
)
def test_a_providers_key_that_is_a_proxy_key_too_is_refused(environ, where, tmp_path):
    """Whoever is let in would have the provider's key, and the proxy would hand its own on."""
    (tmp_path / "file").write_text(f"{SHARED}\n")
    (tmp_path / "keys").write_text(f"bob: {OTHER}\n")
    files = {"file": tmp_path / "file", "keys": tmp_path / "keys"}
    environ = {name: value.format(**files) for name, value in environ.items()}
    with pytest.raises(ConfigurationError) as caught:
        load(environ={KEY_VARIABLE: SHARED} | environ)
    assert str(caught.value).startswith(f"{where} holds the proxy key '")
    assert SHARED not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_backends_of_every_source(tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text(
        "backends:\n  local: {base_url: 'http://one/v1', auth: none}\n  openai: {read_timeout: 5}\n"
    )
    environ = {
        "LLMAUTH_CONFIG": str(file),
        "GROQ_API_BASE_URL": "https://api.groq.com/openai/v1/",
        "GROQ_API_KEY": SECRET,
        "GROQ_TIMEOUT": "7",
        "AZURE_OPENAI_API_BASE_URL": "https://azure",
        "LOCAL_API_BASE_URL": "http://two",
    }
    given = Given(backends={"mine": "http://mine"})
    backends = load(given, environ).backends
    assert backends["groq"].base_url == "https://api.groq.com/openai/v1"
    assert backends["groq"].api_key == SECRET
    assert (backends["groq"].read_timeout, backends["groq"].first_byte_timeout) == (7, 7)
    assert backends["azure-openai"].base_url == "https://azure"
    assert (backends["local"].base_url, backends["local"].auth) == ("http://two", "none")
    assert backends["openai"].read_timeout == 5
    assert backends["mine"].base_url == "http://mine"
    assert SECRET not in repr(backends)


def test_the_flask_configuration(monkeypatch):
    monkeypatch.setenv("BRUTE_FORCE_MAX_FAILED_ATTEMPTS", "9")
    config = {
        "LLMAUTH_PORT": 9000,
        "LLMAUTH_MAX_FAILED_ATTEMPTS": "3",
        "LLMAUTH_API_KEY": KEY,
        "LLMAUTH_BACKENDS": {"mine": {"base_url": "http://mine"}},
        "DEBUG": True,
    }
    settings = from_flask(config)
    assert (settings.port, settings.max_failed_attempts) == (9000, 3)
    assert settings.keys == (("default", KEY),)
    assert "mine" in settings.backends
    with pytest.raises(ConfigurationError, match="LLMAUTH_PORT"):
        from_flask({"LLMAUTH_PROT": 1})
    with pytest.raises(ConfigurationError) as caught:
        from_flask({"LLMAUTH_PROT": 1, "LLMAUTH_THREADZ": 1, "LLMAUTH_PORT": "x"})
    assert len(caught.value.messages) == 4  # and there is no key


def test_the_flask_configuration_names_several_keys_and_its_origin():
    named = {"alice": KEY, "bob": f"{KEY}2"}
    settings = from_flask({"LLMAUTH_API_KEYS": named, "LLMAUTH_THREADS": 9})
    assert dict(settings.keys) == named
    assert settings.origins["threads"] == "Flask configuration LLMAUTH_THREADS"
    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    "config",
    [
        {"LLMAUTH_API_KEY": f"'{SECRET}'"},
        {"LLMAUTH_API_KEYS": {"a": SECRET, "b": SECRET}},
        {"LLMAUTH_BACKENDS": {"mine": {"api_key": SECRET, "base_url": "http://x"}}},
        {"LLMAUTH_PORT": 70000},
        {"LLMAUTH_API_KEY": 1234567890123456},
        {"LLMAUTH_API_KEYS": [SECRET]},
        {"LLMAUTH_BACKENDS": ["http://x"]},
    ],
    ids=["quoted", "same", "backend-key", "range", "number", "list-of-keys", "list-of-backends"],
)
def test_a_flask_configuration_that_cannot_be_used_is_refused(config):
    with pytest.raises(ConfigurationError) as caught:
        from_flask(config)
    assert SECRET not in str(caught.value)


def test_empty_sections_of_a_file_say_nothing(tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text("server: {}\nlogging:\nauth: {trusted_ips: }\n")
    environ = {"LLMAUTH_CONFIG": str(file), "LLM_INTERACTIVE_PROXY_API_KEY": KEY}
    assert load(environ=environ).port == 8000


@pytest.mark.parametrize(
    ("uri", "secrets"),
    [
        ("redis://:a%20b@h", ("a%20b", "a b")),
        ("redis://u:a@b@h:1/0", ("a@b",)),
        ("redis://token@h", ("token",)),
        ("redis://h?db=1&password=x", ("x",)),
        ("redis://h:1/0?db=1", ()),
    ],
)
def test_the_secrets_of_a_uri_are_known_to_the_redactor(uri, secrets):
    environ = {"BRUTE_FORCE_STORAGE_URI": uri}
    assert load(environ=environ).secrets == secrets


def test_azure_is_there_once_its_base_url_is_given():
    key = {"AZURE_OPENAI_API_KEY": SECRET}
    assert "azure-openai" not in load(environ=key).backends
    url = {"AZURE_OPENAI_API_BASE_URL": "https://mine.openai.azure.com"}
    azure = load(environ=key | url).backends["azure-openai"]
    assert (azure.auth, azure.api_key) == ("api-key", SECRET)
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_API_BASE_URL"):
        load(environ={"AZURE_OPENAI_TIMEOUT": "5"})


@pytest.mark.parametrize("name", ["groq", "mistral", "deepseek", "xai", "openrouter"])
def test_a_built_in_backend_needs_nothing_but_its_key(name):
    backend = load(environ={f"{name.upper()}_API_KEY": SECRET}).backends[name]
    assert (backend.auth, backend.api_key) == ("bearer", SECRET)
    assert backend.base_url.startswith("https://")
