"""Masking secrets in text, bytes, nested data and streams."""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .secret_forms import has_escapes, levels, unfinished_escape
from .secret_index import TooCostly
from .secret_memory import SecretMemory
from .secret_shapes import MASK, Span, find_shapes, mask, unfinished_shape

TEXT_WITHHELD = "(withheld: redacting it would have cost too much)"

MAX_HELD = 16 * 1024
"""Characters a stream holds back at most, waiting for the end of what may be a secret."""

CONTEXT = 16
"""Characters before a secret that tell whether it is one."""

WINDOW = 256 * 1024
"""Characters of a long text that are looked at together: that takes many times their memory."""

_MAX_SPAN = 4 * WINDOW  # characters of a secret in a long text, in whatever encoding
_TAIL = 64 * 1024  # characters in which a secret may begin that is not complete
_MAX_DEPTH = 64
_TELLING = 6  # characters at the start of a secret that are not shown either

SENSITIVE = frozenset({
    "authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "apikey",
    "x-proxy-api-key", "cookie", "set-cookie", "password", "passwd", "client-secret",
    "access-token", "refresh-token", "id-token", "secret-access-key", "x-amz-security-token",
})
"""Names, lower case with hyphens, whose values are masked whatever they are."""

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

    def text(self, value: str) -> str:
        """Return the text with its secrets masked."""
        if len(value) > WINDOW:
            shown, pieces = self._windows(value)
            shown += pieces.finish()
            return value if shown == value else shown
        try:
            spans = self.spans(value)
        except TooCostly:
            return TEXT_WITHHELD
        return masked_between(value, spans, 0, len(value)) if spans else value

    def cut(self, value: str) -> str:
        """Return a text with its secrets masked, the one that it may be cut off in included."""
        shown, pieces = self._windows(value)
        return shown + (MASK if pieces.held >= _TELLING else pieces.finish())

    def _windows(self, value: str) -> tuple[str, _Pieces]:
        pieces = _Pieces(self, context=64 * CONTEXT, max_held=_MAX_SPAN)  # encoded, maybe
        windows = range(0, len(value), WINDOW)
        return "".join([pieces.feed(value[at : at + WINDOW]) for at in windows]), pieces

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
            shown = self.text(number := str(value))
            return value if shown == number else shown
        if _depth > _MAX_DEPTH:
            return "(nested too deeply)"
        if isinstance(value, Mapping):
            return {self.mapping(k, _depth + 1): self._item(k, v, _depth) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
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
            if plain in SENSITIVE and not isinstance(value, bool):
                return masked_entirely(value) if isinstance(value, (str, bytes)) else MASK
        return self.mapping(value, depth + 1)

    def stream(self) -> StreamRedactor:
        """Return a redactor for bytes that come in pieces."""
        return StreamRedactor(self)

    def spans(self, text: str) -> list[Span]:
        """Return what to mask in the text, in order, without overlaps."""
        if not has_escapes(text):
            found = [*self._index.find(text), *find_shapes(text)]
            return _merged(found) if found else found
        found = []
        for level in levels(text):
            here = [*self._index.find(level.text), *find_shapes(level.text)]
            found += ((level.raw(start), level.raw(end), shown) for start, end, shown in here)
        return _merged(found) if found else found

    def unfinished(self, text: str) -> int:
        """Return from where on more text could still make a secret of it."""
        before = max(0, len(text) - _TAIL)
        text = text[before:]
        earliest = unfinished_shape(text)
        for level in levels(text):
            escape = unfinished_escape(level.text)
            start = self._index.unfinished(level.text[:escape])
            if start < len(level.text):
                earliest = min(earliest, level.raw(start))
        return before + earliest


class StreamRedactor:
    """Masks secrets in a stream, wherever it is cut, holding back only what may be one's start."""

    def __init__(self, redactor: Redactor) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._pieces = _Pieces(redactor, context=CONTEXT, max_held=MAX_HELD)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, return those that are now safe to write."""
        return self._pieces.feed(self._decoder.decode(data)).encode("utf-8", "surrogateescape")

    def finish(self) -> bytes:
        """Return what was held back."""
        rest = self._pieces.finish(self._decoder.decode(b"", final=True))
        return rest.encode("utf-8", "surrogateescape")


class _Pieces:
    """Masks secrets in text that comes in pieces.

    :param context: characters before a piece that are looked at with it
    :param max_held: characters that are held back at most
    """

    def __init__(self, redactor: Redactor, *, context: int, max_held: int) -> None:
        self._redactor = redactor
        self._context = context
        self._max_held = max_held
        self._text = ""
        self._written = 0  # characters at the start of `_text` that are there for context only
        self._enough = 0  # characters that are worth looking at again
        self._withheld = False

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return len(self._text) - self._written

    def feed(self, new: str) -> str:
        """Take the next piece, return what can now be shown."""
        if len(self._text) + len(new) < self._enough:
            self._text += new
            return ""
        return self._advance(new, final=False)

    def finish(self, new: str = "") -> str:
        """Take the last piece, return what was held back."""
        return self._advance(new, final=True)

    def _advance(self, new: str, *, final: bool) -> str:
        if self._withheld:
            return ""
        text = self._text + new
        try:
            spans = self._redactor.spans(text)
        except TooCostly:
            self._withheld = True
            self._text, self._written = "", 0
            return TEXT_WITHHELD
        end = len(text)
        if not final:
            end = max(held_from(self._redactor, text, spans, self._max_held), self._written)
        safe = masked_between(text, spans, self._written, end)
        kept = max(0, end - self._context)
        while kept < end and text[kept] == "\\":
            kept += 1  # half of an escaped backslash would change what follows
        self._text, self._written = text[kept:], end - kept
        # A long tail is not searched again for every byte that is added to it.
        held = len(text) - end
        self._enough = len(self._text) + held // 2 if held > 512 else 0
        return safe


@functools.lru_cache(1024)
def is_credential(header: str) -> bool:
    """Tell whether a header, by its name, holds a credential; those nobody has heard of, too."""
    name = header.lower().replace("_", "-")
    return name in SENSITIVE or _CREDENTIAL.fullmatch(name) is not None


def masked_entirely(value: str | bytes) -> str:
    """Return what is shown of a header that is a secret: its scheme, and the key's prefix."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme = _SCHEME.match(text)
    kept = scheme.group() if scheme else ""
    return kept + mask(text[len(kept) :])


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end, shown in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            first, last, first_shown = merged[-1]
            merged[-1] = first, max(last, end), first_shown
        else:
            merged.append((start, end, shown))
    return merged


def held_from(
    redactor: Redactor, text: str, spans: list[Span], max_held: int = MAX_HELD
) -> int:
    """Return where to stop showing a text whose continuation may make a secret of its end."""
    end = redactor.unfinished(text)
    for start, stop, _ in reversed(spans):
        if stop == len(text) or start < end < stop:
            end = min(end, start)
    return len(text) if len(text) - end > max_held else end


def masked_between(text: str, spans: list[Span], begin: int, end: int) -> str:
    """Return a part of a text, masked; of a secret that begins before it, nothing."""
    pieces: list[str] = []
    at = begin
    for start, stop, shown in spans:
        if stop > at and start < end:
            if start >= at:
                pieces += (text[at:start], shown)
            at = stop
    return "".join(pieces) + text[at:end]
