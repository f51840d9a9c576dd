"""Who the client is: behind trusted proxies, and as what it is counted."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from ..config.addresses import REMEMBERED, UNIX, Address, Network, parse_address

UNKNOWN = "unknown"
"""Stands for a peer without an address: that of a Unix socket."""

_UNIX_HOP = "unix:"
"""What nginx writes into ``X-Forwarded-For`` for a peer of its own Unix socket."""

_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
"""Of a site, RFC 8215; mostly a /96 of it."""

_ENDING_IN_IPV4 = (
    ip_network("64:ff9b::/96"),  # NAT64, RFC 6052
    _LOCAL_NAT64,
    ip_network("::ffff:0:0:0/96"),  # translated without state, RFC 7915
    ip_network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1
)


class Clients:
    """Tells clients apart.

    An IPv4 address inside an IPv6 one matters for counting only. It makes nobody trusted: whether a
    translator is at work there, or somebody who chose his address well, cannot be seen from here.
    (An IPv4-mapped one is not inside another: the socket writes IPv4 peers so.)

    :param trusted_proxies: networks of the reverse proxies whose ``X-Forwarded-For`` is believed,
        and ``unix`` for those that come through a Unix socket
    :param trusted_ips: networks that are never locked out
    :param ipv6_prefix: length of the network by which an IPv6 client is counted, in bits
    """

    def __init__(
        self,
        *,
        trusted_proxies: Iterable[Network | str] = (),
        trusted_ips: Iterable[Network] = (),
        ipv6_prefix: int = 64,
    ) -> None:
        trusted = tuple(trusted_proxies)
        self._proxies = tuple(one for one in trusted if not isinstance(one, str))
        self._trusts_unix = UNIX in trusted
        self._exempt = tuple(trusted_ips)
        self._prefix = ipv6_prefix
        self.counted_as = functools.lru_cache(REMEMBERED)(self._counted_as)

    def address(self, peer: str | None, forwarded_for: str | None) -> str:
        """Return the client's address.

        ``X-Forwarded-For`` counts only when the peer is a trusted proxy, and is read from the
        right past trusted addresses: everything left of the first untrusted one is the client's
        own invention. An entry that is no address ends the reading.
        """
        client, _ = self._read(peer, forwarded_for)
        return str(client) if client else UNKNOWN

    def is_local(self, peer: str | None, forwarded_for: str | None, *, forwarded: bool) -> bool:
        """True for a client on this machine: with a loopback address, or on a Unix socket.

        :param forwarded: the request has forwarding headers, of whatever kind: only a trusted proxy
            can say that its client is on this machine
        """
        client, readable = self._read(peer, forwarded_for)
        if forwarded and not (forwarded_for and readable and self.trusts(peer)):
            return False
        return client is None or client.is_loopback

    def trusts(self, peer: str | None) -> bool:
        """True for a reverse proxy whose forwarding headers are believed."""
        return self._is_proxy(parse_address(peer) if peer else None)

    def counts_as_one(self, peer: str | None) -> bool:
        """True for a peer of a Unix socket that is not trusted to tell its clients apart."""
        return not self._trusts_unix and (not peer or parse_address(peer) is None)

    def forgot_to_trust(self, peer: str | None, forwarded_for: str | None) -> bool:
        """True for a private peer that sends ``X-Forwarded-For`` while no proxy is trusted."""
        if not forwarded_for or self._proxies or peer is None:
            return False
        address = parse_address(peer)
        return address is not None and (address.is_private or address.is_loopback)

    def _counted_as(self, client: str) -> str | None:
        """Return the name under which failures are counted, None when they never are."""
        address = parse_address(client)
        if address is None:
            return client
        if _within(address, self._exempt):
            return None
        if isinstance(address, IPv6Address):
            address = _embedded_ipv4(address) or address
        if isinstance(address, IPv6Address) and self._prefix < 128:
            return str(IPv6Network((address, self._prefix), strict=False))
        return str(address)

    def _read(self, peer: str | None, forwarded_for: str | None) -> tuple[Address | None, bool]:
        """Return the client, None on a Unix socket, and whether all trusted entries were read."""
        client = parse_address(peer) if peer else None
        for entry in reversed(forwarded_for.split(",")) if forwarded_for else ():
            if not self._is_proxy(client):
                break
            hop = parse_address(entry)
            if hop is None and not (self._trusts_unix and entry.strip() == _UNIX_HOP):
                return client, False
            client = hop
        return client, True

    def _is_proxy(self, address: Address | None) -> bool:
        return self._trusts_unix if address is None else _within(address, self._proxies)


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address of the host that an address of a transition technique stands for.

    All hosts behind a translator or a Teredo server share one /64, and a host with 6to4 has 65,536.
    """
    if address.teredo:
        return address.teredo[1]
    if address.sixtofour:
        return address.sixtofour
    if not any(address in network for network in _ENDING_IN_IPV4):
        return None
    bits = int(address)
    host = bits & 0xFFFF_FFFF
    if host & 0xFF_FFFF == 0 and address in _LOCAL_NAT64:
        # RFC 6052 section 2.2: behind 48, 56 or 64 bits, around octet 8, and then zeros.
        joined = bits >> 64 << 56 | bits & (1 << 56) - 1
        rests = (rest for rest in (40, 32, 24) if joined & (1 << rest) - 1 == 0)
        host = joined >> next(rests) & 0xFFFF_FFFF
    # Below 0.1.0.0 are no hosts, but the loopback and the network of "::".
    return IPv4Address(host) if host > 0xFFFF else None


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
