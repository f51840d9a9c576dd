"""Who is read first, while more is ready than can be read at a time."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest

from llmauth.server import polling
from llmauth.server.polling import Poller

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="there is no poll to order")


class Connection:
    """One that is always ready, and notes when it is read."""

    accepting = False

    def __init__(self, name: str, order: list[str], *, is_let_in: bool = False) -> None:
        self.name = name
        self.is_let_in = is_let_in
        self._order = order
        self.near, self.far = socket.socketpair()
        self.far.send(b"x")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._order.append(self.name)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def order(monkeypatch):
    monkeypatch.setattr(polling, "READING_SECONDS", -1.0)  # for one only
    return []


def polled(times: int, *connections: Connection) -> None:
    with contextlib.ExitStack() as stack:
        for one in connections:
            stack.callback(one.close)
        poller = Poller({one.near.fileno(): one for one in connections}, lambda: False)
        for _ in range(times):
            poller.poll(0.0)


def test_whoever_was_let_in_is_read_before_the_others_and_each_time(order):
    strangers = [Connection(name, order) for name in "abc"]
    known = Connection("known", order, is_let_in=True)
    polled(2, *strangers, known)
    assert [name for name in order if name == "known"] == ["known"] * 2
    assert order[0] == order[2] == "known"


def test_the_others_are_read_in_turn(order):
    polled(6, *[Connection(name, order) for name in "abc"])
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3:] == order[:3]


def test_with_time_enough_all_are_read_at_once(order, monkeypatch):
    monkeypatch.setattr(polling, "READING_SECONDS", 60.0)
    polled(1, *[Connection(name, order) for name in "abc"])
    assert sorted(order) == ["a", "b", "c"]


def test_one_that_another_has_closed_is_passed_over(order):
    first, second = Connection("a", order), Connection("b", order)
    connections = {one.near.fileno(): one for one in (first, second)}

    def close_the_other() -> None:
        order.append("a")
        connections.pop(second.near.fileno(), None)

    first.is_let_in = True
    first.handle_read_event = close_the_other
    Poller(connections, lambda: False).poll(0.0)
    first.close()
    second.close()
    assert order == ["a"]
