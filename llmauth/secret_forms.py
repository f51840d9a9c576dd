"""The forms in which a known secret can stand in text.

Escapes are undone rather than enumerated: a text is searched as it is, and again with the escapes
of URLs, HTML, JSON and ``repr`` decoded, up to `MAX_DEPTH` times for encodings within encodings.
Found positions are mapped back. That leaves the plain form and base64 to look for.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .secret_shapes import MASK, Span, mask

MAX_DEPTH = 4
"""Encodings within encodings that are undone: a URL in JSON in a JSON string, in our own JSON."""

MAX_SECRET = 1024
"""Characters of a secret that are compared; of a longer one everything that follows is masked."""

LONG = 12
"""Characters from which on a secret is masked in capitals and in small letters, too."""

_HEX = "[0-9A-Fa-f]"
_HIGH = rf"(?:\\u[Dd][89ABab]{_HEX}{{2}}|[\ud800-\udbff])"
_LOW = rf"(?:\\u[Dd][C-Fc-f]{_HEX}{{2}}|[\udc00-\udfff])"
_ESCAPE = re.compile(
    rf"%[0-7]{_HEX}|%[CDcd]{_HEX}%[89ABab]{_HEX}|%[Ee]{_HEX}(?:%[89ABab]{_HEX}){{2}}"
    rf"|%[Ff]{_HEX}(?:%[89ABab]{_HEX}){{3}}"
    rf"|{_HIGH}{_LOW}|\\u{_HEX}{{4}}|\\U{_HEX}{{8}}|\\x{_HEX}{{2}}|\\[\\\"'/]"
    rf"|&(?:amp|lt|gt|quot|apos|#\d{{2,3}}|#[xX]{_HEX}{{2}});"
)
_PAIR = re.compile(_HIGH + _LOW)
_UNIT = re.compile(f"{_HIGH}|{_LOW}")
_UNFINISHED_ESCAPE = re.compile(r"(?:[\\%\ud800-\udbff][\\%0-9A-Fa-fuUx]{0,16}|&[#\w]{0,5})\Z")
_LETTERS = {ord(c): f"\\{letter}" for c, letter in zip("\b\f\n\r\t", "bfnrt", strict=True)}
_TO_URLSAFE = str.maketrans("+/", "-_")
_BASE64_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
)
_REST = re.compile(r"""[^\s"'\\,;<>&]*""")


class Form(NamedTuple):
    """A secret as it can stand in (decoded) text.

    :param bounded: only as a word of its own: the secret is too short to be told from text
    :param base64: the part of an encoding that depends on the secret alone
    :param rest: of a secret that is longer than what is compared; what follows belongs to it, too
    """

    text: str
    secret: str
    shown: str
    bounded: bool = False
    base64: bool = False
    rest: str = ""

    def span(self, text: str, start: int) -> Span | None:
        """Return the span of this form, found in the text at `start`, None if it does not count."""
        end = start + len(self.text)
        if self.bounded and not (_is_edge(text, start) and not text[end : end + 1].isalnum()):
            return None
        if self.base64:
            # The characters at both ends hold a few bits of the secret.
            start -= text[max(0, start - 1) : start] in _BASE64_CHARACTERS
            end += text[end : end + 1] in _BASE64_CHARACTERS
            while text[end : end + 1] == "=":
                end += 1
        if self.rest:
            after = text[end : end + len(self.rest)].lower()
            end += len(os.path.commonprefix([self.rest.lower(), after]))
            following = _REST.match(text, end)
            end = following.end() if following else end
        return start, end, self.shown


def _is_edge(text: str, start: int) -> bool:
    before = text[max(0, start - 2) : start]
    return not before[-1:].isalnum() or (before[0] == "\\" and before[-1] in "bfnrt")


def forms(secret: str, *, bounded: bool) -> tuple[Form, ...]:
    """Return the forms of a secret.

    :param bounded: find the plain form only where it is a word of its own
    """
    kept, rest = secret[:MAX_SECRET], secret[MAX_SECRET:]
    shown = mask(secret)
    texts = {kept, kept.replace(" ", "+"), *(level.text for level in levels(kept))}
    # `\\n` and its kin are not undone in texts: `C:\\new` and `\\new` would be the same.
    texts |= {text.translate(_LETTERS) for text in texts}
    texts |= {other for text in texts for other in _other_readings(text)}
    if len(kept) >= 4:
        texts = {text for text in texts if len(text) >= 4}
    encoded = {e for text in texts if len(text) >= 4 for e in _base64_middles(text)}
    respelled = {other for text in texts for other in _respelled(text)}
    texts |= {level.text for text in respelled for level in levels(text)}
    found = [Form(text, secret, shown, bounded=bounded, rest=rest) for text in texts]
    found += [Form(text, secret, MASK, base64=True, rest=rest) for text in encoded]
    return tuple(found)


