"""Secrets in the URIs of stores and backends.

Deliberately not a parser: an unencoded ``@`` or ``/`` in a password makes a URI that parsers
disagree about, and it must be hidden all the same.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_USERINFO = re.compile(r"//([^\s]*)@")
_QUERY_VALUE = re.compile(r"([?&][^=&\s]+=)[^&\s]*[^&\s'\",.)]")
_SECRET_VALUE = re.compile(r"(?i)[?&][^=&\s]*(?:pass|pwd|secret|token|key)[^=&\s]*=([^&\s]+)")


def masked_uri(text: str) -> str:
    """Return the text with the userinfo and the query values of URIs masked."""
    return _QUERY_VALUE.sub(r"\1****", _USERINFO.sub("//****@", text))


def is_ambiguous(uri: str) -> bool:
    """True for a userinfo that parsers end too early: a part of it would be looked up as a host."""
    userinfo = _USERINFO.search(uri)
    return userinfo is not None and bool(set(userinfo[1]) & set("/?#"))


def uri_secrets(uri: str) -> tuple[str, ...]:
    """Return the secrets in a URI, as they stand there and decoded."""
    found = _SECRET_VALUE.findall(uri)
    if userinfo := _USERINFO.search(uri):
        user, colon, password = userinfo[1].partition(":")
        found.append(password if colon else user)
    return tuple(dict.fromkeys(filter(None, [*found, *map(unquote, found)])))
