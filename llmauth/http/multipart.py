"""Forms with files (RFC 7578), read as strictly as the strictest of their readers.

What one reader takes for a field and another does not is no form here: text around it, lines that
end otherwise, quotes within names, a boundary that stands in a file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_FIELDS = 1000
"""Fields and files of a form."""

MAX_BEGINNING = 16 * 1024
"""Bytes of a field, with its headers, that are looked at."""


class BadFormError(Exception):
    """This is no form, or one that two readers could understand in two ways."""


@dataclass(frozen=True)
class Field:
    """A field or a file of a form.

    :param size: bytes, with its headers
    :param value: None for a large one
    """

    name: str
    is_file: bool
    size: int
    value: bytes | None


def fields(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Field]:
    """Yield what a form consists of.

    :param chunks: its body, cut anywhere; it is read once, and not kept
    :raises BadFormError: maybe not before its end
    """
    ended = False
    for at, (beginning, size, end) in enumerate(_pieces(chunks, b"--" + boundary)):
        if ended or at > MAX_FIELDS or (at == 0 and beginning):
            raise BadFormError
        ended = beginning in (b"--", b"--\r\n") and size == len(beginning)
        if at and not ended:
            yield _field(beginning, size, end)
    if not ended:
        raise BadFormError


def _field(beginning: bytes, size: int, end: bytes) -> Field:
    head, mark, content = beginning.partition(b"\r\n\r\n")
    is_whole = size == len(beginning)
    # The line that ends a value is not the one that ends its headers.
    ends = end == b"\r\n" and (not is_whole or content.endswith(end))
    if not (head.startswith(b"\r\n") and mark and ends):
        raise BadFormError
    name, is_file = _disposition(head[2:])
    return Field(name, is_file, size, content[:-2] if is_whole else None)


_DISPOSITION = re.compile(
    r"content-disposition:[ \t]*form-data((?:[ \t]*;[ \t]*(?:name|filename|filename\*)="
    r"(?:\"[^\";\\\x00-\x1f]*\"|[^\s\";,\\=]+))+)[ \t]*",
    re.IGNORECASE | re.ASCII,
)
_PARAMETER = re.compile(r';[ \t]*([a-z*]+)=("[^"]*"|[^\s;]+)', re.IGNORECASE)
_OTHER_HEADER = re.compile(
    r"content-type:[ \t]*[\w.+-]+/[\w.+-]+[ \t]*(?:;[ \t]*charset=\"?(?:utf-8|us-ascii)\"?)?"
    r"|content-type:(?![^\n]*charset)[^\r\n]*|content-length:[ \t]*\d+"
    r"|content-transfer-encoding:[ \t]*(?:7bit|8bit|binary)|content-id:[^\r\n]*",
    re.IGNORECASE | re.ASCII,
)


def _disposition(head: bytes) -> tuple[str, bool]:
    """Return the name of a form's field, and whether it is a file (RFC 7578 §4.2)."""
    lines = head.decode("utf-8", "replace").split("\r\n")
    found = [match for line in lines if (match := _DISPOSITION.fullmatch(line))]
    others = [line for line in lines if not _DISPOSITION.fullmatch(line)]
    if len(found) == 1 and all(map(_OTHER_HEADER.fullmatch, others)):
        pairs = [(name.lower(), text.strip('"')) for name, text in _PARAMETER.findall(found[0][1])]
        parameters = dict(pairs)
        if len(pairs) == len(parameters) and "name" in parameters:
            return parameters["name"], len(parameters) > 1
    raise BadFormError


def _pieces(chunks: Iterable[bytes], mark: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield of each piece between marks its beginning, its size and its last two bytes."""
    held = beginning = b""
    size = 0
    for chunk in itertools.chain(chunks, (None,)):
        held += chunk or b""
        while (at := held.find(mark)) >= 0:
            yield (beginning + held[:at])[:MAX_BEGINNING], size + at, held[max(0, at - 2) : at]
            held, beginning, size = held[at + len(mark) :], b"", 0
        # A mark may begin here, and the two bytes before it are wanted.
        done = len(held) if chunk is None else max(0, len(held) - len(mark) - 1)
        beginning = (beginning + held[:done])[:MAX_BEGINNING]
        size += done
        held = held[done:]
    yield beginning, size, b""
