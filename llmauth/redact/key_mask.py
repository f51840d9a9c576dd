"""This server's own key for a backend, masked where that backend repeats it to a client.

An equally long row of asterisks takes its place, so that no length and no framing changes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from html.entities import html5

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


_LONGEST_SPELLING = 64
"""Bytes for one character of a key, in the longest of its spellings below."""

_BACKSLASHES = rb"(?:\\{1,8}(?!\\)|%(?:25){0,3}5c)"
_AMPERSAND = rb"&(?:amp;|#38;|#x26;){0,3}"


def _spellings(key: str) -> bytes:
    """Return a pattern of a key: as it is, and in escapes of URLs, JSON and HTML, twice over.

    Each repetition has a bound, so that no text makes the search slow.
    """
    pattern = b"".join(map(_spelling, key.encode("latin-1", "replace")))
    if len(key) < WORD:
        pattern = rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])" % pattern
    return pattern


@functools.cache
def _spelling(code: int) -> bytes:
    plain = re.escape(bytes([code]))
    digits = b"%02x" % code
    in_braces = rb"u\{0{0,4}%b\}" % digits
    escapes = [b"(?:u00|x)" + digits, in_braces, rb"u0025(?:25){0,3}" + digits]
    if not plain.isalnum() and code != ord("\\"):
        escapes.append(plain)
    names = [name.encode("ascii") for name, one in html5.items() if one == chr(code)]
    references = [b"#0{0,8}%d;" % code, b"#x0{0,8}%b;" % digits, *names]
    ways = [plain, b"%%(?:(?:25){0,3}|u00)%b" % digits]
    ways.append(_BACKSLASHES + b"(?:%b)" % b"|".join(escapes))
    if code == ord("\\"):
        ways.append(rb"\\{2,8}")
    ways.append(_AMPERSAND + b"(?:%b)" % b"|".join(references))
    return b"(?:%b)" % b"|".join(ways)


def _asterisks(key: re.Match[bytes]) -> bytes:
    return b"*" * len(key[0])
