"""The blueprint that forwards requests and streams the answers."""

from __future__ import annotations

import logging
import re
import secrets
from typing import IO, Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from ..auth.credentials import CARRIERS, strip_query_keys, without_credentials
from ..auth.guard import RequestInfo, credentials_in, header_getter, raw_mount, refusal_headers
from ..capture.recording import Exchange
from ..exceptions import (
    INCOMPLETE,
    BodyTooLarge,
    ClientClosedRequest,
    ClientDisconnected,
    ConfigurationError,
    InvalidRequest,
    LoopDetected,
    NotSupported,
    RequestRefused,
    Unavailable,
    UnknownRoute,
)
from ..providers.backend import Backend
from ..providers.table import KEY_HEADERS, PROXY_KEY_HEADER, QUERY_KEY_PATH
from ..web.extension import State, admit_to_proxy, always_guarded, current_state
from .disconnect import client_disconnected
from .headers import NOT_HEADERS, request_headers, response_headers
from .reply import PolledRelay, Relay, UpstreamReply, masked
from .rewrite import Here, has_links, names_urls, origin_of, uploads_with_key
from .upstream import HTTPIncoming, Outgoing

logger = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
IN_MEMORY = 64 * 1024
"""Bytes; a larger request body is sent from the server's file without being read at once."""

CAPTURED = 1024 * 1024
"""Bytes of a request body that is not in memory which go into the wire capture."""

_INSTANCE = secrets.token_hex(8)
VIA = f"1.1 llmauth-{_INSTANCE}"
_MAX_HOPS = 5

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

proxy_blueprint = Blueprint("llmauth_proxy", __name__)


class _AnyPath(BaseConverter):
    """The rest of the path, slashes and all."""

    regex = ".*?"
    part_isolating = False