def _other_readings(text: str) -> Iterator[str]:
    """Yield what becomes of a text that is written in one encoding and read in another."""
    if text.isascii():
        return
    # What WSGI and repr() of bytes make of UTF-8, and what it was before they did.
    yield text.encode("utf-8", "surrogatepass").decode("latin-1")
    with contextlib.suppress(UnicodeError):
        yield text.encode("latin-1").decode("utf-8")


def _respelled(text: str) -> Iterator[str]:
    """Yield what names of headers and old clients make of a text."""
    yield from (spelled := _cased(text))
    for spelling in (text, *spelled):
        if not spelling.isascii() and (latin := _latin(spelling)):
            for pattern in ("%{:02X}", "%{:02x}"):
                yield "".join(chr(byte) if byte < 128 else pattern.format(byte) for byte in latin)
            yield latin.decode("utf-8", "surrogateescape")
            yield latin.decode("utf-8", "replace")
            yield spelling.encode("ascii", "replace").decode("ascii")


def _cased(text: str) -> tuple[str, ...]:
    if len(text) < LONG:
        return ()
    return text.lower(), text.upper(), text.upper().replace("-", "_"), text.title()


def _base64_middles(secret: str) -> Iterator[str]:
    """Yield the base64 that every text with the secret at one of three alignments has in common."""
    for data in filter(None, {secret.encode("utf-8", "surrogatepass"), _latin(secret)}):
        for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
            encoded = base64.b64encode(b"\0" * alignment + data).decode("ascii")
            middle = encoded[foreign : (alignment + len(data)) * 8 // 6]
            if len(middle) >= 4:
                yield middle
                yield middle.translate(_TO_URLSAFE)


def _latin(text: str) -> bytes:
    """Return the text as old clients encode it, nothing if it cannot be."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return b""


class Level(NamedTuple):
    """A text with escapes undone.

    :param raw: maps a position in it to one in the original text
    """

    text: str
    raw: Callable[[int], int]


def has_escapes(text: str) -> bool:
    """Tell whether undoing escapes could change the text."""
    return "%" in text or "\\" in text or "&" in text


def levels(text: str) -> Iterator[Level]:
    """Yield the text as it is, then with its escapes undone, as long as that changes something."""
    level = Level(text, lambda position: position)
    yield level
    for _ in range(MAX_DEPTH):
        if not has_escapes(level.text):
            return
        deeper = _undo(level)
        if deeper is None:
            return
        yield (level := deeper)


def _undo(level: Level) -> Level | None:
    text, outer = level.text, level.raw
    undone = _ESCAPE.sub(_character, text)
    if len(undone) == len(text):
        return None
    known: list[tuple[list[int], list[int]]] = []

    def raw(position: int) -> int:
        if not known:
            known.append(_shifts(text))
        at, shifts = known[0]
        return outer(position + shifts[bisect_left(at, position)])

    return Level(undone, raw)


def _shifts(text: str) -> tuple[list[int], list[int]]:
    """Return where a text has escapes once they are undone, and by how much it is shorter there."""
    at: list[int] = []
    shifts = [0]
    for match in _ESCAPE.finditer(text):
        shorter = match.end() - match.start() - len(_character(match))
        if shorter:
            at.append(match.start() - shifts[-1])
            shifts.append(shifts[-1] + shorter)
    return at, shifts


def _character(match: re.Match[str]) -> str:
    return _decoded(match[0])


@functools.lru_cache(4096)
def _decoded(escape: str) -> str:
    """Return the character that an escape stands for; what stands for none, as it is."""
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[0] == "%":
        try:
            return bytes.fromhex(escape.replace("%", "")).decode("utf-8")
        except UnicodeDecodeError:
            return escape
    if _PAIR.fullmatch(escape):
        high, low = (int(u[-4:], 16) if len(u) > 1 else ord(u) for u in _UNIT.findall(escape))
        return chr(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF))
    if len(escape) > 2:
        code = int(escape[2:], 16)
        return chr(code) if code < 0x110000 else escape
    return escape[1]


def unfinished_escape(text: str) -> int:
    """Return where an escape begins that more text could complete, else the text's length."""
    match = _UNFINISHED_ESCAPE.search(text, max(0, len(text) - 17))
    return match.start() if match else len(text)
