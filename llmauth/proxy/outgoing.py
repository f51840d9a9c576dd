"""The request as it goes to the provider: without what is ours, with the provider's key."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import IO, Any

from ..auth.credentials import (
    CARRIERS,
    KeyRing,
    ShownKey,
    strip_query_keys,
    without_credentials,
)
from ..auth.request import RequestInfo, header_getter
from ..exceptions import INCOMPLETE, BodyTooLarge, InvalidRequest
from ..providers.backend import Backend
from ..providers.table import KEY_HEADERS, PROXY_KEY_HEADER, QUERY_KEY_PATH
from .headers import request_headers
from .rewrite import has_links
from .upstream import Outgoing

IN_MEMORY = 64 * 1024
"""Bytes; a larger request body is sent from the server's file without being read at once."""

INSTANCE = secrets.token_hex(8)
VIA = f"1.1 llmauth-{INSTANCE}"

_PUBLIC_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "anthropic-version",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "range",
        "via",
    }
)
"""What goes on of a request without a key, beside its path and query. Any other header might hold a
key of ours, or make the upstream serve another path or method (``X-Original-URL``,
``X-HTTP-Method-Override``) with the server's key."""


def outgoing_request(
    info: RequestInfo,
    environ: dict[str, Any],
    backend: Backend,
    path: str,
    *,
    keys: KeyRing,
    limit: int,
    kept_body: Callable[[], bytes],
) -> Outgoing:
    """Return the request for the backend.

    :param path: as the backend has it
    :param keys: ours, none of which may leave
    :param limit: bytes of the body
    :param kept_body: returns what a host application has read before us
    :raises BodyTooLarge: for a body over the limit
    :raises InvalidRequest: for what cannot be sent as it is
    """
    keep = _providers_own(environ, keys) if info.own_credentials else ()
    shown = _shown_key(info, environ)
    headers = request_headers(environ, keep=keep, without=shown, via=VIA)
    query = shown.without_in_query(info.query) if shown and info.query else info.query
    own_in_query = False
    if info.public:
        headers = {k: value for k, value in headers.items() if k.lower() in _PUBLIC_HEADERS}
        query = without_credentials(query)
    elif "key=" in query:
        carries = backend.provider.takes_query_keys or QUERY_KEY_PATH.search(path)
        query, own_in_query = strip_query_keys(
            query, keys, keep=info.own_credentials, any_value=bool(carries)
        )
    target = backend.target(path)
    brought = {name.title() for name in keep}
    if info.own_credentials and backend.key_header in headers:
        brought.add(backend.key_header)
    brings_own = own_in_query or any(name in headers for name in brought)
    if not brings_own:
        backend.add_key(headers, target)
    headers |= {name: value for name, value in backend.headers.items() if name not in brought}
    if has_links(path):
        headers["Accept-Encoding"] = "identity"
    mark = "?" if query or _bare_query(environ) else ""
    if shown and not shown.is_weak and shown.is_in(f"{path}?{query}"):
        raise InvalidRequest(
            "The path or the query holds the proxy key where it cannot be taken out, and would "
            "bring it to the provider. Send it as 'Authorization: Bearer <key>' alone."
        )
    body, length = (None, 0) if info.public else _body(environ, limit, kept_body)
    return Outgoing(
        environ["REQUEST_METHOD"],
        f"{target}{mark}{query}",
        headers,
        body,
        length,
        is_ours=not (brings_own and backend.takes_keys),
    )


def _body(
    environ: dict[str, Any], limit: int, kept: Callable[[], bytes]
) -> tuple[bytes | IO[bytes] | None, int]:
    """Return the request's body and its length; a large one stays where the server put it."""
    text = environ.get("CONTENT_LENGTH")
    length = int(text) if text and text.isdigit() else 0
    if length > limit:
        raise _too_large(limit)
    stream: IO[bytes] = environ["wsgi.input"]
    if length > IN_MEMORY:
        return stream, length
    if length:
        data = _read(stream, length)
        data = data if len(data) == length else kept()
        if len(data) != length:
            raise InvalidRequest(INCOMPLETE)
        return data, length
    if environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" in environ:
        data = _read(stream, limit + 1)  # a server that does not count chunked bodies for us
        if len(data) > limit:
            raise _too_large(limit)
        return data, len(data)
    return (b"" if text or environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH") else None), 0


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is over the limit of {limit} bytes.")


def _read(stream: IO[bytes], size: int) -> bytes:
    try:
        return stream.read(size)
    except Exception as exc:  # each server has errors of its own for a body that breaks off
        raise InvalidRequest(INCOMPLETE) from exc


def _bare_query(environ: dict[str, Any]) -> bool:
    return str(environ.get("REQUEST_URI", "")).endswith("?")


def _shown_key(info: RequestInfo, environ: dict[str, Any]) -> ShownKey | None:
    """Return the proxy key that the request shows; with authentication off, what may be one."""
    key = info.key or (header_getter(environ)(PROXY_KEY_HEADER) or "").strip()
    return ShownKey(key) if key and not info.public else None


def _providers_own(environ: dict[str, Any], keys: KeyRing) -> tuple[str, ...]:
    """Return the carriers whose value belongs to the provider: all but our own key."""
    get = header_getter(environ)
    kept = []
    for name in CARRIERS - {PROXY_KEY_HEADER}:
        value = get(name)
        token = value.strip() if value and name in KEY_HEADERS else (value or "").partition(" ")[2]
        if value and keys.match(token.strip().encode("latin-1", "replace")) is None:
            kept.append(name)
    return tuple(kept)
