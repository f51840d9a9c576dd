"""Addresses and networks, as settings, sockets and headers write them."""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
"""Among the trusted proxies: the peers of a Unix socket. WSGI servers name them ``localhost``
(waitress), the empty string (gunicorn, granian), a path, or not at all (gevent)."""

REMEMBERED = 4096
"""Addresses that are remembered as they were parsed; the oldest is forgotten first."""

_LONGEST = 64
"""Characters of an address with brackets, zone and port. What is longer is no address, and is not
remembered either."""


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


@functools.lru_cache(REMEMBERED)
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
