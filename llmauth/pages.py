"""The public pages: health, readiness, documentation."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from .extension import current_state
from .openapi import document

pages_blueprint = Blueprint("llmauth_pages", __name__)

_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@pages_blueprint.after_request
def _secure(response: Response) -> Response:
    response.headers.update(_SECURITY_HEADERS)
    return response


@pages_blueprint.get("/health")
@pages_blueprint.get("/healthz")
def health() -> Response:
    """Say that the process answers."""
    return jsonify(status="ok")


@pages_blueprint.get("/readyz")
def ready() -> tuple[Response, int]:
    """Say whether to send requests here: 503 while the server is being stopped."""
    state = current_state()
    checks: dict[str, Any] = {}
    if (lockout := state.guard.lockout) is not None:
        checks["store"] = "ok" if lockout.healthy else "unreachable, counting locally"
    if state.capture is not None:
        failures = state.capture.failures
        checks["capture"] = "ok" if state.capture.healthy else f"{failures} events not written"
    if state.lifecycle.draining:
        return jsonify(status="stopping", checks=checks), 503
    return jsonify(status="ready", checks=checks), 200


@pages_blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe this server's own endpoints and errors."""
    return jsonify(document())


@pages_blueprint.get("/docs")
def docs() -> Response:
    """Tell people how to use this server."""
    return Response(DOCS, mimetype="text/html")


DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>llmauth</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;
margin:2rem auto;padding:0 1rem}pre{overflow:auto;padding:1rem;border:1px solid #8888}
</style></head>
<body><h1>llmauth</h1>
<p>This server stands in front of LLM APIs and lets in those who hold its key. Send the key as
<code>Authorization: Bearer KEY</code>; SDKs take it as their <code>api_key</code>, and this
server's address with <code>/v1</code> as their <code>base_url</code>.</p>
<pre>curl BASE/v1/chat/completions -H "Authorization: Bearer $LLM_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}]}'</pre>
<p><b>401</b>: the key is missing or wrong. <b>429</b> with <code>Retry-After</code>: too many wrong
keys came from your address; wait that many seconds.</p></body></html>
"""
