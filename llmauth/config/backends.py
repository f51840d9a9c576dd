"""The backends of the configuration: built in, from the file, the environment and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from ..providers.table import PROVIDERS
from ..redact.messages import hidden
from ..redact.uris import masked_uri, uri_secrets
from .addresses import parse_address
from .backend_headers import (
    HEADER_SUFFIX,
    holds_secret,
    parse_auth,
    parse_headers,
    resolved,
    secrets_of,
    variables_of,
)
from .faults import Faults
from .keys import (
    KeySource,
    checked_provider_key,
    provider_key_source,
    read_header_value,
    read_provider_key,
)
from .names import nearest
from .values import kind_of, number, one_of, parse_text, plain, sentence

BASE_URL_SUFFIX = "_API_BASE_URL"
PROXY_SUFFIX = "_PROXY"
_NAME = re.compile(r"(?!v\d+(?:alpha|beta)?\d*$)[a-z0-9][a-z0-9_-]{0,31}")
_RESERVED = frozenset(
    ["-", "dashboard", "docs", "health", "healthz", "livez", "metrics", "openapi.json", "readyz"]
)
_TIMEOUT = number(float, 0.01, 86_400, "seconds")
_EXAMPLE = "https://api.example.com/v1"
_PROXY_EXAMPLE = "http://proxy.example.com:3128"
_NO_SCHEME = re.compile(
    r"(?:[Hh]?t?t?ps?s?[:;]?/{1,3}|//)?"
    r"((?:[a-z0-9_-]+\.)+[a-z0-9-]+|localhost|[a-z0-9_-]+(?=:\d)|\[[\da-f:]+\])"
    r"((?::\d{1,5})?(?:/[a-z0-9_./~-]*)?)"
)
_FRONT_END = re.compile(
    r"(?:\w+_)?(?:PUBLIC|VITE)_|(?:P?REACT|VUE|NG|ELM|UMI|TARO)_APP_|REDWOOD_ENV_"
    r"|(?:NUXT|GATSBY|GRIDSOME|STORYBOOK|RAZZLE|MIX|SNOWPACK|EMBER|QCLI|WXT|PLASMO)_"
)
"""What the tools that build web pages want the names of their variables to begin with."""


def parse_base_url(value: Any) -> str:
    """Parse the URL of an upstream."""
    text = parse_text(value)
    if text == "echo:":
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    # What RFC 3986 has no place for is left of a template; and a scheme may stand there twice.
    usable = usable and not re.search(r"[<>{}|^`]|^https?/", f"{parts.hostname}{parts.path}")
    if not usable or re.search(r"[\s\x00-\x1f\x7f-\U0010ffff]", text):
        raise ValueError(f"is not an http:// or https:// URL{_instead(text, _EXAMPLE)}")
    if parts.query or parts.fragment or "?" in text:
        raise ValueError("is a URL with a query or fragment; give only its base")
    return text.rstrip("/")


def _instead(text: str, example: str, scheme: str = "") -> str:
    """Return the question after a URL whose scheme was left out, or misspelt; or an example."""
    parts = _NO_SCHEME.fullmatch(text)
    if not parts or hidden(parts[1]) != parts[1]:  # a key may have a dot in it, too
        return f", such as {example}"
    host = parts[1]
    own = parse_address(host) is not None or "." not in host
    url = f"{scheme or ('http' if own else 'https')}://{host}{parts[2]}"
    return f": is it {url}?" if url != text else f", such as {example}"


def parse_variable(value: Any) -> str:
    """Parse the name of an environment variable; in capitals, so that no key passes for one."""
    text = parse_text(value)
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", text):
        raise ValueError("is not the name of an environment variable in capitals, such as MY_KEY")
    return text


def parse_proxy(value: Any) -> str:
    """Parse the URL of an HTTP proxy."""
    text = parse_text(value)
    if text.startswith("http://") and not urlsplit(url := parse_base_url(text)).path:
        return url
    raise ValueError(f"is not the URL of a proxy{_instead(text, _PROXY_EXAMPLE, 'http')}")


FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "base_url": parse_base_url,
    "auth": parse_auth,
    "headers": parse_headers,
    "api_key_env": parse_variable,
    "proxy": parse_proxy,
    "redirects": one_of("refuse", "hand-on"),
    "connect_timeout": _TIMEOUT,
    "first_byte_timeout": _TIMEOUT,
    "read_timeout": _TIMEOUT,
    "idle_timeout": _TIMEOUT,
    "stream_usage": one_of("ask", "leave"),
}
"""What can be said of a backend in the config file, and how it is parsed."""


def variable_of(name: str) -> str:
    """Return the stem of a backend's environment variables."""
    return name.upper().replace("-", "_")


