"""A key's limits, held exactly: what a request may cost is held before it is sent.

What is counted is in the file, so that all processes agree; requests a minute are in the store of
failed attempts, when there is one, so that machines do. While a file or store fails, counting goes
on in memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..exceptions import LimitReached
from .keys import StoredKey
from .store import Database, Hold, Most
from .terms import NANO, Budget, iso, period_end, period_name
from .together import Together
from .windows import FileWindows

logger = logging.getLogger(__name__)

MINUTE = 60
SILENCE = 15.0
"""Seconds after which a process that says nothing is taken for dead, and what it holds released."""

WINDOW = "llmauth/requests/"
"""Begins the name of the window in which a key's requests are counted."""

DEFAULT_OUTPUT = 4096
"""Tokens that are held for an answer whose length the request does not limit."""

_Answer = TypeVar("_Answer")


class Ended(Protocol):
    """What a request has used."""

    def write(self, database: Database, process: str) -> None:
        """Have it counted."""


class Windows(Protocol):
    """A ``limits`` storage with a moving window."""

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...


@dataclass(frozen=True)
class Estimate:
    """What a request may use.

    :param prompt: tokens
    :param output: tokens that the request allows at most, None when it does not say
    :param input_rate: billionths of a dollar a token, 0 when the price is not known
    :param output_rate: the same for the answer
    """

    prompt: int
    output: int | None
    input_rate: int = 0
    output_rate: int = 0

    def cost(self, input: int, output: int) -> int:
        """Return the billionths of a dollar for so many tokens."""
        return input * self.input_rate + output * self.output_rate


