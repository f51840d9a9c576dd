"""Forwards a request: route, outgoing request, send, reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from ..accounts.accounts import Accounts
from ..accounts.asked import Asked, read_request
from ..accounts.asking import PATHS_END, ask
from ..accounts.grant import Grant, Sent
from ..auth.credentials import credentials_in
from ..auth.guard import Guard
from ..auth.request import NOT_HEADERS, RequestInfo, outer_mount
from ..capture.recording import Exchange, WireCapture
from ..config.settings import Settings
from ..exceptions import (
    INCOMPLETE,
    ClientClosedRequest,
    ClientDisconnected,
    InvalidKey,
    InvalidRequest,
    LoopDetected,
    RequestRefused,
    Unavailable,
    UpgradeRefused,
)
from ..http.codings import only_decodable
from ..providers.backend import Backend
from ..providers.router import Router
from ..providers.table import PROXY_KEY_HEADER
from ..redact.redactor import Redactor
from .descriptors import connections_within, file_limit
from .disconnect import client_disconnected
from .headers import response_headers
from .model import named_model
from .outgoing import INSTANCE, outgoing_request
from .reply import Reply, ReplyBody, StreamBody, masked
from .rewrite import URLRewriter, names_urls, origin_of, uploads_with_key
from .slots import Lease, Slots
from .upstream import HTTPIncoming, Incoming, Outgoing, Upstream, open_upstream
from .whole import with_allowed_models

MAX_HOPS = 5
"""Servers like this one that a request may have passed."""

ASKED = 16 * 1024 * 1024
"""Bytes of a request body that is read as a whole, to ask for the usage of its answer."""

CAPTURED = 1024 * 1024
"""Bytes of a request body that is not in memory which go into the wire capture."""


class Forwarder:
    """Forwards the requests that were let in.

    :param settings: the effective settings
    :param guard: of the same application
    :param router: finds a request's backend
    :param redactor: is told every credential
    :param slots: of which each request takes one
    :param capture: None when nothing is captured
    :param accounts: None when keys have no limits, and nothing is counted
    """

    def __init__(
        self,
        settings: Settings,
        guard: Guard,
        router: Router,
        redactor: Redactor,
        slots: Slots,
        capture: WireCapture | None,
        accounts: Accounts | None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._router = router
        self._redactor = redactor
        self._slots = slots
        self._capture = capture
        self._accounts = accounts
        self._upstreams: dict[str, Upstream] = {}

    def forward(
        self,
        info: RequestInfo,
        environ: dict[str, Any],
        path: str,
        kept_body: Callable[[], bytes],
    ) -> Reply:
        """Forward a request; return what goes back, whose body must be closed.

        :param path: raw, below the proxy's root
        :param kept_body: returns a body that a host application has read before
        :raises RequestRefused: the answer for the client
        """
        _refuse_what_cannot_be_forwarded(environ)
        received = _received_headers(environ)
        backend, own_path = self._route(info, received, path)
        self._redactor.observe(*credentials_in(environ, info.query))
        outgoing = outgoing_request(
            info,
            environ,
            backend,
            own_path,
            keys=self._guard.keys,
            limit=self._settings.max_request_body,
            kept_body=kept_body,
        )
        info.model = named_model(own_path, info.query, outgoing.body, outgoing.length)
        asked = outgoing.body
        beginning = _beginning(asked) if self._capture else None
        exchange = self._captured(info, environ, received, backend, outgoing, beginning)
        left = client_disconnected(environ)
        lease = Lease(self._slots, info, exchange)
        try:
            self._grant(lease, info, outgoing, backend)
            if exchange:
                url, length = backend.origin + outgoing.target, outgoing.length
                body = beginning if outgoing.body is asked else _beginning(outgoing.body)
                exchange.outbound_request(outgoing.method, url, outgoing.headers, body, length)
            lease.begin()
            lease.incoming = incoming = self._send(outgoing, backend, lease, left)
            if lease.grant and (allows := lease.grant.allowed_models):
                lease.incoming = incoming = with_allowed_models(incoming, allows, backend.name)
            if names_urls(own_path, incoming.headers):
                here = self._here(info, environ, received, backend, path)
                lease.incoming = here.pointed(incoming, outgoing.method, own_path)
            return _reply(
                lease, lease.incoming, backend.name, self._settings.keepalive_seconds
            )
        except ClientDisconnected:
            reason = lease.cut_off
            refusal = _cut_off(reason) if reason else ClientClosedRequest()
            cut = ClientDisconnected.__name__ if reason else refusal.error_code
            lease.end(cut, reason or refusal.error_code, refusal.code)
            raise refusal from None
        except RequestRefused as refusal:
            lease.end(type(refusal).__name__, refusal.error_code, refusal.code)
            raise
        except BaseException as exc:
            lease.end(type(exc).__name__)
            raise

    def close(self) -> None:
        """Close idle connections."""
        for upstream in self._upstreams.values():
            upstream.close()

    def _route(self, info: RequestInfo, received: dict[str, str], path: str) -> tuple[Backend, str]:
        """Return the backend, and the path as it has it."""
        if info.public:
            backend, path = self._router.find_public(path)
        else:
            # A stray one beside the right key says nothing about whose the others are.
            stray = {} if info.own_credentials else {PROXY_KEY_HEADER: None}
            backend, path = self._router.find(path, info.query, (received | stray).get)
        info.backend = backend.name
        return backend, path

    def _captured(
        self,
        info: RequestInfo,
        environ: dict[str, Any],
        received: dict[str, str],
        backend: Backend,
        outgoing: Outgoing,
        beginning: bytes | None,
    ) -> Exchange | None:
        if self._capture is None:
            return None
        exchange = self._capture.exchange(
            request_id=info.id,
            client=info.client,
            backend=backend.name,
            key_name=info.key_name,
            credentials=tuple(credentials_in(environ, info.query)),
        )
        target = f"{info.path}?{info.query}" if info.query else info.path
        headers = received | {"content-type": environ.get("CONTENT_TYPE", "")}
        exchange.inbound_request(outgoing.method, target, headers, beginning, outgoing.length)
        return exchange

    def _grant(
        self, lease: Lease, info: RequestInfo, outgoing: Outgoing, backend: Backend
    ) -> None:
        """Give the lease what the request is granted, nothing when nothing is counted.

        :raises NotAllowed: when its key may not ask for that
        :raises LimitReached: when it has asked for too much
        """
        if self._accounts is None or info.key_name is None:
            return
        path, _, query = outgoing.target.partition("?")
        asked, secret = Asked(prompt_bytes=outgoing.length), info.account
        if secret and secret.key.terms.reads_request:
            below, body = backend.below_base(path), outgoing.body
            asked, outgoing.body = read_request(
                outgoing.method, below, query, outgoing.headers, body, outgoing.length
            )
        lease.grant = grant = self._accounts.enter(
            Sent(
                key=info.key_name,
                secret=secret,
                backend=backend.name,
                base_url=backend.settings.base_url,
                method=outgoing.method,
                path=path,
                model=(asked.model or info.model or "")[:200],
                asked=asked,
                is_ours=outgoing.is_ours,
            )
        )
        if grant.allowed_models:
            outgoing.headers["Accept-Encoding"] = "identity"
        elif grant.is_read:
            offered = outgoing.headers["Accept-Encoding"]
            outgoing.headers["Accept-Encoding"] = only_decodable(offered)
        if backend.asks_for_usage:
            _ask_for_usage(outgoing, grant)

    def _send(
        self, outgoing: Outgoing, backend: Backend, lease: Lease, left: Callable[[], bool]
    ) -> Incoming:
        """Return the backend's answer, as soon as its head is there.

        :param left: true once the client has left
        """
        # Not through the lease, which has the answer, which would have this.
        slots, grant = self._slots, lease.grant
        incoming = self._upstream(backend).send(
            outgoing,
            lambda: slots.cut or (grant is not None and grant.is_withdrawn) or left(),
        )
        return masked(incoming, backend.mask)

    def _upstream(self, backend: Backend) -> Upstream:
        """Return the backend's upstream, opened when it is used for the first time."""
        upstream = self._upstreams.get(backend.name)
        if upstream is None:
            settings = self._settings
            used = sum(map(settings.uses, settings.backends.values()))
            kept = connections_within(file_limit()) // max(1, used)
            opened = open_upstream(backend, max(1, min(settings.threads, kept)))
            upstream = self._upstreams.setdefault(backend.name, opened)
        return upstream

    def _here(
        self,
        info: RequestInfo,
        environ: dict[str, Any],
        received: dict[str, str],
        backend: Backend,
        path: str,
    ) -> URLRewriter:
        name = f"/{backend.name}"
        # Not by the backend's path, which may have lost a slash or a version on the way.
        named = f"{path}/".startswith(f"{name}/")
        trusted = self._guard.clients.trusts(environ.get("REMOTE_ADDR"))
        mount = outer_mount(environ, trusted=trusted) + info.path.removesuffix(path)
        mount += name if named else ""
        origin = origin_of(received.get, environ["wsgi.url_scheme"], trusted=trusted)
        at_root, uploads = "/" not in path[1:], uploads_with_key(received.get)
        return URLRewriter(backend, origin, mount, named, at_root=at_root, uploads=uploads)