@dataclass(frozen=True)
class BackendSettings:
    """One upstream.

    :param name: begins the paths of requests for it: lower-case letters, digits, - and _
    :param base_url: with or without its version segment; ``echo:`` is the built-in echo
    :param auth: how it wants its key: bearer, none, or the name of the header that is the key, such
        as x-api-key
    :param api_key_env: the environment variable that holds its key; by default <NAME>_API_KEY
    :param api_key: None when there is none; never shown
    :param key_source: where it was read
    :param proxy: URL of the HTTP proxy through which it is reached
    :param redirects: to other hosts: refuse, or hand-on to the client
    :param connect_timeout: seconds to connect
    :param first_byte_timeout: seconds from the request to the response's headers
    :param read_timeout: seconds between two reads of the response's body
    :param idle_timeout: seconds after which an idle connection to it is not used again
    :param stream_usage: ask it for the usage of streams on the client's behalf, or leave it; None
        for what is known of the provider
    :param headers: added to each request, by name; ``env:NAME`` in a value is what a variable holds
    :param header_values: what these variables hold; never shown
    :raises ConfigurationError: for what cannot be used
    """

    name: str
    base_url: str
    auth: str = "bearer"
    api_key_env: str = ""
    api_key: str | None = field(default=None, repr=False)
    key_source: KeySource | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    redirects: str = "refuse"
    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    read_timeout: float = 300.0
    idle_timeout: float = 55.0
    stream_usage: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    header_values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        where = f"backends.{_checked_name(self.name, 'backends')}"
        if not self.api_key_env:
            object.__setattr__(self, "api_key_env", f"{variable_of(self.name)}_API_KEY")
        for attribute in FIELDS.keys() - {"api_key_env"}:
            if (value := getattr(self, attribute)) is not None:
                object.__setattr__(self, attribute, _parsed(attribute, value, where))
        if self.api_key is not None:
            key = checked_provider_key(self.api_key, f"{where}.api_key")
            object.__setattr__(self, "api_key", key)
        for variable in variables_of(self.headers):
            if variable not in self.header_values:
                raise ConfigurationError(
                    f"{where}: headers name {variable}, which header_values do not hold."
                )
        if self.proxy and not self.base_url.startswith("https:"):
            raise ConfigurationError(f"{where}: proxy is for an https:// base_url.")

    @property
    def added_headers(self) -> dict[str, str]:
        """What is added to each request, by the headers' usual names."""
        return resolved(self.headers, self.header_values)

    @property
    def header_secrets(self) -> tuple[str, ...]:
        """What is never shown of them."""
        return tuple(secrets_of(self.headers, self.header_values))

    def __repr__(self) -> str:
        return f"BackendSettings({self.name}: {masked_uri(self.base_url)}, {self.auth})"


def _checked_name(name: str, origin: str) -> str:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigurationError(
            f"{origin}: '{name}' cannot name a backend: lower-case letters, digits, - and _, and "
            "neither a version such as v1 nor a page of this server's own."
            f"{nearest(name.lower(), PROVIDERS) if name.lower() != name else ''}"
        )
    return name


def _parsed(attribute: str, value: Any, origin: str) -> Any:
    try:
        return FIELDS[attribute](plain(value))
    except ValueError as exc:
        # What is in a URL, or passes for a variable, may be a password.
        hides = attribute in ("base_url", "proxy", "api_key_env", "headers")
        shown = attribute if hides else f"{attribute} '{value}'"
        if origin.startswith("environment "):  # the variable says what it is; it may set two
            shown = "it" if hides else f"'{value}'"
        raise ConfigurationError(sentence(f"{origin}: {shown} {exc}")) from None


def _from_variable(
    header: Mapping[str, str], variable: str, others: Mapping[str, str] | None
) -> Mapping[str, str]:
    """Return a backend's headers with the one of a variable, all of which is a secret."""
    ((name, text),) = header.items()
    named = text if any(variables_of(header)) else f"env:{variable}"
    return {**(others or {}), name: named}


