"""Who the client is."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.auth.client_address import Clients
from llmauth.config.addresses import parse_address, parse_network

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


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("", "8.8.8.8", "8.8.8.8"),
        ("localhost", "8.8.8.8", "8.8.8.8"),
        ("/run/client.sock", "8.8.8.8", "8.8.8.8"),
        (None, "8.8.8.8", "8.8.8.8"),
        ("", "1.1.1.1, 8.8.8.8", "8.8.8.8"),
        ("", "1.1.1.1, 8.8.8.8, 10.0.0.2", "8.8.8.8"),
        ("", "8.8.8.8, unix:", "8.8.8.8"),
        ("", "unix:", "unknown"),
        ("", "8.8.8.8, junk", "unknown"),
        ("", "", "unknown"),
        ("", None, "unknown"),
        ("10.0.0.1", "8.8.8.8, unix:", "8.8.8.8"),
        ("203.0.113.1", "8.8.8.8", "203.0.113.1"),
    ],
)
def test_a_unix_socket_is_a_proxy_that_can_be_trusted(peer, forwarded, client):
    assert Clients(trusted_proxies=[*PROXIES, "unix"]).address(peer, forwarded) == client
    assert Clients(trusted_proxies=[*PROXIES, "unix"]).trusts(peer) == (peer != "203.0.113.1")


@pytest.mark.parametrize("peer", ["", "localhost", "/run/client.sock", None])
def test_a_unix_socket_that_is_not_trusted_is_not_believed(peer):
    clients = Clients(trusted_proxies=PROXIES)
    assert clients.address(peer, "8.8.8.8") == "unknown"
    assert not clients.trusts(peer)
    assert clients.counts_as_one(peer)
    assert not clients.counts_as_one("127.0.0.1")
    assert not Clients(trusted_proxies=["unix"]).counts_as_one(peer)
    assert clients.address("10.0.0.1", "8.8.8.8, unix:") == "10.0.0.1"


TRUSTED = ["127.0.0.1", "::1", "unix"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "local"),
    [
        ("127.0.0.1", None, [], True),
        ("127.1.2.3", None, [], True),
        ("::ffff:127.0.0.1", None, [], True),
        ("", None, [], True),
        ("localhost", None, TRUSTED, True),
        ("192.168.0.7", None, [], False),
        ("127.0.0.1", "127.0.0.1", [], False),
        ("127.0.0.1", "127.0.0.1", TRUSTED, True),
        ("127.0.0.1", "127.0.0.1, ::1", TRUSTED, True),
        ("", "127.0.0.1", TRUSTED, True),
        ("", "unix:", TRUSTED, True),
        ("", "127.0.0.1", [], False),
        ("127.0.0.1", "203.0.113.9", TRUSTED, False),
        ("127.0.0.1", "127.0.0.1, 203.0.113.9", TRUSTED, False),
        ("127.0.0.1", "junk", TRUSTED, False),
        ("127.0.0.1", "junk, 127.0.0.1", TRUSTED, False),
        ("127.0.0.1", "unknown", TRUSTED, False),
        ("127.0.0.1", "", TRUSTED, False),
        ("127.0.0.1", None, TRUSTED, True),
        ("203.0.113.9", "127.0.0.1", TRUSTED, False),
    ],
)
def test_who_is_on_this_machine(peer, forwarded, proxies, local):
    """With forwarding headers only who a trusted proxy says to be."""
    proxies = [one if one == "unix" else parse_network(one) for one in proxies]
    clients = Clients(trusted_proxies=proxies)
    assert clients.is_local(peer, forwarded, forwarded=forwarded is not None) is local
    if forwarded is None:  # others than X-Forwarded-For, which say nothing that is believed
        assert not clients.is_local(peer, None, forwarded=True)


@given(st.text())
def test_what_a_stranger_forwards_is_never_believed(text):
    assert Clients(trusted_proxies=PROXIES).address("203.0.113.1", text) == "203.0.113.1"


@pytest.mark.parametrize(
    "peer", ["64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::1", "::10.0.0.1"]
)
def test_an_address_inside_another_makes_nobody_a_trusted_proxy(peer):
    clients = Clients(trusted_proxies=PROXIES)
    assert clients.address(peer, "8.8.8.8") == str(ip_address(peer))
    assert not clients.trusts(peer)
    # Nor does it let a reading of the header go on to the left.
    assert clients.address("10.0.0.1", f"8.8.8.8, {peer}") == str(ip_address(peer))


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
        ("::1", 64, "::/64"),
        ("::1", 32, "::/32"),
        ("192.0.2.7", 64, None),
        ("unknown", 64, "unknown"),
        ("64:ff9b::cb00:7107", 64, "203.0.113.7"),
        ("64:ff9b::203.0.113.7", 128, "203.0.113.7"),
        ("64:ff9b:1::203.0.113.7", 64, "203.0.113.7"),
        ("64:ff9b:1:2:3:4:203.0.113.7", 64, "203.0.113.7"),
        ("64:ff9b:1:cb00:71:700::", 64, "203.0.113.7"),
        ("64:ff9b:1:cb:0:7107::", 64, "203.0.113.7"),
        ("64:ff9b:1:5:cb:71:700:0", 64, "203.0.113.7"),
        ("64:ff9b:1::", 64, "64:ff9b:1::/64"),
        ("64:ff9b:2::203.0.113.7", 64, "64:ff9b:2::/64"),
        ("2001:0:102:304:8000:1234:34ff:8ef8", 64, "203.0.113.7"),
        ("2001:1:102:304:8000:1234:34ff:8ef8", 64, "2001:1:102:304::/64"),
        ("2002:cb00:7107:1::1", 64, "203.0.113.7"),
        ("2002:cb00:7107:ffff::1", 64, "203.0.113.7"),
        ("::ffff:0:203.0.113.7", 64, "203.0.113.7"),
        ("::203.0.113.7", 64, "203.0.113.7"),
        ("::", 64, "::/64"),
        # Not the exempt address: it makes nobody trusted.
        ("64:ff9b::192.0.2.7", 64, "192.0.2.7"),
        ("2002:c000:207::1", 64, "192.0.2.7"),
    ],
)
def test_as_what_a_client_is_counted(client, prefix, counted):
    clients = Clients(trusted_ips=[parse_network("192.0.2.0/24")], ipv6_prefix=prefix)
    assert clients.counted_as(client) == counted


@given(st.ip_addresses())
def test_every_address_is_read_as_itself(address):
    assert parse_address(str(address)) == (getattr(address, "ipv4_mapped", None) or address)


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_a_mapped_address_and_one_with_a_port_are_the_same_client(address, port):
    clients = Clients(trusted_proxies=PROXIES)
    for written in (f"::ffff:{address}", f"[::ffff:{address}]:{port}", f"{address}:{port}"):
        assert clients.address(written, None) == str(address)
    assert clients.counted_as(str(parse_address(f"::ffff:{address}"))) == str(address)


# Beyond ::/16, where IPv4-mapped addresses and the loopback are, and 2001::/16 and 2002::/16, where
# an address may be counted by an IPv4 address inside.
@given(st.ip_addresses(network="2400::/6"), st.integers(16, 128))
def test_all_addresses_of_a_network_are_counted_as_one(address, prefix):
    network = ip_network(f"{address}/{prefix}", strict=False)
    counted = Clients(ipv6_prefix=prefix).counted_as
    assert counted(str(network[0])) == counted(str(address)) == counted(str(network[-1]))
    beyond = type(address)(int(address) ^ 1 << (128 - prefix))
    assert counted(str(beyond)) != counted(str(address))


@given(st.text(), st.none() | st.text())
def test_whatever_is_said_an_address_or_unknown_comes_out(peer, forwarded):
    everyone = [parse_network("0.0.0.0/0"), parse_network("::/0")]
    found = Clients(trusted_proxies=everyone).address(peer, forwarded)
    assert found == "unknown" or ip_address(found)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        (" 2001:db8::1/32 ", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_parsed(text, network):
    assert parse_network(text) == ip_network(network)


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4:80", "a.b/8"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match=".*"):
        parse_network(text)


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "forgot"),
    [
        ("10.0.0.1", "8.8.8.8", [], True),
        ("::1", "8.8.8.8", [], True),
        ("::ffff:192.168.0.1", "8.8.8.8", [], True),
        ("8.8.4.4", "8.8.8.8", [], False),
        ("10.0.0.1", None, [], False),
        ("10.0.0.1", "8.8.8.8", PROXIES, False),
        (None, "8.8.8.8", [], False),
    ],
)
def test_a_private_peer_that_forwards_was_forgotten_to_be_trusted(peer, forwarded, proxies, forgot):
    assert Clients(trusted_proxies=proxies).forgot_to_trust(peer, forwarded) is forgot
