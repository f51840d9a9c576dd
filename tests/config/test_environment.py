"""The environment is everybody's: what is another program's stops no start, and what may have been
meant is named, once."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
from commands import KEY, environment, run
from servers import TIMEOUT

from llmauth.config.loading import load, warn
from llmauth.config.settings import TABLE
from llmauth.exceptions import ConfigurationError

OURS = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}
PLACEHOLDER = "is a placeholder"


def told(caplog, **environ: str) -> list[str]:
    """Return what the log says of these variables at a start."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "llmauth"):
        warn(load(environ=OURS | environ))
    return [record.getMessage() for record in caplog.records]


FOREIGN = {
    "VITE_API_BASE_URL": "/api",
    "VITE_OPENAI_API_BASE_URL": "https://x.example",
    "MAIN_VITE_API_BASE_URL": "https://x.example",
    "NEXT_PUBLIC_API_BASE_URL": "https://x.example",
    "REACT_APP_API_BASE_URL": "http://x.example",
    "PUBLIC_API_BASE_URL": "https://x.example",
    "EXPO_PUBLIC_API_BASE_URL": "https://x.example",
    "NUXT_API_BASE_URL": "https://x.example",
    "NUXT_PUBLIC_API_BASE_URL": "https://x.example",
    "VUE_APP_API_BASE_URL": "https://x.example",
    "GATSBY_API_BASE_URL": "https://x.example",
    "STORYBOOK_API_BASE_URL": "https://x.example",
    "NG_APP_API_BASE_URL": "https://x.example",
    "SHOP_API_BASE_URL": "/api",
    "METRICS_API_BASE_URL": "https://x.example",
    "V1_API_BASE_URL": "https://x.example",
    "SHOP_INTERNAL_API_BASE_URL": "shop:8000",
    "GRPC_API_BASE_URL": "grpc://shop:8000",
    "TEMPLATE_API_BASE_URL": "https://${HOST}/api",
    "SEARCH_API_BASE_URL": "https://x.example/?q=1",
    "LOUD_API_BASE_URL": "echo:",
    f"{'LONG_' * 12}API_BASE_URL": "https://x.example",
}


@pytest.mark.parametrize("variable", FOREIGN)
def test_a_foreign_base_url_makes_no_backend_and_is_named_once(variable, caplog):
    lines = told(caplog, **{variable: FOREIGN[variable]})
    assert len(lines) == 1
    assert lines[0].startswith("not read as the base URL of a backend: ")
    assert lines[0].count(variable) == 1
    backends = load(environ=OURS | {variable: FOREIGN[variable]}).backends
    assert backends.keys() == load(environ=OURS).backends.keys()


