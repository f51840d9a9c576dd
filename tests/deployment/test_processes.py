"""Three llmauth processes behind a real nginx, with one Redis: one count and one block for all."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest
from fronts import WRONG_KEY, nginx
from programs import Program, Redis, llmauth, wait_for
from servers import KEY

LIMIT = 5
PROCESSES = 3
_hosts = itertools.count(10)
_numbers = itertools.count()


class Deployment:
    def __init__(self, front, redis: Redis, processes: list[Program]) -> None:
        self.front = front
        self.redis = redis
        self.processes = processes

    def status(self, address: str, key: str = KEY) -> int:
        return self.front.request("GET", "/v1/models", key=key, address=address).status

    def statuses(self, address: str, count: int, key: str = KEY) -> list[int]:
        return [self.status(address, key) for _ in range(count)]

    def guesses(self, address: str, count: int) -> list[int]:
        """Return the answers to as many different wrong keys."""
        return [self.status(address, f"{WRONG_KEY}-{next(_numbers)}") for _ in range(count)]

    def said(self, text: str) -> list[int]:
        """Return how often each process has logged the text."""
        return [process.output().count(text) for process in self.processes]


def started(redis: Redis, environ: dict[str, str]) -> Program:
    """Start llmauth, which ends when its store has not answered in a quarter of a second."""
    for _ in range(5):
        with contextlib.suppress(pytest.fail.Exception):
            return llmauth(**environ, BRUTE_FORCE_STORAGE_URI=redis.uri)
    return llmauth(**environ, BRUTE_FORCE_STORAGE_URI=redis.uri)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, cert):
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "LLM_BACKEND": "echo",
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(contextlib.closing(Redis()))
        processes = [
            stack.enter_context(contextlib.closing(started(redis, environ)))
            for _ in range(PROCESSES)
        ]
        first, *others = (process.port for process in processes)
        servers = "".join(f"server 127.0.0.1:{port};\n" for port in others)
        more = {"keepalive 32;": f"{servers}keepalive 32;"}
        folder = tmp_path_factory.mktemp("processes") / "nginx"
        front = stack.enter_context(nginx(folder, first, cert, more))
        yield Deployment(front, redis, processes)


@pytest.fixture
def address() -> str:
    """Of a client that no other test has been."""
    return f"127.0.0.{next(_hosts)}"


def test_one_count_and_one_block(deployment, address):
    assert deployment.statuses(address, LIMIT, WRONG_KEY) == [401] * LIMIT
    assert deployment.statuses(address, 2 * PROCESSES) == [429] * 2 * PROCESSES
    assert deployment.status("127.0.0.9") == 200
    line = f"blocked {address} for 30 seconds"
    wait_for(lambda: sum(deployment.said(line)), "the line of the block")
    assert sorted(deployment.said(line)) == [0, 0, 1]


def test_with_the_right_key_at_one_process_all_forgive_repeats(deployment, address):
    for _ in range(3):
        assert deployment.statuses(address, LIMIT - 1, WRONG_KEY) == [401] * (LIMIT - 1)
        assert deployment.status(address) == 200
    assert deployment.guesses(address, LIMIT) == [401] * (LIMIT - 1) + [429]


@pytest.mark.parametrize("good", [False, True], ids=["strangers", "right keys before"])
def test_simultaneous_wrong_keys_over_all_processes(deployment, address, good):
    if good:
        deployment.statuses(address, PROCESSES)
    count = 60
    answers: list[int] = []
    barrier = threading.Barrier(count)

    def attempt(number: int) -> None:
        barrier.wait()
        answers.append(deployment.status(address, f"{WRONG_KEY}-{number}"))

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [401] * LIMIT + [429] * (count - LIMIT)
    # Not one by one: every process has had some of them.
    assert deployment.said("does not answer") == [0] * PROCESSES


def test_round_trips(deployment, address):
    """A second and process cost one question at most, whatever the number of requests."""
    deployment.statuses(address, PROCESSES)
    began, before = time.monotonic(), deployment.redis.commands()
    assert deployment.statuses(address, 60) == [200] * 60
    seconds, after = time.monotonic() - began, deployment.redis.commands()
    asked = {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name)}
    assert set(asked) <= {"get"}
    assert asked.get("get", 0) <= PROCESSES * (seconds + 1)
    deployment.guesses(address, LIMIT)
    deployment.statuses(address, 2 * PROCESSES)  # until every process knows of the block
    before = deployment.redis.commands()
    assert deployment.statuses(address, 60) == [429] * 60
    assert deployment.redis.commands() == before


def test_a_restart_forgets_nothing(deployment, address):
    assert deployment.statuses(address, LIMIT, WRONG_KEY) == [401] * LIMIT
    for process in deployment.processes:
        assert process.stop() == 0
        process.start()
    assert deployment.statuses(address, 2 * PROCESSES) == [429] * 2 * PROCESSES


def test_a_store_that_hangs_holds_nobody_up(deployment, address):
    with deployment.redis.frozen():
        began = time.monotonic()
        assert deployment.statuses(address, 4 * PROCESSES) == [200] * 4 * PROCESSES
        # A quarter of a second for each process, once; twice that, for machines are noisy.
        assert time.monotonic() - began < 2 * PROCESSES * 0.25 + 0.5
    noticed = deployment.said("does not answer")
    wait_for(lambda: deployment.said("answers again") == noticed, "the store is used again")


def test_when_the_store_dies_and_comes_back(deployment, address):
    warned, back = deployment.said("does not answer"), deployment.said("answers again")
    deployment.redis.stop()
    assert deployment.statuses(address, 2 * PROCESSES) == [200] * 2 * PROCESSES
    guesses = deployment.guesses(address, PROCESSES * (LIMIT + 1))
    assert guesses.count(401) == PROCESSES * LIMIT  # each process counts for itself
    assert guesses[-PROCESSES:] == [429] * PROCESSES
    assert deployment.status(address) == 429
    assert deployment.status("127.0.0.9") == 200
    warnings = [n + 1 for n in warned]
    wait_for(lambda: deployment.said("does not answer") == warnings, "the warnings")
    deployment.redis.start()
    wait_for(
        lambda: deployment.said("answers again") == [n + 1 for n in back], "the store is used again"
    )
    other = f"127.0.0.{next(_hosts)}"
    assert deployment.statuses(other, LIMIT, WRONG_KEY) == [401] * LIMIT
    assert deployment.statuses(other, PROCESSES) == [429] * PROCESSES
    assert deployment.status(address) == 429  # what a process has blocked stays so
