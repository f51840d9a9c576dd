"""Who may pass: one decision on one parsed path, free of Flask."""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..config.settings import Settings
from ..exceptions import (
    AddressLockedOut,
    AuthenticationRequired,
    InvalidKey,
    RequestRefused,
)
from ..redact.memory import MAX_OBSERVED
from ..redact.redactor import is_credential
from .advice import about_key
from .client_address import Clients, received_header
from .credentials import KeyRing, Malformed, find_key, query_keys, tokens_in
from .ledger import Policy
from .local_access import LocalAccess
from .lockout import Lockout

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/healthz", "/readyz", "/docs", "/openapi.json"})
_READING = ("GET", "HEAD")

MAX_CREDENTIALS = 16
"""Credentials of one request that are remembered, so that they are masked wherever they stand."""

_SESSION = 12
"""Characters from which on a cookie is taken for a session rather than a preference."""

_COOKIE = re.compile(rf"(?:^|;)([^;]{{{_SESSION},}})")
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_SAFE_IN_PATH = "/:@!$&'()*+,;=-._~"


@dataclass
class RequestInfo:
    """What is known of a request; the access log and the proxy read it.

    :param path: raw, without the mount point; the one path on which everything is decided
    :param client: the client's address
    :param key_name: of the key that it showed
    :param public: it needs no key
    :param decided: whether it is let in has been decided, and never is again
    :param admitted: it was let in, and may be forwarded
    :param refusal: the answer, if it is not let in
    """

    id: str
    path: str
    query: str
    client: str
    started: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    own_credentials: bool = False
    public: bool = False
    admitted: bool = False
    preflight: bool = False
    backend: str | None = None
    error: str | None = None
    decided: bool = False
    refusal: RequestRefused | None = None

    def refuse(self, refusal: RequestRefused) -> None:
        """Leave the verdict that the request is not let in."""
        self.refusal = refusal_headers(refusal.with_traceback(None), self)
        self.decided = True


