"""The forms in which a known secret can stand in text, and finding them quickly.

Escapes are undone rather than enumerated: a text is searched as it is, and again with its
percent-encoding, JSON and ``repr`` escapes decoded, up to `MAX_DEPTH` times for encodings within
encodings. Found positions are mapped back. That leaves the plain form and base64 to look for.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from .secret_shapes import MASK, Span, mask

MAX_DEPTH = 3
"""Encodings within encodings that are undone: a URL in JSON in a JSON string."""

MAX_SECRET = 1024
"""Characters of a secret that are compared; of a longer one everything that follows is masked."""

MAX_CANDIDATES = 200_000
"""Comparisons for one text (or its length, if more). Only a text built for it needs more."""

_HEX = "[0-9A-Fa-f]"
_HIGH = rf"(?:\\u[Dd][89ABab]{_HEX}{{2}}|[\ud800-\udbff])"
_LOW = rf"(?:\\u[Dd][C-Fc-f]{_HEX}{{2}}|[\udc00-\udfff])"
_ESCAPE = re.compile(
    rf"%[0-7]{_HEX}|%[CDcd]{_HEX}%[89ABab]{_HEX}|%[Ee]{_HEX}(?:%[89ABab]{_HEX}){{2}}"
    rf"|%[Ff]{_HEX}(?:%[89ABab]{_HEX}){{3}}"
    rf"|{_HIGH}{_LOW}|\\u{_HEX}{{4}}|\\U{_HEX}{{8}}|\\x{_HEX}{{2}}|\\[\\\"'/]"
)
_PAIR = re.compile(_HIGH + _LOW)
_UNIT = re.compile(f"{_HIGH}|{_LOW}")
_UNFINISHED_ESCAPE = re.compile(r"[\\%\ud800-\udbff][\\%0-9A-Fa-fuUx]{0,16}\Z")
_LETTERS = {ord(c): f"\\{letter}" for c, letter in zip("\b\f\n\r\t", "bfnrt", strict=True)}
_TO_URLSAFE = str.maketrans("+/", "-_")
_BASE64_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
)
_REST = re.compile(r"""[^\s"'\\,;<>&]*""")


class TooCostly(Exception):
    """The text was made to be expensive to search."""


class Form(NamedTuple):
    """A secret as it can stand in (decoded) text.

    :param bounded: only as a word of its own: the secret is too short to be told from text
    :param base64: the part of an encoding that depends on the secret alone
    :param cut: what follows belongs to the secret, too
    """

    text: str
    secret: str
    shown: str
    bounded: bool = False
    base64: bool = False
    cut: bool = False

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
        if self.cut:
            rest = _REST.match(text, end)
            end = rest.end() if rest else end
        return start, end, self.shown


def _is_edge(text: str, start: int) -> bool:
    before = text[max(0, start - 2) : start]
    return not before[-1:].isalnum() or (before[0] == "\\" and before[-1] in "bfnrt")


def forms(secret: str, *, bounded: bool) -> tuple[Form, ...]:
    """Return the forms of a secret.

    :param bounded: find the plain form only where it is a word of its own
    """
    cut = len(secret) > MAX_SECRET
    kept = secret[:MAX_SECRET]
    shown = mask(secret)
    texts = {kept, kept.replace(" ", "+"), *(level.text for level in levels(kept))}
    # `\\n` and its kin are not undone in texts: `C:\\new` and `\\new` would be the same.
    texts |= {text.translate(_LETTERS) for text in texts}
    # What WSGI and repr() of bytes make of UTF-8.
    texts |= {text.encode("utf-8", "surrogatepass").decode("latin-1") for text in texts}
    if len(kept) >= 4:
        texts = {text for text in texts if len(text) >= 4}
    found = [Form(text, secret, shown, bounded=bounded, cut=cut) for text in texts]
    encoded = {e for text in texts if len(text) >= 4 for e in _base64_middles(text)}
    found += [Form(text, secret, MASK, base64=True, cut=cut) for text in encoded]
    return tuple(found)


