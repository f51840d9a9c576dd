"""Fixtures: an upstream, a proxy in front of it, a certificate."""

from __future__ import annotations

import gc
import os
import sys

import pytest
from hypothesis import HealthCheck, settings
from servers import Proxy, Upstream, running_proxy
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# The same examples in each run, however slow the machine is; to look for others is fuzzing's.
settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

# The assertions of all modules are rewritten once: not in each run, and by each worker.
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run all tests in parallel, and those that somebody names where he sees them.

    Tests wait longer than they compute: four processes more than there are cores.
    """
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return (os.cpu_count() or 1) + 4 if everything else 0


def pytest_collection_finish() -> None:
    """Leave what was loaded and collected out of each look for garbage: it stays to the end."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByWhatIsShared(config, log)


class _ByWhatIsShared(LoadScopeScheduling):
    """Keeps the tests of a module together that share a server or a browser: it starts once.

    Each other test goes to whoever is free. The largest groups begin.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        self._root = config.rootpath
        self._together: dict[str, bool] = {}

    def _split_scope(self, nodeid: str) -> str:
        module, _, _ = nodeid.partition("::")
        if module not in self._together:
            source = (self._root / module).read_text(encoding="utf-8")
            self._together[module] = 'scope="module"' in source
        return module if self._together[module] else nodeid


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
