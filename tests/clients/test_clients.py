"""Every client that people use, unchanged: what works, what they raise, how often they ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import matrix
import pytest
from fronts import program
from matrix import CLIENTS, DOCS, FAILURES, FEATURES, OWN_KEY, REFUSALS, SERVERS_KEY
from servers import KEY, running_proxy

from llmauth.config.keys import KEY_VARIABLE

TEXT = "echo: one two three"
SAID = {
    "chat": TEXT,
    "stream": "echo: |one |two |three",
    "tool": 'weather {"city": "city"}',
    "image": f"{TEXT} [image]",
    "models": "echo-1 echo-1-mini",
    "file": "a.txt",
}
MESSAGES = {
    "wrong_key": "proxy key",
    "lockout": "Wait",
    "limited": "The provider says no.",
    "failing": "The provider says no.",
    "down": "could not be reached: it refuses connections",
    "broken": "broke off in the middle of its answer",
}
OF_STORED_KEYS = {
    "a_minute": "10 requests a minute",
    "exhausted": "has used 10 of 10 tokens this day",
    "expired": "'expired' expired on",
    "other_model": "may use gpt-4o* only, not 'echo-1'",
}
MOST_ATTEMPTS = {"wrong_key": 1, "no_key": 1, "lockout": 1, "broken": 1}
RETRIES = 3
"""Requests that an SDK makes at most for what may pass: 429, 500 and 502 of the provider."""


@pytest.fixture(scope="module")
def found():
    for name in ("node", "npm", "curl"):
        program(name)
    return matrix.run_all()


clients = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


@clients
@pytest.mark.parametrize("feature", FEATURES)
def test_what_works_without_the_proxy_works_with_it(found, client, feature):
    if feature in client.lacks:
        assert feature not in found[client].outcomes
        return
    outcome = found[client].outcomes[feature]
    expected = SAID[feature]
    if client.name == "llm" and feature == "stream":
        expected = TEXT  # it prints the pieces as they come
    if client.name == "llm" and feature == "tool":
        expected = f"echo: {matrix.version('llm')}"  # it runs the tool, and sends what came of it
    assert (outcome.said or "").replace('":"', '": "') == expected, outcome


@clients
@pytest.mark.parametrize("failure", MESSAGES)
def test_a_failure_says_what_to_do_and_is_not_asked_again_in_vain(found, client, failure):
    outcome = found[client].outcomes[failure]
    assert outcome.error, outcome
    if client.name != "curl" or failure != "broken":  # curl ends with a status of its own
        assert MESSAGES[failure] in outcome.message.replace("\\'", "'")
    assert 1 <= outcome.attempts <= MOST_ATTEMPTS.get(failure, RETRIES)


@clients
def test_a_stream_that_breaks_off_is_an_error_for_every_client(found, client):
    outcome = found[client].outcomes["broken"]
    assert outcome.said is None
    assert outcome.error


@clients
def test_without_a_key_nobody_gets_in(found, client):
    outcome = found[client].outcomes["no_key"]
    assert outcome.error
    assert outcome.attempts <= MOST_ATTEMPTS["no_key"]
    assert found[client].received["no_key"] == []


@clients
@pytest.mark.parametrize("case", ["exhausted", "expired", "other_model"])
def test_a_stored_key_that_may_not_is_told_why_and_asked_for_once(found, client, case):
    outcome = found[client].outcomes[case]
    assert outcome.error, outcome
    assert OF_STORED_KEYS[case] in outcome.message.replace("\\'", "'")
    assert outcome.attempts == 1
    assert found[client].received[case] == []


@clients
def test_after_ten_requests_a_minute_clients_wait_as_long_as_they_are_told(found, client):
    """Those that ask again at all; none asks more than once."""
    outcome = found[client].outcomes["a_minute"]
    if outcome.said is None:
        assert outcome.attempts == 1
        assert OF_STORED_KEYS["a_minute"] in outcome.message
    else:
        assert outcome.said == TEXT
        assert outcome.attempts == 2


@clients
def test_in_a_mixed_team_each_provider_key_is_the_right_one(found, client):
    """Three calls over one proxy: on the server's key, on a key of one's own, and again."""
    for case, key in {
        "server_key": SERVERS_KEY,
        "own_key": OWN_KEY,
        "server_key_again": SERVERS_KEY,
    }.items():
        (request,) = found[client].received[case]
        sent = {request.header(name) for name in ("authorization", "x-api-key", "x-goog-api-key")}
        assert sent - {None} in ({key}, {f"Bearer {key}"}), case
        assert request.header("x-proxy-api-key") is None


@clients
def test_the_proxys_key_never_reaches_a_provider(found, client):
    for case, requests in found[client].received.items():
        for request in requests:
            assert KEY not in f"{request.target} {request.headers} {request.body!r}", case


def test_googles_client_sends_a_files_bytes_straight_to_the_provider_without_any_key(found):
    """The address is the provider's, and carries a permission of its own (docs/clients.md)."""
    google = next(client for client in CLIENTS if client.name == "google-genai (Python)")
    start, upload = found[google].received["file"]
    assert start.header("x-goog-api-key") == SERVERS_KEY
    assert start.header("via")
    assert upload.header("via") is None
    assert upload.header("x-goog-api-key") is None
    assert upload.header("authorization") is None


