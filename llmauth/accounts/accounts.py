"""The accounts of one process: who a key is, what its requests may use, and what they have used.

One thread writes what has ended, and follows what commands and other processes change in the file.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..exceptions import ConfigurationError, InvalidKey, NotAllowed, RequestRefused
from ..redact.controls import visible
from . import counters
from .asked import Asked
from .grant import Grant, Sent, Settled, estimate_of, write_settled
from .keys import Directory, Secret, StoredKey
from .limits import Limits, Windows
from .meter import Meter
from .prices import NO_PRICES, Prices
from .report import remaining
from .store import BUSY_SECONDS, MAX_LOCKOUTS, Database, explained
from .usage import Usage

logger = logging.getLogger("llmauth.accounts")

TICK = 0.5
"""Seconds between two looks at the file, when what has ended is written as well: a change counts
within two seconds."""

MAX_WAITING = 100_000
"""Ended requests that wait to be written while the file fails; those on top of them are lost."""

MAX_BATCHES = 256
"""Of compressed answers that wait to be decoded, of 64 KiB each; then who reads them decodes."""

BATCH = 100
"""Ended requests that are read before the next tick: each keeps both ends of its answer."""

MAX_NAMES = 1000
"""Of models, as they are written, which are remembered."""

_TWICE = (
    "The key '{}' is in the database {} as well as in the environment or a key file. Give one of "
    "them another name."
)
_PRUNED = 1000  # requests that are forgotten at a time
_PRUNING = 3600.0
_GATHERING = 0.05
_FLUSHING = 1.0
_BEAT = 5.0
_CLOSING = 5.0
_TRYING = 4.0  # seconds, all of them


class Accounts:
    """The stored keys of an application, and what they use.

    :param path: of the database
    :param reserved: names of the keys that are configured elsewhere
    :param windows: a ``limits`` storage that counts requests a minute in place of the file
    :param windows_errors: what it raises when it fails
    :param prices: of models
    :param keep_days: for which single requests are kept; totals are kept for good
    :param masked: masks secrets in what is written, as clients choose the names of models
    :raises ConfigurationError: when the database cannot be used, or a name is taken twice
    """

    def __init__(
        self,
        path: Path,
        *,
        reserved: Iterable[str] = (),
        windows: Windows | None = None,
        windows_errors: tuple[type[Exception], ...] = (),
        prices: Prices | None = None,
        keep_days: int = 90,
        masked: Callable[[str], str] = str,
    ) -> None:
        self._path = path
        self._prices = prices or Prices()
        self._keep_days = keep_days
        self._masked = masked
        self._windows = windows, windows_errors
        self._reserved = {name.lower() for name in reserved}
        self.on_clear: Callable[[str], None] = lambda address: None
        """Is told of each address that is to be let in again."""

        self.directory = Directory()
        self.told_models: dict[str, None] = {}
        """Those that metrics tell apart, in the order in which they were first seen."""

        self._database = Database(path)
        self._begin()
        with explained(path):
            self._follow()
            # A server may fork after the application was made: its children inherit no connection.
            self._database.close()
        if hasattr(os, "register_at_fork"):
            begin = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (method := begin()) and method())
        for name in self._named_twice():
            raise ConfigurationError(_TWICE.format(name, path))
        if self.lacks_prices:
            logger.warning("%s.", NO_PRICES)

    @property
    def lacks_prices(self) -> bool:
        """True when a key has a budget, and no price is known."""
        budgets = any(key.terms.budget for key in self.directory.keys.values())
        return budgets and not self._prices.are_known

    def _named_twice(self) -> list[str]:
        return [name for name in self.directory.keys if name.lower() in self._reserved]

    @property
    def state(self) -> str:
        """Say for ``/readyz`` whether the file works."""
        if not self._limits.failing:
            return "ok"
        return f"the database fails, {len(self._unwritten)} requests not written"

    def name_of(self, token: bytes) -> str | None:
        """Return the name of the key that a token is, in whatever state."""
        if self._thread is None:
            self._start()
        return self.directory.name_of(token)

    def admit(self, token: bytes, client: str) -> Secret | None:
        """Return what is known of a token that is a stored key, None when it is none.

        :param client: the client's address
        :raises InvalidKey: for a key that was withdrawn, or has expired
        :raises NotAllowed: for an address from which it may not be used
        """
        secret = self.directory.find(token)
        if secret is None:
            return None
        if fault := secret.fault(time.time()):
            raise InvalidKey(fault)
        if not secret.key.terms.allows_address(client):
            raise NotAllowed(
                "address", f"The key '{secret.key.name}' may not be used from {client}."
            )
        return secret

    @property
    def database(self) -> Database:
        """The file, for commands that come through the server."""
        return self._database

    def record(self, key: StoredKey) -> dict[str, Any]:
        """Return a key as JSON has it, with what it has used of its limits, and what is left."""
        used = self._limits.used(key)
        return key.record(used) | remaining(key.terms, used, time.time())

    def running(self, key: str | None = None) -> int:
        """Return how many requests run in this process, of one key or of all."""
        return sum(key in (None, grant.sent.key) for grant in list(self._running))

    def reload(self) -> None:
        """Follow now what has changed in the file."""
        with self._lock:
            self._guarded(self._follow)

    def enter(self, sent: Sent) -> Grant:
        """Let a request run.

        :raises NotAllowed: when its key may not use that backend or model
        :raises LimitReached: when it has used up what it may
        """
        try:
            hold = self._allow(sent, sent.secret.key) if sent.secret else None
        except RequestRefused as refusal:
            Grant(sent, None, self._end, self._hand_over).end(refusal.error_code, refusal.code)
            raise
        grant = Grant(sent, hold, self._end, self._hand_over)
        self._running.add(grant)
        if sent.secret:
            self._used[sent.secret.key.name] = time.time()
        return grant

    def _allow(self, sent: Sent, key: StoredKey) -> int | None:
        check_allowed(key, sent.backend, sent.asked)
        estimate = estimate_of(sent, self._prices) if key.terms.counts_tokens else None
        return self._limits.enter(key, estimate, partial(self._flush, self._passes))

    def _flush(self, passes: int) -> bool:
        """Wait until what has ended is counted; False when there is nothing, or no time.

        :param passes: there had been by then
        """
        uncounted = self._unwritten and not self._limits.in_memory
        if not (self._ended or self._settling or uncounted):
            return self._passes != passes
        written = threading.Event()
        self._flushing.append(written)
        self._hurried.set()
        self._woken.set()
        return written.wait(_FLUSHING)

    def note_block(self, address: str, seconds: float) -> None:
        """Have it written that an address is locked out."""
        if len(self._blocks) < MAX_LOCKOUTS:
            self._blocks[address] = time.time() + seconds
        self._noted.append(("lockouts",))

    def note_refused(self, reason: str) -> None:
        """Have it counted that a request was not let in; safe from any thread."""
        if len(self._noted) < MAX_WAITING:
            self._noted.append(("refused", reason))

    def _end(self, grant: Grant) -> None:
        self._running.discard(grant)
        if self._thread is None:
            self._start()
        self._ended.append(grant)
        # What is held in memory can wait for the next tick: who needs it flushes.
        if len(self._ended) >= BATCH or (grant.hold and not self._limits.in_memory):
            self._woken.set()

    def _hand_over(self, meter: Meter) -> bool:
        if len(self._undecoded) >= MAX_BATCHES:
            return False
        self._undecoded.append(meter)
        self._woken.set()
        return True

    def close(self) -> None:
        """Write what has ended, release what is held, and end the thread."""
        self._closing = True
        atexit.unregister(self.close)
        if self._thread is None:  # it was not used, or in the parent of this process only
            self._database.close()
            return
        self._hurried.set()
        self._woken.set()
        self._thread.join(_CLOSING)
        if left := len(self._ended) + len(self._unwritten) + self._lost:
            logger.error("%d requests were not written to the database in time", left)
        with contextlib.suppress(sqlite3.Error):
            self._database.end_process(self._process)
        self._database.close()

    def _begin(self) -> None:
        """Begin anew; in the child of a fork, the thread and what runs are the parent's."""
        self._running: set[Grant] = set()
        self._process = secrets.token_hex(8)
        self._limits = Limits(
            self._database,
            self._process,
            *self._windows,
            unwritten=lambda: partial(write_settled, [*self._unwritten], process=self._process),
            held=self._held,
        )
        self._ended: deque[Grant] = deque()
        self._undecoded: deque[Meter] = deque()
        self._unwritten: list[Settled] = []
        self._names: dict[str, str] = {}
        self._unpriced: set[str] = set()
        self._awaited: dict[str, Usage] = {}
        self._noted: deque[counters.Counter] = deque()
        self._counts: counters.Counts = defaultdict(float)
        self._settling = False
        self._passes = 0
        self._flushing: deque[threading.Event] = deque()
        self._used: dict[str, float] = {}
        self._blocks: dict[str, float] = {}
        self._cleared = time.time()
        self._woken, self._hurried = _Wake(), _Wake()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._lost = 0
        self._revision = -1
        self._next_beat = self._next_pruning = 0.0

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closing:
                return
            self._guarded(self._follow)
            if self._thread is not None:  # the garbage collection has ended a request meanwhile
                return
            # Started late: a server may fork after the application was made.
            thread = threading.Thread(target=self._run, name="llmauth-accounts", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread is left: the next one may be
                thread.start()
                self._thread = thread
                atexit.register(self.close)  # other servers end without a word

    def _run(self) -> None:
        next_tick = 0.0
        while True:
            if self._woken.wait(max(0.0, next_tick - time.monotonic())):
                self._hurried.wait(_GATHERING)  # many are written in the time of one
            self._woken.clear()
            self._hurried.clear()
            if self._closing:
                self._write_the_last()
                return
            waiting = self._settle()
            ticks = time.monotonic() >= next_tick
            if ticks or waiting or self._is_urgent:
                self._guarded(self._write, waiting)
            if ticks:
                next_tick = time.monotonic() + TICK
                self.reload()
                self._cut_withdrawn()

    @property
    def _is_urgent(self) -> bool:
        """True when the file holds what requests that have ended do not need any more."""
        return not self._limits.in_memory and any(one.hold for one in self._unwritten)

    def _write_the_last(self) -> None:
        """Write what has ended, again and again while somebody else holds the file."""
        until, waiting = time.monotonic() + _TRYING, self._settle()
        while not self._guarded(self._write, waiting, True) and time.monotonic() < until:
            time.sleep(_GATHERING)

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> bool:
        """Do something with the file; while that fails, counting goes on in memory."""
        try:
            if self._database.is_replaced:
                self._reopen()
            action(*arguments)
            return True
        except (sqlite3.Error, ConfigurationError) as exc:
            self._limits.fall_back(str(exc))
        except Exception:
            logger.exception("unexpected error while the database was used")
        return False

    def _reopen(self) -> None:
        if not self._path.exists():
            raise ConfigurationError("the file is gone")
        before, self._database = self._database, Database(self._path)
        before.close()
        self._revision = -1
        self._limits.reopen(self._database)

    def _held(self) -> set[int]:
        """Return what requests hold; for the thread that settles them."""
        holds = [grant.hold for grant in list(self._running)]
        holds += [grant.hold for grant in list(self._ended)]
        holds += [one.hold for one in self._unwritten]
        return {hold for hold in holds if hold is not None}

    def _settle(self) -> int:
        """Read what has ended, and have it counted where that is done in memory.

        :returns: how many wait until it is counted in the file
        """
        waiting, new = len(self._flushing), []
        self._settling = True
        while self._undecoded:
            try:
                self._undecoded.popleft().decode()
            except Exception:
                logger.exception("unexpected error while an answer was decoded")
        while self._ended:
            grant = self._ended.popleft()
            try:
                settled = grant.settled(self._prices, self._awaited)
            except Exception:
                logger.exception("unexpected error while an answer's usage was read")
                continue
            model = self._model(settled.row.model)
            if model != settled.row.model:
                settled = settled._replace(row=settled.row._replace(model=model))
            new.append(settled)
            if grant.has_budget and settled.lacks_price:
                self._tell_of_model(model)
            counters.count(settled.row, self._counts)
        self._unwritten += new  # first: what counts from here on in memory begins with these
        self._limits.note(lambda tally: write_settled(new, tally, self._process))
        if (over := len(self._unwritten) - MAX_WAITING) > 0:
            del self._unwritten[-over:]
            self._lost += over
        self._passes += 1
        self._settling = False
        if self._limits.in_memory:
            self._let_go(waiting)
            return 0
        return waiting

    def _let_go(self, number: int) -> None:
        """Have so many go on of those that wait until what has ended is counted."""
        for _ in range(min(number, len(self._flushing))):
            self._flushing.popleft().set()

    def _model(self, name: str) -> str:
        """Return a model's name as it is written: it may be a secret, or half of a character."""
        written = self._names.get(name)
        if written is None:
            written = visible(self._masked(name))
            if len(self._names) < MAX_NAMES:
                self._names[name] = written
        return written

    def _tell_of_model(self, model: str) -> None:
        """Warn, once, of a model that costs a key with a budget nothing."""
        if model not in self._unpriced and len(self._unpriced) < MAX_NAMES:
            self._unpriced.add(model)
            logger.warning(
                "no price is known of the model '%s': it counts for no budget. Set one in "
                "accounts.prices", model,
            )  # fmt: skip

    def _write(self, waiting: int, is_last: bool = False) -> None:
        """Write what has ended in one transaction.

        :param waiting: so many go on then
        """
        for _ in range(len(self._noted)):
            self._counts[self._noted.popleft()] += 1
        now, failing = time.time(), self._limits.failing
        settled, used = self._unwritten, dict(self._used)
        beats = now >= self._next_beat and any(grant.hold for grant in list(self._running))
        prunes = now >= self._next_pruning
        blocks = dict(self._blocks)
        counts = self._counts
        counting = failing or self._limits.is_used
        if not (settled or used or blocks or counts or beats or counting or prunes or waiting):
            return
        spent = any(one.counts for one in settled)
        with self._database.transaction(_GATHERING if failing else BUSY_SECONDS):
            write_settled(settled, self._database, self._process)
            self._database.add_requests((one.day, one.row) for one in settled)
            if counting or spent:
                self._limits.sync(spent=spent, last=is_last)
            self._database.note_used(used.items())
            self._database.add_counters(counts.items())
            if blocks:
                self._database.note_blocks(blocks.items())
                self._database.forget_lockouts(now)
            if beats:
                self._database.beat(self._process, now)
            if prunes:
                old = now - self._keep_days * 86_400
                forgotten = self._database.forget_requests(old, _PRUNED)
                self._next_pruning = now + (_PRUNING if forgotten < _PRUNED else 0)
        self._unwritten = []
        self._counts.clear()
        self._let_go(waiting)
        for noted, written in ((self._used, used), (self._blocks, blocks)):
            for name, at in written.items():
                if noted.get(name) == at:
                    del noted[name]
        self._next_beat = now + _BEAT if beats else self._next_beat
        if counting or spent:
            self._limits.synced()

    def _follow(self) -> None:
        """Read the keys again when they have changed."""
        for address, at in self._database.cleared_lockouts(self._cleared):
            self._cleared = at
            self.on_clear(address)
        revision = self._database.revision()
        if revision != self._revision:
            is_first, self._revision = self._revision < 0, revision
            changes = self.directory.load(self._database)
            if changes and not is_first:
                logger.info("keys changed: %s", "; ".join(changes))
                for name in self._named_twice():  # made where the other one is not known
                    logger.warning("%s", _TWICE.format(name, self._path))

    def _cut_withdrawn(self) -> None:
        now = time.time()
        for grant in list(self._running):
            secret = grant.sent.secret
            if secret and self.directory.fault_of(secret.digest, now):
                grant.is_withdrawn = True


class _Wake:
    """An event that may be set while it is being set, waited for or cleared by the same thread.

    The garbage collection ends requests, wherever it runs; an Event has a lock, which would then
    never be given back.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._calls.put(None)

    def wait(self, timeout: float) -> bool:
        with contextlib.suppress(Empty):
            self._calls.get(timeout=timeout)
            self._calls.put(None)  # until it is cleared
            return True
        return False

    def clear(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._calls.get_nowait()


def check_allowed(key: StoredKey, backend: str, asked: Asked) -> None:
    """Refuse what a key may not use.

    :raises NotAllowed: saying what it may
    """
    terms = key.terms
    if terms.backends and backend not in terms.backends:
        raise NotAllowed(
            "backend",
            f"The key '{key.name}' may not use the backend '{backend}', only "
            f"{', '.join(terms.backends)}.",
        )
    if not terms.models or asked.lists_models:
        return
    may = f"The key '{key.name}' may use {', '.join(terms.models)} only"
    if asked.model is None:
        raise NotAllowed("model", f"{may}, and {asked.unclear or 'the request names no model'}.")
    if not terms.allows_model(asked.model):
        raise NotAllowed("model", f"{may}, not '{asked.model}'.")