def _ask_for_usage(outgoing: Outgoing, grant: Grant) -> None:
    """Have a stream tell its usage where the client left that open."""
    body = outgoing.body
    if body is None or not grant.sent.path.endswith(PATHS_END):
        return
    if outgoing.length > ASKED or "Content-Encoding" in outgoing.headers:
        return
    if not isinstance(body, bytes):
        try:
            data = body.read(outgoing.length)
        except Exception as exc:  # each server has errors of its own for a body that breaks off
            raise InvalidRequest(INCOMPLETE) from exc
        if len(data) < outgoing.length:
            raise InvalidRequest(INCOMPLETE)
        body = outgoing.body = data
    if (asking := ask(body)) is not None:
        outgoing.body, outgoing.length = asking, len(asking)
        outgoing.headers["Accept-Encoding"] = "identity"  # or the answer could not be looked at
        grant.asked_for_usage = True


def _cut_off(reason: str) -> RequestRefused:
    if reason == "key_withdrawn":
        return InvalidKey("The key was withdrawn while its request was running.")
    return Unavailable("The request was cut off.", retry_after=5)


def _received_headers(environ: dict[str, Any]) -> dict[str, str]:
    """Return a request's headers by their lower-case names."""
    return {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") and key not in NOT_HEADERS
    }


