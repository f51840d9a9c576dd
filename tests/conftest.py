"""Fixtures: an upstream, and a proxy in front of it."""

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
