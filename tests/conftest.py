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


@pytest.fixture(scope="session")
def cert(tmp_path_factory):
    """A certificate for the reverse proxies of this run, and a client that trusts it."""
    from fronts import certificate

    return certificate(tmp_path_factory.mktemp("certificate"))