def raw_target(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return a request's raw path, from the application's root on, and its raw query.

    PEP 3333 knows only the decoded path; waitress and gunicorn give the request target as
    ``REQUEST_URI`` or ``RAW_URI``. It may be in absolute form (RFC 9112 §3.2.2), whose host is
    not ours to judge.
    """
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not target:
        path = quote(environ.get("PATH_INFO", "").encode("latin-1"), safe=_SAFE_IN_PATH)
        return path or "/", environ.get("QUERY_STRING", "")
    if not target.startswith("/"):
        target = _ABSOLUTE_FORM.sub("", target, count=1)
    path, _, query = target.partition("?")
    return path.removeprefix(raw_mount(environ)) or "/", query


def raw_mount(environ: Mapping[str, Any]) -> str:
    """Return the path under which the application is mounted, as it stands in URLs."""
    mount = environ.get("SCRIPT_NAME")
    return quote(mount.encode("latin-1"), safe=_SAFE_IN_PATH) if mount else ""


def header_getter(environ: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Return a function that gives a header's value by its lower-case name."""
    return lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"))


class Guard:
    """Decides about requests.

    :param settings: the effective settings
    :raises ConfigurationError: when the store of failed attempts cannot be reached
    """

    def __init__(self, settings: Settings) -> None:
        # An application may hand its environ to another one, which decides for itself.
        self._environ_key = f"llmauth.request.{id(self):x}"
        self.keys = KeyRing(settings.keys)
        self.clients = Clients(
            trusted_proxies=settings.trusted_proxies,
            trusted_ips=settings.trusted_ips,
            ipv6_prefix=settings.ipv6_prefix,
        )
        self.bypass = frozenset(settings.bypass_paths)
        self.enabled = not settings.disable_auth
        self._local_access = LocalAccess(settings, self.clients)
        self.lockout: Lockout | None = None
        if self.enabled and settings.brute_force_enabled:
            policy = Policy(
                max_failed_attempts=settings.max_failed_attempts,
                ttl_seconds=settings.ttl_seconds,
                initial_block_seconds=settings.initial_block_seconds,
                block_multiplier=settings.block_multiplier,
                max_block_seconds=settings.max_block_seconds,
            )
            secret = "\n".join(sorted(key for _, key in settings.keys)).encode()
            self.lockout = Lockout(policy, settings.storage_uri, secret)
        self._warned_of_proxy = False

    def info(self, environ: dict[str, Any]) -> RequestInfo:
        """Return what is known of the request, parsed once."""
        info: RequestInfo | None = environ.get(self._environ_key)
        if info is None:
            path, query = raw_target(environ)
            peer = environ.get("REMOTE_ADDR")
            forwarded = received_header(environ, "X_FORWARDED_FOR")
            if not self._warned_of_proxy:
                self._warn_of_proxy(peer, forwarded)
            client = self.clients.address(peer, forwarded)
            info = environ[self._environ_key] = RequestInfo(new_id(), path, query, client)
        return info

    def is_public(
        self,
        info: RequestInfo,
        environ: Mapping[str, Any],
        *,
        pages: bool,
        any_method: bool = False,
    ) -> bool:
        """True for a request that needs no key.

        :param pages: the application serves the local public pages
        :param any_method: a bypass path is a view of the host application, which is not forwarded
        """
        path = info.path
        if environ.get("PATH_INFO") != path:
            return False  # Not a plain path, or another one than will be served.
        reads = environ["REQUEST_METHOD"] in _READING
        bypassed = path in self.bypass and (reads or any_method)
        return bypassed or (pages and reads and path in PUBLIC_PATHS)

    def admit(
        self,
        info: RequestInfo,
        environ: Mapping[str, Any],
        *,
        open: bool,
        forwards: bool,
        observe: Callable[..., None],
    ) -> None:
        """Decide once whether a request is let in, and leave the verdict on what is known of it.

        :param open: it needs no key: a public page, or a browser's preflight
        :param forwards: what is open may be forwarded
        :param observe: is told every credential that the request carries
        """
        if info.decided:
            return
        try:
            if not open:
                self.check(info, environ, observe)
            info.admitted = forwards or not open
        except RequestRefused as refusal:
            info.refuse(refusal)
        info.decided = True

    def may_wait(self, info: RequestInfo) -> bool:
        """True when :meth:`check` may have to wait for a shared store."""
        if self.lockout is None or not self.lockout.waits:
            return False
        address = self.clients.counted_as(info.client)
        return address is None or not self.lockout.knows_blocked(address)

    def check_lockout(self, info: RequestInfo) -> None:
        """Refuse a request from an address that is locked out.

        :raises AddressLockedOut: with the seconds until the block ends
        """
        if self.lockout is None:
            return
        address = self.clients.counted_as(info.client)
        if address is not None and (seconds := self.lockout.blocked(address)) is not None:
            raise AddressLockedOut(seconds)

    def check(
        self, info: RequestInfo, environ: Mapping[str, Any], observe: Callable[..., None]
    ) -> None:
        """Let the request pass or refuse it.

        :param observe: is told every credential that the request carries
        :raises RequestRefused: the answer for the client
        """
        if not self.enabled:
            self._local_access.check(environ)
            info.own_credentials = "HTTP_X_PROXY_API_KEY" in environ
            return
        self.check_lockout(info)
        try:
            presented = find_key(header_getter(environ), info.path, info.query)
        except Malformed as malformed:
            # Counted before anything that takes work is done for it.
            if malformed.guesses:
                self._count_failure(info, malformed.guesses)
            observe(*credentials_in(environ, info.query, malformed.guesses))
            raise malformed.refusal from None
        if presented is None:
            raise AuthenticationRequired(
                "This server wants its proxy key, and the request carries none. "
                "Send it as 'Authorization: Bearer <key>'; SDKs take it as their api_key."
            )
        name = self.keys.match(presented.token)
        if name is None:
            self._count_failure(info, [presented.token.decode("latin-1")])
            observe(*credentials_in(environ, info.query))
            raise InvalidKey(about_key(presented.token))
        info.key_name, info.own_credentials = name, presented.own_credentials
        if self.lockout and (address := self.clients.counted_as(info.client)) is not None:
            self.lockout.succeeded(address)

    def _count_failure(self, info: RequestInfo, guesses: Iterable[str]) -> None:
        """Count each different one of what a request sent as keys.

        :raises AddressLockedOut: when it came too late to be told that they are wrong
        """
        if self.lockout is None:
            return
        address = self.clients.counted_as(info.client)
        if address is not None:
            seconds = self.lockout.failed(address, info.client, guesses)
            if seconds is not None:
                raise AddressLockedOut(seconds) from None

    def _warn_of_proxy(self, peer: str | None, forwarded: str | None) -> None:
        if self.clients.forgot_to_trust(peer, forwarded):
            self._warned_of_proxy = True
            logger.warning(
                "requests come from %s with X-Forwarded-For, which is not believed: if this is "
                "your reverse proxy, set TRUSTED_PROXIES=%s, or one client's wrong keys lock "
                "everyone out",
                peer,
                peer,
            )
        elif self.enabled and self.clients.counts_as_one(peer):
            self._warned_of_proxy = True
            logger.warning(
                "requests come through a Unix socket, where clients have no address: all of them "
                "count as one, and one client's wrong keys lock everyone out; if your reverse "
                "proxy sends X-Forwarded-For, set TRUSTED_PROXIES=unix"
            )


def refusal_headers(refusal: RequestRefused, info: RequestInfo) -> RequestRefused:
    """Give the refusal the request's id, and the access log the reason."""
    refusal.request_id = info.id
    info.error = refusal.error_code
    return refusal


def credentials_in(
    environ: Mapping[str, Any], query: str, guesses: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return what in a request is a credential, right or wrong: in headers, cookies, ``key=``.

    At most `MAX_CREDENTIALS` of `MAX_OBSERVED` characters, those first that may be meant as a key.

    :param query: raw
    :param guesses: credentials that are known already
    """
    found: dict[str, None] = {}
    for credential in itertools.chain(guesses, _credentials_in(environ, query)):
        if credential:
            found[credential[:MAX_OBSERVED]] = None
        if len(found) == MAX_CREDENTIALS:
            break
    return tuple(found)


def _credentials_in(environ: Mapping[str, Any], query: str) -> Iterator[str]:
    if "key=" in query:
        yield from query_keys(query)
    names = [key for key in environ if key.startswith("HTTP_") and is_credential(key[5:])]
    lists = [tokens_in(environ[key]) for key in names if key != "HTTP_COOKIE"]
    yield from (next(tokens, "") for tokens in lists)
    yield from itertools.chain.from_iterable(lists)
    for cookie in _COOKIE.finditer(environ.get("HTTP_COOKIE", "")):
        value = cookie[1].partition("=")[2].strip()
        if len(value) >= _SESSION:
            yield value


def new_id() -> str:
    """Return an id for a request that has none."""
    # Not from the system: that call hands Python's lock to another thread. Nothing trusts an id.
    return f"req_{random.getrandbits(96):024x}"  # noqa: S311 # nosec B311
