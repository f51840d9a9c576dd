"""Bodies in chunks (RFC 9112 §7.1): taken apart, and put together."""

from __future__ import annotations

import re

from .grammar import FIELD_CHARS, MAX_HEAD_BYTES, MAX_LINE, TOKEN_CHARS, BadMessageError

END = b"0\r\n\r\n"
"""What follows the last chunk."""

# Lines are matched without their LF.
_SIZE = "([0-9A-Fa-f]{1,15})"
_STRICT_SIZE = re.compile(rf"{_SIZE}(?:;[{FIELD_CHARS}]*)?\r".encode("latin-1"))
_STRICT_TRAILER = re.compile(rf"(?:[{TOKEN_CHARS}]+:[{FIELD_CHARS}]*)?\r".encode("latin-1"))
_LENIENT_SIZE = re.compile(rf"[ \t]*{_SIZE}[ \t]*(?:;.*)?\r*".encode("latin-1"), re.DOTALL)
_LENIENT_TRAILER = re.compile(b".*", re.DOTALL)

_IN_SIZE, _IN_DATA, _AFTER_DATA, _IN_TRAILERS = range(4)


def encode(content: bytes) -> bytes:
    """Return the content as one chunk; nothing for none, as that would be the end."""
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""


class Decoder:
    """Takes chunks apart, in whatever pieces they come; drops extensions and trailers.

    :param strict: as of a request: what stands in front of this server may understand a doubtful
        one in another way. Responses have no such reader, but are written by many kinds of server:
        lines may end in LF alone, and spaces stand around a size.
    """

    def __init__(self, *, strict: bool) -> None:
        self._size = _STRICT_SIZE if strict else _LENIENT_SIZE
        self._trailer = _STRICT_TRAILER if strict else _LENIENT_TRAILER
        self._state = _IN_SIZE
        self._left = 0
        self._trailer_bytes = 0
        self.done = False
        self.rest = b""
        """What was fed after the end; before it, the beginning of a line."""

    def feed(self, data: bytes) -> bytes:
        """Return the content that has become known; sets ``done`` at the end.

        :raises BadMessageError: for anything but chunks; has the content before it
        """
        content: list[bytes] = []
        try:
            self._take_apart(self.rest + data if self.rest else data, content)
        except BadMessageError as exc:
            exc.content = b"".join(content)
            raise
        return content[0] if len(content) == 1 else b"".join(content)

    def _take_apart(self, data: bytes, content: list[bytes]) -> None:
        at = 0
        while not self.done:
            if self._state == _IN_DATA:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = _AFTER_DATA
            if self._state == _AFTER_DATA:
                end = data[at : at + 2]
                if end != b"\r\n"[: len(end)]:
                    raise BadMessageError("A chunk is longer than its size.")
                if len(end) < 2:
                    break
                at += 2
                self._state = _IN_SIZE
            end_of_line = data.find(b"\n", at)
            if (len(data) if end_of_line < 0 else end_of_line) - at > MAX_LINE:
                raise BadMessageError("A line between chunks is too long.")
            if end_of_line < 0:
                break
            self._read_line(data[at:end_of_line])
            at = end_of_line + 1
        self.rest = data[at:]

    def _read_line(self, line: bytes) -> None:
        if self._state == _IN_SIZE:
            size = self._size.fullmatch(line)
            if not size:
                raise BadMessageError("A chunk's size is not a number.")
            self._left = int(size[1], 16)
            self._state = _IN_DATA if self._left else _IN_TRAILERS
            return
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_HEAD_BYTES or not self._trailer.fullmatch(line):
            raise BadMessageError("The trailers are malformed.")
        self.done = not line.rstrip(b"\r")
