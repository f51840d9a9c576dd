"""``llmauth check``: does the store answer, and do the backends."""

from __future__ import annotations

from collections.abc import Callable

from .backends import Backend
from .exceptions import ConfigurationError, RequestRefused
from .keys import weakness
from .settings import BackendSettings, Settings
from .stores import open_store
from .upstream import Outgoing, UpstreamBroke, open_upstream
from .uris import masked_uri

CHECK_SECONDS = 10.0
"""How long a backend may take to list its models."""


def run_checks(settings: Settings, say: Callable[[str], None]) -> bool:
    """Try the store and every backend that is configured; return whether all is well.

    A built-in backend without a key is mentioned, and is no failure.
    """
    good = _check_store(settings, say)
    for name, key in settings.keys:
        if reason := weakness(key):
            say(f"key {name}: weak ({reason}); make a strong one with 'llmauth keygen'")
    for name, backend in settings.backends.items():
        given = f"backends.{name}.base_url" in settings.origins or backend.api_key
        wanted = bool(given) or name == settings.default_backend
        fine, verdict = _check_backend(backend, wanted)
        say(f"backend {name}: {verdict}")
        good = good and (fine or not wanted)
    return good


def _check_store(settings: Settings, say: Callable[[str], None]) -> bool:
    try:
        open_store(settings.storage_uri)
    except ConfigurationError as exc:
        say(f"store: {exc}")
        return False
    say(f"store {masked_uri(settings.storage_uri)}: ok")
    return True


def _check_backend(settings: BackendSettings, wanted: bool) -> tuple[bool, str]:
    """Ask for the list of models, which costs nothing."""
    if not wanted and settings.base_url != "echo:":
        return True, "not configured"
    backend = Backend(settings)
    headers = {"Accept": "application/json"}
    if settings.name == "anthropic":
        headers["Anthropic-Version"] = "2023-06-01"
    backend.add_key(headers)
    upstream = open_upstream(backend, 1)
    try:
        incoming = upstream.send(Outgoing("GET", backend.target("/models"), headers), lambda: False)
        try:
            for _ in incoming.chunks():
                pass
        finally:
            incoming.close()
    except RequestRefused as exc:
        return False, str(exc.description)
    except UpstreamBroke:
        return False, "it broke off in the middle of its answer"
    finally:
        upstream.close()
    return _verdict(incoming.status, settings)


def _verdict(status: int, settings: BackendSettings) -> tuple[bool, str]:
    if status in (401, 403):
        if settings.api_key:
            return False, f"answers, but refuses the key in {settings.api_key_env} ({status})"
        return False, f"answers, and wants a key: set {settings.api_key_env}"
    if status >= 500:
        return False, f"answers with an error of its own ({status})"
    if status >= 400:
        return True, f"answers ({status} for the list of models, which it may not have)"
    return True, "ok" if settings.api_key or settings.auth == "none" else "ok, without a key"
