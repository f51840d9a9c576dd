"""What forwarded requests hold, how many there are, and whether the server is going down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..accounts.grant import Grant
from ..auth.request import RequestInfo
from ..capture.recording import Exchange
from ..exceptions import Unavailable
from .upstream import Incoming

_TICK = 0.02  # seconds


def server_stopping() -> Unavailable:
    """Return the answer to a request that comes too late."""
    return Unavailable("This server is being stopped. Try again.", retry_after=5)


class Slots:
    """Slots for forwarded requests, and the stages of a shutdown.

    A thread that has no slot answers at once, so that a few threads more than slots keep health
    checks and refusals going while every slot holds a stream.

    :param slots: requests forwarded at a time
    """

    def __init__(self, slots: int) -> None:
        self.number = slots
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

        :raises Unavailable: when there is none, or the time for the last requests is over
        """
        with self._changed:
            if self.cut:
                raise server_stopping()
            if self._used >= self.number:
                raise Unavailable(
                    f"All {self.number} slots of this server are taken. Try again in a moment.",
                    retry_after=1,
                )
            self._used += 1

    def leave(self) -> None:
        """Give the slot back."""
        with self._changed:
            self._used -= 1
            if self.draining:
                self._changed.notify_all()

    def drain(self, timeout: float, receiving: Callable[[], bool] = lambda: False) -> int:
        """Let nobody in, wait for the requests that were in before, then cut them.

        :param timeout: seconds
        :param receiving: true while there are requests that are not being forwarded yet
        :returns: how many had to be cut
        """
        until = time.monotonic() + timeout
        with self._changed:
            self.draining = True
            while (self._used or receiving()) and (left_time := until - time.monotonic()) > 0:
                self._changed.wait(min(left_time, _TICK))
            left = self._used
            self.cut = True
            self._changed.wait_for(lambda: self._used == 0, 2.0)
            return left


class Lease:
    """What a forwarded request holds until its answer has ended: slot, connection, and more.

    :param slots: where :meth:`begin` takes one
    :param info: what is known of the request; says in the end what went wrong
    :param exchange: in the wire capture
    :param grant: of its key, which is counted
    """

    def __init__(
        self,
        slots: Slots,
        info: RequestInfo,
        exchange: Exchange | None = None,
        grant: Grant | None = None,
    ) -> None:
        self.info = info
        self.exchange = exchange
        self.grant = grant
        self.incoming: Incoming | None = None
        self._slots = slots
        self._has_slot = False

    @property
    def cut_off(self) -> str | None:
        """Say why the request is to be ended now, None while it may go on."""
        if self._slots.cut:
            return "server_stopping"
        return "key_withdrawn" if self.grant and self.grant.is_withdrawn else None

    def begin(self) -> None:
        """Take a slot.

        :raises Unavailable: when there is none
        """
        self._slots.enter()
        self._has_slot = True

    def end(
        self, error: str | None, reason: str | None = None, status: int | None = None
    ) -> None:
        """Give everything back, however the request ended; once or more often.

        :param error: what broke it off, for the capture
        :param reason: the same as a code, where that is another one
        :param status: of the answer that takes the place of the upstream's
        """
        has_slot, self._has_slot = self._has_slot, False
        try:
            if self.incoming:
                self.incoming.close()
            if self.exchange:
                self.exchange.finished(error)
        finally:
            if self.grant:
                self.grant.end(reason or error, status)
            if has_slot:
                self._slots.leave()
