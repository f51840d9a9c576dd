"""Secrets in the URIs of stores and backends.

Deliberately not a parser: an unencoded ``@`` or ``/`` in a password makes a URI that parsers
disagree about, and it must be hidden all the same.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_WORD = re.compile(r"\S+")
_QUERY_VALUE = re.compile(r"([?&][^=?&\s]+=)[^&\s]*[^&\s'\",.)]")
_NAMED_VALUE = re.compile(r"[?&]([^=?&\s]*)=([^&\s]+)")
_SECRET_NAME = re.compile(r"(?i)pass|pwd|secret|token|key")


def masked_uri(text: str) -> str:
    """Return the text with the userinfo and the query values of URIs masked."""
    return _QUERY_VALUE.sub(r"\1****", _WORD.sub(_masked_word, text))


def is_ambiguous(uri: str) -> bool:
    """True for a userinfo that parsers end too early: a part of it would be looked up as a host."""
    userinfo = _userinfo(uri)
    return userinfo is not None and bool(set(userinfo) & set("/?#"))


def uri_secrets(uri: str) -> tuple[str, ...]:
    """Return the secrets in a URI, as they stand there and decoded."""
    secrets = [value for name, value in _NAMED_VALUE.findall(uri) if _SECRET_NAME.search(name)]
    if userinfo := _userinfo(uri):
        user, colon, password = userinfo.partition(":")
        secrets.append(password if colon else user)
    return tuple(dict.fromkeys(filter(None, [*secrets, *map(unquote, secrets)])))


def _userinfo(uri: str) -> str | None:
    """Return what stands between ``//`` and the last ``@`` of a word."""
    for word in uri.split():
        _, slashes, after = word.partition("//")
        userinfo, at, _ = after.rpartition("@")
        if slashes and at:
            return userinfo
    return None


def _masked_word(word: re.Match[str]) -> str:
    before, slashes, after = word.group().partition("//")
    _, at, host = after.rpartition("@")
    return f"{before}//****@{host}" if slashes and at else word.group()
