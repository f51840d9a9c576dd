"""An answer's bytes as they pass: what of them is kept, to read later what it used."""

from __future__ import annotations

from collections.abc import Callable

from ..http.codings import BodyDecoder
from .usage import HEAD, TAIL, Usage, awaited_id, estimate_output, read_usage

BATCH = 64 * 1024
"""Bytes of a compressed answer that are kept as they came, until they are decoded."""

_SLACK = 16 * 1024  # by which the tail grows before it is cut, so that this is rare
_PIECES = 1000  # each takes some 35 bytes more than it has
_SLICE = 4 * 1024  # bytes decoded at once: what they may expand to is in memory for a moment
_MAX_DECODED = 1024**3  # a bomb's work ends there


class Meter:
    """Keeps both ends of one answer. Fed where bytes must not wait, read where they may.

    A compressed answer can only be decoded from its start. Its bytes are handed over in batches
    to be decoded elsewhere, in their order, before `usage` is asked for.

    :param path: upstream, without the query
    :param encoding: the ``Content-Encoding`` header
    :param hand_over: is given this meter and a batch, on the thread that feeds; whoever gets them
        calls `decode` with the batch. Returns False when it is not taken: the rest is then lost,
        and the usage unknown. Without it batches are decoded on that thread.
    """

    def __init__(
        self,
        path: str,
        content_type: str = "",
        encoding: str = "",
        hand_over: Callable[[Meter, bytes], bool] | None = None,
    ) -> None:
        self._path = path
        self._content_type = content_type
        self._hand_over = hand_over or self._decode_here
        self._head = b""
        self._tail: list[bytes] = []  # in pieces: to put them together costs more than all the rest
        self._kept = self._dropped = 0  # bytes in there, and before that
        self._raw = bytearray()
        is_plain = encoding.strip().lower() in ("", "identity")
        self._decoder = None if is_plain else BodyDecoder(encoding, limit=_MAX_DECODED)
        self.is_lost = self._decoder is not None and self._decoder.note is not None
        """Nobody knows what the answer says, as it cannot be decoded, or was not taken."""

    def feed(self, data: bytes) -> None:
        """Take note of bytes of the answer that pass, still compressed if it is."""
        if self._decoder is None:
            self._keep(data)
        elif not self.is_lost:
            self._raw += data
            if len(self._raw) >= BATCH:
                batch, self._raw = bytes(self._raw), bytearray()
                self.is_lost = not self._hand_over(self, batch)

    def decode(self, batch: bytes) -> None:
        """Decode what was handed over."""
        if self._decoder is None:
            return
        for start in range(0, len(batch), _SLICE):
            self._keep(self._decoder.feed(batch[start : start + _SLICE]))

    def usage(self, *, complete: bool) -> Usage:
        """Return what the answer says, when it has ended.

        :param complete: it did not break off
        """
        self._decode_rest()
        if self.is_lost:
            return Usage()
        return read_usage(
            *self._ends(), path=self._path, content_type=self._content_type, complete=complete
        )

    def awaited_id(self) -> str | None:
        """Return the id of the response whose usage will be told when it is asked for."""
        self._decode_rest()
        return awaited_id(*self._ends()) if self._path.endswith("/responses") else None

    def estimate(self) -> int | None:
        """Return the output tokens that came, estimated; see `estimate_output`."""
        self._decode_rest()
        if self.is_lost:
            return None
        return estimate_output(
            *self._ends(),
            self._dropped + self._kept,
            path=self._path,
            content_type=self._content_type,
        )

    def _keep(self, data: bytes) -> None:
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

    def _decode_here(self, _: Meter, batch: bytes) -> bool:
        self.decode(batch)
        return True

    def _decode_rest(self) -> None:
        rest, self._raw = bytes(self._raw), bytearray()
        self.decode(rest)