def _refuse_what_cannot_be_forwarded(environ: dict[str, Any]) -> None:
    # Reverse proxies take the Upgrade away (RFC 9110 §7.8), and leave the rest of the handshake.
    upgrades = "websocket" in environ.get("HTTP_UPGRADE", "").lower()
    if upgrades or "HTTP_SEC_WEBSOCKET_KEY" in environ:
        raise UpgradeRefused
    via = environ.get("HTTP_VIA", "")
    if INSTANCE in via or via.count("llmauth-") > MAX_HOPS:
        raise LoopDetected(
            "This request has been here before: a backend's base_url leads back to this server."
        )


def _reply(lease: Lease, incoming: Incoming, name: str, keep_alive: float) -> Reply:
    """Return what goes back to the client.

    :param name: of the backend
    :param keep_alive: seconds of silence after which an event stream gets a comment, 0 for none
    """
    if lease.exchange:
        lease.exchange.inbound_response(incoming.status, incoming.headers)
    received = {name.lower(): value for name, value in incoming.headers}
    if lease.grant:
        lease.grant.answered(incoming.status, received)
    bodiless = incoming.status in (204, 304)
    if bodiless or (lease.grant and lease.grant.usage_filter):
        # A length would be that of another answer, and a server miss the bytes.
        received.pop("content-length", None)
    stream = "content-length" not in received and not bodiless
    headers = response_headers(incoming.headers, stream=stream)
    if "content-length" not in received:
        headers = [header for header in headers if header[0].lower() != "content-length"]
    line = f"{incoming.status} {incoming.reason}".rstrip()
    if stream and isinstance(incoming, HTTPIncoming):
        body: ReplyBody = StreamBody(
            incoming, received, name=name, lease=lease, keep_alive=keep_alive
        )
    else:
        body = ReplyBody(incoming, received, name=name, lease=lease)
    return Reply(incoming.status, line, headers, body, flush=stream)


def _beginning(body: bytes | IO[bytes] | None) -> bytes | None:
    """Return a body, of one that stays in its file the beginning, as much as is captured."""
    if isinstance(body, bytes):
        return body[:CAPTURED]
    # What a server hands through from its socket can be read only once.
    if body is None or not getattr(body, "seekable", lambda: False)():
        return None
    position = body.tell()
    data = body.read(CAPTURED)
    body.seek(position)
    return data
