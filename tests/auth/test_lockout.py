"""Failures, blocks and strikes, in memory and in a real Redis."""

from __future__ import annotations

import itertools
import socket
import subprocess
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Redis

from llmauth.auth.guard import Guard
from llmauth.auth.ledger import Policy
from llmauth.auth.lockout import Lockout
from llmauth.config.loading import load
from llmauth.exceptions import ConfigurationError, InvalidKey

POLICY = Policy(max_failed_attempts=3, ttl_seconds=60, initial_block_seconds=10)
WHO = "203.0.113.7"

_numbers = itertools.count()


@pytest.fixture
def redis():
    server = Redis()
    yield server
    server.close()


@pytest.fixture(params=["memory", "redis"])
def uri(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis").uri


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still; what people set it to is another matter."""

    class Clock:
        now = 1_800_000_000.0
        set_forward = 0.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(time, "time", lambda: Clock.now + Clock.set_forward)
    return Clock


def fail(lockout: Lockout, count: int, who: str = WHO) -> int:
    """Send different wrong keys; return how many of them may be answered 401."""
    return sum(lockout.failed(who, who, [f"guess {next(_numbers)}"]) is None for _ in range(count))


def repeat(lockout: Lockout, count: int, key: str = "an old key") -> int:
    """Send one wrong key again and again; return how many times it may be answered 401."""
    return sum(lockout.failed(WHO, WHO, [key]) is None for _ in range(count))


def test_the_window_fills_and_the_address_is_blocked(uri):
    lockout = Lockout(POLICY, uri)
    assert fail(lockout, 2) == 2
    assert lockout.blocked(WHO) is None
    assert fail(lockout, 1) == 1
    assert 9 <= lockout.blocked(WHO) <= 10
    assert lockout.blocked("203.0.113.8") is None
    assert fail(lockout, 3) == 0


def test_guesses_are_not_forgotten_for_a_right_key(uri):
    """Or whoever holds a key could put it between his guesses, and guess for ever."""
    lockout = Lockout(POLICY, uri)
    for _ in range(3):
        assert lockout.blocked(WHO) is None
        assert fail(lockout, 1) == 1
        lockout.succeeded(WHO)
    assert lockout.blocked(WHO) > 8
    assert fail(lockout, 3) == 0


def test_repeats_count_once_where_a_right_key_was_shown(uri):
    lockout = Lockout(POLICY, uri)
    lockout.succeeded(WHO)
    assert repeat(lockout, 50) == 50
    assert repeat(lockout, 50, "another old key") == 50
    assert lockout.blocked(WHO) is None
    assert fail(lockout, 1) == 1
    assert lockout.blocked(WHO) > 8


def test_repeats_count_each_where_no_right_key_was_shown(uri):
    lockout = Lockout(POLICY, uri)
    assert repeat(lockout, 50) == 3
    assert lockout.blocked(WHO) > 8


def test_repeats_that_were_counted_are_forgotten_for_a_right_key(uri):
    lockout = Lockout(POLICY, uri)
    assert repeat(lockout, 2) == 2
    lockout.succeeded(WHO)
    assert repeat(lockout, 50) == 50
    assert fail(lockout, 1) == 1
    assert lockout.blocked(WHO) is None
    assert fail(lockout, 2) == 1
    assert lockout.blocked(WHO) > 8


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(sent=st.lists(st.sampled_from(["right", "a", "b", "c", "d"]), max_size=12))
def test_any_sequence_of_keys(uri, sent):
    """Wrong keys are counted, and different ones only from the first right one on."""
    who = f"client {next(_numbers)}"
    lockout, good, counted, locked_out = Lockout(POLICY, uri), False, [], False
    for key in sent:
        if locked_out:
            assert lockout.blocked(who)
            # One that was asked about before the block began comes too late as well.
            assert lockout.failed(who, who, ["e"]) is not None
        elif key == "right":
            lockout.succeeded(who)
            good = True
        else:
            assert lockout.failed(who, who, [key]) is None
            counted.append(key)
            locked_out = len(set(counted) if good else counted) >= POLICY.max_failed_attempts
            if good:
                locked_out = locked_out and key not in counted[:-1]
    assert bool(lockout.blocked(who)) == locked_out


def test_a_right_key_counts_for_a_window(clock):
    lockout = Lockout(POLICY)
    for _ in range(3):
        lockout.succeeded(WHO)
        clock.now += 57
        assert repeat(lockout, 9) == 9
    clock.now += 4
    assert repeat(lockout, 9) == POLICY.max_failed_attempts - 1  # one that was counted before


def test_a_wrong_key_counts_again_in_another_window(clock):
    lockout = Lockout(POLICY)
    lockout.succeeded(WHO)
    assert repeat(lockout, 9) == 9
    clock.now += 61
    lockout.succeeded(WHO)
    assert repeat(lockout, 9) == 9
    assert fail(lockout, 3) == 2


def test_what_a_request_holds_counts_by_its_different_keys(uri):
    lockout = Lockout(POLICY, uri)
    assert lockout.failed(WHO, WHO, ["one", "two", "one"]) is None
    assert lockout.blocked(WHO) is None
    assert lockout.failed(WHO, WHO, ["three", "four"]) is None
    assert lockout.blocked(WHO) > 8
    assert lockout.failed(WHO, WHO, ["five", "six"]) is not None


def test_an_old_key_at_an_office_locks_out_for_once_at_most(clock):
    """Its client knocks first, and goes on day and night; the others come as they can."""
    lockout = Lockout(POLICY)
    assert repeat(lockout, 9) == 3
    clock.now += 10
    for _ in range(500):
        assert lockout.blocked(WHO) is None
        lockout.succeeded(WHO)
        assert repeat(lockout, 3) == 3
        clock.now += 7
    assert fail(lockout, 1) == 1
    assert lockout.blocked(WHO) is None


def test_strikes_of_guesses_end_though_an_old_key_is_repeated(clock):
    """What was guessed before is no further guess, in whatever window it comes."""
    lockout = Lockout(POLICY)
    lockout.succeeded(WHO)
    assert repeat(lockout, 1) == 1
    assert fail(lockout, 3) == 2
    blocks = []
    for _ in range(500):
        if (seconds := lockout.blocked(WHO)) is not None:
            blocks.append(seconds)
            clock.now += seconds
        lockout.succeeded(WHO)
        repeat(lockout, 1)
        clock.now += 7
    assert blocks == [10]
    assert fail(lockout, 1) == 1
    assert lockout.blocked(WHO) is None


def test_blocks_grow_with_every_failure_after_one(clock):
    lockout = Lockout(Policy(max_failed_attempts=3, initial_block_seconds=10, max_block_seconds=60))
    fail(lockout, 3)
    lengths = []
    for _ in range(5):
        lengths.append(lockout.blocked(WHO))
        clock.now += lengths[-1] - 1
        assert lockout.blocked(WHO) == pytest.approx(1)
        clock.now += 2
        assert lockout.blocked(WHO) is None
        assert fail(lockout, 5) == 1
    assert lengths == [10, 20, 40, 60, 60]


def test_retry_after_counts_down_to_the_end(clock):
    lockout = Lockout(POLICY)
    fail(lockout, 3)
    for left in (10.0, 7.5, 0.5):
        clock.now = 1_800_000_010.0 - left
        assert lockout.blocked(WHO) == pytest.approx(left)
        assert lockout.failed(WHO, WHO, ["x"]) == pytest.approx(left)
    clock.now = 1_800_000_010.0
    assert lockout.blocked(WHO) is None


def test_no_right_key_forgets_the_strikes(clock):
    lockout = Lockout(POLICY)
    fail(lockout, 3)
    for length in (10, 20, 40, 80, 160):
        assert lockout.blocked(WHO) == length
        clock.now += length
        lockout.succeeded(WHO)
        assert fail(lockout, 1) == 1


def test_a_clock_that_is_set_back_prolongs_nothing(clock):
    lockout = Lockout(POLICY)
    fail(lockout, 3)
    clock.set_forward = -7200
    assert lockout.blocked(WHO) == 10
    clock.now += 10
    assert lockout.blocked(WHO) is None
    clock.now += 60
    assert fail(lockout, 2) == 2
    assert lockout.blocked(WHO) is None


def test_a_clock_that_is_set_back_prolongs_no_block_of_a_shared_store(redis, monkeypatch):
    lockouts = [Lockout(POLICY, redis.uri) for _ in range(4)]
    assert lockouts[3].blocked(WHO) is None
    fail(lockouts[0], 3)
    assert 8 < lockouts[1].blocked(WHO) <= 10
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    assert all(8 < lockout.blocked(WHO) <= 10 for lockout in lockouts[:3])
    time.sleep(1.1)  # that it is not blocked is believed for a second, by whatever clock
    assert 6 < lockouts[3].blocked(WHO) <= 10


@pytest.mark.parametrize(
    ("strikes", "multiplier", "seconds"),
    [(0, 2.0, 10), (1, 2.0, 20), (3, 1.5, 34), (9, 2.0, 3600), (9, 1.0, 10), (10**9, 1000.0, 3600)],
)
def test_the_length_of_a_block(strikes, multiplier, seconds):
    policy = Policy(initial_block_seconds=10, block_multiplier=multiplier, max_block_seconds=3600)
    assert policy.block_seconds(strikes) == seconds


def test_a_limit_of_one_blocks_at_the_first_failure(uri):
    lockout = Lockout(Policy(max_failed_attempts=1), uri)
    assert fail(lockout, 3) == 1
    assert lockout.blocked(WHO)


def test_strikes_are_forgotten_after_a_quiet_window(clock):
    lockout = Lockout(POLICY)
    fail(lockout, 3)
    clock.now += 10 + 60 + 1
    assert fail(lockout, 2) == 2
    assert lockout.blocked(WHO) is None


def test_old_failures_leave_the_window(clock):
    lockout = Lockout(POLICY)
    fail(lockout, 2)
    clock.now += 61
    fail(lockout, 2)
    assert lockout.blocked(WHO) is None


def simultaneously(count: int, *lockouts: Lockout, right_keys: bool = False) -> int:
    """Send different wrong keys; return how many of them may be answered 401.

    :param right_keys: one comes before each of them
    """
    answers, barrier = [], threading.Barrier(count)

    def attempt(number: int) -> None:
        lockout = lockouts[number % len(lockouts)]
        barrier.wait()
        if right_keys:
            lockout.succeeded(WHO)
        answers.append(lockout.failed(WHO, WHO, [f"guess {next(_numbers)}"]))

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == count
    return answers.count(None)


@pytest.mark.parametrize("right_keys", [False, True])
def test_of_simultaneous_failures_exactly_the_limit_is_in_time(uri, right_keys):
    policy = Policy(max_failed_attempts=3, initial_block_seconds=1, max_block_seconds=60)
    lockout = Lockout(policy, uri)
    assert simultaneously(200, lockout, right_keys=right_keys) == 3
    time.sleep(lockout.blocked(WHO) + 0.3)
    assert simultaneously(200, lockout) == 1
    assert lockout.blocked(WHO) > 1


def test_two_processes_share_one_count_and_one_block(redis):
    one, two = Lockout(POLICY, redis.uri), Lockout(POLICY, redis.uri)
    assert fail(one, 2) == 2
    assert fail(two, 1) == 1
    assert one.blocked(WHO) == pytest.approx(two.blocked(WHO), abs=1)
    assert simultaneously(20, one, two) == 0
    restarted = Lockout(POLICY, redis.uri)
    assert restarted.blocked(WHO) > 8


@pytest.mark.parametrize("right_keys", [False, True])
def test_simultaneous_failures_spread_over_processes(redis, right_keys):
    lockouts = [Lockout(POLICY, redis.uri) for _ in range(3)]
    assert simultaneously(200, *lockouts, right_keys=right_keys) == 3
    assert all(lockout.healthy for lockout in lockouts)


def test_a_right_key_at_a_process_that_has_not_heard_of_the_block_lets_nobody_guess_on(redis):
    """For a second it lets in: what it forgot of the address then would be forgotten for all."""
    one, two = Lockout(POLICY, redis.uri), Lockout(POLICY, redis.uri)
    assert fail(one, 1) == 1
    assert two.blocked(WHO) is None
    assert fail(one, 3) == 2
    assert two.blocked(WHO) is None
    two.succeeded(WHO)
    assert fail(two, 3) == 0
    assert fail(one, 3) == 0


def test_what_one_process_knows_of_a_key_the_others_know(redis):
    one, two = Lockout(POLICY, redis.uri), Lockout(POLICY, redis.uri)
    one.succeeded(WHO)
    assert repeat(two, 9) + repeat(one, 9) == 18
    assert fail(one, 1) + fail(two, 2) == 2


def test_a_shared_store_holds_no_wrong_key_nor_what_it_could_be_found_by(redis):
    """Readers of the store have no key for the digests, and those of two addresses differ."""
    for secret in (b"one", b"two"):
        Lockout(POLICY, redis.uri, secret).failed(WHO, WHO, ["almost-the-right-key"])
    Lockout(POLICY, redis.uri, b"one").failed("203.0.113.8", WHO, ["almost-the-right-key"])
    out = subprocess.run(
        ["redis-cli", "-p", str(redis.port), "keys", "*"], capture_output=True, check=True
    )
    guesses = [line for line in out.stdout.decode().split() if "guess" in line]
    assert len({line.rpartition("/")[2] for line in guesses}) == 3
    assert b"almost" not in out.stdout


def test_a_shared_store_is_asked_once_a_second_and_not_at_all_while_blocked(redis):
    lockout = Lockout(POLICY, redis.uri)
    lockout.blocked(WHO)
    lockout.succeeded(WHO)  # a note for the other processes

    def commands() -> int:
        with socket.create_connection(("127.0.0.1", redis.port)) as sock:
            sock.sendall(b"INFO stats\r\nQUIT\r\n")
            text = sock.makefile("rb").read().decode()
        return int(text.partition("total_commands_processed:")[2].split()[0])

    before = commands()
    for _ in range(50):
        assert lockout.blocked(WHO) is None
        lockout.succeeded(WHO)
    assert commands() - before <= 3  # the questions for the figure, and one at a second's end
    fail(lockout, 3)
    before = commands()
    for _ in range(50):
        assert lockout.blocked(WHO)
    assert commands() - before <= 2


def test_when_the_store_dies_lockout_goes_on_locally_and_returns(redis, caplog):
    lockout = Lockout(POLICY, redis.uri)
    blocked = "203.0.113.9"
    fail(lockout, 3, blocked)
    redis.stop()
    assert lockout.blocked(WHO) is None
    assert fail(lockout, 5) == 3
    assert lockout.blocked(WHO) > 8
    assert lockout.blocked(blocked) > 8
    lockout.succeeded("203.0.113.10")
    assert not lockout.healthy
    assert len([r for r in caplog.records if "does not answer" in r.getMessage()]) == 1
    redis.start()
    until = time.monotonic() + 15
    while not lockout.healthy and time.monotonic() < until:
        time.sleep(0.05)
    assert lockout.healthy
    assert fail(lockout, 2, "203.0.113.11") == 2
    other = Lockout(POLICY, redis.uri)
    assert fail(other, 1, "203.0.113.11") == 1
    assert other.blocked("203.0.113.11") > 8


def test_simultaneous_failures_of_a_dying_store_are_one_warning_and_one_count(redis, caplog):
    lockout = Lockout(POLICY, redis.uri)
    redis.stop()
    assert simultaneously(50, lockout) == 3
    assert len([r for r in caplog.records if "does not answer" in r.getMessage()]) == 1


def test_a_store_that_hangs_is_given_up_after_one_request():
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        uri = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="cannot be reached"):
            Lockout(POLICY, uri)


def test_every_block_is_one_line_with_the_address(caplog):
    lockout = Lockout(POLICY)
    for _ in range(4):
        lockout.failed("2001:db8::/64", "2001:db8::7", ["x"])
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert record.getMessage() == (
        "blocked 2001:db8::7 for 10 seconds: too many failed attempts (counted as 2001:db8::/64)"
    )


def test_many_addresses_do_not_push_out_one_that_is_blocked_and_still_at_it(monkeypatch):
    monkeypatch.setattr("llmauth.auth.stores.MAX_ADDRESSES", 50)
    monkeypatch.setattr("llmauth.auth.lockout._REMEMBERED", 20)
    lockout = Lockout(POLICY)
    fail(lockout, 3)
    for number in range(500):
        fail(lockout, 3, f"198.51.{number // 250}.{number % 250}")
        assert lockout.blocked(WHO)


@pytest.mark.parametrize("who", ["192.0.2.7", "::ffff:192.0.2.7"])
def test_a_trusted_address_is_never_blocked(who):
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": "k" * 20, "TRUSTED_IPS": "192.0.2.0/24"}
    guard = Guard(load(environ=environ))
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/models", "HTTP_API_KEY": "wrong"}
    for _ in range(20):
        environ = request | {"REMOTE_ADDR": who}
        with pytest.raises(InvalidKey):
            guard.check(guard.info(environ), environ, lambda *_: None)
