"""Threads that ask the file at the same time have one of them ask for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Action = Callable[[list[Any]], "list[Any] | None"]
"""Is given what several ask for; returns an answer for each, None when it has none for them all."""


@dataclass(eq=False)
class _Ask:
    """What one thread asks for, and the answer.

    :param turn: is released once there is an answer, or nobody else who asks
    """

    group: Hashable
    item: Any
    action: Action
    turn: threading.Lock
    is_answered: bool = False
    answer: Any = None
    error: Exception | None = None


@dataclass
class Together:
    """Takes what threads ask for together.

    SQLite gives Python's lock away for each statement, and gets it back when the others please.
    With a statement for each of 32 requests, each of them waits for 31 such times.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[_Ask] = field(default_factory=list)
    _is_asked: bool = False

    def ask(self, group: Hashable, item: Any, action: Action) -> Any:
        """Return the answer to one thing; None when the action has none.

        :param group: what is asked with others of the same
        """
        ask = _Ask(group, item, action, threading.Lock())
        ask.turn.acquire()
        with self._lock:
            self._waiting.append(ask)
            waits, self._is_asked = self._is_asked, True
        if waits:
            ask.turn.acquire()
        if not ask.is_answered:
            self._ask_for_all(ask)
        if ask.error is not None:
            raise type(ask.error)(*ask.error.args) from ask.error
        return ask.answer

    def _ask_for_all(self, own: _Ask) -> None:
        with self._lock:
            asked, self._waiting = self._waiting, []
        groups: dict[Hashable, list[_Ask]] = {}
        for one in asked:
            groups.setdefault(one.group, []).append(one)
        for group in groups.values():
            _answer(group)
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._is_asked = following is not None
        for one in asked:
            if one is not own:
                one.turn.release()
        if following:
            following.turn.release()


def _answer(asks: list[_Ask]) -> None:
    try:
        answers = asks[0].action([one.item for one in asks])
        if answers is None and len(asks) > 1:
            answers = [_first(one.action([one.item])) for one in asks]
        for one, answer in zip(asks, answers or [None] * len(asks), strict=True):
            one.answer = answer
    except Exception as exc:
        for one in asks:
            one.error = exc
    for one in asks:
        one.is_answered = True


def _first(answers: list[Any] | None) -> Any:
    return answers[0] if answers else None
