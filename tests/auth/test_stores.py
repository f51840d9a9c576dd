"""Shared stores of failed attempts: real servers, with and without what they ask for."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from unittest import mock

import pytest
from fronts import free_port
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from programs import Redis, wait_for

from llmauth.auth.ledger import Policy
from llmauth.auth.lockout import Lockout
from llmauth.auth.stores import open_store
from llmauth.exceptions import ConfigurationError

POLICY = Policy(max_failed_attempts=3, ttl_seconds=60, initial_block_seconds=10)
PASSWORD = "password-of-the-store"
WHO = "203.0.113.7"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        + ["-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=store"]
        + ["-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    return key, certificate


@pytest.fixture(scope="module")
def guarded():
    """A Redis with a password."""
    with contextlib.closing(Redis("--requirepass", PASSWORD)) as redis:
        yield redis


@pytest.fixture(scope="module")
def encrypted(certificate):
    """A Redis that speaks TLS only."""
    key, cert = certificate
    tls = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"]
    redis = Redis("--port", "0", "--tls-port", "{port}", "--tls-ca-cert-file", cert, *tls)
    with contextlib.closing(redis):
        yield redis


@pytest.fixture
def redis():
    with contextlib.closing(Redis()) as server:
        yield server


@pytest.mark.parametrize("client", ["redis", "valkey"])
def test_password_and_tls(client, guarded, encrypted, certificate):
    for uri in (
        f"{client}://:{PASSWORD}@127.0.0.1:{guarded.port}/2",
        f"{client}s://127.0.0.1:{encrypted.port}?ssl_ca_certs={certificate[1]}",
    ):
        lockout = Lockout(POLICY, uri)
        assert [lockout.failed(client, WHO, ["x"]) for _ in range(3)] == [None] * 3
        assert Lockout(POLICY, uri).blocked(client) > 8


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("redis://127.0.0.1:{guarded}", "wants a password: write :PASSWORD@ before the host"),
        ("redis://:wrong-pass@127.0.0.1:{guarded}", "invalid username-password pair"),
        ("redis://me:wrong-pass@127.0.0.1:{guarded}", "invalid username-password pair"),
        (f"redis://:{PASSWORD}@127.0.0.1:{{guarded}}/99", "DB index is out of range"),
        ("redis://127.0.0.1:{nobody}", "cannot be reached: .*[Rr]efused"),
        ("redis://nosuch.invalid", "cannot be reached"),
        ("redis://127.0.0.1:99999", "cannot be used: Port out of range"),
        (f"redis://:{PASSWORD}@127.0.0.1:{{guarded}}?no=1", "unexpected keyword argument 'no'"),
        ("rediss://127.0.0.1:{encrypted}", "CERTIFICATE_VERIFY_FAILED"),
        ("rediss://127.0.0.1:{guarded}", "cannot be reached"),
        ("redis://127.0.0.1:{encrypted}", "cannot be reached"),
        ("redis+sentinel://127.0.0.1:{nobody}", "'service_name' not provided"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_at_the_start(uri, says, guarded, encrypted):
    uri = uri.format(guarded=guarded.port, encrypted=encrypted.port, nobody=free_port())
    with pytest.raises(ConfigurationError, match=says) as caught:
        open_store(uri)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in (PASSWORD, "wrong-pass"))


def test_a_replica_that_only_lets_read_is_refused():
    with contextlib.closing(Redis("--replicaof", "127.0.0.1", str(free_port()))) as replica:
        with pytest.raises(ConfigurationError, match="read only replica"):
            open_store(replica.uri)


def test_a_store_that_is_full_is_left_with_one_warning_and_no_flapping(redis, caplog):
    """Reading works there: a store that cannot count must not be taken for one that is back."""
    lockout = Lockout(POLICY, redis.uri)
    for setting in ("maxmemory 1", "maxmemory-policy noeviction"):
        subprocess.run(["redis-cli", "-p", str(redis.port), "config", "set", *setting.split()])
    assert [lockout.failed(WHO, WHO, ["x"]) is None for _ in range(5)] == [True] * 3 + [False] * 2
    time.sleep(2.5)  # two attempts to come back
    assert not lockout.healthy
    assert len([r for r in caplog.records if "store of failed" in r.getMessage()]) == 1
    subprocess.run(["redis-cli", "-p", str(redis.port), "config", "set", "maxmemory", "0"])
    wait_for(lambda: lockout.healthy, "the store is used again")


def test_a_store_that_hangs_costs_a_quarter_of_a_second_once(redis, caplog):
    lockout = Lockout(POLICY, redis.uri)
    with redis.frozen():
        began = time.monotonic()
        assert lockout.blocked(WHO) is None
        first = time.monotonic() - began
        in_time = [lockout.failed(WHO, WHO, ["x"]) is None for _ in range(5)]
        assert in_time == [True] * 3 + [False] * 2
        rest = time.monotonic() - began - first
        assert first < 0.25 + 0.25  # the aim is a quarter; machines are noisy
        assert rest < 0.1
        assert not lockout.healthy
    wait_for(lambda: lockout.healthy, "the store is used again")
    assert len([r for r in caplog.records if "does not answer" in r.getMessage()]) == 1


def test_a_window_that_is_full_blocks_also_when_whoever_filled_it_died(redis):
    """A process may end between the last failure and the block, or the store may lose the block."""
    lockout = Lockout(POLICY, redis.uri)
    for _ in range(3):
        lockout.failed(WHO, WHO, ["x"])
    for kind in ("block", "strike", "forgivable"):
        name = f"LIMITS:llmauth/{kind}/{WHO}"
        subprocess.run(["redis-cli", "-p", str(redis.port), "del", name])
    fresh = Lockout(POLICY, redis.uri)
    assert fresh.blocked(WHO) is None
    assert fresh.failed(WHO, WHO, ["x"]) > 8
    assert Lockout(POLICY, redis.uri).blocked(WHO) > 8


def test_the_bounded_memory_is_a_storage_of_limits():
    limiter = MovingWindowRateLimiter(storage_from_string("llmauth-memory://"))
    window = RateLimitItemPerMinute(3, namespace="test")
    assert [limiter.hit(window, WHO) for _ in range(5)] == [True] * 3 + [False] * 2
    reset, remaining = limiter.get_window_stats(window, WHO)
    assert (reset, remaining) == (pytest.approx(time.time() + 60, abs=5), 0)
    limiter.clear(window, WHO)
    assert limiter.hit(window, WHO, cost=3)
    assert not limiter.hit(window, WHO)
    fixed = FixedWindowRateLimiter(limiter.storage)
    assert [fixed.hit(window, "other") for _ in range(4)] == [True] * 3 + [False]
    assert limiter.storage.check()
    limiter.storage.reset()
    assert limiter.test(window, WHO, cost=3)


def test_memory_means_the_bounded_one():
    """That of ``limits`` keeps an entry for every address it ever saw, and starts threads."""
    threads = threading.active_count()
    for uri in ("memory://", "memory:///", "memory://whatever"):
        assert type(open_store(uri)) is type(storage_from_string("llmauth-memory://"))
    assert threading.active_count() == threads


STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(1, 3), st.integers(0, 30))
)


@given(STEPS)
def test_a_window_in_memory_counts_what_came_within_the_time(steps):
    """Whatever limit, time and amount each question has."""
    store, entries, now, end = open_store("memory://"), [], 1_000.0, 0.0
    with mock.patch("time.monotonic", side_effect=lambda: now):
        for limit, expiry, amount, pause in steps:
            now += pause
            if now >= end:
                entries = []
            within = [at for at in entries[-limit:] if at >= now - expiry]
            assert store.get_moving_window("test/kind/x", limit, expiry)[1] == len(within)
            room = amount <= limit and len(within) + amount <= limit
            assert store.acquire_entry("test/kind/x", limit, expiry, amount) == room
            if room:
                entries, end = (entries + [now] * amount)[-limit:], now + expiry


def test_a_window_without_a_limit_holds_no_more_than_its_time(monkeypatch):
    store, now = open_store("memory://"), 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(50_000):
        now += 1
        assert store.acquire_entry("test/kind/x", 10**9, 2_000)
    # Of which half may be older.
    assert store.get_moving_window("test/kind/x", 10**9, 10**9)[1] <= 4_002
    assert store.get_moving_window("test/kind/x", 10**9, 2_000)[1] == 2_001
    for _ in range(3_000):
        now += 0.001
        assert store.acquire_entry("test/kind/y", 2_500, 2_000) == (_ < 2_500)
    assert store.get_moving_window("test/kind/y", 2_500, 2_000)[1] == 2_500


def test_round_trips(redis):
    """Unblocked: one question a second and address. Blocked: none. Right keys: a note at times."""
    lockout = Lockout(POLICY, redis.uri)

    def asked(action) -> dict[str, int]:
        before = redis.commands()
        action()
        return {
            name: n - before.get(name, 0)
            for name, n in redis.commands().items()
            if n != before.get(name, 0)
        }

    def right_keys() -> None:
        for _ in range(200):
            assert lockout.blocked(WHO) is None
            lockout.succeeded(WHO)

    def no_keys() -> None:
        for _ in range(200):
            assert lockout.blocked(WHO) is None

    def refused() -> None:
        for _ in range(200):
            assert lockout.blocked(WHO)

    lockout.blocked("198.51.100.1")  # connects
    lockout.succeeded("198.51.100.1")  # and loads the script
    first = asked(right_keys)
    assert (first["get"], first["evalsha"]) == (1, 1)
    time.sleep(1.1)
    assert asked(right_keys) == {"get": 1}
    lockout.failed(WHO, WHO, ["x"])
    assert asked(no_keys) == {"get": 1}
    time.sleep(1.1)
    assert asked(no_keys) == {"get": 1}
    for number in range(3):
        lockout.failed(WHO, WHO, [str(number)])
    assert asked(refused) == {}
