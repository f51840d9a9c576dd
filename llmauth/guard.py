"""Who may pass: one decision on one parsed path, free of Flask."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .addresses import Clients, on_this_machine
from .credentials import KeyRing, Malformed, find_key, query_keys, tokens_in
from .exceptions import (
    AddressLockedOut,
    AuthenticationRequired,
    ClientRefused,
    InvalidKey,
    RequestRefused,
)
from .guesses import about_key
from .lockout import Lockout, Policy
from .redactor import is_credential
from .settings import Settings

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/healthz", "/readyz", "/docs", "/openapi.json"})
ENVIRON_KEY = "llmauth.request"

_SESSION = 12
"""Characters from which on a cookie is taken for a session rather than a preference."""

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_SAFE_IN_PATH = "/:@!$&'()*+,;=-._~"


@dataclass
class RequestInfo:
    """What is known of a request; the access log and the proxy read it.

    :param path: raw, without the mount point; the one path on which everything is decided
    :param client: the client's address
    :param key_name: of the key that it showed
    :param decided: whether it is let in has been decided, and never is again
    :param refusal: the answer, if it is not
    """

    id: str
    path: str
    query: str
    client: str
    started: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    own_credentials: bool = False
    public: bool = False
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
    mount = environ.get("SCRIPT_NAME")
    if mount:
        path = path.removeprefix(quote(mount.encode("latin-1"), safe=_SAFE_IN_PATH))
    return path or "/", query


def header_getter(environ: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Return a function that gives a header's value by its lower-case name."""
    return lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"))


class Guard:
    """Decides about requests.

    :param settings: the effective settings
    :raises ConfigurationError: when the store of failed attempts cannot be reached
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = KeyRing(settings.keys)
        self.clients = Clients(
            trusted_proxies=settings.trusted_proxies,
            trusted_ips=settings.trusted_ips,
            ipv6_prefix=settings.ipv6_prefix,
        )
        self.bypass = frozenset(settings.bypass_paths)
        self.enabled = not settings.disable_auth
        self._serves_network = self.enabled or settings.allow_unauthenticated_network
        self._shares_store = not settings.storage_uri.startswith("memory:")
        self.lockout: Lockout | None = None
        if self.enabled and settings.brute_force_enabled:
            policy = Policy(
                max_failed_attempts=settings.max_failed_attempts,
                ttl_seconds=settings.ttl_seconds,
                initial_block_seconds=settings.initial_block_seconds,
                block_multiplier=settings.block_multiplier,
                max_block_seconds=settings.max_block_seconds,
            )
            self.lockout = Lockout(policy, settings.storage_uri)
        self._warned_of_proxy = False

    def info(self, environ: dict[str, Any]) -> RequestInfo:
        """Return what is known of the request, parsed once."""
        info: RequestInfo | None = environ.get(ENVIRON_KEY)
        if info is None:
            path, query = raw_target(environ)
            peer = environ.get("REMOTE_ADDR")
            forwarded = environ.get("HTTP_X_FORWARDED_FOR")
            if forwarded and not self._warned_of_proxy:
                self._warn_of_proxy(peer, forwarded)
            client = self.clients.address(peer, forwarded)
            info = environ[ENVIRON_KEY] = RequestInfo(new_id(), path, query, client)
        return info

    def is_public(self, info: RequestInfo, environ: Mapping[str, Any], pages: bool) -> bool:
        """True for a request that needs no key.

        :param pages: the application serves the local public pages
        """
        path = info.path
        if environ.get("PATH_INFO") != path:
            return False  # Not a plain path, or another one than will be served.
        if path in self.bypass:
            return True
        return pages and path in PUBLIC_PATHS and environ["REQUEST_METHOD"] in ("GET", "HEAD")

    def admit(
        self,
        info: RequestInfo,
        environ: Mapping[str, Any],
        *,
        open: bool,
        observe: Callable[..., None],
    ) -> None:
        """Decide once whether a request is let in, and leave the verdict on what is known of it.

        :param open: it needs no key: a public page, or a browser's preflight
        :param observe: is told every credential that the request carries
        """
        if info.decided:
            return
        try:
            if not open:
                self.check(info, environ, observe)
        except RequestRefused as refusal:
            info.refuse(refusal)
        info.decided = True

    def may_wait(self, info: RequestInfo) -> bool:
        """True when :meth:`check` may have to wait for a shared store."""
        if self.lockout is None or not self._shares_store:
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
            # Where another server listens is not known at the start.
            if not self._serves_network and not on_this_machine(info.client):
                raise ClientRefused(
                    "Authentication is off, so this server serves its own machine only, unless "
                    "it is started with ALLOW_UNAUTHENTICATED_NETWORK=true."
                )
            info.own_credentials = "HTTP_X_PROXY_API_KEY" in environ
            return
        self.check_lockout(info)
        try:
            presented = find_key(header_getter(environ), info.path, info.query)
        except Malformed as malformed:
            observe(*malformed.guesses, *credentials_in(environ, info.query))
            if malformed.guesses:
                self._count_failure(info)
            raise malformed.refusal from None
        if presented is None:
            raise AuthenticationRequired(
                "This server wants its proxy key, and the request carries none. "
                "Send it as 'Authorization: Bearer <key>'; SDKs take it as their api_key."
            )
        name = self.keys.match(presented.token)
        if name is None:
            observe(*credentials_in(environ, info.query))
            self._count_failure(info)
            raise InvalidKey(about_key(presented.token))
        info.key_name, info.own_credentials = name, presented.own_credentials
        if self.lockout and (address := self.clients.counted_as(info.client)) is not None:
            self.lockout.succeeded(address)

    def _count_failure(self, info: RequestInfo) -> None:
        if self.lockout is None:
            return
        address = self.clients.counted_as(info.client)
        if address is not None:
            seconds = self.lockout.failed(address, info.client)
            if seconds is not None:
                raise AddressLockedOut(seconds) from None

    def _warn_of_proxy(self, peer: str | None, forwarded: str) -> None:
        if self.clients.forgot_to_trust(peer, forwarded):
            self._warned_of_proxy = True
            logger.warning(
                "requests come from %s with X-Forwarded-For, which is not believed: if this is "
                "your reverse proxy, set TRUSTED_PROXIES=%s, or one client's wrong keys lock "
                "everyone out",
                peer,
                peer,
            )


def refusal_headers(refusal: RequestRefused, info: RequestInfo) -> RequestRefused:
    """Give the refusal the request's id, and the access log the reason."""
    refusal.request_id = info.id
    info.error = refusal.error_code
    return refusal


def credentials_in(environ: Mapping[str, Any], query: str) -> Iterator[str]:
    """Yield whatever in a request is a credential, right or wrong: in headers, cookies, ``key=``.

    :param query: raw
    """
    for key, value in environ.items():
        if key.startswith("HTTP_") and is_credential(key[5:]):
            if key == "HTTP_COOKIE":
                cookies = (pair.partition("=")[2].strip() for pair in value.split(";"))
                yield from (cookie for cookie in cookies if len(cookie) >= _SESSION)
            else:
                yield from tokens_in(value)
    if "key=" in query:
        yield from query_keys(query)


def new_id() -> str:
    """Return an id for a request that has none."""
    # Not from the system: that call hands Python's lock to another thread. Nothing trusts an id.
    return f"req_{random.getrandbits(96):024x}"  # noqa: S311 # nosec B311
