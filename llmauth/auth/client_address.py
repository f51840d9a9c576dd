"""Who the client is: behind trusted proxies, and as what it is counted."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNKNOWN = "unknown"
"""Stands for a peer without an address: that of a Unix socket."""

UNIX = "unix"
"""Among the trusted proxies: the peers of a Unix socket. WSGI servers name them ``localhost``
(waitress), the empty string (gunicorn, granian), a path, or not at all (gevent)."""

_UNIX_HOP = "unix:"
"""What nginx writes into ``X-Forwarded-For`` for a peer of its own Unix socket."""

_CACHED_ADDRESSES = 4096
_LONGEST = 64
"""Characters of an address with brackets, zone and port; what is longer is none, and is not to be
remembered as that."""

_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
"""Of a site, RFC 8215; mostly a /96 of it."""

_ENDING_IN_IPV4 = (
    ip_network("64:ff9b::/96"),  # NAT64, RFC 6052
    _LOCAL_NAT64,
    ip_network("::ffff:0:0:0/96"),  # translated without state, RFC 7915
    ip_network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1
)


def parse_network(value: str) -> Network:
    """Parse ``10.0.0.0/8``, ``2001:db8::/32`` or a single address.

    :raises ValueError: for anything else
    """
    network = ip_network(value.strip(), strict=False)
    mapped = network.network_address
    if isinstance(network, IPv6Network) and isinstance(mapped, IPv6Address) and mapped.ipv4_mapped:
        return ip_network(f"{mapped.ipv4_mapped}/{max(0, network.prefixlen - 96)}")
    return network


def parse_address(value: str) -> Address | None:
    """Parse an address as it stands in ``X-Forwarded-For`` or a socket's peer name.

    Accepts a port and brackets, drops a zone, turns IPv4-mapped IPv6 into IPv4. Returns None for
    anything else.
    """
    return _parsed(value) if len(value) <= _LONGEST else None


@functools.lru_cache(_CACHED_ADDRESSES)
def _parsed(value: str) -> Address | None:
    text = value.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def received_header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a forwarding header as the client's request had it.

    ``waitress-serve`` takes those of a proxy that it was not told to trust out of the environ,
    unless it is started with ``--no-clear-untrusted-proxy-headers``; whom to trust is decided here.

    :param name: in upper case, with underscores
    """
    value: str | None = environ.get("HTTP_" + name)
    if value is None and (requests := _waitress_requests(environ)):
        value = requests[0].headers.get(name)
    return value


def received_names(environ: Mapping[str, Any]) -> set[str]:
    """Return the names of a request's headers, in upper case with underscores."""
    names = {key[5:] for key in environ if key.startswith("HTTP_")}
    return names.union(*(request.headers for request in _waitress_requests(environ)[:1]))


def _waitress_requests(environ: Mapping[str, Any]) -> list[Any]:
    """Return the requests of a waitress connection; the first is the one that is answered.

    None where waitress leaves all headers in the environ: our own server decides on a request
    while an earlier one, of maybe another client, is being answered.
    """
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    takes_out = getattr(getattr(channel, "adj", None), "clear_untrusted_proxy_headers", False)
    return getattr(channel, "requests", None) or [] if takes_out else []


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
        self.counted_as = functools.lru_cache(_CACHED_ADDRESSES)(self._counted_as)

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
    found = bits & 0xFFFF_FFFF
    if found & 0xFF_FFFF == 0 and address in _LOCAL_NAT64:
        # RFC 6052 section 2.2: behind 48, 56 or 64 bits, around octet 8, and then zeros.
        joined = bits >> 64 << 56 | bits & (1 << 56) - 1
        rests = (rest for rest in (40, 32, 24) if joined & (1 << rest) - 1 == 0)
        found = joined >> next(rests) & 0xFFFF_FFFF
    # Below 0.1.0.0 are no hosts, but the loopback and the network of "::".
    return IPv4Address(found) if found > 0xFFFF else None


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
