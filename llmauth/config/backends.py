"""The backends of the configuration: built in, from the file, the environment and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from ..providers.table import AUTH_STYLES, PROVIDERS
from ..redact.uris import uri_secrets
from .keys import provider_key_source, read_provider_key
from .settings import BackendSettings
from .values import number, one_of, parse_text

BASE_URL_SUFFIX = "_API_BASE_URL"
PROXY_SUFFIX = "_PROXY"
_NAME = re.compile(r"(?!v\d+(?:alpha|beta)?\d*$)[a-z0-9][a-z0-9_-]{0,31}")
_RESERVED = frozenset(
    ["-", "dashboard", "docs", "health", "healthz", "livez", "metrics", "openapi.json", "readyz"]
)
_TIMEOUT = number(float, 0.01, 86_400)


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
    if not usable or re.search(r"[\s\x00-\x1f\x7f-\U0010ffff]", text):
        raise ValueError("is not an http:// or https:// URL")
    if parts.query or parts.fragment or "?" in text:
        raise ValueError("is a URL with a query or fragment; give only its base")
    return text.rstrip("/")


def parse_variable(value: Any) -> str:
    """Parse the name of an environment variable; in capitals, so that no key passes for one."""
    text = parse_text(value)
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", text):
        raise ValueError("is not the name of an environment variable in capitals, such as MY_KEY")
    return text


def parse_proxy(value: Any) -> str:
    """Parse the URL of an HTTP proxy."""
    url = parse_base_url(value)
    if not url.startswith("http://") or urlsplit(url).path:
        raise ValueError("is not the URL of a proxy, such as http://proxy.example.com:3128")
    return url


FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "base_url": parse_base_url,
    "auth": one_of(*AUTH_STYLES),
    "api_key_env": parse_variable,
    "proxy": parse_proxy,
    "redirects": one_of("refuse", "hand-on"),
    "connect_timeout": _TIMEOUT,
    "first_byte_timeout": _TIMEOUT,
    "read_timeout": _TIMEOUT,
    "idle_timeout": _TIMEOUT,
}
"""What can be said of a backend in the config file, and how it is parsed."""


_VARIABLES = (
    ("_TIMEOUT", ("first_byte_timeout", "read_timeout")),
    (PROXY_SUFFIX, ("proxy",)),
    ("_REDIRECTS", ("redirects",)),
)


def variable_of(name: str) -> str:
    """Return the stem of a backend's environment variables."""
    return name.upper().replace("-", "_")


