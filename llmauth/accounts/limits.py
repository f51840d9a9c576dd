"""A key's limits, held exactly: what a request may cost is held before it is sent.

Processes count in the file, so that all of them agree, and one that is alone in memory, which is
quicker; requests a minute are in the store of failed attempts, when there is one, so that machines
agree. While a file or store fails, counting goes on in memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from ..exceptions import LimitReached
from .counts import Counts
from .keys import StoredKey
from .store import LEASE_SECONDS, Database, Lease
from .terms import NANO, Budget, iso, period_end, period_name

logger = logging.getLogger(__name__)

MINUTE = 60
SILENCE = 15.0
"""Seconds after which a process that says nothing is taken for dead, and what it holds released."""

WINDOW = "llmauth/requests/"
"""Begins the name of the window in which a key's requests are counted."""

DEFAULT_OUTPUT = 4096
"""Tokens that are held for an answer whose length the request does not limit."""

_IDLE = 10.0
"""Seconds without any request after which a process gives its lease back."""

_TOGETHER = 600.0
"""Seconds for which processes that have met count in the file."""

_POLL = 0.02

Tally = Counts | Database
"""Where it is counted; to be used within its ``transaction``."""

_Answer = TypeVar("_Answer")


class _TooOftenError(LimitReached):
    """More requests within a minute than a key may send: that is not for us to mend."""


class Windows(Protocol):
    """A ``limits`` storage with a moving window."""

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...


class Estimate(NamedTuple):
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