def _base64_middles(secret: str) -> Iterator[str]:
    """Yield the base64 that every text with the secret at one of three alignments has in common."""
    data = secret.encode("utf-8", "surrogatepass")
    for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * alignment + data).decode("ascii")
        middle = encoded[foreign : (alignment + len(data)) * 8 // 6]
        if len(middle) >= 4:
            yield middle
            yield middle.translate(_TO_URLSAFE)


class Level(NamedTuple):
    """A text with escapes undone.

    :param raw: maps a position in it to one in the original text
    """

    text: str
    raw: Callable[[int], int]


def levels(text: str) -> Iterator[Level]:
    """Yield the text as it is, then with its escapes undone, as long as that changes something."""
    level = Level(text, lambda position: position)
    yield level
    for _ in range(MAX_DEPTH):
        if "%" not in level.text and "\\" not in level.text:
            return
        deeper = _undo(level)
        if deeper is None:
            return
        yield (level := deeper)


def _undo(level: Level) -> Level | None:
    pieces: list[str] = []
    at: list[int] = []
    shifts = [0]
    length = end = 0
    for match in _ESCAPE.finditer(level.text):
        character = _character(match.group())
        if character is None:
            continue
        start = match.start()
        length += start - end
        at.append(length)
        shifts.append(shifts[-1] + match.end() - start - 1)
        length += 1
        pieces += (level.text[end:start], character)
        end = match.end()
    if not at:
        return None
    pieces.append(level.text[end:])
    outer = level.raw
    return Level("".join(pieces), lambda p: outer(p + shifts[bisect_left(at, p)]))


def _character(escape: str) -> str | None:
    if escape[0] == "%":
        try:
            return bytes.fromhex(escape.replace("%", "")).decode("utf-8")
        except UnicodeDecodeError:
            return None
    if _PAIR.fullmatch(escape):
        high, low = (int(u[-4:], 16) if len(u) > 1 else ord(u) for u in _UNIT.findall(escape))
        return chr(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF))
    if len(escape) > 2:
        code = int(escape[2:], 16)
        return chr(code) if code < 0x110000 else None
    return escape[1]


def unfinished_escape(text: str) -> int:
    """Return where an escape begins that more text could complete, else the text's length."""
    match = _UNFINISHED_ESCAPE.search(text, max(0, len(text) - 17))
    return match.start() if match else len(text)


_T = TypeVar("_T")
_Table = dict[str, tuple[tuple[Form, int], ...]]


class FormIndex:
    """Finds any number of forms in a time that depends on the text alone.

    A form of at least ``2 * gram - 1`` characters covers, wherever it stands, one whole block of
    the text at a multiple of `gram`. So only those blocks are looked up, among the first `gram`
    substrings of each form. Not locked: `add` and `discard` are the owner's to serialise, and a
    reader sees each form either whole or not at all.
    """

    def __init__(self) -> None:
        self._tables: tuple[tuple[int, _Table], ...] = ((8, {}), (4, {}))
        self._tiny: dict[Form, None] = {}
        self._heads: dict[str, tuple[Form, ...]] = {}
        self._longest = 0

    def add(self, form: Form) -> None:
        self._longest = max(self._longest, len(form.text))
        for size in (1, 2, 3):
            head = form.text[:size]
            if len(head) == size:
                self._heads[head] = (*self._heads.get(head, ()), form)
        for gram, table in self._tables:
            if len(form.text) >= 2 * gram - 1:
                for offset in range(gram):
                    block = form.text[offset : offset + gram]
                    table[block] = (*table.get(block, ()), (form, offset))
                return
        self._tiny = {**self._tiny, form: None}

    def discard(self, form: Form) -> None:
        for size in (1, 2, 3):
            _remove(self._heads, form.text[:size], lambda entry: entry == form)
        for gram, table in self._tables:
            if len(form.text) >= 2 * gram - 1:
                for offset in range(gram):
                    block = form.text[offset : offset + gram]
                    _remove(table, block, lambda entry: entry[0] == form)
                return
        self._tiny = {known: None for known in self._tiny if known != form}

    def find(self, text: str) -> set[Span]:
        """Return the spans of all forms in the text.

        :raises TooCostly: for a text that was made to be
        """
        spans: set[Span] = set()
        for gram, table in self._tables:
            if table and any(
                map(table.__contains__, [text[i : i + gram] for i in range(0, len(text), gram)])
            ):
                spans |= _confirmed(text, gram, table)
        for form in self._tiny:
            start = text.find(form.text)
            while start >= 0:
                if span := form.span(text, start):
                    spans.add(span)
                start = text.find(form.text, start + 1)
        return spans

    def unfinished(self, text: str) -> int:
        """Return where a form begins that more text could complete, else the text's length."""
        for start in range(max(0, len(text) - self._longest), len(text)):
            for form in self._heads.get(text[start : start + 3], ()):
                tail = len(text) - start
                if tail < len(form.text) + form.bounded and form.text.startswith(text[start:]):
                    return start
        return len(text)


def _remove(table: dict[str, tuple[_T, ...]], key: str, is_it: Callable[[_T], bool]) -> None:
    left = tuple(entry for entry in table.get(key, ()) if not is_it(entry))
    if left:
        table[key] = left
    else:
        table.pop(key, None)


def _confirmed(text: str, gram: int, table: _Table) -> set[Span]:
    spans: set[Span] = set()
    candidates = 0
    for block in range(0, len(text) - gram + 1, gram):
        entries = table.get(text[block : block + gram], ())
        candidates += len(entries)
        if candidates > max(MAX_CANDIDATES, len(text)):
            raise TooCostly
        for form, offset in entries:
            start = block - offset
            if start >= 0 and text.startswith(form.text, start):
                span = form.span(text, start)
                if span:
                    spans.add(span)
    return spans
