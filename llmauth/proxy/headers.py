"""What crosses in each direction: RFC 9110 §7.6 and what concerns nobody but us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..auth.credentials import CARRIERS, ShownKey
from ..auth.request import NOT_HEADERS
from ..http.grammar import LENGTH, NOT_IN_A_FIELD, TOKEN, Headers
from ..providers.table import PROXY_KEY_HEADER
from ..redact.front_proxies import kind_of
from ..remembering import remembered

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110 §7.6.1, and the two older names that it lists."""

_BROWSER = re.compile(r"origin|referer|sec-.*|access-control-request-.*")
"""CORS ends here, and so does what else a browser tells about a page: with its ``Origin``, Ollama
answers 403, and Anthropic 401."""

_REQUEST_DROPPED = HOP_BY_HOP | {"host", "content-length", "expect", "cookie"}
_RESPONSE_DROPPED = HOP_BY_HOP | {
    # They speak for the provider's host, not for ours.
    "alt-svc",
    "clear-site-data",
    "public-key-pins",
    "refresh",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    # A reverse proxy before us would obey them: answer with a file of its own, ask another server.
    "x-accel-redirect",
    "x-lighttpd-send-file",
    "x-reproxy-url",
    "x-sendfile",
}
_FOLD = re.compile(r"[\r\n]+[ \t]*")


LONGEST_KNOWN = 64
"""Characters of a header's name that is remembered: clients choose them, and may have long ones."""


@remembered(1024, LONGEST_KNOWN)
def _names(key: str) -> tuple[str, str] | None:
    """Return a header's lower-case and usual name by its key in a WSGI environ, if it goes out."""
    if key in NOT_HEADERS:
        return None
    if key.startswith("HTTP_"):
        name = key[5:].replace("_", "-").lower()
    elif key == "CONTENT_TYPE":
        name = "content-type"
    else:
        return None
    if name in _REQUEST_DROPPED or _BROWSER.fullmatch(name) or kind_of(name):
        return None
    return name, name.title()


def connection_names(value: str | None) -> frozenset[str]:
    """Return the headers that a ``Connection`` header names, in lower case."""
    if not value:
        return frozenset()
    return frozenset(name.strip().lower() for name in value.split(","))


def request_headers(
    environ: Mapping[str, Any],
    *,
    keep: Iterable[str] = (),
    without: ShownKey | None = None,
    via: str,
) -> dict[str, str]:
    """Return the headers for the upstream, by their usual names and without credentials.

    Content that nobody asked for in an encoding would have to be decoded again, so a client that
    names none gets ``identity``.

    :param keep: carriers, in lower case, whose value belongs to the provider
    :param without: no header that holds this key is sent
    :param via: this server's entry in ``Via`` (RFC 9110 §7.6.3)
    """
    named = connection_names(environ.get("HTTP_CONNECTION"))
    headers: dict[str, str] = {}
    for key, value in environ.items():
        names = _names(key) if key[:5] == "HTTP_" or key == "CONTENT_TYPE" else None
        if names is None or not value:
            continue
        lower, name = names
        if lower in named or lower == PROXY_KEY_HEADER or (lower in CARRIERS and lower not in keep):
            continue
        headers[name] = _once(value) if lower == "content-type" else value
    if without is not None:
        headers = without.without(headers)
    headers.setdefault("Accept-Encoding", "identity")
    headers["Via"] = f"{headers['Via']}, {via}" if "Via" in headers else via
    return headers


def _once(value: str) -> str:
    """Return a value that some servers have joined from lines that say the same."""
    first = value.partition(",")[0]
    return first if {one.strip() for one in value.split(",")} == {first} else value


def response_headers(headers: Headers, *, stream: bool) -> Headers:
    """Return the headers for the client, made fit for any WSGI server.

    :param stream: tell caches and reverse proxies to hand every byte on at once
    """
    received = [(name, name.lower(), value) for name, value in headers]
    named: frozenset[str] = frozenset()
    for _, lower, value in received:
        if lower == "connection":
            named |= connection_names(value)
    kept: Headers = []
    for name, lower, value in received:
        if lower in _RESPONSE_DROPPED or lower in named or lower.startswith("access-control-"):
            continue
        if stream and lower == "x-accel-buffering":
            continue
        if lower == "content-length" and not LENGTH.fullmatch(value):
            continue  # of an answer that has no body; WSGI servers count with it
        if TOKEN.fullmatch(name):
            kept.append((name, value if value.isprintable() else _one_line(value)))
    if stream:
        kept.append(("X-Accel-Buffering", "no"))
        if not any(name.lower() == "cache-control" for name, _ in kept):
            kept.append(("Cache-Control", "no-store"))
    return kept


def _one_line(value: str) -> str:
    """Unfold a header (RFC 9112 §5.2) and drop what could end it early."""
    return NOT_IN_A_FIELD.sub("", _FOLD.sub(" ", value))
