"""Fixtures: an upstream, a proxy in front of it, a certificate."""

from __future__ import annotations

import pytest
from servers import Proxy, Upstream, running_proxy


@pytest.fixture
def upstream():
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
def proxy(upstream):
    with running_proxy(upstream) as running:
        yield running


@pytest.fixture
def echo() -> Proxy:
    with running_proxy(None, default_backend="echo") as running:
        yield running


@pytest.fixture(scope="module")
def port_of_nginx(server, tmp_path_factory):
    from fronts import plain_nginx

    with plain_nginx(tmp_path_factory.mktemp("front") / "nginx", server[1].port) as port:
        yield port


@pytest.fixture(params=["waitress", "nginx"])
def door(request, server):
    """Where hostile requests go in: its port, what the upstream received, and the way's name.

    Of a module's own ``server``, a pair of an upstream and the proxy before it.
    """
    upstream, proxy = server
    upstream.requests.clear()
    port = proxy.port if request.param == "waitress" else request.getfixturevalue("port_of_nginx")
    return port, upstream.requests, request.param


@pytest.fixture(scope="session")
def cert(tmp_path_factory):
    """A certificate for the reverse proxies of this run, and a client that trusts it."""
    from fronts import certificate

    return certificate(tmp_path_factory.mktemp("certificate"))
