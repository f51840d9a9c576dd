"""Which backend a request is for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping

from ..config.backends import BASE_URL_SUFFIX, variable_of
from ..exceptions import UnknownRoute
from .backend import Backend, is_versioned
from .table import FIRST_SEGMENTS, KEY_HEADERS, PROVIDERS, PROXY_KEY_HEADER, VERSION, Provider

Header = Callable[[str], str | None]
"""Returns a header's value by its lower-case name."""

_READ_DIFFERENTLY = re.compile(r"(?i)/\.{1,2}(?:/|$)|%(?:2e|2f|5c|00)|\\")
_QUERY_KEY = re.compile(r"(?:^|&)key=")
_LONGEST_NAME = 40  # with some letters too many
_ROOTS = frozenset(provider.root.strip("/") for provider in PROVIDERS.values())


class Router:
    """Finds the backend of a request.

    :param backends: by name
    :param default: the name of the backend for requests that name none
    :param unused: names of those that nobody configured; they get what names them and brings a key
        of its own, and nothing else
    """

    def __init__(
        self, backends: Mapping[str, Backend], default: str, unused: Collection[str] = ()
    ) -> None:
        self._backends = backends
        self._default = backends[default]
        self._unused = unused
        self._told_by_form = [one for one in backends.values() if one.provider.header]
        self._joined = FIRST_SEGMENTS | _ROOTS | set(backends)

    def find(self, path: str, query: str, header: Header) -> tuple[Backend, str]:
        """Return the backend and the path without its prefix.

        :param path: raw, from the proxy's own root
        :raises UnknownRoute: naming the backends there are
        """
        path = self._with_single_slashes(path)
        if self._default.provider.own_target.match(f"{path}?{query}"):
            return self._default, path
        first, slash, rest = path[1:].partition("/")
        if named := self._backends.get(first):
            if not self._is_set_up(named) and not _brings_own_key(named.provider, query, header):
                raise UnknownRoute(self._how_to_set_up(named))
            return named, _one_version(f"/{rest}" if slash else "/")
        if mistake := self._mistake(path, first, f"/{rest}"):
            raise UnknownRoute(f"{mistake} {self._choice()}")
        path = _one_version(path)
        for backend in self._told_by_form:
            if _is_meant(backend.provider, path, query, header) and self._is_set_up(backend):
                return backend, path
        return self._default, path

    def find_public(self, path: str) -> tuple[Backend, str]:
        """Return the default backend and the path, for a request that needs no key.

        :param path: as for :meth:`find`; it does not name another backend
        :raises UnknownRoute: as :meth:`find` does
        """
        _, path = self.find(path, "", lambda name: None)
        return self._default, path

    def names_another(self, path: str) -> bool:
        """True for a path that begins with the name of a backend other than the default one."""
        named = self._backends.get(path[1:].partition("/")[0], self._default)
        return named is not self._default

    def _with_single_slashes(self, path: str) -> str:
        """Return a path without the slashes that a client has put between a base URL and a path.

        Base URLs end in a backend's name, a version, the root of an API, its first segment or
        Azure's deployment. What comes after these is the client's own, and stays as it is; so
        does all of a path that two servers might read in two ways.
        """
        if "//" not in path or path.startswith("//") or _READ_DIFFERENTLY.search(path):
            return path
        kept = [""]
        _, *segments, last = path.split("/")
        for at, segment in enumerate(segments):
            if not segment:
                continue
            at_joint = segment in self._joined or is_versioned(f"/{segment}")
            if not at_joint and kept[-1] != "deployments":
                return "/".join([*kept, *segments[at:], last])
            kept.append(segment)
        return "/".join([*kept, last])

    def _is_set_up(self, backend: Backend) -> bool:
        in_use = backend.name not in self._unused or backend.key is not None
        return in_use or not backend.provider.needs_key

    def _how_to_set_up(self, backend: Backend) -> str:
        return (
            f"The backend '{backend.name}' is not set up on this server. Set "
            f"{backend.settings.api_key_env} there, or send a provider key of your own, with the "
            f"proxy key in {PROXY_KEY_HEADER.title()}. {self._choice()}"
        )

    def _mistake(self, path: str, first: str, rest: str) -> str | None:
        """Say what is wrong with a path that nobody can mean, None for all others.

        Servers have paths of their own, and those are many.
        """
        if path.startswith("//"):
            return (
                "The path begins with two slashes: the base URL that your client was given ends in "
                "a slash too many."
            )
        if not first:
            return "This is the root of an API; a base URL ends in /v1 for most clients."
        if first in PROVIDERS:
            variable = variable_of(first) + BASE_URL_SUFFIX
            return f"The backend '{first}' has no base URL on this server; set {variable} there."
        plain = {_letters(name): name for name in self._backends}
        meant = plain.get(_letters(first))
        if not meant and is_versioned("/" + rest.lstrip("/")) and 2 < len(first) <= _LONGEST_NAME:
            close = difflib.get_close_matches(_letters(first), plain, 1, 0.75)
            meant = plain[close[0]] if close else None
        return f"There is no backend for this path. Did you mean /{meant}/...?" if meant else None

    def _choice(self) -> str:
        names = ", ".join(f"/{name}/..." for name in self._backends)
        return (
            f"Use /v1/... for '{self._default.name}', or put a backend's name before it: {names}."
        )


def _letters(name: str) -> str:
    return re.sub("[-_.]", "", name).lower()


def _is_meant(provider: Provider, path: str, query: str, header: Header) -> bool:
    """True for a request whose form says that it is for this provider."""
    return bool(
        (provider.header is not None and header(provider.header) is not None)
        or provider.paths.search(path)
        or ("key=" in query and _QUERY_KEY.search(query) and provider.query_key_paths.search(path))
    )


def _brings_own_key(provider: Provider, query: str, header: Header) -> bool:
    """True for a request with a key for the provider beside the proxy key."""
    proxy_key = header(PROXY_KEY_HEADER)
    if proxy_key is None:
        return False
    values = [header(name) or "" for name in ("authorization", *KEY_HEADERS)]
    others = {value.strip().rpartition(" ")[2] for value in values} - {"", proxy_key.strip()}
    in_query = provider.takes_query_keys and _QUERY_KEY.search(query) is not None
    return bool(others) or in_query


def _one_version(path: str) -> str:
    """Return a path whose version a base URL and an SDK have both written, with one of them.

    The SDK's, which is the second, knows what it asks for.
    """
    at = 0
    while (first := VERSION.match(path, at)) and VERSION.match(path, first.end()):
        at = first.end()
    return path[at:]
