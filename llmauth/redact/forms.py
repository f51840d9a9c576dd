"""The forms in which a known secret can stand in text.

Escapes are undone rather than enumerated: a text is searched as it is, and again with the escapes
of URLs, HTML, JSON and ``repr`` decoded, up to `MAX_DEPTH` times for encodings within encodings.
So are line breaks in the middle of a secret, and lists of character codes. Found positions are
mapped back. That leaves the plain form, base64 and hexadecimal digits to look for.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .shapes import MASK, Run, Span, mask

MAX_DEPTH = 4
"""Encodings within encodings that are undone: a URL in JSON in a JSON string, in our own JSON."""

MAX_PLAIN = 8
"""Readings of one secret, when its own escapes are undone."""

MAX_FORMS = 32
"""Forms of one secret as text, and as many in base64."""

SEARCHED = 8
"""Characters from which on a secret is looked for in base64 and hexadecimal digits, over line
breaks, and in lists of codes; a shorter one would also match what has nothing to do with it."""

LONG = 12
"""Characters from which on a secret is masked in capitals and in small letters, too."""

_HEX = "[0-9A-Fa-f]"
_HIGH = rf"(?:\\u[Dd][89ABab]{_HEX}{{2}}|[\ud800-\udbff])"
_LOW = rf"(?:\\u[Dd][C-Fc-f]{_HEX}{{2}}|[\udc00-\udfff])"
# Of HTML, for what keys consist of.
_NAMED = "sol|plus|equals|period|lowbar|tilde|colon|comma|semi|num|dollar|percnt|ast|excl|commat"
_ESCAPE = re.compile(
    rf"%[0-7]{_HEX}|%[CDcd]{_HEX}%[89ABab]{_HEX}|%[Ee]{_HEX}(?:%[89ABab]{_HEX}){{2}}"
    rf"|%[Ff]{_HEX}(?:%[89ABab]{_HEX}){{3}}|%u00[0-7]{_HEX}|\\u\{{0{{0,4}}[0-7]{_HEX}\}}"
    rf"|{_HIGH}{_LOW}|\\u{_HEX}{{4}}|\\U{_HEX}{{8}}|\\x{_HEX}{{2}}|\\[\\\"'/]"
    rf"|&(?:amp|lt|gt|quot|apos|{_NAMED}|#0{{0,5}}\d{{2,3}}|#[xX]0{{0,6}}{_HEX}{{2}});"
)
_PAIR = re.compile(_HIGH + _LOW)
_UNIT = re.compile(f"{_HIGH}|{_LOW}")
_UNFINISHED_ESCAPE = re.compile(r"(?:[\\%\ud800-\udbff][\\%0-9A-Fa-fuUx]{0,16}|&[#\w]{0,5})\Z")
_LETTERS = {ord(c): f"\\{letter}" for c, letter in zip("\b\f\n\r\t", "bfnrt", strict=True)}
_PERCENT = {code: f"%{code:02X}" for code in range(128, 256)}
_SMALL_PERCENT = {code: f"%{code:02x}" for code in range(128, 256)}
_BASE64_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
)
# Line breaks, as they are and as JSON escapes them, with what indents the next line, and with the
# backslash or the equals sign (RFC 2045) that continues a line. With a NUL in each character, as in
# UTF-16, a text is broken, too.
_BREAK = re.compile(
    r"(?:(?:\\?\r?\n|\\?\r|=\r?\n|[\v\f\x85\u2028\u2029]|(?:\\r)?\\n|\\r)[ \t]*|\0)+"
)
_BREAKS = ("\n", "\r", "\0", "\\n", "\\r", "\v", "\f", "\x85", "\u2028", "\u2029")
_INDENT = r"(?:\s|\\[nrt]){0,16}"
_CODES = re.compile(
    rf"\d{{1,3}}(?:,{_INDENT}\d{{1,3}}){{7,}}"
    rf"|0[xX]{_HEX}{{1,2}}(?:,{_INDENT}0[xX]{_HEX}{{1,2}}){{7,}}"
    rf"|{_HEX}{{2}}(?:[:-]{_HEX}{{2}}){{7,}}"
    rf"|{_HEX}{{1,3}}(?: {_HEX}{{1,3}}){{7,}}"  # of one base or the other
)
# Whether it is worth looking for them; each begins with a character for which it is quick to look.
_LISTED = re.compile(rf",{_INDENT}(?:0[xX])?{_HEX}{{1,3}},{_INDENT}(?:0[xX])?{_HEX}{{1,3}},")
_COLONS = re.compile(rf":{_HEX}{{2}}:{_HEX}{{2}}:{_HEX}{{2}}:")
_DASHES = re.compile(rf"-{_HEX}{{2}}-{_HEX}{{2}}-{_HEX}{{2}}-")
_SPACED = re.compile(rf" {_HEX}{{2,3}} {_HEX}{{2,3}} {_HEX}{{2,3}} ")
_CODE = re.compile(r"[0-9A-Fa-fxX]+")


class Form(NamedTuple):
    """A secret as it can stand in (decoded) text.

    :param replacement: what takes its place
    :param bounded: only as a word of its own: the secret is too short to be told from text
    :param base64: the part of an encoding that depends on the secret alone
    :param longer: it is the beginning of a secret; what follows belongs to it, too
    """

    text: str
    replacement: str
    bounded: bool = False
    base64: bool = False
    longer: bool = False

    def span(self, text: str, start: int, rest: Run) -> Span | None:
        """Return the span of this form, which is in the text at `start`; None if it is no secret.

        :param rest: of the text, where what follows a secret ends
        """
        end = start + len(self.text)
        if self.bounded and not (_is_edge(text, start) and not text[end : end + 1].isalnum()):
            return None
        if self.base64:
            # The characters at both ends hold a few bits of the secret.
            start -= text[max(0, start - 1) : start] in _BASE64_CHARACTERS
            end += text[end : end + 1] in _BASE64_CHARACTERS
            end += len(padding := text[end : end + 2]) - len(padding.lstrip("="))
        return start, rest.end(end) if self.longer else end, self.replacement


def _is_edge(text: str, start: int) -> bool:
    before = text[max(0, start - 2) : start]
    return not before[-1:].isalnum() or (before[0] == "\\" and before[-1] in "bfnrt")


def forms(secret: str, *, word: int = 0, longer: bool = False) -> Iterator[Form]:
    """Yield the forms of a secret, the plain one first.

    :param word: a form of fewer characters is found only where it is a word of its own
    :param longer: the secret is the beginning of a longer one
    """
    replacement = mask(secret)
    plain = list(_distinct(_plain(secret), min(4, len(secret)), MAX_PLAIN))
    for text in _distinct(_respelled(plain), min(4, len(secret)), MAX_FORMS):
        yield Form(text, replacement, bounded=len(text) < word, longer=longer)
    for text in _distinct(_encoded(secret, plain), 4, MAX_FORMS):
        yield Form(text, MASK, base64=True, longer=longer)
    if len(secret) >= SEARCHED:
        digits = secret.encode("utf-8", "surrogatepass").hex()
        yield Form(digits, MASK, longer=longer)
        yield Form(digits.upper(), MASK, longer=longer)


def _distinct(texts: Iterator[str], least: int, most: int) -> Iterator[str]:
    """Yield so many different texts, none of them shorter than so many characters."""
    seen: dict[str, None] = {}
    for text in texts:
        if len(text) >= least and text not in seen:
            seen[text] = None
            yield text
            if len(seen) == most:
                return


def _plain(secret: str) -> Iterator[str]:
    """Yield what a secret is when its own escapes are undone, and what else it is read as."""
    for spelled in dict.fromkeys((secret, secret.replace(" ", "+"))):
        for level in levels(spelled):
            # `\\n` and its kin are not undone in texts: `C:\\new` and `\\new` would be the same.
            yield from (text := level.text, text.translate(_LETTERS), _BREAK.sub("", text))
            yield from _other_readings(text)


def _other_readings(text: str) -> Iterator[str]:
    """Yield what becomes of a text that is written in one encoding and read in another."""
    if text.isascii():
        return
    # What WSGI and repr() of bytes make of UTF-8, and what it was before they did.
    yield text.encode("utf-8", "surrogatepass").decode("latin-1")
    with contextlib.suppress(UnicodeError):
        yield text.encode("latin-1").decode("utf-8")


def _respelled(texts: list[str]) -> Iterator[str]:
    """Yield texts, and what names of headers and old clients make of them."""
    yield from texts
    for text in texts:
        for spelling in _cased(text):
            yield from (level.text for level in levels(spelling))
    for text in texts:
        for spelling in (text, *_cased(text)):
            if not spelling.isascii() and (latin := _latin(spelling)):
                yield spelling.translate(_PERCENT)
                yield spelling.translate(_SMALL_PERCENT)
                yield latin.decode("utf-8", "surrogateescape")
                yield latin.decode("utf-8", "replace")
                yield spelling.encode("ascii", "replace").decode("ascii")


def _cased(text: str) -> tuple[str, ...]:
    if len(text) < LONG:
        return ()
    return text.lower(), text.upper(), text.upper().replace("-", "_"), text.title()


def _encoded(secret: str, plain: list[str]) -> Iterator[str]:
    """Yield what a secret becomes in base64, also in that of UTF-16, as PowerShell takes it."""
    yield from _base64_middles(secret.encode("utf-8", "surrogatepass"))
    if len(secret) >= SEARCHED:
        yield from _base64_middles(secret.encode("utf-16-le", "surrogatepass").rstrip(b"\0"))
    for text in plain:
        yield from _base64_middles(text.encode("utf-8", "surrogatepass"))
        yield from _base64_middles(_latin(text))


def _base64_middles(data: bytes) -> Iterator[str]:
    """Yield the base64 that all that holds the data at one of three alignments has in common."""
    for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * alignment + data).decode("ascii")
        middle = encoded[foreign : (alignment + len(data)) * 8 // 6]
        yield middle
        yield middle.replace("+", "-").replace("/", "_")


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
    """True for a text that undoing escapes could change."""
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
    shifts: list[_Shifts] = []  # most texts hold no secret, and need none

    def raw(position: int) -> int:
        if not shifts:
            shifts.append(_shifts(text, _ESCAPE, lambda escape: len(_character(escape))))
        places, lengths = shifts[0]
        return outer(position + lengths[bisect_left(places, position)])

    return Level(undone, raw)


_Shifts = tuple[list[int], list[int]]
"""Where in a text something was replaced, and by how much the text is shorter before that."""


def _shifts(
    text: str, pattern: re.Pattern[str], length: Callable[[re.Match[str]], int]
) -> _Shifts:
    """Return what maps positions in a text in which something was replaced to the original's.

    :param pattern: of what was replaced
    :param length: of what took its place
    """
    places, lengths = [], [0]
    for match in pattern.finditer(text):
        if shorter := match.end() - match.start() - length(match):
            places.append(match.start() - lengths[-1])
            lengths.append(lengths[-1] + shorter)
    return places, lengths


def _character(match: re.Match[str]) -> str:
    return _decoded(match[0])


@functools.lru_cache(4096)
def _decoded(escape: str) -> str:
    """Return the character that an escape stands for; what stands for none, as it is."""
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[0] == "%":
        try:
            return bytes.fromhex(re.sub("%u00|%", "", escape)).decode("utf-8")
        except UnicodeDecodeError:
            return escape
    if _PAIR.fullmatch(escape):
        high, low = (int(u[-4:], 16) if len(u) > 1 else ord(u) for u in _UNIT.findall(escape))
        return chr(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF))
    if len(escape) > 2:
        code = int(escape[2:].strip("{}"), 16)
        return chr(code) if code < 0x110000 else escape
    return escape[1]


def without_half_escape(text: str) -> int:
    """Return where an escape begins that more text could complete, else the text's length."""
    match = _UNFINISHED_ESCAPE.search(text, max(0, len(text) - 17))
    return match.start() if match else len(text)


