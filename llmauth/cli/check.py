"""``llmauth check``: does the store answer, and do the backends."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..accounts.accounts import Accounts
from ..accounts.prices import NO_PRICES, Prices
from ..accounts.store import explained
from ..auth.stores import open_store
from ..config.notices import about_settings
from ..config.settings import BackendSettings, Settings
from ..exceptions import ConfigurationError, RequestRefused
from ..providers.backend import Backend
from ..providers.base_url import fault_of
from ..proxy.failures import remedy
from ..proxy.upstream import Incoming, Outgoing, UpstreamBroke, open_upstream
from .key_table import counted

CHECK_SECONDS = 10.0
"""How long a backend may take to connect, and to begin its list of models."""

_READ_CHUNKS = 16
_OF_A_KEY = re.compile(rb"(?i)api.?key")


def run_checks(settings: Settings, say: Callable[[str], None]) -> bool:
    """Try the store and every backend that is configured; return whether all is well.

    A built-in backend without a key is mentioned, and is no failure; neither is a warning.

    :param say: takes lines in which secrets are not masked yet: faults, warnings, and the rest
    """
    tried = [b for b in settings.backends.values() if settings.uses(b) or b.base_url == "echo:"]
    with ThreadPoolExecutor(len(tried)) as pool:
        verdicts = pool.map(_check_backend, tried)
        findings = [_check_store(settings), *_check_database(settings), *_check_files(settings)]
        findings += [
            (fine, f"backend {backend.name}: {said}")
            for backend, (fine, said) in zip(tried, verdicts, strict=True)
        ]
    warnings = [f"warning: {one}" for one in (*settings.notices, *about_settings(settings))]
    wrong = [said for fine, said in findings if not fine]
    for line in (*wrong, *warnings, *(said for fine, said in findings if fine)):
        say(line)
    others = ", ".join(name for name, b in settings.backends.items() if b not in tried)
    if others:
        say(f"not configured: {others}")
    return not wrong


def _check_store(settings: Settings) -> tuple[bool, str]:
    try:
        open_store(settings.storage_uri)
    except ConfigurationError as exc:
        return False, f"store: {exc}"
    return True, f"store {settings.storage_uri}: ok"


def _check_database(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Look at the database as the server will; a new one is not made."""
    if settings.database is None:
        return
    path = Path(settings.database)
    try:
        with explained(path):
            is_there = path.exists()
    except ConfigurationError as exc:
        yield False, f"database: {exc}"
        return
    if not is_there:
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            yield False, f"database: {path} cannot be made: is there such a folder, to write to?"
        elif settings.keys or settings.disable_auth:
            yield True, f"database {path}: ok, it is made at the start"
        else:
            yield False, f"database: {path} is not there yet: make a key, 'llmauth keys add NAME'"
        return
    try:
        accounts = Accounts(
            path,
            reserved=[name for name, _ in settings.keys],
            prices=Prices(settings.prices),
        )
    except ConfigurationError as exc:
        yield False, f"database: {exc}"
        return
    with contextlib.closing(accounts):
        damage = accounts.database.damage()
        stored = accounts.directory.keys
        if damage:
            yield False, f"database: {path} is damaged ({damage}). Restore a backup"
        elif not (stored or settings.keys or settings.disable_auth):
            yield False, f"database: there is no key in {path} yet: 'llmauth keys add NAME'"
        else:
            yield True, f"database {path}: ok, {counted(stored.values())}"
            if accounts.lacks_prices:
                yield True, f"prices: {NO_PRICES[0].lower()}{NO_PRICES[1:]}"


def _check_files(settings: Settings) -> Iterator[tuple[bool, str]]:
    for what, name in (("log", settings.log_file), ("capture", settings.capture_file)):
        if name is None:
            continue
        file = Path(name)
        written = file if file.exists() else file.parent
        if not written.exists():
            yield False, f"{what}: {file} cannot be written: there is no folder {written}"
        elif file.is_dir() or not os.access(written, os.W_OK):
            yield False, f"{what}: {file} cannot be written"


def _check_backend(settings: BackendSettings) -> tuple[bool, str]:
    """Ask for something that costs nothing, as the list of models does."""
    settings = replace(
        settings,
        connect_timeout=min(settings.connect_timeout, CHECK_SECONDS),
        first_byte_timeout=min(settings.first_byte_timeout, CHECK_SECONDS),
        read_timeout=min(settings.read_timeout, CHECK_SECONDS),
    )
    if fault := fault_of(settings.base_url):
        return False, fault
    backend = Backend(settings)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    headers |= backend.provider.check_headers
    target = backend.target(backend.provider.check_path)
    backend.add_key(headers, target)
    headers |= backend.headers
    upstream = open_upstream(backend, 1)
    try:
        incoming = upstream.send(Outgoing("GET", target, headers), lambda: False)
        try:
            body = b"".join(islice(incoming.chunks(), _READ_CHUNKS))
        finally:
            incoming.close()
    except RequestRefused as exc:
        advice = remedy(exc.__cause__) if exc.__cause__ else ""
        return False, f"{exc.description} {advice}".rstrip()
    except UpstreamBroke:
        return False, "it broke off in the middle of its answer"
    finally:
        upstream.close()
    return _verdict(incoming, body, settings)


def _verdict(incoming: Incoming, body: bytes, settings: BackendSettings) -> tuple[bool, str]:
    status, variable = incoming.status, settings.api_key_env
    # Google and xAI answer 400 to a wrong key.
    if status in (401, 403) or (status == 400 and _OF_A_KEY.search(body)):
        if settings.api_key:
            return False, f"answers, but refuses the key in {variable} ({status})"
        return False, f"answers, and wants a key: set {variable}"
    if status == 400 and b"HTTPS" in body:
        return False, "speaks TLS at this port: the base URL must begin with https://"
    if 300 <= status < 400:
        return False, f"redirects ({status}): is the base URL the right one, and https:// or http://?"
    if status == 429:
        return True, "answers, and is tired of requests (429)"
    if status >= 500:
        return False, f"answers with an error of its own ({status})"
    if status >= 400:
        return True, f"answers ({status} for the list of models, which it may not have)"
    if not body.lstrip().startswith((b"{", b"[")):
        return False, "answers, but not with JSON: is the base URL that of an API?"
    return True, "ok" if settings.api_key or settings.auth == "none" else "ok, without a key"
