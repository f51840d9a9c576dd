"""Who the client is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.addresses import Clients, parse_address, parse_network

PROXIES = [parse_network("10.0.0.0/8"), parse_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", "8.8.8.8", "203.0.113.1"),
        ("10.0.0.1", "8.8.8.8", "8.8.8.8"),
        ("10.0.0.1", "1.1.1.1, 8.8.8.8", "8.8.8.8"),
        ("10.0.0.1", "1.1.1.1, 8.8.8.8, 10.0.0.2", "8.8.8.8"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.1.1.1, junk", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, junk, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "8.8.8.8:1234", "8.8.8.8"),
        ("10.0.0.1", "[2001:db8::1]:1234", "2001:db8::1"),
        ("10.0.0.1", "::ffff:8.8.8.8", "8.8.8.8"),
        ("::ffff:10.0.0.1", "8.8.8.8", "8.8.8.8"),
        ("fd00::1%eth0", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        (None, "8.8.8.8", "unknown"),
        ("", "8.8.8.8", "unknown"),
    ],
)
def test_the_first_untrusted_address_from_the_right(peer, forwarded, client):
    assert Clients(trusted_proxies=PROXIES).address(peer, forwarded) == client


@given(st.text())
def test_what_a_stranger_forwards_is_never_believed(text):
    assert Clients(trusted_proxies=PROXIES).address("203.0.113.1", text) == "203.0.113.1"


@given(st.text())
def test_what_clients_prepend_is_never_believed(text):
    clients = Clients(trusted_proxies=PROXIES)
    assert clients.address("10.0.0.1", f"{text}, 8.8.8.8") == "8.8.8.8"


@pytest.mark.parametrize(
    ("client", "prefix", "counted"),
    [
        ("8.8.8.8", 64, "8.8.8.8"),
        ("2001:db8:1:2:3::4", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4", 48, "2001:db8:1::/48"),
        ("2001:db8::1", 128, "2001:db8::1"),
        ("192.0.2.7", 64, None),
        ("unknown", 64, "unknown"),
    ],
)
def test_as_what_a_client_is_counted(client, prefix, counted):
    clients = Clients(trusted_ips=[parse_network("192.0.2.0/24")], ipv6_prefix=prefix)
    assert clients.counted_as(client) == counted


@given(st.ip_addresses())
def test_every_address_is_read_as_itself(address):
    assert parse_address(str(address)) in (address, getattr(address, "ipv4_mapped", None))