@pytest.mark.parametrize(
    "other",
    [
        {"SHOP_TIMEOUT": "10m"},
        {"SHOP_PROXY": "socks5://proxy:1"},
        {"SHOP_REDIRECTS": "all"},
        {"SHOP_API_KEY": "'quoted'"},
        {"SHOP_API_KEY_FILE": "/nonexistent"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_else_a_foreign_service_has_stops_no_start(other, caplog):
    """It may be a backend and its variables another program's: it is whole, or not there."""
    assert told(caplog, **other) == []
    url = {"SHOP_API_BASE_URL": "https://shop.example/v1"}
    (line,) = told(caplog, **url, **other)
    assert next(iter(other)) in line
    assert "shop" not in load(environ=OURS | url | other).backends
    assert load(environ=OURS | url).backends["shop"].base_url == "https://shop.example/v1"


def test_what_is_said_of_the_environment_shows_no_key(caplog):
    key = "xK3f9QmT7vLp2RsW8yZaBcDe4GhJ6nUo1iXt5wEqVdM"
    url = {"SHOP_API_BASE_URL": "https://shop.example"}
    for variable in ("SHOP_TIMEOUT", "SHOP_PROXY", "SHOP_REDIRECTS"):
        (line,) = told(caplog, **url, **{variable: key})
        assert key not in line


@pytest.mark.parametrize(
    "known",
    [{"LLM_BACKEND": "shop"}, {"LLMAUTH_CONFIG": "FILE"}],
    ids=["the default", "in the config file"],
)
def test_a_backend_that_somebody_speaks_of_is_refused_when_it_is_wrong(known, tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text("backends: {shop: {auth: none}}\n")
    environ = {name: value.replace("FILE", str(file)) for name, value in known.items()}
    with pytest.raises(ConfigurationError, match="environment SHOP_API_BASE_URL"):
        load(environ=OURS | environ | {"SHOP_API_BASE_URL": "/api"})
    front_end = {"LLM_BACKEND": "vite", "VITE_API_BASE_URL": "http://127.0.0.1:8080"}
    assert "vite" in load(environ=OURS | front_end).backends


def test_what_kubernetes_says_of_a_service_named_app_is_no_port(caplog):
    (line,) = told(caplog, APP_PORT="tcp://10.0.0.1:80", APP_PORT_80_TCP_PORT="80")
    assert line == "APP_PORT is not read: it is what Kubernetes says of a service"
    assert load(environ=OURS | {"APP_PORT": "tcp://10.0.0.1:80"}).port == 8000


MEANT = {
    "OPENAI_BASE_URL": "OPENAI_API_BASE_URL",
    "OPENAI_API_BASE": "OPENAI_API_BASE_URL",
    "OPENAI_API_BASEURL": "OPENAI_API_BASE_URL",
    "OPENAI_HOST": "OPENAI_API_BASE_URL",
    "ANTHROPIC_BASE_URL": "ANTHROPIC_API_BASE_URL",
    "OLLAMA_HOST": "OLLAMA_API_BASE_URL",
    "GOOGLE_GEMINI_BASE_URL": "GEMINI_API_BASE_URL",
    "AZURE_OPENAI_ENDPOINT": "AZURE_OPENAI_API_BASE_URL",
    "AZURE_API_BASE": "AZURE_OPENAI_API_BASE_URL",
    "OPENROUTER_BASE_URL": "OPENROUTER_API_BASE_URL",
    "GOOGLE_API_KEY": "GEMINI_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY": "GEMINI_API_KEY",
    "ANTHROPIC_AUTH_TOKEN": "ANTHROPIC_API_KEY",
    "CLAUDE_API_KEY": "ANTHROPIC_API_KEY",
    "AZURE_API_KEY": "AZURE_OPENAI_API_KEY",
    "OPENAI_KEY": "OPENAI_API_KEY",
    "OPEN_AI_API_KEY": "OPENAI_API_KEY",
    "OPENAPI_API_KEY": "OPENAI_API_KEY",
    "ANTROPIC_API_KEY": "ANTHROPIC_API_KEY",
    "GEMINI_APIKEY": "GEMINI_API_KEY",
    "GROK_API_KEY": "XAI_API_KEY",
    "openai_api_key": "OPENAI_API_KEY",
    "OPENAI_REQUEST_TIMEOUT": "OPENAI_TIMEOUT",
    "OPENAI_HTTP_PROXY": "OPENAI_PROXY",
    "APP_PROT": "APP_PORT",
    "APP_PORTS": "APP_PORT",
    "app_port": "APP_PORT",
    "APP-PORT": "APP_PORT",
    "\ufeffAPP_PORT": "APP_PORT",
    "export APP_PORT": "APP_PORT",
    "APP_MAX_BODY": "APP_MAX_REQUEST_BODY",
    "BRUTE_FORCE_MAX_ATTEMPTS": "BRUTE_FORCE_MAX_FAILED_ATTEMPTS",
    "BRUTEFORCE_TTL_SECONDS": "BRUTE_FORCE_TTL_SECONDS",
    "AUTH_MAX_FAILED_ATTEMPTS": "BRUTE_FORCE_MAX_FAILED_ATTEMPTS",
    "LLM_INTERACTIVE_PROXY_APIKEY": "LLM_INTERACTIVE_PROXY_API_KEY",
    "LLM_INTERACTIVE_PROXY_API_KEYS": "LLM_INTERACTIVE_PROXY_API_KEY",
    "LLM_INTERACTIVE_PROXY_KEY": "LLM_INTERACTIVE_PROXY_API_KEY",
    "LLMAUTH_API_KEY": "LLM_INTERACTIVE_PROXY_API_KEY",
    "LLMAUTH_PORT": "APP_PORT",
    "LLMAUTH_TTL_SECONDS": "BRUTE_FORCE_TTL_SECONDS",
    "TRUSTED_PROXY": "TRUSTED_PROXIES",
    "TRUSTED_IP": "TRUSTED_IPS",
    "BYPASS_PATH": "BYPASS_PATHS",
    "DISABLE_AUTHENTICATION": "DISABLE_AUTH",
    "CORS_ALLOWED_ORIGINS": "CORS_ORIGINS",
    "LOGLEVEL": "LOG_LEVEL",
    "LLM_DEFAULT_BACKEND": "LLM_BACKEND",
}


@pytest.mark.parametrize("variable", MEANT)
def test_a_variable_that_is_nearly_ours_is_named_with_ours(variable, caplog):
    assert told(caplog, **{variable: "x-1"}) == [
        f"{variable} is not read. Did you mean {MEANT[variable]}?"
    ]
    assert told(caplog, **{variable: " "}) == []


def test_a_client_s_variables_beside_ours_are_not_named(caplog):
    for_clients = {
        "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
        "OPENAI_API_BASE_URL": "https://x.example/v1",
        "GOOGLE_API_KEY": KEY,
        "GEMINI_API_KEY": "of-the-provider-0123456789",
    }
    assert told(caplog, **for_clients) == []


def test_the_variables_of_other_programs_are_not_named(caplog):
    names = [
        "PATH",
        "HOME",
        "LANG",
        "HOSTNAME",
        "PORT",
        "HOST",
        "DISPLAY",
        "LOGNAME",
        "LS_COLORS",
        "SHELL",
        "SSH_AUTH_SOCK",
        "VIRTUAL_ENV",
        "APP_NAME",
        "APP_ENV",
        "APP_KEY",
        "APP_DEBUG",
        "APP_URL",
        "APP_VERSION",
        "APP_SECRET",
        "LOG_CHANNEL",
        "DB_HOST",
        "DB_PORT",
        "REDIS_HOST",
        "MAIL_PORT",
        "SERVER_PORT",
        "GUNICORN_TIMEOUT",
        "STRIPE_API_KEY",
        "SENTRY_DSN",
        "OPENAI_ORG_ID",
        "OPENAI_MODEL",
        "OLLAMA_MODELS",
        "AZURE_CLIENT_SECRET",
        "GOOGLE_CLOUD_PROJECT",
        "HF_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "OPENWEATHER_API_KEY",
        "DEEPL_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "RUST_LOG",
        "DJANGO_LOG_LEVEL",
        "CORS_ENABLED",
        "API_BASE_URL",
        "API_KEY",
        "LLM_MODEL",
        "LLM_API_KEY",
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_PORT_443_TCP_PORT",
        "OPENAI_SERVICE_HOST",
    ]
    assert told(caplog, **dict.fromkeys(names, "x-1")) == []


def test_no_variable_that_is_read_is_named(caplog):
    environ = {setting.env: str(setting.default) for setting in TABLE if setting.default}
    assert told(caplog, **environ, OPENAI_TIMEOUT="5", OPENAI_REDIRECTS="refuse") == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OPENAI_API_KEY": "..."}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "sk-..."}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "sk-xxxxxxxxxxxx"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "your-key-here"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "YOUR_API_KEY"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "put-key-here"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "changeme"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "<key>"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "dummy"}, PLACEHOLDER),
        ({"OPENAI_API_KEY": "$OPENAI_KEY"}, "the name of a variable"),
        ({"OPENAI_API_KEY": "${OPENAI_KEY:-}"}, "the name of a variable"),
        ({"ANTHROPIC_API_KEY": "sk-ant-..."}, PLACEHOLDER),
        ({"TRUSTED_PROXIES": "0.0.0.0/0"}, "0.0.0.0/0 is the internet"),
        ({"TRUSTED_PROXIES": "0.0.0.0/1, 128.0.0.0/1"}, "0.0.0.0/0 is the internet"),
        ({"TRUSTED_PROXIES": "::/0"}, "::/0 is the internet"),
        ({"TRUSTED_PROXIES": "::ffff:0:0/96"}, "0.0.0.0/0 is the internet"),
        ({"TRUSTED_IPS": "0.0.0.0/0"}, "nobody there is ever locked out"),
        ({"BYPASS_PATHS": "/v1/*"}, "'/v1/*' is one exact path"),
        ({"BYPASS_PATHS": "/v1/**,/status"}, "'/v1/**' is one exact path"),
        ({"BYPASS_PATHS": "/v1/{id}"}, "is one exact path"),
        ({"BYPASS_PATHS": "/v1/<id>"}, "is one exact path"),
        ({"BYPASS_PATHS": "/users/:id"}, "is one exact path"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "OPENAI_PROXY"),
    ],
    ids=lambda one: ",".join(f"{k}={v}" for k, v in one.items()) if isinstance(one, dict) else "",
)
def test_what_cannot_be_meant_is_named_with_its_variable(environ, said, caplog):
    (line,) = told(caplog, **environ)
    assert said in line
    assert next(iter(environ)) in line


@pytest.mark.parametrize(
    "environ",
    [
        {"OLLAMA_API_KEY": "ollama"},
        {"VLLM_API_BASE_URL": "http://127.0.0.1:8001", "VLLM_API_KEY": "not-needed"},
        {"TRUSTED_PROXIES": "10.0.0.0/8, 172.16.0.0/12, fc00::/7, unix"},
        {"TRUSTED_IPS": "192.168.0.0/16"},
        {"BYPASS_PATHS": "/v1/models,/favicon.ico"},
        {"HTTPS_PROXY": "http://proxy:1", "OPENAI_PROXY": "http://proxy:1"},
    ],
    ids=str,
)
def test_what_can_be_meant_is_not_named(environ, caplog):
    assert told(caplog, **environ) == []


def test_a_key_in_a_variable_and_in_a_file_is_named_with_what_counts(caplog, tmp_path):
    (tmp_path / "key").write_text("key-of-the-file-0123456789")
    environ = {
        "OPENAI_API_KEY": "key-of-the-variable-01",
        "OPENAI_API_KEY_FILE": str(tmp_path / "key"),
    }
    (line,) = told(caplog, **environ)
    assert line.startswith("OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set: the first is used")
    assert load(environ=environ).backends["openai"].api_key == "key-of-the-variable-01"


@pytest.mark.parametrize(
    ("key", "whose"),
    [
        ("sk-ant-api03-0123456789abcdef", "Anthropic's"),
        ("sk-proj-0123456789abcdefghij", "OpenAI's"),
        ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "Google's"),
        ("gsk_0123456789abcdefghijklmnop", "Groq's"),
        ("xai-0123456789abcdefghijklmnop", "xAI's"),
        ("hf_0123456789abcdefghijklmnopqr", "another"),
    ],
)
def test_a_provider_s_key_as_the_proxy_s_is_named_by_its_shape(key, whose, caplog):
    (line,) = told(caplog, LLM_INTERACTIVE_PROXY_API_KEY=key)
    assert line.startswith(f"the key 'default' looks like {whose}")
    assert key not in line


@pytest.mark.parametrize("word", ["weak", "under", "characters", "strong", "keygen", "key", "the"])
def test_the_warning_of_a_weak_key_does_not_spell_it(word, caplog):
    """The log masks a key wherever it stands; what is left of a sentence would tell it."""
    (line,) = told(caplog, LLM_INTERACTIVE_PROXY_API_KEY=word)
    assert word not in line or line == "run 'llmauth keygen'"
    done = run("check", "--default-backend", "echo", LLM_INTERACTIVE_PROXY_API_KEY=word)
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    assert word in ("keygen",) or "****" not in said


def test_it_starts_and_names_what_it_ignores_once():
    environ = OURS | {"LLM_BACKEND": "echo", "VITE_API_BASE_URL": "/api", "APP_PROT": "9"}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmauth", "--port", "0"],
        env=environment(**environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    ended = threading.Timer(TIMEOUT, process.kill)
    ended.start()
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "APP_PROT" in line:
            break
    process.kill()
    ended.cancel()
    process.communicate()
    assert "APP_PROT is not read. Did you mean APP_PORT?" in lines[-1]
    assert "".join(lines).count("VITE_API_BASE_URL") == 1


def test_without_a_key_the_refusal_names_what_was_nearly_one():
    done = run(LLM_INTERACTIVE_PROXY_APIKEY=KEY)
    assert done.returncode == 2
    assert "Did you mean LLM_INTERACTIVE_PROXY_API_KEY?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert KEY not in done.stderr