class Limits:
    """Counts what keys use.

    The only process that counts has a lease on the counts, and has them in memory: it tells the
    file of them, and prolongs the lease, twice a second. A second one asks for them and waits until
    they are in the file, where both count from then on.

    :param database: the file
    :param process: names this process in it
    :param shared: where requests a minute are counted instead
    :param shared_errors: what that raises when it fails
    :param unwritten: returns what counts that which has ended, and is not in the file yet
    :param held: returns what requests hold that run, or have yet to be counted
    """

    def __init__(
        self,
        database: Database,
        process: str,
        shared: Windows | None = None,
        shared_errors: tuple[type[Exception], ...] = (),
        unwritten: Callable[[], Callable[[Tally], None]] = lambda: lambda tally: None,
        held: Callable[[], set[int]] | None = None,
    ) -> None:
        self.database = database
        self._process = process
        self._shared = shared
        self._shared_errors = shared_errors
        self._unwritten = unwritten
        self._held = held
        self.failing = False
        self._counts: Counts | None = None
        self._falling_back = threading.Lock()
        # Of the monotonic clock: the lease's end, and as it will be once it is in the file; the
        # last use; the last failure; and when to try for a lease again.
        self._until = self._prolonged = self._used = self._failed = self._alone_again = -math.inf
        self._has_asked = False
        self._tidied = -math.inf  # Unix time

    def enter(
        self,
        key: StoredKey,
        estimate: Estimate | None,
        flush: Callable[[], bool] = lambda: False,
    ) -> int | None:
        """Let a request in, and hold what it may use.

        :param estimate: None for one that another pays for
        :param flush: has it counted what requests have used that have ended; False when that makes
            no difference
        :returns: the id of what is held, to be released when it has ended
        :raises LimitReached: the answer for the client
        """
        terms, requests = key.terms, key.terms.requests_per_minute
        if requests and self._count_in_store(key.name, requests):
            requests = None
        estimate = estimate if terms.counts_tokens else None
        if not (requests or terms.parallel or estimate):
            return None

        def enter(tally: Tally) -> int | LimitReached | None:
            try:
                return _enter(tally, self._process, key, estimate, requests)
            except LimitReached as refusal:  # nothing is wrong with the transaction
                return refusal

        entered = self._count(enter)
        may_be_late = isinstance(entered, LimitReached) and not isinstance(entered, _TooOftenError)
        if may_be_late and flush():
            # A client that sends one request after another does not wait for our bookkeeping.
            entered = self._count(enter)
        if isinstance(entered, LimitReached):
            raise entered
        return entered

    def fall_back(self, reason: str) -> None:
        """Count in memory from now on, beginning with what the file says."""
        with self._falling_back:
            if (counts := self._counts) is None:
                loaded, count = Counts(), self._unwritten()
                with contextlib.suppress(sqlite3.Error), self.database.snapshot():
                    self._load(loaded)
                count(loaded)
                counts = self._counts or loaded
            counts.is_closed = False
            self._counts = counts
            if not self.failing:
                self.failing = True
                logger.error(
                    "the database fails (%s): limits are counted in memory until it works", reason
                )

    def reopen(self, database: Database) -> None:
        """Count in another file, which took the place of the first."""
        self.fall_back("the file is another one")
        self.database = database
        if counts := self._counts:
            counts.tell_holds_again()

    def note(self, write: Callable[[Tally], None]) -> None:
        """Have it counted what requests have used, where that is done in memory."""
        if counts := self._counts:
            counts.tidy(time.time(), MINUTE)
            with counts.transaction():
                write(counts)

    @property
    def in_memory(self) -> bool:
        """True while this process counts there, as it is alone or the file fails."""
        return self._counts is not None

    @property
    def is_used(self) -> bool:
        """False when there is nothing to be told or decided by :meth:`sync`."""
        return self._counts is not None or time.monotonic() - self._used < _IDLE

    def sync(self, *, spent: bool = False, last: bool = False) -> None:
        """Tell the file what was counted in memory, and decide where to count from now on.

        Within a transaction of the one thread that writes; when that is done, :meth:`synced` has to
        be called.

        :param spent: in this transaction, for requests that have ended
        :param last: this process counts nothing more
        """
        now, clock, counts = time.time(), time.monotonic(), self._counts
        if counts and self.failing:
            counts.tell_holds_again()
        if counts and self._held:
            # Whoever began to count in memory while another thread wrote may have missed that.
            self.database.release(counts.release_strays(self._held()), self._process)
        self._tidy(now, clock)
        lease = self.database.lease()
        if lease and lease.process == self._process and lease.wanted:
            self._alone_again = clock + _TOGETHER
        elif spent and lease and lease.process != self._process:
            self.database.want_lease()  # who has the counts does not know of it
        if not last and self._may_be_alone(lease, now, clock):
            if counts is None:
                counts = Counts()
                self._load(counts)
                counts = self._counts = self._counts or counts
            counts.write(self.database, self._process)
            self._prolonged = clock + LEASE_SECONDS
            self.database.take_lease(self._process, self._prolonged)
        elif counts is not None:
            with counts.transaction():
                counts.is_closed = True
            counts.write(self.database, self._process)
            self._prolonged = -math.inf
            self.database.end_lease(self._process)

    def synced(self) -> None:
        """Take note that the file has what it was told by :meth:`sync`."""
        self._until = self._prolonged
        if self._counts is not None:
            self._counts.written()
            if self._counts.is_closed:
                self._counts = None
        if self.failing:
            self.failing = False
            logger.warning("the database works again")

    def used(self, key: StoredKey) -> dict[str, Any]:
        """Return how much of each of its limits a key has used, by their names."""
        counts = self._counts
        if counts is None or counts.is_closed:
            return self._used_of(self.database, key)
        with counts.transaction():
            return self._used_of(counts, key)

    def _used_of(self, tally: Tally, key: StoredKey) -> dict[str, Any]:
        terms, now, name = key.terms, time.time(), key.name
        used: dict[str, Any] = {}
        if terms.requests_per_minute:
            used["requests_per_minute"] = self._counted(tally, name, terms.requests_per_minute, now)
        if terms.parallel:
            used["parallel"] = tally.running(name, now, SILENCE)
        if terms.tokens_per_minute:
            used["tokens_per_minute"] = tally.recent_sum(name, now, MINUTE)
        if terms.tokens_per_day:
            used["tokens_per_day"] = tally.spent(name, period_name("day", now))[0]
        if terms.budget:
            period = period_name(terms.budget.period, now)
            used["budget"] = str(Budget(tally.spent(name, period)[1], terms.budget.period))
        return used

    def _counted(self, tally: Tally, name: str, limit: int, now: float) -> int:
        if self._shared is not None:
            with contextlib.suppress(*self._shared_errors):
                return self._shared.get_moving_window(_window(name), limit, MINUTE)[1]
        return tally.window(_window(name), now, MINUTE)[1]

    def _count_in_store(self, name: str, limit: int) -> bool:
        """Count a request in the store that machines share; False when there is none.

        :raises LimitReached: when as many have been sent within the last minute
        """
        if self._shared is None:
            return False
        with contextlib.suppress(*self._shared_errors):  # the lockout, which has it too, says so
            if not self._shared.acquire_entry(_window(name), limit, MINUTE):
                first, _ = self._shared.get_moving_window(_window(name), limit, MINUTE)
                raise _too_often(name, limit, first, time.time())
            return True
        return False

    def _count(self, action: Callable[[Tally], _Answer]) -> _Answer:
        """Do something where counting is done, with nobody else in between."""
        while True:
            self._used = time.monotonic()
            if (counts := self._counts) is not None:
                with counts.transaction():
                    is_ours = self.failing or time.monotonic() < self._until
                    if is_ours and not counts.is_closed:
                        return action(counts)
            try:
                with self.database.transaction():
                    if self._is_in_file():
                        self._tidy(time.time(), time.monotonic())
                        return action(self.database)
            except sqlite3.Error as exc:
                self.fall_back(str(exc))
            else:
                time.sleep(_POLL)

    def _is_in_file(self) -> bool:
        """Say whether counting is done in the file, and see to it that it can be done somewhere."""
        lease, counts, clock = self.database.lease(), self._counts, time.monotonic()
        is_ours = lease is not None and lease.process == self._process
        if lease and not is_ours and lease.is_valid(clock):
            self.database.want_lease()
            self._has_asked = True
            return False
        if counts and not counts.is_closed:
            if lease and is_ours and not lease.wanted:  # the writer is late
                self._until = self._prolonged = clock + LEASE_SECONDS
                self.database.take_lease(self._process, self._until)
            return False  # in memory, or in the file when the writer has handed it in
        if counts and is_ours:
            return False  # it has yet to succeed in that
        if lease:
            self.database.end_lease(lease.process)  # of a process that is dead, or was stopped
        elif self._has_asked:
            self._alone_again = clock + _TOGETHER
        self._has_asked = False
        return True

    def _may_be_alone(self, lease: Lease | None, now: float, clock: float) -> bool:
        """Say whether to count in memory; counts are gone on with where none but we could count."""
        is_ours = lease is not None and lease.process == self._process
        return (
            clock >= self._alone_again
            and clock - self._used < _IDLE
            and not (lease and not is_ours and lease.is_valid(clock))
            and (self._counts is None or (is_ours and self._counts.is_of_today(now)))
            and not self.database.others(self._process, now, SILENCE)
        )

    def _load(self, counts: Counts) -> None:
        counts.load(self.database, self._process, time.time(), MINUTE)

    def _tidy(self, now: float, clock: float) -> None:
        """Once a second say that this process lives, and forget what is over."""
        if 0 <= now - self._tidied < 1.0:
            return
        self._tidied = now
        self.database.beat(self._process, now)
        self._failed = clock if self.failing else self._failed
        if clock - self._failed > SILENCE:  # others could not say so either
            self.database.release_dead(now, SILENCE)
        self.database.tidy(now, MINUTE)


