"""A key in the wrong place: no error, no table and no banner shows it, and each says what to do."""

from __future__ import annotations

import base64
import itertools
import random
import traceback
import uuid

import pytest
import yaml
from commands import run_each
from flask import Flask

from llmauth import LLMAuth
from llmauth.cli import console
from llmauth.config.flask import from_flask
from llmauth.config.loading import Given, load
from llmauth.config.settings import TABLE
from llmauth.exceptions import ConfigurationError
from llmauth.redact.messages import hidden

KNOWN = "correct-horse-battery"
KEYS = {
    "known": KNOWN,
    "provider's": "sk-proj-A1b2C3d4E5f6G7h8I9j0",
    "of keygen": "xK3f9QmT7vLp2RsW8yZaBcDe4GhJ6nUo1iXt5wEqVdM",
}
ENVIRON = {"LLM_INTERACTIVE_PROXY_API_KEY": KNOWN, "OPENAI_API_BASE_URL": "http://127.0.0.1:1"}
VARIABLE = "LLM_INTERACTIVE_PROXY_API_KEY"


def shows(text: str, key: str) -> bool:
    return key.removeprefix("sk-proj-") in text


@pytest.fixture(params=KEYS)
def key(request):
    return KEYS[request.param]


def all_that_is_said(make) -> str:
    """Return the error with its traceback, or whatever shows settings."""
    try:
        settings = make()
    except ConfigurationError as exc:
        return "".join(traceback.format_exception(exc))
    return "\n".join([repr(settings), *console.origins(settings)])


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_no_setting_shows_a_key_wherever_it_came_from(setting, key, tmp_path):
    nested: object = key
    for part in reversed(setting.name.split(".")):
        nested = {part: nested}
    file = tmp_path / "llmauth.yaml"
    file.write_text(yaml.safe_dump(nested), encoding="utf-8")
    name = f"LLMAUTH_{setting.attribute.upper()}"
    for make in (
        lambda: load(Given({setting.attribute: key}), ENVIRON),
        lambda: load(None, ENVIRON | {setting.env: key}),
        lambda: load(Given(config_file=str(file)), ENVIRON),
        lambda: from_flask({name: key, "LLMAUTH_API_KEY": KNOWN}),
        lambda: from_flask({name: [key], "LLMAUTH_API_KEY": KNOWN}),
    ):
        assert not shows(said := all_that_is_said(make), key)
        assert setting.name in said or setting.attribute in said


FILES = {
    "only a key": "{}",
    "a name": "{}: 1",
    "a list": "- {}",
    "a section": "server: {}",
    "a name in a section": "server:\n  {}: 1",
    "backends": "backends: {}",
    "a backend's name": "backends:\n  {}: http://127.0.0.1:1",
    "a backend's setting": "backends:\n  openai:\n    {}: 1",
    "a base URL": "backends:\n  openai:\n    base_url: {}",
    "a variable": "backends:\n  openai:\n    api_key_env: {}",
    "where keys are expected": "api_key: {}",
    "an alias": "a: *{}",
    "a tag": "a: !{} 1",
    "an open quote": "'{}",
    "an open list": "a: [{}",
    "in a list": "server:\n  port: [{}]",
    "in a mapping": "auth:\n  trusted_ips:\n  - {{a: {}}}",
    "a name that is a list": "? [{}]\n: 1",
    "twice": "{0}: 1\n{0}: 2",
}


