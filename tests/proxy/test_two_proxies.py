"""Two reverse proxies in a row: examples/nginx.conf twice, the inner one as its comment says."""

from __future__ import annotations

import contextlib

import pytest
from fronts import ATTEMPTS, WRONG_KEY, nginx
from servers import KEY, running_proxy

OUTER = "127.0.8.8"
"""From which the outer proxy reaches the inner one."""


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def chain(request, tmp_path_factory, cert):
    """The inner and the outer proxy; the inner one reaches llmauth over IPv4 or IPv6."""
    folder = tmp_path_factory.mktemp("chain")
    host, bits = request.param, 128 if ":" in request.param else 32
    values = {
        "host": host,
        "default_backend": "echo",
        "max_failed_attempts": ATTEMPTS,
        "trusted_proxies": f"127.0.8.0/24, {host}/{bits}, fd00::/8",
    }
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(running_proxy(None, **values))
        shown = f"[{host}]" if ":" in host else host
        appended = {
            "X-Forwarded-For $remote_addr;": "X-Forwarded-For $proxy_add_x_forwarded_for;",
            f"server 127.0.0.1:{proxy.port};": f"server {shown}:{proxy.port};",
        }
        inner = stack.enter_context(nginx(folder / "inner", proxy.port, cert, appended))
        tls = {"http://llmauth;": f"https://llmauth; proxy_bind {OUTER};"}
        outer = stack.enter_context(nginx(folder / "outer", inner.port, cert, tls))
        yield inner, outer


@pytest.mark.parametrize("address", ["127.0.1.1", "::1"])
def test_the_lockout_hits_the_client_of_the_outer_one(chain, address):
    _, outer = chain
    assert outer.wrong_keys(address) == [401] * ATTEMPTS + [429]
    assert outer.request("GET", "/v1/models", address="127.0.1.2").status == 200


def test_forging_changes_nothing_at_either(chain):
    inner, outer = chain
    victim = "127.0.3.3"
    forged = {"X-Forwarded-For": f"{victim}, {OUTER}"}
    assert outer.wrong_keys("127.0.1.3", **forged) == [401] * ATTEMPTS + [429]
    assert inner.wrong_keys("127.0.1.4", **forged) == [401] * ATTEMPTS + [429]
    assert outer.request("GET", "/v1/models", address=victim).status == 200


def test_ipv6_clients_behind_a_trusted_network_count_by_their_own(chain):
    """The test is the outer proxy here, and says on behalf of whom it comes."""
    inner, _ = chain

    def status(client: str, key: str) -> int:
        forwarded = {"X-Forwarded-For": f"{client}, fd00::1"}
        return inner.request("GET", "/v1/models", forwarded, key=key, address="127.0.8.9").status

    attacker, neighbour, other = "2001:db8:1::5", "2001:db8:1::6", "2001:db8:2::5"
    assert [status(attacker, WRONG_KEY) for _ in range(ATTEMPTS)] == [401] * ATTEMPTS
    assert [status(one, KEY) for one in (attacker, neighbour, other)] == [429, 429, 200]
