"""Blocks addresses that keep sending wrong keys; goes on when a shared store fails.

Keeps what :mod:`.ledger` decides: what a shared store said is remembered for a while, so that
neither a locked-out address nor one with the right key costs a round trip a request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .ledger import Ledger, Policy
from .stores import CONNECTIONS, in_memory, open_store, store_errors, try_out

logger = logging.getLogger("llmauth.lockout")

NOT_BLOCKED_FOR = 1.0
"""Seconds for which "not blocked" is believed without asking a shared store again."""

PROBE_INTERVAL = 1.0
"""Seconds between attempts to reach a store that failed."""

_NOTES = 20
"""Notes of right keys, while they come, that an address gets in a window."""

_REMEMBERED = 20_000
"""Addresses of which an answer of the store is remembered."""

Answer = TypeVar("Answer")


class Lockout:
    """Blocks addresses that keep sending wrong keys.

    :param policy: when and for how long
    :param storage_uri: any ``limits`` store with a moving window; ``memory://`` is bounded
    :param secret: what the processes that share the store have in common and its readers do not
        know: the proxy keys
    :raises ConfigurationError: when the store cannot be reached
    """

    def __init__(self, policy: Policy, storage_uri: str = "memory://", secret: bytes = b"") -> None:
        self.policy = policy
        self._local = Ledger(open_store("memory://"), policy)
        self._shared: Ledger | None = None
        # Wrong keys are stored as digests, for one may be the right key with a typing error. Who
        # reads a shared store could try candidates for it, if he knew the digests' key. That is
        # made from the proxy keys, at 50 ms a try, so that it is no quick way to those either.
        self._digest_key = os.urandom(32)
        if not in_memory(storage_uri):
            self._shared = Ledger(open_store(storage_uri), policy)
            self._digest_key = hashlib.scrypt(secret, salt=b"llmauth guesses", n=2**14, r=8, p=1)
        self._store_errors = store_errors(storage_uri)
        self._ledger = self._shared or self._local
        # A burst waits here. If each of its threads opened a connection, some would run into the
        # time that a store has to answer, and a store that is only busy would be taken for dead.
        self._connections = threading.Semaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self.on_block: Callable[[str, float], None] = lambda address, seconds: None
        """Is told of each block: of which address, and for how long."""

        self._blocked_until = _Moments()
        self._unblocked_until = _Moments()
        self._noted_right_key = _Moments()

    @property
    def healthy(self) -> bool:
        """False while a shared store does not answer and failures are counted locally."""
        return self._shared is None or self._ledger is self._shared

    @property
    def waits(self) -> bool:
        """True when counting a failure asks a shared store, which may take a while.

        Without one, every method here takes microseconds, and may be called by a thread that must
        not wait.
        """
        return self._shared is not None

    def blocked(self, address: str) -> float | None:
        """Return the seconds until the address's block ends, None when it is not blocked."""
        if not self.waits:
            return self._local.blocked_for(address)
        now = time.monotonic()
        if (end := self._blocked_until.get(address)) > now:
            return end - now
        if self._unblocked_until.get(address) > now:
            return None
        seconds = self._ask(Ledger.blocked_for, address)
        if seconds is None:
            self._unblocked_until.put(address, now + NOT_BLOCKED_FOR)
        else:
            self._blocked_until.put(address, now + seconds)
        return seconds

    def knows_blocked(self, address: str) -> bool:
        """True for a block that this process has heard of from a shared store; takes no time."""
        return self._blocked_until.get(address) > time.monotonic()

    def failed(self, address: str, client: str, guesses: Iterable[str]) -> float | None:
        """Count the wrong keys of a request, each of them once.

        :param address: as which the client is counted
        :param client: its address, for the log
        :param guesses: what was sent as a key
        :returns: None when this failure may be answered as such; else the address is blocked for
            so many seconds
        """
        self._unblocked_until.drop(address)
        good = time.monotonic() - self._noted_right_key.get(address) < self.policy.ttl_seconds
        in_time, seconds = True, None
        for digest in {self._digest(address, guess) for guess in guesses}:
            in_time, seconds = self._ask(Ledger.failed, address, digest, good)
            if seconds is not None or not in_time:
                break
        if seconds is not None:
            if self.waits:
                self._blocked_until.put(address, time.monotonic() + seconds)
            counted = "" if client == address else f" (counted as {address})"
            logger.warning(
                "blocked %s for %d seconds: too many failed attempts%s", client, seconds, counted
            )
            self.on_block(address, seconds)
        if in_time:
            return None
        return self.blocked(address) or float(self.policy.initial_block_seconds)

    def succeeded(self, address: str) -> None:
        """Note that the address sent a right key; for most of them this takes no time."""
        now = time.monotonic()
        if now - self._noted_right_key.get(address) < self.policy.ttl_seconds / _NOTES:
            return
        # Before it is so: of many threads one need say it.
        self._noted_right_key.put(address, now)
        self._ask(Ledger.note_right_key, address)

    def forgive(self, address: str) -> None:
        """Let an address in again, as which clients are counted."""
        self._blocked_until.drop(address)
        self._ask(Ledger.forgive, address)
        self._local.forgive(address)
        logger.warning("%s is let in again", address)

    def _digest(self, address: str, guess: str) -> str:
        message = f"{address} {guess}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._digest_key, message, "sha256")[:8].hex()

    def _ask(self, question: Callable[..., Answer], *terms: Any) -> Answer:
        """Ask the ledger that is in use, and the local one when the shared store fails."""
        if self._ledger is not self._local:
            with self._connections:
                try:
                    return question(self._ledger, *terms)
                except self._store_errors as exc:
                    self._fall_back(exc)
        return question(self._local, *terms)

    def _fall_back(self, exc: Exception) -> None:
        """Count locally from now on, and look for the store from a thread of its own."""
        with self._lock:
            if not self.healthy:
                return
            self._ledger = self._local
        logger.warning(
            "the store of failed attempts does not answer (%s): counting locally until it does",
            type(getattr(exc, "storage_error", exc)).__name__,
        )
        threading.Thread(target=self._probe, name="llmauth-store-probe", daemon=True).start()

    def _probe(self) -> None:
        assert self._shared is not None
        while True:
            time.sleep(PROBE_INTERVAL)
            try:
                try_out(self._shared.store)
            except self._store_errors:
                continue
            self._ledger = self._shared
            logger.warning("the store of failed attempts answers again")
            return


class _Moments:
    """A monotonic moment by address, of those that were put in last; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: OrderedDict[str, float] = OrderedDict()

    def get(self, address: str) -> float:
        """Return the address's moment, one that is long past for none."""
        return self._moments.get(address, -math.inf)

    def put(self, address: str, moment: float) -> None:
        with self._lock:
            self._moments[address] = moment
            self._moments.move_to_end(address)
            if len(self._moments) > _REMEMBERED:
                self._moments.popitem(last=False)

    def drop(self, address: str) -> None:
        with self._lock:
            self._moments.pop(address, None)
