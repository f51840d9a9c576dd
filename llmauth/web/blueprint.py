"""The proxy as a blueprint: Flask's requests go to the forwarder, its replies to the server."""

from __future__ import annotations

import logging
import re
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from ..auth.request import identified
from ..exceptions import ConfigurationError, RequestRefused, UnknownRoute
from ..proxy.failures import detail
from ..proxy.reply import Reply
from .extension import ADMIN_PATHS, admit_to_proxy, always_guarded, current_state

logger = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

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
    _take_handshakes(state)


def _take_handshakes(state: BlueprintSetupState) -> None:
    """Have WebSocket handshakes reach the view, which says why they are refused.

    Flask answers 400 where a path has rules for HTTP alone.
    """
    root = f"{(state.url_prefix or '').rstrip('/')}/"
    endpoint = f"{state.name_prefix}.{state.name}.{forward.__name__}".lstrip(".")
    for rule, defaults in ((root, {"path": ""}), (f"{root}<llmauth_path:path>", None)):
        handshake = state.app.url_rule_class(
            rule, defaults, endpoint=endpoint, websocket=True, merge_slashes=False
        )
        state.app.url_map.add(handshake)


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
    environ = request.environ
    try:
        state, info = admit_to_proxy(path)
        if state.serves_pages and info.path.startswith(ADMIN_PATHS):
            raise UnknownRoute(f"There is nothing at this path, and nothing below {ADMIN_PATHS}.")
        own_path = _own_path(info.path)
        return _Forwarded(state.forwarder.forward(info, environ, own_path, request.get_data))
    except RequestRefused as refusal:
        raise _logged(identified(refusal, current_state().guard.info(environ))) from None


def _logged(refusal: RequestRefused) -> RequestRefused:
    """Have the log say why a backend did not answer."""
    cause = refusal.__cause__
    if cause is not None or refusal.code in (502, 504):
        reason = (refusal.description or "").rstrip(".")
        reason += f" ({detail(cause)})" if cause else ""
        request_id = refusal.request_id
        logger.warning("%s: %s", request_id, reason, extra={"request_id": request_id})
    return refusal


def _own_path(path: str) -> str:
    """Return the path below the blueprint's ``url_prefix``."""
    rule = request.url_rule
    prefix = rule.rule.partition("<")[0].rstrip("/") if rule else ""
    if not prefix:
        return path
    if not path.startswith(prefix):
        raise UnknownRoute(f"Write the path to this proxy plainly: {prefix}/...")
    return path[len(prefix) :] or "/"


class _Forwarded(Response):
    """A reply: headers and bytes as they are, not as werkzeug would have them."""

    default_mimetype = None

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body, reply.status, reply.headers, direct_passthrough=True)
        self._reply = reply

    def __call__(self, environ: Any, start_response: Any) -> Any:
        reply = self._reply
        try:
            write = start_response(reply.line, list(self.headers))
            if reply.flush and write:
                # A server sends the headers with the first bytes, which may be minutes away.
                try:
                    write(b"")
                except Exception:
                    reply.body.client_left()
                    raise
        except BaseException:
            reply.body.close()  # the server closes only what it was given
            raise
        return reply.body
