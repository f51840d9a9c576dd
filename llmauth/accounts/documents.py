"""The JSON documents of an answer, of which maybe only the beginning and the end were kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_BOM = b"\xef\xbb\xbf"
IS_JSON = re.compile(rb"\s*[{[]")
"""Of what is no stream of events."""

_IS_EVENTS = re.compile(rb"\s*(?:data|event|id|retry)?:")
_USAGE = b'"usage'
_TELLS = re.compile(_USAGE + rb'(?:Metadata)?"(?!\s{0,9}:\s{0,9}null)')
_BETWEEN = re.compile(r"[\s,\]]*")
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[][{},]')
_DECODER = json.JSONDecoder()


def documents(
    head: bytes, tail: bytes, *, complete: bool, nested: str = "", every: bool = False
) -> list[dict[str, Any]]:
    """Return the objects of an answer that may tell its usage or its model, in their order.

    Of an object that lost its beginning or its end, the members are returned that are whole. Its
    structure alone says which are its own: a model can be made to say anything in a text or in a
    tool's arguments, and shall not write the bill.

    :param head: the beginning of an answer whose middle is missing, else empty
    :param tail: the rest of it, or all
    :param complete: the answer did not break off
    :param nested: the member of a stream's last event that has members to return, too
    :param every: return the other events of a stream as well
    """
    head, tail = head.removeprefix(_BOM), tail if head else tail.removeprefix(_BOM)
    beginning = head or tail
    if IS_JSON.match(beginning):
        # One document, one in a line each, or an array of them, as Gemini streams without SSE.
        found = list(_values(_text(beginning))) or [_beginning(_text(beginning))]
        if head and complete:  # or nobody knows in what the tail ends
            found += _end(_text(tail), "")
    elif _IS_EVENTS.match(beginning):
        found = _events(head, tail, complete, nested, every)
    else:
        return []
    return [one for one in found if isinstance(one, dict)]


def _events(head: bytes, tail: bytes, complete: bool, nested: str, every: bool) -> list[Any]:
    """The data of server-sent events (HTML Standard §9.2), also of one whose end did not come."""
    head, tail = _lines_ended(head), _lines_ended(tail)
    blocks = [_blocks(head[: head.rfind(b"\n\n") + 1], every)]
    lost = b""
    if head:
        lost, ended, tail = tail.partition(b"\n\n")
        lost = lost if ended or complete else b""  # or nobody knows in what it ends
    blocks.append(_blocks(tail, every))
    first, last = [
        [value for one in several for value in _values(_text(event_data(one)))]
        for several in blocks
    ]
    line, _, others = lost.partition(b"\n")
    rest = line.removeprefix(b"data:") + b"\n" + event_data(others)
    return [*first, *_end(_text(rest), nested), *last]


def _blocks(stream: bytes, every: bool) -> list[bytes]:
    """Return the events of a stream: all, or the first one and those that tell a usage."""
    if every:
        return stream.split(b"\n\n")
    stream = b"\n\n" + stream + b"\n\n"
    places = [max(2, stream.find(b"data:")), *_tellers(stream)]
    begins = dict.fromkeys(stream.rfind(b"\n\n", 0, place) + 2 for place in places)
    return [stream[begin : stream.find(b"\n\n", begin)] for begin in begins]


def _tellers(stream: bytes) -> Iterator[int]:
    """Yield where a usage is told; the expression alone would take ten times as long."""
    at = stream.find(_USAGE)
    while at >= 0:
        if _TELLS.match(stream, at):
            yield at
        at = stream.find(_USAGE, at + 1)


def event_data(event: bytes) -> bytes:
    """Return the data of a server-sent event, whatever ends its lines."""
    lines = _lines_ended(event).split(b"\n")
    return b"\n".join([line[5:] for line in lines if line.startswith(b"data:")])


def _lines_ended(stream: bytes) -> bytes:
    if b"\r" not in stream:
        return stream
    # JSON has no line's end within its texts, so that it does not matter which of the three it was.
    return stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # cut within a character


def _values(text: str) -> Iterator[Any]:
    """Yield the values that stand one after another, up to one that is not whole."""
    at = len(text) - len(text.lstrip())
    if text.startswith("[", at):
        at += 1
    while (at := _after(_BETWEEN, text, at)) < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _beginning(text: str) -> Any:
    """Return the members that are whole in an object without its end."""
    plain = _ESCAPE.sub("__", text)
    if plain.count('"') % 2:
        plain = plain[: plain.rfind('"')]  # the text that is cut
    depth = end = 0
    for token in _TOKEN.finditer(plain):
        mark = token[0]
        if mark == "," and depth == 1:
            end = token.start()
        depth += (mark in "{[") - (mark in "}]")
    return _parsed(text[:end] + "}")


def _end(text: str, nested: str) -> list[Any]:
    """Return the members that are whole in an object without its beginning.

    Read from the end, where no text is open: quotes pair up from there.
    """
    plain = _ESCAPE.sub("__", text)
    begin = plain.find('"') + 1 if plain.count('"') % 2 else 0  # the text that is cut
    open_: list[list[int]] = []  # what is open there, outermost first: its end, its first comma
    for token in reversed(list(_TOKEN.finditer(plain, begin))):
        mark, at = token[0], token.start()
        if mark in "}]":
            open_.append([at, -1])
        elif not open_:
            return []
        elif mark == ",":
            open_[-1][1] = at
        elif mark in "{[":
            open_.pop()
            if not open_:
                return list(_values(text[at:]))
    inner = [_members(text, end, comma) for end, comma in open_[:3]]
    if not inner:
        return []
    if isinstance(inner[0], list):  # of Gemini's array
        return inner[0] or inner[1:2]
    return [inner[0], {nested: inner[1]}] if nested and inner[1:] else [inner[0]]


def _members(text: str, end: int, comma: int) -> Any:
    inside = text[comma + 1 : end] if comma >= 0 else ""
    return _parsed("{" + inside + "}" if text[end] == "}" else "[" + inside + "]")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