def backends_in_yaml(content: Any, path: str) -> Mapping[str, Any]:
    """Return the ``backends`` of a config file, refused when they hold a secret."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: backends is not a mapping of names to settings.")
    for name, entry in content.items():
        own = entry if isinstance(entry, dict) else {"base_url": entry}
        variable = variable_of(str(name))
        for secret in ("api_key", "key", "token", "password"):
            if own.get(secret):
                raise ConfigurationError(
                    f"{path}: backends.{name}.{secret}: keys do not belong in the config file. "
                    f"Set {variable}_API_KEY in the environment."
                )
        for field, suffix in (("base_url", BASE_URL_SUFFIX), ("proxy", PROXY_SUFFIX)):
            if uri_secrets(str(own.get(field) or "")):
                raise ConfigurationError(
                    f"{path}: backends.{name}.{field} holds a user or a password. "
                    f"Set the URL in {variable}{suffix} instead."
                )
    return content


class BackendTable:
    """Collects what each source says; what is said later takes precedence."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._entries: dict[str, dict[str, Any]] = {}
        self.origins: dict[str, str] = {}
        for name, row in PROVIDERS.items():
            url = {"base_url": row.base_url} if row.base_url else {}
            self._entries[name] = {"auth": row.auth} | url

    def add_file(self, backends: Mapping[str, Any], path: str) -> None:
        for name, entry in backends.items():
            self._add_mapping(str(name), entry, f"{path}: backends.{name}")

    def add_given(self, backends: Mapping[str, Any], kind: str) -> None:
        for name, entry in backends.items():
            what = "--backend" if kind == "flag" else "LLMAUTH_BACKENDS"
            self._add_mapping(str(name), entry, f"{kind} {what} {name}")

    def add_environment(self) -> None:
        """Read ``<NAME>_API_BASE_URL``, which may make a backend, and what else there is of it."""
        for variable, value in self._environ.items():
            stem = variable.removesuffix(BASE_URL_SUFFIX)
            if stem != variable and stem and value.strip():
                name = next((n for n in self._entries if variable_of(n) == stem), None)
                name = name or stem.lower().replace("_", "-")
                self._set(name, "base_url", value, f"environment {variable}")
        for name in self._entries:
            for suffix, attributes in _VARIABLES:
                variable = variable_of(name) + suffix
                if value := self._environ.get(variable, "").strip():
                    for attribute in attributes:
                        self._set(name, attribute, value, f"environment {variable}")

    def finished(self) -> dict[str, BackendSettings]:
        """Return the backends with their keys."""
        entries = self._entries.items()
        return {name: self._backend(name, entry) for name, entry in entries if self._wanted(name)}

    def _wanted(self, name: str) -> bool:
        """False for a built-in backend that needs a base URL, as long as nobody speaks of it."""
        if name not in PROVIDERS or PROVIDERS[name].base_url is not None:
            return True
        return any(origin.startswith(f"backends.{name}.") for origin in self.origins)

    def _backend(self, name: str, entry: dict[str, Any]) -> BackendSettings:
        if "base_url" not in entry:
            raise ConfigurationError(
                f"Backend '{name}' has no base_url. "
                f"Set backends.{name}.base_url or {variable_of(name)}{BASE_URL_SUFFIX}."
            )
        if "proxy" in entry and not entry["base_url"].startswith("https:"):
            raise ConfigurationError(
                f"{self.origins[f'backends.{name}.proxy']}: proxy is for an https:// base_url."
            )
        variable = entry.pop("api_key_env", f"{variable_of(name)}_API_KEY")
        source = None
        if entry.get("auth", "bearer") != "none":
            source = provider_key_source(variable, self._environ)
        origin = f"environment {source.variable}" if source else "not set"
        self.origins[f"backends.{name}.api_key"] = origin
        return BackendSettings(
            name=name,
            base_url=entry.pop("base_url"),
            auth=entry.pop("auth", "bearer"),
            api_key_env=variable,
            api_key=read_provider_key(source) if source else None,
            key_source=source,
            **entry,
        )

    def _add_mapping(self, name: str, entry: Any, origin: str) -> None:
        entry = {} if entry is None else entry  # as an empty section of the file
        mapping = {"base_url": entry} if isinstance(entry, str) else entry
        if not isinstance(mapping, Mapping):
            raise ConfigurationError(f"{origin}: is neither a URL nor a mapping of settings.")
        self._entry(name, origin)
        for attribute, value in mapping.items():
            if attribute not in FIELDS:
                raise ConfigurationError(
                    f"{origin}: '{attribute}' is no setting of a backend. "
                    f"There are: {', '.join(FIELDS)}."
                )
            if value is not None:
                self._set(name, attribute, value, origin)

    def _entry(self, name: str, origin: str) -> dict[str, Any]:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ConfigurationError(
                f"{origin}: '{name}' cannot name a backend: lower-case letters, digits, - and _, "
                "and neither a version such as v1 nor a page of this server's own."
            )
        return self._entries.setdefault(name, {})

    def _set(self, name: str, attribute: str, value: Any, origin: str) -> None:
        entry = self._entry(name, origin)
        try:
            entry[attribute] = FIELDS[attribute](value)
        except ValueError as exc:
            raise ConfigurationError(f"{origin}: {attribute} {exc}.") from None
        self.origins[f"backends.{name}.{attribute}"] = origin
