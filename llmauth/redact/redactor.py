"""Masking secrets in text, bytes and nested data: what all that is written goes through."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..providers.table import KEY_HEADERS, PROXY_KEY_HEADER
from .forms import SEARCHED, as_codes, has_escapes, levels, over_breaks, without_half_escape
from .front_proxies import Kind, kind_of
from .memory import SecretMemory
from .shapes import MASK, Span, broken_off, find_shapes, mask

WINDOW = 256 * 1024
"""Characters of a long text that are searched at a time, which takes many times their memory."""

MARGIN = 16 * 1024
"""Characters after a window that are searched with it: more than a secret has, however encoded,
that is recognised by its end."""

CONTEXT = 1024
"""Characters before a window that are searched with it: a name there says what a value is."""

_LONGEST = 4 * WINDOW  # characters of a secret for which a window grows
_REST = re.compile(r"""[^\s"'\\]*""")
_LONG_NAME = 64  # characters of a header's name, longer than any that is in use
_MAX_DEPTH = 64

SENSITIVE = frozenset({
    PROXY_KEY_HEADER, *KEY_HEADERS, "authorization", "proxy-authorization", "apikey", "cookie",
    "set-cookie", "password", "passwd", "client-secret", "access-token", "refresh-token",
    "id-token", "secret-access-key", "x-amz-security-token",
})
"""Names, lower case with hyphens, whose values are masked whatever they are."""

_HANDED = ("x-", "cf-", "teleport-", "client-cert", "ssl-client-")
"""What the names of credentials that a front proxy adds begin with, unlike those in contents."""

_CREDENTIAL = re.compile(
    r"(?:.*-)?(?:token|secret|password|auth|(?<!idempotency-)key)|.*(?:authorization|cookie).*"
)

_SCHEME = re.compile(r"(?i)(bearer|basic|digest|negotiate|token)\s+(?=\S)")


