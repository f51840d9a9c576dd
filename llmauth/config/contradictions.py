"""Settings that are right by themselves and not together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..providers.table import PROVIDERS
from ..redact.uris import uri_secrets
from .addresses import parse_address
from .backends import BASE_URL_SUFFIX, variable_of
from .names import nearest
from .values import UNIX_PREFIX


def contradictions(settings: Any) -> Iterator[str]:
    """Yield what is wrong with settings that contradict each other.

    :param settings: a :class:`.settings.Settings`, which asks this of itself
    """

    def origin(attribute: str) -> str:
        return str(settings.origins[attribute])

    if settings.max_block_seconds < settings.initial_block_seconds:
        yield (
            f"max_block_seconds ({settings.max_block_seconds}, {origin('max_block_seconds')}) is "
            f"shorter than initial_block_seconds ({settings.initial_block_seconds}, "
            f"{origin('initial_block_seconds')})."
        )
    if settings.default_backend not in settings.backends:
        yield (
            f"default_backend ({origin('default_backend')}): "
            + _about_missing_backend(settings.default_backend, settings.backends)
        )
    yield from _shared_keys(settings)
    for backend in settings.backends.values():
        carrier = "authorization" if backend.auth == "bearer" else backend.auth
        if backend.api_key and carrier in backend.headers:
            yield (
                f"backends.{backend.name}.headers ({origin(f'backends.{backend.name}.headers')}): "
                f"'{carrier}' carries the key in {backend.api_key_env} (auth: {backend.auth}). "
                "Leave out one of them, or set auth to none."
            )
    if not settings.disable_auth:
        return
    if not settings.allow_unauthenticated_network and not is_loopback(settings.host):
        yield (
            f"disable_auth ({origin('disable_auth')}): others can reach {settings.host} "
            f"({origin('host')}), and nobody would need a key. Listen on 127.0.0.1, "
            f"or add {_allowed_by(origin('disable_auth'))} if this is what you want."
        )
    if "*" in settings.cors_origins:
        yield (
            f"cors_origins ({origin('cors_origins')}): authentication is off "
            f"({origin('disable_auth')}), and '*' would let every page that somebody here opens "
            "use this server. Name the origins."
        )


def _shared_keys(settings: Any) -> Iterator[str]:
    """Yield what is wrong with a proxy key that is a provider's: it would be handed on."""
    names = {key: name for name, key in settings.keys}
    for backend in settings.backends.values():
        source = backend.key_source
        variable = source.variable if source else backend.api_key_env
        held = [(backend.api_key or "", variable)]
        held += [(one, f"{backend.name}'s base_url") for one in uri_secrets(backend.base_url)]
        held += [(one, f"{backend.name}'s headers") for one in backend.header_secrets]
        for secret, where in held:
            if name := names.get(secret):
                yield (
                    f"{where} holds the proxy key '{name}', and a provider's key must be another: "
                    "whoever uses this server would have it. Make a proxy key with "
                    "'llmauth keygen'."
                )


def is_loopback(host: str) -> bool:
    """True when only this machine can reach the address, or the Unix socket."""
    if host.startswith(UNIX_PREFIX):
        return True
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _allowed_by(origin: str) -> str:
    """Return the setting that allows it, as whoever switched authentication off would say it."""
    name = "allow_unauthenticated_network"
    if origin.startswith("flag "):
        return "--allow-unauthenticated-network"
    if origin.startswith("environment "):
        return f"{name.upper()}=true"
    if origin.startswith("Flask "):
        return f"LLMAUTH_{name.upper()}"
    return f"auth.{name}: true" if origin.endswith(": auth.disable_auth") else f"{name}=True"


def _about_missing_backend(name: str, there: Iterable[str]) -> str:
    """Say what makes a backend of this name, or which one was meant."""
    if name in PROVIDERS:
        variable = variable_of(name) + BASE_URL_SUFFIX
        return f"the backend '{name}' has no base URL. Set {variable}."
    if "://" in name:
        return (
            f"'{name}' is a URL. Name a backend, such as local, and set "
            f"LOCAL{BASE_URL_SUFFIX} to its URL."
        )
    variable = variable_of(re.sub(r"[^A-Za-z0-9]+", "-", name)) + BASE_URL_SUFFIX
    known = dict.fromkeys([*there, *PROVIDERS])
    question = nearest(name.lower().replace("_", "-"), known)
    return (
        f"there is no backend '{name}'.{question} {variable} makes one of that name. "
        f"There are: {', '.join(there)}."
    )