def _enter(
    tally: Tally, process: str, key: StoredKey, estimate: Estimate | None, requests: int | None
) -> int | None:
    """Count a request and hold what it may use, if all of it fits.

    :raises LimitReached: when not, and nothing is counted
    """
    now, name, hold = time.time(), key.name, None
    if requests:
        first, number = tally.window(_window(name), now, MINUTE)
        if number >= requests:
            raise _too_often(name, requests, first or now, now)
    if key.terms.parallel or estimate:
        tokens, cost = _needed(tally, key, estimate, now)
        hold = tally.hold(process, name, tokens, cost)
    if requests:
        tally.add_entries([(_window(name), now)])
    return hold


def _needed(
    tally: Tally, key: StoredKey, estimate: Estimate | None, now: float
) -> tuple[int, int]:
    """Return the tokens and dollars to be held for a request.

    :raises LimitReached: when there are not as many left
    """
    terms, name, held = key.terms, key.name, tally.held(key.name)
    if terms.parallel and held.requests >= terms.parallel:
        raise LimitReached(
            "too_many_parallel_requests",
            f"The key '{name}' may send {terms.parallel} requests at a time, and as "
            "many are running. Wait for one to end.",
            retry_after=1,
        )
    if estimate is None:
        return 0, 0
    refusal = partial(_refusal, tally, name, now)
    output, rate, cost = estimate.output, estimate.output_rate, 0
    meters = []
    if limit := terms.tokens_per_minute:
        used = tally.recent_sum(name, now, MINUTE)
        meters.append(_Meter("minute", limit, used, limit - used - held.tokens))
    if limit := terms.tokens_per_day:
        used = tally.spent(name, period_name("day", now))[0]
        meters.append(_Meter("day", limit, used, limit - used - held.tokens))
    tokens = _fitting(meters, refusal, estimate.prompt, output, DEFAULT_OUTPUT)
    if budget := terms.budget:
        used = tally.spent(name, period_name(budget.period, now))[1]
        left = budget.dollars - used - held.cost
        cost = _fitting(
            [_Meter(budget.period, budget.dollars, used, left, in_dollars=True)],
            refusal,
            estimate.prompt * estimate.input_rate,
            None if output is None else output * rate,
            DEFAULT_OUTPUT * rate,
        )
    return tokens, cost


