"""One upstream: its paths, its key, and its URLs."""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, unquote, urlsplit

from ..config.settings import BackendSettings
from ..http.uri_references import URIReference
from ..redact.key_mask import KeyMask
from .table import OTHER, PROVIDERS, VERSION

_LAST_VERSION = re.compile(VERSION.pattern.replace("(?=/|$)", "$"))
_PORTS = {"http": 80, "https": 443}


class Backend:
    """One upstream.

    :param settings: its part of the configuration
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.provider = PROVIDERS.get(settings.name, OTHER)
        self.is_echo = settings.base_url == "echo:"
        parts = urlsplit(settings.base_url)
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        path = parts.path.rstrip("/")
        version = _LAST_VERSION.search(path)
        root = path[: version.start()] if version else path
        self._version = version[0] if version else ""
        self._is_whole = self.provider.whole_base.search(path) is not None
        if not self._is_whole:
            self._version = self._version or self.provider.version
        self._above = root.removesuffix(self.provider.root)
        self._root = self._above + self.provider.root if self._has_own_root(parts) else root
        self._userinfo = ""
        self._passwords: tuple[str, ...] = ()
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            self._userinfo = f"Basic {encoded}"
            self._passwords = (encoded, password or user)
        self.headers = settings.added_headers
        style = settings.auth
        self.key_header = "Authorization" if style == "bearer" else style.title()
        self._key: str | None = None
        self.key = settings.api_key

    def __repr__(self) -> str:
        return repr(self.settings)

    @property
    def asks_for_usage(self) -> bool:
        """True when it is asked for the usage of streams on the client's behalf."""
        said = self.settings.stream_usage
        return said == "ask" or (said is None and self.provider.asks_for_usage)

    @property
    def takes_keys(self) -> bool:
        """False where a client's own key may be anything, as nobody looks at it."""
        if self.settings.auth == "none":
            return False
        return self.provider.needs_key or self.key is not None or bool(self._userinfo)

    @property
    def key(self) -> str | None:
        """The server's key for this upstream, which its file may replace at any time."""
        return self._key

    @key.setter
    def key(self, key: str | None) -> None:
        # The one before may still be on its way.
        secrets = filter(None, (key, self._key, *self._passwords, *self.settings.header_secrets))
        self.mask, self._key = KeyMask(secrets), key

    def _has_own_root(self, parts: SplitResult) -> bool:
        """True where the provider's root belongs before the version, written or not."""
        own = self.provider.base_url
        return own is None or urlsplit(own).hostname == parts.hostname

    def target(self, path: str) -> str:
        """Return the upstream's path for a request's, which may have a version segment or not.

        A built-in provider's base URL means the same with its version and without, and a version
        that the request names is the one that counts. Any other base URL is what OpenAI's clients
        take for one: ``/chat/completions`` is appended to it, and the ``/v1`` that stands at the
        end of this server's own base URL stands for all of it. Another version than that one
        takes the place of the version in which the base URL ends, or follows the base URL.
        """
        target = self._above_version(path)
        return self.provider.bearer_paths.sub(lambda part: part[1], target, count=1) or "/"

    def _above_version(self, path: str) -> str:
        base = self._root + self._version
        if self._is_whole and VERSION.search(base) and _is_below(path, base):
            return path
        root = self.provider.root
        if root and _is_below(path, root):  # as the provider's own SDK has it
            inner = path[len(root) :]
            if self.provider.bare_root or is_versioned(inner):
                return self._above + path
            path = inner
        if self._is_whole and _is_below(path, "/v1") and (self._version or not _adds_version(path)):
            return base + path[len("/v1") :]
        if is_versioned(path) or not self._is_of_api(path):
            return self._root + path
        return base + path

    def _is_of_api(self, path: str) -> bool:
        """False for a path that has no version before it, as servers have of their own."""
        first = re.split("[/:]", path[1:], maxsplit=1)[0]
        if not first:
            return not self.provider.bare_root
        return first in self.provider.segments

    def own_path(self, reference: URIReference, base: str = "/") -> str | None:
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
        # With the provider's own root it is the same wherever it leads below that.
        return reference.below(self._above if self.provider.root else self._root)

    def below_base(self, target: str) -> str:
        """Return an upstream's path without what the base URL has before its version."""
        return target[len(self._root) :] or "/" if _is_below(target, self._root) else target

    def add_key(self, headers: dict[str, str], target: str = "") -> None:
        """Add the server's key for this upstream, unless the request brings its own.

        :param target: the upstream's path; some want the key in another way than the rest
        """
        key, style = self.key, self.settings.auth
        if style == self.provider.auth and self.provider.bearer_paths.search(target):
            style = "bearer"
        if key and style != "none":
            name, value = ("Authorization", f"Bearer {key}") if style == "bearer" else (style, key)
            headers[name.title()] = value
        if self._userinfo:
            headers.setdefault("Authorization", self._userinfo)


def is_versioned(path: str) -> bool:
    """True for a path that begins with a version."""
    return VERSION.match(path) is not None


def _adds_version(path: str) -> bool:
    """True for paths of SDKs that take the base URL without a version, unlike OpenAI's."""
    return any(provider.paths.search(path) for provider in PROVIDERS.values())


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")
