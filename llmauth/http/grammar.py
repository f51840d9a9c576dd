"""What a message is made of (RFC 9110 and 9112): characters, limits, and the error for all else."""

from __future__ import annotations

import re

METHOD_CHARS = r"!#$%&'*+\-.^_`|~0-9A-Z"
TOKEN_CHARS = METHOD_CHARS + "a-z"
"""RFC 9110 §5.6.2; these and the next ones are the inside of a regular expression's brackets."""

FIELD_CHARS = r"\t -~\x80-\xff"
"""Of a header's value, with the white space around it (RFC 9110 §5.5): no controls but TAB."""

TARGET_CHARS = r"!\"$-~"
"""All visible ASCII but for the fragment's sign: more than RFC 3986 §3 lets into a URL, because
clients send brackets and their kin as they are."""

Headers = list[tuple[str, str]]
"""Names and values, in the order in which they were sent."""

UNESCAPED = (
    "The request's path or query holds a character that must be percent-encoded there, as %20 is "
    "for a space, and %C3%A9 for an e with an acute accent."
)
"""What is said of a target that holds others."""

OWS = " \t"
"""Optional white space, RFC 9110 §5.6.3."""

TOKEN = re.compile(f"[{TOKEN_CHARS}]+")
TARGET = re.compile(f"[{TARGET_CHARS}]+")
NOT_IN_A_FIELD = re.compile(f"[^{FIELD_CHARS}]")
LENGTH = re.compile("[0-9]{1,18}")
"""A ``Content-Length`` that every number type holds."""

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of the trailers of a body in chunks."""

MAX_HEADERS = 100
"""As ``http.client`` has it, which many clients are built on."""

MAX_LINE = 4096
"""Bytes of a chunk's size with its extensions, or of one line of trailers."""


class BadMessageError(Exception):
    """This is no message, or one that two readers could understand in two ways.

    :param message: what is wrong with it; never a part of it, which may hold a key
    :param status: with which a server answers it
    """

    content = b""
    """What was received of the body together with it, before it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
