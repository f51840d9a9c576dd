"""The keys that llmauth makes: recognised by their checksum, without asking the database.

``llmauth_``, 43 random characters (256 bits), and 6 that are the CRC-32 of what stands before, all
of them base62. So scanners for leaked secrets, and the redactor, tell one from random text.
"""

from __future__ import annotations

import re
import secrets
import zlib

PREFIX = "llmauth_"
RANDOM, CHECKSUM = 43, 6
"""Characters."""

LENGTH = len(PREFIX) + RANDOM + CHECKSUM
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECKSUM}}}"

FORMS = {
    "llmauth%5f": r"llmauth%5[Ff][0-9A-Za-z]{49}",
    "llmauth\\u005f": r"llmauth\\u005[Ff][0-9A-Za-z]{49}",
    "6c6c6d617574685f": r"(?i:6c6c6d617574685f)[0-9A-Fa-f]{98}",
    # Base64, whatever stands before; the characters that the key shares with it are left out.
    "bgxtyxv0af": r"bGxtYXV0aF[A-Za-z0-9+/_-]{66}",
    "xsbwf1dghf": r"xsbWF1dGhf[A-Za-z0-9+/_-]{65}",
    "sbg1hdxrox": r"sbG1hdXRoX[A-Za-z0-9+/_-]{65}",
}
"""How one may be written otherwise: what each way begins with, in lower case, and its pattern."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(PATTERN)


def new_key() -> str:
    """Return a new key from the system's source of randomness."""
    begin = PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(RANDOM))
    return begin + _checksum(begin)


def is_stored_key(text: str) -> bool:
    """True for what was made by :func:`new_key`, here or elsewhere."""
    return (
        len(text) == LENGTH
        and _SHAPE.fullmatch(text) is not None
        and _checksum(text[:-CHECKSUM]) == text[-CHECKSUM:]
    )


def _checksum(begin: str) -> str:
    rest, digits = zlib.crc32(begin.encode()), ""
    for _ in range(CHECKSUM):
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