_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[\w.~!$&'()*+,;=:@-]+)*/?", re.ASCII)
"""A path that every client writes in the same way: no escapes, no dot segments (RFC 3986 §3.3)."""


def _prepare(state: BlueprintSetupState) -> None:
    if not _PREFIX.fullmatch(state.url_prefix or ""):
        raise ConfigurationError(
            f"The proxy's url_prefix '{state.url_prefix}' is no plain path, without variables and "
            "escapes. Use letters, digits, - and _ between slashes, such as /llm."
        )
    state.app.url_map.converters["llmauth_path"] = _AnyPath


proxy_blueprint.record(_prepare)


@proxy_blueprint.route("/", defaults={"path": ""}, methods=METHODS, provide_automatic_options=False)
@proxy_blueprint.route(
    "/<llmauth_path:path>",
    methods=METHODS,
    provide_automatic_options=False,
    merge_slashes=False,
)
@always_guarded
def forward(path: str) -> Response:
    """Forward the request to its backend and answer with what comes back."""
    state = current_state()
    environ = request.environ
    info = state.guard.info(environ)
    try:
        admit_to_proxy(path)
        return _forward(state, info, environ)
    except RequestRefused as refusal:
        if refusal.__cause__ is not None:
            logger.warning("%s (%s)", refusal.description, refusal.__cause__)
        raise refusal_headers(refusal, info) from None


def _forward(state: State, info: RequestInfo, environ: dict[str, Any]) -> Response:
    # What is asked, of whom
    if "websocket" in environ.get("HTTP_UPGRADE", "").lower():
        raise NotSupported
    _refuse_loop(environ.get("HTTP_VIA"))
    path = _own_path(info.path)
    if info.public:
        backend, path = state.router.find_public(path)
    else:
        backend, path = state.router.find(path, info.query, header_getter(environ))
    info.backend = backend.name
    outgoing = _outgoing(state, info, environ, backend, path)
    exchange = _captured(state, info, environ, backend, outgoing)

    # Ask, while the client waits
    lifecycle = state.lifecycle
    lifecycle.enter()
    try:
        disconnected = client_disconnected(environ)
        incoming = state.upstream(backend).send(outgoing, lambda: lifecycle.cut or disconnected())
        incoming = masked(incoming, backend.mask)
        if names_urls(path, incoming.headers):
            here = _here(state, info, environ, backend, path)
            incoming = here.pointed(incoming, outgoing.method, path)
    except BaseException as exc:
        lifecycle.leave()
        left = isinstance(exc, ClientDisconnected) and not lifecycle.cut
        if exchange:
            exchange.finished(ClientClosedRequest.error_code if left else type(exc).__name__)
        if left:
            raise ClientClosedRequest from None
        if isinstance(exc, ClientDisconnected):
            raise Unavailable("The request was cut off.", retry_after=5) from None
        raise

    # Hand the answer on
    if exchange:
        exchange.inbound_response(incoming.status, incoming.headers)
    received = {name.lower(): value for name, value in incoming.headers}
    bodiless = incoming.status in (204, 304)
    stream = "content-length" not in received and not bodiless
    kind = PolledRelay if stream and isinstance(incoming, HTTPIncoming) else Relay
    relay = kind(
        incoming,
        received,
        name=backend.name,
        info=info,
        release=lifecycle.leave,
        exchange=exchange,
        is_cut=lambda: lifecycle.cut,
    )
    headers = response_headers(incoming.headers, stream=stream)
    if bodiless:  # a length would be that of another answer, and a server miss the bytes
        headers = [header for header in headers if header[0].lower() != "content-length"]
    if "x-request-id" not in received and "request-id" not in received:
        headers.append(("x-request-id", info.id))
    return UpstreamReply(relay, headers, flush=stream)


def _here(
    state: State, info: RequestInfo, environ: dict[str, Any], backend: Backend, path: str
) -> Here:
    asked = _own_path(info.path)
    name = f"/{backend.name}"
    # Not by the backend's path, which may have lost a slash or a version on the way.
    named = f"{asked}/".startswith(f"{name}/")
    mount = raw_mount(environ) + info.path.removesuffix(asked) + (name if named else "")
    trusted = state.guard.clients.trusts(environ.get("REMOTE_ADDR"))
    header = header_getter(environ)
    origin = origin_of(header, environ["wsgi.url_scheme"], trusted=trusted)
    at_root, uploads = "/" not in asked[1:], uploads_with_key(header)
    return Here(backend, origin, mount, named, at_root=at_root, uploads=uploads)


def _own_path(path: str) -> str:
    """Return the path below the blueprint's ``url_prefix``."""
    rule = request.url_rule
    prefix = rule.rule.partition("<")[0].rstrip("/") if rule else ""
    if not prefix:
        return path
    if not path.startswith(prefix):
        raise UnknownRoute(f"Write the path to this proxy plainly: {prefix}/...")
    return path[len(prefix) :] or "/"


def _outgoing(
    state: State, info: RequestInfo, environ: dict[str, Any], backend: Backend, path: str
) -> Outgoing:
    keep = _providers_own(state, environ) if info.own_credentials else ()
    state.redactor.observe(*credentials_in(environ, info.query))
    headers = request_headers(environ, keep=keep, via=VIA)
    query = info.query
    own_in_query = False
    body: bytes | IO[bytes] | None = None
    length = 0
    if info.public:
        headers = {k: value for k, value in headers.items() if k.lower() in _PUBLIC_HEADERS}
        query = without_credentials(query)
    elif "key=" in query:
        carries = backend.provider.takes_query_keys or QUERY_KEY_PATH.search(path)
        query, own_in_query = strip_query_keys(
            query, state.guard.keys, keep=info.own_credentials, any_value=bool(carries)
        )
    target = backend.target(path)
    if not keep and not own_in_query:
        backend.add_key(headers, target)
    if has_links(path):
        headers["Accept-Encoding"] = "identity"
    if not info.public:
        body, length = _body(environ, state.settings.max_request_body)
    return Outgoing(
        environ["REQUEST_METHOD"],
        f"{target}?{query}" if query else target + ("?" if _bare_query(environ) else ""),
        headers,
        body,
        length,
    )


def _bare_query(environ: dict[str, Any]) -> bool:
    return str(environ.get("REQUEST_URI", "")).endswith("?")


def _providers_own(state: State, environ: dict[str, Any]) -> tuple[str, ...]:
    """Return the carriers whose value belongs to the provider: all but our own key."""
    get, match = header_getter(environ), state.guard.keys.match
    kept = []
    for name in CARRIERS - {PROXY_KEY_HEADER}:
        value = get(name)
        token = value.strip() if value and name in KEY_HEADERS else (value or "").partition(" ")[2]
        if value and match(token.strip().encode("latin-1", "replace")) is None:
            kept.append(name)
    return tuple(kept)


def _body(environ: dict[str, Any], limit: int) -> tuple[bytes | IO[bytes] | None, int]:
    """Return the request's body and its length; a large one stays where the server put it."""
    text = environ.get("CONTENT_LENGTH")
    length = int(text) if text and text.isdigit() else 0
    if length > limit:
        raise BodyTooLarge(f"The request body is over the limit of {limit} bytes.")
    stream: IO[bytes] = environ["wsgi.input"]
    if length > IN_MEMORY:
        return stream, length
    if length:
        data = _read(stream, length)
        # A host application may have read it before us, and werkzeug kept it.
        data = data if len(data) == length else request.get_data()
        if len(data) != length:
            raise InvalidRequest(INCOMPLETE)
        return data, length
    if environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" in environ:
        data = _read(stream, limit + 1)  # a server that does not count chunked bodies for us
        if len(data) > limit:
            raise BodyTooLarge(f"The request body is over the limit of {limit} bytes.")
        return data, len(data)
    return (b"" if text or environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH") else None), 0


def _read(stream: IO[bytes], size: int) -> bytes:
    try:
        return stream.read(size)
    except Exception as exc:  # each server has errors of its own for a body that breaks off
        raise InvalidRequest(INCOMPLETE) from exc


def _refuse_loop(via: str | None) -> None:
    if via and (_INSTANCE in via or via.count("llmauth-") > _MAX_HOPS):
        raise LoopDetected(
            "This request has been here before: a backend's base_url leads back to this server."
        )


def _captured(
    state: State,
    info: RequestInfo,
    environ: dict[str, Any],
    backend: Backend,
    outgoing: Outgoing,
) -> Exchange | None:
    if state.capture is None:
        return None
    exchange = state.capture.exchange(
        request_id=info.id,
        client=info.client,
        backend=backend.name,
        key_name=info.key_name,
        credentials=tuple(credentials_in(environ, info.query)),
    )
    body = outgoing.body if isinstance(outgoing.body, bytes) else _beginning(outgoing.body)
    target = f"{info.path}?{info.query}" if info.query else info.path
    received = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") and key not in NOT_HEADERS
    }
    received["content-type"] = environ.get("CONTENT_TYPE", "")
    exchange.inbound_request(outgoing.method, target, received, body, outgoing.length)
    url = backend.origin + outgoing.target
    exchange.outbound_request(
        outgoing.method, url, outgoing.headers, body, outgoing.length
    )
    return exchange


def _beginning(body: IO[bytes] | None) -> bytes | None:
    """Return the beginning of a body that stays in its file, as much as is captured."""
    # What a server hands through from its socket can be read only once.
    if body is None or not getattr(body, "seekable", lambda: False)():
        return None
    position = body.tell()
    data = body.read(CAPTURED)
    body.seek(position)
    return data