class Limits:
    """Counts what keys use.

    :param database: the file
    :param process: names this process in it
    :param shared: where requests a minute are counted instead
    :param shared_errors: what that raises when it fails
    """

    def __init__(
        self,
        database: Database,
        process: str,
        shared: Windows | None = None,
        shared_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self.database = database
        self._memory = database
        self._process = process
        self._shared = shared
        self._shared_errors = shared_errors
        self.failing = False
        self._together = Together()
        self._tidied = -math.inf  # Unix time

    def enter(
        self,
        key: StoredKey,
        estimate: Estimate | None,
        flush: Callable[[], bool] = lambda: False,
    ) -> tuple[Database, int] | None:
        """Let a request in, and hold what it may use.

        :param estimate: None for one that another pays for
        :param flush: has written what requests have used that have ended; False when there are none
        :returns: where it is held and as what, to be released when it has ended
        :raises LimitReached: the answer for the client
        """
        terms, requests = key.terms, key.terms.requests_per_minute
        if requests and self._count_in_store(key.name, requests):
            requests = None
        if terms.parallel or (estimate and terms.counts_tokens):
            return self._in_file(lambda file: self._hold(file, key, estimate, requests, flush))
        if requests:
            limit = requests
            self._in_file(lambda file: self._count_request(file, key.name, limit))
        return None

    def fall_back(self, reason: str) -> None:
        """Count in memory from now on, beginning with what the file says."""
        if self.failing:
            return
        logger.error("the database fails (%s): limits are counted in memory until it works", reason)
        self._memory = Database(None)
        with contextlib.suppress(sqlite3.Error):
            self._memory.spend(self.database.all_spent())
        self.failing = True

    def recover(self) -> None:
        """Count in the file again."""
        self.failing = False
        logger.warning("the database works again")

    def note_in_memory(self, ended: Ended) -> None:
        """Count what has ended in memory as well, while it is there that is counted."""
        if self.failing:
            ended.write(self._memory, self._process)

    def used(self, key: StoredKey) -> dict[str, Any]:
        """Return how much of each of its limits a key has used, by their names."""
        database = self._memory if self.failing else self.database
        terms, now, name = key.terms, time.time(), key.name
        used: dict[str, Any] = {}
        if terms.requests_per_minute:
            used["requests_per_minute"] = self._counted(database, name, terms.requests_per_minute)
        if terms.parallel:
            used["parallel"] = database.running(name, now, SILENCE)
        if terms.tokens_per_minute:
            used["tokens_per_minute"] = sum(
                tokens for _, tokens in database.recent_tokens(name, now, MINUTE)
            )
        if terms.tokens_per_day:
            used["tokens_per_day"] = database.spent(name, period_name("day", now))[0]
        if terms.budget:
            period = period_name(terms.budget.period, now)
            used["budget"] = str(Budget(database.spent(name, period)[1], terms.budget.period))
        return used

    def _counted(self, database: Database, name: str, limit: int) -> int:
        if self._shared is not None:
            with contextlib.suppress(*self._shared_errors):
                return self._shared.get_moving_window(_window(name), limit, MINUTE)[1]
        return FileWindows(database).get_moving_window(_window(name), limit, MINUTE)[1]

    def _count_in_store(self, name: str, limit: int) -> bool:
        """Count a request in the store that machines share; False when there is none.

        :raises LimitReached: when as many have been sent within the last minute
        """
        if self._shared is not None:
            # The lockout, which has the same store, says so.
            with contextlib.suppress(*self._shared_errors):
                _count_in(self._shared, name, limit)
                return True
        return False

    def _count_request(self, database: Database, name: str, limit: int) -> None:
        now = time.time()
        self._tidy(database, now)
        window = _window(name)

        def enter(requests: list[None]) -> list[bool] | None:
            fits = database.enter_if(window, limit, now, len(requests))
            return [True] * len(requests) if fits else None

        if not self._together.ask((id(database), window, limit), None, enter):
            _count_in(FileWindows(database), name, limit)

    def _tidy(self, database: Database, now: float) -> None:
        """Once a second say that this process lives, and forget what is over."""
        if 0 <= now - self._tidied < 1.0:
            return
        self._tidied = now
        with database.transaction():
            database.beat(self._process, now)
            database.release_dead(now, SILENCE)
            database.tidy_windows(now, MINUTE)
            database.tidy_tokens(now, MINUTE)

    def _in_file(self, action: Callable[[Database], _Answer]) -> _Answer:
        """Do something in the file, or in memory while that fails."""
        if not self.failing:
            try:
                return action(self.database)
            except sqlite3.Error as exc:
                self.fall_back(str(exc))
        return action(self._memory)

    def _hold(
        self,
        database: Database,
        key: StoredKey,
        estimate: Estimate | None,
        requests: int | None,
        flush: Callable[[], bool],
    ) -> tuple[Database, int]:
        """Hold what a request may use, and count it where requests are counted in the file."""
        now = time.time()
        self._tidy(database, now)
        if (hold := self._hold_if(database, key, estimate, requests, now)) is not None:
            return database, hold
        if requests:
            _count_in(FileWindows(database), key.name, requests)
        try:
            return self._hold_closely(database, key, estimate)
        except LimitReached:
            # A client that sends one request after another does not wait for our bookkeeping.
            if not flush():
                raise
        return self._hold_closely(database, key, estimate)

    def _hold_if(
        self,
        database: Database,
        key: StoredKey,
        estimate: Estimate | None,
        requests: int | None,
        now: float,
    ) -> int | None:
        """Hold the most that a request may use, where there surely is as much."""
        terms, tokens, cost = key.terms, 0, 0
        if estimate:
            output = DEFAULT_OUTPUT if estimate.output is None else estimate.output
            tokens = estimate.prompt + output if terms.counts_tokens else 0
            cost = estimate.cost(estimate.prompt, output) if terms.budget else 0
        budget = terms.budget if estimate else None
        most = Most(
            key.name,
            _window(key.name) if requests else None,
            requests,
            terms.parallel,
            terms.tokens_per_minute if estimate else None,
            terms.tokens_per_day if estimate else None,
            period_name("day", now) if terms.tokens_per_day else "",
            budget.dollars if budget else None,
            period_name(budget.period, now) if budget else "",
        )
        hold: int | None = self._together.ask(
            (id(database), most),
            Hold(tokens, cost),
            lambda holds: database.hold_if(self._process, holds, most, now, MINUTE),
        )
        return hold

    def _hold_closely(
        self, database: Database, key: StoredKey, estimate: Estimate | None
    ) -> tuple[Database, int]:
        terms, now = key.terms, time.time()
        with database.transaction():
            database.tidy_tokens(now, MINUTE)
            held = database.held(key.name)
            if terms.parallel and held.requests >= terms.parallel:
                raise LimitReached(
                    "too_many_parallel_requests",
                    f"The key '{key.name}' may send {terms.parallel} requests at a time, and as "
                    "many are running. Wait for one to end.",
                    retry_after=1,
                )
            tokens = cost = 0
            if estimate:
                meters = list(_token_meters(database, key, held.tokens, now))
                tokens = _fitting(meters, estimate.prompt, estimate.output, DEFAULT_OUTPUT)
                if terms.budget:
                    output, rate = estimate.output, estimate.output_rate
                    cost = _fitting(
                        [_budget_meter(database, key, terms.budget, held.cost, now)],
                        estimate.prompt * estimate.input_rate,
                        None if output is None else output * rate,
                        DEFAULT_OUTPUT * rate,
                    )
            return database, database.hold(self._process, key.name, tokens, cost)


@dataclass(frozen=True)
class _Meter:
    """One limit, and what is left of it.

    :param refusal: makes the refusal of a request that needs more, of how much that is
    """

    left: int
    refusal: Callable[[int], LimitReached]


def _fitting(meters: list[_Meter], prompt: int, output: int | None, default: int) -> int:
    """Return how much is held for a request, which fits into what is left.

    An answer whose length is not limited gets what is left, up to the default: others find
    nothing until it has ended, and small limits can be used.

    :raises LimitReached: when the prompt and what is asked for do not fit
    """
    known = prompt + (output or 0)
    for meter in meters:
        if meter.left <= 0 or known > meter.left:
            raise meter.refusal(known)
    if output is not None:
        return known
    return min([known + default, *(meter.left for meter in meters)])


def _token_meters(
    database: Database, key: StoredKey, held: int, now: float
) -> Iterator[_Meter]:
    name, terms = key.name, key.terms
    if limit := terms.tokens_per_minute:
        recent = database.recent_tokens(name, now, MINUTE)
        left = limit - sum(tokens for _, tokens in recent) - held

        def too_fast(needed: int, limit: int = limit, left: int = left) -> LimitReached:
            wait = _wait(recent, needed - left, now) if needed <= limit else None
            advice = "Try again in a moment." if wait else "Ask for fewer, with max_tokens."
            return LimitReached(
                "rate_limit_exceeded",
                f"The key '{name}' may use {limit} tokens a minute, {max(left, 0)} of them are "
                f"left, and this request may need {needed}. {advice}",
                retry_after=wait,
                headers=_openai_headers("tokens", limit, left, wait),
            )

        yield _Meter(left, too_fast)
    if limit := terms.tokens_per_day:
        used = database.spent(name, period_name("day", now))[0]
        left = limit - used - held
        yield _Meter(left, _used_up(name, "day", f"{used} of {limit} tokens", left, now))


def _budget_meter(
    database: Database, key: StoredKey, budget: Budget, held: int, now: float
) -> _Meter:
    used = database.spent(key.name, period_name(budget.period, now))[1]
    left = budget.dollars - used - held
    told = f"${used / NANO:.2f} of ${budget.dollars / NANO:.2f}"
    return _Meter(left, _used_up(key.name, budget.period, told, left, now))


def _used_up(
    name: str, period: str, told: str, left: int, now: float
) -> Callable[[int], LimitReached]:
    def refusal(needed: int) -> LimitReached:
        when = "in all" if period == "total" else f"this {period}"
        end = period_end(period, now)
        anew = f" It begins anew on {iso(end)}." if end else ""
        more = ", and this request may need more than is left" if left > 0 else ""
        return LimitReached(
            "insufficient_quota",
            f"The key '{name}' has used {told} {when}{more}.{anew}",
            retry_after=end and end - now,
        )

    return refusal


def _wait(recent: list[tuple[float, int]], missing: int, now: float) -> float:
    """Return the seconds until so many tokens have left the minute."""
    for at, tokens in recent:
        missing -= tokens
        if missing <= 0:
            return at + MINUTE - now
    return 1.0  # what is missing is held by requests that are running


def _count_in(windows: Windows, name: str, limit: int) -> None:
    """Count a request.

    :raises LimitReached: when as many have been sent within the last minute
    """
    if windows.acquire_entry(_window(name), limit, MINUTE):
        return
    first, _ = windows.get_moving_window(_window(name), limit, MINUTE)
    wait = max(first + MINUTE - time.time(), 0.001)
    raise LimitReached(
        "rate_limit_exceeded",
        f"The key '{name}' may send {limit} requests a minute, and has sent them. "
        f"The next one is let in in {math.ceil(wait)} s.",
        retry_after=wait,
        headers=_openai_headers("requests", limit, 0, wait),
    )


def _window(name: str) -> str:
    return WINDOW + name


def _openai_headers(
    kind: str, limit: int, left: int, wait: float | None
) -> Iterator[tuple[str, str]]:
    """Yield what OpenAI's clients read of a limit."""
    yield f"x-ratelimit-limit-{kind}", str(limit)
    yield f"x-ratelimit-remaining-{kind}", str(max(left, 0))
    if wait is None:
        yield "x-should-retry", "false"
    else:
        yield f"x-ratelimit-reset-{kind}", f"{math.ceil(wait)}s"