def test_googles_client_for_javascript_sends_a_file_through_the_proxy(found):
    google = next(client for client in CLIENTS if client.name == "@google/genai (npm)")
    assert len(found[google].received["file"]) == 2
    for request in found[google].received["file"]:
        assert request.header("via")
        assert request.header("x-goog-api-key") == SERVERS_KEY


def test_the_documentation_says_what_the_run_found(found):
    """Write it with ``python tests/matrix.py``."""
    text = DOCS.read_text(encoding="utf-8")
    fresh = matrix.written(text, matrix.report(found))
    assert _without_versions(text) == _without_versions(fresh)


def _without_versions(text: str) -> str:
    return re.sub(r"\d+(?:\.\w+)+", "N", text)


def test_every_failure_is_in_the_documentation():
    assert set(MESSAGES) | {"no_key"} == set(FAILURES)
    assert set(OF_STORED_KEYS) == set(REFUSALS)


KEYS = {KEY_VARIABLE: KEY, "OWN_KEY": OWN_KEY}


def blocks(language: str) -> list[str]:
    """Return the examples of the documentation in one language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def here(example: str, url: str) -> str:
    assert "http://127.0.0.1:8000" in example
    return example.replace("http://127.0.0.1:8000", url)


@pytest.fixture
def everything():
    """Echo in place of every provider."""
    variables = {f"{name}_API_BASE_URL": "echo:" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
    with running_proxy(None, variables) as proxy:
        yield proxy


# A model of the examples may be out of date by now; they need not be.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(4))
def test_the_examples_in_python_run(everything, capsys, monkeypatch, number):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    exec(here(blocks("python")[number], everything.url), {})
    assert capsys.readouterr().out == "echo: Hello\n" * 2


@pytest.mark.parametrize("number", range(3))
def test_the_examples_in_javascript_run(found, everything, number):
    done = subprocess.run(
        ["node", "--input-type=module", "-e", here(blocks("js")[number], everything.url)],
        cwd=matrix.SDKS,
        env=os.environ | KEYS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "echo: Hello\n" * 2, done.stderr


def test_the_examples_in_the_shell_run(echo):
    program("curl")
    (example,) = blocks("sh")
    environ = os.environ | KEYS
    done = subprocess.run(
        ["sh", "-c", here(example, echo.url)],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count('"echo-1"') == 2


def test_the_example_for_llm_is_what_llm_reads(echo, tmp_path):
    (example,) = blocks("yaml")
    (tmp_path / "extra-openai-models.yaml").write_text(here(example, echo.url))
    command = [str(Path(sys.executable).with_name("llm")), "-m", "proxied", "--key", KEY, "Hello"]
    environ = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "echo: Hello"
