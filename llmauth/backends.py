"""Named upstreams, how each wants its key, and which requests are theirs."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Collection, Mapping
from urllib.parse import unquote, urlsplit

from .credentials import GEMINI_PATH, PROXY_KEY_HEADER
from .exceptions import UnknownRoute
from .key_mask import KeyMask
from .locations import Reference
from .settings import BackendSettings

_VERSION = re.compile(r"/v\d+(?:alpha|beta)?\d*(?=/|$)")
_ANTHROPIC_PATH = re.compile(r"/v1/messages(?:/|$)|/v1/complete$")
_GEMINI_ONLY = re.compile(
    r"^/(?:up|down)load/v\d|^/v\d+(?:alpha|beta)\d*/"
    r"|:(?:generate|stream|embed|batch|count|predict|asyncBatch)\w*$"
)
_PORTS = {"http": 80, "https": 443}
_DEFAULT_VERSION = {
    "openai": "/v1",
    "anthropic": "/v1",
    "openrouter": "/v1",
    "groq": "/v1",
    "mistral": "/v1",
    "deepseek": "/v1",
    "xai": "/v1",
    "ollama": "/v1",
    "azure-openai": "/v1",
    "gemini": "/v1beta",
}
_ROOT = {"azure-openai": "/openai"}
"""What stands before every path, for base URLs that are given without it."""

_NEED_A_URL = frozenset(_ROOT)
_UNVERSIONED = {
    "azure-openai": ("/deployments/",),
    "gemini": ("/upload/", "/download/"),
    "ollama": ("/api/",),
}
"""Paths that take no version, or have it further on."""


class Backend:
    """One upstream.

    :param settings: its part of the configuration
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.is_echo = settings.base_url == "echo:"
        parts = urlsplit(settings.base_url)
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        found = re.search(_VERSION.pattern.replace("(?=/|$)", "$"), parts.path)
        self._root = (parts.path[: found.start()] if found else parts.path) or _ROOT.get(
            self.name, ""
        )
        self._version = found[0] if found else _DEFAULT_VERSION.get(self.name, "")
        self._unversioned = _UNVERSIONED.get(self.name, ())
        self._userinfo = ""
        self._passwords: tuple[str, ...] = ()
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            self._userinfo = f"Basic {encoded}"
            self._passwords = (encoded, password or user)
        self._key: str | None = None
        self.key = settings.api_key

    def __repr__(self) -> str:
        return repr(self.settings)

    @property
    def key(self) -> str | None:
        """The server's key for this upstream, which its file may replace at any time."""
        return self._key

    @key.setter
    def key(self, key: str | None) -> None:
        # The one before may still be on its way.
        secrets = filter(None, (key, self._key, *self._passwords))
        self.mask, self._key = KeyMask(secrets), key

    def target(self, path: str) -> str:
        """Return the upstream's path for a request's, which may have a version segment or not.

        ``https://api.openai.com`` and ``https://api.openai.com/v1`` mean the same, for the
        configuration and for clients; a version that the request names is the one that counts.
        """
        # Azure's and Groq's own SDKs have the root in their paths already.
        inner = path[len(self._root) :] if self._root and path.startswith(self._root) else ""
        if self._is_whole(inner):
            path = inner
        if self._is_whole(path):
            return self._root + path
        return f"{self._root}{self._version}{path}" or "/"

    def _is_whole(self, path: str) -> bool:
        return path.startswith(self._unversioned) or is_versioned(path)

    def own_path(self, reference: Reference, base: str = "/") -> str | None:
        """Return path and query of a URL of this upstream, as a request to here would name them.

        None for a URL of another host.

        :param base: the upstream's path that a relative reference is relative to
        """
        own = urlsplit(self.origin)
        if reference.host is not None:
            port = reference.port or _PORTS[reference.scheme or own.scheme]
            # Behind a TLS terminator of their own, servers often write http for https.
            known = reference.port == own.port or port == (own.port or _PORTS[own.scheme])
            if reference.host != own.hostname or not known:
                return None
        elif not reference.path:
            reference = reference._replace(path=base)
        elif not reference.path.startswith("/"):
            reference = reference._replace(path=base.rpartition("/")[0] + "/" + reference.path)
        return reference.below(self._root)

    def add_key(self, headers: dict[str, str]) -> None:
        """Add the server's key for this upstream, unless the request brings its own."""
        key, style = self.key, self.settings.auth
        if key and style != "none":
            name, value = ("Authorization", f"Bearer {key}") if style == "bearer" else (style, key)
            headers[name.title()] = value
        if self._userinfo:
            headers.setdefault("Authorization", self._userinfo)


