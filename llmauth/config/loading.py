"""Where settings come from: flag, then environment, then config file, then default."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ..exceptions import ConfigurationError
from ..providers.table import PROVIDERS
from ..redact.uris import uri_secrets
from .addresses import parse_address
from .backends import BASE_URL_SUFFIX, BackendTable, backends_in_yaml, variable_of
from .keys import (
    KEY_VARIABLE,
    MISSING,
    hiding,
    proxy_key_sources,
    read_keys,
    secrets_in,
    warn_of_weak,
)
from .settings import TABLE, Setting, Settings
from .values import read_text

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "LLMAUTH_CONFIG"
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._])(?:api_?keys?|keys?|password|passwd|secret|token)(?:$|\.)"
)


@dataclass(frozen=True)
class Given:
    """What the command line, or the Flask configuration, says.

    :param values: settings by attribute
    :param backends: as in the config file: name to mapping
    :param keys: pairs of a name and a key; they replace those of the environment
    :param kind: how an origin is described
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    backends: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    kind: str = "flag"
    config_file: str | None = None


def load(given: Given | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the effective settings.

    :param given: what takes precedence over everything else
    :param environ: defaults to ``os.environ``
    :raises ConfigurationError: naming the setting, where it came from and what is wrong
    """
    given = given or Given()
    environ = os.environ if environ is None else environ
    with hiding(chain(secrets_in(environ), (key for _, key in given.keys))):
        return _loaded(given, environ)


def _loaded(given: Given, environ: Mapping[str, str]) -> Settings:
    file = given.config_file or environ.get(CONFIG_VARIABLE, "").strip() or None
    flat, in_file = _read_file(Path(file)) if file else ({}, {})
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in TABLE:
        raw, origin = _find(setting, given, environ, flat, file)
        origins[setting.attribute] = origin
        if origin != "default":
            values[setting.attribute] = _parsed(setting, raw, origin)
    table = BackendTable(environ)
    if in_file:
        table.add_file(in_file, str(file))
    table.add_environment()
    table.add_given(given.backends, given.kind)
    sources = () if given.keys else proxy_key_sources(environ)
    settings = Settings(
        **values,
        keys=given.keys or read_keys(sources),
        key_sources=sources,
        backends=MappingProxyType(table.finished()),
        origins=MappingProxyType(origins | table.origins),
    )
    return _consistent(settings)


def require_keys(settings: Settings) -> None:
    """Refuse to go on without a key while authentication is on."""
    if not settings.keys and not settings.disable_auth:
        raise ConfigurationError(MISSING)


def warn(settings: Settings) -> None:
    """Log what the operator should know at every start."""
    if settings.disable_auth:
        logger.warning("authentication is off: everyone who reaches %s is let in", settings.host)
    for path in settings.bypass_paths:
        backend = path[1:].partition("/")[0]
        if backend in settings.backends and backend != settings.default_backend:
            logger.warning(
                "bypass_paths: '%s' of the proxy needs a key nevertheless: it names the backend "
                "'%s', and only the default one is served without",
                path,
                backend,
            )
    warn_of_weak(settings.keys)


def is_loopback(host: str) -> bool:
    """True when only this machine can reach the address."""
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """Return a copy with some values replaced, checked like a loaded one."""
    return _consistent(replace(settings, **changes))


def _find(
    setting: Setting,
    given: Given,
    environ: Mapping[str, str],
    flat: Mapping[str, Any],
    file: str | None,
) -> tuple[Any, str]:
    """Return the raw value and where it came from."""
    if setting.attribute in given.values:
        kind = given.kind
        name = setting.flag if kind == "flag" else f"LLMAUTH_{setting.attribute.upper()}"
        return given.values[setting.attribute], f"{kind} {name}"
    if environ.get(setting.env, "").strip():
        return environ[setting.env], f"environment {setting.env}"
    if setting.name in flat:
        return flat[setting.name], f"{file}: {setting.name}"
    return None, "default"


def _parsed(setting: Setting, raw: Any, origin: str) -> Any:
    try:
        return setting.parse(raw)
    except ValueError as exc:
        value = "" if setting.secret or setting.list_of else f" '{raw}'"
        raise ConfigurationError(f"{setting.name} ({origin}):{value} {exc}.") from None


def _read_file(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the settings of a config file by their dotted names, and its backends."""
    text = read_text(path, f"Cannot read the config file {path}")
    try:
        content = yaml.load(text, _Loader)  # nosec B506 (a SafeLoader)
    except RecursionError:
        raise ConfigurationError(f"{path}: what it holds is nested too deeply.") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        # What stands there may be a key.
        problem = re.sub(r"'.*'", "'...'", getattr(exc, "problem", None) or "it is not YAML")
        raise ConfigurationError(f"{path}{where}: {problem}.") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: the file holds {type(content).__name__}, not settings.")
    backends = backends_in_yaml(content.pop("backends", None), str(path))
    try:
        flat = dict(_flattened(content))
    except RecursionError:
        raise ConfigurationError(f"{path}: a mapping holds itself.") from None
    known = {setting.name: setting for setting in TABLE}
    sections = {name.rpartition(".")[0] for name in known}
    for name, value in flat.items():
        if name not in known and not (value in (None, {}) and name in sections):
            _refuse_name(name, path, known)
        if name == "auth.brute_force_protection.storage_uri" and uri_secrets(str(value)):
            raise ConfigurationError(
                f"{path}: {name} holds a password. Set the URI in {known[name].env} instead."
            )
    return {name: value for name, value in flat.items() if value not in (None, {})}, backends


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands there twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem="a key is repeated", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _flattened(content: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{name}.")
        else:
            yield name, value


def _refuse_name(name: str, path: Path, known: Iterable[str]) -> None:
    if _SECRET_NAME.search(name):
        backend = name.lower().removesuffix("_api_key")
        variable = f"{backend.upper()}_API_KEY" if backend in PROVIDERS else KEY_VARIABLE
        raise ConfigurationError(
            f"{path}: {name}: keys do not belong in the config file. "
            f"Set {variable}, or {variable}_FILE to the path of a file that holds it."
        )
    raise ConfigurationError(
        f"{path}: '{name}' is no setting.{nearest(name, [*known, 'backends'])}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the question after the known name that was meant, or nothing."""
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in known}
    everything = {candidate: candidate for candidate in by_last.values()} | by_last
    for word in (name, name.rpartition(".")[2]):
        if close := difflib.get_close_matches(word, everything, 1):
            return f" Did you mean '{everything[close[0]]}'?"
    return ""


def _about_missing_backend(name: str, there: Iterable[str]) -> str:
    """Say what makes a backend of this name, or which one was meant."""
    if name in PROVIDERS:
        variable = variable_of(name) + BASE_URL_SUFFIX
        return f"the backend '{name}' has no base URL. Set {variable}."
    variable = variable_of(re.sub(r"[^A-Za-z0-9]+", "-", name)) + BASE_URL_SUFFIX
    known = dict.fromkeys([*there, *PROVIDERS])
    question = nearest(name.lower().replace("_", "-"), known)
    return (
        f"there is no backend '{name}'.{question} {variable} makes one of that name. "
        f"There are: {', '.join(there)}."
    )


def _consistent(settings: Settings) -> Settings:
    """Refuse settings that contradict each other."""

    def origin(attribute: str) -> str:
        return settings.origins.get(attribute, "default")

    if settings.max_block_seconds < settings.initial_block_seconds:
        raise ConfigurationError(
            f"max_block_seconds ({settings.max_block_seconds}, {origin('max_block_seconds')}) is "
            f"shorter than initial_block_seconds ({settings.initial_block_seconds}, "
            f"{origin('initial_block_seconds')})."
        )
    if settings.default_backend not in settings.backends:
        raise ConfigurationError(
            f"default_backend ({origin('default_backend')}): "
            + _about_missing_backend(settings.default_backend, settings.backends)
        )
    if (
        settings.disable_auth
        and not settings.allow_unauthenticated_network
        and not is_loopback(settings.host)
    ):
        raise ConfigurationError(
            f"disable_auth ({origin('disable_auth')}): others can reach {settings.host} "
            f"({origin('host')}), and nobody would need a key. Listen on 127.0.0.1, "
            "or add --allow-unauthenticated-network if this is what you want."
        )
    if settings.disable_auth and "*" in settings.cors_origins:
        raise ConfigurationError(
            f"cors_origins ({origin('cors_origins')}): authentication is off "
            f"({origin('disable_auth')}), and '*' would let every page that somebody here opens "
            "use this server. Name the origins."
        )
    _refuse_shared_keys(settings)
    return settings


def _refuse_shared_keys(settings: Settings) -> None:
    """Refuse a proxy key that is a provider's as well: this server would hand its own key on."""
    names = {key: name for name, key in settings.keys}
    for backend in settings.backends.values():
        source = backend.key_source
        variable = source.variable if source else backend.api_key_env
        held = [(backend.api_key or "", variable)]
        held += [(one, f"{backend.name}'s base_url") for one in uri_secrets(backend.base_url)]
        for secret, where in held:
            if name := names.get(secret):
                raise ConfigurationError(
                    f"{where} holds the proxy key '{name}', and a provider's key must be another: "
                    "whoever uses this server would have it. Make a proxy key with "
                    "'llmauth keygen'."
                )
