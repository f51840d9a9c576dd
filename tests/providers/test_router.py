"""Where a request goes: the upstream's path, and the backend that a request is for."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.config.backends import variable_of
from llmauth.config.settings import BackendSettings
from llmauth.exceptions import UnknownRoute
from llmauth.http.uri_references import URIReference
from llmauth.providers.backend import Backend
from llmauth.providers.router import Router
from llmauth.providers.table import PROVIDERS

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
        ("mine", "https://m/v2", "/v1/chat/completions", "/v2/chat/completions"),
        ("mine", "https://m/v1/account", "/models", "/v1/account/models"),
        ("mine", "https://m/v1x", "/v1/models", "/v1x/models"),
        ("mine", "https://m/v1", "/v1x/models", "/v1x/models"),
        ("mine", "https://m", "/", "/"),
        ("mine", "https://m/v1", "/v1", "/v1"),
        ("openai", OPENAI, "/v1/a%2Fb/../c", "/v1/a%2Fb/../c"),
        ("openai", OPENAI, "/v1//x", "/v1//x"),
    ],
)
def test_the_upstreams_path(name, base_url, path, target):
    assert backend(name, base_url).target(path) == target


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "root",
    [
        "/api/paas/v4",
        "/api/coding/paas/v4",
        "/api/v3",
        "/v2",
        "/inference",
        "/inference/v1",
        "/v1/openai",
        "/v1beta/openai",
        "/v1/projects/p/locations/l/endpoints/openapi",
        "/v1/account/gateway/openai",
        "/client/v4/accounts/a/ai/v1",
        "/compatible-mode/v1",
        "/serving-endpoints",
        "/openai",
        "/openai/v1",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_base_url_with_a_path_is_the_root_that_openais_clients_mean(root, slash):
    one = backend("mine", f"https://m{root}{slash}")
    for path in ("/chat/completions", CHAT):
        assert one.target(path) == f"{root}/chat/completions"
    assert one.target("/v1/score") == f"{root}/score"


@pytest.mark.parametrize("name", ["openai", "mistral", "deepseek", "openrouter", "xai", "ollama"])
@pytest.mark.parametrize(
    "root", ["/api/paas/v4", "/v2", "/v1/openai", "/v1beta/openai", "/v1/account/gateway/openai"]
)
def test_a_base_url_with_another_version_is_a_root_for_built_in_backends_too(name, root):
    for path in ("/chat/completions", CHAT):
        assert backend(name, f"https://m{root}").target(path) == f"{root}/chat/completions"


@pytest.mark.parametrize(
    ("name", "base_url", "path", "target"),
    [
        # A version other than OpenAI's clients' is meant, and takes the place of the last one.
        ("mine", "https://m/v1", "/v2/rerank", "/v2/rerank"),
        ("mine", "https://m/api/paas/v4", "/v4/files", "/api/paas/v4/files"),
        ("mine", "https://m/api/v1", "/v1beta/x", "/api/v1beta/x"),
        ("mine", "https://m/inference", "/v2/x", "/inference/v2/x"),
        ("mine", "https://m/v1/openai", "/v1/openai/models", "/v1/openai/models"),
        ("mine", "https://m/api/paas/v4", "/api/paas/v4/models", "/api/paas/v4/models"),
        # The SDKs of Anthropic and Google add the version to any base URL that has none.
        ("mine", "https://m/anthropic", "/v1/messages", "/anthropic/v1/messages"),
        ("mine", "https://m/anthropic/v1", "/v1/messages", "/anthropic/v1/messages"),
        ("mine", "https://m/g", "/v1/models/m:generateContent", "/g/v1/models/m:generateContent"),
        ("anthropic", "https://m/v1/a/g/anthropic", "/v1/messages",
         "/v1/a/g/anthropic/v1/messages"),
        ("anthropic", "https://m/api/anthropic", "/messages", "/api/anthropic/v1/messages"),
        ("gemini", "https://m/v1/a/g/google", "/v1beta/models", "/v1/a/g/google/v1beta/models"),
        # Without a path the client's own is kept.
        ("mine", "https://m", "/v1/chat/completions", "/v1/chat/completions"),
        ("mine", "https://m", "/openai/deployments/d/x", "/openai/deployments/d/x"),
        # What stands before the version is a provider's own, and its host is enough to know it.
        ("groq", "https://api.groq.com", "/v1/models", "/openai/v1/models"),
        ("groq", "https://api.groq.com/openai", "/models", "/openai/v1/models"),
        ("groq", "https://api.groq.com/openai/v1", "/openai/models", "/openai/v1/models"),
        ("groq", "https://m", "/openai/v1/models", "/openai/v1/models"),
        ("groq", "https://m", "/v1/models", "/v1/models"),
        ("openrouter", "https://openrouter.ai", "/v1/models", "/api/v1/models"),
        ("openrouter", "https://openrouter.ai/api/v1", "/api/v1/key", "/api/v1/key"),
        ("azure-openai", "https://z", "/openai/models", "/openai/models"),
        ("azure-openai", "https://z/openai/v1", "/openai/files/f", "/openai/files/f"),
        ("azure-openai", "https://z/gate", "/openai/deployments/d/x",
         "/gate/openai/deployments/d/x"),
        ("azure-openai", "https://z/gate", "/v1/models", "/gate/openai/v1/models"),
        # OpenAI's clients at Google.
        ("gemini", "https://g/v1beta", "/v1beta/openai/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta", "/openai/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta", "/openai/v1/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta", "/v1beta/openai/v1/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta/openai", "/v1/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta/openai", "/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta/openai", "/v1beta/openai/models", "/v1beta/openai/models"),
        ("gemini", "https://g/v1beta", "/v1beta/models/openai:x", "/v1beta/models/openai:x"),
        ("deepseek", "https://d/v1", "/anthropic/v1/messages", "/anthropic/v1/messages"),
    ],
)  # fmt: skip
def test_roots_and_versions_of_all_kinds(name, base_url, path, target):
    assert backend(name, base_url).target(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "/score", "/props", "/infill", "/tokenize", "/generate", "/metrics", "/api/chat",
        "/slots/1", "/chats", "/completion", "/v1x/models", "/Models", "/%6dodels", "/invocations",
        "/a/b",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "base_url", "root"),
    [
        ("openai", "https://m", ""),
        ("openai", "https://m/v1", ""),
        ("openai", "https://m/gate/v1", "/gate"),
        ("ollama", "http://m:11434", ""),
        ("mine", "https://m", ""),
        ("mine", "https://m/v1", ""),
        ("mine", "https://m/api/paas/v4", "/api/paas"),
        ("mine", "https://m/inference", "/inference"),
    ],
)
def test_paths_of_a_servers_own_stand_beside_the_version(name, base_url, root, path):
    assert backend(name, base_url).target(path) == root + path


@given(
    st.sampled_from(["", "/v1", "/api", "/api/v1", "/v1beta"]),
    st.sampled_from(["/v1", "/v2", "/v1beta", "/v1alpha1"]),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20),
)
def test_a_version_in_the_path_is_sent_once_and_what_follows_is_untouched(root, version, rest):
    base = root.removesuffix("/v1").removesuffix("/v1beta")
    target = backend("mine", f"https://m{root}").target(f"{version}/{rest}")
    if version == "/v1" and root:
        assert target in (f"{root}/{rest}", f"{root}/v1/{rest}")
        assert target == f"{root}/{rest}" or rest.startswith("messages") or ":" in rest
    else:
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
    default: str = "openai",
    **headers: str,
):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    router = Router({name: backend(name, "https://x") for name in names}, default, unused)
    found, rest = router.find(path, query, sent.get)
    return found.name, rest


@pytest.mark.parametrize(
    ("path", "query", "headers", "name"),
    [
        ("/v1/messages", "", {}, "openai"),
        ("/v1beta/models", "", {}, "openai"),
        ("/v1/models", "", {"x_goog_api_key": "k"}, "openai"),
        ("/v1/messages", "", {"x_proxy_api_key": "k", "x_api_key": "own"}, "openai"),
        ("/v1beta/models", "", {"x_proxy_api_key": "k", "x_goog_api_key": "own"}, "openai"),
        ("/anthropic/v1/messages", "", {"x_proxy_api_key": "k", "x_api_key": "own"}, "anthropic"),
        ("/gemini/v1beta/models", "key=own", {"x_proxy_api_key": "k"}, "gemini"),
        ("/anthropic/v1/messages", "", {"x_proxy_api_key": "k", "authorization": "Bearer own"},
         "anthropic"),
        ("/anthropic/v1/messages", "", {"authorization": "Bearer k"}, None),
        ("/anthropic/v1/messages", "", {"x_api_key": "k"}, None),
        ("/anthropic/v1/messages", "", {"x_proxy_api_key": "k"}, None),
        ("/anthropic/v1/messages", "key=own", {"x_proxy_api_key": "k"}, None),
        ("/gemini/v1beta/models", "monkey=1", {"x_proxy_api_key": "k"}, None),
        ("/anthropic/v1/messages", "", {"x_proxy_api_key": "k", "authorization": "Bearer k"},
         None),
        ("/gemini/v1beta/models", "key=k", {}, None),
        ("/echo/v1/models", "", {}, "echo"),
        ("/ollama/v1/models", "", {}, "ollama"),
        ("/my-own/v1/models", "", {}, "my-own"),
    ],
)  # fmt: skip
def test_a_provider_that_nobody_configured_gets_what_names_it_and_brings_a_key(
    path, query, headers, name
):
    unused = ("anthropic", "gemini", "echo", "ollama", "my-own")
    if name is not None:
        assert find(path, query, (*NAMES, "ollama"), unused, **headers)[0] == name
        return
    with pytest.raises(UnknownRoute) as caught:
        find(path, query, unused=unused, **headers)
    assert "Set VARIABLE there, or send a provider key of your own" in caught.value.description
    assert "/openai/..." in caught.value.description


def test_a_key_that_comes_later_sets_its_backend_up():
    backends = {name: backend(name, "https://x") for name in ("openai", "anthropic")}
    router = Router(backends, "openai", ("anthropic",))
    assert router.find("/v1/messages", "", {}.get)[0].name == "openai"
    backends["anthropic"].key = KEY
    assert router.find("/v1/messages", "", {}.get)[0].name == "anthropic"
    assert router.find("/anthropic/v1/messages", "", {}.get)[0].name == "anthropic"


@pytest.mark.parametrize(
    ("default", "path", "query", "name"),
    [
        ("azure-openai", "/openai/deployments/d/chat/completions", "api-version=1", "azure-openai"),
        ("azure-openai", "/openai/deployments/d/chat/completions", "", "azure-openai"),
        ("azure-openai", "/openai/models", "api-version=1", "azure-openai"),
        ("azure-openai", "/openai/files", "purpose=x&api-version=1", "azure-openai"),
        ("azure-openai", "/openai/responses/r", "Api-Version=preview", "azure-openai"),
        ("azure-openai", "/openai/v1/responses", "", "azure-openai"),
        ("azure-openai", "/openai//deployments//d//chat/completions", "", "azure-openai"),
        ("azure-openai", "/openai/chat/completions", "", "openai"),
        ("azure-openai", "/openai/chat/completions", "x=api-version=1", "openai"),
        ("groq", "/openai/v1/chat/completions", "", "groq"),
        ("groq", "/openai/v1", "", "groq"),
        ("groq", "/openai/chat/completions", "", "openai"),
        ("groq", "/openai/v1x/chat/completions", "", "openai"),
        ("groq", "/openai/deployments/d/x", "api-version=1", "openai"),
        ("openai", "/openai/v1/chat/completions", "", "openai"),
        ("openai", "/groq/openai/v1/models", "", "groq"),
        ("openrouter", "/api/v1/chat/completions", "", "openrouter"),
        ("anthropic", "/openai/v1/models", "", "openai"),
    ],
)
def test_a_providers_own_path_goes_to_it_when_it_is_the_default(default, path, query, name):
    names = (*NAMES, "groq", "azure-openai", "openrouter")
    assert find(path, query, names, default=default)[0] == name


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1//chat/completions", ("openai", "/v1/chat/completions")),
        ("/v1///chat//completions", ("openai", "/v1/chat/completions")),
        ("/openai//v1/chat/completions", ("openai", "/v1/chat/completions")),
        ("/openai//v1//chat/completions", ("openai", "/v1/chat/completions")),
        ("/openai//chat/completions", ("openai", "/chat/completions")),
        ("/v1//v1//chat/completions", ("openai", "/v1/chat/completions")),
        ("/anthropic//v1//messages", ("anthropic", "/v1/messages")),
        ("/v1//messages", ("anthropic", "/v1/messages")),
        ("/gemini//v1beta//models//m:generateContent",
         ("gemini", "/v1beta/models/m:generateContent")),
        ("/v1beta//openai//chat/completions", ("gemini", "/v1beta/openai/chat/completions")),
        ("/my-own//score", ("my-own", "/score")),
        ("/my-own//openai//deployments//d//x", ("my-own", "/openai/deployments/d/x")),
        ("/v1/models//", ("openai", "/v1/models/")),
        ("/chat//completions", ("openai", "/chat/completions")),
        # The client's own from here on.
        ("/v1/files/http://x//y", ("openai", "/v1/files/http://x//y")),
        ("/v1/models/a//b", ("openai", "/v1/models/a//b")),
        ("/v1/models/a//", ("openai", "/v1/models/a//")),
        ("/score//x", ("openai", "/score//x")),
        ("/v1//../models", ("openai", "/v1//../models")),
        ("/v1//models%2Fx", ("openai", "/v1//models%2Fx")),
        ("/v1//models\\x", ("openai", "/v1//models\\x")),
    ],
)  # fmt: skip
def test_slashes_between_base_url_and_path_are_as_one_and_the_clients_own_stay(path, found):
    assert find(path) == found


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
        ("/opnai/v1/models", "Did you mean /openai/...?"),
        ("/opnai//v1/models", "Did you mean /openai/...?"),
        ("/Gemini/v1beta/models", "Did you mean /gemini/...?"),
        ("/my_own/v2/models", "Did you mean /my-own/...?"),
        ("/OpenAI/chat/completions", "Did you mean /openai/...?"),
        ("/azure-openai/openai/v1/models", "has no base URL on this server"),
        ("/azure-openai/openai/v1/models", "set AZURE_OPENAI_API_BASE_URL"),
    ],
)
def test_a_wrong_guess_at_the_base_url_is_answered_with_what_to_change(path, advice):
    with pytest.raises(UnknownRoute, match=re.escape(advice)):
        find(path)


@pytest.mark.parametrize(
    "path", ["/", "//", "//x", "/OpenAI/v1", "/antropic/v1/x", "/azure-openai"]
)
def test_a_path_that_is_certainly_a_mistake_is_refused_with_the_backends_there_are(path):
    with pytest.raises(UnknownRoute) as caught:
        find(path)
    assert caught.value.code == 404
    for name in NAMES:
        assert f"/{name}/" in caught.value.description


@pytest.mark.parametrize(
    "path",
    [
        "/score", "/props", "/infill", "/tokenize", "/generate", "/metrics", "/favicon.ico", "/v1x",
        "/nothing/v1/models", "/my-ow", "/my-ow/models", "/inference/v1/chat/completions",
        "/ai/v1/x", "/%2e", "/..", "/a//b",
    ],
)  # fmt: skip
def test_every_other_path_goes_to_the_default_backend_as_it_is(path):
    assert find(path) == ("openai", path)


@pytest.mark.parametrize(
    ("base_url", "path", "auth", "header"),
    [
        ("https://g/v1beta", "/v1beta/openai/chat/completions", "x-goog-api-key", "Authorization"),
        ("https://g/v1beta", "/openai/chat/completions", "x-goog-api-key", "Authorization"),
        ("https://g", "/v1beta/openai/models", "x-goog-api-key", "Authorization"),
        ("https://g/v1beta/openai", "/v1/models", "x-goog-api-key", "Authorization"),
        ("https://g/v1beta", "/v1beta/models/m:generateContent", "x-goog-api-key",
         "X-Goog-Api-Key"),
        ("https://g/v1beta", "/v1beta/models/openai", "x-goog-api-key", "X-Goog-Api-Key"),
        ("https://g/v1beta", "/v1beta/openai/models", "api-key", "Api-Key"),
    ],
)  # fmt: skip
def test_googles_surface_for_openais_clients_wants_the_key_as_bearer(base_url, path, auth, header):
    one = backend("gemini", base_url, auth, KEY)
    added: dict[str, str] = {}
    one.add_key(added, one.target(path))
    assert list(added) == [header]


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/chat/completions", "Authorization"),
        ("/chat/completions", "Authorization"),
        ("/v1/messages", "X-Api-Key"),
    ],
)
def test_anthropics_surface_for_openais_clients_wants_the_key_as_bearer(path, header):
    one = backend("anthropic", "https://api.anthropic.com", "x-api-key", KEY)
    added: dict[str, str] = {}
    one.add_key(added, one.target(path))
    assert list(added) == [header]


@pytest.mark.parametrize(
    ("name", "base_url", "url"),
    [
        ("mine", "https://m/api/paas/v4", "/api/paas/v4/files"),
        ("mine", "https://m/v1/openai", "/v1/openai/files"),
        ("mine", "https://m/v1", "/v1/files"),
        ("openai", "https://m/o", "/o/v1/files"),
        ("groq", "https://api.groq.com/openai/v1", "/openai/v1/files"),
        ("azure-openai", "https://m", "/openai/operations/images/i?api-version=1"),
        ("azure-openai", "https://m/gate", "/gate/openai/files/f?api-version=1"),
        ("azure-openai", "https://m", "/openai/v1/files"),
        ("openrouter", "https://openrouter.ai/api/v1", "/api/v1/files"),
        ("gemini", "https://m/v1beta", "/v1beta/openai/files"),
        ("gemini", "https://m/v1beta", "/download/v1beta/files/f:download"),
    ],
)
def test_a_providers_url_leads_back_to_itself(name, base_url, url):
    one = backend(name, base_url)
    reference = URIReference.parse(one.origin + url)
    assert reference is not None
    path = one.own_path(reference)
    assert path is not None
    assert one.target(path) == url


def test_the_documentation_lists_the_built_in_backends_as_they_are():
    text = (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == list(PROVIDERS)
    for name, provider in PROVIDERS.items():
        url, auth = provider.base_url, provider.auth
        assert url in (None, "echo:") or f"`{url}`" in rows[name]
        assert auth == "none" or f"`{variable_of(name)}_API_KEY`" in rows[name]
        assert auth == "none" or f"`{auth}`" in rows[name].replace("Authorization: Bearer", auth)
