"""Where settings come from: flag, then environment, then config file, then default."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..exceptions import ConfigurationError
from .backends import BackendTable
from .faults import Faults
from .keys import (
    KEY_VARIABLE,
    KeySource,
    distinct,
    hiding,
    proxy_key_sources,
    read_keys,
    secrets_in,
)
from .names import nearest
from .notices import about_environment, about_settings, is_kubernetes
from .settings import ATTRIBUTES, TABLE, Setting, Settings, checked_keys
from .yaml_file import ConfigFile

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "LLMAUTH_CONFIG"
_ARGUMENTS = ("keys", "backends", "config_file")
_MISSING = {
    "flag": "set {}, or start with --disable-auth for local development",
    "environment": "set {}, or DISABLE_AUTH=true for local development",
    "Flask configuration": "set {} in the environment or LLMAUTH_API_KEY in the configuration of "
    "the Flask application, or LLMAUTH_DISABLE_AUTH for local development",
    "argument": "set {} in the environment or give load() keys, or disable_auth for local "
    "development",
}
_BY_HAND = "give Settings keys, or disable_auth for local development"


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

    def name_of(self, setting: Setting) -> str:
        """Return how the setting is called by whoever gave it."""
        names = {"flag": setting.flag, "argument": setting.attribute}
        return f"{self.kind} {names.get(self.kind, f'LLMAUTH_{setting.attribute.upper()}')}"


def load(
    given: Given | Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the effective settings: those given, else of the environment, else of the file.

    ::

        load({"port": 9000, "keys": {"anna": KEY}, "backends": {"local": "http://127.0.0.1:8080"}})

    :param given: what takes precedence over everything else, by the attributes of
        :class:`Settings`: values, or text as in the environment. ``keys`` maps names to keys and
        replaces those of the environment, ``backends`` maps names to URLs, or to mappings as in
        the config file, which ``config_file`` names.
    :param environ: defaults to ``os.environ``
    :raises ConfigurationError: naming each setting that cannot be used, where it came from and what
        is wrong
    """
    if given is None:
        given = Given(kind="environment")
    elif not isinstance(given, Given):
        given = _from_mapping(given)
    environ = os.environ if environ is None else environ
    with hiding(chain(secrets_in(environ), (key for _, key in given.keys))):
        return _loaded(given, environ)


def _from_mapping(given: Mapping[str, Any]) -> Given:
    known = (*ATTRIBUTES, *_ARGUMENTS)
    wrong = [name for name in given if name not in known]
    if wrong:
        raise ConfigurationError(
            *(f"argument '{name}' is no setting.{nearest(name, known)}" for name in wrong)
        )
    backends = given.get("backends") or {}
    if not isinstance(backends, Mapping):
        raise ConfigurationError("argument backends is not a mapping of names to settings.")
    return Given(
        {name: value for name, value in given.items() if name in ATTRIBUTES and value is not None},
        backends,
        checked_keys(given.get("keys") or (), "argument keys"),
        "argument",
        str(given.get("config_file") or "") or None,
    )


def _loaded(given: Given, environ: Mapping[str, str]) -> Settings:
    faults = Faults()
    file = given.config_file or environ.get(CONFIG_VARIABLE, "").strip() or None
    named_by = "flag --config" if given.config_file else f"environment {CONFIG_VARIABLE}"
    in_file = ConfigFile(Path(file) if file else None, named_by, faults)
    values, origins = _values(given, environ, in_file, faults)
    spoken_of = (*given.backends, values.get("default_backend", ""))
    table = BackendTable(environ, faults, map(str, spoken_of))
    table.add_file(in_file.backends, str(file))
    table.add_environment()
    table.add_given(given.backends, given.kind)
    backends = table.finished()
    sources = () if given.keys else proxy_key_sources(environ)
    keys = given.keys or _keys(sources, faults)
    notices = about_environment(environ, backends, table.ignored)
    if faults.messages:
        has_way_in = keys or sources or values.get("disable_auth") or values.get("database")
        if in_file.known and not has_way_in:
            faults.add(_missing(given.kind, notices))
        faults.refuse()
    return Settings(
        **values,
        keys=keys,
        key_sources=sources,
        backends=backends,
        origins=origins | table.origins,
        notices=notices,
    )


def _values(
    given: Given, environ: Mapping[str, str], in_file: ConfigFile, faults: Faults
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that were given by attribute, and where each comes from."""
    values: dict[str, Any] = {}
    origins = {"keys": given.kind}
    for setting in TABLE:
        raw, origin = _find(setting, given, environ, in_file)
        origins[setting.attribute] = origin
        if origin != "default":
            with faults.collected():
                values[setting.attribute] = setting.parsed(raw, origin)
    return values, origins


def _keys(sources: Iterable[KeySource], faults: Faults) -> tuple[tuple[str, str], ...]:
    keys: list[tuple[str, str]] = []
    for source in sources:
        with faults.collected():
            keys += read_keys((source,))
    with faults.collected():
        distinct(keys)
    return tuple(keys)


def _find(
    setting: Setting, given: Given, environ: Mapping[str, str], in_file: ConfigFile
) -> tuple[Any, str]:
    """Return the raw value and where it came from."""
    if setting.attribute in given.values:
        return given.values[setting.attribute], given.name_of(setting)
    if (value := environ.get(setting.env, "").strip()) and not is_kubernetes(value):
        return value, f"environment {setting.env}"
    if setting.name in in_file.values:
        return in_file.values[setting.name], f"{in_file.path}: {setting.name}"
    return None, "default"


def require_keys(settings: Settings, *, stored: bool = False) -> None:
    """Refuse to go on without a key while authentication is on.

    :param stored: there are keys in the database
    """
    if settings.keys or stored or settings.disable_auth:
        return
    if settings.database:
        raise ConfigurationError(
            f"There is no key yet in {settings.database}: make one with "
            f"'llmauth keys add NAME --database {settings.database}'."
        )
    raise ConfigurationError(_missing(settings.origins["keys"], settings.notices))


def _missing(kind: str, notices: tuple[str, ...]) -> str:
    advice = _MISSING.get(kind, _BY_HAND).format(KEY_VARIABLE)
    meant = "".join(f" {notice}" for notice in notices if KEY_VARIABLE in notice)
    return f"API key not configured: {advice}.{meant}"


def warn(settings: Settings) -> None:
    """Log what the operator should know at every start."""
    for notice in (*settings.notices, *about_settings(settings)):
        logger.warning("%s", notice)


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """Return a copy with some values replaced, checked like a loaded one."""
    return replace(settings, **changes)