class _Meter(NamedTuple):
    """One limit, and what is left of it: tokens, or billionths of a dollar."""

    period: str
    limit: int
    used: int
    left: int
    in_dollars: bool = False


def _fitting(
    meters: list[_Meter],
    refusal: Callable[[_Meter, int], LimitReached],
    prompt: int,
    output: int | None,
    default: int,
) -> int:
    """Return how much is held for a request, which fits into what is left.

    An answer whose length is not limited gets what is left, up to the default: others find
    nothing until it has ended, and small limits can be used.

    :param refusal: makes that of a limit, and of how much is needed
    :raises LimitReached: when the prompt and what is asked for do not fit
    """
    known = prompt + (output or 0)
    for meter in meters:
        if meter.left <= 0 or known > meter.left:
            raise refusal(meter, known)
    if output is not None:
        return known
    return min([known + default, *(meter.left for meter in meters)])


def _refusal(tally: Tally, name: str, now: float, meter: _Meter, needed: int) -> LimitReached:
    if meter.period == "minute":
        recent = tally.recent_tokens(name, now, MINUTE)
        return _too_many(name, meter.limit, recent, meter.left, now, needed)
    told = f"{meter.used} of {meter.limit} tokens"
    if meter.in_dollars:
        told = f"${meter.used / NANO:.2f} of ${meter.limit / NANO:.2f}"
    when = "in all" if meter.period == "total" else f"this {meter.period}"
    end = period_end(meter.period, now)
    anew = f" It begins anew on {iso(end)}." if end else ""
    more = ", and this request may need more than is left" if meter.left > 0 else ""
    return LimitReached(
        "insufficient_quota",
        f"The key '{name}' has used {told} {when}{more}.{anew}",
        retry_after=end and end - now,
    )


def _too_many(
    name: str, limit: int, recent: list[tuple[float, int]], left: int, now: float, needed: int
) -> LimitReached:
    """Return the refusal of a request whose tokens do not fit into the minute."""
    wait = _wait(recent, needed - left, now) if needed <= limit else None
    advice = "Try again in a moment." if wait else "Ask for fewer, with max_tokens."
    return LimitReached(
        "rate_limit_exceeded",
        f"The key '{name}' may use {limit} tokens a minute, {max(left, 0)} of them are "
        f"left, and this request may need {needed}. {advice}",
        retry_after=wait,
        headers=_openai_headers("tokens", limit, left, wait),
    )


def _wait(recent: list[tuple[float, int]], missing: int, now: float) -> float:
    """Return the seconds until so many tokens have left the minute."""
    for at, tokens in recent:
        missing -= tokens
        if missing <= 0:
            return at + MINUTE - now
    return 1.0  # what is missing is held by requests that are running


def _too_often(name: str, limit: int, first: float, now: float) -> _TooOftenError:
    """Return the refusal of a request when as many have been sent within the last minute.

    :param first: when the first of them was
    """
    wait = max(first + MINUTE - now, 0.001)
    return _TooOftenError(
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
