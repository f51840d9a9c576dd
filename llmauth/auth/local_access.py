"""Who may come in while authentication is off: programs of this machine, and no web page.

A page that somebody opens can have the browser send requests to ``localhost``: as ``text/plain``
without asking first, or to a name of its own that it lets point here (DNS rebinding). What a
browser says of itself (``Origin``, ``Sec-Fetch-Site``, ``Host``) a page cannot change.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

from ..config.addresses import parse_address
from ..config.settings import Settings
from ..exceptions import ClientRefused, OriginRefused
from .client_address import Clients
from .request import received_header, received_names

_FORWARDING = re.compile(
    r"\w*FORWARDED\w*|VIA|CDN_LOOP|(?:CF|X_ENVOY|X_ARR|TAILSCALE)_\w+"
    r"|X_ORIGINAL_(?:FOR|HOST|PROTO|UR[IL])|(?:\w+_)?(?:CLIENT|SOCKET)?IP|(?:\w+_)?ADDR(?:ESS)?"
)
"""Headers that reverse proxies, tunnels and CDNs add, by their names in a WSGI environ."""

_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE_FORM = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)

_OWN_NAMES = re.compile(r"(?:.+\.)?localhost|host(?:\.[a-z]+)?\.internal")
"""Names that cannot be made to point elsewhere: RFC 6761 §6.3, and those by which containers reach
the machine that they run on (``host.docker.internal``)."""

_PRIVATE_NAMES = re.compile(r"[^.]+|.+\.(?:local|internal|lan|svc|home\.arpa)")
"""Names of private networks, which the public DNS does not have, so that no page can be under one:
without a dot, of multicast DNS (RFC 6762), of Kubernetes and of home routers (RFC 8375)."""


class LocalAccess:
    """Lets in who is on this machine, or on the network if that is wanted, without a key.

    :param settings: the effective settings
    :param clients: knows which proxies are trusted
    """

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._clients = clients
        self._network = settings.allow_unauthenticated_network
        self._origins = frozenset(settings.cors_origins)
        # With its port: whoever can forge plain HTTP has pages at the other ports of a name.
        named = map(_ABSOLUTE_FORM.match, self._origins)
        self._authorities = frozenset(origin[1] for origin in named if origin)
        self._names = frozenset({settings.host.lower(), socket.gethostname().lower()})

    def check(self, environ: Mapping[str, Any]) -> None:
        """Let the request pass or refuse it.

        :raises RequestRefused: the answer for the client
        """
        if not self._network:
            self._check_client(environ)
        self._check_hosts(environ)
        self._check_page(environ)

    def _check_client(self, environ: Mapping[str, Any]) -> None:
        # Where another server than ours listens is not known at the start.
        forwarded = _is_forwarded(environ)
        peer = environ.get("REMOTE_ADDR")
        forwarded_for = received_header(environ, "X_FORWARDED_FOR")
        if self._clients.is_local(peer, forwarded_for, forwarded=forwarded):
            return
        advice = ""
        if forwarded and not self._clients.trusts(peer):
            advice = (
                "This request came through a proxy that is not trusted to say who its client is: "
                "name it in TRUSTED_PROXIES. "
            )
        raise ClientRefused(
            f"Authentication is off, so this server serves its own machine only. {advice}"
            "It serves others if it is started with ALLOW_UNAUTHENTICATED_NETWORK=true."
        )

    def _check_hosts(self, environ: Mapping[str, Any]) -> None:
        for authority in _authorities(environ):
            if not self._is_own(authority):
                raise ClientRefused(
                    "Authentication is off, and the request was sent to a name that is not known "
                    "to be this server's: a web page could have let it point here. Use an IP "
                    "address or 'localhost', or add the address, such as "
                    "http://llm.example.com:8000, to CORS_ORIGINS."
                )

    def _is_own(self, authority: str) -> bool:
        parts = _AUTHORITY.fullmatch(authority)
        if not parts:
            return False
        host = parts[1].lower().removesuffix(".")
        if host in self._names or authority.lower() in self._authorities:
            return True
        if _OWN_NAMES.fullmatch(host):
            return True
        address = parse_address(host)
        if self._network:  # a page that is under an address came from there
            return address is not None or _PRIVATE_NAMES.fullmatch(host) is not None
        return address is not None and (address.is_loopback or address.is_unspecified)

    def _check_page(self, environ: Mapping[str, Any]) -> None:
        """Refuse web pages of another origin that was not named."""
        origin = environ.get("HTTP_ORIGIN")
        if origin in self._origins:
            return
        own = {
            f"{scheme}://{authority.lower()}"
            for scheme in ("http", "https")
            for authority in _authorities(environ)
        }
        site = environ.get("HTTP_SEC_FETCH_SITE", "none")
        if site not in ("none", "same-origin") or (origin is not None and origin not in own):
            raise OriginRefused(origin)


def _is_forwarded(environ: Mapping[str, Any]) -> bool:
    """True for a request that a proxy passed on, other than a server like this one.

    That one has asked for a key itself, or has looked where its client is.
    """
    names = received_names(environ)
    last_hop = environ.get("HTTP_VIA", "").rpartition(",")[2].split()
    if len(last_hop) == 2 and last_hop[1].startswith("llmauth-"):
        names.discard("VIA")
    return any(map(_FORWARDING.fullmatch, names))


def _authorities(environ: Mapping[str, Any]) -> list[str]:
    """Return where the request says that it was sent to: host and port, each as it was written."""
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    absolute = _ABSOLUTE_FORM.match(target)  # counts in place of Host (RFC 9112 §3.2.2)
    said = (
        environ.get("HTTP_HOST"),
        received_header(environ, "X_FORWARDED_HOST"),
        absolute[1] if absolute else None,
    )
    return [authority for authority in said if authority]
