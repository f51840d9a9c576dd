"""The model that a request names, for the log; without reading more of it than is at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO
from urllib.parse import unquote, unquote_plus

IN_MEMORY = 64 * 1024
"""Bytes of a body that is searched as a whole: many clients name the model after the messages."""

END = 4096
"""Bytes at the beginning, and at the end, of a longer one that are searched."""

MAX_MODEL = 200
"""Characters of a name; a longer one is none: half of a secret would not be recognised as one."""

MENTIONS = 32
"""Times that the word is looked at in a body."""

_MEMBER = b'"model"'
# Within a string of JSON its quotes would be escaped.
_VALUE = re.compile(rb'\s{0,64}:\s{0,64}"([^"\\\x00-\x1f]{1,%d})"' % MAX_MODEL)
_PART = re.compile(rb"(?:\r\n[^\r\n]{1,200}){0,4}\r\n\r\n([^\r\n]{1,%d})\r\n" % MAX_MODEL)
_IN_PATH = re.compile(r"/(?:models?|deployments)/([^/:?]+)")
_IN_QUERY = re.compile(r"(?:^|&)model=([^&]+)")


def named_model(path: str, query: str, body: bytes | IO[bytes] | None, length: int) -> str | None:
    """Return the model that a request names: in its path, its body, or its query.

    :param path: raw
    :param query: raw
    :param body: JSON or a form; a file is left at the position that it has
    :param length: bytes of the body
    """
    if match := _IN_PATH.search(path):
        model: str | None = unquote(match[1])
    else:
        model = _in_body(body, length) if body else None
        if model is None and (match := _IN_QUERY.search(query)):
            model = unquote_plus(match[1])
    return model if model and len(model) <= MAX_MODEL else None


def _in_body(body: bytes | IO[bytes], length: int) -> str | None:
    if isinstance(body, bytes) and length <= IN_MEMORY:
        first = None
        for name in _names_in(body):
            if first not in (None, name):
                # A tool's, say, and the one that is meant: only a parser tells them apart.
                return _member(body)
            first = name
        return _text(first) if first or _MEMBER not in body else _member(body)
    try:
        return _text(next((name for end in _ends(body, length) for name in _names_in(end)), None))
    except (OSError, ValueError):  # whoever reads it next is told
        return None


def _names_in(data: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(MENTIONS):
        at = data.find(_MEMBER, at) + len(_MEMBER)
        if at < len(_MEMBER):
            return
        if match := _VALUE.match(data, at) or _PART.match(data, at):
            yield match[1]


def _text(name: bytes | None) -> str | None:
    return name.decode("utf-8", "replace") if name else None


def _member(body: bytes) -> str | None:
    try:
        model = json.loads(body)["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return model if isinstance(model, str) else None


def _ends(body: bytes | IO[bytes], length: int) -> Iterator[bytes]:
    """Yield the beginning and the end of a body that is not searched as a whole."""
    if isinstance(body, bytes):
        yield from (body[:END], body[-END:])
    elif getattr(body, "seekable", lambda: False)():  # else it comes from the client's socket
        position = body.tell()
        try:
            yield body.read(END)
            body.seek(position + max(END, length - END))
            yield body.read(END)
        finally:
            body.seek(position)
