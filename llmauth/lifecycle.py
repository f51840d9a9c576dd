"""How many requests are being forwarded, and whether the server is going down."""

from __future__ import annotations

import threading

from .exceptions import Unavailable


class Lifecycle:
    """Slots for forwarded requests, and the stages of a shutdown.

    A thread that has no slot answers at once, so that a few threads more than slots keep health
    checks and refusals going while every slot holds a stream.

    :param slots: requests forwarded at a time
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.draining = False
        self.cut = False
        self._used = 0
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Requests that are being forwarded."""
        return self._used

    def enter(self) -> None:
        """Take a slot.

        :raises Unavailable: when there is none, or the server is being stopped
        """
        with self._changed:
            if self.draining:
                raise Unavailable("This server is being stopped. Try again.", retry_after=5)
            if self._used >= self.slots:
                raise Unavailable(
                    f"All {self.slots} slots of this server are taken. Try again in a moment.",
                    retry_after=1,
                )
            self._used += 1

    def leave(self) -> None:
        """Give the slot back."""
        with self._changed:
            self._used -= 1
            if self.draining:
                self._changed.notify_all()

    def drain(self, timeout: float) -> int:
        """Take no more requests, wait for those in flight, then cut them.

        :param timeout: seconds
        :returns: how many had to be cut
        """
        with self._changed:
            self.draining = True
            self._changed.wait_for(lambda: self._used == 0, timeout)
            left = self._used
            self.cut = True
            self._changed.wait_for(lambda: self._used == 0, 2.0)
            return left
