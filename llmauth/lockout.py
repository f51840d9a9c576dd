"""Failed attempts, blocks and strikes of an address over a ``limits`` store.

The moving window counts failures. When it fills, the address is blocked; each failure after a
block has ended is a strike that makes the next block longer. Whoever sets a block is decided by
the store's ``incr`` returning 1, so that of simultaneous failures, in whatever process, exactly
one does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass

from limits import RateLimitItemPerSecond

from .stores import CountingStore, MemoryLedger, Recent, open_store, store_errors, try_out

logger = logging.getLogger(__name__)

NOT_BLOCKED_FOR = 1.0
"""Seconds for which "not blocked" is believed without asking a shared store again."""

PROBE_INTERVAL = 1.0
"""Seconds between attempts to reach a store that failed."""

_REMEMBERED = 20_000


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When an address is blocked and for how long.

    :param max_failed_attempts: within ``ttl_seconds``, that block the address
    :param ttl_seconds: length of the moving window, and how long strikes outlive a block
    :param initial_block_seconds: the first block
    :param block_multiplier: by which each further block is longer
    :param max_block_seconds: the longest block
    """

    max_failed_attempts: int = 5
    ttl_seconds: int = 900
    initial_block_seconds: int = 30
    block_multiplier: float = 2.0
    max_block_seconds: int = 3600

    def block_seconds(self, strikes: int) -> int:
        """Return the length of the block after so many earlier ones, in whole seconds."""
        # 1024 multiplications reach any maximum; more would only overflow.
        length = self.initial_block_seconds * self.block_multiplier ** min(strikes, 64)
        return math.ceil(min(length, self.max_block_seconds))


