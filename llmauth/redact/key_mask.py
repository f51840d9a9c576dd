"""This server's own key for a backend, masked where that backend repeats it to a client.

An equally long row of asterisks takes its place, so that no length and no framing changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTEST = 4
"""Characters; what is shorter is no secret, and stands everywhere."""

WORD = 8
"""Characters under which a key is masked only as a word of its own: ``EMPTY`` and its kin."""


class KeyMask:
    """Masks keys in what one backend says, whatever their letters are written as.

    :param keys: as they are sent
    """

    def __init__(self, keys: Iterable[str]) -> None:
        known = sorted({key for key in keys if len(key) >= SHORTEST}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(_spellings, known)), re.IGNORECASE)
        self.longest = max(map(len, known), default=0) * _LONGEST_SPELLING
        """Bytes that a key can take, 0 when there is none."""

    def text(self, value: str) -> str:
        """Return a status line's or a header's text with the keys masked."""
        if not self.longest:
            return value
        data = value.encode("latin-1")
        masked = self.data(data)
        return value if masked is data else masked.decode("latin-1")

    def data(self, value: bytes) -> bytes:
        """Return a body, or a part of it that cuts no key, with the keys masked."""
        return self._pattern.sub(_asterisks, value) if self.longest else value


_LONGEST_SPELLING = 16
"""Bytes for one character of a key, in the longest of its spellings below."""


def _spellings(key: str) -> bytes:
    """Return a pattern of a key: as it is, and in escapes of URLs, JSON and HTML, twice over.

    Each repetition has a bound, so that no text makes the search slow.
    """
    pattern = b"".join(map(_spelling, key.encode("latin-1", "replace")))
    if len(key) < WORD:
        pattern = rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])" % pattern
    return pattern


def _spelling(code: int) -> bytes:
    plain = re.escape(bytes([code]))
    ways = [plain, b"%%(?:25){0,3}%02x" % code, rb"\\{1,8}u00%02x" % code]
    ways.append(rb"&#(?:0{0,3}%d|x0{0,3}%02x);" % (code, code))
    if not plain.isalnum():
        ways.append(rb"\\{1,8}" + plain)
    return b"(?:%b)" % b"|".join(ways)


def _asterisks(key: re.Match[bytes]) -> bytes:
    return b"*" * len(key[0])
