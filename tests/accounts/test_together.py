"""Threads that ask at the same time: one of them asks for all, and each has its own answer."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from programs import wait_for

from llmauth.accounts.store import Database, Hold, Most
from llmauth.accounts.together import Together


class Asked:
    """What an action was asked for; the first call waits until it may go on."""

    def __init__(self, room: int = 100, error: Exception | None = None) -> None:
        self.calls: list[list[Any]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._room = room
        self._error = error

    def __call__(self, items: list[Any]) -> list[Any] | None:
        self.calls.append(items)
        if len(self.calls) == 1:
            self.begun.set()
            self.go_on.wait(20)
        elif self._error:
            raise self._error
        if len(items) > self._room:
            return None
        self._room -= len(items)
        return [f"answer to {item}" for item in items]


def ask_all(asked: Asked, groups: list[str]) -> list[Any]:
    """Have one thread ask for the first, and the others while that is being answered."""
    together, answers = Together(), [None] * len(groups)

    def ask(number: int) -> None:
        try:
            answers[number] = together.ask(groups[number], number, asked)
        except Exception as exc:
            answers[number] = exc

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(groups))]
    threads[0].start()
    assert asked.begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: len(together._waiting) == len(groups) - 1, "all of them wait")
    asked.go_on.set()
    for thread in threads:
        thread.join(20)
    assert not together._waiting
    assert together.ask("again", 99, lambda items: items) == 99
    return answers


def test_who_waits_is_asked_for_in_one_go():
    asked = Asked()
    answers = ask_all(asked, ["a"] * 6)
    assert answers == [f"answer to {number}" for number in range(6)]
    assert [len(items) for items in asked.calls] == [1, 5]


def test_each_group_is_asked_for_by_itself():
    asked = Asked()
    answers = ask_all(asked, ["a", "a", "b", "a", "b"])
    assert answers == [f"answer to {number}" for number in range(5)]
    assert sorted(sorted(items) for items in asked.calls) == [[0], [1, 3], [2, 4]]


def test_where_there_is_not_room_for_all_there_is_for_some():
    asked = Asked(room=4)
    answers = ask_all(asked, ["a"] * 8)
    assert len([one for one in answers if one is not None]) == 4
    assert answers[0] == "answer to 0"


def test_an_error_is_everybodys():
    answers = ask_all(Asked(error=sqlite3.OperationalError("database is locked")), ["a"] * 4)
    assert answers[0] == "answer to 0"
    assert [str(one) for one in answers[1:]] == ["database is locked"] * 3
    assert len({id(one) for one in answers[1:]}) == 3


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "keys.db")
    yield opened
    opened.close()


def most(**limits: Any) -> Most:
    none = dict.fromkeys(Most._fields)
    return Most(**none | {"key": "alice", "day": "", "period": ""} | limits)


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({}, 5),
        ({"parallel": 3}, 3),
        ({"tokens_per_minute": 450}, 4),
        ({"tokens_per_day": 299, "day": "d"}, 2),
        ({"budget": 20, "period": "p"}, 2),
        ({"requests": 4, "window": "w"}, 4),
    ],
    ids=["none", "parallel", "minute", "day", "budget", "requests"],
)
def test_several_are_held_as_one_after_the_other(database, limits, fits):
    """All that fit in one statement, and not one more; each has an id of its own."""
    now = time.time()
    for number in range(5, 0, -1):
        ids = database.hold_if("one", [Hold(100, 10)] * number, most(**limits), now, 60)
        assert (ids is not None) == (number <= fits)
        if ids:
            break
    assert ids == sorted(set(ids))
    assert database.held("alice") == (fits, 100 * fits, 10 * fits)
    if "window" in limits:
        assert database.window("w", now - 1)[1] == fits
    database.release(ids[1:], "one")
    assert database.held("alice").requests == 1
    again = database.hold_if("one", [Hold(1, 1)], most(parallel=2), now, 60)
    assert again is not None
    assert again[0] not in ids[:1]


@pytest.mark.parametrize(("used", "passes"), [(99, True), (100, False)])
def test_who_holds_nothing_needs_something_left_nevertheless(database, used, passes):
    database.spend([("alice", "d", used, used)])
    for limits in ({"tokens_per_day": 100, "day": "d"}, {"budget": 100, "period": "d"}):
        ids = database.hold_if("one", [Hold(0, 0)], most(**limits), time.time(), 60)
        assert (ids is not None) == passes
        database.release(ids or [], "one")


def test_a_window_with_many_entries_is_counted_without_looking_at_each(database):
    """The steps that SQLite takes stay the same, however full it is."""

    def steps(at: float) -> int:
        taken = [0]
        database._connection.set_progress_handler(lambda: taken.__setitem__(0, taken[0] + 1), 1)
        assert database.enter_if("w", 10**6, at, 1)
        database._connection.set_progress_handler(None, 0)
        return taken[0]

    now = time.time()
    database.enter_if("w", 10**6, now, 1)
    few = steps(now)
    database.enter("w", 10**6, 60, now, 20_000)
    assert steps(now) <= few + 10


def test_tokens_are_kept_by_the_second(database):
    """However many requests a minute has, a key has a row for each of its seconds."""
    now = 1_795_694_400.0
    for number in range(500):
        database.add_tokens([("alice", now - number / 10, 1)])
    assert len(database.recent_tokens("alice", now, 60)) <= 51
    assert sum(tokens for _, tokens in database.recent_tokens("alice", now, 60)) == 500