_VARIABLES = (
    ("_TIMEOUT", ("first_byte_timeout", "read_timeout")),
    (PROXY_SUFFIX, ("proxy",)),
    ("_REDIRECTS", ("redirects",)),
    (HEADER_SUFFIX, ("headers",)),
)


def backends_in_yaml(content: Any, path: str) -> dict[Any, Any]:
    """Return the ``backends`` of a config file, refused when they hold a secret."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: backends is {kind_of(content)}, and not a mapping: a backend is a name below "
            "it, indented, as in 'local: http://127.0.0.1:8080/v1'."
        )
    faults = Faults()
    for name, entry in content.items():
        own = entry if isinstance(entry, dict) else {"base_url": entry}
        variable = variable_of(str(name))
        for secret in ("api_key", "key", "token", "password"):
            if own.get(secret):
                faults.add(
                    f"{path}: backends.{name}.{secret}: keys do not belong in the config file. "
                    f"Set {variable}_API_KEY in the environment."
                )
        headers = own.get("headers")
        for header, said in headers.items() if isinstance(headers, dict) else ():
            if holds_secret(header, said):
                faults.add(
                    f"{path}: backends.{name}.headers: keys do not belong in the config file. "
                    f"Put what '{header}' holds into a variable of the environment, and name that "
                    "as env:NAME."
                )
        for attribute, suffix in (("base_url", BASE_URL_SUFFIX), ("proxy", PROXY_SUFFIX)):
            if uri_secrets(str(own.get(attribute) or "")):
                faults.add(
                    f"{path}: backends.{name}.{attribute} holds a user or a password. "
                    f"Set the URL in {variable}{suffix} instead."
                )
    faults.refuse()
    return content


class BackendTable:
    """Collects what each source says; what is said later takes precedence.

    :param faults: takes what is wrong
    :param spoken_of: names that somebody uses elsewhere, as of the default backend
    """

    def __init__(
        self, environ: Mapping[str, str], faults: Faults, spoken_of: Iterable[str] = ()
    ) -> None:
        self._environ = environ
        self._faults = faults
        self._spoken_of = tuple(spoken_of)
        self._entries: dict[str, dict[str, Any]] = {}
        self._faulty: set[str] = set()
        self.origins: dict[str, str] = {}
        self.ignored: dict[str, str] = {}
        """Variables that may be somebody else's: why they make no backend."""
        for name, row in PROVIDERS.items():
            url = {"base_url": row.base_url} if row.base_url else {}
            self._entries[name] = {"auth": row.auth} | url

    def add_file(self, backends: Mapping[Any, Any], path: str) -> None:
        for name, entry in backends.items():
            self._add_mapping(str(name), entry, f"{path}: backends.{name}")

    def add_given(self, backends: Mapping[str, Any], kind: str) -> None:
        what = {"flag": "--backend", "argument": "backends"}.get(kind, "LLMAUTH_BACKENDS")
        for name, entry in backends.items():
            self._add_mapping(str(name), entry, f"{kind} {what} {name}")

    def add_environment(self) -> None:
        """Read ``<NAME>_API_BASE_URL``, which may make a backend, and what else there is of it."""
        names = {variable_of(name): name for name in (*self._spoken_of, *self._entries)}
        strangers = []
        for variable, value in self._environ.items():
            stem = variable.removesuffix(BASE_URL_SUFFIX)
            if stem == variable or not stem or not value.strip():
                continue
            if stem in names:
                self._set(names[stem], "base_url", value, f"environment {variable}")
            else:
                strangers.append(variable)
        for name in self._entries:
            self._add_variables(name)
        for variable in strangers:
            self._add_stranger(variable)

    def _add_variables(self, name: str) -> None:
        for suffix, attributes in _VARIABLES:
            variable = variable_of(name) + suffix
            if value := self._environ.get(variable, "").strip():
                for attribute in attributes:
                    self._set(name, attribute, value, f"environment {variable}")

    def _header_values(self, name: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return what the variables hold that a backend's headers name."""
        values = {}
        for variable in variables_of(headers):
            if variable == variable_of(name) + HEADER_SUFFIX:  # the header itself
                values[variable] = self._environ[variable].partition(":")[2].strip()
            elif source := provider_key_source(variable, self._environ):
                values[variable] = read_header_value(source)
            else:
                raise ConfigurationError(
                    f"{self.origins[f'backends.{name}.headers']}: headers name {variable}, which "
                    "is not set."
                )
        return values

    def _add_stranger(self, variable: str) -> None:
        """Make a backend of a variable that may be another program's: whole, or not at all."""
        value = self._environ[variable].strip()
        name = variable.removesuffix(BASE_URL_SUFFIX).lower().replace("_", "-")
        if _FRONT_END.match(variable):
            self.ignored[variable] = "it is a front-end tool's"
            return
        if not re.match(r"(?i)https?://", value):
            self.ignored[variable] = "it holds no http:// or https:// URL"
            return
        own = BackendTable(self._environ, faults := Faults())
        own._set(name, "base_url", value, f"environment {variable}")
        if not faults.messages:
            own._add_variables(name)
            own._entries = {name: own._entries[name]}
            own.finished()
        if faults.messages:
            reason = faults.messages[0].removeprefix(f"environment {variable}: ")
            self.ignored[variable] = reason.rstrip(".")
        else:
            self._entries[name] = own._entries[name]
            self.origins |= own.origins

    def finished(self) -> dict[str, BackendSettings]:
        """Return the backends with their keys."""
        backends = {}
        for name, entry in self._entries.items():
            without_url = name in self._faulty and "base_url" not in entry  # which was told
            if self._wanted(name) and not without_url:
                with self._faults.collected():
                    backends[name] = self._backend(name, entry)
        return backends

    def _wanted(self, name: str) -> bool:
        """False for a built-in backend that needs a base URL, as long as nobody speaks of it."""
        if name not in PROVIDERS or PROVIDERS[name].base_url is not None:
            return True
        return any(origin.startswith(f"backends.{name}.") for origin in self.origins)

    def _backend(self, name: str, entry: Mapping[str, Any]) -> BackendSettings:
        if "base_url" not in entry:
            raise ConfigurationError(
                f"Backend '{name}' has no base_url. "
                f"Set backends.{name}.base_url or {variable_of(name)}{BASE_URL_SUFFIX}."
            )
        variable = entry.get("api_key_env") or f"{variable_of(name)}_API_KEY"
        source = None
        if entry.get("auth") != "none":
            source = provider_key_source(variable, self._environ)
        origin = "not set"
        if source:
            file = f": {source.value}" if source.in_file else ""
            origin = f"environment {source.variable}{file}"
        self.origins[f"backends.{name}.api_key"] = origin
        key = read_provider_key(source) if source else None
        own = {**entry, "api_key_env": variable}
        if headers := entry.get("headers"):
            own["header_values"] = self._header_values(name, headers)
        try:
            return BackendSettings(name, **own, api_key=key, key_source=source)
        except ConfigurationError as exc:  # each of its values is right, but not both of these
            proxy = self.origins.get(f"backends.{name}.proxy")
            raise ConfigurationError(f"{proxy}: {exc}" if proxy else str(exc)) from None

    def _add_mapping(self, name: str, entry: Any, origin: str) -> None:
        entry = {} if entry is None else entry  # as an empty section of the file
        mapping = {"base_url": entry} if isinstance(entry, str) else entry
        with self._faults.collected():
            if not isinstance(mapping, Mapping):
                raise ConfigurationError(
                    f"{origin} is {kind_of(entry)}, and neither a URL nor a mapping of settings."
                )
            self._entry(name, origin)
            for attribute, value in mapping.items():
                self._add_attribute(name, attribute, value, origin)

    def _add_attribute(self, name: str, attribute: Any, value: Any, origin: str) -> None:
        if attribute not in FIELDS:
            self._faults.add(
                f"{origin}: '{attribute}' is no setting of a backend."
                f"{nearest(str(attribute), FIELDS)} There are: {', '.join(FIELDS)}."
            )
        elif value is not None:
            self._set(name, attribute, value, origin)

    def _entry(self, name: str, origin: str) -> dict[str, Any]:
        return self._entries.setdefault(_checked_name(name, origin), {})

    def _set(self, name: str, attribute: str, value: Any, origin: str) -> None:
        try:
            entry = self._entry(name, origin)
            self.origins[f"backends.{name}.{attribute}"] = origin
            parsed = _parsed(attribute, value, origin)
            if attribute == "headers" and origin.startswith("environment "):
                parsed = _from_variable(parsed, origin.partition(" ")[2], entry.get("headers"))
            entry[attribute] = parsed
        except ConfigurationError as exc:
            self._faults.add(*exc.messages)
            self._faulty.add(name)
