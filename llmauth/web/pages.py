"""The public pages: health, readiness, documentation, and the dashboard, which holds no data."""

from __future__ import annotations

import json
from importlib.resources import files

from flask import Blueprint, Response, jsonify, request

from ..version import __version__
from .blueprint import forward
from .docs_page import dashboard, docs_page, with_backends, with_notice
from .extension import current_state

pages_blueprint = Blueprint("llmauth_pages", __name__)

_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_DOCS, _DOCS_POLICY = docs_page()
_DASHBOARD, _DASHBOARD_POLICY = dashboard()
_OPENAPI = json.loads(files(__package__).joinpath("documents", "openapi.json").read_bytes())
_OPENAPI["info"]["version"] = __version__
_DESCRIPTION = json.dumps(_OPENAPI)  # once: anybody may ask for it


@pages_blueprint.after_request
def _secure(response: Response) -> Response:
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if request.method == "OPTIONS":
        response.headers["Allow"] = "GET, HEAD, OPTIONS"  # not what the proxy takes at its paths
    return response


@pages_blueprint.route("/", methods=["OPTIONS"])
def root() -> Response:
    """Say to a probe that the server is there; for others there is nothing at the root."""
    is_probe = current_state().guard.info(request.environ).public
    return Response(status=204) if is_probe else forward("")


@pages_blueprint.get("/health")
@pages_blueprint.get("/healthz")
@pages_blueprint.get("/livez")
def health() -> Response:
    """Say that the process answers."""
    return jsonify(status="ok")


@pages_blueprint.get("/readyz")
def ready() -> tuple[Response, int]:
    """Say whether to send requests here: 503 while the server is being stopped."""
    state = current_state()
    checks = state.checks()
    if state.slots.draining:
        return jsonify(status="stopping", checks=checks), 503
    return jsonify(status="ready", checks=checks), 200


@pages_blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe this server's own endpoints and errors."""
    return Response(_DESCRIPTION, mimetype="application/json")


@pages_blueprint.get("/docs")
def docs() -> Response:
    """Tell people how to use this server."""
    settings = current_state().settings
    names = [name for name, backend in settings.backends.items() if settings.uses(backend)]
    policy = {"Content-Security-Policy": _DOCS_POLICY}
    return Response(with_backends(_DOCS, names), mimetype="text/html", headers=policy)


@pages_blueprint.get("/dashboard")
def show_dashboard() -> Response:
    """Show people what is going on, with the key that they enter."""
    state = current_state()
    notice = ""
    if state.settings.disable_auth:
        notice = "open"
    elif state.accounts is None:
        notice = "no-database"
    policy = {"Content-Security-Policy": _DASHBOARD_POLICY}
    return Response(with_notice(_DASHBOARD, notice), mimetype="text/html", headers=policy)
