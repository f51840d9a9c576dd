"""Reading the head of a request (RFC 9112), so that no other reader could understand another one.

What stands in front of this server may read a doubtful request in its own way, and take for a body
what is a second request here, or the other way round: such a request is refused. Nothing here
takes longer than in proportion to what was sent, as all of it is done before any key is checked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .grammar import (
    LENGTH,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    METHOD_CHARS,
    OWS,
    TARGET_CHARS,
    TOKEN,
    UNESCAPED,
    BadMessageError,
)

HEAD_END = b"\r\n\r\n"

_METHOD = re.compile(f"[{METHOD_CHARS}]+")
_OTHER_VERSION = re.compile(r"HTTP/[0-9.]+")
_ABSOLUTE = re.compile(
    rf"https?://[^#/?\[\]]+(?:[/?][{TARGET_CHARS}]*)?"
    rf"|https?://\[[0-9A-Fa-f:.]+\][{TARGET_CHARS}]*"
)
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})  # TAB is white space

_COUNTED = frozenset({
    "CONTENT_ENCODING", "CONTENT_LENGTH", "FORWARDED", "TRANSFER_ENCODING", "VIA",
})  # fmt: skip
"""Headers in which the same once more means something: another coding, another hop, a doubt."""


class RequestHead(NamedTuple):
    """What a request's head says.

    :param version: ``1.0`` or ``1.1``
    :param headers: named as in a WSGI environ without ``HTTP_``, and without the transfer coding
    :param chunked: the body is in chunks
    :param length: of any other body, in bytes
    :param is_last: the client wants the connection closed after the answer
    :param asks_to_continue: its body comes when it is asked for (RFC 9110 §10.1.1)
    """

    method: str
    target: str
    version: str
    headers: dict[str, str]
    chunked: bool
    length: int
    is_last: bool
    asks_to_continue: bool


def find_head_end(received: bytes, known: int) -> int:
    """Return where the head ends that is being received, -1 when it has not arrived.

    :param known: how many bytes of it were there the last time
    :raises BadMessageError: for what will never become a head
    """
    start = max(0, known - 3)
    end = received.find(HEAD_END, start)
    # One byte more, which may be the first half of a line's end.
    first = max(0, start - 1)
    if _has_bare_line_end(received[first : len(received) if end < 0 else end + 2], first > 0):
        raise BadMessageError("A line of the request ends in a bare CR or LF.")
    if end < 0 and len(received) > MAX_HEAD_BYTES:
        raise _too_long()
    return end + len(HEAD_END) if end >= 0 else -1


def parse_head(head: bytes) -> RequestHead:
    """Return what a head says, which ends with its empty line.

    :raises BadMessageError: when that is not certain
    """
    if len(head) > MAX_HEAD_BYTES:
        raise _too_long()
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = _parse_request_line(request_line)
    # All at once: a pattern for each line takes five times as long, and this is for anybody.
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls != 2 * (len(lines) + 2):  # the ends of the lines, and the empty one
        raise BadMessageError("The head holds a control character.")
    headers = _parse_headers(lines)
    chunked, length = _parse_framing(headers, version)
    options = {one.strip(" \t") for one in headers.get("CONNECTION", "").lower().split(",")}
    is_last = "close" in options if version == "1.1" else "keep-alive" not in options
    # Who has no body would otherwise be waited for, and the next request be taken for it.
    asks = version == "1.1" and (chunked or length > 0)
    asks = asks and headers.get("EXPECT", "").lower() == "100-continue"
    return RequestHead(method, target, version, headers, chunked, length, is_last, asks)


def _too_long() -> BadMessageError:
    return BadMessageError(f"The headers are over {MAX_HEAD_BYTES} bytes long.", 431)


def _has_bare_line_end(lines: bytes, go_on: bool) -> bool:
    """True for a CR or LF without the other, which may be outside.

    :param go_on: there is something before these lines, too
    """
    # Counted, not matched: a pattern takes a hundred times as long, and this is done for anybody.
    ends = lines.count(b"\r\n")
    feeds = lines.count(b"\n") - (go_on and lines.startswith(b"\n"))
    returns = lines.count(b"\r") - lines.endswith(b"\r")
    return feeds != ends or returns != ends


def _parse_request_line(line: str) -> tuple[str, str, str]:
    """Return method, target and version."""
    method, _, rest = line.partition(" ")
    target, _, protocol = rest.rpartition(" ")
    is_ours = protocol in ("HTTP/1.1", "HTTP/1.0")
    is_method = _METHOD.fullmatch(method) is not None
    if not is_ours and _OTHER_VERSION.fullmatch(protocol):
        raise BadMessageError("This server speaks HTTP/1.1.", 505)
    # Not by a pattern: of a long target that takes ten times as long, and this is for anybody.
    is_visible = target.isascii() and not (" " in target or "\t" in target)
    if is_ours and is_method and not is_visible:
        raise BadMessageError(UNESCAPED)
    if not (is_ours and target and is_method):
        raise BadMessageError("The request line is malformed.")
    is_path = target[0] == "/" and "#" not in target
    has_other_target = method == "CONNECT" or (method, target) == ("OPTIONS", "*")
    if not (is_path or has_other_target or _ABSOLUTE.fullmatch(target)):
        raise BadMessageError("The request target is neither a path nor a URL.")
    return method, target, protocol[5:]


def _parse_headers(lines: list[str]) -> dict[str, str]:
    """Return the headers as waitress has them: named as in a WSGI environ, repeated ones joined.

    A name with an underscore would pass for another one there, and is dropped. So is a line that
    says the same once more: joined, a media type or a key would be none any more.
    """
    if len(lines) > MAX_HEADERS:
        raise BadMessageError(f"The request has more than {MAX_HEADERS} headers.", 431)
    headers: dict[str, str] = {}
    for line in lines:
        spelled, colon, value = line.partition(":")
        # A folded line, too: RFC 9112 §5.2 lets a server refuse it.
        if not colon or not TOKEN.fullmatch(spelled):
            raise BadMessageError("A header is malformed.")
        if "_" in spelled:
            continue
        name, value = spelled.upper().replace("-", "_"), value.strip(OWS)
        if name not in headers:
            headers[name] = value
        elif name == "HOST":
            raise BadMessageError("The request must have one Host header.")
        elif value != headers[name] or name in _COUNTED or name.startswith("X_FORWARDED_"):
            headers[name] += ", " + value
    return headers


def _parse_framing(headers: dict[str, str], version: str) -> tuple[bool, int]:
    """Return whether the body is in chunks, and its length if not; takes the coding away.

    There is one way to tell where the request ends, and one host: RFC 9112 §3.2, §6.1 and §6.3
    want all else refused, or let a server do so.
    """
    length, coding = headers.get("CONTENT_LENGTH"), headers.pop("TRANSFER_ENCODING", None)
    if "HOST" not in headers and version == "1.1":
        raise BadMessageError("The request must have one Host header.")
    if coding is not None and (length is not None or version == "1.0"):
        raise BadMessageError(
            "The request has two kinds of length, or one that HTTP/1.0 does not know."
        )
    if coding is not None and coding.lower() != "chunked":
        raise BadMessageError("The only transfer coding of requests is 'chunked'.", 501)
    if length is not None and not LENGTH.fullmatch(length):
        raise BadMessageError("The content length is not one number.")
    return coding is not None, int(length or 0)