class Redactor(SecretMemory):
    """Masks secrets: those it was told, in every form, and what has the shape of a key.

    Text that holds none comes back as it was. Secrets of fewer than four characters are masked
    only as words of their own. All methods may be called from any thread.

    :param secrets: keys and passwords of the process
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.add(*secrets)

    def text(self, value: str, *, cut: bool = False) -> str:
        """Return the text with its secrets masked.

        :param cut: the text broke off, maybe in the middle of a secret
        """
        spans = self.spans(value, cut=cut)
        return masked_pieces(value, spans)[0] if spans else value

    def data(self, value: bytes) -> bytes:
        """Return the bytes with the secrets masked; what is not UTF-8 stays as it is."""
        text = value.decode("utf-8", "surrogateescape")
        redacted = self.text(text)
        return value if redacted is text else redacted.encode("utf-8", "surrogateescape")

    def mapping(self, value: Any, _depth: int = 0) -> Any:
        """Return a copy of nested data with the secrets masked, names included.

        Values under the names of `SENSITIVE` headers are masked entirely. What is neither text,
        a number nor a container becomes the redacted text that it prints as.
        """
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.data(bytes(value))
        if isinstance(value, (int, float)):
            masked = self.text(number := str(value))
            return value if masked == number else masked
        if _depth > _MAX_DEPTH:
            return "(nested too deeply)"
        if isinstance(value, Mapping):
            return {self.mapping(k, _depth + 1): self._item(k, v, _depth) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            if len(value) >= SEARCHED and all(type(item) is int for item in value):
                # The codes of a secret's characters: no number of them shows it, all of them do.
                masked = self.text(listed := str(list(value)))
                return masked if masked != listed else value
            items = [self.mapping(item, _depth + 1) for item in value]
            if len(items) == 2 and isinstance(value, (list, tuple)):
                items[1] = self._item(value[0], value[1], _depth)
            return tuple(items) if isinstance(value, tuple) else items
        return self.text(str(value))

    def _item(self, name: Any, value: Any, depth: int) -> Any:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if isinstance(name, str) and isinstance(value, (str, bytes, int, float)):
            plain = name.lower().replace("_", "-").removeprefix("http-")
            handed = plain.startswith(_HANDED) and kind_of(plain) is Kind.CREDENTIAL
            if (plain in SENSITIVE or handed) and not isinstance(value, bool):
                return masked_entirely(value) if isinstance(value, (str, bytes)) else MASK
        return self.mapping(value, depth + 1)

    def spans(self, text: str, *, cut: bool = False) -> list[Span]:
        """Return what to mask in the text, in order, without overlaps.

        :param cut: the text broke off, maybe in the middle of a secret
        """
        self._index_observed()
        if len(text) > WINDOW:
            return self._in_windows(text, cut)
        return self._at_once(text, cut)

    def _at_once(self, text: str, cut: bool) -> list[Span]:
        if not has_escapes(text):
            spans = self._as_it_is(text, cut)
        else:
            spans = [
                (level.raw(start), level.raw(end), replacement)
                for level in levels(text)
                for start, end, replacement in self._as_it_is(level.text, cut)
            ]
        return _merged(spans) if spans else spans

    def _as_it_is(self, text: str, cut: bool) -> list[Span]:
        """Return the spans of secrets in a text whose escapes are left alone."""
        find = self._index.find
        known = find(text)
        spans = [*known, *find_shapes(text), *over_breaks(text, known, find), *as_codes(text, find)]
        if cut:
            end = without_half_escape(text)
            begun = min(self._index.begun(text[:end]), broken_off(text))
            spans += [(begun, len(text), MASK)] if begun < end else []
        return spans

    def _in_windows(self, text: str, cut: bool) -> list[Span]:
        spans: list[Span] = []
        at, size = 0, WINDOW
        while at < len(text):
            begin, stop = _context(text, at), min(len(text), at + size + MARGIN)
            here = [
                (max(at, begin + first), begin + last, replacement)
                for first, last, replacement in self._at_once(
                    text[begin:stop], cut and stop == len(text)
                )
            ]
            end = stop if stop == len(text) else _border(text, at, at + size)
            over = next((span for span in here if span[0] < end < span[1]), None)
            if over and over[1] < stop:
                end = over[1]
            elif over and over[0] > at:
                end = over[0]
            elif over and size < _LONGEST:
                size *= 4
                continue
            elif over:
                end = _REST.match(text, stop).end()  # type: ignore[union-attr]
                here = [(at, end, over[2])]
            spans += [span for span in here if span[0] < end and span[1] > at]
            at, size = end, WINDOW
        return spans


def is_credential(header: str) -> bool:
    """True for a header that holds a credential, by its name; unknown names are judged, too."""
    # Clients choose the names: what is remembered of them is bounded in bytes.
    return (_is_credential if len(header) <= _LONG_NAME else _is_credential.__wrapped__)(header)


@functools.lru_cache(1024)
def _is_credential(header: str) -> bool:
    name = header.lower().replace("_", "-")
    known = name in SENSITIVE or kind_of(name) is Kind.CREDENTIAL
    return known or _CREDENTIAL.fullmatch(name) is not None


def is_private(header: str) -> bool:
    """True for a header of a request that is a credential, or tells who or where a client is."""
    kind = kind_of(header.lower().replace("_", "-"))
    return kind is Kind.PERSONAL or is_credential(header)


def masked_entirely(value: str | bytes) -> str:
    """Return what is shown of a header that is a secret: its scheme, and the key's prefix."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme = _SCHEME.match(text)
    kept = scheme.group() if scheme else ""
    return kept + mask(text[len(kept) :])


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end, replacement in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            first, last, replaced = merged[-1]
            merged[-1] = first, max(last, end), replaced
        else:
            merged.append((start, end, replacement))
    return merged


def _context(text: str, at: int) -> int:
    """Return where the search of a text begins that is about what follows a position."""
    begin = max(0, at - CONTEXT)
    while begin < at and text[begin] == "\\":
        begin += 1  # half of an escaped backslash would change what follows
    return begin


def _border(text: str, at: int, end: int) -> int:
    """Return where to cut a text near a position, not between backslashes if that is possible."""
    for border in range(end, max(at, end - CONTEXT), -1):
        if text[border - 1] != "\\":
            return border
    return end


def masked_pieces(text: str, spans: Sequence[Span], cuts: Iterable[int] = ()) -> list[str]:
    """Return a text masked, in pieces.

    :param spans: of what is masked, in order
    :param cuts: where the pieces but the last one end; what is masked stands where it begins
    """
    pieces: list[str] = []
    number = at = 0
    for end in (*cuts, len(text)):
        piece: list[str] = []
        while number < len(spans) and spans[number][0] < end:
            start, stop, replacement = spans[number]
            piece += (text[at:start], replacement)
            number, at = number + 1, stop
        pieces.append("".join(piece) + text[at:end])
        at = max(at, end)
    return pieces
