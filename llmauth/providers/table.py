"""The providers that llmauth knows, a row each: all that is particular to one stands here.

Plain data and patterns. Nothing of llmauth is imported, so that the configuration, the guard and
the proxy can read the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

VERSION = re.compile(r"/v\d+(?:alpha|beta)?\d*(?=/|$)")
"""A version segment, at the beginning of a path."""

PROXY_KEY_HEADER = "x-proxy-api-key"
"""Carries the proxy key for users whose other credentials belong to the provider."""

KEY_HEADERS = ("x-api-key", "x-goog-api-key", "api-key")
"""Headers whose whole value is the key: Anthropic's, Google's, Azure's."""

AUTH_STYLES = ("bearer", *KEY_HEADERS, "none")
"""How a backend may want its key."""

QUERY_KEY_PATH = re.compile(
    r"^/gemini/|^/upload/+v\d|^/v\d+(?:alpha|beta)\d*/|^/v\d+/+models(?:/|$)"
    r"|:[a-zA-Z]*(?:Content|Contents|Tokens)$"
)
"""Paths of the Gemini API, where ``?key=`` carries the key."""

_NEVER = re.compile(r"(?!)")

_OPENAI = frozenset({
    "assistants", "audio", "batches", "chat", "chatkit", "completions", "containers",
    "conversations", "deployments", "edits", "embeddings", "engines", "evals", "files",
    "fine-tunes", "fine_tuning", "images", "messages", "models", "moderations", "organization",
    "realtime", "rerank", "responses", "skills", "threads", "uploads",
    "vector_stores", "videos",
})  # fmt: skip
"""First segments of OpenAI's API, and of what those who speak it have added below the version."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """What is particular to one provider.

    :param name: of its backend; in capitals its environment variables begin with it
    :param company: as people call it
    :param base_url: None where every customer has another
    :param auth: how it wants its key, one of ``AUTH_STYLES``
    :param version: the segment before its paths, where neither base URL nor request names one
    :param root: what stands before the version
    :param bare_root: there are paths right below the root as well, without a version, and the root
    :param segments: first segments of its API; a path that begins with another one stands beside
        the version, as the paths of their own that servers have
    :param whole_base: the path of a base URL, searched for this, to which the segments of the API
        are appended as it is; others get ``version``
    :param own_target: path and query, from the root on, that its own clients ask for
    :param header: only its clients send it, in lower case
    :param paths: only its API has them
    :param query_key_paths: where ``?key=`` carries the key
    :param bearer_paths: parts of upstream paths that want the key as bearer all the same; the group
        is what stays of it (OpenAI's clients add a version that is not there)
    :param key_prefixes: what its keys begin with
    :param needs_key: without one it is of no use, and should not see what people write
    :param check_path: what ``llmauth check`` asks for; a key is needed for it
    :param check_headers: sent with that
    :param asks_for_usage: it tells the usage of a streamed chat only when asked, and knows how to
        be asked (OpenAI's ``stream_options``)
    :param linked_paths: their answers hold URLs in the body that clients follow with their key
    """

    name: str
    company: str = ""
    base_url: str | None = None
    auth: str = "bearer"
    version: str = "/v1"
    root: str = ""
    bare_root: bool = False
    segments: frozenset[str] = _OPENAI
    whole_base: re.Pattern[str] = re.compile(VERSION.pattern)
    own_target: re.Pattern[str] = _NEVER
    header: str | None = None
    paths: re.Pattern[str] = _NEVER
    query_key_paths: re.Pattern[str] = _NEVER
    bearer_paths: re.Pattern[str] = _NEVER
    key_prefixes: tuple[str, ...] = ()
    needs_key: bool = True
    check_path: str = "/models"
    check_headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    linked_paths: re.Pattern[str] = _NEVER
    asks_for_usage: bool = False

    @property
    def takes_query_keys(self) -> bool:
        """True for a provider that takes a key from ``?key=``."""
        return self.query_key_paths is not _NEVER


_ROWS = (
    Provider(
        name="openai",
        asks_for_usage=True,
        company="OpenAI",
        base_url="https://api.openai.com/v1",
        key_prefixes=("sk-",),
    ),
    Provider(
        name="anthropic",
        asks_for_usage=True,
        company="Anthropic",
        base_url="https://api.anthropic.com/v1",
        auth="x-api-key",
        segments=frozenset({
            "chat", "complete", "environments", "files", "messages", "models", "organizations",
            "skills",
        }),  # fmt: skip
        # Its SDKs add the version, so a base URL that others would take for whole gets it.
        whole_base=re.compile(VERSION.pattern.replace("(?=/|$)", "$")),
        header="anthropic-version",
        paths=re.compile(r"^/v1/messages(?:/|$)|^/v1/complete$"),
        bearer_paths=re.compile(r"(/v1/chat/completions)$"),  # for OpenAI's clients
        key_prefixes=("sk-ant-",),
        check_headers=MappingProxyType({"Anthropic-Version": "2023-06-01"}),
        linked_paths=re.compile(r"/messages/batches(?:/[^/]+(?:/cancel)?)?/?$"),
    ),
    Provider(
        name="gemini",
        asks_for_usage=True,
        company="Google",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        auth="x-goog-api-key",
        version="/v1beta",
        segments=frozenset({
            "auth_tokens", "batches", "cachedContents", "corpora", "dynamic", "fileSearchStores",
            "files", "generatedFiles", "interactions", "models", "openai", "operations",
            "projects", "publishers", "tunedModels",
        }),  # fmt: skip
        # As with Anthropic; but there is a root for OpenAI's clients, too.
        whole_base=re.compile(r"/openai$"),
        header="x-goog-api-key",
        paths=re.compile(
            r"^/(?:up|down)load/v\d|^/v\d+(?:alpha|beta)\d*/"
            r"|:(?:generate|stream|embed|batch|count|predict|asyncBatch)\w*$"
        ),
        query_key_paths=QUERY_KEY_PATH,
        bearer_paths=re.compile(r"(/v\d+(?:alpha|beta)?\d*/openai)(?:/openai)?(?:/v1)?(?=/|$)"),
        key_prefixes=("AIza",),
    ),
    Provider(
        name="openrouter",
        company="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        root="/api",
        segments=_OPENAI
        | {"activity", "auth", "credits", "endpoints", "generation", "key", "keys", "providers"},
        key_prefixes=("sk-or-",),
        check_path="/key",  # its models are there for everyone
    ),
    Provider(
        name="groq",
        company="Groq",
        base_url="https://api.groq.com/openai/v1",
        root="/openai",
        own_target=re.compile(r"/openai/v1[/?]"),
        key_prefixes=("gsk_",),
    ),
    Provider(
        name="mistral",
        company="Mistral",
        base_url="https://api.mistral.ai/v1",
        segments=_OPENAI | {"agents", "classifications", "fim", "libraries", "ocr"},
    ),
    Provider(
        name="deepseek",
        asks_for_usage=True,
        company="DeepSeek",
        base_url="https://api.deepseek.com/v1",
        key_prefixes=("sk-",),
    ),
    Provider(
        name="xai",
        company="xAI",
        base_url="https://api.x.ai/v1",
        segments=_OPENAI | {
            "api-key", "complete", "documents", "embedding-models", "image-generation-models",
            "language-models", "tokenize-text",
        },  # fmt: skip
        key_prefixes=("xai-",),
    ),
    Provider(
        name="azure-openai",
        company="Azure",
        auth="api-key",
        root="/openai",
        bare_root=True,  # the version is a date in the query
        segments=_OPENAI - {"deployments"},
        whole_base=_NEVER,
        own_target=re.compile(
            r"/openai/(?:deployments/|v1[/?]|[^?]*\?(?:.*&)?api-version=)", re.IGNORECASE
        ),
    ),
    Provider(
        name="ollama",
        asks_for_usage=True,
        company="Ollama",
        base_url="http://127.0.0.1:11434",
        bare_root=True,  # "Ollama is running"
        needs_key=False,
    ),
    Provider(name="echo", base_url="echo:", auth="none", needs_key=False),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({row.name: row for row in _ROWS})
"""The table, by the names of the backends."""

OTHER = Provider(name="", version="", whole_base=re.compile("/"), needs_key=False)
"""Everybody else: speaks OpenAI's API, below the base URL as it was given, with a key or not."""

FIRST_SEGMENTS = frozenset().union(*(row.segments for row in _ROWS))
"""First segments of all APIs."""

KEY_PREFIXES: tuple[tuple[str, str], ...] = tuple(
    (prefix, " or ".join(f"{row.company}'s" for row in _ROWS if prefix in row.key_prefixes))
    for prefix in sorted(
        dict.fromkeys(p for row in _ROWS for p in row.key_prefixes), key=len, reverse=True
    )
)
"""What keys begin with, and whose they are; the longest first."""
