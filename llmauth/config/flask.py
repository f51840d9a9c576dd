"""Settings in the configuration of a Flask application, ``app.config["LLMAUTH_…"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..exceptions import ConfigurationError
from .faults import Faults
from .loading import Given, load
from .names import nearest
from .settings import TABLE, Settings, checked_keys

PREFIX = "LLMAUTH_"


def from_flask(config: Mapping[str, Any]) -> Settings:
    """Return the settings of a Flask application: ``LLMAUTH_<ATTRIBUTE>`` in its configuration.

    ``LLMAUTH_API_KEY`` is one key, ``LLMAUTH_API_KEYS`` a mapping of names to keys,
    ``LLMAUTH_BACKENDS`` a mapping as in the config file, ``LLMAUTH_CONFIG`` the file's path. What
    is not in there comes from the environment, as ever. Values may be what they are or text, as
    ``from_prefixed_env`` leaves them.
    """
    faults = Faults()
    own = {k[len(PREFIX) :]: v for k, v in config.items() if k.startswith(PREFIX)}
    backends = _lower(_mapping(own.pop("BACKENDS", None), "BACKENDS"))
    pairs = _mapping(own.pop("API_KEYS", None), "API_KEYS")
    file = str(own.pop("CONFIG", None) or "")  # or a Path
    if (one := own.pop("API_KEY", None)) not in (None, ""):
        pairs.setdefault("default", one)
    for value in pairs.values():
        if not isinstance(value, str):
            raise ConfigurationError(
                f"{PREFIX}API_KEY: the key is not a text. "
                "One of digits only needs quotes in the environment: '\"12345678\"'."
            )
    attributes = {setting.attribute.upper(): setting.attribute for setting in TABLE}
    known = [PREFIX + name for name in (*attributes, "BACKENDS", "CONFIG", "API_KEY", "API_KEYS")]
    for name in own.keys() - attributes.keys():
        faults.add(
            f"{PREFIX}{name} in the Flask configuration is unknown.{nearest(PREFIX + name, known)}"
        )
    values = {attributes[n]: v for n, v in own.items() if v is not None and n in attributes}
    with faults.collected():
        keys = checked_keys(pairs, f"{PREFIX}API_KEY")
        settings = load(Given(values, backends, keys, "Flask configuration", file))
    faults.refuse()
    return settings


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(f"{PREFIX}{name} is not a mapping by name.")
    return dict(value or {})


def _lower(backends: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping in lower case: the environment of Windows knows no other than upper."""
    return {
        str(name).lower(): {str(k).lower(): v for k, v in entry.items()}
        if isinstance(entry, Mapping)
        else entry
        for name, entry in backends.items()
    }
