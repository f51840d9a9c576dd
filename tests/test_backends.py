"""Where a request goes: the upstream's path, and the backend that a request is for."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.backend_settings import BUILT_IN, variable_of
from llmauth.backends import Backend, Router
from llmauth.exceptions import UnknownRoute
from llmauth.settings import BackendSettings

OPENAI = "https://api.openai.com"
KEY = "provider-key-0123456789"


def backend(name: str, base_url: str, auth: str = "bearer", api_key: str | None = None) -> Backend:
    return Backend(BackendSettings(name, base_url, auth, "VARIABLE", api_key))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
@pytest.mark.parametrize("base_url", [OPENAI, f"{OPENAI}/v1"])
def test_base_url_and_path_mean_the_same_with_and_without_their_version(base_url, path):
    assert backend("openai", base_url).target(path) == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("name", "base_url", "path", "target"),
    [
        ("anthropic", "https://a", "/messages", "/v1/messages"),
        ("anthropic", "https://a/v1", "/v1/messages", "/v1/messages"),
        ("gemini", "https://g", "/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("gemini", "https://g/v1beta", "/v1beta/models", "/v1beta/models"),
        ("gemini", "https://g/v1beta", "/v1/models", "/v1/models"),
        ("gemini", "https://g/v1beta", "/v1alpha/models", "/v1alpha/models"),
        ("openrouter", "https://o/api", "/v1/models", "/api/v1/models"),
        ("openrouter", "https://o/api/v1", "/models", "/api/v1/models"),
        ("groq", "https://g/openai/v1", "/v1/chat/completions", "/openai/v1/chat/completions"),
        ("groq", "https://g/openai/v1", "/openai/v1/models", "/openai/v1/models"),
        ("gemini", "https://g/v1beta", "/upload/v1beta/files", "/upload/v1beta/files"),
        ("gemini", "https://g/v1beta", "/download/v1beta/f:d", "/download/v1beta/f:d"),
        ("ollama", "http://o", "/api/chat", "/api/chat"),
        ("ollama", "http://o", "/chat/completions", "/v1/chat/completions"),
        ("azure-openai", "https://z", "/v1/models", "/openai/v1/models"),
        ("azure-openai", "https://z", "/chat/completions", "/openai/v1/chat/completions"),
        ("azure-openai", "https://z/openai", "/deployments/d/x", "/openai/deployments/d/x"),
        ("azure-openai", "https://z/openai/v1", "/openai/v1/models", "/openai/v1/models"),
        ("azure-openai", "https://z", "/openai/deployments/d/x", "/openai/deployments/d/x"),
        ("mine", "https://m/v1", "/deployments/d", "/v1/deployments/d"),
        ("mine", "https://m/openai", "/openai/files", "/openai/openai/files"),
        ("mine", "https://m", "/chat/completions", "/chat/completions"),
        ("mine", "https://m/v2", "/chat/completions", "/v2/chat/completions"),
        ("mine", "https://m/v2", "/v1/chat/completions", "/v1/chat/completions"),
        ("mine", "https://m/v1/account", "/models", "/v1/account/models"),
        ("mine", "https://m/v1x", "/v1/models", "/v1x/v1/models"),
        ("mine", "https://m/v1", "/v1x/models", "/v1/v1x/models"),
        ("mine", "https://m", "/", "/"),
        ("mine", "https://m/v1", "/v1", "/v1"),
        ("openai", OPENAI, "/v1/a%2Fb/../c", "/v1/a%2Fb/../c"),
        ("openai", OPENAI, "/v1//x", "/v1//x"),
    ],
)
def test_the_upstreams_path(name, base_url, path, target):
    assert backend(name, base_url).target(path) == target


@given(
    st.sampled_from(["", "/v1", "/api", "/api/v1", "/v1beta"]),
    st.sampled_from(["/v1", "/v2", "/v1beta", "/v1alpha1"]),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20),
)
def test_a_version_in_the_path_is_sent_once_and_what_follows_is_untouched(root, version, rest):
    base = root.removesuffix("/v1").removesuffix("/v1beta")
    target = backend("mine", f"https://m{root}").target(f"{version}/{rest}")
    assert target == f"{base}{version}/{rest}"


@pytest.mark.parametrize(
    ("auth", "headers"),
    [
        ("bearer", {"Authorization": f"Bearer {KEY}"}),
        ("x-api-key", {"X-Api-Key": KEY}),
        ("x-goog-api-key", {"X-Goog-Api-Key": KEY}),
        ("api-key", {"Api-Key": KEY}),
        ("none", {}),
    ],
)
def test_each_backend_gets_its_key_as_it_wants_it(auth, headers):
    added: dict[str, str] = {}
    one = backend("mine", "https://m", auth, KEY)
    one.add_key(added)
    assert added == headers
    assert KEY not in repr(one)


def test_a_backend_without_a_key_gets_none():
    added: dict[str, str] = {}
    backend("mine", "https://m").add_key(added)
    assert added == {}


def test_a_password_in_the_base_url_is_sent_as_basic_and_not_shown():
    added: dict[str, str] = {}
    one = backend("mine", "https://user:p%40ss@m:8443/v1")
    one.add_key(added)
    assert base64.b64decode(added["Authorization"].removeprefix("Basic ")) == b"user:p@ss"
    assert one.origin == "https://m:8443"
    assert "p%40ss" not in repr(one)


NAMES = ("openai", "anthropic", "gemini", "my-own", "echo")


def find(
    path: str,
    query: str = "",
    names: tuple[str, ...] = NAMES,
    unused: tuple[str, ...] = (),
    **headers: str,
):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    router = Router({name: backend(name, "https://x") for name in names}, "openai", unused)
    found, rest = router.find(path, query, sent.get)
    return found.name, rest


@pytest.mark.parametrize(
    ("path", "headers", "name"),
    [
        ("/v1/messages", {}, "openai"),
        ("/v1beta/models", {}, "openai"),
        ("/v1/models", {"x_goog_api_key": "k"}, "openai"),
        ("/anthropic/v1/messages", {}, "anthropic"),
        ("/v1/messages", {"x_proxy_api_key": "k", "x_api_key": "own"}, "anthropic"),
        ("/v1beta/models", {"x_proxy_api_key": "k", "x_goog_api_key": "own"}, "gemini"),
    ],
)
def test_a_provider_that_nobody_configured_gets_what_names_it_or_brings_a_key(path, headers, name):
    assert find(path, unused=("anthropic", "gemini"), **headers)[0] == name


@pytest.mark.parametrize(
    ("path", "query", "headers", "name"),
    [
        ("/v1/chat/completions", "", {}, "openai"),
        ("/chat/completions", "", {}, "openai"),
        ("/v1/models", "", {}, "openai"),
        ("/api/chat", "", {}, "openai"),
        ("/v1/messages", "", {}, "anthropic"),
        ("/v1/messages/count_tokens", "", {}, "anthropic"),
        ("/v1/messages/batches/b/results", "", {}, "anthropic"),
        ("/v1/messagesque", "", {}, "openai"),
        ("/v1/models", "", {"anthropic_version": "2023-06-01"}, "anthropic"),
        ("/v1/models", "", {"x_goog_api_key": "k"}, "gemini"),
        ("/v1/models", "key=k", {}, "gemini"),
        ("/v1/models", "a=1&key=k", {}, "gemini"),
        ("/v1/models", "monkey=k", {}, "openai"),
        ("/v1/models", "", {"x_api_key": "k"}, "openai"),
        ("/v1beta/models", "", {}, "gemini"),
        ("/v1alpha/files", "", {}, "gemini"),
        ("/upload/v1beta/files", "", {}, "gemini"),
        ("/upload/v1/files", "key=k", {}, "gemini"),
        ("/uploads", "", {}, "openai"),
        ("/v1/models/m:generateContent", "", {}, "gemini"),
        ("/v1/models/m:streamGenerateContent", "alt=sse", {}, "gemini"),
        ("/models/m:countTokens", "", {}, "gemini"),
        ("/v1/models/m:batchEmbedContents", "", {}, "gemini"),
        ("/v1/models/ft:model", "", {}, "openai"),
    ],
)
def test_a_request_without_a_prefix_goes_where_its_form_says(path, query, headers, name):
    assert find(path, query, **headers) == (name, path)


@pytest.mark.parametrize(
    ("path", "headers", "found"),
    [
        ("/v1/v1/chat/completions", {}, ("openai", "/v1/chat/completions")),
        ("/v1/v1/messages", {"anthropic_version": "1"}, ("anthropic", "/v1/messages")),
        ("/anthropic/v1/v1/messages", {}, ("anthropic", "/v1/messages")),
        ("/v1beta/v1/models", {"x_goog_api_key": "k"}, ("gemini", "/v1/models")),
        ("/v1/v1", {}, ("openai", "/v1")),
        ("/v1/v1x/models", {}, ("openai", "/v1/v1x/models")),
    ],
)
def test_a_version_that_base_url_and_sdk_both_wrote_is_sent_once(path, headers, found):
    assert find(path, **headers) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/my-own/v1/models", ("my-own", "/v1/models")),
        ("/anthropic/v1/messages", ("anthropic", "/v1/messages")),
        ("/openai/v1/messages", ("openai", "/v1/messages")),
        ("/gemini", ("gemini", "/")),
        ("/gemini/", ("gemini", "/")),
        ("/my-own//x/../%2e", ("my-own", "//x/../%2e")),
        ("/my-own/my-own/x", ("my-own", "/my-own/x")),
    ],
)
def test_a_prefix_outranks_everything_else_and_is_removed_once(path, found):
    assert find(path, "key=k", anthropic_version="1", x_goog_api_key="k") == found


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1beta/models", "/v1/models/m:generateContent"], ids=str
)
def test_without_their_backend_all_forms_go_to_the_default(path):
    headers = {"anthropic_version": "1", "x_goog_api_key": "k"}
    assert find(path, names=("openai",), **headers) == ("openai", path)


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("//v1/chat/completions", "a slash too many"),
        ("/", "root of an API"),
        ("/OpenAI/v1/models", "Did you mean /openai/...?"),
        ("/antropic/v1/messages", "Did you mean /anthropic/...?"),
        ("/azure-openai/openai/v1/models", "has no base URL on this server"),
    ],
)
def test_a_wrong_guess_at_the_base_url_is_answered_with_what_to_change(path, advice):
    with pytest.raises(UnknownRoute, match=re.escape(advice)):
        find(path)


@pytest.mark.parametrize("path", ["/", "/nothing/v1/models", "/OpenAI/v1", "/my-ow", "/v1x"])
def test_an_unknown_path_is_refused_with_the_backends_there_are(path):
    with pytest.raises(UnknownRoute) as caught:
        find(path)
    assert caught.value.code == 404
    for name in NAMES:
        assert f"/{name}/" in caught.value.description


def test_the_documentation_lists_the_built_in_backends_as_they_are():
    text = (Path(__file__).parent.parent / "docs" / "backends.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == list(BUILT_IN)
    for name, (url, auth) in BUILT_IN.items():
        assert url in (None, "echo:") or f"`{url}`" in rows[name]
        assert auth == "none" or f"`{variable_of(name)}_API_KEY`" in rows[name]
        assert auth == "none" or f"`{auth}`" in rows[name].replace("Authorization: Bearer", auth)