class _Ledger:
    """The counting, over one store. Every method may raise the store's errors."""

    def __init__(self, store: CountingStore, policy: Policy) -> None:
        self.store = store
        self._policy = policy
        self._window = RateLimitItemPerSecond(
            policy.max_failed_attempts, policy.ttl_seconds, namespace="llmauth"
        )
        # A trace outlives every block and window; see _traces.
        self._epoch = policy.max_block_seconds + policy.ttl_seconds

    def has_trace(self, address: str) -> bool:
        """True when there may be failures or a block: the one question for a clean address."""
        return self.store.get(self._traces(address)[0]) > 0

    def blocked_until(self, address: str) -> float | None:
        """Return the end of the address's block as a Unix time, None when it is not blocked."""
        key = self._block(address)
        # A store rounds to whole seconds, and the block was there a moment ago.
        return max(self.store.get_expiry(key), time.time() + 0.2) if self.store.get(key) else None

    def failed(self, address: str) -> tuple[bool, int | None]:
        """Count a failure: whether it came in time to be answered 401, and the block it set."""
        for key in self._traces(address):
            self.store.incr(key, 3 * self._epoch)
        strikes = self._strikes(address)
        in_time = True
        if not strikes:
            key = self._window.key_for(address)
            limit, expiry = self._window.amount, self._window.get_expiry()
            in_time = self.store.acquire_entry(key, limit, expiry)
            if in_time and self.store.get_moving_window(key, limit, expiry)[1] < limit:
                return True, None
            # A full window without a block: whoever filled it could not set one, because the
            # store or the process died in between.
        seconds = self._policy.block_seconds(strikes)
        if self.store.incr(self._block(address), seconds) != 1:
            # Another failure set the block. The window let this one in before that.
            return in_time and not strikes, None
        # The slot that holds the current strikes stays, so that no reader finds none.
        slot = self._strike_slots(address)[(strikes + 1) % 2]
        self.store.clear(slot)
        self.store.incr(slot, seconds + self._policy.ttl_seconds, strikes + 1)
        return in_time, seconds

    def forget(self, address: str) -> None:
        """Drop all failures and strikes of an address that showed the right key."""
        self.store.clear(self._window.key_for(address))
        for key in (*self._strike_slots(address), *self._traces(address)):
            self.store.clear(key)

    def _strikes(self, address: str) -> int:
        return max(self.store.get(slot) for slot in self._strike_slots(address))

    def _strike_slots(self, address: str) -> tuple[str, str]:
        return f"llmauth/strikes-0/{address}", f"llmauth/strikes-1/{address}"

    def _block(self, address: str) -> str:
        return f"llmauth/block/{address}"

    def _traces(self, address: str) -> tuple[str, str]:
        """Return the keys of this epoch and the next.

        A failure leaves its trace in both, and matters for less than an epoch: a reader finds it
        with one question, in the key of the reader's own epoch.
        """
        epoch = int(time.time() // self._epoch)
        return f"llmauth/trace/{epoch}/{address}", f"llmauth/trace/{epoch + 1}/{address}"


class Lockout:
    """Blocks addresses that keep sending wrong keys.

    :param policy: when and for how long
    :param storage_uri: any ``limits`` store with a moving window
    :raises ConfigurationError: when the store cannot be reached
    """

    def __init__(self, policy: Policy, storage_uri: str = "memory://") -> None:
        self.policy = policy
        self._local = MemoryLedger(
            policy.max_failed_attempts, policy.ttl_seconds, policy.block_seconds
        )
        self._shared: _Ledger | None = None
        if not storage_uri.startswith("memory:"):
            self._shared = _Ledger(open_store(storage_uri), policy)
        self._store_errors = store_errors(storage_uri)
        self._store_failed = False
        self._lock = threading.Lock()
        # What a shared store said: blocks until they end, and for a moment "not blocked" and
        # "nothing known".
        self._blocks = Recent(_REMEMBERED)
        self._unblocked = Recent(_REMEMBERED)
        self._clean = Recent(_REMEMBERED)

    @property
    def healthy(self) -> bool:
        """False while a shared store does not answer and failures are counted locally."""
        return not self._store_failed

    def blocked(self, address: str) -> float | None:
        """Return the seconds until the address's block ends, None when it is not blocked."""
        end = self._blocked_until(address)
        return max(end - time.time(), 0.0) if end is not None else None

    def knows_blocked(self, address: str) -> bool:
        """True for a block that this process has seen begin or asked for; takes no time."""
        return self._blocks.get(address) > time.time()

    def failed(self, address: str, client: str) -> float | None:
        """Count a failure.

        :param address: as which the client is counted
        :param client: its address, for the log
        :returns: None when this failure may be answered as such; else the address is blocked for
            so many seconds
        """
        self._clean.drop(address)
        self._unblocked.drop(address)
        try:
            in_time, seconds = self._ledger().failed(address)
        except self._store_errors as exc:
            self._fall_back(exc)
            in_time, seconds = self._local.failed(address)
        if seconds is not None:
            self._blocks.put(address, time.time() + seconds)
            counted = "" if client == address else f" (counted as {address})"
            logger.warning(
                "blocked %s for %d seconds: too many failed attempts%s", client, seconds, counted
            )
        if in_time:
            return None
        return self.blocked(address) or float(self.policy.initial_block_seconds)

    def succeeded(self, address: str) -> None:
        """Forget the failures of an address that sent the right key."""
        if self._clean.get(address) > time.time():
            return
        # Also what was counted here while a shared store was away.
        self._local.forget(address)
        if (ledger := self._ledger()) is self._local:
            return
        try:
            ledger.forget(address)
        except self._store_errors as exc:
            self._fall_back(exc)
        else:
            self._unblocked.drop(address)
            self._clean.put(address, time.time() + NOT_BLOCKED_FOR)

    def _blocked_until(self, address: str) -> float | None:
        if self._shared is None:
            return self._local.blocked_until(address)
        now = time.time()
        if (end := self._blocks.get(address)) > now:
            return end
        known = self._unblocked.get(address)
        if known > now or self._clean.get(address) > now:
            return None
        if self._store_failed:
            return self._local.blocked_until(address)
        ledger = self._shared
        try:
            # Where failures are known of, one question is enough, too.
            if not known and not ledger.has_trace(address):
                self._clean.put(address, now + NOT_BLOCKED_FOR)
                return None
            found = ledger.blocked_until(address)
        except self._store_errors as exc:
            self._fall_back(exc)
            return self._local.blocked_until(address)
        if found:
            self._blocks.put(address, found)
        else:
            self._unblocked.put(address, now + NOT_BLOCKED_FOR)
        return found

    def _ledger(self) -> _Ledger | MemoryLedger:
        return self._local if self._shared is None or self._store_failed else self._shared

    def _fall_back(self, exc: Exception) -> None:
        """Count locally from now on, and look for the store from a thread of its own."""
        with self._lock:
            if self._store_failed:
                return
            self._store_failed = True
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
            self._store_failed = False
            logger.warning("the store of failed attempts answers again")
            return
