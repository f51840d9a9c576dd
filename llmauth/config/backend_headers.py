"""Headers that a backend wants: the one that carries its key, and those added to each request.

A value may name variables of the environment, ``Bearer env:GATEWAY_KEY``, so that the config file
holds no secret. What variables hold is one, and so is what a header holds that is a credential by
its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ..providers.table import AUTH_STYLES, PROXY_KEY_HEADER
from ..redact.messages import hidden
from ..redact.redactor import is_credential
from .names import nearest
from .values import kind_of, parse_text

HEADER_SUFFIX = "_HEADER"
SHORTEST_SECRET = 8
"""Characters of a word in a value that is masked; ``true`` and its kin stand everywhere."""

_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_REFERENCE = re.compile(r"(?<!\S)env:([A-Z_][A-Z0-9_]*)(?!\S)")
_CARRIES_KEY = re.compile(r".*(?:-|key|token|authorization).*")
"""In one word, ``basic`` and ``oauth`` are ways to show a key, and ``beerer`` a mistake."""

_OURS = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
    "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "via", PROXY_KEY_HEADER,
})  # fmt: skip
"""They belong to the connection (RFC 9110 §7.6.1), to the content, or to this server."""


def parse_auth(value: Any) -> str:
    """Parse how a backend wants its key: a style, or the name of the header that is the key."""
    text = parse_text(value).lower()
    if text in AUTH_STYLES:
        return text
    if _NAME.fullmatch(text) and _CARRIES_KEY.fullmatch(text) and text not in _OURS:
        return text
    question = nearest(text, AUTH_STYLES)
    raise ValueError(
        f"is none of {', '.join(AUTH_STYLES)}, nor the name of a header that holds the key, such "
        f"as x-gateway-key{question and '.' + question}"
    )


def parse_headers(value: Any) -> Mapping[str, str]:
    """Parse a mapping of headers, by their names in lower case; what it says of values is hidden.

    A text is one header, ``Name: value``.
    """
    if isinstance(value, str):
        name, colon, text = value.partition(":")
        if not colon or text.startswith("//"):
            raise ValueError("is no header, such as 'X-Gateway-Key: ...'")
        value = {name.strip(): text.strip()}
    if not isinstance(value, Mapping):
        raise ValueError(f"is {kind_of(value)}, and not a mapping of names to values")
    headers: dict[str, str] = {}
    for name, content in value.items():
        lower = str(name).lower()
        if not _NAME.fullmatch(lower):
            raise ValueError(f"holds '{name}', which names no header: letters, digits and -")
        if lower in _OURS:
            raise ValueError(f"holds '{name}', which this server writes itself")
        if lower in headers:
            raise ValueError(f"holds '{name}' twice")
        headers[lower] = _parsed_value(str(name), content)
    return MappingProxyType(headers)


def _parsed_value(name: str, content: Any) -> str:
    if isinstance(content, bool):
        content = str(content).lower()
    elif isinstance(content, (int, float)):
        content = str(content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"holds no text for '{name}'")
    text = content.strip()
    if not re.fullmatch(r"[ -~]{1,4096}", text):
        raise ValueError(f"holds a character for '{name}' that is no visible ASCII")
    if re.search(r"(?<!\S)(?:\$\w|\$\{)|env:", _REFERENCE.sub("", text)):
        raise ValueError(
            f"names a variable for '{name}' in a way that is not read: write env:NAME, in capitals"
        )
    return text


def variables_of(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that values name."""
    for text in headers.values():
        yield from _REFERENCE.findall(text)


def resolved(headers: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return headers with what the variables hold, by their usual names.

    :param values: of the variables
    """
    return {
        name.title(): _REFERENCE.sub(lambda found: values.get(found[1], ""), text).strip()
        for name, text in headers.items()
    }


def secrets_of(headers: Mapping[str, str], values: Mapping[str, str]) -> Iterator[str]:
    """Yield what is to be masked."""
    literal = (text for name, text in headers.items() if is_credential(name))
    for text in (*values.values(), *literal):
        words = (word for word in text.split() if not word.startswith("env:"))
        yield from (word for word in words if len(word) >= SHORTEST_SECRET)


def holds_secret(name: Any, content: Any) -> bool:
    """True for a header with a key in it, rather than with the name of its variable."""
    text = _REFERENCE.sub("", str(content))
    is_named = text != str(content)
    return hidden(text) != text or (is_credential(str(name)) and not is_named)
