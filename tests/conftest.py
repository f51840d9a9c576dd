"""Fixtures: an upstream, a proxy in front of it, a certificate."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from servers import Proxy, Upstream, running_proxy

# The same examples in each run, however slow the machine is; to look for others is fuzzing's.
settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run all tests in parallel, and those that somebody names where he sees them.

    Tests wait as long as they compute: one process more than there are cores.
    """
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return (os.cpu_count() or 1) + 1 if everything else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a module together that share a server or a browser; start it once."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        if any(definition[-1].scope == "module" for definition in definitions):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


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
