"""What keys have used of their limits, counted in memory: quicker than in the file, and as exact.

For the process that has the file to itself, and for each of them while the file fails.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from .store import Database, Held, HoldRow, new_hold_id
from .terms import PERIODS, period_name

_SHORT = 1.0
"""Seconds of a request whose hold is not worth a row in the file."""

_LATCHED = 0.0005
"""Seconds between two looks at a lock that another thread has."""

_NOTHING = Held(0, 0, 0)


class _Recent:
    """Numbers and their moments, the oldest first, and the sum of them."""

    def __init__(self) -> None:
        self.numbers: deque[tuple[float, int]] = deque()
        self.sum = 0

    def add(self, at: float, number: int) -> None:
        self.sum += number
        if self.numbers and self.numbers[-1][0] == at:
            number += self.numbers.pop()[1]
        self.numbers.append((at, number))

    def forget(self, since: float, now: float) -> None:
        """Drop what is older; what is from the future, by a clock that was wrong, is from now."""
        numbers = self.numbers
        if numbers and numbers[-1][0] > now:
            self.numbers = numbers = deque((min(at, now), number) for at, number in numbers)
        while numbers and numbers[0][0] <= since:
            self.sum -= numbers.popleft()[1]


class _Latch:
    """A lock that is polled.

    Whoever blocks on an ordinary one is woken with it, only to queue for Python's own behind every
    thread that is busy, and all that need the lock queue up meanwhile: once begun, for minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        while not self._lock.acquire(blocking=False):
            time.sleep(_LATCHED)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Counts:
    """Counts as the file does, by the same methods: see `Database`. `write` tells the file."""

    def __init__(self) -> None:
        self.is_closed = False
        """It is counted elsewhere from now on."""

        self._lock = _Latch()
        self._entries: defaultdict[str, _Recent] = defaultdict(_Recent)
        self._tokens: defaultdict[str, _Recent] = defaultdict(_Recent)
        self._spent: dict[tuple[str, str], tuple[int, int]] = {}
        self._periods: set[str] = set()  # of which it has what was used before
        self._holds: dict[int, tuple[HoldRow, float]] = {}  # with when they began
        self._held: dict[str, Held] = {}
        self._new_entries: list[tuple[str, float]] = []
        self._told_entries = 0  # of the new ones, which may yet be rolled back
        self._in_file: set[int] = set()  # holds
        self._told_holds: list[HoldRow] = []
        self._tidied = -math.inf

    def load(self, database: Database, process: str, now: float, seconds: float) -> None:
        """Begin with what the file says.

        :param process: whose requests run
        :param seconds: of a moving window
        """
        self._periods = _periods(now)
        for window, at in database.all_entries(now - seconds):
            self._entries[window].add(at, 1)
        for key, at, tokens in database.all_tokens(now - seconds):
            self._tokens[key].add(at, tokens)
        for key, period, tokens, cost in database.all_spent(self._periods):
            self._spent[key, period] = tokens, cost
        for row in database.all_holds(process):
            self._add_hold(row)
            self._in_file.add(row.id)

    def write(self, database: Database, process: str) -> None:
        """Tell the file what it does not know, within a transaction; then comes :meth:`written`."""
        with self._lock:
            entries = self._new_entries[:]
            begun = math.inf if self.is_closed else time.monotonic() - _SHORT
            holds = [
                row
                for row, at in self._holds.values()
                if at <= begun and row.id not in self._in_file
            ]
            self._told_entries, self._told_holds = len(entries), holds
        database.add_entries(entries)
        database.add_holds(process, holds)

    def written(self) -> None:
        """Take note that the transaction is over: until then it is told again."""
        with self._lock:
            del self._new_entries[: self._told_entries]
            self._in_file.update(row.id for row in self._told_holds if row.id in self._holds)
            self._told_entries, self._told_holds = 0, []

    def is_of_today(self, now: float) -> bool:
        """False once the calendar has another period, of which the file may know what was used."""
        return self._periods == _periods(now)

    def tell_holds_again(self) -> None:
        """Have all that is held written, as the file may have lost it."""
        with self._lock:
            self._in_file.clear()

    def release_strays(self, known: set[int]) -> list[int]:
        """Give back what is held for no request any more, and return what that was.

        :param known: held by requests that run, or have yet to be counted
        """
        with self._lock:
            begun = time.monotonic() - _SHORT
            strays = [id for id, (_, at) in self._holds.items() if at < begun and id not in known]
            self.release(strays, "")
        return strays

    def tidy(self, now: float, seconds: float) -> None:
        """Forget what is over, once a second."""
        if 0 <= now - self._tidied < 1.0:
            return
        self._tidied = now
        with self._lock:
            over = sum(1 for _ in takewhile(lambda new: new[1] <= now - seconds, self._new_entries))
            del self._new_entries[:over]
            self._told_entries = max(0, self._told_entries - over)
            for recent in (self._entries, self._tokens):
                for name in [*recent]:
                    recent[name].forget(now - seconds, math.ceil(now))
                    if not recent[name].numbers:
                        del recent[name]

    def transaction(self) -> contextlib.AbstractContextManager[Any]:
        return self._lock

    def add_entries(self, entries: Iterable[tuple[str, float]]) -> None:
        for window, at in entries:
            self._entries[window].add(at, 1)
            self._new_entries.append((window, at))

    def window(self, window: str, now: float, seconds: float) -> tuple[float | None, int]:
        recent = self._entries[window]
        recent.forget(now - seconds, now)
        return recent.numbers[0][0] if recent.numbers else None, recent.sum

    def hold(self, process: str, key: str, tokens: int, cost: int) -> int:
        row = HoldRow(new_hold_id(), key, tokens, cost)
        self._add_hold(row)
        return row.id

    def _add_hold(self, row: HoldRow) -> None:
        self._holds[row.id] = row, time.monotonic()
        requests, tokens, cost = self.held(row.key)
        self._held[row.key] = Held(requests + 1, tokens + row.tokens, cost + row.cost)

    def held(self, key: str) -> Held:
        return self._held.get(key, _NOTHING)

    def release(self, holds: Iterable[int], process: str) -> None:
        for number in holds:
            if found := self._holds.pop(number, None):
                row = found[0]
                requests, tokens, cost = self._held.pop(row.key)
                if requests > 1:
                    self._held[row.key] = Held(requests - 1, tokens - row.tokens, cost - row.cost)
                self._in_file.discard(number)

    def add_tokens(self, used: Iterable[tuple[str, float, int]]) -> None:
        for key, at, tokens in used:
            self._tokens[key].add(math.ceil(at), tokens)

    def recent_sum(self, key: str, now: float, seconds: float) -> int:
        recent = self._tokens[key]
        recent.forget(now - seconds, math.ceil(now))
        return recent.sum

    def recent_tokens(self, key: str, now: float, seconds: float) -> list[tuple[float, int]]:
        recent = self._tokens[key]
        recent.forget(now - seconds, math.ceil(now))
        return [*recent.numbers]

    def spend(self, used: Iterable[tuple[str, str, int, int]]) -> None:
        for key, period, tokens, cost in used:
            before = self._spent.get((key, period), (0, 0))
            self._spent[key, period] = before[0] + tokens, before[1] + cost

    def spent(self, key: str, period: str) -> tuple[int, int]:
        return self._spent.get((key, period), (0, 0))

    def running(self, key: str, now: float, silence: float) -> int:
        return self.held(key).requests


def _periods(now: float) -> set[str]:
    """Return the names of the calendar's current periods."""
    return {period_name(period, now) for period in PERIODS}