def over_breaks(
    text: str, known: list[Span], find: Callable[[str], list[Span]]
) -> Iterator[Span]:
    """Yield the secrets in a text that have line breaks in them.

    :param known: what `find` finds without that
    """
    if not any(one in text for one in _BREAKS):
        return
    spans = find(_BREAK.sub("", text))
    if not spans:
        return
    places, lengths = _shifts(text, _BREAK, lambda line_break: 0)
    whole = {start for start, _, _ in known}
    for start, end, replacement in spans:
        first, last = lengths[bisect_right(places, start)], lengths[bisect_left(places, end)]
        # What is whole on one line does not go on with the next.
        if first < last and end - start >= SEARCHED and start + first not in whole:
            yield start + first, end + last, replacement


def as_codes(text: str, find: Callable[[str], list[Span]]) -> Iterator[Span]:
    """Yield the secrets in a text that are lists of the codes of their characters."""
    if not (
        (text.count(",") > 6 and _LISTED.search(text))
        or (text.count(":") > 6 and _COLONS.search(text))
        or (text.count("-") > 6 and _DASHES.search(text))
        or _SPACED.search(text)
    ):
        return
    for listed in _CODES.finditer(text):
        for base in _bases(listed[0]):
            places, characters = [], []
            for code in _CODE.finditer(text, *listed.span()):
                if character := int(code[0], base):  # UTF-16 has zeros, too
                    places.append(code.span())
                    characters.append(chr(character))
            for start, end, replacement in find("".join(characters)):
                if end - start >= SEARCHED:
                    yield places[start][0], places[end - 1][1], replacement


def _bases(listed: str) -> tuple[int, ...]:
    """Return the bases in which the numbers of a list may be written."""
    if "," in listed:
        return (16,) if "x" in listed.lower() else (10,)
    return (10, 16) if re.fullmatch("[0-9 ]+", listed) else (16,)
