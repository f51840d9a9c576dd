"""Answers that are read to their end before they go on, because something in them is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..accounts.asked import filter_models
from ..exceptions import NotAllowed, UpstreamUnreachable
from ..http.grammar import Headers
from .upstream import Incoming, UpstreamBroke

LARGEST_BODY = 8 * 1024 * 1024
"""Bytes of an answer that is read as a whole."""

_CHARSET = re.compile(r"(?i)charset\s*=\s*\"?([^\s\";]*)")


def read_whole(incoming: Incoming, name: str) -> bytes:
    """Return the whole body, which was asked for without an encoding.

    :param name: of the backend
    :raises UpstreamUnreachable: when it cannot be read as JSON in UTF-8
    """
    for header, value in incoming.headers:
        if header.lower() == "content-encoding" and value.lower() != "identity":
            raise UpstreamUnreachable(
                f"The backend '{name}' compressed an answer that was asked for uncompressed."
            )
        charset = _CHARSET.search(value) if header.lower() == "content-type" else None
        if charset and charset[1].lower() not in ("", "utf-8", "utf8", "us-ascii"):
            raise UpstreamUnreachable(f"The backend '{name}' answered with JSON not in UTF-8.")
    body = bytearray()
    try:
        for chunk in incoming.chunks():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise UpstreamUnreachable(
                    f"The backend '{name}' answered with over {LARGEST_BODY} bytes; "
                    "ask for fewer of its items at a time with 'limit'."
                )
    except UpstreamBroke as exc:
        raise UpstreamUnreachable(
            f"The backend '{name}' broke off in the middle of its answer."
        ) from exc
    if b"\0" in body:  # clients would take it for UTF-16 or UTF-32
        raise UpstreamUnreachable(f"The backend '{name}' answered with JSON not in UTF-8.")
    return bytes(body)


class Whole:
    """An answer that has been read to its end."""

    def __init__(self, status: int, reason: str, headers: Headers, body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.complete = True
        self._body = body

    def chunks(self) -> Iterator[bytes]:
        return iter([self._body])

    def close(self) -> None:
        pass


def with_body(incoming: Incoming, body: bytes) -> Incoming:
    """Return an answer with another body, and close the one that it had."""
    incoming.close()
    changed = ("content-length", "etag")
    headers = [(name, value) for name, value in incoming.headers if name.lower() not in changed]
    headers.append(("Content-Length", str(len(body))))
    return Whole(incoming.status, incoming.reason, headers, body)


def with_allowed_models(
    incoming: Incoming, allows: Callable[[str], bool], name: str
) -> Incoming:
    """Return a list of models without those that are not allowed.

    :param name: of the backend
    :raises NotAllowed: when it cannot be told which are listed
    """
    if not 200 <= incoming.status < 300:
        return incoming
    try:
        body = read_whole(incoming, name)
        filtered = filter_models(body, allows) if body else body
        if filtered is None:
            raise NotAllowed("model", f"The list of models of the backend '{name}' has no form "
                             "in which those that the key may use can be told.")
    except BaseException:
        incoming.close()
        raise
    return with_body(incoming, filtered)
