"""Named upstreams, how each wants its key, and which requests are theirs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from .credentials import GEMINI_PATH
from .exceptions import UnknownRoute
from .settings import BackendSettings

_VERSION = re.compile(r"/v\d+(?:alpha|beta)?\d*(?=/|$)")
_ANTHROPIC_PATH = re.compile(r"/v1/messages(?:/|$)|/v1/complete$")
_GEMINI_ONLY = re.compile(
    r"^/v\d+(?:alpha|beta)\d*/|:(?:generate|stream|embed|batch|count|predict|asyncBatch)\w*$"
)
_PORTS = {"http": 80, "https": 443}
_DEFAULT_VERSION = {
    "openai": "/v1",
    "anthropic": "/v1",
    "openrouter": "/v1",
    "gemini": "/v1beta",
}


class Backend:
    """One upstream.

    :param settings: its part of the configuration
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.key = settings.api_key
        self.is_echo = settings.base_url == "echo:"
        parts = urlsplit(settings.base_url)
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        found = re.search(_VERSION.pattern.replace("(?=/|$)", "$"), parts.path)
        self._root = parts.path[: found.start()] if found else parts.path
        self._version = found[0] if found else _DEFAULT_VERSION.get(self.name, "")
        self._userinfo = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._userinfo = "Basic " + base64.b64encode(pair.encode()).decode("ascii")

    def __repr__(self) -> str:
        return repr(self.settings)

    def target(self, path: str) -> str:
        """Return the upstream's path for a request's, which may have a version segment or not.

        ``https://api.openai.com`` and ``https://api.openai.com/v1`` mean the same, for the
        configuration and for clients; a version that the request names is the one that counts.
        """
        if _VERSION.match(path):
            return self._root + path
        return f"{self._root}{self._version}{path}" or "/"

    def own_path(self, url: str) -> str | None:
        """Return path and query of a URL of this upstream, as a request to here would name them.

        None for a URL of another host, and for a relative one.
        """
        try:
            parts, own = urlsplit(url), urlsplit(self.origin)
            known = _same_host(parts, own) if parts.netloc else url.startswith("/")
        except ValueError:
            return None
        return path_of(parts, self._root) if known else None

    def add_key(self, headers: dict[str, str]) -> None:
        """Add the server's key for this upstream, unless the request brings its own."""
        key, style = self.key, self.settings.auth
        if key and style != "none":
            name, value = ("Authorization", f"Bearer {key}") if style == "bearer" else (style, key)
            headers[name.title()] = value
        if self._userinfo:
            headers.setdefault("Authorization", self._userinfo)


def path_of(parts: SplitResult, root: str = "") -> str:
    """Return a URL's path below a root, query and fragment; never one that names another host."""
    path = parts.path
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return parts._replace(scheme="", netloc="", path="/" + path.lstrip("/")).geturl()


def _same_host(one: SplitResult, other: SplitResult) -> bool:
    """True for the same server; one behind its own TLS terminator often writes http for https."""
    ports = [part.port or _PORTS.get(part.scheme) for part in (one, other)]
    same_port = one.port == other.port or ports[0] == ports[1]
    return one.hostname == other.hostname and same_port


class Router:
    """Finds the backend of a request.

    :param backends: by name
    :param default: the name of the backend for requests that name none
    """

    def __init__(self, backends: Mapping[str, Backend], default: str) -> None:
        self._backends = backends
        self._default = backends[default]
        self._anthropic = backends.get("anthropic")
        self._gemini = backends.get("gemini")

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
            return named, f"/{rest}" if slash else "/"
        if self._anthropic and (
            header("anthropic-version") is not None or _ANTHROPIC_PATH.match(path)
        ):
            return self._anthropic, path
        if self._gemini and (
            header("x-goog-api-key") is not None
            or _GEMINI_ONLY.search(path)
            or ("key=" in query and re.search(r"(?:^|&)key=", query) and GEMINI_PATH.search(path))
        ):
            return self._gemini, path
        if _VERSION.match(path) or first in _KNOWN_ROOTS:
            return self._default, path
        raise UnknownRoute(
            f"There is no backend for this path. Use /v1/… for '{self._default.name}', or put a "
            f"backend's name before it: {', '.join(f'/{name}/…' for name in self._backends)}."
        )


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
