"""An answer's bytes as they pass: what of them is kept, to read later what it used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..http.codings import BodyDecoder
from .usage import HEAD, TAIL, Usage, awaited_id, estimate_output, read_usage

BATCH = 64 * 1024
"""Bytes of a compressed answer that are kept as they came, before they are to be decoded."""

_SLACK = 16 * 1024  # by which the tail grows before it is cut, so that this is rare
_PIECES = 1000  # each takes some 35 bytes more than it has
_SLICE = 4 * 1024  # bytes decoded at once: what they may expand to is in memory for a moment
_MAX_DECODED = 1024**3  # a bomb's work ends there


class Meter:
    """Keeps both ends of one answer. Fed where bytes must not wait, read where they may.

    A compressed answer is kept as it comes, until another thread decodes it.

    :param path: upstream, without the query
    :param encoding: the ``Content-Encoding`` header
    :param hand_over: is given this meter when there is enough to be decoded, on the thread that
        feeds; whoever gets it calls `decode`. Returns False when it is not taken: then, as without
        it, that thread decodes itself.
    """

    def __init__(
        self,
        path: str,
        content_type: str = "",
        encoding: str = "",
        hand_over: Callable[[Meter], bool] = lambda meter: False,
    ) -> None:
        self._path = path
        self._content_type = content_type
        self._hand_over = hand_over
        self._head = b""
        self._tail: list[bytes] = []  # in pieces: to put them together costs more than all the rest
        self._kept = self._dropped = 0  # bytes in there, and before that
        is_plain = encoding.strip().lower() in ("", "identity")
        self._decoder = None if is_plain else BodyDecoder(encoding, limit=_MAX_DECODED)
        if self._decoder:
            self._raw: deque[bytes] = deque()
            self._waiting = 0  # bytes that came since it was handed over
            self._lock = threading.Lock()

    @property
    def is_lost(self) -> bool:
        """True when nobody knows what the answer says, as it cannot be decoded."""
        return self._decoder is not None and self._decoder.note is not None

    def feed(self, data: bytes) -> None:
        """Take note of bytes of the answer that pass, still compressed if it is."""
        if self._decoder is None:
            self._keep(data)
        elif not self.is_lost:
            self._raw.append(data)
            self._waiting += len(data)
            if self._waiting >= BATCH:
                self._waiting = 0
                if not self._hand_over(self):
                    self.decode()

    def decode(self) -> None:
        """Decode what has come; on any thread."""
        if self._decoder is None:
            return
        with self._lock:
            while self._raw:
                data = self._raw.popleft()
                for start in range(0, len(data), _SLICE):
                    self._keep(self._decoder.feed(data[start : start + _SLICE]))

    def usage(self, *, complete: bool) -> Usage:
        """Return what the answer says, when it has ended.

        :param complete: it did not break off
        """
        self.decode()
        if self.is_lost:
            return Usage()
        return read_usage(
            *self._ends(),
            path=self._path,
            content_type=self._content_type,
            complete=complete and (self._decoder is None or self._decoder.is_whole),
        )

    def awaited_id(self) -> str | None:
        """Return the id of a response that is still being made."""
        self.decode()
        return awaited_id(*self._ends()) if "/responses" in self._path else None

    def estimate(self) -> int | None:
        """Return the output tokens that came, estimated; see `estimate_output`."""
        self.decode()
        if self.is_lost:
            return None
        return estimate_output(
            *self._ends(),
            self._dropped + self._kept,
            path=self._path,
            content_type=self._content_type,
        )

    def _keep(self, data: bytes) -> None:
        if not self._kept:
            data = data.lstrip()  # lines that are empty keep a connection alive
        self._tail.append(data)
        self._kept += len(data)
        if self._kept > TAIL + _SLACK or len(self._tail) > _PIECES:
            self._put_together()

    def _put_together(self) -> None:
        """Make one of the pieces, and drop the middle of what has come when it is too much."""
        tail = b"".join(self._tail)
        if self._kept > TAIL + _SLACK:
            self._head = self._head or tail[:HEAD]
            tail = tail[-TAIL:]
            self._dropped += self._kept - TAIL
            self._kept = TAIL
        self._tail = [tail]

    def _ends(self) -> tuple[bytes, bytes]:
        return self._head, b"".join(self._tail)