@pytest.mark.parametrize("case", FILES)
def test_no_config_file_shows_a_key(case, key, tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text(FILES[case].format(key), encoding="utf-8")
    assert not shows(all_that_is_said(lambda: load(Given(config_file=str(file)), ENVIRON)), key)


VARIABLES = {
    "LLMAUTH_CONFIG": "{}",
    "OPENAI_API_KEY_FILE": "{}",
    f"{VARIABLE}_BOB_FILE": "{}",
    "OPENAI_TIMEOUT": "{}",
    "OPENAI_API_BASE_URL": "{}",
    "OPENAI_PROXY": "http://user:{}@127.0.0.1:1",
    "OLLAMA_API_BASE_URL": "https://127.0.0.1:1/?key={}",
    "XAI_API_BASE_URL": "https://user:{}@127.0.0.1:1/v1",
    "GROQ_API_BASE_URL": "https://127.0.0.1:1/v1/{}",
    "BRUTE_FORCE_STORAGE_URI": "redis:user:{}@127.0.0.1:1",
    "CORS_ORIGINS": "https://example.com?key={}",
    "LLM_BACKEND": "https://user:{}@127.0.0.1:1",
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_no_variable_shows_a_key(variable, key):
    environ = ENVIRON | {variable: VARIABLES[variable].format(key)}
    assert not shows(all_that_is_said(lambda: load(None, environ)), key)


@pytest.mark.parametrize("case", ["of keygen", "provider's"])
def test_a_line_of_a_key_file_that_is_the_wrong_way_round_is_refused(case, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{KEYS[case]}: alice", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="NAME: KEY"):
        load(None, {f"{VARIABLE}_FILE": str(file)})
    file.write_text(f"3f2b1c9e-8a7d-4c6b-9e5f-1a2b3c4d5e6f: {KNOWN}", encoding="utf-8")
    assert load(None, {f"{VARIABLE}_FILE": str(file)}).keys[0][1] == KNOWN


COMMANDS = [
    (["--trusted-ip", "{}"], "trusted_ips"),
    (["--port", "{}"], "APP_PORT"),
    (["--host", "{}"], "--host"),
    (["--config", "{}"], "config file"),
    (["--backend", "{}"], "NAME=URL"),
    (["--backend", "openai=http://user:{}@127.0.0.1:1?key={}"], "base_url"),
    (["--default-backend", "{}"], "there is no backend"),
    (["--log", "/nonexistent/{}"], "log file"),
    (["--capture-file", "/nonexistent/{}"], "capture file"),
    (["--auth-brute-force-storage", "redis://user:{}@127.0.0.1:1"], "store"),
    (["--{}"], "No such option"),
    (["-{}"], "No such option"),
    (["{}"], "No such command"),
    (["serve", "{}"], "unexpected extra argument"),
    (["demo", "--port", "{}"], "'--port'"),
    (["capture", "show", "{}"], "does not exist"),
    (["check", "--bypass-path", "/{}", "--backend", "{}=http://127.0.0.1:1"], "bypass_paths"),
]


@pytest.mark.parametrize(
    ("arguments", "said", "key"),
    [(*case, key) for case, key in zip(COMMANDS, itertools.cycle(KEYS), strict=False)],
    ids=lambda one: one if isinstance(one, str) else one[-1] or one[0],
)
def test_no_command_shows_a_key(said_by_commands, arguments, said, key):
    done = said_by_commands[tuple(arguments)]
    output = (done.stdout + done.stderr).decode()
    assert done.returncode != 0
    assert "Traceback" not in output
    assert not shows(output, KEYS[key])


@pytest.fixture(scope="module")
def said_by_commands():
    """What came of each command, by its arguments before the key is put in."""
    cases = list(zip((arguments for arguments, _ in COMMANDS), itertools.cycle(KEYS)))  # noqa: B905
    given = [[one.replace("{}", KEYS[key]) for one in arguments] for arguments, key in cases]
    done = run_each(given, **ENVIRON, APP_PORT="x")
    return {tuple(arguments): one for (arguments, _), one in zip(cases, done, strict=True)}


def test_an_application_that_is_guarded_shows_no_key():
    for name, key in itertools.product(("LLMAUTH_CAPTURE_FILE", "LLMAUTH_TRUSTED_IPS"), KEYS):
        app = Flask(__name__)
        app.config |= {"LLMAUTH_API_KEY": KNOWN, name: f"/nonexistent/{KEYS[key]}"}
        with pytest.raises(ConfigurationError) as caught:
            LLMAuth(app)
        assert not shows(str(caught.value), KEYS[key])


def made_by_chance():
    source = random.Random(7)
    for _ in range(300):
        data = source.randbytes(32)
        yield base64.urlsafe_b64encode(data).decode()
        yield data.hex()
        yield str(uuid.UUID(bytes=data[:16]))


def test_nearly_every_key_that_chance_has_made_is_masked():
    shown = [key for key in made_by_chance() if hidden(f"holds '{key}'.") != "holds '****'."]
    assert len(shown) < 9, shown


@pytest.mark.parametrize(
    "text",
    [
        "auth.brute_force_protection.max_failed_attempts (environment "
        "BRUTE_FORCE_MAX_FAILED_ATTEMPTS): 'x' is not a whole number.",
        "flag --auth-brute-force-initial-block",
        "/home/max/PycharmProjects/llm-proxy-2/configuration-2026-11-24.yaml: 'server.prot' is no",
        "C:\\Users\\MaxMuster\\AppData\\Local\\Programs\\LLMProxy\\Configuration.yaml",
        "/var/lib/llmauth/capture_of_the_17th_of_may_2026.jsonl",
        "https://my-resource.openai.azure.com/openai/deployments/gpt-4o-mini-2024-07-18",
        "http://my-service-7d9f8b6c5d-x2x1z.svc:8000/v1",
        "'https://6f1c9e0a-5b7d-4c3e-9a21-0d4b8c7e5f12.example.com' has no path",
        "there is no backend 'claude-3-5-haiku-20241022'.",
        "'holds 2001:0db8:85a3:0000:0000:8a2e:0370:7334/129', which is no address or network",
        "'99999999999999999999' is not between 0 and 65535",
        "holds '192.168.100.200/33', which is no address or network",
    ],
)
def test_what_people_write_is_shown(text):
    assert hidden(text) == text
