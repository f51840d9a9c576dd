"""What is remembered of addresses, and the rule by which one is blocked, over a ``limits`` store.

The moving window counts wrong keys. When it fills, the address is blocked; each further guess after
a block has ended is a strike, which makes the next block longer. Strikes are forgotten when a
window has passed since the last block's end; no right key wipes them out, or whoever holds one
could guess for ever.

Repeats are no guesses, once the address has shown a right key: then one wrong key counts once
within the window, however often it comes, and what its repeats did before is left out of account,
the strikes that came of them too. So a client that was left with an old key locks no office out.

Nothing is ever taken back from a store: repeats are counted beside the window, and subtracted from
it while the address is known good. Each step is one atomic operation of the store, and who
gets a slot of the window, or sets a block, is decided by it: of simultaneous failures, in whatever
process, exactly as many are in time as the window has room for, whether or not right keys come in
between.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .stores import CountingStore

_MANY = 1000
"""Entries of windows that only serve to remember; more than come together."""

_OF_AN_ADDRESS = ("block", "failure", "strike", "forgivable", "repeat")

_ALWAYS = 10**9
"""Seconds; asks for all that a store holds."""


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


class Ledger:
    """The counting, over one store. Every method may raise the store's errors.

    :param store: where it is kept; see :class:`.stores.CountingStore` for what it must do
    """

    def __init__(self, store: CountingStore, policy: Policy) -> None:
        self.store = store
        self._policy = policy

    def blocked_for(self, address: str) -> float | None:
        """Return the seconds until the address's block ends, None when it is not blocked."""
        key = f"llmauth/block/{address}"
        if not self.store.get(key):
            return None
        # A store rounds to whole seconds, and the block was there a moment ago. One that keeps
        # moments rather than seconds can be wrong about the time, but not beyond the longest block.
        left = self.store.get_expiry(key) - time.time()
        return min(max(left, 0.2), self._policy.max_block_seconds)

    def forgive(self, address: str) -> None:
        """End the address's block, and forget what led to it."""
        for kind in _OF_AN_ADDRESS:
            self.store.clear(f"llmauth/{kind}/{address}")

    def note_right_key(self, address: str) -> None:
        """Have the address known as good for a window from now on."""
        self._add("good", address, self._policy.ttl_seconds)

    def failed(self, address: str, guess: str, known_good: bool) -> tuple[bool, int | None]:
        """Count a wrong key.

        :param guess: its digest
        :param known_good: the address is known to have shown a right key within the window
        :returns: whether it came in time to be answered 401, and the seconds of the block it set
        """
        policy, window = self._policy, self._policy.ttl_seconds
        known_good = known_good or self._count("good", address, window) > 0
        repeat = self._is_repeat(address, guess, known_good)
        strikes = self._count("strike", address)
        forgivable = self._count("forgivable", address) if strikes else 0
        if known_good:
            strikes = max(strikes - forgivable, 0)
            old = strikes > 0 and self._is_old(address, guess)
            if repeat or old:
                return not self.store.get(f"llmauth/block/{address}"), None
        in_time, full = (True, True) if strikes else self._enter(address, known_good, repeat)
        if not full:
            return True, None
        seconds = policy.block_seconds(strikes)
        if self.store.incr(f"llmauth/block/{address}", seconds) != 1:
            # Another failure set the block. The window let this one in before that.
            return in_time and not strikes, None
        # Windows are kept for the last given time from their latest entry on: that is to the end
        # of this block and a window more, for this and all earlier strikes.
        self._add("strike", address, seconds + window)
        others = strikes == forgivable if strikes else self._count("repeat", address, window) > 0
        if not known_good and (repeat or others):
            self._add("forgivable", address, seconds + window)
        return in_time, seconds

    def _is_repeat(self, address: str, guess: str, known_good: bool) -> bool:
        """Say whether the address has sent this wrong key within the window, and note it."""
        # Strangers' keys are kept apart, or a flood of them would push the others out of memory.
        stranger, good = (f"llmauth/{kind}/{address}/{guess}" for kind in ("guess", "good-guess"))
        if not known_good:
            return self.store.incr(stranger, self._policy.ttl_seconds) > 1
        return self.store.incr(good, self._policy.ttl_seconds) > 1 or self.store.get(stranger) > 0

    def _is_old(self, address: str, guess: str) -> bool:
        """Say whether the address has sent this wrong key between earlier blocks, and note it.

        That is a repeat as well. Otherwise a client with an old key would add a strike in every
        window, and the strikes would never end.
        """
        life = 2 * (self._policy.max_block_seconds + self._policy.ttl_seconds)
        return self.store.incr(f"llmauth/old-guess/{address}/{guess}", life) > 1

    def _enter(self, address: str, known_good: bool, repeat: bool) -> tuple[bool, bool]:
        """Take a slot of the window: whether one was left, and whether none is left now."""
        limit, window = self._policy.max_failed_attempts, self._policy.ttl_seconds
        if known_good:
            limit += self._count("repeat", address, window)
        if not self.store.acquire_entry(f"llmauth/failure/{address}", limit, window):
            # There may be no block: whoever filled the window could not set one, because the
            # store or the process died in between.
            return False, True
        if repeat:
            self._add("repeat", address, window)
        return True, self._count("failure", address, window, limit) >= limit

    def _add(self, kind: str, address: str, seconds: int) -> None:
        """Put an entry into a window that only serves to remember, which is kept so long."""
        self.store.acquire_entry(f"llmauth/{kind}/{address}", _MANY, seconds)

    def _count(self, kind: str, address: str, window: int = _ALWAYS, limit: int = _MANY) -> int:
        return self.store.get_moving_window(f"llmauth/{kind}/{address}", limit, window)[1]
