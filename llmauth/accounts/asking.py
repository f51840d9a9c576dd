"""Asking for a stream's usage on the client's behalf, without the client noticing.

OpenAI's chat and completions tell it in one chunk more, and only when asked. So the wish is added
to the request's body, and that chunk is taken out of the answer. The ``"usage": null`` that the
other chunks have then stays in them: to clients it is the same as none, and their bytes are not
touched.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .documents import event_data

PATHS_END = "/completions"
"""Of what tells its usage when asked: upstream, without the query."""

MAX_HELD = 8 * 1024
"""Bytes of an event that are held back while it may be the usage, which has less than 2 KiB."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_ASKED = '"include_usage":true'

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n|\Z)")
_NAMES_USAGE = re.compile(rb'"usage"(?!\s*:\s*null)')
_HAS_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*[^\s\]]')
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")


def ask(body: bytes) -> bytes | None:
    """Return the body of a streamed chat with ``stream_options.include_usage`` in it.

    :returns: None where there is nothing to ask for: it is no stream, the client said what it
        wants, or it is in doubt what a provider reads in it (a name that stands twice, no JSON)
    """
    if b'"stream"' not in body and b"\\u" not in body:
        return None  # what most do, and large ones take long to be read
    try:
        text = body.decode("utf-8")
        members = _members(text, 0)
        if members.get("stream", (None,))[0] is not True:
            return None
        options, start, end = members.get("stream_options", (None, 0, 0))
        if end == 0:
            return _insert(text, 0, f'"stream_options":{{{_ASKED}}}')
        if options is None:
            return f"{text[:start]}{{{_ASKED}}}{text[end:]}".encode()
        return None if "include_usage" in _members(text, start) else _insert(text, start, _ASKED)
    except (ValueError, RecursionError):
        return None


def _members(text: str, at: int) -> dict[str, tuple[Any, int, int]]:
    """Return the values in an object, and where each begins and ends.

    :raises ValueError: when it is none, or has a name twice
    """
    members: dict[str, tuple[Any, int, int]] = {}
    at = _after("{", text, at)
    while not text.startswith("}", at):
        name, end = _DECODER.raw_decode(text, at)
        start = _after(":", text, end)
        value, end = _DECODER.raw_decode(text, start)
        if not isinstance(name, str) or name in members:
            raise ValueError("no name, or one that stands twice")
        members[name] = value, start, end
        at = _space(text, end)
        if not text.startswith("}", at):
            at = _after(",", text, at)
    return members


def _insert(text: str, at: int, member: str) -> bytes:
    """Return the text with one member more at the beginning of an object."""
    inside = _after("{", text, at)
    comma = "" if text.startswith("}", inside) else ","
    return f"{text[:inside]}{member}{comma}{text[inside:]}".encode()


def _after(mark: str, text: str, at: int) -> int:
    at = _space(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"no {mark}")
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


class UsageFilter:
    """Takes the chunk out of a stream that the client did not ask for: usage, and no choices.

    All other bytes leave as they came, at once, but for what may still turn out to be that chunk.
    A meter is fed what comes in here, so that it has the usage.
    """

    def __init__(self) -> None:
        self._held = bytearray()  # data of the event that may be the usage
        self._line = 0  # where in it the line begins that is being received
        self._is_passing = False  # that line is passed on as it comes
        self._may_be = True  # the event may be the usage
        self._is_taken = False  # it was
        self._has_passed = False  # a field of it was passed on, so that its end must be, too
        self._is_clean = True  # at the beginning of an event
        self._return: bool | None = None  # a CR ended the last line: passed on, or not

    def feed(self, data: bytes) -> bytes:
        """Return what of the stream may be sent on now."""
        if self._is_clean and data.endswith(_EVENT_ENDS) and b'"usage"' not in data:
            return data  # as nearly all of it comes
        usage = _NAMES_USAGE.search(data)
        sure = usage.start() if usage else len(data)
        pieces, at = [], 0
        while at < len(data):
            ended = _events_end(data, at, sure) if self._is_between else at
            if ended > at:
                pieces.append(data[at:ended])
                at = ended
            elif line := _LINE.match(data, at):
                pieces.append(self._part(line[1], line[2]))
                at = line.end()
        self._is_clean = self._is_between
        return b"".join(pieces)

    def end(self) -> bytes:
        """Return what is still to be sent when the stream has ended, or broke off."""
        held = self._release()
        return b"" if _is_usage(held) else held

    @property
    def _is_between(self) -> bool:
        """True at the beginning of an event."""
        return not (
            self._held
            or self._is_passing
            or self._is_taken
            or self._has_passed
            or self._return is not None
        )

    def _part(self, text: bytes, end: bytes) -> bytes:
        """Take a line, or what has come of it."""
        returned, self._return = self._return, None
        if returned is not None and not text and end == b"\n":  # the rest of that line's end
            if self._held:
                return self._hold(end)
            return end if returned else b""
        passed = self._text(text) if text else b""
        return passed + self._end(end) if end else passed

    def _text(self, text: bytes) -> bytes:
        if self._is_passing:
            return text
        self._hold(text, line=self._line)
        begins = bytes(self._held[self._line : self._line + 5])
        if b"data:".startswith(begins) and self._may_be and not self._is_ruled_out():
            return b""
        self._is_passing = True
        if self._line or not begins.startswith(b":"):  # a comment is no part of an event
            self._has_passed = True
            self._may_be = self._may_be and not self._line and begins != b"data:"
        return self._release()

    def _end(self, end: bytes) -> bytes:
        self._return = True if end == b"\r" else None
        if self._is_passing:
            self._is_passing = False
            return end
        if len(self._held) == self._line:  # an empty line
            return self._end_event(end)
        verdict = _is_usage(bytes(self._held))
        if verdict is None:  # its data has more lines than one
            return self._hold(end)
        self._may_be = False
        held = self._release()
        if not verdict:
            self._has_passed = True
            return held + end
        self._is_taken = True
        self._return = False if end == b"\r" else None
        return b""

    def _end_event(self, end: bytes) -> bytes:
        is_passed = bool(self._held) or self._has_passed or not self._is_taken
        self._may_be, self._is_taken, self._has_passed = True, False, False
        self._return = is_passed if end == b"\r" else None
        return self._release() + (end if is_passed else b"")

    def _hold(self, data: bytes, *, line: int | None = None) -> bytes:
        self._held += data
        self._line = len(self._held) if line is None else line
        return b""

    def _release(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        self._line = 0
        return held

    def _is_ruled_out(self) -> bool:
        data = self._held[5:].lstrip()
        is_json = not data or data.startswith(b"{")
        is_short = len(self._held) <= MAX_HELD
        return not is_json or not is_short or _HAS_CHOICES.search(self._held) is not None


def _events_end(data: bytes, start: int, end: int) -> int:
    """Return where the last event in a part of a stream ends, its start when none does."""
    for mark in _EVENT_ENDS:  # no stream has both
        if (at := data.rfind(mark, start, end)) >= 0:
            return at + len(mark)
    return start


def _is_usage(event: bytes) -> bool | None:
    """Return whether an event is the extra chunk; None when its data is not complete JSON."""
    try:
        chunk = json.loads(event_data(event))
    except (ValueError, RecursionError):
        return None
    if not isinstance(chunk, dict) or chunk.get("choices"):
        return False
    return isinstance(chunk.get("usage"), dict)
