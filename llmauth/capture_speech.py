"""Streamed answers without secrets, also where a model says one a few characters at a time.

What a model repeats comes in pieces, a token in each event: the secret stands nowhere in the bytes,
but whoever joins the pieces reads it. So what events say under the same name is looked at joined.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, NamedTuple

from .redactor import (
    CONTEXT,
    TEXT_WITHHELD,
    Redactor,
    StreamRedactor,
    held_from,
    masked_between,
)
from .secret_index import TooCostly
from .secret_shapes import MASK, Span

MAX_EVENT = 4 * 1024**2
"""Bytes of an event; from a longer one on, the stream is taken for plain text."""

MIN_HELD = 64 * 1024
"""Bytes that a stream may hold back in any case: more than a secret in pieces takes."""

MAX_WAITING = 2048
"""Events that are held back at most."""

_MAX_TEXTS = 64
_OFTEN = 512  # characters; as much is looked at with each piece
_ENDS = {"lines": re.compile(rb"\n"), "events": re.compile(rb"\r\n\r\n|\n\n|\r\r")}
# What every event of a stream repeats; a model says nothing there.
_FIXED = frozenset({
    "id", "object", "model", "type", "role", "finish_reason", "system_fingerprint", "service_tier",
    "created_at", "item_id", "modelVersion", "responseId", "obfuscation", "status",
})  # fmt: skip


class _Spoken:
    """What was said under one name."""

    def __init__(self) -> None:
        self.text = ""
        self.base = 0  # characters that are forgotten
        self.safe = 0  # characters that may be shown, these included
        self.spans: list[Span] = []
        self.shown = 0
        self.looked_at = 0  # characters, likewise
        self.enough = 0  # characters with which it is worth looking again, likewise

    @property
    def end(self) -> int:
        return self.base + len(self.text)


class _Piece(NamedTuple):
    spoken: _Spoken
    holder: dict[str, Any]
    name: str
    start: int


class Speech:
    """Finds secrets that are said in pieces, by the names under which they are said."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._spoken: dict[str, _Spoken] = {}

    def hear(self, document: Any) -> list[_Piece]:
        """Take what an event says, and look at it together with what was said before."""
        pieces: list[_Piece] = []
        texts: list[tuple[str, dict[str, Any], str]] = []
        if isinstance(document, (dict, list)):
            _texts(document, "", texts)
        for path, holder, name in texts:
            if path not in self._spoken and len(self._spoken) >= _MAX_TEXTS:
                continue
            spoken = self._spoken.setdefault(path, _Spoken())
            forgotten = max(0, spoken.shown - spoken.base - CONTEXT)
            spoken.text = spoken.text[forgotten:] + holder[name]
            spoken.base += forgotten
            start = spoken.base + len(spoken.text) - len(holder[name])
            pieces.append(_Piece(spoken, holder, name, start))
        for piece in pieces:
            if piece.spoken.end >= piece.spoken.enough:
                self._look(piece.spoken, final=False)
        return pieces

    def catch_up(self) -> None:
        """Look at what has not been looked at, before it is shown though more may belong to it."""
        for spoken in self._spoken.values():
            if spoken.looked_at < spoken.end:
                self._look(spoken, final=False)

    def end(self) -> None:
        """Nothing more will be said."""
        for spoken in self._spoken.values():
            self._look(spoken, final=True)

    def mask(self, pieces: list[_Piece]) -> bool:
        """Mask secrets in the event that the pieces are of; return whether there are any."""
        changed = False
        for spoken, holder, name, start in pieces:
            end = start + len(holder[name])
            begin = start - spoken.base
            text = masked_between(spoken.text, spoken.spans, begin, end - spoken.base)
            changed = changed or text != holder[name]
            holder[name] = text
            spoken.shown = max(spoken.shown, end)
        return changed

    def _look(self, spoken: _Spoken, *, final: bool) -> None:
        end = len(spoken.text)
        try:
            spoken.spans = self._redactor.spans(spoken.text)
        except TooCostly:
            spoken.spans = [(0, end, TEXT_WITHHELD)]
        if not final:
            end = held_from(self._redactor, spoken.text, spoken.spans)
        spoken.safe = spoken.base + end
        spoken.looked_at = spoken.end
        # What is held back is not searched again for every piece that is added to it.
        held = spoken.end - spoken.safe
        spoken.enough = spoken.end + (held // 2 if held > _OFTEN else 0)


class _Event(NamedTuple):
    text: str
    document: Any
    pieces: list[_Piece]

    @property
    def safe(self) -> bool:
        return all(p.start + len(p.holder[p.name]) <= p.spoken.safe for p in self.pieces)


class EventRedactor:
    """Masks secrets in a stream of events or lines, wherever it is cut.

    :param kind: ``events`` are separated by empty lines (server-sent events), ``lines`` are JSON
    """

    def __init__(self, redactor: Redactor, kind: str) -> None:
        self._redactor = redactor
        self._end = _ENDS[kind]
        self._speech = Speech(redactor)
        self._begun = bytearray()
        self._waiting: deque[_Event] = deque()
        self._waits = 0  # their characters
        self._limit = MAX_EVENT
        self._plain: StreamRedactor | None = None

    @property
    def held(self) -> int:
        """Bytes that are held back, about."""
        return len(self._begun) + self._waits

    def feed(self, data: bytes, limit: int = MAX_EVENT) -> bytes:
        """Take the next bytes, return those that are now safe to write.

        :param limit: bytes that may be held back
        """
        self._limit = max(MIN_HELD, min(MAX_EVENT, limit))
        # With a NUL in each character, as in UTF-16, no secret would be recognised.
        data = data.replace(b"\0", b"")
        if self._plain is not None:
            return self._plain.feed(data)
        looked_at = max(0, len(self._begun) - 3)
        self._begun += data
        start = 0
        for match in self._end.finditer(self._begun, looked_at):
            self._take(bytes(self._begun[start : match.end()]))
            start = match.end()
        del self._begun[:start]
        safe = self._release()
        if len(self._begun) <= self._limit:
            return safe
        self._plain = self._redactor.stream()
        begun, self._begun = bytes(self._begun), bytearray()
        return safe + self._rest() + self._plain.feed(begun)

    def finish(self, *, cut: bool = False) -> bytes:
        """Return what was held back.

        :param cut: the stream broke off, maybe in the middle of a secret
        """
        if self._plain is not None:
            return b"" if cut else self._plain.finish()
        if self._begun:
            text = bytes(self._begun).decode("utf-8", "surrogateescape")
            text = self._redactor.cut(text) if cut else text
            self._take(text.encode("utf-8", "surrogateescape"))
            self._begun.clear()
        if not cut:
            return self._rest()
        safe = self._release()
        return safe + MASK.encode("ascii") if self._waiting else safe

    def _take(self, raw: bytes) -> None:
        text = raw.decode("utf-8", "surrogateescape")
        document = _document(text)
        self._waiting.append(_Event(text, document, self._speech.hear(document)))
        self._waits += len(text)

    def _release(self) -> bytes:
        shown = []
        part = 1.0
        if self._is_full(part):
            self._speech.catch_up()
            part = 0.75  # or the next event would have all of it looked at again
        while self._waiting and (self._waiting[0].safe or self._is_full(part)):
            event = self._waiting.popleft()
            self._waits -= len(event.text)
            shown.append(self._shown(event))
        return b"".join(shown)

    def _is_full(self, part: float) -> bool:
        return len(self._waiting) > part * MAX_WAITING or self._waits > part * self._limit

    def _rest(self) -> bytes:
        self._speech.end()
        return self._release()

    def _shown(self, event: _Event) -> bytes:
        changed = self._speech.mask(event.pieces)
        text = _rewritten(event) if changed else event.text
        return self._redactor.text(text).encode("utf-8", "surrogateescape")


def array_without_secrets(redactor: Redactor, events: list[Any]) -> Any:
    """Mask secrets in a stream that came as one JSON array, as Gemini's does without SSE."""
    stream = EventRedactor(redactor, "lines")
    lines = "".join(json.dumps(event) + "\n" for event in events).encode("ascii")
    try:
        return [json.loads(line) for line in (stream.feed(lines) + stream.finish()).splitlines()]
    except ValueError:
        return redactor.mapping(events)


def _document(text: str) -> Any:
    lines = text.splitlines() if "data:" in text else [text]
    data = [line[5:] for line in lines if line.startswith("data:")] or [text]
    try:
        return json.loads("\n".join(data)) if "{" in text else None
    except (ValueError, RecursionError):
        return None


def _rewritten(event: _Event) -> str:
    line = json.dumps(event.document, ensure_ascii=False, separators=(",", ":"))
    body = event.text.rstrip("\r\n")
    if "data:" in body:
        other = [one for one in body.splitlines() if not one.startswith("data:")]
        line = "\n".join([*other, f"data: {line}"])
    return line + event.text[len(body) :]


def _texts(value: Any, path: str, found: list[tuple[str, dict[str, Any], str]]) -> None:
    """Find the texts of an event: their path, and where each of them is."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if item and name not in _FIXED:
                    found.append((f"{path}.{name}", value, name))
            elif isinstance(item, (dict, list)):
                _texts(item, f"{path}.{name}", found)
    else:
        for number, item in enumerate(value):
            if isinstance(item, (dict, list)):
                # Of several answers to one question each event may hold another one.
                place = item.get("index", number) if isinstance(item, dict) else number
                _texts(item, f"{path}.{place}", found)
