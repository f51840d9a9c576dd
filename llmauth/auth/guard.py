"""Who may pass: one decision on one parsed path, free of Flask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..config.settings import Settings
from ..exceptions import (
    NO_FORWARD_PROXY,
    AddressLockedOut,
    AuthenticationRequired,
    InvalidKey,
    KeyWithdrawn,
    RequestRefused,
)
from .advice import about_key
from .client_address import Clients
from .credentials import BadCredentials, KeyRing, Presented, credentials_in, find_key
from .ledger import Policy
from .local_access import LocalAccess
from .lockout import Lockout
from .request import RequestInfo, header_getter, new_id, raw_target, received_header

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({
    "/health", "/healthz", "/livez", "/readyz", "/docs", "/dashboard", "/openapi.json",
})  # fmt: skip
_READING = ("GET", "HEAD")


class StoredKeys(Protocol):
    """Keys that are kept elsewhere, and may have been withdrawn."""

    def name_of(self, token: bytes) -> str | None:
        """Return the name of the key that a token is, in whatever state."""

    def admit(self, token: bytes, client: str) -> Any:
        """Return what is known of a key that may be used, None of one that is not kept here.

        :raises RequestRefused: when it may not
        """


class Guard:
    """Decides about requests.

    :param settings: the effective settings
    :param stored: keys beside those of the settings
    :raises ConfigurationError: when the store of failed attempts cannot be reached
    """

    def __init__(self, settings: Settings, stored: StoredKeys | None = None) -> None:
        # An application may hand its environ to another one, which decides for itself.
        self._environ_key = f"llmauth.request.{id(self):x}"
        self._stored = stored
        self.keys = KeyRing(settings.keys, stored.name_of) if stored else KeyRing(settings.keys)
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
        method = environ["REQUEST_METHOD"]
        reads = method in _READING
        if path in self.bypass and (reads or any_method):
            return True
        # Load balancers ask so whether a server is there: HAProxy for / or *, if not told what, and
        # without any header. With an origin it is a page's question, which CORS answers.
        asks = method == "OPTIONS" and "HTTP_ORIGIN" not in environ
        known = path in PUBLIC_PATHS or (path == "/" and asks and "HTTP_ACCEPT" not in environ)
        return pages and (reads or asks) and known

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

        What is open comes first; then :meth:`check` asks for the lockout, and at last for the key.

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
        return address is not None and not self.lockout.knows_blocked(address)

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
        address = self.clients.counted_as(info.client) if self.lockout else None
        self._refuse_locked_out(address)
        try:
            presented = self._recognized(info, environ)
        except BadCredentials as bad:
            # Counted before anything that takes work is done for it.
            self._count_failure(address, info.client, bad.guesses)
            observe(*credentials_in(environ, info.query, bad.guesses))
            raise bad.refusal from None
        info.own_credentials = presented.own_credentials
        if self._stored:  # a key that may not be used is a known one, and no guess
            info.account = self._stored.admit(presented.token, info.client)
        self._note_right_key(address)

    def _recognized(self, info: RequestInfo, environ: Mapping[str, Any]) -> Presented:
        """Return the key that a request carries, and note its name.

        :raises AuthenticationRequired: when it carries none
        :raises BadCredentials: when it is none of ours
        """
        presented = find_key(header_getter(environ), info.path, info.query, self.keys)
        if presented is None:
            raise AuthenticationRequired(
                "This server wants its proxy key, and the request carries none. "
                "Send it as 'Authorization: Bearer <key>'; SDKs take it as their api_key."
                + (f" {NO_FORWARD_PROXY}" if _is_for_a_proxy(environ) else "")
            )
        name = self.keys.match(presented.token)
        if name is None:
            self._refuse_withdrawn(info, presented.token)
            guess = presented.token.decode("latin-1")
            raise BadCredentials(InvalidKey(about_key(presented.token)), guess)
        info.key_name, info.key = name, presented.token.decode("latin-1")
        return presented

    def _refuse_withdrawn(self, info: RequestInfo, token: bytes) -> None:
        """Refuse a key that was withdrawn from its file: whoever sends it has not heard of it yet.

        :raises BadCredentials: without a guess
        """
        if withdrawn := self.keys.withdrawn(token):
            info.key_name = withdrawn.name
            if withdrawn.is_to_be_told():
                logger.warning(
                    "the key '%s' was withdrawn, and %s still sends it",
                    withdrawn.name,
                    info.client,
                )
            raise BadCredentials(KeyWithdrawn())

    def _refuse_locked_out(self, address: str | None) -> None:
        """Refuse whoever is locked out, even with the right key.

        :raises AddressLockedOut: with the seconds until the block ends
        """
        if self.lockout and address is not None:
            seconds = self.lockout.blocked(address)
            if seconds is not None:
                raise AddressLockedOut(seconds)

    def _count_failure(self, address: str | None, client: str, guesses: Iterable[str]) -> None:
        """Count each different one of what a request sent as keys, but for withdrawn ones.

        :raises AddressLockedOut: when it came too late to be told that they are wrong
        """
        if self.lockout and address is not None:
            guesses = [one for one in guesses if not self._was_withdrawn(one)]
            seconds = self.lockout.failed(address, client, guesses)
            if seconds is not None:
                raise AddressLockedOut(seconds) from None

    def _was_withdrawn(self, guess: str) -> bool:
        return self.keys.withdrawn(guess.encode("latin-1", "replace")) is not None

    def _note_right_key(self, address: str | None) -> None:
        if self.lockout and address is not None:
            self.lockout.succeeded(address)

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


def _is_for_a_proxy(environ: Mapping[str, Any]) -> bool:
    """True for a request as forward proxies get it: for another host, whose URL it names."""
    if (
        environ["REQUEST_METHOD"] == "CONNECT"
        or "HTTP_PROXY_CONNECTION" in environ
        or "HTTP_PROXY_AUTHORIZATION" in environ
    ):
        return True
    target: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or "/"
    return not target.startswith(("/", "*"))
