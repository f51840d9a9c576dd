"""Work that waits for a thread of its own: nobody else waits, and what is lost is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from programs import ROOT

from llmauth.web import backlog
from llmauth.web.backlog import Backlog


class Worker:
    """Does what it is told as soon as it may."""

    def __init__(self, **options) -> None:
        self.may = threading.Event()
        self.fails = False
        self.done: list[int] = []
        self.told: list[int] = []
        options = {"limit": 5, "gathering": 0.0, **options}
        self.backlog: Backlog[int] = Backlog("test", work=self.work, tell=self.tell, **options)

    def work(self, items: list[int]) -> None:
        assert self.may.wait(20)
        if self.fails:
            raise OSError
        self.done += items

    def tell(self, number: int) -> None:
        if self.fails:
            raise OSError
        self.told.append(number)


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.may.set()
    worker.backlog.close(20)


def test_all_is_done_in_its_order(worker):
    worker.may.set()
    for number in range(1000):
        worker.backlog.put(number)
        if number % 5 == 4:
            assert worker.backlog.flush(20)
    assert worker.done == list(range(1000))
    assert worker.backlog.close(20) == 0


def test_nobody_waits_for_a_worker_that_does_and_what_is_left_is_counted(worker):
    for number in range(100):
        worker.backlog.put(number)
    assert not worker.backlog.flush(0.01)
    assert worker.backlog.close(0.01) == 100
    worker.backlog.put(0)
    assert worker.backlog.flush(20)  # nothing more is to be waited for
    worker.may.set()


def test_dropped_items_are_told_of_once_it_works_and_once_a_second_at_most(worker, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(backlog.time, "monotonic", lambda: clock[0])
    for burst in range(3):
        worker.may.clear()
        worker.backlog.put(burst)
        while worker.backlog._waiting:
            pass  # it has begun with that one
        for number in range(7):
            worker.backlog.put(number)
        worker.may.set()
        assert worker.backlog.flush(20)
    assert worker.told == [2]
    clock[0] += backlog.TELLING
    worker.backlog.put(0)
    assert worker.backlog.flush(20)
    assert worker.told == [2, 4]


def test_what_fails_is_counted_and_told_of_when_it_works_again(worker):
    worker.may.set()
    worker.fails = True
    for number in range(3):
        worker.backlog.put(number)
    assert worker.backlog.flush(20)
    assert worker.told == []
    worker.fails = False
    worker.backlog._next_telling = 0.0
    worker.backlog.put(3)
    assert worker.backlog.flush(20)
    assert (worker.done, worker.told) == ([3], [3])


FORK = """
import os, sys, time
from llmauth.web.backlog import Backlog

def say(*words):  # past the buffer of print, which the parent's thread may hold at the fork
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

backlog = Backlog("x", limit=9, work=lambda items: say(os.getpid(), *items), tell=say,
                  gathering=0.1)
backlog.put("parent")
child = os.fork()
backlog.put("child" if child == 0 else "more")
backlog.flush(20)
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_has_a_thread_and_only_items_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    words: dict[str, list[str]] = {}
    for pid, *said in lines:
        words.setdefault(pid, []).extend(said)
    assert sorted(words.values()) == [["child"], ["parent", "more"]]
    assert done.stderr == ""
