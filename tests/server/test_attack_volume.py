"""Floods of addresses: bounded memory, attackers who stay blocked, nobody else who notices."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from attack import WRONG, request, send, statuses
from servers import KEY, running_proxy

from llmauth.auth import stores
from llmauth.auth.client_address import Clients
from llmauth.auth.ledger import Policy
from llmauth.auth.lockout import Lockout

NETWORK = int(IPv6Address("2001:db8::"))
LIMIT = 64 * 2**20
LONG = {"initial_block_seconds": 3600}
"""A block that no flood outlasts, however slow the machine is."""

# Of more addresses than are remembered: the bound is reached. The flood that takes most meets the
# program's own bound; the others meet a part of it, and may take the same part of the memory.
FLOODS = {
    "IPv4, once each": (4, "25_000, 1, lambda n: IPv4Address(0x0B000000 + n)"),
    "IPv4, until blocked": (4, "17_000, 5, lambda n: IPv4Address(0x0B000000 + n)"),
    "IPv4, until blocked, one key": (
        1, "68_000, 5, lambda n: IPv4Address(0x0B000000 + n), 'x'"
    ),
    "a quarter of one /48, five times round": (
        4, "81_920, 1, lambda n: f'2001:db8:0:{n & 0x3FFF:x}::{n >> 14:x}'"
    ),
}  # fmt: skip
MEASURE = """
import logging
from ipaddress import IPv4Address
from llmauth.auth.client_address import Clients
from llmauth.auth.ledger import Policy
from llmauth.auth.lockout import Lockout
from llmauth.auth import stores
logging.disable()
stores.MAX_ADDRESSES //= {part}
stores.MAX_FORGIVEN //= {part}
def memory():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024
def flood(count, times, address, key=None):
    lockout, clients = Lockout(Policy()), Clients()
    lockout.failed("192.0.2.1", "192.0.2.1", ["x"])
    before, guesses = memory(), 0
    for number in range(count):
        name = clients.counted_as(str(address(number)))
        for _ in range(times):
            lockout.blocked(name)
            guesses += 1
            lockout.failed(name, name, [key or str(guesses)])
    print(memory() - before)
flood({flood})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("part", "flood"), FLOODS.values(), ids=FLOODS)
def test_floods_of_addresses_take_at_most_64_mb(part, flood):
    script = MEASURE.format(part=part, flood=flood)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, check=True
    )
    assert int(out.stdout) < LIMIT / part


@pytest.fixture(autouse=True)
def _quiet():
    """A line for each of a hundred thousand blocks would take longer than the blocks."""
    logger = logging.getLogger("llmauth.lockout")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def test_every_network_of_a_48_stays_blocked():
    """Whoever has one /48 and goes round in it meets a block wherever he comes back to."""
    lockout, clients = Lockout(Policy(max_failed_attempts=1, **LONG)), Clients()
    networks = []
    for number in range(2**16):
        name = clients.counted_as(str(IPv6Address(NETWORK + (number << 64) + 1)))
        networks.append(name)
        assert lockout.failed(name, name, ["x"]) is None
    random.Random(1).shuffle(networks)
    assert all(lockout.blocked(name) for name in networks)


def test_whoever_is_still_at_it_stays_blocked_through_any_flood(monkeypatch):
    remembered = 6600
    monkeypatch.setattr(stores, "MAX_ADDRESSES", remembered)
    lockout = Lockout(Policy(max_failed_attempts=1, **LONG))
    lockout.failed("192.0.2.1", "192.0.2.1", ["x"])
    for number in range(2 * remembered):
        name = str(IPv4Address(0x0B000000 + number))
        lockout.failed(name, name, ["x"])
        if number % 1000 == 0:
            assert lockout.blocked("192.0.2.1")
    assert lockout.blocked("192.0.2.1")


def test_a_flood_over_http_locks_every_address_out_and_nobody_else(upstream):
    """Through a trusted reverse proxy: 1,000 addresses, of which each goes on after its block."""
    with running_proxy(upstream, trusted_proxies="127.0.0.1", max_failed_attempts=2) as proxy:
        found: list[list[int]] = []

        def attack(first: int) -> None:
            for number in range(first, first + 250):
                address = IPv6Address(NETWORK + (number << 64))
                data = request(f"X-Forwarded-For: 10.0.0.1, {address}", key=WRONG, close=False)
                last = request(f"X-Forwarded-For: {address}", key=KEY)
                found.append(statuses(send(proxy.port, data * 3 + last)))

        threads = [threading.Thread(target=attack, args=(250 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        legitimate = []
        while any(thread.is_alive() for thread in threads):
            legitimate.append(proxy.request("GET", "/v1/models").status)
        for thread in threads:
            thread.join()
        assert found == [[401, 401, 429, 429]] * 1000
        assert set(legitimate) == {200}
        assert len(legitimate) > 50
    assert {one.target for one in upstream.requests} == {"/v1/models"}