def is_versioned(path: str) -> bool:
    """True for a path that begins with a version."""
    return _VERSION.match(path) is not None


def _one_version(path: str) -> str:
    """Return a path whose version a base URL and an SDK have both written, with one of them.

    The SDK's, which is the second, knows what it asks for.
    """
    at = 0
    while (first := _VERSION.match(path, at)) and _VERSION.match(path, first.end()):
        at = first.end()
    return path[at:]


class Router:
    """Finds the backend of a request.

    :param backends: by name
    :param default: the name of the backend for requests that name none
    :param unused: names of those that nobody configured; unless a request names them, they get
        only what brings a key of its own
    """

    def __init__(
        self, backends: Mapping[str, Backend], default: str, unused: Collection[str] = ()
    ) -> None:
        self._backends = backends
        self._default = backends[default]
        self._unused = unused

    def find(
        self, path: str, query: str, header: Callable[[str], str | None]
    ) -> tuple[Backend, str]:
        """Return the backend and the path without its prefix.

        :param path: raw, from the proxy's own root
        :param header: returns a header's value by its lower-case name
        :raises UnknownRoute: naming the backends there are
        """
        first, slash, rest = path[1:].partition("/")
        if named := self._backends.get(first):
            return named, _one_version(f"/{rest}" if slash else "/")
        path = _one_version(path)
        own_key = header(PROXY_KEY_HEADER) is not None
        if (anthropic := self._usable("anthropic", own_key)) and (
            header("anthropic-version") is not None or _ANTHROPIC_PATH.match(path)
        ):
            return anthropic, path
        if (gemini := self._usable("gemini", own_key)) and (
            header("x-goog-api-key") is not None
            or _GEMINI_ONLY.search(path)
            or ("key=" in query and re.search(r"(?:^|&)key=", query) and GEMINI_PATH.search(path))
        ):
            return gemini, path
        if _VERSION.match(path) or first in _KNOWN_ROOTS:
            return self._default, path
        raise UnknownRoute(self._advice(path, first))

    def _usable(self, name: str, own_key: bool) -> Backend | None:
        return self._backends.get(name) if own_key or name not in self._unused else None

    def _advice(self, path: str, first: str) -> str:
        """Say what to ask for instead of a path that nobody serves."""
        if path.startswith("//"):
            return (
                "The path begins with two slashes: the base URL that your client was given ends in "
                "a slash too many."
            )
        names = ", ".join(f"/{name}/..." for name in self._backends)
        there = (
            f"Use /v1/... for '{self._default.name}', or put a backend's name before it: {names}."
        )
        if not first:
            return f"This is the root of an API; a base URL ends in /v1 for most clients. {there}"
        close = difflib.get_close_matches(first.lower(), self._backends, 1, 0.75)
        if close:
            return f"There is no backend for this path. Did you mean /{close[0]}/...? {there}"
        if first in _NEED_A_URL:
            return f"The backend '{first}' has no base URL on this server. {there}"
        return f"There is no backend for this path. {there}"


_KNOWN_ROOTS = frozenset(
    [
        "api",
        "assistants",
        "audio",
        "batches",
        "chat",
        "completions",
        "containers",
        "conversations",
        "embeddings",
        "files",
        "fine_tuning",
        "images",
        "messages",
        "models",
        "moderations",
        "organization",
        "realtime",
        "rerank",
        "responses",
        "threads",
        "tokenize",
        "uploads",
        "vector_stores",
        "videos",
    ]
)
"""First segments of provider APIs, for clients whose base URL lacks the version."""
